# The text-only baseline of config/demo_vqa.py: the same LLM and bottlenecks, no picture. It learns
# what habit answers, of the official questions.
#   python train.py config/demo_vqa_blind.py
dataset = 'data/easy_vqa'
out_dir = 'out/demo_vqa_blind'
init_from = 'auto'
llm = 'data/models/smollm2-135m'
encoder = None
n_prompt = 0
bottleneck = 'parallel'
bottleneck_factor = 8
# the layers that the demo's pictures enter
bottleneck_layers = 'targets'
n_targets = 18
last_target = -4

batch_size = 24
learning_rate = 1e-2
muon_rate = 0.05
beta2 = 0.95
adam_eps = 1e-8
warmup = 0.1
weight_decay = 0.0
max_iters = 60
eval_interval = 60
eval_rows = 96
