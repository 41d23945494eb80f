# eP-ALM as DePALM runs it with OPT: CLS of the last 6 blocks into 12 inner layers.
#   python train.py config/coco.py config/epalm_opt.py
# The paper (DePALM, Table 1), to be run on GPUs: no row of its own.
connector = 'linear'
source_tokens = 'cls'
activation = 'none'
source_layers = 6
n_targets, last_target, keep_to_end = 12, -2, False
n_prompt = 10
