# OPT-6.7B; the other sizes, from 125m to 66b, the post-norm 350m among them: --llm=facebook/opt-350m.
#   torchrun --standalone --nproc_per_node=8 train.py config/data/coco.py config/llm/opt_6_7b.py config/mechanism/qp_l0.py --out_dir=out/coco_opt
# Own captions: --answer_prompt='Answer: '; own questions need a cue before this file: --instruction=$'{prompt}\n\nAnswer:'
from config.papers import asks_nothing

llm = 'facebook/opt-6.7b'
if asks_nothing(instruction, dataset):
    answer_prompt = 'Answer: '
