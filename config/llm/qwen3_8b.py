# Qwen3-8B, asked in a turn of its chat, to be answered without thinking. It has no BOS: a text
# starts with EOS, the <|im_end|> of a turn before.
#   torchrun --standalone --nproc_per_node=8 train.py config/data/vqav2.py config/llm/qwen3_8b.py \
#       config/mechanism/qp_l0.py --out_dir=out/vqav2_qwen3
# Captions need an instruction: --instruction='Describe the picture.'
llm = 'Qwen/Qwen3-8B'
chat_template = 'own'
