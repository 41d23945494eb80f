"""
A run's folder, out_dir: whether it may be written to, what resuming needs, and its log.
"""

import json
import os
from pathlib import Path

import torch

from nanopalm.files import write_atomically

FILES = ('resume.pt', 'best.safetensors', 'last.safetensors')
# hyperparameters that were added after runs had been written, with what those runs had
LATER_HYPERPARAMETERS = dict(
    token_init_std=0.02,
    llm_train_mode=False,
    target_layers=[],
    encoder_join='tokens',
    eval_metric='loss',
    muon_rate=0.0,
    muon_every=1,
    pool_patches=0,
    bottleneck_layers='all',
    start_from='',
)


def files_of_run(out_dir):
    """Returns the names of a run's checkpoints that are in a folder."""
    return [name for name in FILES if os.path.exists(f'{out_dir}/{name}')]


def is_resumed(config, may_change):
    """Returns whether out_dir's run is resumed. A run that is already there is never overwritten,
    nor continued with other hyperparameters or data: that raises ValueError. may_change: the names
    of hyperparameters in which a resumed run may differ."""
    out_dir = config['out_dir']
    init_from = config['init_from']
    present = files_of_run(out_dir)
    if init_from == 'resume' and 'resume.pt' not in present:
        raise ValueError(f'{out_dir}/resume.pt: nothing to resume')
    resuming = 'resume.pt' in present and init_from in ('resume', 'auto')
    if present and not resuming:
        if 'resume.pt' in present:
            remedy = '--init_from=resume continues it'
        else:
            remedy = f'--start_from={out_dir} with another --out_dir starts from its weights'
        raise ValueError(
            f'{out_dir} holds a run ({", ".join(present)}): {remedy}, another --out_dir leaves it '
            f'alone, or remove it'
        )
    if resuming:
        check_unchanged(config, may_change)
    return resuming


def begin_run(config, resuming):
    """Writes config.json, and removes what a run left that stopped before its first checkpoint."""
    out_dir = config['out_dir']
    write_text(f'{out_dir}/config.json', json.dumps(config, indent=1))
    if not resuming:
        for name in ('metrics.jsonl', 'wandb_id'):
            Path(f'{out_dir}/{name}').unlink(missing_ok=True)


def check_unchanged(config, may_change):
    """Raises ValueError where a run to be resumed had another configuration."""
    out_dir = config['out_dir']
    earlier = json.loads(Path(f'{out_dir}/config.json').read_text(encoding='utf-8'))
    earlier = LATER_HYPERPARAMETERS | earlier
    # JSON has no tuples
    now = json.loads(json.dumps(config))
    differences = []
    for name, value in earlier.items():
        if name not in may_change and now.get(name) != value:
            differences.append(f'{name}={value!r}, now {now.get(name)!r}')
    if differences:
        raise ValueError(
            f'{out_dir} was trained with other hyperparameters or data: {", ".join(differences)}. '
            f'Give the same, or another --out_dir (data_digest is of the examples and their paths, '
            f'dtype_used is what dtype stood for on the device it had)'
        )


def read_state(out_dir, device):
    """Returns what train.py's `save` wrote into resume.pt. Raises ValueError for half a file, and
    for one of an older version."""
    path = f'{out_dir}/resume.pt'
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f'{path} is not whole ({reason})') from error
    # the last that was added
    if 'optimizers' not in state:
        raise ValueError(
            f'{path} is of an older version, which cannot be continued; --start_from={out_dir} '
            f'with another --out_dir starts from its best weights'
        )
    return state


def record(out_dir, entry):
    """Appends an entry to the log."""
    with open(f'{out_dir}/metrics.jsonl', 'a', encoding='utf-8') as file:
        file.write(json.dumps(entry) + '\n')


def remove_later_entries(out_dir, step):
    """Removes from the log what a killed run wrote after the step that it is resumed at."""
    path = f'{out_dir}/metrics.jsonl'
    if not os.path.exists(path):
        return
    lines = Path(path).read_text(encoding='utf-8').splitlines(keepends=True)
    kept = [line for line in lines if line.endswith('\n') and json.loads(line)['iter'] <= step]
    write_text(path, ''.join(kept))


def write_text(path, text):
    write_atomically(path, lambda temporary: Path(temporary).write_text(text, encoding='utf-8'))
