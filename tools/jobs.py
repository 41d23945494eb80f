"""
Runs scripts for tools/compare.py, several at a time, each on its part of the machine.
"""

import os
import queue
import signal
import subprocess
import threading

import torch


class Machine:
    """A machine in n parts: scripts that are run from several threads wait for a part that is free.
    A part is a GPU where there are n of them, and else an equal share of the CPU's cores."""

    def __init__(self, n):
        # of a part: what is in the environment of its scripts
        self.free = queue.SimpleQueue()
        for environment in parts_of(n, torch.cuda.device_count(), os.cpu_count()):
            self.free.put(environment)
        self.running = set()
        self.closed = False
        # so that no script starts while the machine is closed
        self.lock = threading.Lock()

    def run(self, command, log):
        """Runs a command on a part of the machine, and appends what it prints to a log. Returns its
        exit status, below zero if it was killed."""
        environment = self.free.get()
        try:
            with open(log, 'a', encoding='utf-8') as file:
                options = dict(stdout=file, stderr=subprocess.STDOUT, env=os.environ | environment)
                with self.lock:
                    if self.closed:
                        return -signal.SIGTERM
                    process = subprocess.Popen(command, **options)
                    self.running.add(process)
            status = process.wait()
            self.running.remove(process)
            return status
        finally:
            self.free.put(environment)

    def close(self):
        """Ends all scripts that are running. None is started any more."""
        with self.lock:
            self.closed = True
            for process in self.running:
                process.terminate()


def parts_of(n, n_gpus, n_cores):
    """Returns what is in the environment of each of n parts: {variable: value}."""
    if n == 1:
        return [{}]
    if n_gpus < n:
        return [{'OMP_NUM_THREADS': str(max(1, n_cores // n))}] * n
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    gpus = visible.split(',') if visible else range(n_gpus)
    return [{'CUDA_VISIBLE_DEVICES': str(gpus[part])} for part in range(n)]
