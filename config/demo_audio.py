# The demo of sound: eP-ALM on descriptions of the stamps that are spoken in Catalan, French,
# Romanian and Spanish. It says which language it is, and the meaning in English; SmolLM2-135M and
# the encoder of Whisper-tiny.en are both frozen.
#   python prepare.py demo-audio && python train.py config/demo_audio.py
# 2 CPU cores, no GPU: about 9 minutes. What to expect is in README.md.
dataset = 'data/spoken_stamps'
out_dir = 'out/demo_audio'
# started again, it continues where it was stopped
init_from = 'auto'
llm = 'data/models/smollm2-135m'
encoder = 'data/models/whisper-tiny'
audio_seconds = 4
cache_features = True
instruction = 'Caption:'

connector = 'linear'
# Whisper has no CLS: the mean over time stands for it
source_tokens = 'cls'
n_targets = 12
last_target = -4
keep_to_end = False
token_norm = True
token_bias = True
n_prompt = 2

batch_size = 24
learning_rate = 3e-3
prompt_rate = 1e-2
# the papers' 1e-4 is as large as these gradients
adam_eps = 1e-8
max_iters = 200
eval_interval = 50
log_interval = 20
n_samples = 3
