# QP,L0 with two image encoders, CLIP ViT-L and DINOv2-L. Both of them and LLaMA-7B are frozen. This
# is in neither paper: DePALM ran each of the two encoders alone.
#   torchrun --standalone --nproc_per_node=8 train.py config/coco_two_encoders.py
#   ... --encoder_join=channels           # one QPMapper reads both encoders, joined per patch
# data_dir holds dataset_coco.json (Karpathy's split), train2014/ and val2014/. Needs a GPU and the
# data; nobody has yet run it with this code.
dataset = 'coco'
data_dir = 'data/coco'
out_dir = 'out/coco_two_encoders'
llm = 'huggyllama/llama-7b'
encoder = 'clip_l,dinov2_l'
# each encoder has a QPMapper of its own; the tokens of both stand side by side
encoder_join = 'tokens'

connector = 'qpmapper'
# of each QPMapper
n_queries = 32
mapper_layers = 2
adapter_dim = 1024
# the tokens enter at layer 0 and flow on to the top of the LLM
n_targets = 1
last_target = 0
keep_to_end = True
n_prompt = 1

learning_rate = 4e-4
batch_size = 16
epochs = 8
eval_interval = 1000
