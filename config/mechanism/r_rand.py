# R-Rand: a random subset of the patches at every training step, all of them in eval. 4.2M
# parameters.
#   python train.py config/data/coco.py config/mechanism/r_rand.py --out_dir=out/coco_r_rand
# The paper's scores (DePALM, Table 1), which nobody has yet reproduced with this code: COCO 134.90,
# COCO 1% 86.84, VQAv2 71.33, AudioCaps 41.37, MSR-VTT 47.90.
# On the papers' data sets it has the learning rate, clip and batch of the released run
# (config/papers.py).
from config.papers import depalm

connector = 'r_rand'
activation = 'none'
n_targets = 1
last_target = 0
keep_to_end = True
n_prompt = 1
learning_rate = 1e-3


def recipe(config):
    return depalm('r_rand', config)
