# eP-ALM_pt-L (ICCV 2023): CLS of the last 6 blocks of a ViT-L, through one Linear, into layers 19
# to 30 of OPT-6.7B; 4.24M trained parameters. After coco.py, vqav2.py or gqa.py:
#   torchrun --standalone --nproc_per_node=8 train.py config/data/coco.py config/mechanism/epalm_original_l.py
# Theirs lets the text read a token that has seen the answer, ours is causal: expect other numbers.
# Needs 8 GPUs, as theirs, and the data; nobody has yet run it with this code.
from config.papers import epalm_l

llm = 'facebook/opt-6.7b'
connector = 'linear'
source_tokens = 'cls'
activation = 'none'
source_layers = 6
n_connectors = 1
n_targets, last_target, keep_to_end = 12, -2, False
n_prompt = 10
prompt_mlp = False
prompt_positions = False
token_init_std = 1.0
llm_train_mode = True

learning_rate = 2e-4
prompt_rate = 1e-3
prompt_schedule = False
weight_decay = 0.02
adam_eps = 1e-8
grad_clip = 0.0
label_smoothing = 0.0
schedule_by = 'epoch'
warmup_epochs = 4
warmup_from = 0.5                   # of learning_rate: 1e-4
min_lr = 0.05                       # of learning_rate: 1e-5

row_per_caption = True
loss_on_prompt = True
test_checkpoint = 'best'
test_new_tokens = 30


def recipe(knobs):
    return epalm_l(knobs)
