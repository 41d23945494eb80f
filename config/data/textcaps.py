# TextCaps, as DePALM trains on it: LLaMA-7B and CLIP ViT-L frozen, 20 epochs. With a mechanism's
# file:
#   torchrun --standalone --nproc_per_node=8 train.py config/data/textcaps.py \
#       config/mechanism/qp_l0.py --out_dir=out/textcaps_qp_l0
# Its val split is also its test split, as the test captions are secret: a checkpoint chosen by
# validation has seen the test. So the last checkpoint is tested.
# data_dir holds TextCaps_0.1_train.json, TextCaps_0.1_val.json and train_images/. Needs GPUs and
# the data; nobody has yet run it with this code.
dataset = 'textcaps'
data_dir = 'data/textvqa'
out_dir = 'out/textcaps'
llm = 'huggyllama/llama-7b'
encoder = 'clip_l'
epochs = 20
eval_interval = 1000
test_checkpoint = 'last'
