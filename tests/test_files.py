"""
Files that are written completely or not at all, and folders that cannot be written to.
`pytest tests/test_files.py`
"""

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from nanopalm import files
from nanopalm.examples import BadData
from nanopalm.files import lock_folder, writable_folder, write_atomically


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


HOLDER = """
import sys, time
from nanopalm.files import lock_folder
lock = lock_folder(sys.argv[1])
print('held', flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def hold():
    """hold(folder, seconds) starts a process that holds the folder, and returns it."""
    holders = []

    def hold(folder, seconds):
        command = [sys.executable, '-c', HOLDER, str(folder), str(seconds)]
        holder = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        holders.append(holder)
        assert holder.stdout.readline() == b'held\n'
        return holder

    yield hold
    for holder in holders:
        holder.kill()
        holder.wait()


no_windows = pytest.mark.skipif(sys.platform == 'win32', reason='Windows has other locks')


@no_windows
def test_a_folder_is_held_until_the_process_ends(tmp_path, hold):
    folder = tmp_path / 'run'
    holder = hold(folder, 60)
    with pytest.raises(ValueError, match='another process is at work there'):
        lock_folder(folder)
    holder.kill()
    holder.wait()
    lock_folder(folder).close()


@no_windows
def test_one_may_wait_for_a_folder(tmp_path, hold, capsys):
    hold(tmp_path, 0.5)
    lock_folder(tmp_path, wait=True).close()
    assert 'waiting for another process' in capsys.readouterr().out
