"""
Measures what a training step and a generation cost, ours beside the reference implementation's
(naive.py), alternating in one process. Prints tables, then all numbers as one line of JSON.

    # 12 layers of width 768 in fp32, for a CPU
    python -m tools.bench
    # LLaMA-7B and OPT-6.7B, with random weights that are made on the GPU
    python -m tools.bench --preset=7b
    # some mechanisms, some measurements
    python -m tools.bench --mechanisms=limber_all,epalm --parts=train
    # where the time of our training step goes
    python -m tools.bench --mechanisms=qp_inner --profile=True
    # the memory of a training step for LLMs of four sizes; it is computed, so no GPU is needed
    python -m tools.bench --preset=7b --memory=True

The weights and the encoder's hidden states are random. Before anything is timed, both ways must
give the same loss. A step of the reference implementation that takes more than `slow` seconds is
timed once. It generates for as many inputs as fill the device (`naive_rows`), and its time is
scaled to all of them.

`of limit` is the FLOPs of a step's matrix products and attention, with the adapter's, over what the
device does in the same time in one matrix product of as many rows as the step has. MFU counts the
LLM alone, 4 FLOPs per weight and token.
"""

import json
import math
import statistics
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import nanopalm.wheels  # noqa: F401

import torch
import torch.nn as nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig, OPTConfig

import naive
from adapters import Adapter, AdapterConfig, RandomPatches
from configurator import at_least, configure, one_of, run_config_file
from encoders import Encoder
from model import PALM
from nanopalm.allocator import keep_freed_memory
from nanopalm.checkpoint import pick_device_and_dtype
from nanopalm.errors import explain_errors
from nanopalm.logs import find_peak_flops, training_flops
from nanopalm.parallel import checkpoint_activations
from tools import MECHANISMS
from tools.clocks import PeakBytes, alternate, time_shares

# ---- hyperparameters -----------------------------------------------------------------------------

# -- what to measure
# 'cpu', '7b' or 'tiny': gives every size below that is 0
preset: one_of('cpu', '7b', 'tiny') = 'cpu'
# names in config/mechanism/, with commas between them
mechanisms = MECHANISMS
# 'texts' is 5 captions per input, 'vqa' is questions of different lengths in one batch
parts = 'train,generate,texts,vqa'
# instead: where the time of our training step goes, in percent
profile = False
# instead: the GB of our training step for each of LLM_SIZES, computed without running it
memory = False
# torch.compile, for our way
compile = False

# -- the models
# a name in encoders.py or of timm, with random weights: it runs in every training step;
# '' = random features
encoder = ''
# decoder layers of the LLM
layers: at_least(0) = 0
# of the LLM
width: at_least(0) = 0
# of the LLM
heads: at_least(0) = 0
# tokens that the LLM knows
vocab: at_least(0) = 0
# width of mappers and resamplers, 0 = what each config file says
adapter_dim: at_least(0) = 0
# of a hidden state of the encoder: CLS and a square of patches
visual_tokens: at_least(0) = 0
# of a hidden state of the encoder
visual_width: at_least(0) = 0

# -- the work
# inputs
batch_size: at_least(0) = 0
# of a caption in training, and of the longest question in 'vqa'
text_tokens: at_least(0) = 0
# generated for each input
new_tokens: at_least(0) = 0
# of beam search
num_beams: at_least(1) = 3
# timed runs of each way, alternating
repeats: at_least(0) = 0
# seconds; a step of the reference implementation that takes longer is timed once
slow = 20.0
# tokens in one forward pass that fill the device
naive_rows: at_least(0) = 0
# 'auto', 'cpu', 'cuda', 'cuda:1'
device = 'auto'
# 'bfloat16', 'float16' or 'float32', '' = the preset's
dtype: one_of('', 'bfloat16', 'float16', 'float32') = ''
# of weights and inputs
seed: at_least(0) = 0

# ---- constants -----------------------------------------------------------------------------------

