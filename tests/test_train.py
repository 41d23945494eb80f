"""
train.py and sample.py from end to end, on a tiny LLM, a tiny encoder and two dozen pictures. `pytest tests/test_train.py`
"""
import hashlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, flags, start
from PIL import Image
from safetensors import safe_open

from data import collate, tokenize_examples
from nanopalm.checkpoint import load_checkpoint
from nanopalm.datasets import load_examples
from nanopalm.logs import draw_losses
from nanopalm.media import load

TINY = dict(device='cpu', dtype='float32', adapter_dim=32, mapper_heads=4, n_queries=4, batch_size=8, max_iters=4, eval_interval=2, log_interval=3,
            n_samples=1, num_workers=0, learning_rate=1e-2)
TRAINED = dict(connector='linear', learning_rate=2e-2, max_iters=40, eval_interval=20, log_interval=10, n_samples=2, cache_dir='data/cache')


@pytest.fixture
def knobs(llm, encoder, pictures, tmp_path):
    return TINY | dict(llm=llm, encoder=encoder, dataset=pictures, out_dir=tmp_path / 'out', cache_dir=tmp_path / 'cache')


@pytest.fixture
def train(run, knobs):
    """train(a knob=value, ...) -> what train.py printed."""
    return lambda fails=False, **more: run('train.py', *flags(**knobs | more), fails=fails)


def metrics(out, key):
    """[(iteration, value), ...] of metrics.jsonl."""
    return [(e['iter'], e[key]) for e in map(json.loads, open(out / 'metrics.jsonl')) if key in e]


def checkpoint(out, which='last'):
    """(tensors, metadata)"""
    with safe_open(out / f'{which}.safetensors', 'pt') as f:
        return {name: f.get_tensor(name) for name in f.keys()}, {k: json.loads(v) for k, v in f.metadata().items()}


def contents(*folders):
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for folder in folders for path in sorted(folder.rglob('*')) if path.is_file()}


