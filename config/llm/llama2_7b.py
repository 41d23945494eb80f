# Llama-2-7B, which continues a text: the papers' prompts as they are. Gated: needs a Hub login.
#   torchrun --standalone --nproc_per_node=8 train.py config/data/coco.py config/llm/llama2_7b.py config/mechanism/qp_l0.py --out_dir=out/coco_llama2
from config.papers import asks_nothing

llm = 'meta-llama/Llama-2-7b-hf'
if asks_nothing(instruction, dataset):
    answer_prompt = 'Answer: '
