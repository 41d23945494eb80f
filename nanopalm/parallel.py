"""
What a large LLM may need to be trained through, in time or in memory: knobs of train.py, none of which changes what is computed.
"""
import torch
import torch.nn as nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import checkpoint


def checkpoint_activations(layer):
    """The backward pass computes the activations of this decoder layer again, so that none are kept. With frozen weights
    a step then costs 6 FLOPs per weight and token in place of 4."""
    forward, attention = layer.forward, layer.self_attn

    def run(prefix, *args, **kwargs):
        attention.prefix = prefix                               # the second time, that of another pass may stand there
        return forward(*args, **kwargs)

    def checkpointed(*args, **kwargs):
        # a layer with dropout (llm_train_mode) must draw the same numbers again
        return checkpoint(run, getattr(attention, 'prefix', None), *args, use_reentrant=False,
                          preserve_rng_state=layer.training, **kwargs)

    layer.forward = checkpointed


def shard_over_processes(llm, device):
    """FSDP2 of what is frozen and large: each process keeps its share of every linear layer, and has the whole of one only while it is used.
    Layer by layer would do for the text; but of a layer that only makes keys and values for a prefix, two of the seven are needed."""
    mesh = init_device_mesh(device.split(':')[0], (torch.distributed.get_world_size(),))
    trained = {p for p in llm.parameters() if p.requires_grad}
    for linear in [m for m in llm.get_decoder().layers.modules() if isinstance(m, nn.Linear)]:
        fully_shard(linear, mesh=mesh, ignored_params=trained)
