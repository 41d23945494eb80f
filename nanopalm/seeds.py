"""
Random seeds that depend only on what they are used for.
"""

import numpy as np


def seeded(*numbers):
    """Returns a seed (an integer of 64 bits) that is a function of these integers, for instance of
    (seed, epoch, index of the example): the same wherever a run was interrupted or resumed."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
