"""
train.py from end to end: a tiny LLM, a tiny encoder and two dozen pictures.
"""

import json
import math
import os
import shutil
import signal
import time

import pytest
import torch
from conftest import ROOT, TINY, TRAINED, configured, flags, script_functions, start
from PIL import Image
from tiny_runs import checkpoint, entries, facts, metrics

from configurator import allowed_values, hyperparameters, script_scope
from data import collate, tokenize_examples
from nanopalm.checkpoint import build, load_checkpoint
from nanopalm.datasets import load_examples
from nanopalm.media import load
from nanopalm.muon import Muon

# ---- a run ---------------------------------------------------------------------------------------


def test_a_run_learns(trained):
    out_dir, _ = trained
    loss = metrics(out_dir, 'loss')
    val_loss = metrics(out_dir, 'val_loss')
    assert [step for step, _ in loss] == [10, 20, 30, 40]
    assert [step for step, _ in val_loss] == [0, 20, 40]
    first = loss[0][1]
    last = loss[-1][1]
    assert last < 0.85 * first
    before = val_loss[0][1]
    best = min(value for _, value in val_loss)
    assert best < 0.75 * before


def test_a_run_writes_its_checkpoints_its_log_and_its_configuration(trained):
    out_dir, _ = trained
    assert {path.name for path in out_dir.iterdir()} == {
        'best.safetensors',
        'last.safetensors',
        'resume.pt',
        'metrics.jsonl',
        'loss.png',
        'config.json',
        '.lock',
    }
    # an adapter may be read by whoever may read the rest
    modes = {path.stat().st_mode for path in out_dir.iterdir()}
    assert len(modes) == 1
    assert Image.open(out_dir / 'loss.png').size[0] > 100


def test_what_is_logged_is_finite_and_printed(trained):
    out_dir, text = trained
    for entry in entries(out_dir):
        assert all(math.isfinite(value) for value in entry.values() if isinstance(value, float))
        if 'loss' in entry:
            assert 0 < entry['mfu'] < 1
        else:
            # of TRAINED's n_samples
            assert len(entry['samples']) == 2
    assert text.count('\niter ') == 4
    for words in ('tok/s', 'mfu', 'ETA', 'samples/s', 'ms', 'GB', 'max_iters=40'):
        assert words in text
    assert 'route: encoder 0 h[-1] -> linear 0 -> LLM layer 0' in text


def test_the_gradient_norm_is_logged_and_printed(trained):
    out_dir, text = trained
    norms = metrics(out_dir, 'grad_norm')
    assert [step for step, _ in norms] == [10, 20, 30, 40]
    for _, norm in norms:
        assert norm > 0
        assert f'norm {norm:.2f}' in text


def test_the_gradient_norm_is_logged_as_it_was_before_clipping(train, tiny):
    train(grad_clip=1e-4, log_interval=1, max_iters=2)
    norms = metrics(tiny['out_dir'], 'grad_norm')
    assert [step for step, _ in norms] == [1, 2]
    assert min(norm for _, norm in norms) > 1e-2


def test_a_checkpoint_is_the_adapter_alone(trained, llm):
    out_dir, _ = trained
    config = json.loads((out_dir / 'config.json').read_text())
    for which in ('best', 'last'):
        tensors, metadata = checkpoint(out_dir, which)
        assert all(name.startswith('adapter.') for name in tensors)
        n_parameters = sum(tensor.numel() for tensor in tensors.values())
        assert os.path.getsize(out_dir / f'{which}.safetensors') < 4 * n_parameters + 20_000
        assert metadata['config'] == config
        assert config['llm'] == str(llm)
        assert config['n_queries'] == 4
        assert metadata['versions']['torch'] == torch.__version__
        assert {'transformers', 'timm'} <= set(metadata['versions'])
        saved = metadata['facts']
        assert (saved['iter'], saved['val_loss']) in metrics(out_dir, 'val_loss')
    # weights and two moments of each
    assert os.path.getsize(out_dir / 'resume.pt') < 16 * n_parameters + 40_000


