"""
A user's mistake ends with one sentence that says what to do, not with a traceback.
"""

import sys

from nanopalm.examples import BadData

MISTAKES = (BadData, FileNotFoundError, ValueError, ImportError)
# the folders that the demos need, and which name of prepare.py makes them
MADE_BY = {
    'data/emoji': 'demo',
    'data/stamps': 'stamps',
    'data/easy_vqa': 'demo-vqa',
    'data/easy_vqa_balanced': 'demo-vqa',
    'data/easy_vqa_colours': 'demo-vqa',
    'data/spoken_names': 'demo-audio',
    'data/models/smollm2-135m': 'demo',
    'data/models/efficientnet-lite0': 'demo',
    'data/models/efficientnet-lite2': 'demo --encoder=lite2',
    'data/models/whisper-tiny': 'demo-audio',
}


def how_to_make(folder):
    """Returns the command that makes a folder of the demos, as the end of a sentence; '' for any
    other."""
    name = MADE_BY.get(str(folder).rstrip('/'))
    return f'; `python prepare.py {name}` makes it' if name else ''


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
