# OK-VQA, as DePALM trains on it: OPT-6.7B and CLIP ViT-L frozen, 20 epochs. With a mechanism's
# file:
#   torchrun --standalone --nproc_per_node=8 train.py config/data/okvqa.py \
#       config/mechanism/qp_l0.py --out_dir=out/okvqa_qp_l0
# Its val split is also its test split, as the test answers are secret: a checkpoint chosen by
# validation has seen the test. So the last checkpoint is tested.
# data_dir holds OK-VQA's four files and COCO's train2014/ and val2014/. Needs GPUs and the data;
# nobody has yet run it with this code.
dataset = 'okvqa'
data_dir = 'data/coco'
out_dir = 'out/okvqa'
llm = 'facebook/opt-6.7b'
encoder = 'clip_l'
answer_cue = '\n\nAnswer:'
max_text_tokens = 30
epochs = 20
eval_interval = 1000
test_checkpoint = 'last'
