# Llama-2-7B-chat, asked in a turn of its chat, without a system prompt. Gated: needs a Hub login.
#   torchrun --standalone --nproc_per_node=8 train.py config/vqav2.py config/llama2_7b_chat.py config/qp_l0.py --out_dir=out/vqav2_llama2_chat
# For captions, say before it what to ask: train.py config/coco.py --instruction='Describe the picture.' config/llama2_7b_chat.py ...
llm = 'meta-llama/Llama-2-7b-chat-hf'
instruction = '[INST] ' + instruction.removesuffix('\n\nAnswer:\n') + ' [/INST]'
