"""
Compares the mechanisms as the paper did: trains each of them on the same data with the same budget
and seeds, and writes one table and one picture.

    python -m tools.compare config/demo.py --max_iters=60 --source_layers=1
    python -m tools.compare config/data/coco.py --mechanisms=qp_l0,r_linear --compare_seeds=0,1,2

All other arguments go to every train.py: config files in front of config/mechanism/<name>.py, and
hyperparameters behind it.

Writes compare.md, compare.json and compare.png into compare_dir. Started again, it continues where
it was stopped. A mechanism that fails stands in the table as failed, with the reason below it.
"""

import functools
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from safetensors import safe_open

from configurator import configure, hyperparameters, one_of
from nanopalm.files import write_atomically
from tools import MECHANISMS

# ---- hyperparameters -----------------------------------------------------------------------------

# -- what to compare
# the report and all runs are written there
compare_dir = 'out/compare'
# names in config/mechanism/, with commas between them
mechanisms = MECHANISMS
# each mechanism is trained with each of them: '0,1,2'
compare_seeds = '0'
# 'val' or 'test': what the mechanisms are compared on
split: one_of('val', 'test') = 'test'

# ---- constants -----------------------------------------------------------------------------------

# the text-only baseline stands in front of the mechanisms
BLIND = 'blind'
BLIND_ARGUMENTS = ['--encoder=None', '--cache_features=False']
HEADINGS = (
    '| rank | mechanism | CIDEr | blind | val. loss | trained parameters | s / step | peak GB |'
)


def main(arguments):
    own = [argument for argument in arguments if is_own(argument)]
    rest = [argument for argument in arguments if not is_own(argument)]
    config = configure(globals(), own)
    names = config['mechanisms'].split(',')
    seeds = config['compare_seeds'].split(',')
    check(names, seeds, rest)
    folder = config['compare_dir']
    os.makedirs(folder, exist_ok=True)
    # {(name, seed): its row, or dict(failed=why)}
    runs = {}
    for seed in seeds:
        for name in [BLIND, *names]:
            out_dir = f'{folder}/{name}-{seed}'
            training = train_arguments(name, seed, rest)
            runs[name, seed] = run(out_dir, training, config['split'])
            write_report(folder, runs, names, rest)


def is_own(argument):
    """Whether an argument is for this script and not for train.py."""
    name = argument.removeprefix('--').partition('=')[0]
    return argument == '-h' or name == 'help' or name in hyperparameters(globals())


def check(names, seeds, arguments):
    """Exits with a message if a mechanism does not exist, a seed is no number, or no data set is
    given."""
    for name in names:
        path = f'config/mechanism/{name}.py'
        if not os.path.exists(path):
            sys.exit(f'no such mechanism: {path}')
    for seed in seeds:
        if not seed.isdecimal():
            sys.exit(f'compare_seeds: {seed!r} is no seed, expected whole numbers such as 0,1,2')
    if all(argument.startswith('--') for argument in arguments):
        sys.exit('give the config file of a data set, such as config/demo.py')


# ---- a run ---------------------------------------------------------------------------------------


def train_arguments(name, seed, arguments):
    """Returns the arguments of train.py for a mechanism, or for the text-only baseline."""
    config_files = [argument for argument in arguments if not argument.startswith('--')]
    overrides = [argument for argument in arguments if argument.startswith('--')]
    if name == BLIND:
        overrides += BLIND_ARGUMENTS
    else:
        config_files.append(f'config/mechanism/{name}.py')
    return [*config_files, *overrides, f'--seed={seed}']


def run(out_dir, training, split):
    """Trains and evaluates a mechanism, unless that was done. Returns its numbers, or
    dict(failed=why)."""
    scores = f'{out_dir}/eval_{split}.json'
    if not os.path.exists(scores):
        train = ['train.py', *training, f'--out_dir={out_dir}', '--init_from=auto']
        evaluate = ['eval_caption.py', f'--out_dir={out_dir}', f'--split={split}']
        reason = run_script(train, f'{out_dir}.log') or run_script(evaluate, f'{out_dir}.log')
        if reason:
            print(reason, flush=True)
            return dict(failed=reason)
    return read_run(out_dir, scores)


def run_script(command, log):
    """Runs a script and appends what it prints to a log. Returns '', or the last line if it
    failed."""
    print(f'\n>>> python {" ".join(command)}', flush=True)
    with open(log, 'a', encoding='utf-8') as file:
        process = subprocess.run([sys.executable, *command], stdout=file, stderr=subprocess.STDOUT)
    if process.returncode == 0:
        return ''
    lines = Path(log).read_text(encoding='utf-8').strip().splitlines()
    return lines[-1] if lines else f'exit status {process.returncode}'


