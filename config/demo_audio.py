# The demo of sound: eP-ALM on the names of things as eight voices speak them. Each held-out clip is
# new, what it says was heard in training in other voices. SmolLM2-135M and the encoder of
# Whisper-tiny.en are both frozen.
#   python prepare.py demo-audio && python train.py config/demo_audio.py
dataset = 'data/spoken_names'
out_dir = 'out/demo_audio'
# started again, it continues where it was stopped
init_from = 'auto'
llm = 'data/models/smollm2-135m'
encoder = 'data/models/whisper-tiny'
# the longest clip has 2.4
audio_seconds = 3
cache_features = True
instruction = 'Caption:'
# for mechanisms that inject at layer 0, which this one does not: else the LLM makes the first token
# of the sound its attention sink
prefix_start = '<|endoftext|>'

connector = 'linear'
# Whisper has no CLS: the mean over time stands for it
source_tokens = 'cls'
activation = 'none'
# a layer reads the mean in its own way
n_connectors = 12
n_targets = 12
last_target = -2
keep_to_end = False
token_norm = True
token_bias = True
n_prompt = 0
bottleneck = 'parallel'
bottleneck_factor = 8
bottleneck_layers = 'targets'

batch_size = 48
learning_rate = 1e-2
muon_rate = 0.05
# the papers' 1e-4 is as large as these gradients
adam_eps = 1e-8
weight_decay = 0.0
max_iters = 250
eval_interval = 50
log_interval = 20
n_samples = 3
test_checkpoint = 'last'
# the longest caption has 9
test_new_tokens = 20