# ---- a run ----------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def trained(llm, encoder, pictures, tmp_path_factory):
    """(out_dir, what was printed) of a run started by the command of the README."""
    out, before = tmp_path_factory.mktemp('trained') / 'out', contents(llm, encoder, pictures)
    knobs = TINY | TRAINED | dict(llm=llm, encoder=encoder, dataset=pictures, out_dir=out)
    text = subprocess.run([sys.executable, 'train.py', *flags(**knobs)], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert contents(llm, encoder, pictures) == before           # what is frozen was only read
    return out, text


def test_it_learns(trained):
    out, text = trained
    loss, val_loss = metrics(out, 'loss'), metrics(out, 'val_loss')
    assert [i for i, _ in loss] == list(range(10, 41, 10)) and [i for i, _ in val_loss] == [0, 20, 40]
    assert loss[-1][1] < 0.85 * loss[0][1] and min(v for _, v in val_loss) < 0.75 * val_loss[0][1]
    assert text.count('\niter ') == 4 and all(word in text for word in ('tok/s', 'mfu', 'ETA', 'samples/s', 'ms', 'GB', 'max_iters=40'))
    for entry in map(json.loads, open(out / 'metrics.jsonl')):
        assert all(math.isfinite(v) for v in entry.values() if isinstance(v, float))
        assert 0 < entry.get('mfu', 0.5) < 1 and len(entry.get('samples', 'xx')) == 2
    assert Image.open(out / 'loss.png').size[0] > 100
    assert {p.name for p in out.iterdir()} == {'best.safetensors', 'last.safetensors', 'resume.pt', 'metrics.jsonl', 'loss.png', 'config.json'}


def test_checkpoint_is_the_adapter_alone(trained, llm):
    out, _ = trained
    for which in ('best', 'last'):
        tensors, metadata = checkpoint(out, which)
        assert all(name.startswith('adapter.') for name in tensors)
        assert os.path.getsize(out / f'{which}.safetensors') < 4 * sum(t.numel() for t in tensors.values()) + 20_000
        assert metadata['config'] == json.load(open(out / 'config.json')) and metadata['config']['llm'] == str(llm) and metadata['config']['n_queries'] == 4
        assert metadata['versions']['torch'] == torch.__version__ and {'transformers', 'timm'} <= set(metadata['versions'])
        assert (metadata['facts']['iter'], metadata['facts']['val_loss']) in metrics(out, 'val_loss')
    assert os.path.getsize(out / 'resume.pt') < 16 * sum(t.numel() for t in tensors.values()) + 40_000      # weights and two moments


def test_the_best_checkpoint_has_the_loss_that_was_logged(trained):
    out, _ = trained
    model, tokenizer, config = load_checkpoint(out, 'best', 'cpu', 'float32')
    assert not model.training and not model.adapter.training
    rows = load_examples(config, 'val')
    items = [dict(texts=[(prompt, targets[0])], errors=[], pixels=load(row['image'], model.encoder.preprocessing, config['resize']))
             for row, (prompt, targets) in zip(rows, tokenize_examples(rows, tokenizer, config))]
    batch, _ = collate(items, tokenizer.pad_token_id)
    batch['pixels'] = torch.as_tensor(batch['pixels'])
    with torch.no_grad():
        loss = model(**batch).item()
    _, best = min((v, i) for i, v in metrics(out, 'val_loss'))
    assert checkpoint(out, 'best')[1]['facts'] == dict(iter=best, val_loss=dict(metrics(out, 'val_loss'))[best])
    assert abs(loss - dict(metrics(out, 'val_loss'))[best]) < 1e-5
    assert abs(model(**batch | dict(pixels=batch['pixels'].flip(0))).item() - loss) > 1e-3          # the pictures matter


def test_the_same_seed_is_the_same_run(train, knobs, tmp_path):
    for name, seed in (('a', 0), ('b', 0), ('c', 1)):
        train(out_dir=tmp_path / name, seed=seed, mapper_dropout=0.3, max_iters=2)
    a, b, c = (checkpoint(tmp_path / name)[0] for name in 'abc')
    assert all(a[k].equal(b[k]) for k in a) and not any(a[k].equal(c[k]) for k in a if 'norm' not in k)


def test_blind(train, knobs, run, pictures):
    text = train(encoder=None, n_prompt=4, max_iters=30, eval_interval=30, learning_rate=2e-2)
    (_, first), (_, last) = metrics(knobs['out_dir'], 'val_loss')
    assert last < 0.9 * first and list(checkpoint(knobs['out_dir'])[0]) == ['adapter.prompt'] and 'in 1 tensors' in text
    text = run('sample.py', *flags(out_dir=knobs['out_dir'], input=pictures / 'images', max_new_tokens=5, device='cpu', dtype='float32'))
    assert len({line.partition(': ')[2] for line in text.splitlines()}) == 1                        # the same of every picture


def test_start_from_another_run(trained, train, knobs):
    train(init_from=trained[0], connector='linear', max_iters=1)
    best = checkpoint(trained[0], 'best')[1]['facts']['val_loss']
    assert metrics(knobs['out_dir'], 'val_loss')[0] == (0, pytest.approx(best, abs=1e-6))
    assert 'init_from' in train(fails=True, init_from=trained[0], connector='qpmapper', out_dir=knobs['out_dir'] / 'other')


def test_lower_precision(train, tmp_path):
    """bfloat16, and float16 with a scaler."""
    losses = {}
    for dtype in ('float32', 'bfloat16', 'float16'):
        train(dtype=dtype, log_interval=4, eval_interval=4, n_samples=0, out_dir=tmp_path / dtype)
        assert all(t.dtype == torch.float32 for t in checkpoint(tmp_path / dtype)[0].values())
        losses[dtype] = metrics(tmp_path / dtype, 'loss')[0][1]
    full = losses.pop('float32')
    assert all(0 < abs(low - full) < 0.02 * full for low in losses.values()), (full, losses)


def test_config_for_coco(run, knobs, coco, tmp_path):
    stand_ins = {k: knobs[k] for k in ('llm', 'encoder', 'out_dir', 'num_workers', 'adapter_dim', 'mapper_heads', 'max_iters')}
    text = run('train.py', 'config/coco_depalm.py', *flags(data_dir=coco, batch_size=1, **stand_ins))
    assert '1 training and 1 validation examples' in text and os.path.isfile(tmp_path / 'out/best.safetensors')
    text = run('train.py', 'config/coco_depalm.py', *flags(data_dir=coco, batch_size=2, restval=True, **stand_ins | dict(out_dir=tmp_path / 'restval')))
    assert '2 training and 1 validation examples' in text


# ---- resuming -------------------------------------------------------------------------------------------------------

def kill_and_resume(out, args, kills, folder):
    """Runs train.py, kills it `kills` times at a random moment, and lets it end; returns the steps at which it was killed."""
    seed = random.randrange(2**32)
    print('the moments are drawn by', seed)
    draw, steps = random.Random(seed), []

    def step():
        return metrics(out, 'iter')[-1][0] if os.path.exists(out / 'resume.pt') else -1
    for _ in range(kills):
        before, process = step(), start(folder, 'train.py', *args, '--init_from=auto')
        while step() <= before and process.is_alive():
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.4))
        process.kill()
        process.join()
        steps += [step()] * (process.exitcode == -signal.SIGKILL)
    process = start(folder, 'train.py', *args, '--init_from=auto')
    process.join(120)
    assert process.exitcode == 0, (folder / 'stderr').read_text()
    return steps


