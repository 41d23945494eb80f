"""
Files that are written completely or not at all, and a folder that can be written to.
"""

import errno
import os
import tempfile
from pathlib import Path

from nanopalm.examples import BadData


def write_atomically(path, write):
    """Calls write(temporary path) and then renames the file to `path`, so that a killed run or a
    full disk never leaves half a file under that name. Raises OSError where it cannot be
    written."""
    temporary = f'{path}.tmp'
    try:
        write(temporary)
        os.replace(temporary, path)
    except Exception as error:
        # safetensors and torch.save do not raise an OSError when the disk is full
        raise OSError(f'{path} could not be written ({error})') from error
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def lock_folder(folder, wait=False):
    """Makes a folder and holds it for this process. Returns the file that is locked: when it is
    closed, or the process ends, the folder is free. Where another process holds it, this waits or
    raises ValueError. On Windows nothing is held, nor on a file system that knows no locks."""
    os.makedirs(folder, exist_ok=True)
    file = open(f'{folder}/.lock', 'a')
    try:
        import fcntl

        # unlike flock's, it is not held on by workers that outlive a killed run
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        if not wait:
            file.close()
            raise ValueError(
                f'{folder}: another process is at work there; wait for it, or give another folder'
            ) from error
        print(f'{folder}: waiting for another process that is at work there', flush=True)
        fcntl.lockf(file, fcntl.LOCK_EX)
    except (ImportError, OSError):
        # there are no locks here, and a training is worth more than one
        pass
    return file


def writable_folder(cache_dir, out_dir):
    """Returns cache_dir, which is made where it does not exist. Where it may not be written to, as
    in a read-only checkout, returns the folder `cache` in out_dir instead. Raises BadData where
    cache_dir cannot be a folder at all."""
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache_dir):
            return cache_dir
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise BadData(f'cache_dir={str(cache_dir)!r}: {error}') from error
    folder = Path(out_dir) / 'cache'
    folder.mkdir(parents=True, exist_ok=True)
    return folder
