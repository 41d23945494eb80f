"""
Compares the mechanisms as the papers did: trains each of them on the same data with several seeds,
on several shares of the rows, and says which differences are larger than the noise.

    python -m tools.compare config/demo.py --max_iters=280 --source_layers=1 --pool_patches=4
    python -m tools.compare config/demo.py --max_iters=280 --source_layers=1 --pool_patches=4 \\
        --rates=1e-3,1e-2,3e-2 --seconds=600
    python -m tools.compare config/data/coco.py --mechanisms=qp_l0,r_linear --max_iters=20000 \\
        --jobs=4
    python -m tools.compare config/demo.py --max_iters=280 --source_layers=1 --pool_patches=4 \\
        --mechanisms=qp_inner,qp_inner:n_queries=2,qp_inner:n_queries=8:mapper_layers=1
    python -m tools.compare --redraw=docs/compare/compare.json --compare_dir=docs/compare

All arguments that are not listed by --help go to every train.py: config files in front of
config/mechanism/<name>.py, hyperparameters behind it, where they win. (A CNN has one layer to read,
so it needs --source_layers=1; R-* need a grid that 2x2 patches tile, which 7x7 is not and
--pool_patches=4 makes.) What the config file of the data set says of its own mechanism is taken
back: a connector, its layers and its prompt tokens are those of the mechanism's file. With colons
behind its name, a mechanism has hyperparameters of its own, which win over all others.

The budget of *samples*: all runs take max_iters steps of batch_size x accumulate as the data set's
config and the command line say, whatever a mechanism's file says.

The budget of *seconds* (--seconds=600; 0 = none): a second series of runs. From the run of the same
mechanism, share and seed with the budget of samples the seconds of a step are known, the median of
the log lines, and with them how many steps fit into the budget, of which the learning rate's
schedule is made. Caching the features, validation and evaluation are not counted. So run it on a
machine that does nothing else.

--jobs: so many runs at a time, each with an equal share of the CPU's threads and, where there are
GPUs, one of them. A step is then timed on that share, while the other runs take theirs. Where
features are cached, the first runs may each make the same cache.

--rates: the mechanisms' files have the papers' learning rates, which are too small for a budget of
a few hundred steps. The first seed is trained on the smallest share with each of the rates, and
the rate with the lowest validation loss is taken for all runs of the mechanism, the text-only
baseline included. Without, each has its own.

A difference is called larger than the noise where it exceeds t * sqrt(v1 / n1 + v2 / n2): n seeds,
v the variance over them or the mean variance of all mechanisms in the table, whichever is larger
(three seeds that agree by luck prove nothing), t the 97.5% quantile of Student's distribution with
n1 + n2 - 2 degrees of freedom, 2.8 for three seeds. Of twenty comparisons of equals at most about
one is wrong. This noise is of the seeds, which draw the rows, the first weights and the batches;
another test split would add its own.

Writes compare.json, compare.md, score_against_time.png and score_against_rows.png into compare_dir
after every run. It comes to all mechanisms with the first seed before the second, so a comparison
that is stopped early is one. Started again, it goes on where it was stopped: a run is a folder of
its own, and one that is complete is only read. A run that fails stands in the report with the
reason, and is tried again by the next start.
"""

import contextlib
import functools
import itertools
import json
import math
import os
import shlex
import signal
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from safetensors import safe_open

from adapters import AdapterConfig
from configurator import (
    at_least,
    configure,
    hyperparameters,
    may_change_on_resume,
    one_of,
    script_scope,
)
from nanopalm.errors import explain_errors
from nanopalm.runs import check_unchanged, write_text
from tools import MECHANISMS
from tools.compare_report import write_report
from tools.jobs import Machine

# ---- hyperparameters -----------------------------------------------------------------------------

# -- what to compare
# the report and all runs are written there
compare_dir = 'out/compare'
# names in config/mechanism/, with commas between them; qp_l0:n_queries=2 is qp_l0 with 2 queries
mechanisms = MECHANISMS
# and the text-only baseline, which has nothing to train without prompt tokens or bottlenecks
baseline = True
# each mechanism is trained with each of them
compare_seeds = '0,1,2'
# and on each of these shares of the training rows
shares = '0.1,1'
# and once more with a budget of so many seconds; 0 = only with the budget of samples
seconds: at_least(0) = 0.0
# runs at a time
jobs: at_least(1) = 1
# the learning rates that are tried for each mechanism; '' = the one that it has
rates = ''
# what `rates` are of
rate_name: one_of('learning_rate', 'muon_rate') = 'learning_rate'

