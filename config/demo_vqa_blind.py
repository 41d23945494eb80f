# The baseline of config/demo_vqa.py: the same LLM and learned prompt token, no picture.
#   python train.py config/demo_vqa_blind.py
dataset = 'data/easy_vqa'
out_dir = 'out/demo_vqa_blind'
init_from = 'auto'
llm = 'data/models/smollm2-135m'
encoder = None
n_prompt = 1
batch_size = 24
learning_rate = 1e-2
max_iters = 60
eval_interval = 30
eval_rows = 96
