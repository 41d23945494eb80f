"""What tools/clocks.py measures, on functions whose time and memory are known."""

import sys
import time

import pytest
import torch

from nanopalm.allocator import keep_freed_memory
from nanopalm.logs import peak_memory
from tools.clocks import PeakBytes, alternate, reset_peak_memory, time_shares


def test_peak_bytes_counts_each_storage_once_and_as_long_as_it_lives():
    weight = torch.ones(1000)
    with PeakBytes(ignored=[weight.untyped_storage()]) as memory:
        a = weight * 2
        assert memory.now == 4000
        b = a + weight
        assert memory.now == 8000
        # a view is of the same storage
        b = b[:10].view(2, 5)
        assert memory.now == 8000
        del a
        c = b + 1
        assert memory.now == 4040
        assert memory.peak == 8000
        assert c.shape == (2, 5)


def test_ways_alternate_and_draw_the_same_random_numbers():
    calls = []

    def ours():
        calls.append(('ours', torch.rand(()).item()))

    def naive():
        calls.append(('naive', torch.rand(()).item()))

    times = alternate('cpu', 3, 20.0, ours=ours, naive=naive)
    assert [way for way, _ in calls] == ['ours', 'naive'] * 3
    numbers = [number for _, number in calls]
    assert numbers[0::2] == numbers[1::2]
    assert len(set(numbers)) == 3
    for way in ('ours', 'naive'):
        assert len(times[way]['all']) == 3
        assert times[way]['seconds'] == pytest.approx(sorted(times[way]['all'])[1], abs=1e-6)
        assert times[way]['gb'] > 0


def test_a_slow_reference_implementation_is_timed_once():
    calls = []

    def ours():
        calls.append('ours')

    def naive():
        calls.append('naive')
        time.sleep(0.01)

    times = alternate('cpu', 3, 0.001, ours=ours, naive=naive)
    assert calls == ['ours', 'naive', 'ours', 'ours']
    assert len(times['naive']['all']) == 1


@pytest.mark.skipif(sys.platform != 'linux', reason='elsewhere a process cannot reset its peak')
def test_a_new_measurement_of_memory_forgets_the_old_peak():
    # as in every script on a CPU, where freed memory is not given back by itself
    keep_freed_memory()
    # 200 MB
    block = torch.ones(50_000_000)
    peak = peak_memory('cpu')
    del block
    reset_peak_memory('cpu')
    assert peak_memory('cpu') < peak - 0.1


class Clock:
    """A clock that stands still but for those who say that they take some seconds."""

    seconds = 0.0

    def read(self):
        return self.seconds

    def take(self, seconds):
        self.seconds += seconds


class Machine:
    """`work` calls `part`, and both take their time."""

    def __init__(self, clock):
        self.clock = clock

    def work(self, seconds):
        self.clock.take(seconds)
        return self.part(seconds) + 1

    def part(self, seconds):
        self.clock.take(2 * seconds)
        return 1


def test_the_time_of_an_inner_place_does_not_count_for_the_outer_one(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, 'perf_counter', clock.read)
    machine = Machine(clock)
    results = []

    def run():
        clock.take(1)
        results.append(machine.work(2))

    places = [('work', Machine, 'work'), ('part', machine, 'part')]
    seconds = time_shares('cpu', run, places)
    assert results == [2]
    assert list(seconds) == ['work', 'part', 'other']
    assert seconds == dict(work=2, part=4, other=1)


def test_methods_are_put_back_also_after_an_error():
    machine = Machine(Clock())
    work = Machine.work

    def fail():
        raise KeyError('a mistake')

    with pytest.raises(KeyError):
        time_shares('cpu', fail, [('work', Machine, 'work'), ('part', machine, 'part')])
    assert Machine.work is work
    assert 'part' not in vars(machine)
