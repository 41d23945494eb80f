"""
Measures what half precision costs: the gradients of a trained adapter, beside those that the same
examples give in float32.

    python -m tools.precision --out_dir=out/demo

Prints a line for each precision: the loss, the error of the gradients of all trained tensors
(norm of the difference to float32's by norm), their cosine, and the seconds of forward and backward
pass. What was measured, and what follows from it, is in docs/precision.md.
"""

import time

import torch
from torch.nn.functional import cosine_similarity

from configurator import at_least, configure, one_of
from data import ExampleDataset, collate, to_device, tokenize_examples
from nanopalm.checkpoint import load_checkpoint, pick_device_and_dtype
from nanopalm.datasets import load_examples
from nanopalm.errors import explain_errors
from nanopalm.examples import BadData

# ---- hyperparameters -----------------------------------------------------------------------------

# -- what to measure
# a run of train.py
out_dir = 'out/demo'
# its checkpoint, 'best' or 'last'
which: one_of('best', 'last') = 'best'
# training examples, in one batch
rows: at_least(1) = 64
# 'auto', 'cpu', 'cuda', 'cuda:1'
device = 'auto'


# ---- the script ----------------------------------------------------------------------------------


def main(out_dir, which, rows, device):
    device, _ = pick_device_and_dtype(device, 'float32')
    model, tokenizer, config = load_checkpoint(out_dir, which, device, 'float32')
    batch = first_batch(model, tokenizer, config, rows)
    exact = compute_gradients(model, batch, torch.float32)
    print(f'{"":44}{"loss":>8}{"error":>8}{"cosine":>8}{"s":>7}')
    report('float32', exact, exact)

    # what rounding the frozen weights changes is no loss of precision: it is another LLM
    for parameter in model.llm.parameters():
        parameter.data = parameter.data.bfloat16().float()
    rounded = compute_gradients(model, batch, torch.float32)
    report('float32, weights rounded to bfloat16', rounded, exact)
    del model

    halves = [torch.bfloat16]
    if device.startswith('cuda'):
        halves.append(torch.float16)
    for half in halves:
        name = str(half).removeprefix('torch.')
        model, _, _ = load_checkpoint(out_dir, which, device, name)
        report(name, compute_gradients(model, batch, half), exact)
        round_residual_stream(model, half)
        rounded = compute_gradients(model, batch, half)
        report(f'{name}, residual stream as well', rounded, exact)
        del model


def first_batch(model, tokenizer, config, rows):
    """Returns the first training examples as a batch on the model's device, without augmentation,
    each with its first text. Raises BadData for a file that cannot be read."""
    examples = load_examples(config, 'train')[:rows]
    texts = tokenize_examples(examples, tokenizer, config)
    preprocessing = model.encoder.preprocessing if model.encoder else None
    dataset = ExampleDataset(examples, texts, config, preprocessing)
    items = [dataset[0, i] for i in range(len(dataset))]
    batch, errors = collate(items, tokenizer.pad_token_id)
    if errors:
        raise BadData(errors[0])
    device = next(model.adapter.parameters()).device
    return to_device(batch, device)


def compute_gradients(model, batch, dtype):
    """Returns the loss, the gradients of all trained tensors as one vector, and the seconds that
    they took, without dropout. In float16 the loss is scaled, so that small gradients do not
    vanish."""
    scale = 1024.0 if dtype == torch.float16 else 1.0
    device_type = batch['input_ids'].device.type
    model.zero_grad(set_to_none=True)
    began = time.time()
    with torch.autocast(device_type, dtype, enabled=dtype != torch.float32):
        loss = model(**batch)
    (loss * scale).backward()
    gradients = []
    for parameter in model.trained().values():
        if parameter.grad is not None:
            gradients.append(parameter.grad.flatten() / scale)
    gradient = torch.cat(gradients).double()
    return loss.item(), gradient, time.time() - began


def round_residual_stream(model, half):
    """From here on what flows from layer to layer is rounded after each of them, and its gradient
    too, as in a model that transformers holds in half precision."""

    def round_output(layer, args, output):
        return output.to(half).float()

    for layer in model.decoder.layers:
        layer.register_forward_hook(round_output)


def report(name, result, exact):
    """Prints the line of a precision: result and exact are what `compute_gradients` returned in it
    and in float32."""
    loss, gradient, seconds = result
    _, exact_gradient, _ = exact
    error = (gradient - exact_gradient).norm() / exact_gradient.norm()
    cosine = cosine_similarity(gradient, exact_gradient, dim=0)
    print(f'{name:44}{loss:8.4f}{error:8.2%}{cosine:8.4f}{seconds:7.1f}', flush=True)


if __name__ == '__main__':
    explain_errors()
    main(**configure(globals()))
