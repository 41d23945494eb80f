# Mistral-7B-Instruct v0.3, asked in a turn of its chat.
#   torchrun --standalone --nproc_per_node=8 train.py config/data/vqav2.py \
#       config/llm/mistral_7b_instruct.py config/mechanism/qp_l0.py --out_dir=out/vqav2_mistral
# Captions need an instruction: --instruction='Describe the picture.'
llm = 'mistralai/Mistral-7B-Instruct-v0.3'
chat_template = 'own'
