"""tools/bench.py at tiny sizes: every mechanism is measured, the numbers are finite, and both ways
compute the same."""

import json
import math

import pytest
import torch
from conftest import ROOT, flags

from configurator import configure, script_scope
from tools import MECHANISMS, bench

BENCH = ROOT / 'tools/bench.py'
# one of them in every run of the tests, the others in `make test-all`
QUICK = 'epalm_opt'
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in MECHANISMS.split(',')]
SLOW.pop(MECHANISMS.split(',').index(QUICK))
EVERY_MECHANISM = pytest.mark.parametrize('mechanism', [QUICK, *SLOW])


def tiny_options(**hyperparameters):
    """Returns the options of `python -m tools.bench --preset=tiny` with these hyperparameters."""
    arguments = flags(preset='tiny', adapter_dim=32, repeats=1, device='cpu', **hyperparameters)
    return bench.read_options(configure(script_scope(BENCH), arguments))


def numbers(tree):
    """Returns every float in nested dicts and lists."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list):
        found = []
        for branch in tree:
            found += numbers(branch)
        return found
    return [tree] if isinstance(tree, float) else []


def check_row(row):
    """Checks what is measured of every mechanism."""
    assert all(math.isfinite(number) for number in numbers(row))
    assert len(numbers(row)) > 12
    assert row['loss'] == pytest.approx(row['naive_loss'], rel=1e-5)
    assert row['train']['ratio'] > 0
    assert row['train']['of_limit'] > 0
    assert row['generate']['ratio'] > 0
    assert row['generate']['same'] == 1
    assert row['generate']['naive_inputs'] == 2


# ---- the script ----------------------------------------------------------------------------------


def test_the_script_prints_tables_and_then_all_numbers_as_json(run):
    hyperparameters = dict(preset='tiny', adapter_dim=32, repeats=1, device='cpu')
    out = run('tools/bench.py', *flags(**hyperparameters, mechanisms='limber_all,epalm_opt'))
    result = json.loads(out.splitlines()[-1])
    assert result['knobs']['width'] == 64
    rows = result['mechanisms']
    assert list(rows) == ['limber_all', 'epalm_opt']
    for mechanism, row in rows.items():
        check_row(row)
        lines = [line for line in out.splitlines() if line.startswith(f'| {mechanism} | ')]
        assert len(lines) == 1
    assert set(rows['limber_all']) == {'loss', 'naive_loss', 'train', 'generate', 'texts', 'vqa'}
    assert set(rows['epalm_opt']) == {'loss', 'naive_loss', 'train', 'generate'}
    assert rows['limber_all']['texts']['ratio'] > 0


@pytest.mark.slow
def test_the_script_measures_every_mechanism(run):
    hyperparameters = dict(preset='tiny', adapter_dim=32, repeats=1, device='cpu')
    out = run('tools/bench.py', *flags(**hyperparameters))
    rows = json.loads(out.splitlines()[-1])['mechanisms']
    assert list(rows) == MECHANISMS.split(',')
    for row in rows.values():
        check_row(row)
    # in a padded batch every question has the answer that it has alone
    assert rows['limber_all']['vqa']['same'] == 1
    assert rows['qp_l0']['vqa']['same'] == 1


@pytest.mark.parametrize(
    'hyperparameter, value, wrong',
    [
        ('mechanisms', 'qp_l0,limbo', 'limbo'),
        ('preset', '13b', '13b'),
        ('parts', 'trains', 'trains'),
        ('repeats', -1, '-1'),
        ('num_beams', 0, '0'),
        ('dtype', 'int8', 'int8'),
    ],
)
def test_a_mistake_is_named(hyperparameter, value, wrong):
    arguments = flags(**dict(preset='tiny') | {hyperparameter: value})
    with pytest.raises(SystemExit) as error:
        bench.main(configure(script_scope(BENCH), arguments))
    assert hyperparameter in str(error.value)
    assert wrong in str(error.value)


def test_a_device_that_does_not_exist_is_an_error_in_words(run):
    error = run('tools/bench.py', '--preset=tiny', '--device=tpu', fails=True)
    assert "device='tpu'" in error


# ---- both ways -----------------------------------------------------------------------------------


def test_different_losses_are_not_compared(monkeypatch):
    """With the images in another order the loss is another one."""
    options = tiny_options()
    model = bench.make_model(options, 'limber_all')
    bench.check_losses(options, model)
    loss = bench.naive_loss

    def loss_of_other_images(model, features, text):
        return loss(model, features.flip(0), text)

    monkeypatch.setattr(bench, 'naive_loss', loss_of_other_images)
    with pytest.raises(SystemExit, match='do not compute the same'):
        bench.check_losses(options, model)


def test_c_attn_has_the_gradients_of_the_reference_implementation():
    """Of every trained tensor; tests/test_model.py does it for the mechanisms with a prefix."""
    options = tiny_options()
    model = bench.make_model(options, 'c_attn')
    names, tensors = zip(*model.trained().items())
    our_loss, reference_loss = bench.loss_functions(options, model)
    ours = torch.autograd.grad(our_loss(), tensors)
    reference = torch.autograd.grad(reference_loss(), tensors)
    largest = max(gradient.abs().max() for gradient in reference)
    for name, a, b in zip(names, ours, reference):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max() + 5e-7 * largest, name
    connector = dict(zip(names, reference))['adapter.connectors.0.0.weight']
    assert connector.abs().max() > 1e-4 * largest


def test_questions_of_different_lengths_are_padded_on_the_left():
    assert bench.question_lengths(4, 8) == [8, 7, 6, 5]
    mask = bench.left_padded_mask([3, 1], 'cpu')
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_the_reference_implementation_generates_for_as_many_inputs_as_fill_the_device():
    options = tiny_options(batch_size=8)
    model = bench.make_model(options, 'limber_all')
    assert bench.inputs_that_fill_the_device(options, model, 1, 4) == list(range(8))
    # 3 beams of 1 + 4 / 2 tokens: 9 of an input, of 8 inputs 72
    assert model.adapter.cfg.n_prompt == 0
    options.naive_rows = 18
    assert bench.inputs_that_fill_the_device(options, model, 1, 4) == [2, 6]
    options.naive_rows = 1
    assert bench.inputs_that_fill_the_device(options, model, 1, 4) == [4]


# ---- profile -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_shares_of_a_profile_are_of_the_whole_step(run):
    hyperparameters = dict(
        preset='tiny',
        adapter_dim=32,
        repeats=1,
        device='cpu',
        profile=True,
        mechanisms='qp_inner,c_attn',
        encoder='vit_tiny_patch16_224',
    )
    out = run('tools/bench.py', *flags(**hyperparameters))
    for row in json.loads(out.splitlines()[-1])['mechanisms'].values():
        check_shares(row['shares'])
    assert 'prefix pass' in out


def check_shares(shares):
    assert sum(shares.values()) == pytest.approx(1)
    assert min(shares.values()) >= 0
    for part in ('encoder', 'adapter', 'text pass', 'head', 'backward', 'optimizer'):
        assert shares[part] > 0


def test_a_prefix_pass_has_its_share():
    options = tiny_options(encoder='vit_tiny_patch16_224')
    row = bench.profile_training(options, bench.make_model(options, 'qp_inner'))
    check_shares(row['shares'])
    assert row['shares']['prefix pass'] > 0


# ---- memory --------------------------------------------------------------------------------------


@EVERY_MECHANISM
def test_memory_grows_with_the_layers_and_shrinks_with_checkpoints(mechanism):
    # with shorter texts the adapter alone may need the most
    options = tiny_options(text_tokens=80)
    options.adapter_dim = 48
    kept = []
    recomputed = []
    for layers in (8, 12):
        shape = dict(layers=layers, width=64, heads=4)
        kept.append(bench.step_memory(options, mechanism, shape, checkpoint_layers=False))
        recomputed.append(bench.step_memory(options, mechanism, shape, checkpoint_layers=True))
    assert kept[0] < kept[1]
    assert recomputed[0] < kept[0]
    assert recomputed[1] < kept[1]


def test_the_memory_table_has_a_line_for_each_mechanism(monkeypatch, capsys):
    sizes = {
        'small': dict(layers=2, width=64, heads=4),
        'large': dict(layers=4, width=64, heads=4),
    }
    monkeypatch.setattr(bench, 'LLM_SIZES', sizes)
    bench.print_memory_table(tiny_options(mechanisms='limber_1'))
    heading, rule, line, result = capsys.readouterr().out.splitlines()
    assert heading == '| mechanism | small | large |'
    assert rule == '|---|--:|--:|'
    assert line.startswith('| limber_1 | ')
    assert line.count('(') == 2
    assert list(json.loads(result)['memory']['limber_1']) == ['small', 'large']


def test_memory_of_an_llm_in_half_precision():
    options = tiny_options(dtype='bfloat16', text_tokens=80)
    shape = dict(layers=2, width=64, heads=4)
    half = bench.step_memory(options, 'limber_1', shape, checkpoint_layers=False)
    options.dtype = 'float32'
    assert half < bench.step_memory(options, 'limber_1', shape, checkpoint_layers=False)
