# LLaMA-7B, which continues a text: the papers' prompts as they are.
#   torchrun --standalone --nproc_per_node=8 train.py config/coco.py config/llama_7b.py config/qp_l0.py --out_dir=out/coco_llama
llm = 'huggyllama/llama-7b'
