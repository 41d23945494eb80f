# The text-only baseline of config/demo.py: the same LLM and bottlenecks, no picture. What it says
# of every picture is the best that can be said without looking.
#   python train.py config/demo_blind.py
dataset = 'data/emoji'
out_dir = 'out/demo_blind'
init_from = 'auto'
llm = 'data/models/smollm2-135m'
encoder = None
instruction = ''
n_prompt = 0
bottleneck = 'parallel'
bottleneck_factor = 8
# the layers that the demo's pictures enter
bottleneck_layers = 'targets'
n_targets = 18
last_target = -2

# three times the demo's: BOS alone must say what is named, and with the demo's rates that takes
# more than 150 steps
learning_rate = 3e-2
muon_rate = 0.15
adam_eps = 1e-8
warmup = 0.1
weight_decay = 0.0
max_iters = 150
eval_interval = 150
# the longest caption has 9
test_new_tokens = 20
