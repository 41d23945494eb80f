"""
The speedrun: how many seconds of training until the demo names half of the validation pictures
exactly. Every improvement of the training loop, the schedule or the mechanism shows here; the
records are in docs/speedrun.md.

    python -m tools.speedrun config/demo.py

All arguments go to train.py. The clock counts training steps alone: not the installation, the
feature cache, the evaluations. What is named is generated greedily, every 20 steps.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

GOAL = 50.0
OUT_DIR = 'out/speedrun'
ARGUMENTS = [
    f'--out_dir={OUT_DIR}',
    # every run of this script starts anew
    '--init_from=scratch',
    '--eval_metric=exact',
    '--eval_interval=20',
    '--log_interval=20',
    '--n_samples=0',
]


def main(arguments):
    if all(argument.startswith('--') for argument in arguments):
        sys.exit('give the config file of a run: python -m tools.speedrun config/demo.py')
    # the steps of the last speedrun must not be counted again
    if os.path.exists(OUT_DIR):
        shutil.rmtree(OUT_DIR)
    command = [sys.executable, 'train.py', *arguments, *ARGUMENTS]
    status = subprocess.run(command).returncode
    if status:
        sys.exit(status)
    evaluations = read_evaluations(Path(OUT_DIR, 'metrics.jsonl'))
    print('\n   step   seconds     exact')
    for step, seconds, exact in evaluations:
        print(f'{step:7}{seconds:10.1f}{exact:9.1f}%')
    print(verdict(evaluations))


def read_evaluations(path):
    """Returns [(step, seconds of training until then, % named exactly), ...] of a run's
    metrics.jsonl, where each log entry holds the mean milliseconds of the steps since the last."""
    seconds = 0.0
    logged_at = 0
    evaluations = []
    for line in path.read_text(encoding='utf-8').splitlines():
        entry = json.loads(line)
        if 'ms' in entry:
            seconds += entry['ms'] / 1e3 * (entry['iter'] - logged_at)
            logged_at = entry['iter']
        if 'exact' in entry:
            evaluations.append((entry['iter'], seconds, entry['exact']))
    return evaluations


def verdict(evaluations):
    """Returns the line that says when the goal was reached."""
    for step, seconds, exact in evaluations:
        if exact >= GOAL:
            return f'{GOAL:.0f}% exact after {seconds:.0f} seconds of training, {step} steps'
    best = max(exact for _, _, exact in evaluations)
    return f'{GOAL:.0f}% exact was not reached; the best evaluation has {best:.1f}%'


if __name__ == '__main__':
    main(sys.argv[1:])
