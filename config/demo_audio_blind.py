# The text-only baseline of config/demo_audio.py: the same LLM and learned prompt tokens, no sound.
#   python train.py config/demo_audio_blind.py
dataset = 'data/spoken_names'
out_dir = 'out/demo_audio_blind'
init_from = 'auto'
llm = 'data/models/smollm2-135m'
encoder = None
instruction = 'Caption:'
n_prompt = 8
learning_rate = 1e-2
adam_eps = 1e-8
max_iters = 120
eval_interval = 40
# the longest caption has 9
test_new_tokens = 20
