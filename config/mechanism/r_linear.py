# R-Linear: one Linear on every 2x2 patches side by side. 88.1M parameters.
#   python train.py config/data/coco.py config/mechanism/r_linear.py
# The paper (DePALM, Table 1), to be run on GPUs: COCO 133.01, COCO 1% 85.31, VQAv2 64.76, AudioCaps
# 40.92, MSR-VTT 51.60.
# On the papers' data sets: the released run's learning rate, clip and batch (config/papers.py).
from config.papers import depalm

connector = 'r_linear'
adapter_dim = 0                     # the LLM's
reduction = 4
activation = 'none'
n_targets, last_target, keep_to_end = 1, 0, True
n_prompt = 1
learning_rate = 1e-3


def recipe(knobs):
    return depalm('r_linear', knobs)
