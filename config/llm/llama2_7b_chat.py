# Llama-2-7B-chat, asked in a turn of its chat, without a system prompt. Gated: needs a Hub login.
#   torchrun --standalone --nproc_per_node=8 train.py config/data/vqav2.py config/llm/llama2_7b_chat.py config/mechanism/qp_l0.py --out_dir=out/vqav2_llama2_chat
# Captions are asked for with 'Answer: ', as DePALM, or with what is said before this file: --instruction='Describe the picture.'
from config.papers import asks_nothing

llm = 'meta-llama/Llama-2-7b-chat-hf'
if asks_nothing(instruction, dataset):
    answer_prompt = 'Answer: '
else:
    instruction = '[INST] ' + instruction.removesuffix('\n\nAnswer:') + ' [/INST]'
