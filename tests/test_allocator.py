"""nanopalm/allocator.py: glibc is told to keep freed memory, unless it was told something else, or
is not there."""

import types

import pytest

from nanopalm import allocator

# of glibc's malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3


@pytest.fixture
def calls(monkeypatch):
    """The arguments of the calls of mallopt, which does nothing else. No variable is set."""
    for name in list(allocator.os.environ):
        if name.startswith('MALLOC_') or name == 'GLIBC_TUNABLES':
            monkeypatch.delenv(name)
    calls = []

    def mallopt(parameter, value):
        calls.append((parameter, value))
        return 1

    library = types.SimpleNamespace(mallopt=mallopt)
    monkeypatch.setattr(allocator.ctypes, 'CDLL', lambda name: library)
    return calls


def test_freed_memory_below_a_gigabyte_is_kept(calls):
    allocator.keep_freed_memory()
    # each value is a C int
    assert calls == [(M_MMAP_THRESHOLD, 2**30), (M_TRIM_THRESHOLD, 2**30)]


@pytest.mark.parametrize(
    'name',
    ['MALLOC_MMAP_THRESHOLD_', 'MALLOC_ARENA_MAX', 'MALLOC_TRIM_THRESHOLD_', 'GLIBC_TUNABLES'],
)
def test_nothing_is_changed_where_a_variable_of_glibc_is_set(name, calls, monkeypatch):
    monkeypatch.setenv(name, '1000000')
    allocator.keep_freed_memory()
    assert calls == []


def test_nothing_happens_where_there_is_no_mallopt(calls, monkeypatch):
    monkeypatch.setattr(allocator.ctypes, 'CDLL', lambda name: types.SimpleNamespace())
    allocator.keep_freed_memory()
    assert calls == []
