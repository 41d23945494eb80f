"""
nanopalm/logs.py: what a step costs, the loss curve, and loggers besides metrics.jsonl.
"""

import math
import os
import signal
import sys
import types
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_models import inputs, make

from nanopalm.logs import draw_losses, find_peak_flops, make_logger, peak_memory, training_flops

# ---- what a step costs ---------------------------------------------------------------------------


def test_a_frozen_weight_costs_four_flops_for_every_token_that_passes_it():
    palm = make('llama', 'limber_all', n_prompt=3)
    features, ids, labels, _ = inputs(B=2, T=9)
    palm(ids, labels, features=features)
    attention = 64 * 64 * 2 + 64 * 32 * 2
    feed_forward = 3 * 64 * 96
    # six layers, two texts of three prompt tokens and nine of text, whose last one nothing reads
    text = 6 * (attention + feed_forward) * 2 * (3 + 8)
    # of 17 visual tokens of two images, five layers are passed; of the last, keys and values are
    # made
    prefix = 5 * (attention + feed_forward) * 2 * 17 + 64 * 32 * 2 * 2 * 17
    vocabulary = 90 * 64 * 10
    assert training_flops(palm, n_labels=10) == 4 * (text + prefix + vocabulary)


def test_the_peak_of_a_cpu_is_measured_and_that_of_an_unknown_gpu_is_infinite(monkeypatch):
    assert 1e8 < find_peak_flops('cpu', 'float32') < 1e14
    names = {'cuda:0': 'NVIDIA H100 80GB HBM3', 'cuda:1': 'a new one'}
    monkeypatch.setattr(torch.cuda, 'get_device_name', names.get)
    assert find_peak_flops('cuda:0', 'bfloat16') == 989e12
    # the table is of half precision
    assert find_peak_flops('cuda:0', 'float32') == math.inf
    assert find_peak_flops('cuda:1', 'bfloat16') == math.inf


def test_the_peak_memory_of_this_process_is_in_gigabytes():
    assert 0.1 < peak_memory('cpu') < 100


# ---- the loss curve ------------------------------------------------------------------------------

LOSSES = '{"iter": 1, "loss": 2.0}\n{"iter": 2, "loss": 1.0, "val_loss": 1.5}\n'


def test_losses_are_drawn(tmp_path):
    (tmp_path / 'metrics.jsonl').write_text(LOSSES)
    draw_losses(tmp_path)
    assert Image.open(tmp_path / 'loss.png').size[0] > 100


def test_ctrl_c_while_the_losses_are_drawn_waits_until_they_are(monkeypatch, tmp_path):
    (tmp_path / 'metrics.jsonl').write_text(LOSSES)

    def savefig(figure, path, **options):
        os.kill(os.getpid(), signal.SIGINT)
        Path(path).write_text('drawn')

    monkeypatch.setattr('matplotlib.figure.Figure.savefig', savefig)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        draw_losses(tmp_path)
    assert (tmp_path / 'loss.png').read_text() == 'drawn'
    assert signal.getsignal(signal.SIGINT) is handler


# ---- Weights & Biases ----------------------------------------------------------------------------


class FakeWandb(types.ModuleType):
    """A wandb that keeps what it is told."""

    def __init__(self):
        super().__init__('wandb')
        self.runs = []

    def init(self, **options):
        run = FakeRun(options)
        self.runs.append(run)
        return run

    def Html(self, text):
        return f'html: {text}'


class FakeRun:
    def __init__(self, options):
        self.options = options
        self.logged = []

    def log(self, values, step):
        self.logged.append((step, values))


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, 'wandb', fake)
    return fake


def test_a_resumed_run_goes_on_in_its_run_at_wandb(wandb, tmp_path):
    config = dict(logger='wandb', wandb_project='palms', out_dir=str(tmp_path))
    make_logger(config)
    make_logger(config)
    first, resumed = wandb.runs
    assert first.options['id']
    assert resumed.options['id'] == first.options['id']
    assert resumed.options['resume'] == 'allow'
    assert resumed.options['project'] == 'palms'
    assert resumed.options['name'] == tmp_path.name

    (tmp_path / 'other').mkdir()
    make_logger(config | dict(out_dir=str(tmp_path / 'other')))
    assert wandb.runs[2].options['id'] != first.options['id']


def test_numbers_and_samples_are_logged_at_wandb_under_their_step(wandb, tmp_path):
    log = make_logger(dict(logger='wandb', wandb_project='palms', out_dir=str(tmp_path)))
    log(dict(iter=3, loss=2.5, grad_norm=0.7))
    log(dict(iter=4, val_loss=2.0, samples=['A red circle.', None]))
    (run,) = wandb.runs
    assert run.logged == [
        (3, dict(iter=3, loss=2.5, grad_norm=0.7)),
        (4, dict(iter=4, val_loss=2.0, samples='html: A red circle.<br>None')),
    ]


# ---- TensorBoard ---------------------------------------------------------------------------------


def test_numbers_and_samples_are_logged_in_tensorboard_under_their_step(monkeypatch, tmp_path):
    logged = []

    class SummaryWriter:
        def __init__(self, folder):
            assert folder == str(tmp_path)

        def add_scalar(self, key, value, step):
            logged.append((step, key, value))

        def add_text(self, key, text, step):
            logged.append((step, key, text))

    fake = types.ModuleType('tensorboard')
    fake.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', fake)
    log = make_logger(dict(logger='tensorboard', out_dir=str(tmp_path)))
    log(dict(iter=3, grad_norm=0.7))
    log(dict(iter=4, samples=['A red circle.', None]))
    assert logged == [
        (3, 'iter', 3),
        (3, 'grad_norm', 0.7),
        (4, 'iter', 4),
        (4, 'samples', 'A red circle.\n\nNone'),
    ]


def test_without_a_logger_there_is_metrics_jsonl_alone():
    assert make_logger(dict(logger='none')) is None
