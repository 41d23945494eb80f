# Qwen2.5-7B, which continues a text: it is given the papers' prompts as they are.
# It has no BOS: a text starts with EOS, <|endoftext|>.
#   torchrun --standalone --nproc_per_node=8 train.py config/data/coco.py config/llm/qwen25_7b.py \
#       config/mechanism/qp_l0.py --out_dir=out/coco_qwen25
llm = 'Qwen/Qwen2.5-7B'
