# eP-ALM as DePALM runs it, with OPT too: CLS of the last 6 blocks into 6 inner layers. 4.3M
# parameters.
#   python train.py config/data/coco.py config/mechanism/epalm.py --out_dir=out/coco_epalm
# The paper's scores (DePALM, Table 1), which nobody has yet reproduced with this code: COCO 115.34,
# COCO 1% 64.65, VQAv2 59.34, AudioCaps 38.13, MSR-VTT 38.83.
# On the papers' data sets it has the learning rate, clip and batch of the released run
# (config/papers.py).
from config.papers import depalm

connector = 'linear'
source_tokens = 'cls'
activation = 'none'
source_layers = 6
n_targets = 6
last_target = -4
keep_to_end = False
token_norm = True
token_bias = True
n_prompt = 10
learning_rate = 1e-3


def recipe(config):
    return depalm('epalm', config)
