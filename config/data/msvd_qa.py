# MSVD-QA, with OPT-6.7B and TimeSformer (Kinetics-600) frozen, 8 frames. With a mechanism's file:
#   torchrun --standalone --nproc_per_node=8 train.py config/data/msvd_qa.py \
#       config/mechanism/qp_l0.py --out_dir=out/msvd_qa_qp_l0
# Of the two papers only eP-ALM used it: config/mechanism/epalm_original.py, 26 epochs. With other
# mechanisms the number of epochs is our choice.
# data_dir holds train, val and test_qa.json, youtube_mapping.txt and YouTubeClips/. Needs GPUs and
# the data; nobody has yet run it with this code.
dataset = 'msvd_qa'
data_dir = 'data/msvd'
out_dir = 'out/msvd_qa'
llm = 'facebook/opt-6.7b'
encoder = 'timesformer_k600'
video_frames = 8
answer_cue = '\n\nAnswer:'
max_text_tokens = 30
epochs = 20
eval_interval = 1000
