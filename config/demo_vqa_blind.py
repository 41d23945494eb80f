# The text-only baseline of config/demo_vqa.py: the same LLM and learned prompt tokens, no picture.
#   python train.py config/demo_vqa_blind.py
dataset = 'data/easy_vqa'
out_dir = 'out/demo_vqa_blind'
init_from = 'auto'
llm = 'data/models/smollm2-135m'
encoder = None
# seven more than the demo has: as good as it gets without looking
n_prompt = 8
batch_size = 24
learning_rate = 1e-2
adam_eps = 1e-8
max_iters = 80
eval_interval = 40
eval_rows = 96
