# MAPL: a QPMapper of 4 layers of 256 whose 32 queries enter at layer 0. 2.9M parameters.
#   python train.py config/data/coco.py config/mechanism/mapl.py --out_dir=out/coco_mapl
# The paper's scores (DePALM, Table 1), which nobody has yet reproduced with this code: COCO 126.05,
# COCO 1% 69.20, VQAv2 67.13, AudioCaps 40.89, MSR-VTT 47.27.
# On the papers' data sets it has the learning rate, clip and batch of the released run
# (config/papers.py).
from config.papers import depalm

connector = 'qpmapper'
n_queries = 32
mapper_layers = 4
adapter_dim = 256
n_targets = 1
last_target = 0
keep_to_end = True
n_prompt = 0


def recipe(config):
    return depalm('mapl', config)
