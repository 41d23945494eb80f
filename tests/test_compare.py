"""tools/compare.py: its plan and its report without any training, and the whole of it on tiny
models."""

import json
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import flags

from tools import compare, compare_report, jobs

FIRST = dict(exact=40.0, CIDEr=80.0, val_loss=2.0, s_per_step=0.5, peak_gb=1.0, steps=10)
FIRST |= dict(parameters=12000, rate='')


def make_run(mechanism, seed=0, budget='samples', share='1', **numbers):
    spec = dict(mechanism=mechanism, budget=budget, share=share, seed=str(seed))
    return spec | FIRST | numbers


def make_comparison(*runs, **others):
    comparison = dict(command='compare', metric='exact', seeds=2, seconds=0.0, searches={})
    return comparison | dict(runs=list(runs)) | others


def table_lines(*runs, **others):
    """Returns the lines of the first table below its heading."""
    lines = compare_report.report(make_comparison(*runs, **others)).splitlines()
    return [line for line in lines if line.startswith('|')][2:]


# ---- noise ---------------------------------------------------------------------------------------


def test_a_difference_within_the_spread_of_the_seeds_is_noise():
    first = [50.0, 52.0, 54.0]
    # mean 52, variance 4: 2.78 * sqrt(4 / 3 + 4 / 3) = 4.54
    assert compare_report.differs(first, [56.6, 58.6, 54.6], 4.0)
    assert not compare_report.differs(first, [56.5, 58.5, 54.5], 4.0)


def test_seeds_that_agree_by_luck_have_the_noise_of_the_others():
    # without the pooled variance, any difference would count
    assert compare_report.differs([50.0, 50.0], [51.0, 51.0], 0.0)
    assert not compare_report.differs([50.0, 50.0], [51.0, 51.0], 4.0)


def test_of_one_seed_alone_nothing_is_said():
    values = dict(mapl=[50.0], qp_l0=[10.0])
    assert compare_report.better_than(values, ['mapl', 'qp_l0']) == {'mapl': '?', 'qp_l0': '-'}


def test_those_that_are_worse_by_more_than_the_noise_are_named_by_rank():
    values = dict(a=[90.0, 91.0], b=[88.0, 90.0], c=[50.0, 51.0], d=[49.0, 51.0])
    assert compare_report.better_than(values, ['a', 'b', 'c', 'd']) == dict(
        a='3-4', b='3-4', c='-', d='-'
    )


@pytest.mark.parametrize(
    'numbers, text', [([], ''), ([3], '3'), ([2, 3, 4], '2-4'), ([2, 4, 5, 9], '2, 4-5, 9')]
)
def test_ranks_that_follow_one_another_are_a_range(numbers, text):
    assert compare_report.ranges(numbers) == text


# ---- tables --------------------------------------------------------------------------------------


def test_mechanisms_are_ranked_by_their_mean_over_the_seeds():
    runs = [make_run('mapl'), make_run('mapl', 1, exact=44.0, val_loss=1.5)]
    runs += [make_run('qp_l0', exact=90.0), make_run('qp_l0', 1, exact=90.0)]
    assert table_lines(*runs) == [
        '| 1 | `qp_l0` | 2 | 2 of 2 | 90.0 ± 0.0 | 80.0 ± 0.0 | 2.000 ± 0.000 | 0.50 ± 0.00 | '
        '1.0 ± 0.0 | 10 | 12,000 |',
        '| 2 | `mapl` | - | 2 of 2 | 42.0 ± 2.8 | 80.0 ± 0.0 | 1.750 ± 0.354 | 0.50 ± 0.00 | '
        '1.0 ± 0.0 | 10 | 12,000 |',
    ]


def test_a_lower_loss_is_better():
    runs = [make_run('mapl', val_loss=2.5), make_run('qp_l0', val_loss=1.5)]
    lines = table_lines(*runs, metric='val_loss')
    assert lines[0].startswith('| 1 | `qp_l0` | ? | 1 of 2 |')


def test_each_budget_and_share_has_a_table_of_its_own():
    runs = [make_run('mapl', budget='seconds'), make_run('mapl'), make_run('mapl', share='0.1')]
    lines = compare_report.report(make_comparison(*runs, seconds=60.0)).splitlines()
    assert [line for line in lines if line.startswith('#')] == [
        '## The same samples, 10% of the rows',
        '## The same samples, 100% of the rows',
        '## The same seconds (60), 100% of the rows',
    ]


