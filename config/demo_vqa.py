# The demo of questions: QP,L0 on easy-VQA (coloured shapes; official split), SmolLM2-135M and EfficientNet-Lite0 both frozen.
#   python prepare.py demo-vqa && python train.py config/demo_vqa.py
# 2 CPU cores, no GPU: about 8 minutes. What to expect is in README.md.
dataset = 'data/easy_vqa'
out_dir = 'out/demo_vqa'
init_from = 'auto'                  # started again, it continues where it was stopped
llm = 'data/models/smollm2-135m'
encoder = 'data/models/efficientnet-lite0'
image_size = 128                    # the pictures are of 64 pixels
cache_features = True
prefix_start = '<|endoftext|>'      # see config/demo.py

connector = 'qpmapper'
n_queries = 4
adapter_dim = 256
n_prompt = 1

batch_size = 12
texts_per_input = 3                 # three questions of a picture share its prefix
learning_rate = 1e-3
prompt_rate = 1e-2
max_iters = 200
eval_interval = 50
eval_rows = 96
log_interval = 10
