# QP,L0: learned queries read the patches, their outputs enter at layer 0. 17.9M parameters.
#   python train.py config/data/coco.py config/mechanism/qp_l0.py
# The paper (DePALM, Table 1), to be run on GPUs: COCO 131.29, COCO 1% 87.05, VQAv2 70.11, AudioCaps
# 43.37, MSR-VTT 49.88.
# On the papers' data sets: the released run's learning rate, clip and batch (config/papers.py).
from config.papers import depalm

connector = 'qpmapper'
n_queries = 32
mapper_layers = 2
adapter_dim = 1024
n_targets, last_target, keep_to_end = 1, 0, True
n_prompt = 1
learning_rate = 4e-4


def recipe(knobs):
    return depalm('qp_l0', knobs)
