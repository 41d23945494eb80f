# SmolLM2-135M-Instruct (prepare.py demo makes it a local folder), asked in a turn of its chat, whose first <|im_start|> is BOS.
#   python train.py config/data/vqav2.py config/llm/smollm2_135m_instruct.py config/mechanism/qp_l0.py --out_dir=out/vqav2_smollm2_instruct
# For captions, say before it what to ask: train.py config/data/coco.py --instruction='Describe the picture.' config/llm/smollm2_135m_instruct.py ...
llm = 'HuggingFaceTB/SmolLM2-135M-Instruct'
instruction = ('system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n'
               '<|im_start|>user\n' + instruction.removesuffix('\n\nAnswer:') + '<|im_end|>\n<|im_start|>assistant\n')
