"""
What a training run measures of itself: FLOPs that must be done and the device could do, memory, the loss curve, other loggers.
"""
import json
import math
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.nn as nn

from nanopalm.files import write_atomically

PEAK_FLOPS = {'H200': 989e12, 'H100': 989e12, 'A100': 312e12, 'L40S': 362e12, 'L4': 121e12, 'RTX 4090': 165e12, 'V100': 125e12}


def training_flops(palm, n_texts, n_tokens, n_labels):
    """FLOPs of one training step on (n_texts, n_tokens), forward and gradient of the input: with frozen weights 4 per weight and token (a
    trained LLM costs 6), for the prefix of the step just done. Attention scores and the adapter are not counted."""
    layers, attention = palm.decoder.layers, palm.decoder.layers[0].self_attn
    size = sum(m.weight.numel() for m in layers[0].modules() if isinstance(m, nn.Linear))
    key_value = attention.k_proj.weight.numel() + attention.v_proj.weight.numel()
    prefix = sum(n * (size if flows else key_value) for n, flows in palm.prefix_tokens)
    text = size * len(layers) * n_texts * (n_tokens + palm.adapter.cfg.n_prompt)
    return 4 * (text + prefix + palm.llm.get_output_embeddings().weight.numel() * n_labels)


def find_peak_flops(device, dtype):
    """Of the device in this precision, by table for a GPU; of a CPU what a large matmul reaches here and now."""
    if device.startswith('cuda'):
        name = torch.cuda.get_device_name(device)
        return next((peak for key, peak in PEAK_FLOPS.items() if key in name), math.inf)    # unknown: an MFU of 0
    a = torch.randn(1024, 1024, dtype=torch.bfloat16 if dtype == 'bfloat16' else torch.float32)     # no CPU multiplies float16 well
    best = math.inf
    for _ in range(4):
        began = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - began)
    return 2 * 1024 ** 3 / best


def peak_memory(device):
    """GB: of the GPU, or of this process."""
    if device.startswith('cuda'):
        return torch.cuda.max_memory_allocated() / 1e9
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == 'darwin' else 1e6)


def draw_losses(folder):
    """metrics.jsonl -> loss.png."""
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    entries = [json.loads(line) for line in Path(f'{folder}/metrics.jsonl').read_text(encoding='utf-8').splitlines()]
    fig, ax = plt.subplots(figsize=(7, 4))
    for key, style in (('loss', '-'), ('val_loss', 'o-')):
        ax.plot([e['iter'] for e in entries if key in e], [e[key] for e in entries if key in e], style, label=key.replace('_', ' '))
    # in the C locale a name may have bytes that are no letters
    title = os.fsencode(folder).decode(errors='replace')
    ax.set(xlabel='step', ylabel='cross entropy', title=title)
    ax.legend()
    ax.grid(alpha=0.3)
    pressed, handler = [], signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, lambda *args: pressed.append(args))       # Ctrl-C waits: matplotlib's native code would make a TypeError of it
    try:
        write_atomically(f'{folder}/loss.png', lambda path: fig.savefig(path, format='png', dpi=120, bbox_inches='tight'))
    finally:
        signal.signal(signal.SIGINT, handler)
    plt.close(fig)
    if pressed:
        raise KeyboardInterrupt


def make_logger(logger, out_dir, config):
    """None, or a function (numbers, step) that also logs to 'tensorboard' or 'wandb'."""
    if logger == 'tensorboard':
        from torch.utils.tensorboard import SummaryWriter
        writer = SummaryWriter(out_dir)
        return lambda numbers, step: [writer.add_scalar(k, v, step) for k, v in numbers.items()]
    if logger == 'wandb':
        import wandb
        wandb.init(project='nanopalm', name=os.path.basename(out_dir), config=config, dir=out_dir)
        return lambda numbers, step: wandb.log(numbers, step=step)
    return None
