# Emoji as eight artists drew them: eP-ALM's placement, the mean of EfficientNet-Lite0's features
# through one linear layer into 12 layers of SmolLM2-135M. A first try, nothing in it is tuned.
#   python train.py config/emoji.py
# The models are those of `python prepare.py demo`, the data of `python prepare.py emoji`.
dataset = 'data/emoji'
out_dir = 'out/emoji'
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
# as in config/demo.py: the prompt tokens learn first what all captions share
prompt_rate = 1e-2
max_iters = 400
eval_interval = 100
log_interval = 20
