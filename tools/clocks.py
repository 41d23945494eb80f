"""
Clocks and scales of tools/bench.py.
"""
import gc
import os
import statistics
import time
import weakref
from collections import Counter
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nanopalm.logs import peak_memory


def forget_peak_memory(device):
    """From here on peak_memory is anew, on a GPU and on Linux; elsewhere a process cannot forget its peak."""
    if device.startswith('cuda'):
        torch.cuda.reset_peak_memory_stats()
    elif os.path.exists('/proc/self/clear_refs'):
        Path('/proc/self/clear_refs').write_text('5')


def seconds_of(device, f):
    wait = torch.cuda.synchronize if device.startswith('cuda') else lambda: None
    wait()
    began = time.perf_counter()
    f()
    wait()
    return time.perf_counter() - began


def alternate(device, repeats, slow, **ways):
    """Every function in turn, so often; the one called `naive` once if it takes more than `slow` seconds. Returns {way: dict(seconds: median,
    all: of every repeat, gb: peak memory)}. What is random in them is the same for all."""
    times, gb = {way: [] for way in ways}, dict.fromkeys(ways, 0.0)
    gc.collect()
    for repeat in range(repeats):
        for way, f in ways.items():
            if repeat and way == 'naive' and times[way][0] > slow:
                continue
            torch.manual_seed(repeat)
            forget_peak_memory(device)
            times[way].append(seconds_of(device, f))
            gb[way] = max(gb[way], peak_memory(device))
    return {way: dict(seconds=statistics.median(s), all=[round(x, 6) for x in s], gb=gb[way]) for way, s in times.items()}


class PeakBytes(TorchDispatchMode):
    """The most bytes that tensors made within it, but for the ignored storages, take at one time: `peak`."""

    def __init__(self, ignored):
        super().__init__()
        self.now = self.peak = 0
        self.seen = weakref.WeakSet(ignored)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for storage in [t.untyped_storage() for t in tree_leaves(out) if isinstance(t, torch.Tensor)]:
            if storage not in self.seen:
                self.seen.add(storage)
                self.now += storage.nbytes()
                weakref.finalize(storage, self.forget, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def forget(self, nbytes):
        self.now -= nbytes


def time_shares(device, f, places):
    """Seconds that f() spends in each of places [(name, object, method)], and in the rest, 'other'; what is inside of another is taken from it."""
    spent, inside = Counter(), []

    def timed(name, method):
        def call(*args, **kwargs):
            out = []
            inside.append(name)
            seconds = seconds_of(device, lambda: out.append(method(*args, **kwargs)))
            inside.pop()
            spent[name] += seconds
            if inside:
                spent[inside[-1]] -= seconds
            return out[0]
        return call
    before = [vars(owner).get(method) for _, owner, method in places]               # a class's own method, or none of the object's own
    for name, owner, method in places:
        setattr(owner, method, timed(name, getattr(owner, method)))
    try:
        timed('other', f)()
    finally:
        for (_, owner, method), own in zip(places, before):
            delattr(owner, method) if own is None else setattr(owner, method, own)
    return {name: spent[name] for name in [*(name for name, _, _ in places), 'other']}
