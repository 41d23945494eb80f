# MSR-VTT captions, with LLaMA-7B and TimeSformer (Kinetics-600) frozen. With a mechanism's file:
#   torchrun --standalone --nproc_per_node=8 train.py config/msrvtt.py config/qp_l0.py --out_dir=out/msrvtt_qp_l0
# data_dir holds MSRVTT.zip, unpacked. The number of epochs is ours. Needs GPUs and the data; nobody has yet run it with this code.
dataset = 'msrvtt'
data_dir = 'data/msrvtt'
out_dir = 'out/msrvtt'
llm = 'huggyllama/llama-7b'
encoder = 'timesformer_k600'
epochs = 20
eval_interval = 1000
