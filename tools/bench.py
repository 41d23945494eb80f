"""
What a train step and a generation cost, ours beside the plain way (tests/naive.py), alternating in one process: tables, then a JSON line.

    python -m tools.bench                                                 # 12 layers of 768, in fp32, for a CPU
    python -m tools.bench --preset=7b                                     # LLaMA-7B and OPT-6.7B, random weights made on the GPU
    python -m tools.bench --mechanisms=limber_all,epalm --parts=train     # some of it
    python -m tools.bench --mechanisms=qp_inner --profile=True            # where the time of our train step goes
    python -m tools.bench --preset=7b --memory=True                       # what it needs, for LLMs of four sizes; worked out, so no GPU is needed

The weights and the encoder's hidden states are random. Before anything is timed, both ways must give the same loss. A step of the plain
way that takes more than `slow` seconds is timed once. It generates for as many inputs as fill the device (`naive_rows`), and its time
is scaled to all of them. `of limit`: the FLOPs of a step's matmuls and attention, adapter included, over what one matmul of the text's rows reaches,
over the time it took. MFU counts the LLM alone, 4 FLOPs per weight and token.
"""
import json
import statistics
import sys
from dataclasses import fields
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).resolve().parent
sys.path.append(str(ROOT / 'tests'))                # for naive

import nanopalm.wheels  # noqa: F401, E402  (first: mends torchvision on CPU-only torch)

import torch  # noqa: E402
import torch.nn as nn  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402
from transformers import AutoModelForCausalLM, LlamaConfig, OPTConfig  # noqa: E402

from adapters import Adapter, AdapterConfig, RandomPatches  # noqa: E402
from configurator import at_least, configure, one_of, run_config_file  # noqa: E402
from encoders import Encoder  # noqa: E402
from llms import block_ends  # noqa: E402
from model import PALM  # noqa: E402
from naive import naive_generate, naive_loss  # noqa: E402
from nanopalm.checkpoint import pick_device_and_dtype  # noqa: E402
from nanopalm.logs import find_peak_flops, training_flops  # noqa: E402
from nanopalm.parallel import checkpoint_activations  # noqa: E402
from tools.clocks import PeakBytes, alternate, time_shares  # noqa: E402
from tools.compare import MECHANISMS  # noqa: E402

naive_generate, naive_loss = (torch.compiler.set_stance('force_eager')(f) for f in (naive_generate, naive_loss))

# ---- knobs ----------------------------------------------------------------------------------------------------------
preset: one_of('cpu', '7b', 'tiny') = 'cpu'  # 'cpu', '7b' or 'tiny': gives every shape below that is 0
mechanisms = MECHANISMS             # names of config files, with commas
parts = 'train,generate,texts,vqa'  # what to measure; 'texts' is 5 captions per input, 'vqa' questions of different lengths in one batch
profile = False                     # instead: where the time of our train step goes, in percent
memory = False                      # instead: the GB of our train step for each of LLM_SIZES, worked out without running it
compile = False                     # ours by torch.compile
encoder = ''                        # a name in encoders.py or of timm, with random weights: it runs in every train step; '' = random features
layers: at_least(0) = 0  # of the LLM
width: at_least(0) = 0
heads: at_least(0) = 0
vocab: at_least(0) = 0
adapter_dim: at_least(0) = 0  # of mappers and resamplers, 0 = each config's own
visual_tokens: at_least(0) = 0  # of a hidden state of the encoder, CLS and a square of patches
visual_width: at_least(0) = 0
batch_size: at_least(0) = 0  # inputs
text_tokens: at_least(0) = 0  # of a caption in training, the longest question in 'vqa'
new_tokens: at_least(0) = 0  # generated
num_beams: at_least(1) = 3
repeats: at_least(0) = 0
slow = 20.0                         # seconds
naive_rows: at_least(0) = 0  # tokens in one forward pass that fill the device
device = 'auto'
dtype: one_of('', 'bfloat16', 'float16', 'float32') = ''  # '' = the preset's
seed: at_least(0) = 0
# ---------------------------------------------------------------------------------------------------------------------

SHAPES = ('layers', 'width', 'heads', 'vocab', 'visual_tokens', 'visual_width', 'batch_size', 'text_tokens', 'new_tokens', 'repeats', 'naive_rows',
          'dtype')
PRESETS = {'cpu': (12, 768, 12, 32000, 257, 1024, 16, 20, 20, 3, 256, 'float32'),
           '7b': (32, 4096, 32, 32000, 257, 1024, 16, 20, 20, 7, 10 ** 9, 'bfloat16'),
           'tiny': (8, 64, 4, 90, 17, 48, 2, 8, 4, 2, 10 ** 9, 'float32')}
