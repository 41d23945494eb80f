# Llama-2-7B-chat, asked in a turn of its chat, without a system prompt. Gated: needs a Hub login.
#   torchrun --standalone --nproc_per_node=8 train.py config/data/vqav2.py \
#       config/llm/llama2_7b_chat.py config/mechanism/qp_l0.py --out_dir=out/vqav2_llama2_chat
# Captions: 'Answer: ' alone, as DePALM, or in its chat with --instruction='Describe the picture.'
from config.papers import answer_before_captions

llm = 'meta-llama/Llama-2-7b-chat-hf'
chat_template = 'llama2'


def recipe(config):
    return answer_before_captions(config)
