# c-attn: the text reads all tokens of the last 4 hidden states of the encoder by one gated
# cross-attention, shared by the 12 layers in front of which it stands. 21.1M parameters.
#   python train.py config/data/coco.py config/mechanism/c_attn.py --out_dir=out/coco_c_attn
# The paper's scores (DePALM, Table 1), which nobody has yet reproduced with this code: COCO 130.05,
# COCO 1% 81.38, VQAv2 69.45.
# Expect other numbers: the original's reshaping of query and output mixes positions, so that its
# training reads later tokens; here it is causal.
# On the papers' data sets it has the learning rate, clip and batch of the released run
# (config/papers.py).
from config.papers import depalm

connector = 'c_attn'
mapper_layers = 1
adapter_dim = 1024
mapper_heads = 8
source_layers = 4
n_targets = 12
last_target = -4
n_prompt = 16
token_init_std = 1.0
# gradients of the two micro steps are summed: an optimizer step is of 16 inputs
batch_size = 8
accumulate = 2
grad_clip = 0.05


def recipe(config):
    return depalm('c_attn', config)
