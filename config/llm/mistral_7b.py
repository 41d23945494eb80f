# Mistral-7B v0.1, which continues a text: it is given the papers' prompts as they are.
#   torchrun --standalone --nproc_per_node=8 train.py config/data/coco.py config/llm/mistral_7b.py \
#       config/mechanism/qp_l0.py --out_dir=out/coco_mistral
llm = 'mistralai/Mistral-7B-v0.1'
