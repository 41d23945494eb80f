"""
nanopalm/workers.py: the processes that load files.
"""

import os
import signal
import sys

import pytest
from torch.utils.data import DataLoader

from nanopalm.workers import start_workers, worker_options


def test_workers_are_forked_on_linux_alone(monkeypatch):
    """A worker that starts anew would run train.py, a script, once more."""
    monkeypatch.setattr(sys, 'platform', 'linux')
    assert worker_options(2) == dict(num_workers=2, multiprocessing_context='fork')
    assert worker_options(0) == dict(num_workers=0)
    for platform in ('darwin', 'win32'):
        monkeypatch.setattr(sys, 'platform', platform)
        assert worker_options(2) == dict(num_workers=0)


@pytest.fixture
def interruptible():
    """A test that runs in the background inherits no handler."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt_itself(value):
    os.kill(os.getpid(), signal.SIGINT)
    return value


@pytest.mark.skipif(sys.platform != 'linux', reason='workers are forked on Linux alone')
def test_ctrl_c_reaches_the_main_process_and_not_its_workers(interruptible):
    def loader(num_workers):
        options = worker_options(num_workers)
        return DataLoader([3, 4], batch_size=None, collate_fn=interrupt_itself, **options)

    assert list(start_workers(loader(1))) == [3, 4]
    with pytest.raises(KeyboardInterrupt):
        list(start_workers(loader(0)))


def test_ctrl_c_waits_until_the_workers_have_started(interruptible):
    started = []

    class Loader:
        num_workers = 1

        def __iter__(self):
            interrupt_itself(self)
            started.append(self)
            return iter([])

    with pytest.raises(KeyboardInterrupt):
        start_workers(Loader())
    assert started
