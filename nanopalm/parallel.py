"""
Ways to train with an LLM that is too large or too slow otherwise: hyperparameters of train.py, none
of which changes what is computed.
"""

import torch
import torch.nn as nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.checkpoint import checkpoint

from model import captured_keys_values, injected


def checkpoint_activations(layer):
    """Lets the backward pass compute the activations of this decoder layer again, so that none are
    kept. With frozen weights a step then costs 6 FLOPs per weight and token in place of 4."""
    forward = layer.forward
    attention = layer.self_attn

    def run(injection, captures, *args, **kwargs):
        # in the backward pass, the layer no longer has what was injected in the forward pass
        if layer.injection is not injection:
            with injected([layer], [injection]):
                return run(injection, captures, *args, **kwargs)
        if not captures:
            return forward(*args, **kwargs), None
        with captured_keys_values(layer) as captured:
            output = forward(*args, **kwargs)
        return output, captured[0]

    def checkpointed(*args, **kwargs):
        captured = attention.captured
        output, part = checkpoint(
            run,
            layer.injection,
            captured is not None,
            *args,
            use_reentrant=False,
            # a layer with dropout (llm_train_mode) must draw the same numbers again
            preserve_rng_state=layer.training,
            **kwargs,
        )
        if captured is not None:
            # outside of what is computed again: torch.compile allows it no side effects
            captured.append(part)
        return output

    layer.forward = checkpointed


def shard_over_processes(llm, device):
    """Distributes what is frozen and large by FSDP2: each process keeps its share of every linear
    layer, and has the whole of one only while it is used. Whole decoder layers would do for the
    text; but of a layer that only makes keys and values for a prefix, two of the seven are used."""
    mesh = init_device_mesh(device.split(':')[0], (torch.distributed.get_world_size(),))
    trained = {p for p in llm.parameters() if p.requires_grad}
    layers = llm.get_decoder().layers
    for module in [m for m in layers.modules() if isinstance(m, nn.Linear)]:
        fully_shard(module, mesh=mesh, ignored_params=trained)


def sum_over_processes(x, world, device):
    """Returns the sum of a number over all processes, the same tensor in each."""
    x = torch.as_tensor(x, device=device).clone()
    if world > 1:
        torch.distributed.all_reduce(x)
    return x
