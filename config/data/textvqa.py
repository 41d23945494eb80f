# TextVQA, as DePALM trains on it: OPT-6.7B and CLIP ViT-L frozen, 20 epochs. With a mechanism's
# file:
#   torchrun --standalone --nproc_per_node=8 train.py config/data/textvqa.py \
#       config/mechanism/qp_l0.py --out_dir=out/textvqa_qp_l0
# Its val split is also its test split, as the test answers are secret: a checkpoint chosen by
# validation has seen the test. So the last checkpoint is tested.
# data_dir holds TextVQA_0.5.1_train.json, TextVQA_0.5.1_val.json and train_images/. Needs GPUs and
# the data; nobody has yet run it with this code.
dataset = 'textvqa'
data_dir = 'data/textvqa'
out_dir = 'out/textvqa'
llm = 'facebook/opt-6.7b'
encoder = 'clip_l'
# the question alone, unlike in the other data sets of questions
answer_cue = ''
max_text_tokens = 30
epochs = 20
eval_interval = 1000
test_checkpoint = 'last'
