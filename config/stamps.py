# DePALM's QP,L0 on Tux Paint's stamps, whose held-out things are in no training picture.
# SmolLM2-135M and EfficientNet-Lite0 are both frozen.
#   python prepare.py stamps && python train.py config/stamps.py
# docs/3-follow-one-image.md follows one of its pictures.
dataset = 'data/stamps'
out_dir = 'out/stamps'
# started again, it continues where it was stopped
init_from = 'auto'
llm = 'data/models/smollm2-135m'
encoder = 'data/models/efficientnet-lite0'
# the stamps are cut-outs of every proportion
resize = 'pad'
cache_features = True
# the plain picture and two augmented ones
cache_views = 3
instruction = 'Caption:'
# else the LLM makes the first visual token its attention sink
prefix_start = '<|endoftext|>'
# the plain way: a breakpoint in prefix_attention stops in training, too
fast_paths = False

connector = 'qpmapper'
# 416 pictures do not need the paper's 32 queries of width 1024, and without the dropout the mapper
# would learn them by heart
n_queries = 4
adapter_dim = 256
source_dropout = 0.6
n_prompt = 2

learning_rate = 1e-3
# The prompt tokens learn what all captions share. If they were as slow as the connector, it would
# learn that instead, and its tokens would become the same for all pictures before they say anything
# about one of them.
prompt_rate = 1e-2
max_iters = 200
eval_interval = 40
log_interval = 20
n_samples = 3
