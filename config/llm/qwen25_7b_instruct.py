# Qwen2.5-7B-Instruct, asked in a turn of its chat. It has no BOS: its text starts with EOS, the <|im_end|> of a turn before.
#   torchrun --standalone --nproc_per_node=8 train.py config/data/vqav2.py config/llm/qwen25_7b_instruct.py config/mechanism/qp_l0.py --out_dir=out/vqav2_qwen25_instruct
# For captions, say before it what to ask: train.py config/data/coco.py --instruction='Describe the picture.' config/llm/qwen25_7b_instruct.py ...
llm = 'Qwen/Qwen2.5-7B-Instruct'
instruction = ('<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n'
               '<|im_start|>user\n' + instruction.removesuffix('\n\nAnswer:') + '<|im_end|>\n<|im_start|>assistant\n')