def test_the_best_checkpoint_has_the_loss_that_was_logged(trained):
    out_dir, _ = trained
    model, tokenizer, config = load_checkpoint(out_dir, 'best', 'cpu', 'float32')
    assert not model.training
    assert not model.adapter.training
    batch = validation_batch(model, tokenizer, config)
    with torch.no_grad():
        loss = model(**batch).item()
    logged = metrics(out_dir, 'val_loss')
    step, best = min(logged, key=lambda entry: entry[1])
    assert facts(out_dir, 'best') == dict(iter=step, val_loss=best)
    assert abs(loss - best) < 1e-5
    # the pictures matter
    of_other_pictures = model(**batch | dict(pixels=batch['pixels'].flip(0))).item()
    assert abs(of_other_pictures - loss) > 1e-3


def validation_batch(model, tokenizer, config):
    """Returns all validation examples with their first caption, as one batch."""
    examples = load_examples(config, 'val')
    items = []
    for example, texts in zip(examples, tokenize_examples(examples, tokenizer, config)):
        prompt, targets = texts
        pixels = load(example['image'], model.encoder.preprocessing, config['resize'])
        items.append(dict(texts=[(prompt, targets[0])], errors=[], pixels=pixels))
    batch, _ = collate(items, tokenizer.pad_token_id)
    batch['pixels'] = torch.as_tensor(batch['pixels'])
    return batch


def test_the_same_seed_is_the_same_run(train, tmp_path):
    tensors = {}
    for name, seed in (('first', 0), ('again', 0), ('other', 1)):
        train(out_dir=tmp_path / name, seed=seed, mapper_dropout=0.3, max_iters=2)
        tensors[name], _ = checkpoint(tmp_path / name)
    for name, tensor in tensors['first'].items():
        assert tensor.equal(tensors['again'][name])
        if 'norm' not in name:
            assert not tensor.equal(tensors['other'][name])


def test_the_text_only_baseline_trains_its_prompt_alone(train, tiny, run, pictures):
    text = train(encoder=None, n_prompt=4, max_iters=30, eval_interval=30, learning_rate=2e-2)
    (_, first), (_, last) = metrics(tiny['out_dir'], 'val_loss')
    assert last < 0.9 * first
    assert list(checkpoint(tiny['out_dir'])[0]) == ['adapter.prompt']
    assert 'in 1 tensors' in text
    images = pictures / 'images'
    options = dict(out_dir=tiny['out_dir'], device='cpu', dtype='float32')
    lines = run('sample.py', *flags(input=images, max_new_tokens=5, **options)).splitlines()
    # the same caption of every picture
    assert len({line.partition(': ')[2] for line in lines}) == 1


def test_a_run_may_start_from_the_adapter_of_another(trained, train, tiny):
    out_dir, _ = trained
    train(start_from=out_dir, connector='linear', max_iters=1)
    step, loss = metrics(tiny['out_dir'], 'val_loss')[0]
    assert step == 0
    assert loss == pytest.approx(facts(out_dir)['val_loss'], abs=1e-6)


def test_a_run_cannot_start_from_an_adapter_that_does_not_fit(trained, train):
    out_dir, _ = trained
    assert 'start_from' in train(fails=True, start_from=out_dir, connector='qpmapper')


def test_target_layers_may_be_listed_and_every_route_is_printed(train, tiny):
    text = train(target_layers='1,3', source_layers=2, max_iters=1)
    assert 'route: encoder 0 h[-2] -> qpmapper 0 -> LLM layer 1\n' in text
    assert 'route: encoder 0 h[-1] -> qpmapper 0 -> LLM layer 3\n' in text
    model, _, _ = load_checkpoint(tiny['out_dir'], 'last', 'cpu', 'float32')
    assert model.adapter.targets == [1, 3]