# -- what they are compared by
# what the mechanisms are ranked by and the figures show
metric: one_of('exact', 'category', 'CIDEr', 'val_loss') = 'exact'
# 'val' or 'test': what the scores are of
split: one_of('val', 'test') = 'test'
# hyperparameters of eval_caption.py: '--num_beams=1 --max_rows=100'
eval_options = ''
# a compare.json: its table and figures are made anew, and nothing is trained
redraw = ''

# ---- constants -----------------------------------------------------------------------------------

# the text-only baseline is compared like a mechanism
BLIND = 'blind'
BLIND_ARGUMENTS = ['--encoder=None', '--cache_features=False']
# what makes a mechanism; the other two belong to the LLM and to the size of the data set
OF_THE_DATA = ('prefix_start', 'source_dropout')
OF_THE_MECHANISM = [f.name for f in fields(AdapterConfig) if f.name not in OF_THE_DATA]
# what no mechanism may have for itself
OF_THE_RUN = ('batch_size', 'accumulate', 'max_iters', 'train_rows', 'seed', 'out_dir')
# what is said by a hyperparameter of this script
OWN_NAMES = dict(
    seed='compare_seeds', train_rows='shares', out_dir='compare_dir', init_from='compare_dir'
)
SCORES = ('exact', 'category', 'CIDEr')


@dataclass(frozen=True)
class Run:
    mechanism: str
    # 'samples' or 'seconds'
    budget: str
    # of the training rows, as it was written
    share: str
    seed: str
    # the learning rate, as it was written; '' = the mechanism's own
    rate: str = ''


class RunFailed(Exception):
    """A run that could not be trained or evaluated, with the reason."""


def main(arguments):
    own = [argument for argument in arguments if is_own(argument)]
    rest = [argument for argument in arguments if not is_own(argument)]
    config = configure(globals(), own)
    explain_errors(on_interrupt='interrupted; the same command goes on from here')
    if config['redraw']:
        comparison = json.loads(Path(config['redraw']).read_text(encoding='utf-8'))
        print(write_report(config['compare_dir'], comparison | dict(metric=config['metric'])))
        return
    check(config, rest)
    # ended by `kill`, too, it ends the training that it has started
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.makedirs(config['compare_dir'], exist_ok=True)
    compare(config, rest, shlex.join(arguments))


def is_own(argument):
    """Whether an argument is for this script and not for train.py."""
    name = argument.removeprefix('--').partition('=')[0]
    return argument == '-h' or name == 'help' or name in hyperparameters(globals())


def check(config, rest):
    """Exits with a message if a value is none, a mechanism does not exist, no data set is given, or
    the budget of samples is unknown."""
    for mechanism in config['mechanisms'].split(','):
        path, changes = file_and_changes(mechanism)
        if not os.path.exists(path):
            sys.exit(f'no such mechanism: {path}')
        # exits with a message about a name or a value that does not exist
        resolve('train.py', changes)
        for change in changes:
            name = change[2:].partition('=')[0]
            if name in OF_THE_RUN:
                sys.exit(f'mechanisms: {mechanism!r}: {name} is the same for all mechanisms')
    for seed in config['compare_seeds'].split(','):
        if not seed.isdecimal():
            sys.exit(f'compare_seeds: {seed!r} is no seed, expected whole numbers such as 0,1,2')
    for share in config['shares'].split(','):
        if not 0 < number(share) <= 1:
            sys.exit(f'shares: {share!r}: expected fractions of the training rows such as 0.1,1')
    for rate in filter(None, config['rates'].split(',')):
        if not number(rate) > 0:
            sys.exit(f'rates: {rate!r}: expected numbers above 0 such as 1e-3,1e-2')
    check_once(config, 'mechanisms', str)
    check_once(config, 'compare_seeds', int)
    check_once(config, 'shares', float)
    check_once(config, 'rates', float)
    for argument in rest:
        name = argument.removeprefix('--').partition('=')[0]
        if argument.startswith('--') and name in OWN_NAMES:
            sys.exit(f'{argument}: each run has its own; give --{OWN_NAMES[name]}')
    if all(argument.startswith('--') for argument in rest):
        sys.exit('give the config file of a data set, such as config/demo.py')
    if not resolve('train.py', rest)['max_iters']:
        sys.exit('give --max_iters, the steps of a run: on all shares they are the same')
    # a mistake in these would show only after the first training
    evaluation = resolve('eval_caption.py', shlex.split(config['eval_options']))
    devices = [resolve('train.py', rest)['device'], evaluation['device']]
    if config['jobs'] > 1 and any(':' in device for device in devices):
        sys.exit('with --jobs, each run sees one GPU alone: give --device=cuda, without a number')


