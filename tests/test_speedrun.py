"""The speedrun's clock and verdict, on the log of a run that is written here."""

import json

import pytest

from tools.speedrun import main, read_evaluations, verdict

LOG = [
    dict(iter=0, val_loss=9.0, exact=0.0),
    dict(iter=20, loss=3.0, ms=1000.0),
    dict(iter=20, val_loss=2.0, exact=30.0),
    dict(iter=40, loss=2.0, ms=500.0),
    dict(iter=40, val_loss=1.0, exact=55.0),
    dict(iter=50, loss=1.0, ms=2000.0),
    dict(iter=50, val_loss=0.9, exact=60.0),
]


@pytest.fixture
def evaluations(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    path.write_text(''.join(json.dumps(entry) + '\n' for entry in LOG))
    return read_evaluations(path)


def test_the_clock_counts_the_seconds_of_all_steps_until_an_evaluation(evaluations):
    assert evaluations == [(0, 0.0, 0.0), (20, 20.0, 30.0), (40, 30.0, 55.0), (50, 50.0, 60.0)]


def test_the_verdict_is_the_first_evaluation_that_reaches_the_goal(evaluations):
    assert verdict(evaluations) == '50% exact after 30 seconds of training, 40 steps'
    assert verdict(evaluations[:2]).endswith('was not reached; the best evaluation has 30.0%')


def test_a_config_file_must_be_given():
    with pytest.raises(SystemExit, match='give the config file'):
        main(['--max_iters=3'])
