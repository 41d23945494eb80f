"""bench.py at tiny size: every mechanism has its row, what it says is finite, and what it compares is the same."""
import json
import math

import pytest
import torch
from conftest import flags

from tools import bench
from tools.clocks import PeakBytes
from tools.compare import MECHANISMS

TINY = flags(preset='tiny', adapter_dim=32, repeats=1, device='cpu')


def numbers(tree):
    """Every number in nested dicts and lists."""
    if isinstance(tree, (dict, list)):
        return [n for branch in (tree.values() if isinstance(tree, dict) else tree) for n in numbers(branch)]
    return [tree] if isinstance(tree, float) else []


def test_every_mechanism_has_a_row(run):
    out = run('tools/bench.py', *TINY)
    rows = json.loads(out.splitlines()[-1])['mechanisms']
    assert list(rows) == MECHANISMS.split(',')
    assert all(len([line for line in out.splitlines() if line.startswith(f'| {name} | ')]) == 1 for name in rows)
    assert all(map(math.isfinite, numbers(rows))) and len(numbers(rows)) > 12 * 12
    for row in rows.values():
        assert row['loss'] == pytest.approx(row['naive_loss'], rel=1e-5)
        assert row['train']['ratio'] > 0 and row['generate']['ratio'] > 0 and row['train']['of_limit'] > 0
        assert row['generate']['same'] == 1 and row['generate']['naive_inputs'] == 2
    assert rows['limber_all']['texts']['ratio'] > 0
    assert rows['limber_all']['vqa']['same'] == rows['qp_l0']['vqa']['same'] == 1        # a padded batch says what each question does alone


def test_profile_is_of_the_whole_step(run):
    out = run('tools/bench.py', *TINY, *flags(profile=True, mechanisms='qp_inner,c_attn', encoder='vit_tiny_patch16_224'))
    for row in json.loads(out.splitlines()[-1])['mechanisms'].values():
        shares = row['shares']
        assert sum(shares.values()) == pytest.approx(1) and min(shares.values()) >= 0
        assert all(shares[part] > 0 for part in ('encoder', 'adapter', 'text pass', 'head', 'backward', 'optimizer'))
    assert 'prefix pass' in out


def test_peak_bytes():
    weight = torch.ones(1000)
    with PeakBytes(ignored=[weight.untyped_storage()]) as during:
        a = weight * 2                          # 4000 bytes
        b = a + weight                          # 8000
        b = b[:10].view(2, 5)                   # of the same storage
        del a
        c = b + 1                               # 4040
        assert during.now == 4040 and during.peak == 8000 and c.shape == (2, 5)


@pytest.mark.parametrize('knob, value', [('mechanisms', 'qp_l0,limbo'), ('preset', '13b'), ('parts', 'trains'), ('repeats', -1), ('num_beams', 0), ('dtype', 'int8')])
def test_mistakes_are_named(run, knob, value):
    said = run('tools/bench.py', *flags(**dict(preset='tiny') | {knob: value}), fails=True)
    assert knob in said and str(value).rpartition(',')[2] in said


@pytest.fixture
def tiny(monkeypatch):
    """bench with the knobs of the preset 'tiny'."""
    for knob, value in zip(bench.SHAPES, bench.PRESETS['tiny']):
        monkeypatch.setattr(bench, knob, value)


@pytest.mark.parametrize('mechanism', MECHANISMS.split(','))
def test_memory_is_more_with_more_layers_and_less_with_checkpoints(tiny, mechanism, monkeypatch):
    monkeypatch.setattr(bench, 'text_tokens', 80)                   # else the adapter alone may be what needs most
    monkeypatch.setattr(bench, 'adapter_dim', 48)
    kept, again = ([bench.step_memory(mechanism, (n, 64, 4), checkpoint_layers) for n in (8, 12)] for checkpoint_layers in (False, True))
    assert kept[0] < kept[1] and all(a < k for a, k in zip(again, kept))


def test_memory_table(tiny, monkeypatch, capsys):
    for knob, value in dict(mechanisms='c_attn', LLM_SIZES={'small': (8, 64, 4), 'large': (16, 64, 4)}, config={}).items():
        monkeypatch.setattr(bench, knob, value, raising=False)
    bench.memory_table()
    head, rule, line, result = capsys.readouterr().out.splitlines()
    assert head == '| mechanism | small | large |' and line.startswith('| c_attn | ') and line.count('(') == 2
    assert list(json.loads(result)['memory']['c_attn']) == ['small', 'large']


def test_c_attn_is_the_plain_ways(tiny):
    """The gradient of every trained tensor; of the prefix mechanisms tests/test_model.py compares more."""
    model = bench.make('c_attn', 'cpu')
    names, tensors = zip(*model.trained().items())
    ours, plain = (torch.autograd.grad(loss(), tensors) for loss in bench.losses(model, 'cpu'))
    largest = max(g.abs().max() for g in plain)
    for name, a, b in zip(names, ours, plain):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max() + 5e-7 * largest, name
    assert dict(zip(names, plain))['adapter.connectors.0.0.weight'].abs().max() > 1e-4 * largest


def test_different_losses_are_not_compared(tiny, monkeypatch):
    """With the pictures in another order the loss is another one, and nothing is timed."""
    model = bench.make('limber_all', 'cpu')
    plain = bench.naive_loss
    bench.check(model, 'cpu')
    monkeypatch.setattr(bench, 'naive_loss', lambda model, features, *text: plain(model, features.flip(0), *text))
    with pytest.raises(SystemExit, match='do not compute the same'):
        bench.check(model, 'cpu')
