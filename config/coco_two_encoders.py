# QP,L0 that reads two image encoders: CLIP ViT-L for what is shown and DINOv2-L for where. Both
# encoders and LLaMA-7B are frozen. In neither paper; DePALM ran each of the two encoders alone.
#   torchrun --standalone --nproc_per_node=8 train.py config/coco_two_encoders.py
#   ... --encoder_join=channels           # joined patch by patch, instead of side by side
# data_dir holds dataset_coco.json (Karpathy's split), train2014/ and val2014/. Needs a GPU and the
# data; nobody has yet run it with this code.
dataset = 'coco'
data_dir = 'data/coco'
out_dir = 'out/coco_two_encoders'
llm = 'huggyllama/llama-7b'
encoder = 'clip_l,dinov2_l'
# the queries read the tokens of both encoders, side by side
encoder_join = 'tokens'

connector = 'qpmapper'
n_queries = 32
mapper_layers = 2
adapter_dim = 1024
# the outputs enter at layer 0 and flow on to the top
n_targets = 1
last_target = 0
keep_to_end = True
n_prompt = 1

learning_rate = 4e-4
batch_size = 16
epochs = 8
eval_interval = 1000