def test_a_failure_stands_below_the_tables_with_its_reason():
    failed = dict(mechanism='epalm', budget='samples', share='0.1', seed='0', failed='no layer')
    page = compare_report.report(make_comparison(failed, make_run('mapl')))
    assert page.endswith(
        '## Failed\n\n- `epalm`, the same samples, 10% of the rows, seed 0: no layer\n'
    )


def test_a_score_that_the_data_do_not_have_is_said_to_be_missing():
    page = compare_report.report(make_comparison(make_run('mapl'), metric='category'))
    assert 'No run has category match, %: choose another `--metric`.' in page


def test_the_rate_with_the_lowest_loss_is_bold():
    searches = dict(mapl={'1e-3': 2.5, '1e-2': 1.25, '1': None})
    page = compare_report.report(make_comparison(searches=searches))
    assert '| mechanism | 1e-3 | 1e-2 | 1 |' in page
    assert '| `mapl` | 2.500 | **1.250** | failed |' in page


# ---- the plan ------------------------------------------------------------------------------------


PLAN = dict(mechanisms='mapl', baseline=True, compare_seeds='0', shares='1', seconds=0.0)


def test_all_mechanisms_are_trained_with_the_first_seed_before_the_second():
    config = dict(PLAN, compare_seeds='0,1', shares='0.1,1', seconds=60.0)
    plan = compare.plan_runs(config)
    assert [run.seed for run in plan] == ['0'] * 8 + ['1'] * 8
    assert plan[:3] == [
        compare.Run('blind', 'samples', '0.1', '0'),
        compare.Run('mapl', 'samples', '0.1', '0'),
        compare.Run('blind', 'samples', '1', '0'),
    ]
    assert plan[4] == compare.Run('blind', 'seconds', '0.1', '0')


def test_the_rest_is_judged_by_runs_of_the_same_mechanism():
    plan = [compare.Run(name, 'samples', '1', '0') for name in ('mapl', 'qp_l0', 'mapl', 'qp_l0')]
    durations = dict(mapl=[600.0], qp_l0=[3000.0])
    entries = [dict(failed='no layer'), {}]
    line = compare.progress(plan[2:], entries, durations, jobs=1)
    assert line.startswith('2 of 4 runs done, 1 failed; the rest takes about 1 h 00 min, until ')
    line = compare.progress(plan[2:], entries, durations, jobs=2)
    assert 'takes about 0 h 30 min' in line
    # nothing was done in this call, all was read
    unknown = dict(mapl=[], qp_l0=[])
    assert compare.progress(plan[2:], [{}, {}], unknown, jobs=1) == '2 of 4 runs done'


CONFIG = dict(compare_dir='out/x', rate_name='muon_rate', seconds=0.0)


def resolved(name, *rest, **spec):
    run = compare.Run(name, 'samples', '0.1', '1', **spec)
    return compare.resolve('train.py', compare.train_arguments(run, CONFIG, list(rest)))


def test_the_budget_and_the_data_are_the_same_for_all_mechanisms():
    # whose file has batch_size=8 and accumulate=2
    config = resolved('c_attn', 'config/demo.py', '--max_iters=7')
    expected = dict(batch_size=48, accumulate=1, max_iters=7, train_rows=0.1, seed=1)
    assert {name: config[name] for name in expected} == expected
    assert config['out_dir'] == 'out/x/c_attn-samples-0.1-1'


def test_what_the_data_sets_config_says_of_its_own_mechanism_is_taken_back():
    config = resolved('qp_l0', 'config/demo.py')
    # those of config/demo.py are True, 'cls' and 'none'
    assert not config['token_norm']
    assert config['source_tokens'] == 'all'
    assert config['activation'] == 'gelu'
    assert config['n_prompt'] == 1
    assert config['bottleneck'] == 'none'
    assert config['prefix_start'] == '<|endoftext|>'


def test_hyperparameters_of_the_command_line_win():
    config = resolved('qp_inner', 'config/demo.py', '--source_layers=1', '--n_prompt=3', rate='0.5')
    assert config['source_layers'] == 1
    assert config['n_prompt'] == 3
    assert config['muon_rate'] == 0.5
    assert config['out_dir'] == 'out/x/qp_inner-samples-0.1-1-0.5'


