# QP,inner: the last 4 hidden states of the encoder, each through the same QPMapper, into 12 inner
# layers. 18.1M parameters.
#   python train.py config/data/coco.py config/mechanism/qp_inner.py
# The paper (DePALM, Table 1), to be run on GPUs: COCO 130.91, COCO 1% 75.86, VQAv2 67.88, AudioCaps
# 41.20, MSR-VTT 47.76.
# On the papers' data sets: the released run's learning rate, clip and batch (config/papers.py).
from config.papers import depalm

connector = 'qpmapper'
n_queries = 32
mapper_layers = 2
adapter_dim = 1024
source_layers = 4
n_targets, last_target, keep_to_end = 12, -4, False
token_norm = token_bias = True
n_prompt = 16


def recipe(knobs):
    return depalm('qp_inner', knobs)
