# AudioCaps, as DePALM trains on it: OPT-6.7B and an audio encoder frozen, 12 epochs. With a
# mechanism's file:
#   torchrun --standalone --nproc_per_node=8 train.py config/data/audiocaps.py \
#       config/mechanism/qp_l0.py --out_dir=out/audiocaps_qp_l0
#   ... --encoder=clap                    # the runs with CLAP
#   ... --train_rows=0.01                 # the paper's runs on 1%, 30 epochs
# The other released runs read MAViL, whose weights were never published. AST stands in its place,
# with the learning rates of those runs (--encoder=audiomae has MAViL's architecture). ast_last is
# AST as DePALM reads it: where a mechanism takes several source layers, the last hidden state is
# repeated; --encoder=ast reads the last blocks. r_avgpool, r_linear and r_qpmapper need CLAP or
# AudioMAE: AST's 1,214 tokens are not a multiple of 4, neither here nor in DePALM's code.
# data_dir holds train.csv, val.csv, test.csv and the clips in audio/; with --bad_rows=skip the
# clips that YouTube no longer has are left out. Needs GPUs and the data; nobody has yet run it
# with this code.
dataset = 'audiocaps'
data_dir = 'data/audiocaps'
out_dir = 'out/audiocaps'
llm = 'facebook/opt-6.7b'
encoder = 'ast_last'
# of OPT; a mechanism's file leaves it out for LLaMA, as DePALM
answer_prompt = 'Answer: '
epochs = 12
eval_interval = 1000
