# QP,L0: learned queries read the patches, their outputs enter at layer 0.
#   python train.py config/coco.py config/qp_l0.py
# The paper (DePALM, Table 1), to be run on GPUs: COCO 131.29, COCO 1% 87.05, VQAv2 70.11, AudioCaps 43.37, MSR-VTT 49.88.
connector = 'qpmapper'
n_queries = 32
mapper_layers = 2
adapter_dim = 1024
n_targets, last_target, keep_to_end = 1, 0, True
n_prompt = 1
learning_rate = 4e-4
