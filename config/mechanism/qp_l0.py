# QP,L0: learned queries read the patches, their outputs enter at layer 0. 17.9M parameters.
#   python train.py config/data/coco.py config/mechanism/qp_l0.py --out_dir=out/coco_qp_l0
# The paper's scores (DePALM, Table 1), which nobody has yet reproduced with this code: COCO 131.29,
# COCO 1% 87.05, VQAv2 70.11, AudioCaps 43.37, MSR-VTT 49.88.
# On the papers' data sets it has the learning rate, clip and batch of the released run
# (config/papers.py).
from config.papers import depalm

connector = 'qpmapper'
n_queries = 32
mapper_layers = 2
adapter_dim = 1024
n_targets = 1
last_target = 0
keep_to_end = True
n_prompt = 1
learning_rate = 4e-4


def recipe(config):
    return depalm('qp_l0', config)
