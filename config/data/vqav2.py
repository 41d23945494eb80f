# VQAv2 in Karpathy's split, as DePALM trains on it: OPT-6.7B and CLIP ViT-L frozen, 8 epochs. With
# a mechanism's file:
#   torchrun --standalone --nproc_per_node=8 train.py config/data/vqav2.py \
#       config/mechanism/qp_l0.py --out_dir=out/vqav2_qp_l0
#   ... --train_rows=0.01                 # the paper's runs on 1%, 30 epochs
#   ... --encoder=dinov2_l                # its runs with DINOv2-L
# data_dir holds VQAv2's four files, dataset_coco.json and COCO's train2014/ and val2014/. Needs
# GPUs and the data; nobody has yet run it with this code.
dataset = 'vqav2_karpathy'
data_dir = 'data/coco'
out_dir = 'out/vqav2'
llm = 'facebook/opt-6.7b'
encoder = 'clip_l'
answer_cue = '\n\nAnswer:'
max_text_tokens = 30
epochs = 8
eval_interval = 1000
