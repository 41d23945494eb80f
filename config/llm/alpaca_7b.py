# Alpaca-7B (of LLaMA), a replica: of its own weights Stanford published the difference to LLaMA's alone; --llm= takes the folder made from that.
#   torchrun --standalone --nproc_per_node=8 train.py config/data/vqav2.py config/llm/alpaca_7b.py config/mechanism/qp_l0.py --out_dir=out/vqav2_alpaca
# Captions are asked for with 'Answer: ', as DePALM, or with what is said before this file: --instruction='Describe the picture.'
from config.papers import asks_nothing

llm = 'chavinlo/alpaca-native'
if asks_nothing(instruction, dataset):
    answer_prompt = 'Answer: '
else:
    instruction = ('Below is an instruction that describes a task. '
                   'Write a response that appropriately completes the request.\n\n'
                   '### Instruction:\n' + instruction.removesuffix('\n\nAnswer:')
                   + '\n\n### Response:')