@pytest.mark.parametrize('variant', [
    dict(accumulate=2, texts_per_input=2, mapper_dropout=0.3, num_workers=1),
    dict(cache_features=True, cache_views=2, connector='r_rand', token_norm=True, llm_bias_tuning=True, batch_size=6)], ids=['pictures', 'cache'])
def test_killed_and_resumed_is_undisturbed(run, knobs, tmp_path, variant):
    knobs |= variant | dict(max_iters=13, eval_interval=2, log_interval=3)
    whole, pieces = tmp_path / 'whole', tmp_path / 'pieces'
    run('train.py', *flags(**knobs | dict(out_dir=whole)))
    killed_at = kill_and_resume(pieces, flags(**knobs | dict(out_dir=pieces)), kills=3, folder=tmp_path)
    assert len(killed_at) >= 2 and max(killed_at) > 0, killed_at
    for which in ('last', 'best'):
        (a, meta_a), (b, meta_b) = checkpoint(whole, which), checkpoint(pieces, which)
        assert meta_a['facts'] == meta_b['facts'] and set(a) == set(b) and all(a[k].numpy().tobytes() == b[k].numpy().tobytes() for k in a)
    for key in ('loss', 'val_loss', 'samples', 'lr', 'epoch'):
        assert metrics(whole, key) == metrics(pieces, key)              # none is missing, none is twice
    assert [p.name for p in pieces.rglob('*.tmp')] == []


def test_a_finished_run_stays_as_it_is_and_can_be_prolonged(train, knobs):
    train(learning_rate=1e-9, mapper_dropout=0.0)
    tensors = [p for p in sorted(knobs['out_dir'].iterdir()) if p.suffix in ('.safetensors', '.pt', '.jsonl')]
    before = [p.read_bytes() for p in tensors]
    train(init_from='resume', learning_rate=1e-9, mapper_dropout=0.0)
    assert [p.read_bytes() for p in tensors] == before
    train(init_from='resume', learning_rate=1e-9, mapper_dropout=0.0, max_iters=6)
    loss = metrics(knobs['out_dir'], 'loss')
    assert [i for i, _ in loss] == [3, 4, 6] and max(v for _, v in loss) < 1.1 * min(v for _, v in loss)       # nothing was learnt
    assert metrics(knobs['out_dir'], 'val_loss')[-1][0] == 6 and json.load(open(knobs['out_dir'] / 'config.json'))['max_iters'] == 6


@pytest.mark.parametrize('changed', [dict(init_from='scratch'), dict(init_from='resume', warmup=0.5, beta2=0.95), dict(init_from='auto', seed=1)])
def test_a_run_that_is_there_is_kept(trained, train, tmp_path, changed):
    out = shutil.copytree(trained[0], tmp_path / 'copy')
    before = contents(out)
    message = train(fails=True, out_dir=out, **TRAINED | changed)
    assert 'holds a run' in message if len(changed) == 1 else all(f'{k}=' in message for k in changed if k != 'init_from')
    assert 'adapter_dim' not in message
    assert contents(out) == before


