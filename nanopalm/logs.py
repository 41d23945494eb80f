"""
What a training run measures of itself: FLOPs that must be done and that the device could do,
memory, the loss curve, and loggers besides metrics.jsonl.
"""

import contextlib
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

# words of a GPU's name, and its FLOPs a second in half precision without sparsity
PEAK_FLOPS = {
    'H200': 989e12,
    'H100': 989e12,
    'A100': 312e12,
    'L40S': 362e12,
    'L4': 121e12,
    'RTX 4090': 165e12,
    'V100': 125e12,
}


# ---- what a step costs ---------------------------------------------------------------------------


def training_flops(palm, n_labels):
    """Returns the FLOPs of the training step just done: forward, and the gradient of the input.
    With frozen weights these are 4 per weight and token (a trained LLM costs 6). Attention scores
    and the adapter are not counted."""
    layers = palm.decoder.layers
    linears = [module for module in layers[0].modules() if isinstance(module, nn.Linear)]
    weights = sum(module.weight.numel() for module in linears)
    key_value = palm.family.key_value_weights(layers[0])
    text = weights * len(layers) * palm.text_tokens
    prefix = 0
    for n, flows_on in palm.prefix_tokens:
        prefix += n * (weights if flows_on else key_value)
    logits = palm.llm.get_output_embeddings().weight.numel() * n_labels
    return 4 * (text + prefix + logits)


def find_peak_flops(device, dtype):
    """Returns the FLOPs a second of the device in this precision: of a GPU by table, of a CPU what
    a large matmul reaches now. A GPU that is not in the table, and any in float32, is infinitely
    fast, which gives an MFU of 0."""
    if device.startswith('cuda'):
        # 'NVIDIA A100-SXM4-80GB'
        words = torch.cuda.get_device_name(device).replace('-', ' ').split()
        for key, peak in PEAK_FLOPS.items():
            if set(key.split()) <= set(words) and dtype != 'float32':
                return peak
        return math.inf
    # no CPU multiplies float16 well
    a = torch.randn(1024, 1024, dtype=torch.bfloat16 if dtype == 'bfloat16' else torch.float32)
    best = math.inf
    for _ in range(4):
        began = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - began)
    return 2 * 1024**3 / best


def peak_memory(device):
    """Returns the peak memory in GB: of the GPU, or of this process; 0 on Windows, which does not
    tell."""
    if device.startswith('cuda'):
        return torch.cuda.max_memory_allocated() / 1e9
    if sys.platform == 'win32':
        return 0.0
    import resource

    # in bytes on macOS, in KiB on Linux
    unit = 1e9 if sys.platform == 'darwin' else 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


# ---- the loss curve ------------------------------------------------------------------------------


def draw_losses(out_dir):
    """Draws metrics.jsonl as loss.png."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    text = Path(f'{out_dir}/metrics.jsonl').read_text(encoding='utf-8')
    entries = [json.loads(line) for line in text.splitlines()]
    figure, axes = plt.subplots(figsize=(7, 4))
    for key, style in (('loss', '-'), ('val_loss', 'o-')):
        points = [(entry['iter'], entry[key]) for entry in entries if key in entry]
        axes.plot(*zip(*points) if points else ([], []), style, label=key.replace('_', ' '))
    # in the C locale a folder's name may have bytes that are no letters
    title = os.fsencode(out_dir).decode(errors='replace')
    axes.set(xlabel='step', ylabel='cross entropy', title=title)
    axes.legend()
    axes.grid(alpha=0.3)

    def write(path):
        figure.savefig(path, format='png', dpi=120, bbox_inches='tight')

    # matplotlib's native code would make a TypeError of Ctrl-C
    with interrupts_delayed():
        write_atomically(f'{out_dir}/loss.png', write)
    plt.close(figure)


@contextlib.contextmanager
def interrupts_delayed():
    """While this runs, Ctrl-C waits; it is raised at the end."""
    pressed = []
    handler = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, lambda *args: pressed.append(args))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if pressed:
        raise KeyboardInterrupt


# ---- other loggers -------------------------------------------------------------------------------


def make_logger(config):
    """Returns None, or a function that gives the entry of a step to 'tensorboard' or 'wandb':
    numbers as curves, generated samples as text."""
    if config['logger'] == 'tensorboard':
        return tensorboard_logger(config)
    if config['logger'] == 'wandb':
        return wandb_logger(config)
    return None


def tensorboard_logger(config):
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(config['out_dir'])

    def log(entry):
        step = entry['iter']
        for key, number in numbers(entry).items():
            writer.add_scalar(key, number, step)
        if entry.get('samples'):
            writer.add_text('samples', '\n\n'.join(map(str, entry['samples'])), step)

    return log


def wandb_logger(config):
    import wandb

    out_dir = config['out_dir']
    run = wandb.init(
        project=config['wandb_project'],
        name=os.path.basename(out_dir),
        # a resumed run goes on in the curves it has begun
        id=wandb_id(out_dir),
        resume='allow',
        config=config,
        dir=out_dir,
    )

    def log(entry):
        values = numbers(entry)
        if entry.get('samples'):
            values['samples'] = wandb.Html('<br>'.join(map(str, entry['samples'])))
        run.log(values, step=entry['iter'])

    return log


def wandb_id(out_dir):
    """Returns the name of the run at W&B, which is drawn once and kept in out_dir/wandb_id."""
    path = Path(f'{out_dir}/wandb_id')
    if not path.exists():
        path.write_text(os.urandom(4).hex(), encoding='utf-8')
    return path.read_text(encoding='utf-8')


def numbers(entry):
    return {key: value for key, value in entry.items() if isinstance(value, (int, float))}
