# LiMBeR(1): one Linear on the CLS token. 4.2M parameters.
#   python train.py config/data/coco.py config/mechanism/limber_1.py
# The paper (DePALM, Table 1), to be run on GPUs: COCO 122.85, COCO 1% 87.10, VQAv2 60.19, AudioCaps
# 38.94, MSR-VTT 46.03.
# On the papers' data sets: the released run's learning rate, clip and batch (config/papers.py).
from config.papers import depalm

connector = 'linear'
source_tokens = 'cls'
activation = 'none'
n_targets, last_target, keep_to_end = 1, 0, True
n_prompt = 0


def recipe(knobs):
    return depalm('limber_1', knobs)
