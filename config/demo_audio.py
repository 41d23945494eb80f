# The demo of sound: eP-ALM on descriptions of the stamps spoken in Catalan, French, Romanian and Spanish, to say which language it is
# and what in English; SmolLM2-135M and the encoder of Whisper-tiny.en both frozen.
#   python prepare.py demo-audio && python train.py config/demo_audio.py
# 2 CPU cores, no GPU: about 9 minutes. What to expect is in README.md.
dataset = 'data/spoken_stamps'
out_dir = 'out/demo_audio'
init_from = 'auto'                  # started again, it continues where it was stopped
llm = 'data/models/smollm2-135m'
encoder = 'data/models/whisper-tiny'
audio_seconds = 4
cache_features = True
instruction = 'Caption:'

connector = 'linear'
source_tokens = 'cls'               # Whisper has none: the mean over time
n_targets, last_target, keep_to_end = 12, -4, False
token_norm = token_bias = True
n_prompt = 2

batch_size = 24
learning_rate = 3e-3
prompt_rate = 1e-2
adam_eps = 1e-8                     # the papers' 1e-4 is as large as these gradients
max_iters = 200
eval_interval = 50
log_interval = 20
n_samples = 3
