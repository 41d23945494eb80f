# R-AvgPool, as the paper's code ran it: over channels (--connector=r_avgpool_tokens pools tokens,
# as the paper says). 21.0M parameters.
#   python train.py config/data/coco.py config/mechanism/r_avgpool.py
# The paper (DePALM, Table 1), to be run on GPUs: COCO 131.77, COCO 1% 86.09, VQAv2 64.84, AudioCaps
# 41.54, MSR-VTT 50.52.
# On the papers' data sets: the released run's learning rate, clip and batch (config/papers.py).
from config.papers import depalm

connector = 'r_avgpool'
adapter_dim = 0                     # the LLM's
reduction = 4
activation = 'none'
n_targets, last_target, keep_to_end = 1, 0, True
n_prompt = 1
learning_rate = 1e-3


def recipe(knobs):
    return depalm('r_avgpool', knobs)
