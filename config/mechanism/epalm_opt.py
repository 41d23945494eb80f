# eP-ALM's placement with OPT, which DePALM's code has and none of its released runs: CLS of the
# last 6 blocks into 12 inner layers. 4.2M parameters.
#   python train.py config/data/coco.py config/mechanism/epalm_opt.py
# The paper has no row of it.
from config.papers import depalm

connector = 'linear'
source_tokens = 'cls'
activation = 'none'
source_layers = 6
n_targets, last_target, keep_to_end = 12, -2, False
n_prompt = 10


def recipe(knobs):
    return depalm('epalm_opt', knobs)
