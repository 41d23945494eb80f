# Llama-3-8B, which continues a text: it is given the papers' prompts as they are.
# Gated: needs a Hub login.
#   torchrun --standalone --nproc_per_node=8 train.py config/data/coco.py config/llm/llama3_8b.py \
#       config/mechanism/qp_l0.py --out_dir=out/coco_llama3
llm = 'meta-llama/Meta-Llama-3-8B'
