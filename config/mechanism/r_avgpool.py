# R-AvgPool, as the paper's code ran it: over channels (--connector=r_avgpool_tokens pools tokens,
# as the paper says). 21.0M parameters.
#   python train.py config/data/coco.py config/mechanism/r_avgpool.py --out_dir=out/coco_r_avgpool
# The paper's scores (DePALM, Table 1), which nobody has yet reproduced with this code: COCO 131.77,
# COCO 1% 86.09, VQAv2 64.84, AudioCaps 41.54, MSR-VTT 50.52.
# On the papers' data sets it has the learning rate, clip and batch of the released run
# (config/papers.py).
from config.papers import depalm

connector = 'r_avgpool'
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
    return depalm('r_avgpool', config)
