# DePALM's QP,L0 on COCO captions (Karpathy split): LLaMA-7B and EVA-CLIP-L frozen, 17.9M trained parameters.
#   torchrun --standalone --nproc_per_node=8 train.py config/coco_depalm.py
# The paper: 131.29 CIDEr after 8 epochs (DePALM, Table 1). Needs a GPU and the data; nobody has yet run it with this code.
# data_dir holds dataset_coco.json (Karpathy's split), train2014/ and val2014/.
dataset = 'coco'
data_dir = 'data/coco'
out_dir = 'out/coco_depalm'
llm = 'huggyllama/llama-7b'
encoder = 'eva_clip_l'

connector = 'qpmapper'
n_queries = 32
mapper_layers = 2
adapter_dim = 1024
n_prompt = 1

learning_rate = 4e-4
batch_size = 16
epochs = 8
eval_interval = 1000
