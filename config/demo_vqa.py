# The demo of questions: eP-ALM on easy-VQA (coloured shapes, the official split); SmolLM2-135M and
# EfficientNet-Lite0 are both frozen.
#   python prepare.py demo-vqa && python train.py config/demo_vqa.py
# 2 CPU cores, no GPU: about 7 minutes. What to expect is in README.md.
dataset = 'data/easy_vqa'
out_dir = 'out/demo_vqa'
# started again, it continues where it was stopped
init_from = 'auto'
llm = 'data/models/smollm2-135m'
encoder = 'data/models/efficientnet-lite0'
# the pictures have 64 pixels a side
image_size = 128
cache_features = True

connector = 'linear'
source_tokens = 'cls'
n_targets = 12
last_target = -4
keep_to_end = False
token_norm = True
token_bias = True
n_prompt = 1

batch_size = 36
learning_rate = 3e-3
prompt_rate = 1e-2
# the papers' 1e-4 is as large as these gradients
adam_eps = 1e-8
max_iters = 200
eval_interval = 50
eval_rows = 96
log_interval = 20
n_samples = 3
