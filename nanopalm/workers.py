"""
The processes that load files.
"""

import signal
import sys


def worker_options(num_workers):
    """Returns the arguments of a DataLoader for so many worker processes. Workers are forked, for
    train.py is a script at module level, which a worker that starts anew would run again. Where
    forking is unsafe or unknown (macOS, Windows), files are loaded by the main process."""
    if not num_workers or not sys.platform.startswith('linux'):
        return dict(num_workers=0)
    return dict(num_workers=num_workers, multiprocessing_context='fork')


def start_workers(loader):
    """Returns an iterator over a DataLoader whose workers ignore Ctrl-C, which a terminal sends to
    all processes: the main process ends its workers. One that is interrupted while it starts would
    fail with a traceback of its own, or leave the main process waiting for it."""
    if not loader.num_workers:
        return iter(loader)
    interrupts = []
    # a forked process has the same handlers, and keeps them
    before = signal.signal(signal.SIGINT, lambda *_: interrupts.append(True))
    try:
        iterator = iter(loader)
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupts:
        # it came too early, and is for the handler that was there
        signal.raise_signal(signal.SIGINT)
    return iterator
