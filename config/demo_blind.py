# The text-only baseline of config/demo.py: the same LLM and learned prompt tokens, no picture. What
# it says of every picture is the best that can be said without looking.
#   python train.py config/demo_blind.py
dataset = 'data/emoji'
out_dir = 'out/demo_blind'
init_from = 'auto'
llm = 'data/models/smollm2-135m'
encoder = None
instruction = ''
# six more than the demo has: as good as it gets without looking
n_prompt = 8
learning_rate = 1e-2
max_iters = 80
eval_interval = 40
# the longest caption has 10
test_new_tokens = 20
