"""tools/compare.py: its table without any training, and the whole of it on tiny models."""

import json

import pytest
import torch
from conftest import flags
from safetensors.torch import save_file

from tools import compare

FIRST = dict(score=80.0, val_loss=2.0, parameters=12000, seconds=0.5, peak_gb=1.0, iters=10)
SECOND = FIRST | dict(score=90.0, val_loss=1.5, seconds=0.7, peak_gb=2.0)
BLIND = FIRST | dict(score=30.0)


def table_lines(runs, names):
    """Returns the lines of the table below its heading."""
    return compare.table(runs, names).splitlines()[2:]


def test_mechanisms_are_ranked_by_their_mean_over_the_seeds():
    runs = {('blind', 0): BLIND, ('blind', 1): BLIND}
    runs |= {('mapl', 0): FIRST, ('mapl', 1): SECOND}
    runs |= {('qp_l0', 0): SECOND, ('qp_l0', 1): SECOND}
    assert table_lines(runs, ['mapl', 'qp_l0']) == [
        '| 1 | qp_l0 | 90.0 ± 0.0 | 30.0 | 1.500 | 12,000 | 0.70 | 2.0 |',
        '| 2 | mapl | 85.0 ± 7.1 | 30.0 | 1.750 | 12,000 | 0.60 | 2.0 |',
        '',
    ]


def test_one_seed_has_no_spread():
    runs = {('blind', 0): BLIND, ('mapl', 0): FIRST}
    assert table_lines(runs, ['mapl'])[0].startswith('| 1 | mapl | 80.0 | 30.0 |')


def test_a_failure_stands_below_those_that_are_complete_with_its_reason():
    runs = {('blind', 0): BLIND, ('epalm', 0): dict(failed='no layer'), ('mapl', 0): FIRST}
    assert table_lines(runs, ['epalm', 'mapl'])[1:] == [
        '| - | epalm (seed 0) | failed | | | | | |',
        '',
        'epalm, seed 0: no layer',
    ]


def test_nothing_is_ranked_without_the_text_only_baseline():
    runs = {('blind', 0): dict(failed='no data'), ('mapl', 0): FIRST}
    assert compare.rank(runs, ['mapl']) == []
    assert table_lines(runs, ['mapl'])[0].startswith('| - | blind (seed 0) | failed')


def test_hyperparameters_stand_behind_the_mechanisms_file_and_win():
    arguments = ['config/demo.py', '--n_queries=4', 'config/llm/opt_6_7b.py']
    assert compare.train_arguments('mapl', 1, arguments) == [
        'config/demo.py',
        'config/llm/opt_6_7b.py',
        'config/mechanism/mapl.py',
        '--n_queries=4',
        '--seed=1',
    ]
    assert compare.train_arguments('blind', 0, arguments) == [
        'config/demo.py',
        'config/llm/opt_6_7b.py',
        '--n_queries=4',
        '--encoder=None',
        '--cache_features=False',
        '--seed=0',
    ]


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['config/demo.py', '--mechanisms=limbo'], 'config/mechanism/limbo.py'),
        (['config/demo.py', '--compare_seeds=0,x'], "'x' is no seed"),
        (['config/demo.py', '--split=train'], "expected one of 'val', 'test'"),
        (['--max_iters=2'], 'give the config file of a data set'),
    ],
)
def test_a_mistake_is_named_before_anything_is_trained(arguments, message, run):
    assert message in run('tools/compare.py', *arguments, fails=True)


def write_config(path, **hyperparameters):
    lines = [f'{name} = {value!r}' for name, value in hyperparameters.items()]
    path.write_text('\n'.join(lines))
    return path


@pytest.mark.slow
def test_mechanisms_are_trained_scored_and_ranked_and_a_second_run_repeats_only_failures(
    llm, encoder, pictures, run, tmp_path
):
    out = tmp_path / 'compare'
    config = write_config(
        tmp_path / 'tiny.py',
        llm=str(llm),
        encoder=str(encoder),
        dataset=str(pictures),
        device='cpu',
        dtype='float32',
        batch_size=8,
        max_iters=2,
        eval_interval=2,
        num_workers=0,
        n_samples=0,
        cache_dir=str(tmp_path / 'cache'),
    )
    # qp_inner fails: it reads 4 source layers of an encoder that has 2
    names = 'limber_1,r_linear,qp_inner'
    arguments = flags(compare_dir=out, mechanisms=names, adapter_dim=32, mapper_heads=4)
    output = run('tools/compare.py', config, *arguments)
    runs = json.loads((out / 'compare.json').read_text())
    assert set(runs) == {'blind-0', 'limber_1-0', 'r_linear-0', 'qp_inner-0'}
    # a weight 48 x 64 and a bias
    assert runs['limber_1-0']['parameters'] == 48 * 64 + 64
    assert runs['r_linear-0']['iters'] == 2
    assert 'source_layers=4' in runs['qp_inner-0']['failed']
    assert 'qp_inner (seed 0) | failed' in output
    assert (out / 'compare.png').stat().st_size > 0
    assert output.rstrip().endswith((out / 'compare.md').read_text().rstrip())

    checkpoint = out / 'r_linear-0/best.safetensors'
    written = checkpoint.stat().st_mtime_ns
    output = run('tools/compare.py', config, *arguments)
    assert output.count('>>>') == 1
    assert '>>> python train.py' in output
    assert checkpoint.stat().st_mtime_ns == written


def test_a_run_that_is_complete_is_read_and_not_trained_again(run, tmp_path):
    """The quick end-to-end test: blind and one mechanism have run before."""
    for name, score in (('blind', 10.0), ('mapl', 20.0)):
        folder = tmp_path / f'{name}-0'
        folder.mkdir()
        save_file({'weight': torch.zeros(3, 4)}, folder / 'best.safetensors')
        (folder / 'eval_test.json').write_text(json.dumps(dict(scores=dict(CIDEr=score))))
        entries = [
            dict(iter=1, loss=3.0, ms=100.0, peak_gb=0.5),
            dict(iter=2, loss=2.0, ms=300.0, peak_gb=0.7),
            dict(iter=2, val_loss=2.5),
        ]
        (folder / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, entries)))
    arguments = [f'--compare_dir={tmp_path}', '--mechanisms=mapl']
    output = run('tools/compare.py', 'config/demo.py', *arguments)
    assert '>>>' not in output
    assert '| 1 | mapl | 20.0 | 10.0 | 2.500 | 12 | 0.20 | 0.7 |' in output
    runs = json.loads((tmp_path / 'compare.json').read_text())
    assert runs['mapl-0']['iters'] == 2
    assert (tmp_path / 'compare.png').stat().st_size > 0