@pytest.mark.slow
def test_a_training_without_fast_paths_has_the_same_losses(train, tmp_path):
    """With four queries for a text, the fast path is taken in training."""
    losses = []
    for fast_paths in (True, False):
        out_dir = tmp_path / str(fast_paths)
        train(fast_paths=fast_paths, mapper_dropout=0.0, log_interval=1, out_dir=out_dir)
        losses.append([loss for _, loss in metrics(out_dir, 'loss')])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.slow
def test_lower_precision_gives_nearly_the_same_loss(train, tmp_path):
    """bfloat16, and float16 with a gradient scaler."""
    losses = {}
    for dtype in ('float32', 'bfloat16', 'float16'):
        out_dir = tmp_path / dtype
        train(dtype=dtype, log_interval=4, eval_interval=4, n_samples=0, out_dir=out_dir)
        tensors, _ = checkpoint(out_dir)
        assert all(tensor.dtype == torch.float32 for tensor in tensors.values())
        losses[dtype] = metrics(out_dir, 'loss')[0][1]
    full = losses.pop('float32')
    for loss in losses.values():
        assert 0 < abs(loss - full) < 0.02 * full


@pytest.mark.slow
def test_the_config_for_coco_reads_the_official_files(run, tiny, coco, tmp_path):
    names = ('llm', 'encoder', 'num_workers', 'adapter_dim', 'mapper_heads', 'max_iters')
    options = {name: tiny[name] for name in names}
    options |= dict(data_dir=coco)
    arguments = flags(batch_size=1, out_dir=tmp_path / 'out', **options)
    text = run('train.py', 'config/coco_depalm.py', *arguments)
    assert '1 training and 1 validation examples' in text
    assert os.path.isfile(tmp_path / 'out/best.safetensors')
    arguments = flags(batch_size=2, restval=True, out_dir=tmp_path / 'restval', **options)
    text = run('train.py', 'config/coco_depalm.py', *arguments)
    assert '2 training and 1 validation examples' in text


@pytest.mark.slow
def test_folders_may_have_odd_names_and_batches_odd_sizes(train, pictures, tmp_path):
    folder = shutil.copytree(pictures, tmp_path / 'ünï 猫 [1]*')
    out_dir = tmp_path / 'out [2]* é'
    train(
        n_samples=0,
        batch_size=16,
        eval_rows=1,
        dataset=folder,
        out_dir=out_dir,
        cache_dir=tmp_path / 'cäche',
        cache_features=True,
    )
    assert os.path.exists(out_dir / 'best.safetensors')
    train(n_samples=9, batch_size=5, max_iters=7, out_dir=tmp_path / 'b')
    # of four validation examples
    assert len(metrics(tmp_path / 'b', 'samples')[0][1]) == 4


def test_an_encoder_may_be_given_larger_images(train, tiny):
    """A ViT for 32 pixels is given 64."""
    train(image_size=64, max_iters=1, connector='r_avgpool_tokens')
    model, _, _ = load_checkpoint(tiny['out_dir'], 'best', 'cpu', 'float32')
    assert model.encoder.grid == (8, 8)


def test_ctrl_c_ends_a_run_with_one_sentence(tiny, tmp_path):
    process = start(tmp_path, 'train.py', *flags(**tiny | dict(max_iters=10_000, num_workers=2)))
    while process.is_alive() and not os.path.exists(tiny['out_dir'] / 'resume.pt'):
        time.sleep(0.05)
    # as a terminal does, to the workers, too
    os.killpg(process.pid, signal.SIGINT)
    process.join(60)
    message = (tmp_path / 'stderr').read_text()
    assert process.exitcode == 130
    assert 'Traceback' not in message
    assert '--init_from=resume' in message


# ---- hyperparameters and functions of the script -------------------------------------------------


def test_help_names_every_hyperparameter_with_its_value_and_its_range(run):
    text = run('train.py', '--help')
    scope = script_scope(ROOT / 'train.py')
    allowed = allowed_values(scope)
    lines = {}
    for line in text.splitlines():
        name, equals, rest = line.strip().removeprefix('--').partition('=')
        if line.startswith('  --') and equals:
            lines[name] = rest
    for name, value in hyperparameters(scope).items():
        assert lines[name].startswith(str(value)), name
        # such as '1 or more', '0 to 1'
        assert str(allowed.get(name, '')) in lines[name], name


