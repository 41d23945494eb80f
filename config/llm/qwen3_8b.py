# Qwen3-8B, asked in a turn of its chat, with nothing thought. It has no BOS: its text starts with EOS, the <|im_end|> of a turn before.
#   torchrun --standalone --nproc_per_node=8 train.py config/data/vqav2.py config/llm/qwen3_8b.py config/mechanism/qp_l0.py --out_dir=out/vqav2_qwen3
# For captions, say before it what to ask: train.py config/data/coco.py --instruction='Describe the picture.' config/llm/qwen3_8b.py ...
llm = 'Qwen/Qwen3-8B'
instruction = ('<|im_start|>user\n' + instruction.removesuffix('\n\nAnswer:')
               + '<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n')
