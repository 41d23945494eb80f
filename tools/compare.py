"""
The comparison, as the paper made it: train every mechanism on the same data, budget and seeds; one table and one picture.

    python -m tools.compare config/demo.py --max_iters=60 --source_layers=1       # these go to every train.py, after config/mechanism/<name>.py
    python -m tools.compare config/data/coco.py --mechanisms=qp_l0,r_linear --compare_seeds=0,1,2 --train_rows=0.01 --epochs=30

Writes compare_dir/compare.md, .json and .png. Started again, it continues where it was stopped. A mechanism that fails or diverges
stands in the table as such, with the reason below it.
"""
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from nanopalm.files import write_atomically

MECHANISMS = 'qp_l0,qp_inner,r_avgpool,r_linear,r_qpmapper,r_rand,c_attn,mapl,limber_all,limber_1,epalm,epalm_opt'
OWN = dict(compare_dir='out/compare', mechanisms=MECHANISMS, compare_seeds='0', split='test')


def main():
    own, rest = dict(OWN), []
    for arg in sys.argv[1:]:
        key, _, value = arg.removeprefix('--').partition('=')
        if key in ('h', '-h', 'help'):
            sys.exit(f'{__doc__.strip()}\n\nKnobs: {OWN}')
        if key in own:
            own[key] = value
        else:
            rest.append(arg)
    mechanisms, seeds = own['mechanisms'].split(','), [int(s) for s in own['compare_seeds'].split(',')]
    files, knobs = [a for a in rest if not a.startswith('--')], [a for a in rest if a.startswith('--')]
    missing = [m for m in mechanisms if not os.path.exists(f'config/mechanism/{m}.py')]
    if missing or not files:
        sys.exit(f'no such mechanism: config/mechanism/{missing[0]}.py' if missing else 'give the config file of a data set, such as config/demo.py')
    os.makedirs(own['compare_dir'], exist_ok=True)
    runs = {}
    for seed in seeds:
        for name in ('blind', *mechanisms):
            own_knobs = ['--encoder=None', '--cache_features=False'] if name == 'blind' else []
            args = [*files, *([] if name == 'blind' else [f'config/mechanism/{name}.py']), *knobs, *own_knobs, f'--seed={seed}']
            runs[name, seed] = run(f'{own["compare_dir"]}/{name}-{seed}', args, own['split'])
            report(own['compare_dir'], runs, mechanisms, seeds, rest)


def run(out_dir, args, split):
    """Train and evaluate one mechanism, unless that was done: its row of the table."""
    result = f'{out_dir}/eval_{split}.json'
    for command in ([] if os.path.exists(result) else [['train.py', *args, f'--out_dir={out_dir}', '--init_from=auto'],
                                                       ['eval_caption.py', f'--out_dir={out_dir}', f'--split={split}']]):
        print(f'\n>>> python {" ".join(command)}', flush=True)
        with open(f'{out_dir}.log', 'a', encoding='utf-8') as log:
            if subprocess.run([sys.executable, *command], stdout=log, stderr=subprocess.STDOUT).returncode:
                why = Path(f'{out_dir}.log').read_text(encoding='utf-8').strip().splitlines()[-1]
                print(why)
                return dict(failed=why)
    entries = [json.loads(line) for line in Path(f'{out_dir}/metrics.jsonl').read_text(encoding='utf-8').splitlines()]
    steps = [e for e in entries if 'loss' in e]
    scores = json.loads(Path(result).read_text(encoding='utf-8'))['scores']
    return dict(score=scores['CIDEr'], val_loss=min(e['val_loss'] for e in entries if 'val_loss' in e), parameters=trained_parameters(out_dir),
                seconds=statistics.median(e['ms'] for e in steps) / 1e3, peak_gb=max(e['peak_gb'] for e in steps), iters=steps[-1]['iter'])


def trained_parameters(out_dir):
    from safetensors import safe_open
    with safe_open(f'{out_dir}/best.safetensors', 'pt') as f:
        return sum(f.get_tensor(name).numel() for name in f.keys())


def report(folder, runs, mechanisms, seeds, args):
    """All that is known so far -> compare.json, compare.md, compare.png."""
    def of(name, key):
        return [runs[name, s][key] for s in seeds if key in runs.get((name, s), {})]
    blind = of('blind', 'score')
    done = {m: of(m, 'score') for m in mechanisms if of(m, 'score')}
    ranked = sorted(done, key=lambda m: -statistics.mean(done[m]))
    lines = [f'`python -m tools.compare {" ".join(args)}`', '',
             '| rank | mechanism | CIDEr | blind | val. loss | trained parameters | s / step | peak GB |', '|--:|---|--:|--:|--:|--:|--:|--:|']
    def row(rank, m):
        spread = f' ± {statistics.stdev(done[m]):.1f}' if len(done[m]) > 1 else ''
        return (f'| {rank} | {m} | {statistics.mean(done[m]):.1f}{spread} | {statistics.mean(blind):.1f} | {statistics.mean(of(m, "val_loss")):.3f} | '
                f'{of(m, "parameters")[0]:,} | {statistics.mean(of(m, "seconds")):.2f} | {max(of(m, "peak_gb")):.1f} |')
    lines += [row(rank, m) for rank, m in enumerate(ranked, 1)] if blind else []
    failures = {(m, s): runs[m, s]['failed'] for m, s in runs if 'failed' in runs[m, s]}
    lines += [f'| - | {m} (seed {s}) | failed | | | | | |' for m, s in failures] + [''] + [f'{m}, seed {s}: {why}' for (m, s), why in failures.items()]
    text = '\n'.join(lines) + '\n'
    write_atomically(f'{folder}/compare.md', lambda path: Path(path).write_text(text, encoding='utf-8'))
    write_atomically(f'{folder}/compare.json', lambda path: Path(path).write_text(json.dumps({f'{m}-{s}': r for (m, s), r in runs.items()}, indent=1), encoding='utf-8'))
    if ranked and blind:
        draw(folder, ranked, done, statistics.mean(blind))
    print('\n' + text, flush=True)


def draw(folder, ranked, scores, blind):
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    fig, ax = plt.subplots(figsize=(7, 0.4 * len(ranked) + 1))
    ax.barh(ranked[::-1], [statistics.mean(scores[m]) for m in ranked[::-1]], color='#24705c')
    ax.axvline(blind, color='#ad6030', linestyle='--', label='blind')
    ax.set(xlabel='CIDEr')
    ax.legend()
    write_atomically(f'{folder}/compare.png', lambda path: fig.savefig(path, format='png', dpi=120, bbox_inches='tight'))
    plt.close(fig)


if __name__ == '__main__':
    main()
