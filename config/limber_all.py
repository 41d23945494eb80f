# LiMBeR(all): one Linear on every token of the encoder.
#   python train.py config/coco.py config/limber_all.py
# The paper (DePALM, Table 1), to be run on GPUs: COCO 136.31, COCO 1% 83.74, VQAv2 73.42, AudioCaps 40.12, MSR-VTT 46.87.
connector = 'linear'
source_tokens = 'all'
activation = 'none'
n_targets, last_target, keep_to_end = 1, 0, True
n_prompt = 0
