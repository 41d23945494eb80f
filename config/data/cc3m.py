# Pretraining on Conceptual Captions 3M, then zero-shot on other data, as eP-ALM (ICCV 2023) did:
#   python prepare.py cc3m
#   torchrun --standalone --nproc_per_node=8 train.py config/data/cc3m.py \
#       config/mechanism/epalm_original.py
#   python eval_caption.py --out_dir=out/cc3m --dataset=coco --data_dir=data/coco
#   python eval_vqa.py --out_dir=out/cc3m --dataset=vqav2_karpathy --data_dir=data/coco \
#       --instruction='Question: {prompt} Answer:'
# or with another mechanism in place of epalm_original; none of DePALM's released runs trains on it.
# Another training starts from this one with --start_from=out/cc3m and the same mechanism.
# OPT-6.7B and ViT-L frozen, as in eP-ALM's largest. Batch and epochs are our choice, since eP-ALM's
# are not known to us. Many of the links are dead: images that are missing are left out.
# data_dir holds images/train and images/val, and perhaps the two official tsv files;
# nanopalm/datasets.py says what they look like. Needs GPUs and the data; nobody has yet run it with
# this code.
dataset = 'cc3m'
data_dir = 'data/cc3m'
out_dir = 'out/cc3m'
llm = 'facebook/opt-6.7b'
encoder = 'vit_l_in21k'
bad_rows = 'skip'
batch_size = 128
epochs = 4
eval_interval = 2000
