# LLaMA-7B, which continues a text: it is given the papers' prompts as they are.
#   torchrun --standalone --nproc_per_node=8 train.py config/data/coco.py config/llm/llama_7b.py \
#       config/mechanism/qp_l0.py --out_dir=out/coco_llama
llm = 'huggyllama/llama-7b'
