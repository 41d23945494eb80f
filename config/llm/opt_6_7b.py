# OPT-6.7B, which continues a text: it is given the papers' prompts as they are.
# The other sizes, from 125m to 66b, the post-norm 350m among them: --llm=facebook/opt-350m.
#   torchrun --standalone --nproc_per_node=8 train.py config/data/coco.py config/llm/opt_6_7b.py \
#       config/mechanism/qp_l0.py --out_dir=out/coco_opt
# For captions of your own add --answer_prompt='Answer: ', for questions of your own a cue:
# --answer_cue=$'\n\nAnswer:'
from config.papers import answer_before_captions

llm = 'facebook/opt-6.7b'


def recipe(config):
    return answer_before_captions(config)
