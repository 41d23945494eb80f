# Llama-3-8B-Instruct, asked in a turn of its chat; EOS is the end of a turn. Gated: needs a Hub login.
#   torchrun --standalone --nproc_per_node=8 train.py config/data/vqav2.py config/llm/llama3_8b_instruct.py config/mechanism/qp_l0.py --out_dir=out/vqav2_llama3_instruct
# For captions, say before it what to ask: train.py config/data/coco.py --instruction='Describe the picture.' config/llm/llama3_8b_instruct.py ...
llm = 'meta-llama/Meta-Llama-3-8B-Instruct'
instruction = ('<|start_header_id|>user<|end_header_id|>\n\n' + instruction.removesuffix('\n\nAnswer:')
               + '<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n')