PRESETS = {
    'cpu': dict(
        layers=12,
        width=768,
        heads=12,
        vocab=32000,
        visual_tokens=257,
        visual_width=1024,
        batch_size=16,
        text_tokens=20,
        new_tokens=20,
        repeats=3,
        naive_rows=256,
        dtype='float32',
    ),
    '7b': dict(
        layers=32,
        width=4096,
        heads=32,
        vocab=32000,
        visual_tokens=257,
        visual_width=1024,
        batch_size=16,
        text_tokens=20,
        new_tokens=20,
        repeats=7,
        naive_rows=10**9,
        dtype='bfloat16',
    ),
    'tiny': dict(
        layers=8,
        width=64,
        heads=4,
        vocab=90,
        visual_tokens=17,
        visual_width=48,
        batch_size=2,
        text_tokens=8,
        new_tokens=4,
        repeats=2,
        naive_rows=10**9,
        dtype='float32',
    ),
}
# for --memory
LLM_SIZES = {
    '135M': dict(layers=12, width=768, heads=12),
    '1.3B': dict(layers=24, width=2048, heads=32),
    '7B': dict(layers=32, width=4096, heads=32),
    '13B': dict(layers=40, width=5120, heads=40),
}
PARTS = ('train', 'generate', 'texts', 'vqa')
# mechanisms that the last two parts are measured for
TEXTS_MECHANISMS = ('limber_all',)
VQA_MECHANISMS = ('qp_l0', 'limber_all')
# captions of an input in 'texts'
TEXTS = 5
# of the two losses, relative
TOLERANCE = 1e-3


# ---- the script ----------------------------------------------------------------------------------


def read_options(config):
    """Returns the hyperparameters as attributes, with the preset's sizes where none are given.
    Exits with a message for a name that is not known."""
    options = SimpleNamespace(**config)
    for name, value in PRESETS[options.preset].items():
        if not getattr(options, name):
            setattr(options, name, value)
    check_names('mechanisms', options.mechanisms, MECHANISMS.split(','))
    check_names('parts', options.parts, PARTS)
    return options


def check_names(hyperparameter, text, known):
    for name in text.split(','):
        if name not in known:
            sys.exit(f'{hyperparameter}: there is no {name!r}, expected some of {",".join(known)}')


def main(config):
    options = read_options(config)
    if options.memory:
        print_memory_table(options)
        return
    options.device, _ = pick_device_and_dtype(options.device, options.dtype)
    if options.device == 'cpu':
        # as the scripts do
        keep_freed_memory()
    peak_flops = find_peak_flops(options.device, options.dtype)
    result = dict(knobs=vars(options), peak_flops=peak_flops, mechanisms={})
    for mechanism in options.mechanisms.split(','):
        model = make_model(options, mechanism)
        if options.profile:
            row = profile_training(options, model)
            print(f'{mechanism}: {profile_summary(row)}', flush=True)
        else:
            row = measure(options, mechanism, model, peak_flops)
            print(f'{mechanism}: {ratio_summary(row)}', flush=True)
        result['mechanisms'][mechanism] = row
    print('' if options.profile else tables(options, result['mechanisms']))
    print(json.dumps(result))


