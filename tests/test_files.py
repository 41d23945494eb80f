"""
Files that are written completely or not at all, and folders that cannot be written to.
`pytest tests/test_files.py`
"""

import errno
from pathlib import Path

import pytest

from nanopalm import files
from nanopalm.examples import BadData
from nanopalm.files import writable_folder, write_atomically


def test_a_file_is_replaced_in_one_step(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('old')

    def write(temporary):
        Path(temporary).write_text('new')

    write_atomically(path, write)
    assert path.read_text() == 'new'
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('error', [OSError, RuntimeError])
def test_a_failure_half_way_leaves_the_old_file(tmp_path, error):
    """safetensors and torch.save raise other errors than OSError when the disk is full."""
    path = tmp_path / 'a.txt'
    path.write_text('old')

    def write(temporary):
        Path(temporary).write_text('half')
        raise error('No space left on device')

    with pytest.raises(OSError, match='a.txt could not be written .No space left'):
        write_atomically(path, write)
    assert path.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_run_leaves_the_old_file(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('old')

    def write(temporary):
        Path(temporary).write_text('half')
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, write)
    assert path.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [path]


def test_a_cache_that_cannot_be_written_is_kept_with_the_run(tmp_path, monkeypatch):
    """As in a read-only checkout."""
    cache_dir = tmp_path / 'checkout/cache'
    out_dir = tmp_path / 'run'
    assert writable_folder(cache_dir, out_dir) == cache_dir
    assert list(cache_dir.iterdir()) == []
    for number in (errno.EROFS, errno.EACCES):

        def refuse(number=number, **options):
            raise OSError(number, 'refused')

        monkeypatch.setattr(files.tempfile, 'TemporaryFile', refuse)
        assert writable_folder(cache_dir, out_dir) == out_dir / 'cache'
        assert (out_dir / 'cache').is_dir()


def test_a_cache_folder_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / 'cache').write_text('a file')
    with pytest.raises(BadData, match='cache_dir='):
        writable_folder(tmp_path / 'cache', tmp_path / 'run')
