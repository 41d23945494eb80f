# The batch of a released run on 8 GPUs. The papers' batch is per GPU, here batch_size is over all
# processes; DePALM does not say how many GPUs it had. It stands behind the mechanism's file:
#   torchrun --standalone --nproc_per_node=8 train.py config/data/coco.py \
#       config/mechanism/qp_l0.py config/eight_gpus.py
# eP-ALM's files already have the batch of all GPUs.
batch_size = 8 * batch_size  # noqa: F821