def test_a_run_goes_on_with_its_own_data(train, pictures, knobs, tmp_path):
    data = dict(dataset=shutil.copytree(pictures, tmp_path / 'data'), max_iters=2)
    train(**data)
    before, captions = contents(knobs['out_dir']), data['dataset'] / 'train.jsonl'
    captions.write_text(captions.read_text().replace('circle', 'ring', 1))
    assert 'data_digest=' in train(fails=True, init_from='resume', **data) and contents(knobs['out_dir']) == before
    captions.write_text(captions.read_text().replace('ring', 'circle', 1))
    assert 'resuming' in train(init_from='resume', **data)


@pytest.mark.parametrize('kept', ['best.safetensors', 'last.safetensors'])
def test_an_adapter_without_its_resume_file_is_kept(trained, train, tmp_path, kept):
    """Published adapters come so."""
    (tmp_path / 'copy').mkdir()
    shutil.copy(trained[0] / kept, tmp_path / 'copy')
    shutil.copy(trained[0] / 'metrics.jsonl', tmp_path / 'copy')
    before = contents(tmp_path / 'copy')
    assert 'out_dir' in train(fails=True, out_dir=tmp_path / 'copy')
    assert contents(tmp_path / 'copy') == before


def test_nothing_to_resume(train, knobs):
    assert 'nothing to resume' in train(fails=True, init_from='resume') and not os.path.exists(knobs['out_dir'])


def test_ctrl_c_while_the_loss_is_drawn(monkeypatch, tmp_path):
    (tmp_path / 'metrics.jsonl').write_text('{"iter": 1, "loss": 2.0}\n{"iter": 2, "loss": 1.0}\n')
    monkeypatch.setattr('matplotlib.figure.Figure.savefig', lambda figure, path, **how: (os.kill(os.getpid(), signal.SIGINT), Path(path).write_text('drawn')))
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        draw_losses(tmp_path)
    assert (tmp_path / 'loss.png').read_text() == 'drawn' and signal.getsignal(signal.SIGINT) is handler


def test_ctrl_c(knobs, tmp_path):
    process = start(tmp_path, 'train.py', *flags(**knobs | dict(max_iters=10_000, num_workers=2)))
    while process.is_alive() and not os.path.exists(knobs['out_dir'] / 'resume.pt'):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)                       # as a terminal does, the workers too
    process.join(60)
    message = (tmp_path / 'stderr').read_text()
    assert process.exitcode == 130 and 'Traceback' not in message and '--init_from=resume' in message


# ---- several processes ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('n, more', [(2, dict()), (4, dict(shard_llm=True, checkpoint_layers=True, n_targets=2, target_stride=2, last_target=-1,
                                                           keep_to_end=False, llm_norm_tuning=True, group_lengths=True))], ids=['2', '4, sharded'])
