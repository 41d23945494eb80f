"""
The report of tools/compare.py, made of its numbers alone: a table for each budget and share of the
rows, and two figures.

A comparison is a dict, as in compare.json:

    command, metric     how it was called, and what the mechanisms are ranked by
    seeds, seconds      how many seeds it will have, and the budget of seconds, 0 = none
    searches            {mechanism: {learning rate: validation loss, None if it failed}}
    runs                [dict(mechanism, budget, share, seed, rate, and its numbers or failed=why)]
"""

import functools
import itertools
import json
import math
import os
import statistics
from collections import Counter

from nanopalm.files import write_atomically
from nanopalm.runs import write_text

# 97.5% quantiles of Student's distribution for 1, 2, ... degrees of freedom; the last stands for
# all above, which is a little too large for them
T_QUANTILES = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
LOWER_IS_BETTER = ('val_loss',)
# {what a run has: how its mean and deviation are written}
MEASURES = dict(
    exact='.1f', category='.1f', CIDEr='.1f', val_loss='.3f', s_per_step='.2f', peak_gb='.1f'
)
NAMES = dict(
    exact='exact match, %',
    category='category match, %',
    val_loss='validation loss',
    s_per_step='s / step',
    peak_gb='peak GB',
)
NOTE = """\
Mean ± standard deviation over the seeds. *Better than*: the ranks from which a mechanism differs
by more than the noise of the seeds (docstring of `tools/compare.py`); `-` is none, `?` that there
are too few seeds to say. Ranked by {metric}.
"""


def write_report(folder, comparison):
    """Writes compare.json, compare.md and the figures into a folder. Returns the text of
    compare.md."""
    os.makedirs(folder, exist_ok=True)
    text = report(comparison)
    write_text(f'{folder}/compare.json', json.dumps(comparison, indent=1))
    write_text(f'{folder}/compare.md', text)
    draw(folder, comparison)
    return text


# ---- series: the runs with one budget and share --------------------------------------------------


def all_series(comparison):
    """Returns {(budget, share): [its runs]}, the budget of samples first, then by share."""
    series = {}
    for run in sorted(comparison['runs'], key=series_order):
        series.setdefault((run['budget'], run['share']), []).append(run)
    return series


def series_order(run):
    return run['budget'], float(run['share'])


def values_of(runs, measure):
    """Returns {mechanism: [a number of each of its runs]}, without the runs that do not have it."""
    values = {}
    for run in runs:
        if measure in run:
            values.setdefault(run['mechanism'], []).append(run[measure])
    return values


def ranking(values, metric):
    """Returns the mechanisms from the best to the worst by the mean of their values."""
    means = {name: statistics.mean(numbers) for name, numbers in values.items()}
    return sorted(means, key=means.get, reverse=metric not in LOWER_IS_BETTER)


# ---- noise ---------------------------------------------------------------------------------------


def pooled_variance(values):
    """Returns the mean over the mechanisms of the variance over seeds, None where none has two."""
    variances = [statistics.variance(numbers) for numbers in values.values() if len(numbers) > 1]
    return statistics.mean(variances) if variances else None


def differs(first, second, pooled):
    """Whether the means of two mechanisms differ by more than the noise; the rule is in
    tools/compare.py. first, second: their values over the seeds. None where each has one alone."""
    freedom = len(first) + len(second) - 2
    if not freedom:
        return None
    t = T_QUANTILES[min(freedom, len(T_QUANTILES)) - 1]
    variance = 0
    for numbers in (first, second):
        own = statistics.variance(numbers) if len(numbers) > 1 else 0
        variance += max(own, pooled) / len(numbers)
    difference = abs(statistics.mean(first) - statistics.mean(second))
    return difference > t * math.sqrt(variance)


def better_than(values, ranked):
    """Returns for each mechanism the ranks of those that are worse by more than the noise, as text:
    '3, 5-12'; '-' for none, '?' where nothing can be said."""
    pooled = pooled_variance(values)
    texts = {}
    for place, name in enumerate(ranked, start=1):
        ranks = []
        known = place == len(ranked)
        for rank, other in enumerate(ranked[place:], start=place + 1):
            verdict = differs(values[name], values[other], pooled)
            known |= verdict is not None
            if verdict:
                ranks.append(rank)
        texts[name] = ranges(ranks) or ('-' if known else '?')
    return texts


