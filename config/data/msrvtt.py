# MSR-VTT captions, as DePALM trains on them: LLaMA-7B and TimeSformer (Kinetics-400) frozen, 16
# frames, 8 epochs. With a mechanism's file:
#   torchrun --standalone --nproc_per_node=8 train.py config/data/msrvtt.py \
#       config/mechanism/qp_l0.py --out_dir=out/msrvtt_qp_l0
# r_rand and limber_all average the tokens over time, each patch over its frames. (DePALM's code
# took every 196th token of a sequence in which the frames of a patch stand together, and so
# averaged over places as well.)
# The split is that of both papers: 7,010 videos to train on (the official train and val splits),
# and the test videos to validate on. A checkpoint chosen by validation has seen the test set, so
# the last checkpoint is tested. --dataset=msrvtt is the official split.
# data_dir holds MSRVTT.zip, unpacked. Needs GPUs and the data; nobody has yet run it with this
# code.
dataset = 'msrvtt_7k'
data_dir = 'data/msrvtt'
out_dir = 'out/msrvtt'
llm = 'huggyllama/llama-7b'
encoder = 'timesformer_k400'
video_frames = 16
epochs = 8
eval_interval = 1000
test_checkpoint = 'last'