def test_processes_are_one(run, knobs, tmp_path, n, more):
    """The same global batches, texts of different length, a cache that one process writes. And the LLM's weights shared among them."""
    knobs |= dict(mapper_dropout=0.0, accumulate=2, texts_per_input=2, cache_features=True, max_iters=6, eval_rows=max(3, n)) | more
    one, several = tmp_path / 'one', tmp_path / 'several'
    run('train.py', *flags(**knobs | dict(out_dir=one, shard_llm=False, checkpoint_layers=False)))
    torchrun = [sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={n}']
    done = subprocess.run([*torchrun, 'train.py', *flags(**knobs | dict(out_dir=several, cache_dir=tmp_path / 'cache2'))], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('config: ') == 1 and f'{n} x cpu' in done.stdout
    for key in ('loss', 'val_loss'):
        a, b = metrics(one, key), metrics(several, key)
        assert [i for i, _ in a] == [i for i, _ in b] and all(abs(x - y) <= 1e-5 * x for (_, x), (_, y) in zip(a, b))
    (a, _), (b, _) = checkpoint(one), checkpoint(several)
    assert set(a) == set(b)
    for name in a:
        assert (a[name] - b[name]).abs().max() <= 1e-5 * max(1, a[name].abs().max()), name


# ---- mistakes -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('wrong, words', [
    (dict(llm='nowhere/at/all'), "llm='nowhere/at/all'"), (dict(llm='nobody/no-model'), "llm='nobody/no-model'"),
    (dict(encoder='nowhere/at/all'), "encoder 'nowhere/at/all'"), (dict(encoder='vit_huge_nonsense'), "encoder 'vit_huge_nonsense'"),
    (dict(dataset='nowhere'), "dataset='nowhere'"), (dict(dataset='coco', data_dir='nowhere'), 'dataset_coco.json'),
    (dict(batch_size=17), 'batch_size=17'), (dict(batch_size=0), 'batch_size'), (dict(dtype='fp16'), 'dtype'), (dict(device='cuda:99'), 'device'),
    (dict(resize='stretch'), 'resize'), (dict(logger='paper'), 'logger'), (dict(connector='magic'), 'connector'), (dict(n_targets=9), 'n_targets'),
    (dict(mapper_heads=5), 'mapper_heads'), (dict(norm='batch'), 'norm'), (dict(activation='relu'), 'activation'),
    (dict(texts_per_input=0), 'texts_per_input'), (dict(accumulate=0), 'accumulate'), (dict(log_interval=0), 'log_interval'),
    (dict(eval_interval=0), 'eval_interval'), (dict(eval_rows=0), 'eval_rows'), (dict(max_text_tokens=0), 'max_text_tokens'),
    (dict(instruction='{question}'), 'instruction'), (dict(source_layers=9), 'source_layers'), (dict(source_layers=0), 'source_layers'),
    (dict(cache_features=True, cache_views=0), 'cache_views'), (dict(cache_features=True, encoder_norm_tuning=True), 'cache_features'), (dict(init_from='nowhere'), 'nowhere'),
    (dict(device='tpu'), "device='tpu'"), (dict(bottleneck='serial'), 'bottleneck'), (dict(bottleneck_at='head'), 'bottleneck_at'),
    (dict(source_tokens='patches'), 'source_tokens'), (dict(mapper_layers=0), 'mapper_layers'), (dict(n_queries=0), 'n_queries'), (dict(max_iters=-1), 'max_iters'), (dict(learning_rate=-1), 'learning_rate'),
    (dict(seed=-1), 'seed'), (dict(label_smoothing=1.5), 'label_smoothing'), (dict(mapper_dropout=2), 'mapper_dropout'), (dict(epochs=-1), 'epochs'),
    (dict(shard_llm=True), 'shard_llm'), (dict(learning_rat=1), "did you mean 'learning_rate'?"), (dict(out_dir='/dev/null/out'), '/dev/null')], ids=str)
def test_mistakes_are_named(train, wrong, words):
    assert words in train(fails=True, **wrong)


def test_a_mistake_leaves_no_run_behind(train, knobs):
    """Else the same command, put right, would be told that out_dir holds a run."""
    train(fails=True, batch_size=17)
    train(batch_size=16, max_iters=1)


def test_a_resume_file_cut_in_half(trained, train, tmp_path):
    path = shutil.copytree(trained[0], tmp_path / 'copy') / 'resume.pt'
    path.write_bytes(path.read_bytes()[:1000])
    assert str(path) in train(fails=True, init_from='resume', **TRAINED | dict(out_dir=path.parent))


def test_a_model_folder_with_a_file_missing(train, llm, encoder, tmp_path):
    for folder, files, knob in ((llm, ['config.json', 'model.safetensors', 'tokenizer.json'], 'llm'), (encoder, ['config.json', 'model.safetensors'], 'encoder')):
        for file in files:
            copy = shutil.copytree(folder, tmp_path / knob / file)
            os.remove(copy / file)
            assert str(copy) in train(fails=True, **{knob: copy})
    path = shutil.copytree(llm, tmp_path / 'half') / 'model.safetensors'
    path.write_bytes(path.read_bytes()[:1000])
    assert str(path.parent) in train(fails=True, llm=path.parent)