def file_and_changes(mechanism):
    """Returns the config file of a mechanism and the arguments of train.py that stand behind its
    name: 'qp_l0:n_queries=2' -> ('config/mechanism/qp_l0.py', ['--n_queries=2'])."""
    name, *changes = mechanism.split(':')
    return f'config/mechanism/{name}.py', [f'--{change}' for change in changes]


def check_once(config, option, kind):
    """Exits with a message if a value is there twice, such as 1 and 1.0 of floats: two runs would
    be written into one folder, or be counted as two."""
    seen = set()
    for text in filter(None, config[option].split(',')):
        if kind(text) in seen:
            sys.exit(f'{option}: {text!r} is there twice')
        seen.add(kind(text))


def number(text):
    """Returns the number that a text spells, NaN where it spells none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


# ---- all runs ------------------------------------------------------------------------------------


def compare(config, rest, command):
    """Makes all runs, and writes the report after each of them."""
    comparison = dict(
        command=f'python -m tools.compare {command}',
        metric=config['metric'],
        seeds=len(config['compare_seeds'].split(',')),
        seconds=config['seconds'],
    )
    plan = plan_runs(config)
    # {mechanism: {rate: validation loss}}
    searches = {}
    # {run of the plan: its entry in the report}
    entries = {}
    # {mechanism: seconds that each of its runs took}, without those that were complete
    durations = {name: [] for name in names_of(config)}
    # closed also after Ctrl-C, or the runs that wait would all be made first
    with contextlib.closing(carry_out_all(plan, config, rest, searches)) as completed:
        for run, entry, duration in completed:
            if entry.pop('new', False):
                durations[run.mechanism].append(duration)
            entries[run] = entry
            # a copy, since another thread may go on searching
            comparison['searches'] = {
                name: searches[name] for name in names_of(config) if name in searches
            }
            comparison['runs'] = [entries[run] for run in plan if run in entries]
            text = write_report(config['compare_dir'], comparison)
            left = [run for run in plan if run not in entries]
            print(progress(left, comparison['runs'], durations, config['jobs']), flush=True)
    print('\n' + text)


def carry_out_all(plan, config, rest, searches):
    """Starts the runs of a plan in its order, config['jobs'] at a time. Yields (run, its entry in
    the report, seconds) of each when it is complete. searches: see find_rate."""
    machine = Machine(config['jobs'])
    # {mechanism: held while its rate is searched, which is done once}
    searching = {name: threading.Lock() for name in names_of(config)}
    futures = {}

    def make(run):
        if run.budget == 'seconds':
            # the run that tells its speed, which stands before it in the plan
            wait([futures[replace(run, budget='samples')]])
        rate = ''
        try:
            if config['rates']:
                with searching[run.mechanism]:
                    rate = find_rate(run.mechanism, config, rest, searches, machine)
            began = time.time()
            result = carry_out(replace(run, rate=rate), config, rest, machine)
            return run, asdict(run) | dict(rate=rate) | result, time.time() - began
        except RunFailed as failure:
            print(f'failed: {folder_of(run)}: {failure}', flush=True)
            return run, asdict(run) | dict(rate=rate, failed=str(failure)), 0

    with ThreadPoolExecutor(config['jobs']) as pool:
        try:
            for run in plan:
                futures[run] = pool.submit(make, run)
            for future in as_completed(futures.values()):
                yield future.result()
        finally:
            # after Ctrl-C, or a mistake of the user that every run would make
            pool.shutdown(wait=False, cancel_futures=True)
            machine.close()


def names_of(config):
    names = config['mechanisms'].split(',')
    return [BLIND, *names] if config['baseline'] else names


def plan_runs(config):
    """Returns all runs in their order, with the first seed before the second."""
    budgets = ['samples']
    if config['seconds']:
        budgets.append('seconds')
    seeds = config['compare_seeds'].split(',')
    shares = config['shares'].split(',')
    combinations = itertools.product(seeds, budgets, shares, names_of(config))
    return [Run(name, budget, share, seed) for seed, budget, share, name in combinations]


def progress(left, entries, durations, jobs):
    """Returns a line that says what is done, and how long the runs that are left may take, judged
    by the completed runs of the same mechanism, or by all where there is none."""
    failures = sum('failed' in entry for entry in entries)
    line = f'{len(entries)} of {len(entries) + len(left)} runs done'
    if failures:
        line += f', {failures} failed'
    known = list(itertools.chain(*durations.values()))
    if not known or not left:
        return line
    seconds = sum(statistics.mean(durations[run.mechanism] or known) for run in left)
    seconds /= min(jobs, len(left))
    minutes = math.ceil(seconds / 60)
    end = time.strftime('%a %H:%M', time.localtime(time.time() + seconds))
    return f'{line}; the rest takes about {minutes // 60} h {minutes % 60:02} min, until {end}'


def carry_out(run, config, rest, machine):
    """Trains and evaluates a run, unless that was done. Returns its numbers, with new=True if
    something had to be done. Raises RunFailed."""
    numbers, trained_now = train(run, config, rest, machine)
    scores, evaluated_now = evaluate(run, config, machine)
    return numbers | scores | dict(new=trained_now or evaluated_now)


def find_rate(mechanism, config, rest, searches, machine):
    """Returns the learning rate with which the first seed has the lowest validation loss on the
    smallest share. searches: {mechanism: {rate: validation loss, None if it failed}}, which this
    completes."""
    if mechanism not in searches:
        share = min(config['shares'].split(','), key=float)
        seed = config['compare_seeds'].split(',')[0]
        losses = {}
        for rate in config['rates'].split(','):
            losses[rate] = None
            run = Run(mechanism, 'samples', share, seed, rate)
            try:
                numbers, _ = train(run, config, rest, machine)
                losses[rate] = numbers['val_loss']
            except RunFailed as failure:
                print(f'failed: {folder_of(run)}: {failure}', flush=True)
        searches[mechanism] = losses
    losses = {rate: loss for rate, loss in searches[mechanism].items() if loss is not None}
    if not losses:
        raise RunFailed(f'it failed with each of the rates {config["rates"]}; see its logs')
    return min(losses, key=losses.get)


# ---- a run ---------------------------------------------------------------------------------------


def train(run, config, rest, machine):
    """Trains a run, unless that was done. Returns (its numbers, whether something was done). Raises
    RunFailed."""
    out_dir = out_dir_of(run, config)
    arguments = train_arguments(run, config, rest)
    path = Path(out_dir, 'trained.json')
    if path.exists():
        check_same(arguments)
        return json.loads(path.read_text(encoding='utf-8')), False
    if not os.path.exists(f'{out_dir}/resume.pt'):
        # stopped while the first checkpoint was written
        for which in ('best', 'last'):
            Path(out_dir, f'{which}.safetensors').unlink(missing_ok=True)
    run_script('train.py', [*arguments, '--init_from=auto'], f'{out_dir}.log', machine)
    numbers = read_training(out_dir)
    write_text(path, json.dumps(numbers))
    # the largest of its files, which nobody needs any more
    Path(out_dir, 'resume.pt').unlink()
    return numbers, True


def out_dir_of(run, config):
    return f'{config["compare_dir"]}/{folder_of(run)}'


def folder_of(run):
    mechanism = run.mechanism.replace(':', '-').replace('/', '-')
    name = f'{mechanism}-{run.budget}-{run.share}-{run.seed}'
    return f'{name}-{run.rate}' if run.rate else name


def train_arguments(run, config, rest):
    """Returns the arguments of train.py for a run."""
    files = [argument for argument in rest if not argument.startswith('--')]
    overrides = [argument for argument in rest if argument.startswith('--')]
    base = resolve('train.py', rest)
    if run.mechanism == BLIND:
        overrides += BLIND_ARGUMENTS
    else:
        path, changes = file_and_changes(run.mechanism)
        overrides = [*as_its_file_says(path, files), *overrides, *changes]
        files = [*files, path]
    if run.rate:
        overrides.append(f'--{config["rate_name"]}={run.rate}')
    return [
        *files,
        *overrides,
        f'--batch_size={base["batch_size"]}',
        f'--accumulate={base["accumulate"]}',
        f'--max_iters={steps_of(run, config, base["max_iters"])}',
        f'--train_rows={run.share}',
        f'--seed={run.seed}',
        f'--out_dir={out_dir_of(run, config)}',
    ]


def as_its_file_says(path, files):
    """Returns the arguments that take back what the config file of a data set says of a mechanism
    of its own, and the mechanism's file does not mention."""
    wanted = resolve('train.py', [path])
    given = resolve('train.py', [*files, path])
    names = [name for name in OF_THE_MECHANISM if given[name] != wanted[name]]
    return [f'--{name}={wanted[name]}' for name in names]


