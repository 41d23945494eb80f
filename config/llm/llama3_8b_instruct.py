# Llama-3-8B-Instruct, asked in a turn of its chat; EOS is the end of a turn.
# Gated: needs a Hub login.
#   torchrun --standalone --nproc_per_node=8 train.py config/data/vqav2.py \
#       config/llm/llama3_8b_instruct.py config/mechanism/qp_l0.py \
#       --out_dir=out/vqav2_llama3_instruct
# Captions need an instruction: --instruction='Describe the picture.'
llm = 'meta-llama/Meta-Llama-3-8B-Instruct'
chat_template = 'own'
