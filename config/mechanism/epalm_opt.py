# eP-ALM's placement with OPT, which DePALM's code has and none of its released runs: CLS of the
# last 6 blocks into 12 inner layers. 4.2M parameters.
#   python train.py config/data/coco.py config/mechanism/epalm_opt.py --out_dir=out/coco_epalm_opt
# The paper has no row of it.
from config.papers import depalm

connector = 'linear'
source_tokens = 'cls'
activation = 'none'
source_layers = 6
n_targets = 12
last_target = -2
keep_to_end = False
n_prompt = 10


def recipe(config):
    return depalm('epalm_opt', config)