def ranges(numbers):
    """Returns rising whole numbers as text, [3, 5, 6, 7] as '3, 5-7'."""
    parts = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    texts = [str(part[0]) if len(part) == 1 else f'{part[0]}-{part[-1]}' for part in parts]
    return ', '.join(texts)


# ---- tables --------------------------------------------------------------------------------------


def report(comparison):
    """Returns the page: a table for each series, the search of the rates, and the failures."""
    metric = comparison['metric']
    metric_name = NAMES.get(metric, metric)
    parts = [f'`{comparison["command"]}`\n', NOTE.format(metric=metric_name)]
    for (budget, share), runs in all_series(comparison).items():
        heading = f'The same {budget}'
        if budget == 'seconds':
            heading += f' ({comparison["seconds"]:g})'
        parts.append(f'## {heading}, {percent(share)} of the rows\n')
        if values_of(runs, metric):
            parts.append(table(runs, metric, comparison['seeds']))
        elif any('failed' not in run for run in runs):
            parts.append(f'No run has {metric_name}: choose another `--metric`.\n')
    if comparison['searches']:
        parts.append(search_table(comparison['searches']))
    reasons = [failure(run) for run in comparison['runs'] if 'failed' in run]
    if reasons:
        parts.append('## Failed\n')
        parts.append('\n'.join(reasons) + '\n')
    return '\n'.join(parts)


def percent(share):
    """Returns a share of the rows, 0.1 or '0.1', as '10%'."""
    return f'{100 * float(share):g}%'


def table(runs, metric, n_seeds):
    """Returns the mechanisms of a series from the best to the worst, as Markdown."""
    by_measure = {measure: values_of(runs, measure) for measure in MEASURES}
    measures = [measure for measure in MEASURES if by_measure[measure]]
    ranked = ranking(by_measure[metric], metric)
    better = better_than(by_measure[metric], ranked)
    parameters = values_of(runs, 'parameters')
    steps = values_of(runs, 'steps')
    headings = ['rank', 'mechanism', 'better than', 'seeds']
    headings += [NAMES.get(measure, measure) for measure in measures]
    headings += ['steps', 'trained parameters']
    lines = [row(headings), row(['--:', '---', '---', '--:'] + ['--:'] * (len(measures) + 2))]
    for place, name in enumerate(ranked, start=1):
        seeds = f'{len(by_measure[metric][name])} of {n_seeds}'
        cells = [str(place), f'`{name}`', better[name], seeds]
        for measure in measures:
            cells.append(mean_and_deviation(by_measure[measure].get(name, []), MEASURES[measure]))
        cells += [f'{statistics.mean(steps[name]):.0f}', f'{parameters[name][0]:,}']
        lines.append(row(cells))
    return '\n'.join(lines) + '\n'


def row(cells):
    return f'| {" | ".join(cells)} |'


def mean_and_deviation(numbers, form):
    """Returns '12.3 ± 0.4', '12.3' of a single number, and '' of none."""
    if not numbers:
        return ''
    text = format(statistics.mean(numbers), form)
    if len(numbers) > 1:
        text += f' ± {statistics.stdev(numbers):{form}}'
    return text


def search_table(searches):
    """Returns the validation loss with each learning rate, the lowest in bold, as Markdown."""
    rates = list(next(iter(searches.values())))
    lines = ['## Validation loss with each of the rates\n', row(['mechanism', *rates])]
    lines.append(row(['---'] + ['--:'] * len(rates)))
    for name, losses in searches.items():
        known = [loss for loss in losses.values() if loss is not None]
        cells = [f'`{name}`']
        for loss in losses.values():
            text = 'failed' if loss is None else f'{loss:.3f}'
            cells.append(f'**{text}**' if loss is not None and loss == min(known) else text)
        lines.append(row(cells))
    return '\n'.join(lines) + '\n'


def failure(run):
    return (
        f'- `{run["mechanism"]}`, the same {run["budget"]}, {percent(run["share"])} of the rows, '
        f'seed {run["seed"]}: {run["failed"]}'
    )


# ---- figures -------------------------------------------------------------------------------------


