# Alpaca-7B (of LLaMA), asked in its own template. This is a replica: of its own weights Stanford
# published only the difference from LLaMA's; --llm= takes the folder made from that.
#   torchrun --standalone --nproc_per_node=8 train.py config/data/vqav2.py config/llm/alpaca_7b.py \
#       config/mechanism/qp_l0.py --out_dir=out/vqav2_alpaca
# Captions: 'Answer: ' alone, as DePALM, or in its chat with --instruction='Describe the picture.'
from config.papers import answer_before_captions

llm = 'chavinlo/alpaca-native'
chat_template = 'alpaca'


def recipe(config):
    return answer_before_captions(config)