LLM_SIZES = {'135M': (12, 768, 12), '1.3B': (24, 2048, 32), '7B': (32, 4096, 32), '13B': (40, 5120, 40)}        # layers, width, heads
TEXTS = 5                           # captions of an input
TOLERANCE = 1e-3                    # of the loss, relative


def main():
    device, _ = pick_device_and_dtype(globals()['device'], dtype)
    questions = [text_tokens - i * text_tokens // (2 * batch_size) for i in range(batch_size)]          # lengths: all of text_tokens to half
    result = dict(knobs=dict(config, device=device), peak_flops=find_peak_flops(device, dtype), mechanisms={})
    if memory:
        return memory_table()
    for name in mechanisms.split(','):
        model = make(name, device)
        result['mechanisms'][name] = row = profile_training(model, device) if profile else check(model, device)
        if profile:
            print(name + ': ' + ', '.join(f'{part} {share:.0%}' for part, share in row['shares'].items()) + f' of {row["ms"]:.0f} ms', flush=True)
            continue
        if 'train' in parts:
            row['train'] = bench_training(model, device, result['peak_flops'])
        if 'generate' in parts:
            row['generate'] = bench_generation(model, device, [1] * batch_size, new_tokens)
        if 'texts' in parts and name == 'limber_all':
            row['texts'] = bench_texts(model, device)
        if 'vqa' in parts and name in ('qp_l0', 'limber_all'):
            row['vqa'] = bench_generation(model, device, questions, new_tokens // 2)
        print(f'{name}: ' + ', '.join(f'{part} {row[part]["ratio"]:.2f}x' for part in row if part in parts), flush=True)
    print('' if profile else tables(result), json.dumps(result), sep='\n')


# ---- the models -----------------------------------------------------------------------------------------------------

def make(name, device):
    """The PALM of config/<name>.py on an LLM of random weights; at most half of its layers are targets: the configs' are of 32."""
    knobs = {f.name: f.default for f in fields(AdapterConfig)}
    assigned = run_config_file(str(ROOT / f'config/mechanism/{name}.py'), dict(knobs))
    cfg = AdapterConfig(**{k: assigned.get(k, v) for k, v in knobs.items()})
    cfg.n_targets, cfg.adapter_dim = min(cfg.n_targets, layers // 2), adapter_dim or cfg.adapter_dim
    sizes = dict(vocab_size=vocab, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, pad_token_id=0)
    spread = 1.3 / width ** 0.5                                 # logits are then far from equal, so the loss tells pictures apart
    shape = (OPTConfig(**sizes, ffn_dim=4 * width, word_embed_proj_dim=width, init_std=spread) if name.endswith('_opt') else
             LlamaConfig(**sizes, intermediate_size=-(-8 * width // 768) * 256, initializer_range=spread))
    torch.manual_seed(seed)
    with torch.device(device):
        llm = AutoModelForCausalLM.from_config(shape, dtype=getattr(torch, dtype))
        eyes = Encoder(encoder, cfg.source_layers, pretrained=False) if encoder else None
        adapter = Adapter(cfg, *((eyes.dim, eyes.grid) if eyes else (visual_width, [round((visual_tokens - 1) ** 0.5)] * 2)), width, layers)
        model = PALM(llm, adapter, eyes)
    llm.generation_config.eos_token_id = None                   # every text has new_tokens
    for trained, p in model.trained().items():
        if trained.endswith('.gate'):
            nn.init.constant_(p, 0.5)                           # an open one: at 0 c-attn reads nothing
    for layer in model.decoder.layers if compile else ():
        layer.compile()
    return model


def batch(model, device, texts=1):
    """Random dict(input_ids, labels (B*G, T)), and a function that gives the hidden states (B, S, 1+N, D), by the encoder if there is one."""
    g, encoder = torch.Generator().manual_seed(seed), model.encoder
    ids = torch.randint(1, vocab, (batch_size * texts, text_tokens), generator=g).to(device)
    shape = encoder.preprocessing.shape if encoder else (model.adapter.cfg.source_layers, visual_tokens, visual_width)
    given = torch.randn(batch_size, *shape, generator=g).to(device)
    return dict(input_ids=ids, labels=ids), lambda: given if encoder is None else torch.stack(model.encode(given), dim=1)


def autocast(device):
    return torch.autocast(device.split(':')[0], dtype=getattr(torch, dtype), enabled=dtype != 'float32')


def losses(model, device, texts=1):
    """Two functions: our loss and the plain way's, of the same batch."""
    text, features = batch(model, device, texts)
    return lambda: model(**text, features=features()), lambda: naive_loss(model, features(), *text.values())


@torch.no_grad()
def check(model, device):
    """Both losses, in eval mode: nothing is timed unless they agree."""
    with autocast(device):
        ours, plain = (loss().item() for loss in losses(model.eval(), device))
    if not abs(ours - plain) <= TOLERANCE * abs(plain):
        sys.exit(f'the loss is {ours:.5f} our way and {plain:.5f} the plain way: they do not compute the same, so their times cannot be compared')
    return dict(loss=ours, naive_loss=plain)


# ---- measuring ------------------------------------------------------------------------------------------------------

def ratio(t, way, other):
    """How many times as long `way` takes as `other`: the median over the repeats, for a machine that slows down slows both."""
    return statistics.median(a / b for a, b in zip(t[way]['all'], t[other]['all']))


def make_step(model, device):
    """A function that makes one step of training, as train.py does, given the function that computes the loss."""
    optimizer = torch.optim.AdamW(model.train().trained().values(), lr=1e-5, fused=True)

    def step(loss_of):
        with autocast(device):
            loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.trained().values(), 0.8)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return step


def bench_training(model, device, peak_flops):
    ours, plain = losses(model, device)
    step, flops = make_step(model, device), []

    def our_step():
        step(ours)
        flops.append(training_flops(model, batch_size, text_tokens, batch_size * (text_tokens - 1)))     # R-Rand: another number every step
    with FlopCounterMode(display=False) as counter:             # warm: the first step also makes the optimizer's state
        our_step()
    rest = counter.get_total_flops() - flops[0]                 # of attention and the adapter
    rows = batch_size * (text_tokens + model.adapter.cfg.n_prompt) + max((n for n, flows in model.prefix_tokens if flows), default=0)
    weight = block_ends(model.decoder.layers[0], 'mlp')[0].weight
    x = torch.randn(rows, width, device=device, dtype=weight.dtype)
    times = 1 + int(flops[0] / 10 / (2 * rows * weight.numel()))                                        # a tenth of a step
    t = alternate(device, repeats, slow, ours=our_step, naive=lambda: step(plain), matmul=lambda: [torch.matmul(x, weight.T) for _ in range(times)])
    seconds, of_llm, matmul_flops = t['ours']['seconds'], statistics.median(flops[1:]), 2 * rows * weight.numel() * times
    return dict(t, ratio=ratio(t, 'naive', 'ours'), samples_per_s=batch_size / seconds, tokens_per_s=batch_size * text_tokens / seconds,
                mfu=of_llm / seconds / peak_flops, of_limit=(of_llm + rest) / matmul_flops * ratio(t, 'matmul', 'ours'), flops=of_llm + rest,
                matmul_flops=matmul_flops / t.pop('matmul')['seconds'])


def bench_texts(model, device):
    """Our train step with TEXTS captions of every input, per caption, against one."""
    step = make_step(model, device)
    (many, _), (one, _) = losses(model, device, TEXTS), losses(model, device)
    t = alternate(device, repeats, slow, ours=lambda: step(many), one=lambda: step(one))
    return dict(t, ratio=TEXTS * ratio(t, 'one', 'ours'))


def bench_generation(model, device, lengths, tokens):
    """Beam search of so many tokens from prompts of these lengths: ours in one batch, the plain way too if they are all as long, else one
    at a time, of as many inputs as fill the device."""
    text, features = batch(model.eval(), device)
    features, T = features(), max(lengths)
    ids, mask = text['input_ids'][:, :T], torch.tensor([[0] * (T - m) + [1] * m for m in lengths], device=device)
    each = num_beams * (T + tokens // 2 + model.adapter.cfg.n_prompt + max((n for n, _ in model.prefix_tokens), default=0) // batch_size)
    every = max(1, batch_size * each // naive_rows)             # the plain way's inputs: every n-th, from the middle of the first n on
    asked = list(range(batch_size))[min(every, batch_size) // 2::every]
    groups, said = [asked] if mask.all() else [[i] for i in asked], {}

    def ours():
        with autocast(device):
            said['ours'] = model.generate(ids, None if mask.all() else mask, features=features, num_beams=num_beams, max_new_tokens=tokens, compile=compile)

    def plain():
        with autocast(device):
            said['naive'] = torch.cat([naive_generate(model, features[g], ids[g, T - lengths[g[0]]:], tokens, num_beams) for g in groups])
    t = alternate(device, repeats, slow, ours=ours, naive=plain)
    t['naive']['seconds'] *= batch_size / len(asked)
    return dict(t, ratio=batch_size / len(asked) * ratio(t, 'naive', 'ours'), naive_inputs=len(asked),
                same=(said['ours'][asked] == said['naive']).all(1).float().mean().item())       # texts that are the same, token by token


def profile_training(model, device):
    """Where the time of our train step goes: {part: share}."""
    ours, step = losses(model, device)[0], make_step(model, device)
    step(ours)                                                  # warm
    places = [('encoder', model, 'encode'), ('adapter', model.adapter, 'forward'), ('prefix pass', model, 'prefix'),
              ('text pass', model.decoder, 'forward'), ('head', model.llm.get_output_embeddings(), 'forward'),
              ('backward', torch.Tensor, 'backward'), ('optimizer', torch.optim.AdamW, 'step')]
    spent = time_shares(device, lambda: [step(ours) for _ in range(repeats)], places)
    total = sum(spent.values())
    return dict(ms=total / repeats * 1e3, shares={name: seconds / total for name, seconds in spent.items()})


def memory_table():
    """Prints a line for each mechanism: GB of a train step, in all, for every size of LLM; the same with checkpoint_layers."""
    print(f'| mechanism | {" | ".join(LLM_SIZES)} |\n|---{"|--:" * len(LLM_SIZES)}|')
    result = {}
    for name in mechanisms.split(','):
        result[name] = {size: [step_memory(name, shape, again) for again in (False, True)] for size, shape in LLM_SIZES.items()}
        print(f'| {name} | ' + ' | '.join(f'{kept:.1f} ({again:.1f})' for kept, again in result[name].values()) + ' |', flush=True)
    print(json.dumps(dict(knobs=config, memory=result)))


def step_memory(name, shape, checkpoint_layers):
    """GB at the peak of a train step: weights, Adam's moments, gradients, activations. Tensors without contents: nothing is computed."""
    globals().update(zip(('layers', 'width', 'heads'), shape))
    with FakeTensorMode(), patch.object(RandomPatches, 'draw', lambda self, n: torch.arange(n // 2)):      # R-Rand: the most that it may keep
        model = make(name, 'cpu').train()
        for layer in model.decoder.layers if checkpoint_layers else ():
            checkpoint_activations(layer)
        weights = {p.untyped_storage(): p.untyped_storage().nbytes() for p in model.parameters()}
        text, features = batch(model, 'cpu')
        with PeakBytes(ignored=weights) as during:
            with autocast('cpu'):
                x = model.hidden(text['input_ids'], features=features())[:, :-1].flatten(0, 1)
                loss = nn.functional.cross_entropy(model.llm.get_output_embeddings()(x).float(), text['labels'][:, 1:].flatten())
            loss.backward()
    return (sum(weights.values()) + 2 * sum(p.nbytes for p in model.trained().values()) + during.peak) / 1e9


# ---- the tables -----------------------------------------------------------------------------------------------------

def tables(result):
    """Markdown: a line for every mechanism, then a line for every other comparison."""
    lines = ['| mechanism | step ms | plain | ratio | samples/s | tokens/s | MFU | of limit | GB | plain | captions/s | tokens/s | plain | ratio |',
             '|---' + '|--:' * 13 + '|']
    others = ['', '| other | ours, s | against, s | ratio |', '|---|--:|--:|--:|']
    for name, row in result['mechanisms'].items():
        cells = ['-'] * 13
        if t := row.get('train'):
            cells[:9] = [f'{t["ours"]["seconds"] * 1e3:.0f}', f'{t["naive"]["seconds"] * 1e3:.0f}', f'{t["ratio"]:.2f}', f'{t["samples_per_s"]:.1f}',
                         f'{t["tokens_per_s"]:.0f}', f'{t["mfu"]:.0%}', f'{t["of_limit"]:.0%}', f'{t["ours"]["gb"]:.2f}', f'{t["naive"]["gb"]:.2f}']
        if t := row.get('generate'):
            rate, plain = (batch_size / t[way]['seconds'] for way in ('ours', 'naive'))
            cells[9:] = [f'{rate:.2f}', f'{rate * new_tokens:.1f}', f'{plain:.3f}', f'{t["ratio"]:.1f}']
        lines.append(f'| {name} | ' + ' | '.join(cells) + ' |')
        for part, what, against in (('texts', f'step of {TEXTS} captions per input, against 1; ratio per caption', 'one'),
                                    ('vqa', f'{batch_size} questions in a batch, against the plain way one at a time', 'naive')):
            if t := row.get(part):
                others.append(f'| {name}: {what} | {t["ours"]["seconds"]:.2f} | {t[against]["seconds"]:.2f} | {t["ratio"]:.2f} |')
    return '\n'.join(['', *lines, *(others if len(others) > 3 else []), ''])


if __name__ == '__main__':
    config = configure(globals())
    config |= {k: config[k] or v for k, v in zip(SHAPES, PRESETS[preset])}
    globals().update(config)
    for knob, known in (('mechanisms', MECHANISMS), ('parts', 'train,generate,texts,vqa')):
        if unknown := set(config[knob].split(',')) - set(known.split(',')):
            sys.exit(f'{knob}: there is no {sorted(unknown)[0]!r}, expected some of {known}')
    try:
        main()
    except (ValueError, OSError) as e:
        sys.exit(str(e))
