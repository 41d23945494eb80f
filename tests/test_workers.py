"""
nanopalm/workers.py: the processes that load files.
"""

import sys

from nanopalm.workers import worker_options


def test_workers_are_forked_on_linux_alone(monkeypatch):
    """A worker that starts anew would run train.py, a script, once more."""
    monkeypatch.setattr(sys, 'platform', 'linux')
    assert worker_options(2) == dict(num_workers=2, multiprocessing_context='fork')
    assert worker_options(0) == dict(num_workers=0)
    for platform in ('darwin', 'win32'):
        monkeypatch.setattr(sys, 'platform', platform)
        assert worker_options(2) == dict(num_workers=0)
