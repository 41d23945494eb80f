# c-attn closer to Flamingo, in neither paper: every one of the 12 layers has a gated
# cross-attention of its own, the norm is in front of the query. 127.1M parameters.
#   python train.py config/data/coco.py config/mechanism/c_attn_flamingo.py \
#       --out_dir=out/coco_c_attn_flamingo
connector = 'c_attn_flamingo'
adapter_dim = 1024
mapper_heads = 8
source_layers = 4
n_targets = 12
last_target = -4
n_prompt = 16
token_init_std = 1.0
batch_size = 8
accumulate = 2
grad_clip = 0.05