def test_the_optimizer_has_two_groups_by_name(trained):
    out_dir, _ = trained
    state = torch.load(out_dir / 'resume.pt', weights_only=True)
    groups = state['optimizers'][0]['param_groups']
    assert [group['name'] for group in groups] == ['adapter', 'prompt']
    adapter, prompt = groups
    # a Linear and its bias; the prompt tokens
    assert len(adapter['params']) == 2
    assert len(prompt['params']) == 1
    assert adapter['peak_rate'] == prompt['peak_rate'] == TRAINED['learning_rate']


def test_with_a_muon_rate_the_adapters_matrices_are_in_muon_and_nothing_else(tiny, monkeypatch):
    # there are queries, norms, a bias of each token, and two matrices of each layer's bottleneck
    options = dict(
        token_norm=True,
        token_bias=True,
        token_bias_per_token=True,
        bottleneck='normal',
        n_connectors=2,
        n_targets=2,
        last_target=1,
    )
    model, _ = build(configured(*flags(**tiny | options)), 'cpu', 'float32')
    trained = model.trained()
    script = script_functions(ROOT / 'train.py')
    monkeypatch.setitem(script, 'trained', trained)
    monkeypatch.setitem(script, 'muon_rate', 0.05)
    adamw, muon = script['configure_optimizers']()
    assert isinstance(adamw, torch.optim.AdamW) and isinstance(muon, Muon)
    matrices = {}
    for name, p in trained.items():
        if name.startswith(('adapter.connectors', 'adapter.bottlenecks')) and p.ndim == 2:
            matrices[name] = p
    # the input projection, 2 layers of 4 matrices and the output layer, of each of the two
    assert len(matrices) == 2 * (1 + 2 * 4 + 1) + 2 * len(model.decoder.layers)
    (group,) = muon.param_groups
    assert group['name'] == 'matrices' and group['peak_rate'] == 0.05 and group['scheduled']
    assert set(map(id, group['params'])) == set(map(id, matrices.values()))
    others = [p for group in adamw.param_groups for p in group['params']]
    assert len(others) + len(matrices) == len(trained)
    assert not set(map(id, others)) & set(map(id, matrices.values()))
    assert any(p.ndim == 2 for p in adamw.param_groups[0]['params'])


def test_a_run_with_a_muon_rate_warms_it_up_and_saves_both_optimizers(train, tiny):
    train(muon_rate=0.05, connector='linear', max_iters=2)
    state = torch.load(tiny['out_dir'] / 'resume.pt', weights_only=True)
    adamw, muon = state['optimizers']
    assert [group['name'] for group in adamw['param_groups']] == ['adapter', 'prompt']
    (matrices,) = muon['param_groups']
    # the schedule's factor is the same for all
    factor = adamw['param_groups'][0]['lr'] / TINY['learning_rate']
    assert matrices['lr'] == pytest.approx(0.05 * factor) and 0 < factor < 1
    (moments,) = muon['state'].values()
    assert moments['momentum'].abs().sum() > 0


@pytest.mark.parametrize('overflow, moved', [(False, True), (True, False)])
def test_where_one_gradient_overflows_in_float16_no_optimizer_moves(overflow, moved):
    script = script_functions(ROOT / 'train.py')
    weights = [torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)]
    optimizers = [torch.optim.SGD([weight], lr=0.1) for weight in weights]
    scaler = torch.amp.GradScaler('cpu')
    scaler.scale(sum(weight.sum() for weight in weights)).backward()
    if overflow:
        weights[0].grad[0] = math.inf
    for optimizer in optimizers:
        scaler.unscale_(optimizer)
    scale = scaler.get_scale()
    script['move_trained'](optimizers, scaler, torch.nn.utils.clip_grad_norm_(weights, 1.0))
    for weight in weights:
        assert bool((weight < 1).all()) is moved
        assert weight.grad is None
    assert (scaler.get_scale() < scale) is overflow


