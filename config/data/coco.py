# COCO captions in Karpathy's split, as DePALM trains on them: LLaMA-7B and EVA-CLIP-L frozen, 8
# epochs. A mechanism's file brings the released run's learning rate, clip and batch:
#   python train.py config/data/coco.py config/mechanism/r_linear.py --out_dir=out/coco_r_linear
#   ... --train_rows=0.01                 # the paper's runs on 1%, 30 epochs
#   ... --encoder=dinov2_l                # its runs with DINOv2-L
#   ... --encoder_bias_tuning=True        # its runs with bias tuning of the encoder
# The paper's batch is per GPU, here it is over all of them: config/eight_gpus.py.
# data_dir holds dataset_coco.json (Karpathy's split), train2014/ and val2014/. Needs a GPU.
dataset = 'coco'
data_dir = 'data/coco'
out_dir = 'out/coco'
llm = 'huggyllama/llama-7b'
encoder = 'eva_clip_l'
batch_size = 16
epochs = 8
eval_interval = 1000
