# The demo: DePALM's QP,L0 captioner on Tux Paint stamps, SmolLM2-135M and EfficientNet-Lite0 both frozen.
#   python prepare.py demo && python train.py config/demo.py
# 2 CPU cores, no GPU: about 6 minutes. What to expect is in README.md.
dataset = 'data/stamps'
out_dir = 'out/demo'
init_from = 'auto'                  # started again, it continues where it was stopped
llm = 'data/models/smollm2-135m'
encoder = 'data/models/efficientnet-lite0'
resize = 'pad'                      # the stamps are cut-outs of every proportion
cache_features = True
cache_views = 3                     # the plain picture and two augmented ones
instruction = 'Caption:'
prefix_start = '<|endoftext|>'      # else the LLM makes the first visual token its attention sink

connector = 'qpmapper'
n_queries = 4                       # 416 pictures do not need the paper's 32 queries of width 1024
adapter_dim = 256
source_dropout = 0.6                # 416 pictures: without it, the mapper learns them by heart
n_prompt = 2

learning_rate = 1e-3
prompt_rate = 1e-2                  # the prompt tokens learn what all captions share; else the connector does, and its tokens become
                                    # the same for all pictures before they say anything of one
max_iters = 200
eval_interval = 40
log_interval = 20
n_samples = 3