def broken(pictures, tmp_path, number):
    """The pictures, one of them cut in half."""
    path = shutil.copytree(pictures, tmp_path / 'broken') / f'images/{number}.png'
    path.write_bytes(path.read_bytes()[:100])
    return path


@pytest.mark.parametrize('number, cache_features, num_workers', [(5, False, 1), (5, True, 1), (16, False, 0)])     # 16: of the validation split
def test_a_broken_picture_is_named(train, pictures, tmp_path, number, cache_features, num_workers):
    path = broken(pictures, tmp_path, number)
    assert str(path) in train(fails=True, dataset=path.parents[1], cache_features=cache_features, num_workers=num_workers)


def test_wrong_lines_are_named_before_the_models_are_loaded(train, pictures, tmp_path):
    folder = shutil.copytree(pictures, tmp_path / 'wrong')
    with open(folder / 'train.jsonl', 'a') as f:
        f.write('{"image": "images/0.png"}\n{"image": "no.png", "caption": "x"}\n')
    message = train(fails=True, dataset=folder, llm='nowhere')
    assert '2 wrong lines' in message and 'line 17' in message and 'line 18' in message and 'nowhere' not in message


@pytest.mark.parametrize('largest_file, cache_features, file', [(40_000, False, 'best.safetensors'), (100_000, False, 'resume.pt'), (10_000, True, 'cache')])
def test_full_disk(run, knobs, largest_file, cache_features, file):
    message = run('train.py', *flags(**knobs | dict(cache_features=cache_features)), fails=True, largest_file=largest_file)
    assert str(knobs['cache_dir'] if cache_features else knobs['out_dir'] / file) in message
    assert not list(knobs['out_dir'].glob('*.tmp')) and not list(knobs['cache_dir'].glob('*'))
    run('train.py', *flags(**knobs | dict(cache_features=cache_features, init_from='auto')))        # once there is room


# ---- odd, and fine --------------------------------------------------------------------------------------------------

def test_small_things(train, knobs, pictures, tmp_path):
    folder = shutil.copytree(pictures, tmp_path / 'ünï 猫 [1]*')
    train(n_samples=0, batch_size=16, eval_rows=1, dataset=folder, out_dir=tmp_path / 'out [2]* é', cache_dir=tmp_path / 'cäche', cache_features=True)
    assert os.path.exists(tmp_path / 'out [2]* é/best.safetensors')
    train(n_samples=9, batch_size=5, max_iters=7, out_dir=tmp_path / 'b')
    assert len(metrics(tmp_path / 'b', 'samples')[0][1]) == 4


def test_image_size(train, knobs):
    """A ViT for 32 pixels, given 64."""
    train(image_size=64, max_iters=1, connector='r_avgpool_tokens')
    model, _, _ = load_checkpoint(knobs['out_dir'], 'best', 'cpu', 'float32')
    assert model.encoder.grid == (8, 8)


# ---- sample.py ------------------------------------------------------------------------------------------------------

@pytest.fixture
def sample(run, trained):
    return lambda fails=False, **knobs: run('sample.py', *flags(**dict(out_dir=trained[0], device='cpu', dtype='float32', max_new_tokens=8) | knobs), fails=fails)


def test_sample(sample, pictures, tmp_path):
    folder = tmp_path / 'ünï [1]*'
    shutil.copytree(pictures / 'images', folder / 'deep')
    (folder / 'notes.txt').write_text('no picture')

    def captions(input, **knobs):
        assert sample(input=input, output=tmp_path / 'captions.jsonl', **knobs) == ''
        rows = [json.loads(line) for line in (tmp_path / 'captions.jsonl').read_text(encoding='utf-8').strip('\n').split('\n')]
        assert all(set(row) == {'image', 'caption'} for row in rows)
        return {row['image']: row['caption'] for row in rows}
    everything = captions(folder)
    assert list(everything) == sorted(map(str, folder.glob('deep/*.png'))) and len(set(everything.values())) > 1
    one = str(folder / 'deep/3.png')
    assert sample(input=one, show=tmp_path / 'attention.png') == f'{one}: {everything[one]}\n' and (tmp_path / 'attention.png').stat().st_size > 1000
    some = captions(tmp_path / 'ünï*/**/?.png', batch_size=3)
    assert some == {image: everything[image] for image in sorted(map(str, folder.glob('deep/?.png')))}


