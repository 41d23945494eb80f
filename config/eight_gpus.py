# The papers' batch is per GPU, here batch_size is over all processes. After the mechanism's file,
# this makes it what the released run had on 8 GPUs (DePALM does not say how many it had):
#   torchrun --standalone --nproc_per_node=8 train.py config/data/coco.py config/mechanism/qp_l0.py \
#       config/eight_gpus.py
# eP-ALM's files have the batch of all its GPUs already.
batch_size = 8 * batch_size