def test_the_text_only_baseline_has_no_matrices_for_muon(train, tiny):
    train(encoder=None, muon_rate=0.05, max_iters=1)
    state = torch.load(tiny['out_dir'] / 'resume.pt', weights_only=True)
    assert len(state['optimizers']) == 1


def test_the_learning_rate_warms_up_and_falls_to_min_lr(monkeypatch):
    script = script_functions(ROOT / 'train.py')
    monkeypatch.setitem(script, 'warmup', 0.5)
    monkeypatch.setitem(script, 'min_lr', 0.1)
    rate_factor = script['rate_factor']
    factors = [rate_factor(step, last_iter=8, steps_per_epoch=1) for step in range(9)]
    assert factors[:4] == [1 / 4, 2 / 4, 3 / 4, 1]
    assert factors[4] == 1
    assert factors[6] == pytest.approx((1 + 0.1) / 2)
    assert factors[8] == pytest.approx(0.1)
    # a ramp of 2.5 steps
    factors = [rate_factor(step, last_iter=5, steps_per_epoch=1) for step in range(3)]
    assert factors == pytest.approx([1 / 2.5, 2 / 2.5, 1])


def test_the_prompt_tokens_may_have_a_learning_rate_of_their_own(train, tiny):
    train(learning_rate=1e-9, prompt_rate=1e-2, prompt_schedule=False, max_iters=2)
    state = torch.load(tiny['out_dir'] / 'resume.pt', weights_only=True)
    adapter, prompt = state['optimizers'][0]['param_groups']
    assert adapter['lr'] < 1e-8
    assert prompt['lr'] == 1e-2


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'wrong, words',
    [
        (dict(llm='nowhere/at/all'), "llm='nowhere/at/all'"),
        (dict(llm='nobody/no-model'), "llm='nobody/no-model'"),
        (dict(encoder='nowhere/at/all'), "encoder 'nowhere/at/all'"),
        (dict(encoder='vit_huge_nonsense'), "encoder 'vit_huge_nonsense'"),
        (dict(dataset='nowhere'), "dataset='nowhere'"),
        (dict(dataset='coco', data_dir='nowhere'), 'dataset_coco.json'),
        (dict(batch_size=17), 'batch_size=17'),
        (dict(batch_size=0), 'batch_size'),
        (dict(dtype='fp16'), 'dtype'),
        (dict(device='cuda:99'), 'device'),
        (dict(resize='stretch'), 'resize'),
        (dict(logger='paper'), 'logger'),
        (dict(connector='magic'), 'connector'),
        (dict(n_targets=9), 'n_targets'),
        (dict(mapper_heads=5), 'mapper_heads'),
        (dict(norm='batch'), 'norm'),
        (dict(activation='relu'), 'activation'),
        (dict(texts_per_input=0), 'texts_per_input'),
        (dict(accumulate=0), 'accumulate'),
        (dict(log_interval=0), 'log_interval'),
        (dict(eval_interval=0), 'eval_interval'),
        (dict(eval_rows=0), 'eval_rows'),
        (dict(max_text_tokens=0), 'max_text_tokens'),
        (dict(instruction='{question}'), 'instruction'),
        (dict(source_layers=9), 'source_layers'),
        (dict(source_layers=0), 'source_layers'),
        (dict(cache_features=True, cache_views=0), 'cache_views'),
        (dict(cache_features=True, encoder_norm_tuning=True), 'cache_features'),
        (dict(start_from='nowhere'), 'nowhere'),
        (dict(init_from='nowhere'), 'init_from'),
        (dict(device='tpu'), "device='tpu'"),
        (dict(bottleneck='serial'), 'bottleneck'),
        (dict(bottleneck_at='head'), 'bottleneck_at'),
        (dict(source_tokens='patches'), 'source_tokens'),
        (dict(mapper_layers=0), 'mapper_layers'),
        (dict(n_queries=0), 'n_queries'),
        (dict(max_iters=-1), 'max_iters'),
        (dict(learning_rate=-1), 'learning_rate'),
        (dict(seed=-1), 'seed'),
        (dict(label_smoothing=1.5), 'label_smoothing'),
        (dict(mapper_dropout=2), 'mapper_dropout'),
        (dict(epochs=-1), 'epochs'),
        (dict(shard_llm=True), 'shard_llm'),
        (dict(encoder=None, n_prompt=0), 'nothing is trained'),
        (dict(learning_rat=1), "did you mean 'learning_rate'?"),
        (dict(out_dir='/dev/null/out'), '/dev/null'),
    ],
    ids=str,
)
def test_a_mistake_is_named(train, wrong, words):
    assert words in train(fails=True, **wrong)


