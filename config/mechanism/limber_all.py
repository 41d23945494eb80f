# LiMBeR(all): one Linear on every token of the encoder. 4.2M parameters.
#   python train.py config/data/coco.py config/mechanism/limber_all.py
# The paper (DePALM, Table 1), to be run on GPUs: COCO 136.31, COCO 1% 83.74, VQAv2 73.42, AudioCaps
# 40.12, MSR-VTT 46.87.
# On the papers' data sets: the released run's learning rate, clip and batch (config/papers.py).
from config.papers import depalm

connector = 'linear'
source_tokens = 'all'
activation = 'none'
n_targets, last_target, keep_to_end = 1, 0, True
n_prompt = 0


def recipe(knobs):
    return depalm('limber_all', knobs)