def test_what_stands_behind_the_name_of_a_mechanism_wins_over_the_command_line():
    name = 'qp_inner:n_queries=2:mapper_layers=1'
    config = resolved(name, 'config/demo.py', '--source_layers=1', '--n_queries=8', '--n_prompt=3')
    plain = resolved('qp_inner', 'config/demo.py', '--source_layers=1', '--n_queries=8')
    assert (config['n_queries'], config['mapper_layers'], config['n_prompt']) == (2, 1, 3)
    assert plain['n_queries'] == 8
    assert config['target_stride'] == plain['target_stride']
    assert config['out_dir'] == 'out/x/qp_inner-n_queries=2-mapper_layers=1-samples-0.1-1'


def test_a_run_has_a_folder_of_its_own():
    run = compare.Run('mapl:encoder=data/models/lite2', 'samples', '1', '0')
    assert compare.folder_of(run) == 'mapl-encoder=data-models-lite2-samples-1-0'


def test_the_text_only_baseline_has_no_encoder():
    assert resolved('blind', 'config/demo.py')['encoder'] is None


def test_the_text_only_baseline_may_be_left_out():
    assert [run.mechanism for run in compare.plan_runs(PLAN)] == ['blind', 'mapl']
    assert [run.mechanism for run in compare.plan_runs(PLAN | dict(baseline=False))] == ['mapl']


def test_the_steps_that_fit_into_the_seconds_follow_from_the_run_with_the_samples(tmp_path):
    run = compare.Run('mapl', 'seconds', '1', '0')
    config = dict(compare_dir=str(tmp_path), seconds=60.0)
    with pytest.raises(compare.RunFailed, match='its speed is not known'):
        compare.steps_of(run, config, 10)
    folder = tmp_path / 'mapl-samples-1-0'
    folder.mkdir()
    (folder / 'trained.json').write_text(json.dumps(dict(s_per_step=0.25)))
    assert compare.steps_of(run, config, 10) == 240


def test_the_first_seed_and_the_smallest_share_choose_the_rate(monkeypatch):
    trained = []

    def train(run, config, rest, machine):
        trained.append(run)
        if run.rate == '10':
            raise compare.RunFailed('the loss is nan')
        return dict(val_loss={'1e-3': 2.5, '1e-2': 1.5}[run.rate]), True

    monkeypatch.setattr(compare, 'train', train)
    config = dict(shares='1,0.1', compare_seeds='3,0', rates='1e-3,1e-2,10')
    searches = {}
    for _ in range(2):
        assert compare.find_rate('mapl', config, [], searches, None) == '1e-2'
    assert searches == dict(mapl={'1e-3': 2.5, '1e-2': 1.5, '10': None})
    assert trained == [
        compare.Run('mapl', 'samples', '0.1', '3', rate) for rate in ('1e-3', '1e-2', '10')
    ]
    with pytest.raises(compare.RunFailed, match='failed with each of the rates'):
        compare.find_rate('mapl', config | dict(rates='10'), [], {}, None)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['config/demo.py', '--mechanisms=limbo'], 'config/mechanism/limbo.py'),
        (['config/demo.py', '--mechanisms=mapl:n_querys=2'], "did you mean 'n_queries'?"),
        (['config/demo.py', '--mechanisms=mapl:n_queries=0'], 'n_queries=0'),
        (['config/demo.py', '--mechanisms=mapl:seed=3'], 'seed is the same for all mechanisms'),
        (['config/demo.py', '--compare_seeds=0,x'], "'x' is no seed"),
        (['config/demo.py', '--shares=0.1,2'], "shares: '2': expected fractions"),
        (['config/demo.py', '--rates=1e-3,fast'], "rates: 'fast': expected numbers"),
        (['config/demo.py', '--split=train'], "expected one of 'val', 'test'"),
        (['--max_iters=2'], 'give the config file of a data set'),
        (['config/demo.py', '--max_iters=0'], 'give --max_iters'),
        (['config/demo.py', '--jobs=0'], 'jobs=0'),
        (['config/demo.py', '--mechanisms=mapl,mapl'], "mechanisms: 'mapl' is there twice"),
        (['config/demo.py', '--compare_seeds=0,1,00'], "compare_seeds: '00' is there twice"),
        (['config/demo.py', '--shares=1,0.1,1.0'], "shares: '1.0' is there twice"),
        (['config/demo.py', '--jobs=2', '--device=cuda:1'], 'give --device=cuda, without'),
        (
            ['config/demo.py', '--jobs=2', '--eval_options=--device=cuda:1'],
            'give --device=cuda, without',
        ),
        (['config/demo.py', '--max_itres=2'], "did you mean 'max_iters'?"),
        (['config/demo.py', '--seed=7'], 'give --compare_seeds'),
        (['config/demo.py', '--train_rows=0.5'], 'give --shares'),
        (['config/demo.py', '--out_dir=out/mine'], 'give --compare_dir'),
        (['config/demo.py', '--eval_options=--num_beam=1'], "did you mean 'num_beams'?"),
    ],
)
def test_a_mistake_is_named_before_anything_is_trained(arguments, message, run):
    assert message in run('tools/compare.py', *arguments, fails=True)


