# eP-ALM as published (ICCV 2023): CLS of the last 6 blocks of a ViT-B, each through a Linear of its
# own, into layers 19 to 30 of OPT-2.7B. 24.9M trained parameters, half of them in the MLP behind
# the prompt tokens. With coco.py, vqav2.py, gqa.py, audiocaps.py, msrvtt.py, msrvtt_qa.py or
# msvd_qa.py:
#   torchrun --standalone --nproc_per_node=4 train.py config/data/coco.py \
#       config/mechanism/epalm_original.py --out_dir=out/coco_epalm_original
# The paper's score on COCO: 97 CIDEr (as its README says). In its code the text reads a token that
# has seen the answer, here attention is causal: expect other numbers. Needs the data and 4 GPUs, as
# the paper; nobody has yet run it with this code.
from config.papers import epalm

llm = 'facebook/opt-2.7b'
# whatever LLM's file stands before: this one does not chat
chat_template = ''
connector = 'linear'
source_tokens = 'cls'
activation = 'none'
source_layers = 6
n_connectors = 6
n_targets = 12
last_target = -2
keep_to_end = False
n_prompt = 10
prompt_mlp = True
prompt_positions = False
token_init_std = 1.0
llm_train_mode = True

# the rate rises from 1e-5 and falls to 1e-6; the prompt tokens' stays
learning_rate = 2e-5
warmup_from = 0.5
min_lr = 0.05
schedule_by = 'epoch'
warmup_epochs = 4
prompt_rate = 1e-5
prompt_schedule = False
weight_decay = 0.02
adam_eps = 1e-8
grad_clip = 0.0
label_smoothing = 0.0

row_per_caption = True
loss_on_prompt = True
test_checkpoint = 'best'
test_new_tokens = 30


def recipe(config):
    return epalm(config)
