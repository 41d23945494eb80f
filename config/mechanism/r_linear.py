# R-Linear: one Linear on every 2x2 patches side by side. 88.1M parameters.
#   python train.py config/data/coco.py config/mechanism/r_linear.py --out_dir=out/coco_r_linear
# The paper's scores (DePALM, Table 1), which nobody has yet reproduced with this code: COCO 133.01,
# COCO 1% 85.31, VQAv2 64.76, AudioCaps 40.92, MSR-VTT 51.60.
# On the papers' data sets it has the learning rate, clip and batch of the released run
# (config/papers.py).
from config.papers import depalm

connector = 'r_linear'
# the LLM's width
adapter_dim = 0
reduction = 4
activation = 'none'
n_targets = 1
last_target = 0
keep_to_end = True
n_prompt = 1
learning_rate = 1e-3


def recipe(config):
    return depalm('r_linear', config)
