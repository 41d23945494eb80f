"""
Measures time and memory for tools/bench.py.
"""

import contextlib
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

from nanopalm.allocator import give_back_freed_memory
from nanopalm.logs import peak_memory

# ---- comparing two ways of computing the same ----------------------------------------------------


def alternate(device, repeats, slow, **ways):
    """Calls every function in turn, `repeats` times over, so that a machine that slows down slows
    all of them. What is random in them is the same for all. The way called `naive` runs only once
    if that takes more than `slow` seconds.

    Returns {way: dict(seconds=median, all=[seconds of every repeat], gb=peak memory)}."""
    seconds = {way: [] for way in ways}
    gigabytes = dict.fromkeys(ways, 0.0)
    gc.collect()
    for repeat in range(repeats):
        for way, function in ways.items():
            if way == 'naive' and repeat > 0 and seconds[way][0] > slow:
                continue
            torch.manual_seed(repeat)
            reset_peak_memory(device)
            seconds[way].append(seconds_of(device, function))
            gigabytes[way] = max(gigabytes[way], peak_memory(device))
    result = {}
    for way in ways:
        result[way] = dict(
            seconds=statistics.median(seconds[way]),
            all=[round(each, 6) for each in seconds[way]],
            gb=gigabytes[way],
        )
    return result


def seconds_of(device, function):
    """Returns the seconds that function() takes, with all it starts on a GPU."""
    synchronize(device)
    began = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - began


def synchronize(device):
    """Waits until a GPU has done all that it was given."""
    if device.startswith('cuda'):
        torch.cuda.synchronize()


# ---- memory --------------------------------------------------------------------------------------


def reset_peak_memory(device):
    """Makes peak_memory() measure from here on, on a GPU and on Linux; on another system a process
    cannot reset its peak."""
    if device.startswith('cuda'):
        torch.cuda.reset_peak_memory_stats()
    elif os.path.exists('/proc/self/clear_refs'):
        give_back_freed_memory()
        Path('/proc/self/clear_refs').write_text('5')


class PeakBytes(TorchDispatchMode):
    """A context in which `now` is the number of bytes of all tensors made in it that are still
    alive, and `peak` the most there were at one time. The storages in `ignored` do not count."""

    def __init__(self, ignored):
        super().__init__()
        self.now = 0
        self.peak = 0
        self.seen = weakref.WeakSet(ignored)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor):
                self.count(tensor.untyped_storage())
        self.peak = max(self.peak, self.now)
        return output

    def count(self, storage):
        """Counts a storage, once however many tensors are views of it, until it is freed."""
        if storage not in self.seen:
            self.seen.add(storage)
            self.now += storage.nbytes()
            weakref.finalize(storage, self.forget, storage.nbytes())

    def forget(self, nbytes):
        self.now -= nbytes


# ---- profiling -----------------------------------------------------------------------------------


def time_shares(device, function, places):
    """Returns {place: seconds} that function() spends in each of the places [(name, object, name of
    its method)], and in the rest, 'other'. The time of a place that is called by another counts
    for the inner one alone."""
    seconds = Counter()
    # names of the places that are running, from the outermost to the innermost
    running = []

    def timed(name, method):
        def call(*args, **kwargs):
            outputs = []

            def run():
                outputs.append(method(*args, **kwargs))

            running.append(name)
            elapsed = seconds_of(device, run)
            running.pop()
            seconds[name] += elapsed
            if running:
                seconds[running[-1]] -= elapsed
            return outputs[0]

        return call

    with contextlib.ExitStack() as stack:
        for name, owner, method in places:
            replacement = timed(name, getattr(owner, method))
            stack.enter_context(replaced_method(owner, method, replacement))
        timed('other', function)()
    names = [name for name, _, _ in places]
    return {name: seconds[name] for name in [*names, 'other']}


@contextlib.contextmanager
def replaced_method(owner, method, replacement):
    """Replaces a method of a class or of one object while the context lasts."""
    is_own = method in vars(owner)
    original = vars(owner).get(method)
    setattr(owner, method, replacement)
    try:
        yield
    finally:
        if is_own:
            setattr(owner, method, original)
        else:
            # the object's class has it
            delattr(owner, method)