def read_run(out_dir, scores):
    """Returns the numbers of a run that is complete."""
    lines = Path(f'{out_dir}/metrics.jsonl').read_text(encoding='utf-8').splitlines()
    entries = [json.loads(line) for line in lines]
    steps = [entry for entry in entries if 'loss' in entry]
    return dict(
        score=json.loads(Path(scores).read_text(encoding='utf-8'))['scores']['CIDEr'],
        val_loss=min(entry['val_loss'] for entry in entries if 'val_loss' in entry),
        parameters=count_parameters(f'{out_dir}/best.safetensors'),
        seconds=statistics.median(step['ms'] for step in steps) / 1e3,
        peak_gb=max(step['peak_gb'] for step in steps),
        iters=steps[-1]['iter'],
    )


def count_parameters(checkpoint):
    """Returns the number of trained parameters in a checkpoint."""
    with safe_open(checkpoint, 'pt') as file:
        return sum(file.get_tensor(name).numel() for name in file.keys())


# ---- the report ----------------------------------------------------------------------------------


def write_report(folder, runs, names, arguments):
    """Writes and prints all that is known so far."""
    text = f'`python -m tools.compare {" ".join(arguments)}`\n\n{table(runs, names)}'
    write_text(f'{folder}/compare.md', text)
    by_name = {f'{name}-{seed}': result for (name, seed), result in runs.items()}
    write_text(f'{folder}/compare.json', json.dumps(by_name, indent=1))
    if rank(runs, names):
        draw(f'{folder}/compare.png', runs, names)
    print('\n' + text, flush=True)


def values_of(runs, name, key):
    """Returns a number of a mechanism for every seed that did not fail."""
    return [result[key] for (other, _), result in runs.items() if other == name and key in result]


def rank(runs, names):
    """Returns the mechanisms that are complete, from the best to the worst; none before the
    text-only baseline is."""
    if not values_of(runs, BLIND, 'score'):
        return []
    means = {}
    for name in names:
        scores = values_of(runs, name, 'score')
        if scores:
            means[name] = statistics.mean(scores)
    return sorted(means, key=means.get, reverse=True)


def table(runs, names):
    """Returns the mechanisms from the best to the worst, then those that failed, as Markdown."""
    lines = [HEADINGS, '|--:|---|--:|--:|--:|--:|--:|--:|']
    for place, name in enumerate(rank(runs, names), start=1):
        lines.append(table_row(runs, place, name))
    reasons = []
    for (name, seed), result in runs.items():
        if 'failed' in result:
            lines.append(f'| - | {name} (seed {seed}) | failed | | | | | |')
            reasons.append(f'{name}, seed {seed}: {result["failed"]}')
    return '\n'.join([*lines, '', *reasons]) + '\n'


def table_row(runs, place, name):
    scores = values_of(runs, name, 'score')
    score = f'{statistics.mean(scores):.1f}'
    if len(scores) > 1:
        score += f' ± {statistics.stdev(scores):.1f}'
    blind = statistics.mean(values_of(runs, BLIND, 'score'))
    val_loss = statistics.mean(values_of(runs, name, 'val_loss'))
    parameters = values_of(runs, name, 'parameters')[0]
    seconds = statistics.mean(values_of(runs, name, 'seconds'))
    peak_gb = max(values_of(runs, name, 'peak_gb'))
    return (
        f'| {place} | {name} | {score} | {blind:.1f} | {val_loss:.3f} | {parameters:,} | '
        f'{seconds:.2f} | {peak_gb:.1f} |'
    )


def write_text(path, text):
    def write(temporary):
        Path(temporary).write_text(text, encoding='utf-8')

    write_atomically(path, write)


def draw(path, runs, names):
    """Draws the mean score of every mechanism as a bar, the best on top, and the text-only
    baseline as a line."""
    # matplotlib takes a second to import, and --help needs none
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    # bars are drawn from the bottom to the top
    ranked = rank(runs, names)[::-1]
    means = [statistics.mean(values_of(runs, name, 'score')) for name in ranked]
    figure, axes = plt.subplots(figsize=(7, 0.4 * len(ranked) + 1))
    axes.barh(ranked, means, color='#24705c')
    blind = statistics.mean(values_of(runs, BLIND, 'score'))
    axes.axvline(blind, color='#ad6030', linestyle='--', label='blind')
    axes.set(xlabel='CIDEr')
    axes.legend()
    save = functools.partial(figure.savefig, format='png', dpi=120, bbox_inches='tight')
    write_atomically(path, save)
    plt.close(figure)


if __name__ == '__main__':
    main(sys.argv[1:])
