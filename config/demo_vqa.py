# The demo of questions: eP-ALM on easy-VQA (coloured shapes; official split), SmolLM2-135M and EfficientNet-Lite0 both frozen.
#   python prepare.py demo-vqa && python train.py config/demo_vqa.py
# 2 CPU cores, no GPU: about 7 minutes. What to expect is in README.md.
dataset = 'data/easy_vqa'
out_dir = 'out/demo_vqa'
init_from = 'auto'                  # started again, it continues where it was stopped
llm = 'data/models/smollm2-135m'
encoder = 'data/models/efficientnet-lite0'
image_size = 128                    # the pictures are of 64 pixels
cache_features = True

connector = 'linear'
source_tokens = 'cls'
n_targets, last_target, keep_to_end = 12, -4, False
token_norm = token_bias = True
n_prompt = 1

batch_size = 36
learning_rate = 3e-3
prompt_rate = 1e-2
adam_eps = 1e-8                     # the papers' 1e-4 is as large as these gradients
max_iters = 200
eval_interval = 50
eval_rows = 96
log_interval = 20
n_samples = 3
