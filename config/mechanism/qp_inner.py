# QP,inner: the last 4 hidden states of the encoder, each through the same QPMapper, into 12 inner
# layers. 18.1M parameters.
#   python train.py config/data/coco.py config/mechanism/qp_inner.py --out_dir=out/coco_qp_inner
# The paper's scores (DePALM, Table 1), which nobody has yet reproduced with this code: COCO 130.91,
# COCO 1% 75.86, VQAv2 67.88, AudioCaps 41.20, MSR-VTT 47.76.
# On the papers' data sets it has the learning rate, clip and batch of the released run
# (config/papers.py).
from config.papers import depalm

connector = 'qpmapper'
n_queries = 32
mapper_layers = 2
adapter_dim = 1024
source_layers = 4
n_targets = 12
last_target = -4
keep_to_end = False
token_norm = True
token_bias = True
n_prompt = 16


def recipe(config):
    return depalm('qp_inner', config)
