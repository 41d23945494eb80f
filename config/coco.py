# COCO captions, Karpathy split, as DePALM trains on them: LLaMA-7B and EVA-CLIP-L frozen, 8 epochs of batch 16. With a mechanism's file:
#   torchrun --standalone --nproc_per_node=8 train.py config/coco.py config/r_linear.py --out_dir=out/coco_r_linear
#   ... --train_rows=0.01 --epochs=30       # the paper's 1%
# data_dir holds dataset_coco.json (Karpathy's split), train2014/ and val2014/.
dataset = 'coco'
data_dir = 'data/coco'
out_dir = 'out/coco'
llm = 'huggyllama/llama-7b'
encoder = 'eva_clip_l'
batch_size = 16
epochs = 8
eval_interval = 1000
