# The demo: DePALM's QP,L0 captioner on Tux Paint stamps, SmolLM2-135M and EfficientNet-Lite0 both frozen.
#   python prepare.py demo && python train.py config/demo.py
# 2 CPU cores, no GPU: see README.md for the minutes and the scores.
dataset = 'data/stamps'
out_dir = 'out/demo'
init_from = 'auto'
llm = 'data/models/smollm2-135m'
encoder = 'data/models/efficientnet-lite0'
resize = 'pad'
cache_features = True