def test_a_mistake_leaves_no_run_behind(train):
    """Otherwise the same command, put right, would be refused: out_dir would hold a run."""
    train(fails=True, batch_size=17)
    train(batch_size=16, max_iters=1)


MODEL_FILES = dict(
    llm=['config.json', 'model.safetensors', 'tokenizer.json'],
    encoder=['config.json', 'model.safetensors'],
)


def test_a_model_folder_with_a_file_missing_is_named(train, tiny, tmp_path):
    for name, files in MODEL_FILES.items():
        for file in files:
            copy = shutil.copytree(tiny[name], tmp_path / name / file)
            os.remove(copy / file)
            assert str(copy) in train(fails=True, **{name: copy})


def test_a_model_file_that_is_cut_in_half_is_named(train, llm, tmp_path):
    copy = shutil.copytree(llm, tmp_path / 'half')
    weights = copy / 'model.safetensors'
    weights.write_bytes(weights.read_bytes()[:1000])
    assert str(copy) in train(fails=True, llm=copy)


@pytest.mark.parametrize(
    'number, cache_features, num_workers',
    # picture 16 is of the validation split
    [(5, False, 1), (5, True, 1), (16, False, 0)],
)
def test_a_broken_picture_is_named(number, cache_features, num_workers, train, pictures, tmp_path):
    folder = shutil.copytree(pictures, tmp_path / 'broken')
    path = folder / f'images/{number}.png'
    path.write_bytes(path.read_bytes()[:100])
    message = train(
        fails=True, dataset=folder, cache_features=cache_features, num_workers=num_workers
    )
    assert str(path) in message


def test_wrong_lines_are_named_before_the_models_are_loaded(train, pictures, tmp_path):
    folder = shutil.copytree(pictures, tmp_path / 'wrong')
    with open(folder / 'train.jsonl', 'a') as file:
        file.write('{"image": "images/0.png"}\n')
        file.write('{"image": "no.png", "caption": "x"}\n')
    message = train(fails=True, dataset=folder, llm='nowhere')
    assert '2 wrong lines' in message
    assert 'line 17' in message
    assert 'line 18' in message
    assert 'nowhere' not in message


@pytest.mark.parametrize(
    'largest_file, cache_features, file',
    [
        pytest.param(40_000, False, 'best.safetensors', marks=pytest.mark.slow),
        pytest.param(100_000, False, 'resume.pt', marks=pytest.mark.slow),
        (10_000, True, 'cache'),
    ],
)
def test_a_full_disk_leaves_no_half_files_and_the_run_goes_on_once_there_is_room(
    largest_file, cache_features, file, run, tiny
):
    out_dir = tiny['out_dir']
    tiny |= dict(cache_features=cache_features)
    message = run('train.py', *flags(**tiny), fails=True, largest_file=largest_file)
    assert str(tiny['cache_dir'] if cache_features else out_dir / file) in message
    assert not list(out_dir.glob('*.tmp'))
    assert not list(tiny['cache_dir'].glob('*'))
    run('train.py', *flags(**tiny | dict(init_from='auto')))
