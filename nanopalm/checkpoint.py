"""
A run -> its model: building, saving, loading.
"""
import json
import os

import nanopalm.wheels  # noqa: F401  (first: mends torchvision on CPU-only torch)

import timm
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file

from adapters import Adapter, AdapterConfig
from encoders import Encoder
from llms import load_llm, read_llm_config
from model import PALM
from nanopalm.files import write_atomically
from nanopalm.parallel import shard_over_processes


def pick_device_and_dtype(device, dtype, llm=''):
    """'auto' -> a GPU if there is one; float32 on a CPU. On a GPU the half precision that this LLM, a folder or Hub id, was
    published in: its weights are exact there, and its activations have the range they had in training.

    Why: docs/precision.md. Raises ValueError for a device that is not there.
    """
    if device.split(':')[0] not in ('auto', 'cpu', 'cuda', 'mps'):
        raise ValueError(f"device={device!r}: expected 'auto', 'cpu', 'cuda', 'cuda:1' or so, or 'mps'")
    if device.startswith('cuda') and not torch.cuda.is_available():
        raise ValueError(f'device={device!r}: there is no GPU that this torch can use')
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    if dtype == 'auto' and not device.startswith('cuda'):
        dtype = 'float32'
    elif dtype == 'auto':
        config = read_llm_config(llm) if llm else {}
        published = config.get('dtype') or config.get('torch_dtype')
        dtype = 'float16' if published == 'float16' or not torch.cuda.is_bf16_supported() else 'bfloat16'
    return device, dtype


def build(config, device, dtype, shard=False):
    """The knobs of a run -> (PALM on the device, tokenizer). Device 'meta': shapes alone, no weights are read. shard: the LLM over all processes."""
    weights, cfg = device != 'meta', AdapterConfig(**{k: config[k] for k in AdapterConfig.__dataclass_fields__})
    with torch.device(device if not weights else 'cpu'):
        llm, tokenizer = load_llm(config['llm'], dtype, weights)
        how = {k: config[k] for k in ('image_size', 'video_frames', 'video_tokens', 'audio_seconds')}
        encoder = Encoder(config['encoder'], cfg.source_layers, pretrained=weights, **how) if config['encoder'] else None
        adapter = Adapter(cfg, encoder and encoder.dim, encoder and encoder.grid, llm.config.hidden_size, llm.config.num_hidden_layers,
                          llm.get_input_embeddings().embedding_dim)
    start = tokenizer(cfg.prefix_start, add_special_tokens=False).input_ids if cfg.prefix_start else ()
    model = PALM(llm, adapter, encoder, start)
    if shard:
        shard_over_processes(llm, device)
    return model.to(device), tokenizer


def save_adapter(path, trained, config, **facts):
    """Trained tensors {name: tensor} as safetensors; the run's knobs, library versions and facts (iteration, losses) in its metadata."""
    versions = dict(torch=torch.__version__, transformers=transformers.__version__, timm=timm.__version__)
    metadata = dict(config=json.dumps(config), versions=json.dumps(versions), facts=json.dumps(facts))
    tensors = {name: p.detach().cpu().contiguous() for name, p in trained.items()}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata))


def load_checkpoint(out_dir, which='best', device='auto', dtype='auto', bad_rows=''):
    """(model in eval mode, tokenizer, the knobs it was trained with). which: 'best' or 'last'. bad_rows: in place of that knob."""
    path = os.path.join(out_dir, f'{which}.safetensors')
    if not os.path.isfile(path):
        raise FileNotFoundError(f'{path}: no such checkpoint; train.py writes it into its out_dir')
    try:
        with safe_open(path, 'pt') as f:
            # checkpoints of before these two were hyperparameters: they had these values
            config = dict(token_init_std=0.02, llm_train_mode=False) | json.loads(f.metadata()['config'])
            config |= dict(bad_rows=bad_rows) if bad_rows else {}
            tensors = {name: f.get_tensor(name) for name in f.keys()}
    except Exception as e:
        raise ValueError(f'{path} is no checkpoint of train.py ({type(e).__name__}: {e})') from e
    device, dtype = pick_device_and_dtype(device, dtype, config['llm'])
    try:
        model, tokenizer = build(config, device, dtype)
    except KeyError as e:
        raise ValueError(f'{path} is of an older version: its config has no {e}') from e
    trained = model.trained()
    if set(trained) != set(tensors):
        raise ValueError(f'{path}: its tensors are not those of its config: {sorted(set(trained) ^ set(tensors))[:4]}')
    with torch.no_grad():
        for name, p in trained.items():
            p.copy_(tensors[name])
    return model.eval(), tokenizer, config
