# Vicuna-7B v1.5 (of Llama 2), asked in a turn of its chat.
#   torchrun --standalone --nproc_per_node=8 train.py config/data/vqav2.py config/llm/vicuna_7b.py config/mechanism/qp_l0.py --out_dir=out/vqav2_vicuna
# Captions are asked for with 'Answer: ', as DePALM, or with what is said before this file: --instruction='Describe the picture.'
from config.papers import asks_nothing

llm = 'lmsys/vicuna-7b-v1.5'
if asks_nothing(instruction, dataset):
    answer_prompt = 'Answer: '
else:
    instruction = ('A chat between a curious user and an artificial intelligence assistant. '
                   'The assistant gives helpful, detailed, and polite answers '
                   "to the user's questions. USER: " + instruction.removesuffix('\n\nAnswer:')
                   + ' ASSISTANT:')
