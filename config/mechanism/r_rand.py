# R-Rand: a random subset of the patches at every training step, all of them in eval. 4.2M
# parameters.
#   python train.py config/data/coco.py config/mechanism/r_rand.py
# The paper (DePALM, Table 1), to be run on GPUs: COCO 134.90, COCO 1% 86.84, VQAv2 71.33, AudioCaps
# 41.37, MSR-VTT 47.90.
# On the papers' data sets: the released run's learning rate, clip and batch (config/papers.py).
from config.papers import depalm

connector = 'r_rand'
activation = 'none'
n_targets, last_target, keep_to_end = 1, 0, True
n_prompt = 1
learning_rate = 1e-3


def recipe(knobs):
    return depalm('r_rand', knobs)
