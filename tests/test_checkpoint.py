"""
nanopalm/checkpoint.py: from hyperparameters to a model, and from a model to a file and back.
"""

import json

import pytest
import torch
from conftest import configured, flags
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import LLMS, make
from transformers import AutoModelForCausalLM

from nanopalm.checkpoint import (
    RENAMED,
    build,
    copy_trained,
    current_name,
    load_checkpoint,
    pick_device_and_dtype,
    read_checkpoint,
    save_adapter,
)
from nanopalm.runs import LATER_HYPERPARAMETERS


@pytest.fixture
def saved(llm, encoder, tmp_path):
    """saved(name=value, ...) returns (model, path) of an adapter that is random, and is saved as
    best.safetensors in a folder of its own."""

    def saved(**hyperparameters):
        small = dict(llm=llm, encoder=encoder, adapter_dim=32, mapper_heads=4, n_queries=4)
        config = configured(*flags(**small | hyperparameters))
        torch.manual_seed(0)
        model, _ = build(config, 'cpu', 'float32')
        with torch.no_grad():
            for parameter in model.trained().values():
                parameter += torch.randn_like(parameter)
        path = tmp_path / 'run/best.safetensors'
        path.parent.mkdir(exist_ok=True)
        save_adapter(path, model.trained(), config, iter=7, val_loss=2.5)
        return model, path

    return saved


def rewrite(path, tensors, **config):
    """Writes the checkpoint again, with these tensors and these hyperparameters in place of its
    own; those that are None are left out."""
    with safe_open(path, 'pt') as file:
        metadata = file.metadata()
    config = json.loads(metadata['config']) | config
    config = {name: value for name, value in config.items() if value is not None}
    save_file(tensors, path, metadata | dict(config=json.dumps(config)))


# ---- saving and loading --------------------------------------------------------------------------


@pytest.mark.parametrize('connector', ['linear', 'qpmapper', 'r_linear', 'r_conv', 'c_attn'])
def test_what_is_loaded_is_what_was_saved(connector, saved):
    model, path = saved(connector=connector, n_prompt=2)
    loaded, _, config = load_checkpoint(path.parent, 'best', 'cpu', 'float32')
    assert config['connector'] == connector
    assert not loaded.training
    trained = loaded.trained()
    assert set(trained) == set(model.trained())
    for name, parameter in model.trained().items():
        assert torch.equal(trained[name], parameter), name


def test_a_checkpoint_says_what_it_is(saved):
    _, path = saved(connector='linear')
    with safe_open(path, 'pt') as file:
        metadata = {key: json.loads(text) for key, text in file.metadata().items()}
    assert metadata['config']['connector'] == 'linear'
    assert metadata['facts'] == dict(iter=7, val_loss=2.5)
    assert set(metadata['versions']) == {'torch', 'transformers', 'timm'}


def test_listed_target_layers_are_a_tuple_again(saved):
    _, path = saved(connector='linear', target_layers=(1, 3))
    config, _ = read_checkpoint(path)
    assert config['target_layers'] == (1, 3)
    model, _, _ = load_checkpoint(path.parent, 'best', 'cpu', 'float32')
    assert model.adapter.targets == [1, 3]


def test_files_that_cannot_be_read_may_be_left_out_with_a_run_that_stopped_at_them(saved):
    _, path = saved(connector='linear')
    _, _, config = load_checkpoint(path.parent, 'best', 'cpu', 'float32', bad_rows='skip')
    assert config['bad_rows'] == 'skip'
    _, _, config = load_checkpoint(path.parent, 'best', 'cpu', 'float32')
    assert config['bad_rows'] == 'error'


# ---- checkpoints of older versions ---------------------------------------------------------------


@pytest.mark.parametrize('connector', ['r_linear', 'r_conv'])
def test_old_names_of_trained_tensors_are_understood(connector, saved):
    """`.pool.weight` is `.pool.layer.weight` now."""
    model, path = saved(connector=connector)
    old = {}
    for name, tensor in load_file(path).items():
        for old_end, new_end in RENAMED.items():
            if name.endswith(new_end):
                name = name.removesuffix(new_end) + old_end
        old[name] = tensor
    assert any(name.endswith('.pool.weight') for name in old)
    assert any(name.endswith('.pool.bias') for name in old)
    rewrite(path, old)
    loaded, _, _ = load_checkpoint(path.parent, 'best', 'cpu', 'float32')
    trained = loaded.trained()
    for name, parameter in model.trained().items():
        assert torch.equal(trained[name], parameter), name


