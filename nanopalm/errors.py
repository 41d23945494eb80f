"""
A user's mistake ends with one sentence that says what to do, not with a traceback.
"""

import sys

from nanopalm.examples import BadData

MISTAKES = (BadData, FileNotFoundError, ValueError, ImportError)


def explain_errors(on_full_disk='', on_interrupt='interrupted'):
    """From here on, exceptions that stand for a user's mistake, or for a disk that is full, end the
    script with their message. on_full_disk is added to that of an OSError."""

    def hook(kind, error, traceback):
        if issubclass(kind, MISTAKES):
            print(error, file=sys.stderr)
        elif issubclass(kind, OSError):
            print(f'{error}: {on_full_disk}' if on_full_disk else error, file=sys.stderr)
        elif issubclass(kind, KeyboardInterrupt):
            print(on_interrupt, file=sys.stderr)
        else:
            sys.__excepthook__(kind, error, traceback)

    sys.excepthook = hook
