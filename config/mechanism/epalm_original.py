# eP-ALM as published (ICCV 2023): CLS of the last 6 blocks of a ViT-B, each through a Linear of its
# own, into layers 19 to 30 of OPT-2.7B; 25.0M trained parameters, half of them behind the prompt
# tokens. After coco.py, vqav2.py, gqa.py, audiocaps.py, msrvtt.py, msrvtt_qa.py or msvd_qa.py:
#   torchrun --standalone --nproc_per_node=4 train.py config/data/coco.py config/mechanism/epalm_original.py
# The paper, on COCO: 97 CIDEr (as its README says). Theirs lets the text read a token that has seen
# the answer, ours is causal: expect other numbers. Needs 4 GPUs, as theirs, and the data; nobody
# has yet run it with this code.
from config.papers import epalm

llm = 'facebook/opt-2.7b'
connector = 'linear'
source_tokens = 'cls'
activation = 'none'
source_layers = 6
n_connectors = 6
n_targets, last_target, keep_to_end = 12, -2, False
n_prompt = 10
prompt_mlp = True
prompt_positions = False
token_init_std = 1.0
llm_train_mode = True

learning_rate = 2e-5
prompt_rate = 1e-5
prompt_schedule = False
weight_decay = 0.02
adam_eps = 1e-8
grad_clip = 0.0
label_smoothing = 0.0
schedule_by = 'epoch'
warmup_epochs = 4
warmup_from = 0.5                   # of learning_rate: 1e-5
min_lr = 0.05                       # of learning_rate: 1e-6

row_per_caption = True
loss_on_prompt = True
test_checkpoint = 'best'
test_new_tokens = 30


def recipe(knobs):
    return epalm(knobs)
