"""
The scripts on machines unlike this one: another locale, a home folder or a checkout that cannot be written, one thread or many.
`pytest tests/test_environment.py`
"""
import errno
import os
import subprocess
import sys

import pytest
from conftest import ROOT, flags

import configurator
import data

TINY = dict(device='cpu', dtype='float32', adapter_dim=32, mapper_heads=4, n_queries=4, batch_size=8, max_iters=2, num_workers=2)


def run_in(environment, script, **knobs):
    """The script in an interpreter of its own; it must end well and complain of nothing. Returns its stdout."""
    done = subprocess.run([sys.executable, script, *flags(**knobs)], cwd=ROOT, env=os.environ | environment, capture_output=True)
    out, err = done.stdout.decode(errors='replace'), done.stderr.decode(errors='replace')
    assert done.returncode == 0, out + err
    for complaint in ('Traceback', 'Warning', 'Matplotlib', 'mkdir'):
        assert complaint not in err, err
    return out


# the last has a terminal that cannot show letters that are not in ASCII
@pytest.mark.parametrize('environment, folder', [
    (dict(LC_ALL='C'), 'ein Ordner, übrigens'), (dict(HOME='/proc'), 'run'), (dict(OMP_NUM_THREADS='1'), 'run'),
    (dict(OMP_NUM_THREADS='5'), 'run'), (dict(PYTHONIOENCODING='ascii'), 'ein Ordner, übrigens')],
    ids=['C locale', 'no home', '1 thread', '5 threads', 'ASCII terminal'])
def test_a_run_and_its_captions(environment, folder, llm, encoder, pictures, tmp_path):
    out_dir = tmp_path / folder
    run_in(environment, 'train.py', **TINY, llm=llm, encoder=encoder, dataset=pictures, out_dir=out_dir, cache_features=True,
           cache_dir=tmp_path / 'cache')
    run_in(environment, 'eval_caption.py', out_dir=out_dir, device='cpu', dtype='float32', max_new_tokens=4)
    text = run_in(environment, 'sample.py', out_dir=out_dir, device='cpu', dtype='float32', max_new_tokens=4, input=pictures / 'images/0.png')
    assert text.startswith(str(pictures))


def test_a_cache_that_cannot_be_written_is_kept_with_the_run(tmp_path, monkeypatch):
    """As in a read-only checkout."""
    cache_dir, out_dir = tmp_path / 'checkout/cache', tmp_path / 'run'
    assert data.writable_folder(cache_dir, out_dir) == cache_dir and list(cache_dir.iterdir()) == []
    for number in (errno.EROFS, errno.EACCES):
        def refuse(**where):
            raise OSError(number, 'refused')
        monkeypatch.setattr(data.tempfile, 'TemporaryFile', refuse)
        assert data.writable_folder(cache_dir, out_dir) == out_dir / 'cache' and (out_dir / 'cache').is_dir()


def test_without_any_home_folder(monkeypatch):
    """In a container under a user that has no entry."""
    def refuse():
        raise RuntimeError('Could not determine home directory.')
    monkeypatch.setattr(configurator.Path, 'home', refuse)
    monkeypatch.delenv('MPLCONFIGDIR', raising=False)
    configurator.settle_environment()
    assert os.environ['MPLCONFIGDIR']
