# Llama-2-7B, which continues a text: it is given the papers' prompts as they are.
# Gated: needs a Hub login.
#   torchrun --standalone --nproc_per_node=8 train.py config/data/coco.py config/llm/llama2_7b.py \
#       config/mechanism/qp_l0.py --out_dir=out/coco_llama2
from config.papers import answer_before_captions

llm = 'meta-llama/Llama-2-7b-hf'


def recipe(config):
    return answer_before_captions(config)
