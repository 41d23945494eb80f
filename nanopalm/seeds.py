"""
Random numbers that are a function of what they are for.
"""
import numpy as np


def seeded(*numbers):
    """One integer from (seed, epoch, row, ...)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
