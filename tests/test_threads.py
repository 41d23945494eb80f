"""
nanopalm/__init__.py: how torch's threads wait is said before torch is imported.
"""

import subprocess
import sys

import pytest
from conftest import ROOT

# prints the variable when torch is looked for, and then the help of the script
SCRIPT = """
import importlib.abc, os, runpy, sys

class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == 'torch':
            print('GOMP_SPINCOUNT =', os.environ.get('GOMP_SPINCOUNT'))

sys.meta_path.insert(0, Watch())
script = sys.argv[1]
sys.argv = [script, '--help']
sys.path.insert(0, '.')
run = runpy.run_path if script.endswith('.py') else runpy.run_module
run(script, run_name='__main__')
"""
SCRIPTS = ['train.py', 'sample.py', 'eval_caption.py', 'eval_vqa.py', 'tools.linear_limit']


def spin_count(script, monkeypatch, **variables):
    for name in ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY'):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, '-c', SCRIPT, script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[0].removeprefix('GOMP_SPINCOUNT = ')


@pytest.mark.slow
@pytest.mark.parametrize('script', SCRIPTS)
def test_threads_wait_a_short_time_in_a_loop(script, monkeypatch):
    assert spin_count(script, monkeypatch) == '1000'


@pytest.mark.slow
def test_what_the_user_says_of_it_stays(monkeypatch):
    assert spin_count('train.py', monkeypatch, GOMP_SPINCOUNT='7') == '7'
    assert spin_count('train.py', monkeypatch, OMP_WAIT_POLICY='ACTIVE') == 'None'
