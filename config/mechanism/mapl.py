# MAPL: a QPMapper of 4 layers of 256 whose 32 queries enter at layer 0. 2.9M parameters.
#   python train.py config/data/coco.py config/mechanism/mapl.py
# The paper (DePALM, Table 1), to be run on GPUs: COCO 126.05, COCO 1% 69.20, VQAv2 67.13, AudioCaps
# 40.89, MSR-VTT 47.27.
# On the papers' data sets: the released run's learning rate, clip and batch (config/papers.py).
from config.papers import depalm

connector = 'qpmapper'
n_queries = 32
mapper_layers = 4
adapter_dim = 256
n_targets, last_target, keep_to_end = 1, 0, True
n_prompt = 0


def recipe(knobs):
    return depalm('mapl', knobs)