def measure(options, mechanism, model, peak_flops):
    """Returns the measurements of a mechanism: both losses, and a dict for each of `parts`."""
    parts = options.parts.split(',')
    row = check_losses(options, model)
    if 'train' in parts:
        row['train'] = bench_training(options, model, peak_flops)
    if 'generate' in parts:
        lengths = [1] * options.batch_size
        row['generate'] = bench_generation(options, model, lengths, options.new_tokens)
    if 'texts' in parts and mechanism in TEXTS_MECHANISMS:
        row['texts'] = bench_texts(options, model)
    if 'vqa' in parts and mechanism in VQA_MECHANISMS:
        lengths = question_lengths(options.batch_size, options.text_tokens)
        row['vqa'] = bench_generation(options, model, lengths, options.new_tokens // 2)
    return row


def question_lengths(n, longest):
    """Returns the tokens of n questions, from the longest to one of half the length."""
    return [longest - i * longest // (2 * n) for i in range(n)]


# ---- the models ----------------------------------------------------------------------------------


def make_model(options, mechanism):
    """Returns the PALM of config/mechanism/<mechanism>.py, on an LLM of random weights."""
    cfg = adapter_config(options, mechanism)
    torch.manual_seed(options.seed)
    with torch.device(options.device):
        llm = AutoModelForCausalLM.from_config(
            llm_config(options, mechanism), dtype=getattr(torch, options.dtype)
        )
        encoder = None
        visual_width = options.visual_width
        side = round((options.visual_tokens - 1) ** 0.5)
        grid = [side, side]
        if options.encoder:
            encoder = Encoder(options.encoder, cfg.source_layers, pretrained=False)
            visual_width = encoder.dim
            grid = encoder.grid
        adapter = Adapter(cfg, visual_width, grid, options.width, options.layers)
        model = PALM(llm, adapter, encoder)
    # every text has as many new tokens as were asked for
    llm.generation_config.eos_token_id = None
    for name, parameter in model.trained().items():
        if name.endswith('.gate'):
            # at 0, where it starts, c-attn reads nothing
            nn.init.constant_(parameter, 0.5)
    if options.compile:
        model.compile_layers()
    return model


def adapter_config(options, mechanism):
    """Returns the AdapterConfig of a config file. At most half of the LLM's layers are targets: the
    config files are for LLMs of 32."""
    defaults = {field.name: field.default for field in fields(AdapterConfig)}
    root = Path(__file__).resolve().parent.parent
    assigned = run_config_file(str(root / f'config/mechanism/{mechanism}.py'), dict(defaults))
    values = {name: assigned.get(name, default) for name, default in defaults.items()}
    cfg = AdapterConfig(**values)
    cfg.n_targets = min(cfg.n_targets, options.layers // 2)
    if options.adapter_dim:
        cfg.adapter_dim = options.adapter_dim
    return cfg


def llm_config(options, mechanism):
    """Returns transformers' config of the LLM: OPT for the mechanisms whose names say so, LLaMA for
    the others."""
    width = options.width
    sizes = dict(
        vocab_size=options.vocab,
        hidden_size=width,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        pad_token_id=0,
    )
    # logits then differ enough for the loss to depend on the image
    deviation = 1.3 / width**0.5
    if mechanism.endswith('_opt'):
        return OPTConfig(**sizes, ffn_dim=4 * width, word_embed_proj_dim=width, init_std=deviation)
    # 8/3 of the width, rounded up to a multiple of 256
    intermediate_size = 256 * math.ceil(8 * width / 768)
    return LlamaConfig(**sizes, intermediate_size=intermediate_size, initializer_range=deviation)


def mlp_weight(model):
    """Returns the first weight (D_mlp, D) of the MLP in the LLM's first layer."""
    first, _ = model.family.block_ends(model.decoder.layers[0], 'mlp')
    return first.weight


# ---- the data ------------------------------------------------------------------------------------


def make_batch(options, model, texts=1):
    """Returns a random batch of B inputs with G texts each, the same for the same seed: dict(
    input_ids, labels) (B*G, T); and inputs for `hidden_states`."""
    generator = torch.Generator().manual_seed(options.seed)
    size = options.batch_size * texts, options.text_tokens
    labels = torch.randint(1, options.vocab, size, generator=generator)
    if model.encoder is None:
        source_layers = model.adapter.cfg.source_layers
        shape = source_layers, options.visual_tokens, options.visual_width
    else:
        shape = model.encoder.preprocessing.shape
    inputs = torch.randn(options.batch_size, *shape, generator=generator).to(options.device)
    # labels stay on the CPU, as in train.py
    return dict(input_ids=labels.to(options.device), labels=labels), inputs


def hidden_states(model, inputs):
    """Returns the hidden states (B, S, 1+N, D) of pixels, or the inputs themselves where there is
    no encoder."""
    if model.encoder is None:
        return inputs
    return torch.stack(model.encode(inputs), dim=1)


# ---- our way and the reference implementation ----------------------------------------------------


def autocast(options):
    """Returns the context that a step or a generation runs in, as in train.py."""
    device_type = options.device.split(':')[0]
    half = options.dtype != 'float32'
    return torch.autocast(device_type, dtype=getattr(torch, options.dtype), enabled=half)


# --compile is for our way alone
@torch.compiler.set_stance('force_eager')
def naive_loss(model, features, text):
    return naive.naive_loss(model, features, **text)


@torch.compiler.set_stance('force_eager')
def naive_generate(model, features, input_ids, new_tokens, num_beams):
    return naive.naive_generate(model, features, input_ids, new_tokens, num_beams)


def loss_functions(options, model, texts=1):
    """Returns two functions without arguments: our loss of a batch, and the reference
    implementation's of the same batch."""
    text, inputs = make_batch(options, model, texts)

    def our_loss():
        return model(**text, features=hidden_states(model, inputs))

    def reference_loss():
        return naive_loss(model, hidden_states(model, inputs), text)

    return our_loss, reference_loss


@torch.no_grad()
def check_losses(options, model):
    """Returns both losses in eval mode. Exits if they differ: nothing is timed then."""
    model.eval()
    our_loss, reference_loss = loss_functions(options, model)
    with autocast(options):
        ours = our_loss().item()
        reference = reference_loss().item()
    # also for losses that are nan
    if not abs(ours - reference) <= TOLERANCE * abs(reference):
        sys.exit(
            f'our loss is {ours:.5f}, that of the reference implementation {reference:.5f}: they '
            f'do not compute the same, so their times cannot be compared'
        )
    return dict(loss=ours, naive_loss=reference)


def make_step(options, model):
    """Returns a function that makes one step of training as train.py does, given the function that
    computes the loss."""
    model.train()
    trained = list(model.trained().values())
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)

    def step(loss_function):
        with autocast(options):
            loss = loss_function()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.8)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


# ---- measuring -----------------------------------------------------------------------------------


def ratio(times, way, other):
    """Returns how many times as long `way` takes as `other`: the median over the repeats, because a
    machine that slows down slows both."""
    pairs = zip(times[way]['all'], times[other]['all'])
    return statistics.median(a / b for a, b in pairs)


def bench_training(options, model, peak_flops):
    """Returns the measurements of a training step."""
    our_loss, reference_loss = loss_functions(options, model)
    step = make_step(options, model)
    texts = options.batch_size
    tokens = options.text_tokens
    # of our steps
    llm_flops = []

    def our_step():
        step(our_loss)
        # R-Rand has another number of tokens in every step
        llm_flops.append(training_flops(model, texts * (tokens - 1)))

    def reference_step():
        step(reference_loss)

    # the first step is not timed: it also makes the optimizer's state
    with FlopCounterMode(display=False) as counter:
        our_step()
    # of attention and of the adapter
    other_flops = counter.get_total_flops() - llm_flops[0]
    # a tenth of a step
    matmul, matmul_flops = make_matmul(options, model, llm_flops[0] / 10)
    times = alternate(
        options.device,
        options.repeats,
        options.slow,
        ours=our_step,
        naive=reference_step,
        matmul=matmul,
    )
    seconds = times['ours']['seconds']
    flops = statistics.median(llm_flops[1:])
    all_flops = flops + other_flops
    return dict(
        ours=times['ours'],
        naive=times['naive'],
        ratio=ratio(times, 'naive', 'ours'),
        samples_per_s=texts / seconds,
        tokens_per_s=texts * tokens / seconds,
        mfu=flops / seconds / peak_flops,
        of_limit=all_flops / matmul_flops * ratio(times, 'matmul', 'ours'),
        flops=all_flops,
        matmul_flops=matmul_flops / times['matmul']['seconds'],
    )


def make_matmul(options, model, flops):
    """Returns a function that multiplies a matrix of as many rows as the last step had by a weight
    of the LLM until it has done `flops`, and the FLOPs that it really does."""
    weight = mlp_weight(model)
    flowing = [n for n, flows_on in model.prefix_tokens if flows_on]
    rows = model.text_tokens + max(flowing, default=0)
    x = torch.randn(rows, options.width, device=options.device, dtype=weight.dtype)
    flops_of_one = 2 * rows * weight.numel()
    times = 1 + int(flops / flops_of_one)

    def matmul():
        # none of the products is freed before the last
        return [torch.matmul(x, weight.T) for _ in range(times)]

    return matmul, flops_of_one * times


def bench_texts(options, model):
    """Returns the measurements of our training step with TEXTS captions of every input, against
    one; the ratio is per caption."""
    step = make_step(options, model)
    loss_of_many, _ = loss_functions(options, model, TEXTS)
    loss_of_one, _ = loss_functions(options, model)

    def step_of_many():
        step(loss_of_many)

    def step_of_one():
        step(loss_of_one)

    times = alternate(
        options.device, options.repeats, options.slow, ours=step_of_many, one=step_of_one
    )
    return dict(times, ratio=TEXTS * ratio(times, 'one', 'ours'))


def bench_generation(options, model, lengths, new_tokens):
    """Returns the measurements of beam search from prompts of these lengths: ours in one batch; the
    reference implementation's also, if all are of one length, else one at a time, for as many
    inputs as fill the device."""
    model.eval()
    text, inputs = make_batch(options, model)
    features = hidden_states(model, inputs)
    T = max(lengths)
    input_ids = text['input_ids'][:, :T]
    mask = left_padded_mask(lengths, options.device)
    chosen = inputs_that_fill_the_device(options, model, T, new_tokens)
    if mask.all():
        groups = [chosen]
        mask = None
    else:
        groups = [[i] for i in chosen]
    texts = {}

    def ours():
        with autocast(options):
            texts['ours'] = model.generate(
                input_ids,
                mask,
                features=features,
                num_beams=options.num_beams,
                max_new_tokens=new_tokens,
                compile=options.compile,
            )

    def reference():
        generated = []
        with autocast(options):
            for group in groups:
                unpadded = input_ids[group, T - lengths[group[0]] :]
                generated.append(
                    naive_generate(model, features[group], unpadded, new_tokens, options.num_beams)
                )
        texts['naive'] = torch.cat(generated)

    times = alternate(options.device, options.repeats, options.slow, ours=ours, naive=reference)
    scale = options.batch_size / len(chosen)
    times['naive']['seconds'] *= scale
    # texts that are the same, token by token
    same = (texts['ours'][chosen] == texts['naive']).all(1).float().mean().item()
    return dict(
        times,
        ratio=scale * ratio(times, 'naive', 'ours'),
        naive_inputs=len(chosen),
        same=same,
    )


def left_padded_mask(lengths, device):
    """Returns the attention mask (B, T) of prompts of these lengths, padded on the left."""
    longest = max(lengths)
    rows = [[0] * (longest - length) + [1] * length for length in lengths]
    return torch.tensor(rows, device=device)


def inputs_that_fill_the_device(options, model, prompt_tokens, new_tokens):
    """Returns the indices of the inputs that the reference implementation generates for: every n-th
    where a pass over all beams has more than naive_rows tokens, from the middle of the first n."""
    visual_tokens = max([n for n, _ in model.prefix_tokens], default=0) // options.batch_size
    # tokens of an input in a pass, half of the new ones being there on average
    n_prompt = model.adapter.cfg.n_prompt
    tokens = options.num_beams * (prompt_tokens + new_tokens // 2 + n_prompt + visual_tokens)
    every = max(1, options.batch_size * tokens // options.naive_rows)
    first = min(every, options.batch_size) // 2
    return list(range(first, options.batch_size, every))


def profile_training(options, model):
    """Returns where the time of our training step goes: dict(ms, shares={part: share})."""
    our_loss, _ = loss_functions(options, model)
    step = make_step(options, model)
    # not measured: it also makes the optimizer's state
    step(our_loss)

    def steps():
        for _ in range(options.repeats):
            step(our_loss)

    places = [
        ('encoder', model, 'encode'),
        ('adapter', model.adapter, 'forward'),
        ('prefix pass', model, 'compute_prefix'),
        ('text pass', model.decoder, 'forward'),
        ('head', model.llm.get_output_embeddings(), 'forward'),
        ('backward', torch.Tensor, 'backward'),
        ('optimizer', torch.optim.AdamW, 'step'),
    ]
    seconds = time_shares(options.device, steps, places)
    total = sum(seconds.values())
    shares = {name: share / total for name, share in seconds.items()}
    return dict(ms=total / options.repeats * 1e3, shares=shares)


# ---- memory --------------------------------------------------------------------------------------


def print_memory_table(options):
    """Prints the GB of a training step, everything included, of each mechanism for every size of
    LLM, and in brackets the same with checkpoint_layers; then all numbers as a line of JSON."""
    print(f'| mechanism | {" | ".join(LLM_SIZES)} |')
    print('|---' + '|--:' * len(LLM_SIZES) + '|')
    result = {}
    for mechanism in options.mechanisms.split(','):
        row = {}
        for size, shape in LLM_SIZES.items():
            kept = step_memory(options, mechanism, shape, checkpoint_layers=False)
            recomputed = step_memory(options, mechanism, shape, checkpoint_layers=True)
            row[size] = [kept, recomputed]
        cells = [f'{kept:.1f} ({recomputed:.1f})' for kept, recomputed in row.values()]
        print(f'| {mechanism} | {" | ".join(cells)} |', flush=True)
        result[mechanism] = row
    print(json.dumps(dict(knobs=vars(options), memory=result)))


def most_patches(self, n):
    """Takes the place of RandomPatches.draw: the most patches that R-Rand may keep."""
    return torch.arange(n // 2)


def step_memory(options, mechanism, shape, checkpoint_layers):
    """Returns the GB at the peak of a training step on an LLM of the shape dict(layers, width,
    heads): weights, Adam's moments, gradients, activations. Tensors have no contents here, so
    nothing is computed."""
    options = SimpleNamespace(**vars(options) | shape | dict(device='cpu'))
    with FakeTensorMode(), patch.object(RandomPatches, 'draw', most_patches):
        model = make_model(options, mechanism).train()
        if checkpoint_layers:
            for layer in model.decoder.layers:
                checkpoint_activations(layer)
        storages = {p.untyped_storage(): p.untyped_storage().nbytes() for p in model.parameters()}
        text, inputs = make_batch(options, model)
        with PeakBytes(ignored=storages) as memory:
            with autocast(options):
                features = hidden_states(model, inputs)
                # every token has a label: how many have one, tensors without contents do not tell
                x = model.hidden(text['input_ids'], features=features)[:, :-1].flatten(0, 1)
                loss = nn.functional.cross_entropy(
                    # a name for the logits would keep them alive in the backward pass
                    model.llm.lm_head(x).float(),
                    text['labels'][:, 1:].flatten(),
                )
            loss.backward()
    weights = sum(storages.values())
    adam = 2 * sum(p.nbytes for p in model.trained().values())
    return (weights + adam + memory.peak) / 1e9


# ---- what is printed -----------------------------------------------------------------------------


def profile_summary(row):
    shares = [f'{part} {share:.0%}' for part, share in row['shares'].items()]
    return f'{", ".join(shares)} of {row["ms"]:.0f} ms'


def ratio_summary(row):
    return ', '.join(f'{part} {row[part]["ratio"]:.2f}x' for part in PARTS if part in row)


HEADINGS = (
    'step ms | naive | ratio | samples/s | tokens/s | MFU | of limit | GB | naive | '
    'captions/s | tokens/s | naive | ratio'
)


def tables(options, rows):
    """Returns Markdown: a line for every mechanism, then a line for every other comparison."""
    lines = ['', f'| mechanism | {HEADINGS} |', '|---' + '|--:' * 13 + '|']
    comparisons = []
    for mechanism, row in rows.items():
        cells = training_cells(row) + generation_cells(options, row)
        lines.append(f'| {mechanism} | {" | ".join(cells)} |')
        if 'texts' in row:
            what = f'step of {TEXTS} captions per input, against 1; ratio per caption'
            comparisons.append(comparison(mechanism, what, row['texts'], 'one'))
        if 'vqa' in row:
            what = f'{options.batch_size} questions in a batch, against naive.py one at a time'
            comparisons.append(comparison(mechanism, what, row['vqa'], 'naive'))
    if comparisons:
        lines += ['', '| other | ours, s | against, s | ratio |', '|---|--:|--:|--:|']
        lines += comparisons
    return '\n'.join([*lines, ''])


def training_cells(row):
    """Returns the nine cells of a mechanism's training step."""
    if 'train' not in row:
        return ['-'] * 9
    train = row['train']
    ours = train['ours']
    reference = train['naive']
    return [
        f'{ours["seconds"] * 1e3:.0f}',
        f'{reference["seconds"] * 1e3:.0f}',
        f'{train["ratio"]:.2f}',
        f'{train["samples_per_s"]:.1f}',
        f'{train["tokens_per_s"]:.0f}',
        f'{train["mfu"]:.0%}',
        f'{train["of_limit"]:.0%}',
        f'{ours["gb"]:.2f}',
        f'{reference["gb"]:.2f}',
    ]


def generation_cells(options, row):
    """Returns the four cells of a mechanism's generation."""
    if 'generate' not in row:
        return ['-'] * 4
    generate = row['generate']
    captions_per_s = options.batch_size / generate['ours']['seconds']
    reference = options.batch_size / generate['naive']['seconds']
    return [
        f'{captions_per_s:.2f}',
        f'{captions_per_s * options.new_tokens:.1f}',
        f'{reference:.3f}',
        f'{generate["ratio"]:.1f}',
    ]


def comparison(mechanism, what, part, against):
    """Returns a line of the second table."""
    seconds = f'{part["ours"]["seconds"]:.2f} | {part[against]["seconds"]:.2f}'
    return f'| {mechanism}: {what} | {seconds} | {part["ratio"]:.2f} |'


if __name__ == '__main__':
    explain_errors()
    main(configure(globals()))
