# Qwen2.5-7B-Instruct, asked in a turn of its chat. It has no BOS: a text starts with EOS, the
# <|im_end|> of a turn before.
#   torchrun --standalone --nproc_per_node=8 train.py config/data/vqav2.py \
#       config/llm/qwen25_7b_instruct.py config/mechanism/qp_l0.py \
#       --out_dir=out/vqav2_qwen25_instruct
# Captions need an instruction: --instruction='Describe the picture.'
llm = 'Qwen/Qwen2.5-7B-Instruct'
chat_template = 'own'
