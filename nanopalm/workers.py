"""
The processes that load files.
"""

import sys


def worker_options(num_workers):
    """Returns the arguments of a DataLoader for so many worker processes. Workers are forked, for
    train.py is a script at module level, which a worker that starts anew would run again. Where
    forking is unsafe or unknown (macOS, Windows), files are loaded by the main process."""
    if not num_workers or not sys.platform.startswith('linux'):
        return dict(num_workers=0)
    return dict(num_workers=num_workers, multiprocessing_context='fork')