# ---- several runs at a time ----------------------------------------------------------------------


def test_parts_of_a_machine_are_threads_and_gpus(monkeypatch):
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    assert jobs.parts_of(1, n_gpus=4, n_threads=16) == [{}]
    assert jobs.parts_of(2, n_gpus=0, n_threads=16) == [{'OMP_NUM_THREADS': '8'}] * 2
    assert jobs.parts_of(3, n_gpus=0, n_threads=2) == [{'OMP_NUM_THREADS': '1'}] * 3
    # two of the three share a GPU
    parts = jobs.parts_of(3, n_gpus=2, n_threads=6)
    assert [part['CUDA_VISIBLE_DEVICES'] for part in parts] == ['0', '1', '0']
    assert [part['OMP_NUM_THREADS'] for part in parts] == ['2', '2', '2']
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '2,GPU-5')
    parts = jobs.parts_of(2, n_gpus=2, n_threads=6)
    assert [part['CUDA_VISIBLE_DEVICES'] for part in parts] == ['2', 'GPU-5']


SLEEP = [sys.executable, '-c', 'import time; time.sleep(60)']


@pytest.fixture
def make_machine(monkeypatch):
    """Makes machines without GPUs that are closed at the end."""
    monkeypatch.setattr(jobs.torch.cuda, 'device_count', lambda: 0)
    machines = []

    def make(n):
        machines.append(jobs.Machine(n))
        return machines[-1]

    yield make
    for machine in machines:
        machine.close()


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_scripts_run_at_the_same_time_each_on_its_part(make_machine, monkeypatch, tmp_path):
    monkeypatch.setattr(jobs.torch, 'get_num_threads', lambda: 6)
    machine = make_machine(2)
    # each waits for the file of the other, which one alone would do for ever
    program = """
import os, pathlib, sys, time
pathlib.Path({mine!r}).touch()
while not os.path.exists({other!r}):
    time.sleep(0.01)
print('threads', os.environ['OMP_NUM_THREADS'])
sys.exit(3)
"""
    names = [str(tmp_path / name) for name in 'ab']
    with ThreadPoolExecutor(2) as pool:
        statuses = []
        for mine, other in (names, names[::-1]):
            command = [sys.executable, '-c', program.format(mine=mine, other=other)]
            statuses.append(pool.submit(machine.run, command, f'{mine}.log'))
        assert [status.result(60) for status in statuses] == [3, 3]
    assert Path(f'{names[0]}.log').read_text() == 'threads 3\n'


def test_a_machine_that_is_closed_ends_what_runs_and_starts_nothing(make_machine, tmp_path):
    machine = make_machine(1)
    with ThreadPoolExecutor(1) as pool:
        status = pool.submit(machine.run, SLEEP, tmp_path / 'log')
        wait_until(lambda: machine.running)
        machine.close()
        with pytest.raises(jobs.Closed):
            status.result(60)
    with pytest.raises(jobs.Closed):
        machine.run(SLEEP, tmp_path / 'log')