def steps_of(run, config, max_iters):
    """Returns the steps of a run. With a budget of seconds, they are as many as fit into it, judged
    by the same run with the budget of samples; RunFailed where that one failed."""
    if run.budget == 'samples':
        return max_iters
    path = Path(out_dir_of(replace(run, budget='samples'), config), 'trained.json')
    if not path.exists():
        raise RunFailed('its run with the budget of samples failed, so its speed is not known')
    seconds_per_step = json.loads(path.read_text(encoding='utf-8'))['s_per_step']
    return max(1, round(config['seconds'] / seconds_per_step))


def check_same(arguments):
    """Raises ValueError where a run that is complete was trained with other hyperparameters."""
    allowed = may_change_on_resume(scope_of('train.py')) - {'max_iters'}
    # the last two are found out by train.py
    allowed |= {'init_from', 'data_digest', 'dtype_used'}
    check_unchanged(resolve('train.py', arguments), allowed)


def evaluate(run, config, machine):
    """Evaluates a run, unless that was done in the same way. Returns ({metric: score}, whether
    something was done). Raises RunFailed."""
    out_dir = out_dir_of(run, config)
    arguments = [f'--out_dir={out_dir}', f'--split={config["split"]}']
    arguments += shlex.split(config['eval_options'])
    path = Path(out_dir, f'eval_{config["split"]}.json')
    done = path.exists() and read_result(path)['knobs'] == resolve('eval_caption.py', arguments)
    if not done:
        run_script('eval_caption.py', arguments, f'{out_dir}.log', machine)
    scores = read_result(path)['scores']
    return {name: scores[name] for name in SCORES if name in scores}, not done