def test_sample_mistakes(sample, trained, pictures, tmp_path):
    for input in ('nowhere.jpg', 'nowhere/*.jpg', '', tmp_path):
        assert f"--input='{input}'" in sample(fails=True, input=input)
    path = broken(pictures, tmp_path, 5)
    assert str(path) in sample(fails=True, input=path.parent)
    one = pictures / 'images/3.png'
    assert 'best.safetensors' in sample(fails=True, input=one, out_dir='nowhere')
    assert "which='middle': expected one of 'best', 'last'" in sample(fails=True, input=one, which='middle')
    for knob, value in dict(num_beams=0, max_new_tokens=0, batch_size=-1).items():
        assert f'{knob}={value}: expected 1 or more' in sample(fails=True, input=one, out_dir='nowhere', **{knob: value})
    for wrong in (dict(show=tmp_path / 'no/such/a.png'), dict(output=tmp_path / 'no/such/file'), dict(output=tmp_path)):
        assert str(*wrong.values()) in sample(fails=True, input=one, out_dir='nowhere', **wrong)       # before anything is loaded
    (tmp_path / 'best.safetensors').write_bytes((trained[0] / 'best.safetensors').read_bytes()[:500])
    assert str(tmp_path / 'best.safetensors') in sample(fails=True, input=one, out_dir=tmp_path)


# ---- a score in training -------------------------------------------------------------------------

@pytest.fixture
def questions(pictures, tmp_path):
    """A file with a question about each of the pictures."""
    lines = []
    for split in ('train', 'val', 'test'):
        for line in (pictures / f'{split}.jsonl').read_text().splitlines():
            row = json.loads(line)
            lines.append(json.dumps(dict(
                image=str(pictures / row['image']), question='what?', split=split,
                answers=[row['caption'][0].split()[1]])))
    (tmp_path / 'questions.jsonl').write_text('\n'.join(lines))
    return tmp_path / 'questions.jsonl'


SCORED = dict(max_iters=40, eval_interval=10, learning_rate=2e-2, connector='linear', n_samples=0)


def best_by(scores):
    """The step of the highest score, the last of those that are alike."""
    return max(scores, key=lambda entry: (entry[1], entry[0]))


def test_the_best_checkpoint_is_best_by_its_score(train, run, knobs):
    out = knobs['out_dir']
    text = train(**SCORED, eval_metric='CIDEr', eval_metric_rows=3, eval_metric_beams=2)
    scores = metrics(out, 'CIDEr')
    assert [i for i, _ in scores] == [i for i, _ in metrics(out, 'val_loss')] == [0, 10, 20, 30, 40]
    assert len({score for _, score in scores}) > 1
    step, score = best_by(scores)
    facts = checkpoint(out, 'best')[1]['facts']
    assert facts['iter'] == step and facts['CIDEr'] == score
    assert f'best validation CIDEr {score:.4f}' in text and f'CIDEr {score:.2f} (best)' in text
    # it is the score that eval_caption.py gives for the same rows
    run('eval_caption.py', *flags(out_dir=out, split='val', max_rows=3, device='cpu', num_beams=2,
                                  dtype='float32'))
    result = json.loads((out / 'eval_val.json').read_text())
    assert result['scores']['CIDEr'] == pytest.approx(score, abs=1e-4)


def test_the_best_checkpoint_is_best_by_its_accuracy(train, knobs, questions):
    train(**SCORED, dataset=questions, eval_metric='accuracy')
    scores = metrics(knobs['out_dir'], 'accuracy')
    assert len(scores) == 5 and len({score for _, score in scores}) > 1
    step, score = best_by(scores)
    facts = checkpoint(knobs['out_dir'], 'best')[1]['facts']
    assert facts['iter'] == step and facts['accuracy'] == score