def test_what_does_not_end_by_itself_is_killed(make_machine, monkeypatch, tmp_path):
    monkeypatch.setattr(jobs, 'SECONDS_TO_END', 0.2)
    machine = make_machine(1)
    program = 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)'
    program += '; print("ready", flush=True); time.sleep(60)'
    log = tmp_path / 'log'
    log.touch()
    with ThreadPoolExecutor(1) as pool:
        status = pool.submit(machine.run, [sys.executable, '-c', program], log)
        wait_until(log.read_text)
        machine.close()
        with pytest.raises(jobs.Closed):
            status.result(10)


def test_a_run_of_seconds_waits_for_the_run_that_tells_its_speed(monkeypatch):
    spans = {}

    def carry_out(run, config, rest, machine):
        began = time.monotonic()
        time.sleep(0.2 if run.budget == 'samples' else 0)
        spans[run] = (began, time.monotonic())
        return dict(exact=1.0)

    monkeypatch.setattr(compare, 'carry_out', carry_out)
    samples = compare.Run('mapl', 'samples', '1', '0')
    seconds = compare.Run('mapl', 'seconds', '1', '0')
    config = dict(jobs=2, mechanisms='mapl', baseline=True, rates='')
    done = list(compare.carry_out_all([samples, seconds], config, [], {}))
    assert {run for run, _, _ in done} == {samples, seconds}
    assert spans[samples][1] <= spans[seconds][0]


def plan_of_seeds(n):
    return [compare.Run('mapl', 'samples', '1', str(seed)) for seed in range(n)]


def test_two_runs_of_a_mechanism_search_its_rate_once(monkeypatch):
    searched = []

    def train(run, config, rest, machine):
        searched.append(run.rate)
        time.sleep(0.05)
        return dict(val_loss=float(run.rate)), True

    monkeypatch.setattr(compare, 'train', train)
    monkeypatch.setattr(compare, 'carry_out', lambda *args: {})
    config = dict(
        jobs=2, mechanisms='mapl', baseline=True, rates='1,2', shares='1', compare_seeds='0,1'
    )
    done = list(compare.carry_out_all(plan_of_seeds(2), config, [], {}))
    assert searched == ['1', '2']
    assert [entry['rate'] for _, entry, _ in done] == ['1', '1']


def test_a_mistake_of_the_user_ends_all_runs(monkeypatch):
    made = []

    def carry_out(run, config, rest, machine):
        made.append(run)
        time.sleep(0.01)
        raise ValueError('max_iters=2, now 3')

    monkeypatch.setattr(compare, 'carry_out', carry_out)
    config = dict(jobs=1, mechanisms='mapl', baseline=True, rates='')
    with pytest.raises(ValueError, match='now 3'):
        list(compare.carry_out_all(plan_of_seeds(1000), config, [], {}))
    assert len(made) < 1000


@pytest.mark.parametrize('rates', ['', '1,2,3'], ids=['runs', 'a search'])
def test_ctrl_c_ends_what_runs_and_nothing_is_started_any_more(
    rates, make_machine, monkeypatch, tmp_path, capsys
):
    machine = make_machine(1)
    started = []

    def run_script(*args):
        started.append(args)
        if machine.run(SLEEP, tmp_path / 'log'):
            raise compare.RunFailed('killed')

    def interrupt():
        wait_until(lambda: machine.running)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(compare, 'Machine', lambda n: machine)
    monkeypatch.setattr(compare, 'train', run_script)
    # where these tests run in the background, Ctrl-C is ignored
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt, daemon=True).start()
    config = dict(
        jobs=1, mechanisms='mapl', baseline=True, rates=rates, shares='1', compare_seeds='0'
    )
    try:
        with pytest.raises(KeyboardInterrupt):
            list(compare.carry_out_all(plan_of_seeds(10), config, [], {}))
    finally:
        signal.signal(signal.SIGINT, handler)
    assert len(started) == 1
    assert not machine.running
    # it is no failure of the run
    assert 'failed' not in capsys.readouterr().out


# ---- the whole of it -----------------------------------------------------------------------------


