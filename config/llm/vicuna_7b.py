# Vicuna-7B v1.5 (of Llama 2), asked in a turn of its chat.
#   torchrun --standalone --nproc_per_node=8 train.py config/data/vqav2.py config/llm/vicuna_7b.py \
#       config/mechanism/qp_l0.py --out_dir=out/vqav2_vicuna
# Captions: 'Answer: ' alone, as DePALM, or in its chat with --instruction='Describe the picture.'
from config.papers import answer_before_captions

llm = 'lmsys/vicuna-7b-v1.5'
chat_template = 'vicuna'


def recipe(config):
    return answer_before_captions(config)