def test_other_names_are_left_alone():
    assert current_name('adapter.connectors.0.1.pool.weight').endswith('.pool.layer.weight')
    for name in ('adapter.prompt', 'adapter.connectors.0.1.pool.layer.weight'):
        assert current_name(name) == name


def test_hyperparameters_that_came_later_have_the_values_of_before(saved):
    _, path = saved(connector='linear')
    without = dict.fromkeys(LATER_HYPERPARAMETERS)
    rewrite(path, load_file(path), **without)
    _, _, config = load_checkpoint(path.parent, 'best', 'cpu', 'float32')
    # JSON has no tuples
    for name, value in (LATER_HYPERPARAMETERS | dict(target_layers=())).items():
        assert config[name] == value


def test_a_hyperparameter_that_is_missing_is_named(saved):
    _, path = saved(connector='linear')
    rewrite(path, load_file(path), connector=None)
    with pytest.raises(ValueError, match="older version: its config has no 'connector'"):
        load_checkpoint(path.parent, 'best', 'cpu', 'float32')


# ---- mistakes ------------------------------------------------------------------------------------


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='last.safetensors: no such checkpoint'):
        load_checkpoint(tmp_path, 'last', 'cpu', 'float32')


def test_a_file_that_is_no_checkpoint_is_named(saved):
    _, path = saved(connector='linear')
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match='best.safetensors is no checkpoint of train.py'):
        read_checkpoint(path)


def test_tensors_that_do_not_fit_are_named(saved):
    model, path = saved(connector='linear')
    tensors = load_file(path)
    tensors['adapter.extra'] = torch.zeros(1)
    with pytest.raises(ValueError, match='a file: its adapter has other tensors .*adapter.extra'):
        copy_trained(model, tensors, 'a file')


# ---- device and precision ------------------------------------------------------------------------


@pytest.mark.parametrize(
    'published, has_bfloat16, expected',
    [
        ('float16', True, 'float16'),
        ('bfloat16', True, 'bfloat16'),
        ('float32', True, 'bfloat16'),
        ('bfloat16', False, 'float16'),
    ],
)
def test_auto_is_float32_on_a_cpu_and_on_a_gpu_as_the_llm_was_published(
    published, has_bfloat16, expected, llm, tmp_path, monkeypatch
):
    assert pick_device_and_dtype('cpu', 'auto', str(llm)) == ('cpu', 'float32')

    def yes():
        return True

    def supports_bfloat16():
        return has_bfloat16

    monkeypatch.setattr(torch.cuda, 'is_available', yes)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', supports_bfloat16)
    model = AutoModelForCausalLM.from_config(LLMS['llama'], dtype=torch.float32)
    model.to(getattr(torch, published)).save_pretrained(tmp_path)
    assert pick_device_and_dtype('auto', 'auto', str(tmp_path)) == ('cuda', expected)
    assert pick_device_and_dtype('cuda', 'float32', str(tmp_path)) == ('cuda', 'float32')


@pytest.mark.parametrize('device', ['tpu', 'gpu', 'cuda'])
def test_a_device_that_does_not_exist_is_named(device, monkeypatch):
    def no():
        return False

    monkeypatch.setattr(torch.cuda, 'is_available', no)
    with pytest.raises(ValueError, match=f"device='{device}'"):
        pick_device_and_dtype(device, 'auto')


def test_tensors_of_other_shapes_are_refused_and_nothing_is_copied():
    """One prompt token would be copied into each of eight without a word."""
    donor = make(n_prompt=1)
    model = make(n_prompt=8)
    before = model.adapter.prompt.clone()
    with pytest.raises(ValueError, match=r'run: its adapter has other tensors.*adapter.prompt'):
        copy_trained(model, donor.trained(), 'run')
    assert torch.equal(model.adapter.prompt, before)
