"""
From a run's hyperparameters to its model, and from a model to a checkpoint and back.

A checkpoint is a safetensors file of the trained tensors alone (megabytes, never the frozen models)
with the run's hyperparameters, library versions and scores in its metadata.
"""

import json
import os
from pathlib import Path

import nanopalm.wheels  # noqa: F401  (first: mends torchvision on CPU-only torch)

import timm
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save

from adapters import Adapter, AdapterConfig
from encoders import make_encoder
from llms import load_llm, read_llm_config
from model import PALM
from nanopalm.allocator import keep_freed_memory
from nanopalm.files import write_atomically
from nanopalm.parallel import shard_over_processes
from nanopalm.runs import LATER_HYPERPARAMETERS

# old and new names of trained tensors
RENAMED = {'.pool.weight': '.pool.layer.weight', '.pool.bias': '.pool.layer.bias'}


# ---- building ------------------------------------------------------------------------------------


def build(config, device, dtype, shard=False):
    """Returns (PALM on the device, tokenizer) for a run's hyperparameters. Device 'meta': shapes
    alone, no weights are read. shard: the LLM is distributed over all processes."""
    cfg = AdapterConfig(**{name: config[name] for name in AdapterConfig.__dataclass_fields__})
    if device == 'cpu':
        keep_freed_memory()
    weights = device != 'meta'
    with torch.device('cpu' if weights else 'meta'):
        llm, tokenizer = load_llm(config['llm'], dtype, weights)
        encoder = None
        if config['encoder']:
            encoder = make_encoder(config, cfg.source_layers, pretrained=weights)
        adapter = Adapter(
            cfg,
            d_in=encoder.dim if encoder else None,
            grid=encoder.grid if encoder else None,
            d_llm=llm.config.hidden_size,
            n_layers=llm.config.num_hidden_layers,
            d_embed=llm.get_input_embeddings().embedding_dim,
        )
    prefix_start = ()
    if cfg.prefix_start:
        prefix_start = tokenizer(cfg.prefix_start, add_special_tokens=False).input_ids
    fast_paths = config.get('fast_paths', True)
    model = PALM(llm, adapter, encoder, prefix_start, fast_paths=fast_paths)
    if shard:
        shard_over_processes(llm, device)
    return model.to(device), tokenizer


def pick_device_and_dtype(device, dtype, llm=''):
    """Returns (device, dtype) in place of 'auto': a GPU if there is one; float32 on a CPU. On a GPU
    the half precision that this LLM, a folder or Hub id, was published in: its weights are exact
    there, and its activations have the range that they had in training.

    Why: docs/precision.md. Raises ValueError for a device that does not exist."""
    if device.split(':')[0] not in ('auto', 'cpu', 'cuda', 'mps'):
        raise ValueError(f"device={device!r}: expected 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'")
    if device.startswith('cuda') and not torch.cuda.is_available():
        raise ValueError(f'device={device!r}: there is no GPU that this torch can use')
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    if dtype == 'auto' and not device.startswith('cuda'):
        dtype = 'float32'
    elif dtype == 'auto':
        config = read_llm_config(llm) if llm else {}
        published = config.get('dtype') or config.get('torch_dtype')
        half = published == 'float16' or not torch.cuda.is_bf16_supported()
        dtype = 'float16' if half else 'bfloat16'
    return device, dtype


# ---- saving and loading --------------------------------------------------------------------------


def save_adapter(path, trained, config, **facts):
    """Writes trained tensors {name: tensor}; facts: the iteration, its losses and scores."""
    versions = dict(
        torch=torch.__version__, transformers=transformers.__version__, timm=timm.__version__
    )
    metadata = dict(
        config=json.dumps(config), versions=json.dumps(versions), facts=json.dumps(facts)
    )
    tensors = {name: p.detach().cpu().contiguous() for name, p in trained.items()}
    # by ourselves, for safetensors' own files can be read by nobody else
    content = save(tensors, metadata)
    write_atomically(path, lambda temporary: Path(temporary).write_bytes(content))


def load_checkpoint(out_dir, which='best', device='auto', dtype='auto', bad_rows=''):
    """Returns (model in eval mode, tokenizer, the hyperparameters it was trained with). which:
    'best' or 'last'. bad_rows: in place of the run's. Raises FileNotFoundError where there is no
    checkpoint, ValueError for a file that is none or does not fit."""
    path = os.path.join(out_dir, f'{which}.safetensors')
    config, tensors = read_checkpoint(path)
    if bad_rows:
        config['bad_rows'] = bad_rows
    device, dtype = pick_device_and_dtype(device, dtype, config['llm'])
    try:
        model, tokenizer = build(config, device, dtype)
    except KeyError as error:
        raise ValueError(f'{path} is of an older version: its config has no {error}') from error
    copy_trained(model, tensors, path)
    return model.eval(), tokenizer, config


def read_checkpoint(path):
    """Returns (hyperparameters, {name: tensor}) of a checkpoint."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f'{path}: no such checkpoint; train.py writes it into its out_dir')
    try:
        with safe_open(path, 'pt') as file:
            config = LATER_HYPERPARAMETERS | json.loads(file.metadata()['config'])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except Exception as error:
        raise ValueError(
            f'{path} is no checkpoint of train.py ({type(error).__name__}: {error})'
        ) from error
    config['target_layers'] = tuple(config['target_layers'])
    return config, {current_name(name): tensor for name, tensor in tensors.items()}


def current_name(name):
    for old, new in RENAMED.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def copy_trained(model, tensors, path):
    """Copies tensors {name: tensor} into the trained parameters of a model. Raises ValueError where
    names or shapes differ."""
    trained = model.trained()
    expected = {name: tuple(parameter.shape) for name, parameter in trained.items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected:
        differ = [name for name in expected | found if expected.get(name) != found.get(name)]
        raise ValueError(
            f'{path}: its adapter has other tensors than this one ({", ".join(differ[:4])}); give '
            f'the same connector, sizes and target layers'
        )
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(tensors[name])
