# LiMBeR(1): one Linear on the CLS token. 4.2M parameters.
#   python train.py config/data/coco.py config/mechanism/limber_1.py --out_dir=out/coco_limber_1
# The paper's scores (DePALM, Table 1), which nobody has yet reproduced with this code: COCO 122.85,
# COCO 1% 87.10, VQAv2 60.19, AudioCaps 38.94, MSR-VTT 46.03.
# On the papers' data sets it has the learning rate, clip and batch of the released run
# (config/papers.py).
from config.papers import depalm

connector = 'linear'
source_tokens = 'cls'
activation = 'none'
n_targets = 1
last_target = 0
keep_to_end = True
n_prompt = 0


def recipe(config):
    return depalm('limber_1', config)
