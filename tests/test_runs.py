"""
nanopalm/runs.py: a run is resumed bit-exactly, is never overwritten, and keeps one log.
"""

import json
import shutil

import pytest
import torch
from conftest import TRAINED, digests, flags
from tiny_runs import assert_same_checkpoints, entries, kill_and_resume, metrics

from nanopalm.files import lock_folder
from nanopalm.runs import (
    LATER_HYPERPARAMETERS,
    begin_run,
    is_resumed,
    read_state,
    record,
    remove_later_entries,
)

# ---- resuming ------------------------------------------------------------------------------------

OF_FILES = dict(accumulate=2, texts_per_input=2, mapper_dropout=0.3, num_workers=1)
OF_A_CACHE = dict(
    cache_features=True,
    cache_views=2,
    connector='r_rand',
    token_norm=True,
    llm_bias_tuning=True,
    batch_size=6,
)
# killed between two directions, too
OF_MUON = dict(muon_rate=0.05, muon_every=3, connector='linear')


@pytest.mark.parametrize(
    'variant, kills',
    [
        pytest.param(OF_FILES, 1, id='files, killed once'),
        pytest.param(OF_FILES, 3, id='files', marks=pytest.mark.slow),
        pytest.param(OF_MUON, 1, id='muon, killed once', marks=pytest.mark.slow),
        pytest.param(OF_A_CACHE, 3, id='cache', marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_killed_and_resumed_is_the_run_that_never_stopped(
    variant, kills, run, tiny, tmp_path
):
    max_iters = 7 if kills == 1 else 13
    tiny |= variant | dict(max_iters=max_iters, eval_interval=2, log_interval=3)
    whole = tmp_path / 'whole'
    pieces = tmp_path / 'pieces'
    run('train.py', *flags(**tiny | dict(out_dir=whole)))
    arguments = flags(**tiny | dict(out_dir=pieces))
    first = 2 if kills == 1 else 0
    killed_at = kill_and_resume(pieces, arguments, kills, tmp_path, first)
    assert len(killed_at) >= min(kills, 2), killed_at
    assert max(killed_at) > 0, killed_at
    assert_same_checkpoints(pieces, whole)
    for key in ('loss', 'grad_norm', 'val_loss', 'samples', 'lr', 'epoch'):
        # none is missing, none is there twice
        assert metrics(pieces, key) == metrics(whole, key)
    assert list(pieces.rglob('*.tmp')) == []


def test_a_finished_run_stays_as_it_is_and_can_be_prolonged(train, tiny):
    out_dir = tiny['out_dir']
    # nothing is learned, so that the losses show whether one is missing
    options = dict(learning_rate=1e-9, mapper_dropout=0.0)
    train(**options)
    before = digests(out_dir)
    train(init_from='resume', **options)
    after = digests(out_dir)
    for name in ('best.safetensors', 'last.safetensors', 'resume.pt', 'metrics.jsonl'):
        path = str(out_dir / name)
        assert after[path] == before[path], name

    train(init_from='resume', max_iters=6, **options)
    losses = metrics(out_dir, 'loss')
    assert [step for step, _ in losses] == [3, 4, 6]
    values = [value for _, value in losses]
    assert max(values) < 1.1 * min(values)
    assert metrics(out_dir, 'val_loss')[-1][0] == 6
    assert json.loads((out_dir / 'config.json').read_text())['max_iters'] == 6


def test_there_is_nothing_to_resume_without_a_run(train, tiny):
    assert 'nothing to resume' in train(fails=True, init_from='resume')
    assert not tiny['out_dir'].exists()


def test_a_resume_file_that_is_cut_in_half_is_named(trained, train, tmp_path):
    out_dir = shutil.copytree(trained[0], tmp_path / 'copy')
    path = out_dir / 'resume.pt'
    path.write_bytes(path.read_bytes()[:1000])
    assert str(path) in train(fails=True, **TRAINED, out_dir=out_dir, init_from='resume')
    with pytest.raises(ValueError, match='resume.pt is not whole'):
        read_state(out_dir, 'cpu')


def test_a_resume_file_of_an_older_version_is_named(tmp_path):
    # the second has the state of its one optimizer
    for state in (dict(step=3, window=0.0), dict(step=3, loss_sum=0.0, optimizer={})):
        torch.save(state, tmp_path / 'resume.pt')
        with pytest.raises(ValueError, match='older version.*--start_from='):
            read_state(tmp_path, 'cpu')


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    'changed, words',
    [
        (dict(init_from='scratch'), ['holds a run']),
        (dict(init_from='resume', warmup=0.5, beta2=0.95), ['warmup=', 'beta2=']),
        (dict(init_from='auto', seed=1), ['seed=']),
        (dict(init_from='resume', muon_rate=0.05), ['muon_rate=0.0, now 0.05']),
    ],
)
def test_a_run_is_not_overwritten_nor_continued_with_other_hyperparameters(
    changed, words, trained, train, tmp_path
):
    out_dir = shutil.copytree(trained[0], tmp_path / 'copy')
    before = digests(out_dir)
    message = train(fails=True, out_dir=out_dir, **TRAINED | changed)
    for word in words:
        assert word in message
    assert 'adapter_dim' not in message
    assert digests(out_dir) == before


def test_a_run_is_not_continued_with_other_data(train, tiny, pictures, tmp_path):
    folder = shutil.copytree(pictures, tmp_path / 'data')
    data = dict(dataset=folder, max_iters=2)
    train(**data)
    before = digests(tiny['out_dir'])
    captions = folder / 'train.jsonl'
    text = captions.read_text()
    captions.write_text(text.replace('circle', 'ring', 1))
    assert 'data_digest=' in train(fails=True, init_from='resume', **data)
    assert digests(tiny['out_dir']) == before
    captions.write_text(text)
    assert 'resuming' in train(init_from='resume', **data)


@pytest.mark.parametrize('kept', ['best.safetensors', 'last.safetensors'])
def test_an_adapter_without_its_resume_file_is_not_overwritten(kept, trained, train, tmp_path):
    """Published adapters come so."""
    copy = tmp_path / 'copy'
    copy.mkdir()
    for name in (kept, 'metrics.jsonl'):
        shutil.copy(trained[0] / name, copy)
    before = digests(copy)
    assert f'--start_from={copy}' in train(fails=True, out_dir=copy)
    assert digests(copy) == before


def test_a_run_that_is_being_trained_is_not_trained_by_a_second_process(trained, train, tmp_path):
    out_dir = shutil.copytree(trained[0], tmp_path / 'copy')
    before = digests(out_dir)
    with lock_folder(out_dir):
        message = train(fails=True, out_dir=out_dir, **TRAINED | dict(init_from='resume'))
    assert 'another process is at work there' in message
    assert digests(out_dir) == before


def test_a_run_is_continued_in_the_precision_that_auto_stood_for(trained, train, tmp_path):
    out_dir = shutil.copytree(trained[0], tmp_path / 'copy')
    path = out_dir / 'config.json'
    config = json.loads(path.read_text())
    assert config['dtype_used'] == 'float32'
    # as on a GPU
    path.write_text(json.dumps(config | dict(dtype_used='float16')))
    message = train(fails=True, out_dir=out_dir, **TRAINED | dict(init_from='resume'))
    assert "dtype_used='float16', now 'float32'" in message


def test_a_run_is_not_continued_with_another_eval_metric(train, trained, tmp_path):
    out_dir = shutil.copytree(trained[0], tmp_path / 'copy')
    path = out_dir / 'config.json'
    config = json.loads(path.read_text())
    # runs that are older than the hyperparameter were chosen by their loss
    del config['eval_metric']
    path.write_text(json.dumps(config))
    options = TRAINED | dict(out_dir=out_dir, init_from='resume', eval_metric='CIDEr')
    assert "eval_metric='loss', now 'CIDEr'" in train(fails=True, **options)


def test_hyperparameters_that_may_change_may_change(tmp_path):
    config = LATER_HYPERPARAMETERS | dict(out_dir=str(tmp_path), init_from='scratch', max_iters=4)
    assert not is_resumed(config, may_change={'max_iters', 'init_from'})
    begin_run(config, resuming=False)
    (tmp_path / 'resume.pt').touch()
    config |= dict(init_from='auto', max_iters=8)
    assert is_resumed(config, may_change={'max_iters', 'init_from'})
    begin_run(config, resuming=True)
    assert json.loads((tmp_path / 'config.json').read_text()) == config
    with pytest.raises(ValueError, match='max_iters=8, now 9'):
        is_resumed(config | dict(max_iters=9), may_change={'init_from'})


def test_auto_begins_a_run_where_there_is_none(tmp_path):
    config = dict(out_dir=str(tmp_path / 'run'), init_from='auto')
    assert not is_resumed(config, may_change={'init_from'})
    # nothing is written yet
    assert not (tmp_path / 'run').exists()


# ---- the log -------------------------------------------------------------------------------------


def test_entries_behind_the_checkpoint_and_half_lines_are_removed_from_the_log(tmp_path):
    for step in (2, 4, 6):
        record(tmp_path, dict(iter=step, loss=step / 10))
    with open(tmp_path / 'metrics.jsonl', 'a') as file:
        # the run was killed while it wrote
        file.write('{"iter": 4, "lo')
    remove_later_entries(tmp_path, 4)
    assert entries(tmp_path) == [dict(iter=2, loss=0.2), dict(iter=4, loss=0.4)]


def test_a_run_without_a_log_can_be_resumed(tmp_path):
    remove_later_entries(tmp_path, 4)
    assert list(tmp_path.iterdir()) == []