def draw(folder, comparison):
    """Draws the score against the time of training and against the rows."""
    runs = [run for run in comparison['runs'] if comparison['metric'] in run]
    if not runs:
        return
    series = all_series(comparison | dict(runs=runs))
    styles = make_styles(list(dict.fromkeys(run['mechanism'] for run in runs)))
    shares = list(dict.fromkeys(share for _, share in series))
    # those that were run on several shares
    counts = Counter(budget for budget, _ in series)
    budgets = [budget for budget, count in counts.items() if count > 1]
    draw_time(f'{folder}/score_against_time.png', comparison, series, shares, styles)
    if budgets:
        draw_rows(f'{folder}/score_against_rows.png', comparison, series, budgets, styles)


def make_styles(names):
    """Returns {mechanism: how it is drawn}: ten colours and seven markers, so that no two of them
    are the same."""
    markers = itertools.cycle('osD^vP*')
    styles = {}
    for number, (name, marker) in enumerate(zip(names, markers)):
        styles[name] = dict(color=f'C{number % 10}', marker=marker)
    if 'blind' in styles:
        styles['blind'] = dict(color='black', marker='x')
    return styles


def make_panels(n):
    """Returns (figure, [its n panels], matplotlib.pyplot), with one y axis for all of them."""
    # matplotlib takes a second to import, and --help needs none
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(1, n, figsize=(1.5 + 5 * n, 4.5), sharey=True, squeeze=False)
    return figure, list(grid[0]), plt


def finish(path, figure, panels, metric, plt):
    """Adds what both figures have, and writes the file."""
    panels[0].set_ylabel(NAMES.get(metric, metric))
    handles = {}
    for panel in panels:
        panel.grid(alpha=0.3)
        for handle, label in zip(*panel.get_legend_handles_labels()):
            handles.setdefault(label, handle)
    place = dict(loc='center left', bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    figure.legend(handles.values(), handles.keys(), **place)
    save = functools.partial(figure.savefig, format='png', dpi=120, bbox_inches='tight')
    write_atomically(path, save)
    plt.close(figure)


def draw_time(path, comparison, series, shares, styles):
    """Draws a panel for each share. A mechanism is a filled point with the budget of samples and a
    hollow one with the budget of seconds, at the seconds that its steps took; a bar is the standard
    deviation over seeds."""
    metric = comparison['metric']
    figure, panels, plt = make_panels(len(shares))
    for panel, share in zip(panels, shares):
        for budget in ('samples', 'seconds'):
            for name, runs in by_mechanism(series.get((budget, share), [])).items():
                seconds = statistics.mean(run['s_per_step'] * run['steps'] for run in runs)
                center, deviation = mean_deviation([run[metric] for run in runs])
                style = dict(styles[name], linestyle='none', capsize=2)
                if budget == 'seconds':
                    style['markerfacecolor'] = 'white'
                label = name if budget == 'samples' else None
                panel.errorbar(seconds, center, deviation, label=label, **style)
        title = f'{percent(share)} of the rows'
        if ('seconds', share) in series:
            title += ' (hollow: the same seconds)'
        panel.set(xscale='log', xlabel='seconds of training', title=title)
        # 300 and not 3 x 10^2
        panel.xaxis.set_major_formatter('{x:g}')
        panel.xaxis.set_minor_formatter('{x:g}')
    finish(path, figure, panels, metric, plt)


def draw_rows(path, comparison, series, budgets, styles):
    """Draws a panel for each budget, and in it a line for each mechanism over the shares."""
    metric = comparison['metric']
    figure, panels, plt = make_panels(len(budgets))
    for panel, budget in zip(panels, budgets):
        lines = {}
        for (other, share), runs in series.items():
            if other == budget:
                for name, own in by_mechanism(runs).items():
                    center, deviation = mean_deviation([run[metric] for run in own])
                    lines.setdefault(name, []).append((float(share), center, deviation))
        for name, points in lines.items():
            panel.errorbar(*zip(*points), label=name, capsize=2, **styles[name])
        ticks = sorted({float(share) for _, share in series})
        panel.set(xscale='log', xlabel='share of the training rows', title=f'the same {budget}')
        panel.set_xticks(ticks, [percent(tick) for tick in ticks])
        panel.minorticks_off()
    finish(path, figure, panels, metric, plt)


def by_mechanism(runs):
    groups = {}
    for run in runs:
        groups.setdefault(run['mechanism'], []).append(run)
    return groups


def mean_deviation(numbers):
    """Returns mean and standard deviation, which is 0 for one number."""
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
    return statistics.mean(numbers), deviation
