# LiMBeR(all): one Linear on every token of the encoder. 4.2M parameters.
#   python train.py config/data/coco.py config/mechanism/limber_all.py --out_dir=out/coco_limber_all
# The paper's scores (DePALM, Table 1), which nobody has yet reproduced with this code: COCO 136.31,
# COCO 1% 83.74, VQAv2 73.42, AudioCaps 40.12, MSR-VTT 46.87.
# On the papers' data sets it has the learning rate, clip and batch of the released run
# (config/papers.py).
from config.papers import depalm

connector = 'linear'
source_tokens = 'all'
activation = 'none'
n_targets = 1
last_target = 0
keep_to_end = True
n_prompt = 0


def recipe(config):
    return depalm('limber_all', config)
