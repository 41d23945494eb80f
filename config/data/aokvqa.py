# A-OKVQA, as DePALM trains on it: OPT-6.7B and CLIP ViT-L frozen, 20 epochs. With a mechanism's
# file:
#   torchrun --standalone --nproc_per_node=8 train.py config/data/aokvqa.py \
#       config/mechanism/qp_l0.py --out_dir=out/aokvqa_qp_l0
# Its val split is also its test split, as the test answers are secret: a checkpoint chosen by
# validation has seen the test. So the last checkpoint is tested.
# DePALM scored it as VQA: eval_vqa.py --rule=depalm. The official rule is the default.
# data_dir holds aokvqa_v1p0_train.json, aokvqa_v1p0_val.json and COCO's train2017/ and val2017/.
# Needs GPUs and the data; nobody has yet run it with this code.
dataset = 'aokvqa'
data_dir = 'data/coco'
out_dir = 'out/aokvqa'
llm = 'facebook/opt-6.7b'
encoder = 'clip_l'
answer_cue = '\n\nAnswer:'
max_text_tokens = 30
epochs = 20
eval_interval = 1000
test_checkpoint = 'last'
