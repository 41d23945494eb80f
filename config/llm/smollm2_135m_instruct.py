# SmolLM2-135M-Instruct (`prepare.py demo` makes it a local folder), asked in a turn of its chat,
# whose first <|im_start|> is BOS.
#   python train.py config/data/vqav2.py config/llm/smollm2_135m_instruct.py \
#       config/mechanism/qp_l0.py --out_dir=out/vqav2_smollm2_instruct
# Captions need an instruction: --instruction='Describe the picture.'
llm = 'HuggingFaceTB/SmolLM2-135M-Instruct'
chat_template = 'own'
