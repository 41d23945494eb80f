# DePALM's QP,L0 on COCO captions (Karpathy's split): LLaMA-7B and EVA-CLIP-L frozen, 17.9M trained
# parameters. The same as config/data/coco.py config/mechanism/qp_l0.py, in one file:
#   torchrun --standalone --nproc_per_node=8 train.py config/coco_depalm.py
# The paper: 131.29 CIDEr after 8 epochs (DePALM, Table 1), of the last checkpoint.
# data_dir holds dataset_coco.json (Karpathy's split), train2014/ and val2014/. Needs a GPU and the
# data; nobody has yet run it with this code.
from config.papers import depalm

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


def recipe(config):
    return depalm('qp_l0', config)
