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
    """Returns an iterator over a DataLoader whose workers do not see Ctrl-C, which a terminal sends
    to all processes: the main process ends its workers. One that is interrupted while it starts
    would fail with a traceback of its own, or leave the main process waiting for it."""
    if not loader.num_workers:
        return iter(loader)
    # a forked process has the same signals blocked, and keeps them so
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        return iter(loader)
    finally:
        # one that came meanwhile is raised here
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
