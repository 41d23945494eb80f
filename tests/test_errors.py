"""
nanopalm/errors.py: a user's mistake ends with one sentence, a bug with its traceback.
"""

import sys

import pytest

from nanopalm.errors import explain_errors, how_to_make
from nanopalm.examples import BadData


@pytest.fixture
def explained(monkeypatch, capsys):
    """explained(error) returns what a script prints to stderr that ends with the error."""
    monkeypatch.setattr(sys, 'excepthook', sys.excepthook)
    explain_errors(on_full_disk='make room', on_interrupt='interrupted: resume it')

    def explained(error):
        try:
            raise error
        except BaseException:
            sys.excepthook(*sys.exc_info())
        return capsys.readouterr().err

    return explained


@pytest.mark.parametrize('kind', [BadData, FileNotFoundError, ValueError, ImportError])
def test_a_mistake_is_its_message_alone(kind, explained):
    assert explained(kind('batch_size=0: expected 1 or more')) == (
        'batch_size=0: expected 1 or more\n'
    )


def test_a_full_disk_says_what_was_saved(explained):
    assert explained(OSError('No space left on device')) == 'No space left on device: make room\n'


def test_ctrl_c_says_how_to_go_on(explained):
    assert explained(KeyboardInterrupt()) == 'interrupted: resume it\n'


def test_a_bug_has_a_traceback(explained):
    text = explained(ZeroDivisionError('division by zero'))
    assert text.startswith('Traceback')
    assert text.endswith('ZeroDivisionError: division by zero\n')


def test_an_error_of_the_disk_may_stand_alone(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'excepthook', sys.excepthook)
    explain_errors()
    sys.excepthook(OSError, OSError('No space left on device'), None)
    assert capsys.readouterr().err == 'No space left on device\n'


def test_a_folder_of_the_demos_that_is_missing_can_be_made():
    assert how_to_make('data/emoji/') == '; `python prepare.py demo` makes it'
    assert how_to_make('my/pictures') == ''
