# The demo: emoji as eight artists drew them, in eP-ALM's way: the mean of EfficientNet-Lite0's
# patches goes through one linear layer into 12 layers of SmolLM2-135M. Both models are frozen.
#   python prepare.py demo && python train.py config/demo.py
# 2 CPU cores, no GPU. What to expect is in README.md.
dataset = 'data/emoji'
out_dir = 'out/demo'
# started again, it continues where it was stopped
init_from = 'auto'
llm = 'data/models/smollm2-135m'
encoder = 'data/models/efficientnet-lite0'
resize = 'pad'
cache_features = True
instruction = 'Caption:'
# else the LLM makes the first visual token its attention sink
prefix_start = '<|endoftext|>'

connector = 'linear'
source_tokens = 'cls'
activation = 'none'
n_targets = 12
last_target = -2
keep_to_end = False
token_norm = True
token_bias = True
n_prompt = 2

batch_size = 48
learning_rate = 1e-3
# The prompt tokens learn what all captions share. If they were as slow as the connector, it would
# learn that instead, and its tokens would become the same for all pictures before they say anything
# about one of them.
prompt_rate = 1e-2
max_iters = 400
eval_interval = 100
log_interval = 20
