# The demo: emoji as eight artists drew them, in eP-ALM's way: the mean of EfficientNet-Lite0's
# patches goes through a linear layer into each of 18 layers of SmolLM2-135M, which has a small
# bottleneck beside each of its MLPs. Both models are frozen.
#   python prepare.py demo && python train.py config/demo.py
# 2 CPU cores, no GPU. What to expect is in README.md.
dataset = 'data/emoji'
out_dir = 'out/demo'
# started again, it continues where it was stopped
init_from = 'auto'
llm = 'data/models/smollm2-135m'
encoder = 'data/models/efficientnet-lite0'
# the emoji are square already, other pictures that it is asked about may not be
resize = 'pad'
cache_features = True
instruction = 'Caption:'
# for mechanisms that inject at layer 0, which this one does not: else the LLM makes the first
# visual token its attention sink
prefix_start = '<|endoftext|>'

connector = 'linear'
source_tokens = 'cls'
activation = 'none'
n_targets = 18
last_target = -2
# what one layer can say of a picture is little, so each has a linear layer of its own
n_connectors = 18
keep_to_end = False
token_norm = True
token_bias = True
# with trained tokens in front of the text, each text would be longer by them
n_prompt = 0
# without them more captions are of another category, and of nothing (docs/speedrun.md)
bottleneck = 'parallel'
bottleneck_factor = 8

batch_size = 48
learning_rate = 1e-2
# AdamW alone would need many more steps (docs/speedrun.md)
muon_rate = 0.05
# the papers' 1e-4 is as large as these gradients
adam_eps = 1e-8
warmup = 0.1
weight_decay = 0.0
max_iters = 260
eval_interval = 65
log_interval = 20
n_samples = 3
test_checkpoint = 'last'
# the longest caption has 10
test_new_tokens = 20
