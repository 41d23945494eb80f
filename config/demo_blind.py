# The demo's baseline: the same LLM and learned prompt tokens, no picture. What it says of every picture is the best that
# can be said without looking.
#   python train.py config/demo_blind.py
dataset = 'data/stamps'
out_dir = 'out/demo_blind'
init_from = 'auto'
llm = 'data/models/smollm2-135m'
encoder = None
max_iters = 60
