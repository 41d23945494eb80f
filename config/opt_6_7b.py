# OPT-6.7B; the other sizes, from 125m to 66b, the post-norm 350m among them: --llm=facebook/opt-350m.
#   torchrun --standalone --nproc_per_node=8 train.py config/coco.py config/opt_6_7b.py config/qp_l0.py --out_dir=out/coco_opt
# Captions are asked for with 'Answer: '. Own questions need a cue before this file: --instruction=$'{prompt}\n\nAnswer:\n'
llm = 'facebook/opt-6.7b'
if instruction == '{prompt}':
    answer_prompt = 'Answer: '
