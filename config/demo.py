# The demo: emoji as eight artists drew them. EfficientNet-Lite0 sees a picture and its quarters,
# R-Linear (DePALM) makes two tokens of them for each of 18 inner layers of SmolLM2-135M, and a
# small bottleneck (eP-ALM) stands beside the MLP of each of these layers. Both models are frozen.
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
# what is where: a mean over the picture alone cannot tell it
pool_patches = 2
cache_features = True
# nothing is asked; 'Caption:' in front of each text would be as many tokens again as it has
instruction = ''
# for mechanisms that inject at layer 0, which this one does not: else the LLM makes the first
# visual token its attention sink
prefix_start = '<|endoftext|>'

connector = 'r_linear'
# the four quarters become one token, the mean is the other
reduction = 4
adapter_dim = 256
n_targets = 18
last_target = -2
# what one layer can say of a picture is little, so each has a connector of its own
n_connectors = 18
keep_to_end = False
token_norm = True
token_bias = True
# with trained tokens in front of the text, each text would be longer by them
n_prompt = 0
# without them more captions are of another category, and of nothing (docs/tried.md)
bottleneck = 'parallel'
bottleneck_factor = 8
# below the first target nothing needs a gradient
bottleneck_layers = 'targets'

batch_size = 48
learning_rate = 1e-2
# AdamW alone would need many more steps (docs/tried.md)
muon_rate = 0.05
# in float32 Muon alone is a quarter of a step
muon_every = 2
# the papers' 1e-4 is as large as these gradients
adam_eps = 1e-8
warmup = 0.1
weight_decay = 0.0
max_iters = 400
eval_interval = 100
log_interval = 20
n_samples = 3
test_checkpoint = 'last'
# the longest caption has 9
test_new_tokens = 20
