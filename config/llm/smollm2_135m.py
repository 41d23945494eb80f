# SmolLM2-135M, which continues a text: it is given the papers' prompts as they are.
# Larger ones: --llm=HuggingFaceTB/SmolLM2-360M and -1.7B.
#   python train.py config/data/coco.py config/llm/smollm2_135m.py config/mechanism/qp_l0.py \
#       --out_dir=out/coco_smollm2
llm = 'HuggingFaceTB/SmolLM2-135M'
