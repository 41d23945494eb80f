# eP-ALM as published (ICCV 2023): CLS of the last 6 blocks of a ViT-L into layers 19..30 of OPT-6.7B, 4.24M trained parameters.
#   python train.py config/coco.py config/epalm_original.py --llm=facebook/opt-6.7b --encoder=vit_l_in21k
# Prompt tokens have no position embedding; --prompt_mlp=True puts Linear, Tanh, Linear behind them; --n_connectors=6 gives every
# source its own connector. Ours is causal, theirs lets the text read a token that has seen the answer: expect other numbers.
connector = 'linear'
source_tokens = 'cls'
activation = 'none'
source_layers = 6
n_targets, last_target, keep_to_end = 12, -2, False
n_prompt = 10
prompt_positions = False
