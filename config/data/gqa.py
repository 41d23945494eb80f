# GQA (balanced), with OPT-6.7B and CLIP ViT-L frozen. With a mechanism's file:
#   torchrun --standalone --nproc_per_node=8 train.py config/data/gqa.py config/mechanism/qp_l0.py \
#       --out_dir=out/gqa_qp_l0
# Of the two papers only eP-ALM used it: config/mechanism/epalm_original.py and epalm_original_l.py.
# With other mechanisms the number of epochs is our choice.
# data_dir holds train, val and testdev_balanced_questions.json and images/. Needs GPUs and the
# data; nobody has yet run it with this code.
dataset = 'gqa'
data_dir = 'data/gqa'
out_dir = 'out/gqa'
llm = 'facebook/opt-6.7b'
encoder = 'clip_l'
answer_cue = '\n\nAnswer:'
max_text_tokens = 30
epochs = 8
eval_interval = 1000
