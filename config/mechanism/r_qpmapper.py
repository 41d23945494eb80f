# R-QPMapper: a small QPMapper inside every 2x2 patches. 18.1M parameters.
#   python train.py config/data/coco.py config/mechanism/r_qpmapper.py --out_dir=out/coco_r_qpmapper
# The paper's scores (DePALM, Table 1), which nobody has yet reproduced with this code: COCO 131.92,
# COCO 1% 75.46, VQAv2 61.09, AudioCaps 41.17, MSR-VTT 45.49.
# On the papers' data sets it has the learning rate, clip and batch of the released run
# (config/papers.py).
from config.papers import depalm

connector = 'r_qpmapper'
adapter_dim = 768
reduction = 4
n_queries = 1
mapper_layers = 4
# as the paper's code ran it: its feed-forward has no nonlinearity
activation = 'none'
n_targets = 1
last_target = 0
keep_to_end = True
n_prompt = 1
learning_rate = 4e-4
grad_clip = 0.5


def recipe(config):
    return depalm('r_qpmapper', config)