def test_a_score_of_training_is_of_all_captions_of_a_picture(train, knobs, pictures, tmp_path):
    """As eP-ALM's COCO, one row for each caption: the score is the same as with one row."""
    scores = {}
    for name in ('whole', 'apart'):
        folder = shutil.copytree(pictures, tmp_path / name)
        lines = []
        for line in (folder / 'val.jsonl').read_text().splitlines():
            row = json.loads(line)
            lines += [json.dumps(row | dict(caption=text)) for text in row['caption']]
        if name == 'apart':
            (folder / 'val.jsonl').write_text('\n'.join(lines))
        out = tmp_path / f'out_{name}'
        train(**SCORED | dict(max_iters=10), dataset=folder, eval_metric='CIDEr', out_dir=out)
        scores[name] = metrics(out, 'CIDEr')
    assert scores['whole'] == scores['apart']


def test_a_run_chosen_by_its_score_resumes_exactly(run, knobs, tmp_path):
    """It was stopped right after its best evaluation, or before: `best` is in resume.pt."""
    knobs = knobs | SCORED | dict(eval_metric='CIDEr', mapper_dropout=0.3)
    whole, pieces = tmp_path / 'whole', tmp_path / 'pieces'
    run('train.py', *flags(**knobs | dict(out_dir=whole)))
    killed_at = kill_and_resume(pieces, flags(**knobs | dict(out_dir=pieces)), kills=2,
                                folder=tmp_path)
    assert killed_at
    for key in ('loss', 'val_loss', 'CIDEr'):
        assert metrics(whole, key) == metrics(pieces, key)
    for which in ('last', 'best'):
        (a, facts_a), (b, facts_b) = checkpoint(whole, which), checkpoint(pieces, which)
        assert facts_a['facts'] == facts_b['facts'] and all(a[name].equal(b[name]) for name in a)


def test_another_metric_cannot_resume_a_run(train, trained, tmp_path):
    out = shutil.copytree(trained[0], tmp_path / 'copy')
    path = out / 'config.json'
    config = json.loads(path.read_text())
    # runs of before the knob were chosen by their loss
    del config['eval_metric']
    path.write_text(json.dumps(config))
    knobs = TRAINED | dict(out_dir=out, init_from='resume', eval_metric='CIDEr')
    error = train(fails=True, **knobs)
    assert "eval_metric='loss', now 'CIDEr'" in error


def test_processes_score_together(run, knobs, tmp_path):
    """Each generates for its share of the rows, here 2 and 1 of them."""
    knobs |= SCORED | dict(max_iters=20, mapper_dropout=0.0, eval_metric='CIDEr',
                           eval_metric_rows=3)
    one, two = tmp_path / 'one', tmp_path / 'two'
    run('train.py', *flags(**knobs | dict(out_dir=one)))
    torchrun = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    command = [*torchrun, 'train.py', *flags(**knobs | dict(out_dir=two))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    scores = dict(metrics(two, 'CIDEr'))
    assert list(scores) == [0, 10, 20] and scores == pytest.approx(dict(metrics(one, 'CIDEr')))
    best_of_one, best_of_two = (checkpoint(out, 'best')[1]['facts'] for out in (one, two))
    assert best_of_one['iter'] == best_of_two['iter']


@pytest.mark.parametrize('wrong, words', [
    (dict(eval_metric='SPICE'), "expected one of 'loss', 'CIDEr', 'accuracy'"),
    (dict(eval_metric='accuracy'), 'without a question'),
    (dict(eval_metric_rows=1), 'eval_metric_rows=1: expected 2 or more'),
    (dict(eval_metric_beams=0), 'eval_metric_beams=0: expected 1 or more')], ids=str)
def test_a_score_that_cannot_be_is_refused(train, wrong, words):
    assert words in train(fails=True, **wrong)


def test_captions_have_no_accuracy_and_questions_no_cider(train, questions):
    assert 'without a caption' in train(fails=True, dataset=questions, eval_metric='CIDEr')
