"""
The scripts on machines unlike this one: another locale, no home folder, one thread or many.
"""

import os
import subprocess
import sys

import pytest
from conftest import ROOT, TINY, flags

import configurator

SMALL = TINY | dict(max_iters=2, num_workers=2)


def run_in(environment, script, **hyperparameters):
    """Runs the script in an interpreter of its own, which must end well and complain of nothing.
    Returns what it printed."""
    command = [sys.executable, script, *flags(**hyperparameters)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True)
    out = done.stdout.decode(errors='replace')
    err = done.stderr.decode(errors='replace')
    assert done.returncode == 0, out + err
    for complaint in ('Traceback', 'Warning', 'Matplotlib', 'mkdir'):
        assert complaint not in err, err
    return out


@pytest.mark.slow
@pytest.mark.parametrize(
    'environment, folder',
    [
        pytest.param(dict(LC_ALL='C'), 'ein Ordner, übrigens', id='C locale'),
        pytest.param(dict(HOME='/proc'), 'run', id='no home'),
        pytest.param(dict(OMP_NUM_THREADS='1'), 'run', id='1 thread'),
        pytest.param(dict(OMP_NUM_THREADS='5'), 'run', id='5 threads'),
        # it cannot show letters that are not in ASCII
        pytest.param(dict(PYTHONIOENCODING='ascii'), 'ein Ordner, übrigens', id='ASCII terminal'),
    ],
)
def test_a_run_and_its_captions(environment, folder, llm, encoder, pictures, tmp_path):
    out_dir = tmp_path / folder
    models = dict(llm=llm, encoder=encoder)
    cache = dict(cache_features=True, cache_dir=tmp_path / 'cache')
    run_in(environment, 'train.py', **SMALL, **models, **cache, dataset=pictures, out_dir=out_dir)
    options = dict(out_dir=out_dir, device='cpu', dtype='float32', max_new_tokens=4)
    run_in(environment, 'eval_caption.py', **options)
    text = run_in(environment, 'sample.py', **options, input=pictures / 'images/0.png')
    assert text.startswith(str(pictures))


def test_a_machine_without_a_home_folder_is_no_reason_to_fail(monkeypatch):
    """As in a container under a user that has no entry."""

    def refuse():
        raise RuntimeError('Could not determine home directory.')

    monkeypatch.setattr(configurator.Path, 'home', refuse)
    monkeypatch.delenv('MPLCONFIGDIR', raising=False)
    configurator.settle_environment()
    assert os.environ['MPLCONFIGDIR']
