"""
Files that are whole or not there.
"""
import errno
import os
import tempfile
from pathlib import Path

from nanopalm.examples import BadData


def write_atomically(path, write):
    """write(temporary path), then rename: a killed run or a full disk never leaves half a file under the name."""
    temporary = f'{path}.tmp'
    try:
        write(temporary)
        os.replace(temporary, path)
    except Exception as e:                                      # safetensors and torch.save raise no OSError when a disk is full
        raise OSError(f'{path} could not be written ({e})') from e
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def writable_folder(cache_dir, out_dir):
    """Returns cache_dir, made if need be, or where it cannot be written, in a read-only checkout say, `cache` in out_dir.
    Raises BadData for one that can never be a folder."""
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache_dir):
            return cache_dir
    except OSError as e:
        if e.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise BadData(f'cache_dir={str(cache_dir)!r}: {e}') from e
    folder = Path(out_dir) / 'cache'
    folder.mkdir(parents=True, exist_ok=True)
    return folder
