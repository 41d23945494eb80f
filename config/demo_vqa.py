# The demo of questions: what config/demo.py has, narrower, on easy-VQA (coloured shapes);
# SmolLM2-135M and EfficientNet-Lite0 are both frozen.
#   python prepare.py demo-vqa && python train.py config/demo_vqa.py
# This is its first half, which teaches it to compare; config/demo_vqa_colours.py is the second.
# 2 CPU cores, no GPU. What to expect is in docs/6-results.md.
# the official questions without most of those that habit answers
dataset = 'data/easy_vqa_balanced'
out_dir = 'out/demo_vqa'
# started again, it continues where it was stopped
init_from = 'auto'
llm = 'data/models/smollm2-135m'
encoder = 'data/models/efficientnet-lite0'
# the pictures have 64 pixels a side
image_size = 128
# as in config/demo.py: the four quarters of a picture become one token, its mean is the other
pool_patches = 2
cache_features = True

connector = 'r_linear'
reduction = 4
# there is little to see; and Muon's time grows with the square of the narrower side of a matrix
adapter_dim = 96
n_targets = 18
last_target = -4
n_connectors = 18
keep_to_end = False
token_norm = True
token_bias = True
n_prompt = 0
# without them it never compares what is asked with what is there (docs/6-results.md)
bottleneck = 'parallel'
bottleneck_factor = 8
# below the first target nothing needs a gradient
bottleneck_layers = 'targets'

batch_size = 24
learning_rate = 1e-2
muon_rate = 0.05
warmup = 0.05
# with 0.999 a run in float32 broke down when it began to compare (docs/6-results.md)
beta2 = 0.95
# the papers' 1e-4 is as large as these gradients
adam_eps = 1e-8
weight_decay = 0.0
max_iters = 500
eval_interval = 250
eval_rows = 96
log_interval = 20
n_samples = 3
test_checkpoint = 'last'
