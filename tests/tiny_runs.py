"""
What a training wrote, a training that is killed and resumed, and one of several processes. The
fixtures `tiny`, `train` and `trained` are in conftest.py.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time

from conftest import ROOT, flags, start
from safetensors import safe_open

# ---- what a run wrote ----------------------------------------------------------------------------


def entries(out_dir):
    """Returns the entries of metrics.jsonl."""
    return [json.loads(line) for line in (out_dir / 'metrics.jsonl').read_text().splitlines()]


def metrics(out_dir, key):
    """Returns [(step, value), ...] of a key of metrics.jsonl."""
    return [(entry['iter'], entry[key]) for entry in entries(out_dir) if key in entry]


def checkpoint(out_dir, which='last'):
    """Returns ({name: tensor}, metadata) of a checkpoint."""
    with safe_open(out_dir / f'{which}.safetensors', 'pt') as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        metadata = {key: json.loads(text) for key, text in file.metadata().items()}
    return tensors, metadata


def facts(out_dir, which='best'):
    """Returns the step and the scores of a checkpoint."""
    return checkpoint(out_dir, which)[1]['facts']


def assert_same_checkpoints(out_dir, expected):
    """Asserts that two runs have the same best and last checkpoints, bit for bit."""
    for which in ('last', 'best'):
        tensors, metadata = checkpoint(out_dir, which)
        expected_tensors, expected_metadata = checkpoint(expected, which)
        assert metadata['facts'] == expected_metadata['facts']
        assert set(tensors) == set(expected_tensors)
        for name, tensor in tensors.items():
            assert tensor.numpy().tobytes() == expected_tensors[name].numpy().tobytes(), name


# ---- runs that are killed, and runs of several processes -----------------------------------------


def kill_and_resume(out_dir, args, kills, folder, first=0):
    """Runs train.py, kills it `kills` times at a random moment after a checkpoint of step `first`
    or later, and lets it end. Returns the steps of the checkpoints at which it was killed."""
    seed = random.randrange(2**32)
    print('the moments are drawn by', seed)
    draw = random.Random(seed)

    def step():
        if not os.path.exists(out_dir / 'resume.pt'):
            return -1
        return metrics(out_dir, 'iter')[-1][0]

    killed_at = []
    for _ in range(kills):
        wait_for = max(step() + 1, first)
        process = start(folder, 'train.py', *args, '--init_from=auto')
        while step() < wait_for and process.is_alive():
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.4))
        process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            killed_at.append(step())
    process = start(folder, 'train.py', *args, '--init_from=auto')
    process.join(120)
    assert process.exitcode == 0, (folder / 'stderr').read_text()
    return killed_at


def torchrun(n_processes, **hyperparameters):
    """Runs train.py in several processes. Returns what they printed."""
    launcher = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
    launcher.append(f'--nproc_per_node={n_processes}')
    command = [*launcher, 'train.py', *flags(**hyperparameters)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
