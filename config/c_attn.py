# c-attn: gated cross-attention in front of 12 layers. Ours is textbook, the original leaks later tokens: expect other numbers.
#   python train.py config/coco.py config/c_attn.py
# The paper (DePALM, Table 1), to be run on GPUs: COCO 130.05, COCO 1% 81.38, VQAv2 69.45.
connector = 'c_attn'
adapter_dim = 1024
mapper_heads = 8
source_layers = 4
n_targets, last_target = 12, -4
n_prompt = 16
grad_clip = 0.05
accumulate = 2
