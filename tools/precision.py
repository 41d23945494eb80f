"""
What half precision costs: the gradients of a trained adapter, on the same rows, beside those in float32.

    python -m tools.precision --out_dir=out/demo

A line for each way: the loss, how far the gradients of all trained tensors are from float32's (norm of the difference by norm),
their cosine, and seconds for forward and backward. docs/precision.md says what was measured and what follows.
"""
import sys
import time

import torch
from torch.nn.functional import cosine_similarity

from configurator import at_least, configure, one_of
from data import ExampleDataset, collate, tokenize_examples
from nanopalm.checkpoint import load_checkpoint, pick_device_and_dtype
from nanopalm.datasets import load_examples
from nanopalm.examples import BadData

# ---- knobs ----------------------------------------------------------------------------------------------------------
out_dir = 'out/demo'                # a run of train.py
which: one_of('best', 'last') = 'best'  # 'best' or 'last'
rows: at_least(1) = 64  # training rows, in one batch
device = 'auto'
# ---------------------------------------------------------------------------------------------------------------------



def main():
    where, _ = pick_device_and_dtype(device, 'float32')
    model, tokenizer, config = load_checkpoint(out_dir, which, where, 'float32')
    batch = first_rows(model, tokenizer, config)
    exact = gradients(model, batch, torch.float32)
    print(f'{"":44}{"loss":>8}{"error":>8}{"cosine":>8}{"s":>7}')
    report('float32', exact, exact)

    # what rounding the frozen weights changes is no loss of precision: it is another LLM
    for name, p in model.llm.named_parameters():
        p.data = p.data.bfloat16().float()
    rounded = gradients(model, batch, torch.float32)
    report('float32, weights rounded to bfloat16', rounded, exact)
    del model

    halves = [torch.bfloat16]
    if where.startswith('cuda'):
        halves.append(torch.float16)
    for half in halves:
        name = str(half).removeprefix('torch.')
        model = load_checkpoint(out_dir, which, where, name)[0]
        report(name, gradients(model, batch, half), exact)
        round_stream(model, half)
        report(f'{name}, residual stream as well', gradients(model, batch, half), exact)
        del model


def first_rows(model, tokenizer, config):
    """The first training rows as a batch on the model's device, in plain view, each with its first text."""
    examples = load_examples(config, 'train')[:rows]
    preprocessing = model.encoder.preprocessing if model.encoder else None
    dataset = ExampleDataset(examples, tokenize_examples(examples, tokenizer, config), config, preprocessing)
    batch, errors = collate([dataset[0, i] for i in range(len(dataset))], tokenizer.pad_token_id)
    if errors:
        raise BadData(errors[0])
    where = next(model.adapter.parameters()).device
    return {key: torch.as_tensor(value).to(where) for key, value in batch.items()}


def gradients(model, batch, dtype):
    """(loss, the gradients of all trained tensors as one vector, seconds), without dropout. In float16 the loss is scaled."""
    scale = 1024.0 if dtype == torch.float16 else 1.0
    model.zero_grad(set_to_none=True)
    began = time.time()
    with torch.autocast(batch['input_ids'].device.type, dtype, enabled=dtype != torch.float32):
        loss = model(**batch)
    (loss * scale).backward()
    parts = [p.grad.flatten() / scale for p in model.trained().values() if p.grad is not None]
    gradient = torch.cat(parts).double()
    return loss.item(), gradient, time.time() - began


def round_stream(model, half):
    """What flows from layer to layer is rounded after each, and its gradient too, as in a model that transformers holds in half."""
    def round_output(layer, args, output):
        return output.to(half).float()

    for layer in model.decoder.layers:
        layer.register_forward_hook(round_output)


def report(name, result, exact):
    loss, gradient, seconds = result
    error = (gradient - exact[1]).norm() / exact[1].norm()
    cosine = cosine_similarity(gradient, exact[1], dim=0)
    print(f'{name:44}{loss:8.4f}{error:8.2%}{cosine:8.4f}{seconds:7.1f}', flush=True)


if __name__ == '__main__':
    configure(globals())
    try:
        main()
    except (BadData, ValueError, OSError) as e:
        sys.exit(str(e))