def test_the_report_is_made_anew_from_its_numbers(run, tmp_path):
    runs = []
    for share in ('0.1', '1'):
        runs += [make_run('blind', exact=1.0, share=share), make_run('mapl', share=share)]
    source = tmp_path / 'earlier.json'
    source.write_text(json.dumps(make_comparison(*runs)))
    out = tmp_path / 'compare'
    arguments = flags(redraw=source, compare_dir=out, metric='CIDEr')
    output = run('tools/compare.py', *arguments)
    assert output.strip() == (out / 'compare.md').read_text().strip()
    assert 'Ranked by CIDEr' in output
    assert json.loads((out / 'compare.json').read_text())['runs'] == runs
    for name in ('score_against_time', 'score_against_rows'):
        assert (out / f'{name}.png').stat().st_size > 0


def write_config(path, **hyperparameters):
    lines = [f'{name} = {value!r}' for name, value in hyperparameters.items()]
    path.write_text('\n'.join(lines))
    return path


@pytest.fixture
def tiny_comparison(llm, encoder, pictures, tmp_path):
    """The arguments of a comparison of tiny models: one budget, share and seed."""
    config = write_config(
        tmp_path / 'tiny.py',
        llm=str(llm),
        encoder=str(encoder),
        dataset=str(pictures),
        device='cpu',
        dtype='float32',
        batch_size=8,
        max_iters=2,
        eval_interval=2,
        log_interval=1,
        num_workers=0,
        n_samples=0,
        cache_dir=str(tmp_path / 'cache'),
    )
    values = dict(
        compare_dir=tmp_path / 'compare',
        compare_seeds='0',
        shares='1',
        adapter_dim=32,
        mapper_heads=4,
        eval_options='--num_beams=1 --max_new_tokens=4',
    )
    return [config, *flags(**values)]


@pytest.mark.slow
def test_mechanisms_are_trained_and_scored_and_a_second_start_repeats_only_failures(
    tiny_comparison, run, tmp_path
):
    out = tmp_path / 'compare'
    # qp_inner fails: it reads 4 source layers of an encoder that has 2
    arguments = [*tiny_comparison, '--mechanisms=limber_1,qp_inner']
    output = run('tools/compare.py', *arguments)
    results = json.loads((out / 'compare.json').read_text())['runs']
    assert [result['mechanism'] for result in results] == ['blind', 'limber_1', 'qp_inner']
    # a weight 48 x 64 and a bias
    assert results[1]['parameters'] == 48 * 64 + 64
    assert results[1]['steps'] == 2
    assert 'source_layers=4' in results[2]['failed']
    assert '3 of 3 runs done, 1 failed' in output
    assert (out / 'score_against_time.png').stat().st_size > 0
    assert output.rstrip().endswith((out / 'compare.md').read_text().rstrip())

    checkpoint = out / 'limber_1-samples-1-0/best.safetensors'
    written = checkpoint.stat().st_mtime_ns
    output = run('tools/compare.py', *arguments)
    assert output.count('>>>') == 1
    assert '>>> python train.py' in output
    assert checkpoint.stat().st_mtime_ns == written

    # a run that is complete is not taken for one with another budget
    message = run('tools/compare.py', *arguments, '--max_iters=3', fails=True)
    assert 'max_iters=2, now 3' in message


@pytest.mark.slow
def test_other_evaluations_of_a_run_do_not_train_it_again(tiny_comparison, run):
    arguments = [*tiny_comparison, '--mechanisms=limber_1']
    run('tools/compare.py', *arguments)
    output = run('tools/compare.py', *arguments, '--eval_options=--num_beams=2')
    assert output.count('>>> python eval_caption.py') == 2
    assert '>>> python train.py' not in output


@pytest.mark.slow
def test_rates_are_searched_once_and_seconds_become_steps(tiny_comparison, run, tmp_path):
    values = dict(mechanisms='limber_1', rates='1e-9,1e-1', seconds=0.2, jobs=2)
    output = run('tools/compare.py', *tiny_comparison, *flags(**values))
    comparison = json.loads((tmp_path / 'compare/compare.json').read_text())
    losses = comparison['searches']['limber_1']
    samples, seconds = comparison['runs'][1::2]
    assert samples['mechanism'] == seconds['mechanism'] == 'limber_1'
    assert samples['rate'] == seconds['rate'] == min(losses, key=losses.get)
    assert seconds['steps'] == max(1, round(0.2 / samples['s_per_step']))
    # one more for each of the two: what the search trained is one of its runs
    assert output.count('>>> python train.py') == 6
    assert output.count('>>> python eval_caption.py') == 4
