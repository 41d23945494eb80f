# eP-ALM as DePALM runs it, with OPT too: CLS of the last 6 blocks into 6 inner layers. 4.3M
# parameters.
#   python train.py config/data/coco.py config/mechanism/epalm.py
# The paper (DePALM, Table 1), to be run on GPUs: COCO 115.34, COCO 1% 64.65, VQAv2 59.34, AudioCaps
# 38.13, MSR-VTT 38.83.
# On the papers' data sets: the released run's learning rate, clip and batch (config/papers.py).
from config.papers import depalm

connector = 'linear'
source_tokens = 'cls'
activation = 'none'
source_layers = 6
n_targets, last_target, keep_to_end = 6, -4, False
token_norm = token_bias = True
n_prompt = 10
learning_rate = 1e-3


def recipe(knobs):
    return depalm('epalm', knobs)