def read_result(path):
    return json.loads(path.read_text(encoding='utf-8'))


def run_script(script, arguments, log, machine):
    """Runs a script and appends what it prints to a log. Raises RunFailed with its last line."""
    print(f'\n>>> python {script} {shlex.join(arguments)}', flush=True)
    status = machine.run([sys.executable, script, *arguments], log)
    if status < 0:
        raise RunFailed(f'{script} was killed by signal {-status}; see {log}')
    if status:
        lines = Path(log).read_text(encoding='utf-8').strip().splitlines()
        raise RunFailed(lines[-1] if lines else f'exit status {status}')


def read_training(out_dir):
    """Returns the numbers of a training that is complete."""
    lines = Path(f'{out_dir}/metrics.jsonl').read_text(encoding='utf-8').splitlines()
    entries = [json.loads(line) for line in lines]
    logged = [entry for entry in entries if 'loss' in entry]
    return dict(
        val_loss=min(entry['val_loss'] for entry in entries if 'val_loss' in entry),
        parameters=count_parameters(f'{out_dir}/best.safetensors'),
        s_per_step=statistics.median(entry['ms'] for entry in logged) / 1e3,
        peak_gb=max(entry['peak_gb'] for entry in logged),
        steps=logged[-1]['iter'],
    )


def count_parameters(checkpoint):
    """Returns the number of trained parameters in a checkpoint."""
    with safe_open(checkpoint, 'pt') as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())


# ---- the scripts' hyperparameters ----------------------------------------------------------------


@functools.cache
def scope_of(script):
    return script_scope(script)


def resolve(script, arguments):
    """Returns {name: value} of the hyperparameters that a script has with these arguments. Exits
    with a message on a mistake."""
    return configure(dict(scope_of(script)), arguments)


if __name__ == '__main__':
    main(sys.argv[1:])
