"""
Runs scripts for tools/compare.py, several at a time, each on its part of the machine.
"""

import os
import queue
import subprocess
import threading

import torch

# that a script has to end by itself
SECONDS_TO_END = 10


class Closed(Exception):
    """The machine is closed: no script is started any more, and what ran has been ended."""


class Machine:
    """A machine in n parts: scripts that are run from several threads wait for a part that is free.
    A part is an equal share of the CPU's threads and, where there are GPUs, one of them."""

    def __init__(self, n):
        # of a part: what is in the environment of its scripts
        self.free = queue.SimpleQueue()
        for environment in parts_of(n, torch.cuda.device_count(), torch.get_num_threads()):
            self.free.put(environment)
        self.running = set()
        self.closed = False
        # held while `running` or `closed` changes
        self.lock = threading.Lock()

    def run(self, command, log):
        """Runs a command on a part of the machine, and appends what it prints to a log. Returns its
        exit status, below zero if it was killed. Raises Closed."""
        environment = self.free.get()
        try:
            with open(log, 'a', encoding='utf-8') as file:
                options = dict(stdout=file, stderr=subprocess.STDOUT, env=os.environ | environment)
                with self.lock:
                    if self.closed:
                        raise Closed
                    process = subprocess.Popen(command, **options)
                    self.running.add(process)
            status = process.wait()
            with self.lock:
                self.running.remove(process)
                if self.closed:
                    raise Closed
            return status
        finally:
            self.free.put(environment)

    def close(self):
        """Ends all scripts that are running; none is started any more."""
        with self.lock:
            self.closed = True
            running = list(self.running)
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                process.kill()


def parts_of(n, n_gpus, n_threads):
    """Returns what is in the environment of each of n parts: {variable: value}. Where there are
    fewer GPUs than parts, some share one."""
    if n == 1:
        return [{}]
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    gpus = visible.split(',') if visible else range(n_gpus)
    parts = []
    for i in range(n):
        part = {'OMP_NUM_THREADS': str(max(1, n_threads // n))}
        if n_gpus:
            part['CUDA_VISIBLE_DEVICES'] = str(gpus[i % n_gpus])
        parts.append(part)
    return parts
