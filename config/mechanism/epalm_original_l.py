# eP-ALM_pt-L (ICCV 2023): CLS of the last 6 blocks of a ViT-L, through one Linear, into layers 19
# to 30 of OPT-6.7B. 4.24M trained parameters. With coco.py, vqav2.py or gqa.py:
#   torchrun --standalone --nproc_per_node=8 train.py config/data/coco.py \
#       config/mechanism/epalm_original_l.py --out_dir=out/coco_epalm_original_l
# In its code the text reads a token that has seen the answer, here attention is causal: expect
# other numbers. Needs the data and 8 GPUs, as the paper; nobody has yet run it with this code.
# All that is not named here is as in config/mechanism/epalm_original.py.
from config.mechanism.epalm_original import *  # noqa: F403
from config.papers import epalm_l

llm = 'facebook/opt-6.7b'
n_connectors = 1
prompt_mlp = False

# the rate rises from 1e-4 and falls to 1e-5
learning_rate = 2e-4
prompt_rate = 1e-3


def recipe(config):
    return epalm_l(config)
