"""
The model against the plain way (tests/naive.py), and the promises of the design: `pytest tests/test_model.py`.

Tiny random LLMs of every family, tiny random features; no file, no network. Each check is made such that nothing trivial passes it:
weights are large enough that a token, an image or a position that is wrong moves the logits a thousand times the tolerance.
"""
import functools
import hashlib
import warnings
from dataclasses import asdict

import pytest
import torch
from conftest import ROOT
from torch._dynamo.testing import CompileCounter
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Qwen2Config,
    Qwen3Config,
)

from adapters import Adapter, AdapterConfig
from configurator import run_config_file
from llms import FAMILIES
from model import PALM
from naive import naive_generate, naive_logits, naive_loss
from nanopalm.parallel import checkpoint_activations

torch.set_num_threads(1)                # on tensors this small, a second thread only waits
V, D_ENC, GRID, SOURCES, LAYERS = 90, 24, (4, 4), 3, 6
rope = dict(vocab_size=V, hidden_size=64, intermediate_size=96, num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=2,
            initializer_range=0.15, pad_token_id=0)
opt = dict(vocab_size=V, hidden_size=64, ffn_dim=96, num_hidden_layers=LAYERS, num_attention_heads=4, max_position_embeddings=64,
           word_embed_proj_dim=64, init_std=0.15, dropout=0.1, pad_token_id=0)
LLMS = dict(llama=LlamaConfig(**rope), mistral=MistralConfig(**rope), qwen2=Qwen2Config(**rope), qwen3=Qwen3Config(**rope, head_dim=32),
            opt=OPTConfig(**opt), opt_postnorm=OPTConfig(**opt | dict(do_layer_norm_before=False, word_embed_proj_dim=32, init_std=0.1,
                                                                      tie_word_embeddings=False)))     # as OPT-350m, but untied

qp = dict(connector='qpmapper', adapter_dim=32, mapper_heads=4, n_queries=5)
cross = dict(adapter_dim=32, mapper_heads=4, source_layers=2, n_targets=3, last_target=-1)
inner = qp | dict(source_layers=2, n_targets=3, last_target=-2, keep_to_end=False, token_norm=True)
MECHANISMS = dict(                      # knobs, and the layers whose text reads a prefix
    limber_all=(dict(connector='linear'), range(6)),
    limber_cls=(dict(connector='linear', source_tokens='cls'), range(6)),
    qp_l0=(qp, range(6)),
    started=(qp, range(6)),
    r_linear=(dict(connector='r_linear', adapter_dim=32), range(6)),
    qp_inner=(inner, [2, 3, 4]),
    strided=(inner | dict(n_targets=2, target_stride=2), [2, 3, 4]),
    inner_to_end=(inner | dict(keep_to_end=True, last_target=-3), [1, 2, 3, 4, 5]),
    epalm=(dict(connector='linear', source_tokens='cls', source_layers=3, n_connectors=3, n_targets=3, last_target=-2, keep_to_end=False,
                prompt_mlp=True, prompt_positions=False), [2, 3, 4]),
    noncausal=(dict(connector='linear', noncausal_prefix=True), range(6)),
    everything=(inner | dict(query_per_target=True, token_bias=True, token_bias_per_token=True, merge_sources=True, out_layers=2,
                             llm_bias_tuning=True, llm_norm_tuning=True, bottleneck='scaled'), [2, 3, 4]),
    c_attn=(cross | dict(connector='c_attn', mapper_layers=1), []),     # these two have no prefix
    c_attn_flamingo=(cross | dict(connector='c_attn_flamingo'), []))
CROSS_ATTENTIONS = ['c_attn', 'c_attn_flamingo']


def make(llm='llama', mechanism='limber_all', dtype=torch.float32, **knobs):
    """A PALM whose every trained tensor is far from its initial value (the identity, for norms and biases)."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LLMS[llm])
    for p in model.parameters():                    # but not its rotary frequencies, which from_pretrained keeps in float32
        p.data = p.data.to(dtype)
    model.generation_config.eos_token_id = None
    cfg = AdapterConfig(**dict(mapper_dropout=0.0, n_prompt=3) | MECHANISMS[mechanism][0] | knobs)
    palm = PALM(model, Adapter(cfg, D_ENC, GRID, 64, LAYERS, model.get_input_embeddings().embedding_dim),
                prefix_start=(5, 9) if mechanism == 'started' else ())
    with torch.no_grad():
        for name, p in palm.trained().items():
            p += 0.1 * torch.randn_like(p) + name.endswith('.gate')     # a gate of c_attn is open
        for attention in palm.adapter.cross_attentions:             # and what it sees differs
            attention.k.weight *= 4
            attention.v.weight *= 4
    return palm


def inputs(B=2, G=1, T=9, padding=None):
    """features (B, S, 1+M, D_enc), input_ids, labels and attention_mask (B*G, T); every second row is 3 shorter if padded."""
    g = torch.Generator().manual_seed(1)
    features = torch.randn(B, SOURCES, 1 + GRID[0] * GRID[1], D_ENC, generator=g)
    ids = torch.randint(1, V, (B * G, T), generator=g)
    mask = torch.ones_like(ids)
    if padding:
        mask[::2, slice(T - 3, T) if padding == 'right' else slice(3)] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :4] = -100                                            # an instruction
    return features, ids * mask, labels, mask if padding else None


def assert_close(a, b, tolerance=1e-5):
    """Within `tolerance` of the largest value of b, which must not be zero."""
    assert a.shape == b.shape and b.abs().max() > 0
    assert (a - b).abs().max() <= tolerance * b.abs().max()


every_pair = pytest.mark.parametrize('llm, mechanism', [            # every mechanism on two LLMs, every LLM with one that does it all
    (llm, m) for llm in LLMS for m in MECHANISMS
    if llm in ('llama', 'opt') or m in ('inner_to_end', 'started', 'c_attn')])
both_kinds = pytest.mark.parametrize('llm', ['llama', 'opt'])       # rotary and learned positions
every_mechanism = pytest.mark.parametrize('mechanism', MECHANISMS)
flowing_or_fresh = pytest.mark.parametrize('mechanism', ['limber_all', 'qp_inner'])
either_cross_attention = pytest.mark.parametrize('mechanism', CROSS_ATTENTIONS)
greedy_or_beams = pytest.mark.parametrize('num_beams', [1, 3])


# ---- the same numbers as the plain way ------------------------------------------------------------------------------

def test_every_known_family_is_tested():
    assert {c.model_type for c in LLMS.values()} == set(FAMILIES)


@pytest.mark.parametrize('n_prompt, G, padding', [(0, 3, None), (3, 1, 'left'), (3, 3, 'right')])
@every_pair
def test_logits_loss_and_gradients_are_the_plain_ways(llm, mechanism, n_prompt, G, padding):
    palm = make(llm, mechanism, n_prompt=n_prompt, prompt_mlp=mechanism == 'epalm' and n_prompt > 0)
    features, ids, labels, mask = inputs(G=G, padding=padding)
    valid = torch.ones_like(ids).bool() if mask is None else mask.bool()
    ours, plain = palm.logits(ids, mask, features=features), naive_logits(palm, features, ids, mask)
    assert_close(ours[valid], plain[valid])
    assert (plain - naive_logits(palm, features.flip(0), ids, mask))[valid].abs().max() > 0.1 * plain.abs().max()  # the image matters

    losses, gradients = [], []
    for loss in (palm(ids, labels, mask, features=features, label_smoothing=0.1),
                 naive_loss(palm, features, ids, labels, mask, label_smoothing=0.1)):
        losses.append(loss.detach())
        names, tensors = zip(*palm.trained().items())
        gradients.append(dict(zip(names, torch.autograd.grad(loss, tensors, allow_unused=True))))
    assert_close(*losses)
    ours, plain = gradients
    # the original leaves no trained tensor of the adapter out; of the LLM's tuned ones, those that lead to no label have no gradient
    assert all(g is not None for name, g in plain.items() if name.startswith('adapter.'))
    largest = max(g.abs().max() for g in plain.values() if g is not None)
    for name, g in plain.items():
        if g is None or ours[name] is None:
            assert all(h is None or h.abs().max() == 0 for h in (g, ours[name])), name
        else:                                                       # 5e-7 of the largest: zero but for rounding, as a bias of all keys
            assert (ours[name] - g).abs().max() <= 1e-4 * g.abs().max() + 5e-7 * largest, name


@pytest.mark.parametrize('mechanism, G, grad, calls', [('limber_cls', 1, True, 1), ('qp_l0', 1, True, 1), ('qp_l0', 1, False, 2), ('qp_l0', 2, True, 2),
                                                       ('limber_all', 1, True, 2), ('noncausal', 1, True, 2), ('qp_inner', 1, True, 1)])
def test_how_often_the_llm_is_run(mechanism, G, grad, calls):
    """Few tokens for one text each go first in its own pass, in training; those of inner layers never flow through layer 0."""
    palm, seen = make(mechanism=mechanism), []
    palm.decoder.layers[0].mlp.register_forward_hook(lambda *args: seen.append(1))
    features, ids, labels, _ = inputs(G=G)
    with torch.set_grad_enabled(grad):
        palm(ids, labels, features=features)
    assert len(seen) == calls


def test_source_dropout_is_of_training_alone():
    palm, (features, ids, labels, _) = make(mechanism='limber_all', source_dropout=0.5), inputs()
    loss = lambda: palm(ids, labels, features=features).item()
    assert loss() == loss() == make(mechanism='limber_all')(ids, labels, features=features).item()
    palm.train()
    assert loss() != loss()
    torch.manual_seed(0)
    first = loss()
    torch.manual_seed(0)
    assert loss() == first


@greedy_or_beams
@pytest.mark.parametrize('llm, G', [('llama', 1), ('llama', 2), ('qwen3', 1), ('opt', 2), ('opt_postnorm', 2)])
@flowing_or_fresh
def test_generates_what_the_plain_way_does(llm, mechanism, G, num_beams):
    palm = make(llm, mechanism)
    features, ids, _, _ = inputs(G=G, T=4)
    free = palm.generate(ids, features=features, num_beams=num_beams, max_new_tokens=7)
    assert free.shape == (2 * G, 7) and len(set(map(tuple, free.tolist()))) > G
    assert free.tolist() != palm.generate(ids, features=features.flip(0), num_beams=num_beams, max_new_tokens=7).tolist()
    assert free.tolist() == naive_generate(palm, features, ids, 7, num_beams).tolist()
    drawn = palm.generate(ids, features=features, do_sample=True, num_return_sequences=3, max_new_tokens=7)
    assert drawn.shape == (6 * G, 7) and len(set(map(tuple, drawn.tolist()))) > 2 * G
    eos = free[0, 3].item()                                         # a token that the first text comes to
    ended = palm.generate(ids, features=features, num_beams=num_beams, max_new_tokens=7, eos_token_id=eos, pad_token_id=eos)
    assert ended.tolist() != free.tolist()
    assert ended.tolist() == naive_generate(palm, features, ids, 7, num_beams, eos).tolist()


@greedy_or_beams
@pytest.mark.parametrize('llm, cache', [('llama', 'dynamic'), ('mistral', 'static'), ('opt', 'dynamic'), ('opt', 'static')])
@pytest.mark.parametrize('mechanism', ['limber_all', 'qp_inner', 'c_attn'])
def test_prompts_of_different_length_generate_as_alone(llm, mechanism, num_beams, cache, monkeypatch):
    """A left-padded batch, two texts of each of two inputs: every row is what it is on its own. The static cache is that of compile=True."""
    monkeypatch.setattr(torch, 'compile', lambda forward: forward)
    palm = make(llm, mechanism)
    knobs = dict(num_beams=num_beams, max_new_tokens=6, compile=cache == 'static')
    features, ids, _, mask = inputs(G=2, T=7, padding='left')
    batch = palm.generate(ids, mask, features=features, **knobs)
    alone = [palm.generate(row[m.bool()][None], features=features[i // 2:][:1], **knobs)[0] for i, (row, m) in enumerate(zip(ids, mask))]
    assert len(set(map(tuple, batch.tolist()))) > 2
    assert batch.tolist() != palm.generate(ids, mask, features=features.flip(0), **knobs).tolist()
    assert batch.tolist() == torch.stack(alone).tolist()


# ---- what is kept for the backward pass -----------------------------------------------------------------------------

@pytest.mark.parametrize('G', [1, 3])                               # one text: a few tokens go in its own pass
@every_mechanism
@both_kinds
def test_activations_computed_again_give_the_same_gradients(llm, mechanism, G):
    features, ids, labels, _ = inputs(G=G)
    gradients = []
    for again in (False, True):
        palm, runs = make(llm, mechanism), []
        for layer in palm.decoder.layers:
            (getattr(layer, 'mlp', None) or layer.fc1).register_forward_pre_hook(lambda *args: runs.append(1))
            if again:
                checkpoint_activations(layer)
        loss = palm(ids, labels, features=features)
        before = len(runs)
        loss.backward()
        assert len(runs) == before if not again else len(runs) > before
        gradients.append({name: p.grad for name, p in palm.trained().items() if p.grad is not None})
    kept, again = gradients
    assert set(kept) == set(again) and any(name.startswith('adapter.') for name in kept)
    for name, gradient in kept.items():
        assert (again[name] - gradient).abs().max() <= 1e-5 * max(g.abs().max() for g in kept.values()), name


@pytest.mark.parametrize('mechanism', MECHANISMS)
@both_kinds
def test_half_precision_is_close_and_warns_of_nothing(llm, mechanism):
    """What is trained is in full precision all the same."""
    palm, half, (features, ids, labels, mask) = make(llm, mechanism), make(llm, mechanism, torch.bfloat16), inputs(padding='right')
    with warnings.catch_warnings(), torch.autocast('cpu', torch.bfloat16):
        warnings.simplefilter('error')
        loss = half(ids, labels, mask, features=features)
        said = half.generate(ids, features=features, num_beams=3, max_new_tokens=4)
    assert said.shape == (2, 4) and 0 < abs(loss.item() / palm(ids, labels, mask, features=features).item() - 1) < 0.05
    for name, p in half.trained().items():
        gradient, = torch.autograd.grad(loss, p, retain_graph=True)
        assert gradient.dtype == torch.float32 and gradient.isfinite().all() and gradient.abs().max() > 0, name


@pytest.mark.parametrize('mechanism', ['qp_inner', 'epalm'])
def test_no_gradient_below_the_first_target(mechanism):
    palm, needs = make('llama', mechanism, n_prompt=0, prompt_mlp=False), []
    for layer in palm.decoder.layers:
        layer.register_forward_hook(lambda layer, args, x: needs.append(x.requires_grad))
    features, ids, labels, _ = inputs()
    palm(ids, labels, features=features)
    assert needs == [False] * 2 + [True] * 4                        # targets 2 to 4 are fresh at each: no pass of their own


@pytest.mark.parametrize('checkpointed', [False, True])
# strided: layers with and without a prefix, in both passes; c_attn: with and without its hook
@pytest.mark.parametrize('mechanism, expected', [('qp_l0', 1), ('strided', 4), ('c_attn', 4)])
def test_compiled_layers_are_the_same_and_share_their_graphs(mechanism, expected, checkpointed):
    torch._dynamo.reset()
    counter, palm, compiled, graphs = CompileCounter(), make(mechanism=mechanism), make(mechanism=mechanism), []
    for layer in compiled.decoder.layers:
        if checkpointed:
            checkpoint_activations(layer)
        layer.compile(backend=counter)
    for T in (9, 12, 17, 9):
        features, ids, labels, _ = inputs(T=T)
        losses = [of(ids, labels, features=features) for of in (palm, compiled)]
        assert_close(losses[1].detach(), losses[0].detach(), 1e-6)
        gradients = [torch.autograd.grad(loss, list(p.trained().values())) for loss, p in zip(losses, (palm, compiled))]
        largest = max(g.abs().max() for g in gradients[0])
        assert all((a - b).abs().max() <= 1e-5 * largest for a, b in zip(*gradients))
        graphs.append(counter.frame_count)
    assert 0 < graphs[0] <= expected                                # for all six layers
    assert graphs[1] == graphs[2] == graphs[3] <= max(2, expected)  # at most one more once lengths are known to vary, then none


@pytest.mark.parametrize('num_beams', [1, 3])
@both_kinds
def test_compiled_generation_is_the_same_and_batches_share_its_graphs(llm, num_beams, monkeypatch):
    torch._dynamo.reset()
    counter, palm, graphs = CompileCounter(), make(llm, 'strided'), []
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend=counter))
    for T in (6, 9, 1, 12, 30):
        features, ids, _, mask = inputs(T=T, padding='left')
        for m in (None, mask):
            said = [palm.generate(ids, m, features=features, num_beams=num_beams, max_new_tokens=7, compile=c).tolist() for c in (False, True)]
            assert said[0] == said[1]
        graphs.append(counter.frame_count)
    assert 0 < graphs[0] == graphs[1] == graphs[2] == graphs[3] == graphs[4] <= 2           # for the first token and for the others


# ---- what attention may and may not see -----------------------------------------------------------------------------

@both_kinds
@every_mechanism
def test_no_token_sees_a_later_one(llm, mechanism):
    palm = make(llm, mechanism)
    features, ids, _, _ = inputs()
    before = palm.logits(ids, features=features)
    ids[:, 5] = (ids[:, 5] + 1) % V
    after = palm.logits(ids, features=features)
    assert_close(after[:, :5], before[:, :5], 1e-6)
    for t in range(5, ids.shape[1]):
        assert (after[:, t] - before[:, t]).abs().max() > 1e-2      # and every later one sees it


@pytest.mark.parametrize('padding', ['right', 'left'])
@both_kinds
@every_mechanism
def test_padding_is_not_seen(llm, mechanism, padding):
    palm = make(llm, mechanism)
    features, ids, _, mask = inputs(padding=padding)
    padded = palm.logits(ids, mask, features=features)
    for i, m in enumerate(mask.bool()):
        assert_close(padded[i, m], palm.logits(ids[i, m][None], features=features[i:i + 1])[0])
    if padding == 'left':                                           # on the right causality alone hides it
        assert (palm.logits(ids, features=features) - padded)[0, mask[0].bool()].abs().max() > 1e-2


# ---- one prefix for all texts of an input ---------------------------------------------------------------------------

@both_kinds
@every_mechanism
def test_texts_of_an_input_share_its_prefix(llm, mechanism):
    B, G = 2, 3
    palm = make(llm, mechanism)
    features, ids, _, _ = inputs(B, G)
    together = palm.logits(ids, features=features)
    injections = palm.injections(palm.visual_tokens(palm.encode(features=features)))
    prefixes = {i: injection.prefix for i, injection in enumerate(injections) if injection.prefix}
    assert list(prefixes) == list(MECHANISMS[mechanism][1])
    K = getattr(palm.llm.config, 'num_key_value_heads', None) or 4
    for (k, v, _), in prefixes.values():
        for t in (k, v):
            N, C = t.shape[2:]
            assert t.shape[:2] == (B, K) and t.untyped_storage().nbytes() <= 4 * 2 * B * K * N * C      # not expanded, B is all there is
    for i in range(B * G):
        assert_close(together[i:i + 1], palm.logits(ids[i:i + 1], features=features[i // G:][:1]))


def test_beams_share_all_of_a_prompt_but_its_last_token(monkeypatch):
    B, G, T, P = 2, 2, 9, 3
    palm, asked = make(mechanism='limber_all', n_prompt=P), {}
    features, ids, _, _ = inputs(B, G, T)
    generate = palm.llm.generate
    parts = lambda: [[(k.shape[0], k.shape[2], k.untyped_storage().nbytes() // k[0, 0, 0, :1].nbytes) for k, _, _ in layer.injection.prefix]
                     for layer in palm.decoder.layers]
    monkeypatch.setattr(palm.llm, 'generate', lambda **given: asked.update(given, before=parts(), ids=generate(**given), after=parts()) or asked['ids'])
    palm.generate(ids, features=features, num_beams=3, max_new_tokens=4)
    assert asked['inputs_embeds'].shape[:2] == (B * G, 1) and asked['before'] == asked['after']
    for (inputs_, N, size), (texts, tokens, _) in asked['after']:
        assert (inputs_, N, texts, tokens) == (B, features.shape[2], B * G, P + T - 1) and size <= 2 * B * N * 64


@pytest.mark.parametrize('mechanism', ['qp_inner', 'c_attn'])
def test_an_image_is_forgotten_after_its_batch(mechanism):
    palm = make(mechanism=mechanism, n_prompt=0)
    features, ids, _, _ = inputs()
    blind = palm.llm(ids).logits
    assert (palm.logits(ids, features=features) - blind).abs().max() > 1e-2
    assert_close(palm.logits(ids), blind)
    palm.generate(ids, features=features, max_new_tokens=1)
    assert_close(palm.llm(ids).logits, blind)
    assert_close(naive_logits(palm, None, ids), blind)


# ---- cross-attention -----------------------------------------------------------------------------

def count(module):
    return sum(p.numel() for p in module.parameters())


def test_cross_attention_of_depalm_is_one_for_all_layers_and_that_of_flamingo_one_for_each():
    shared, own = make(mechanism='c_attn').adapter, make(mechanism='c_attn_flamingo').adapter
    assert len(shared.cross_attentions) == 1
    assert len(own.cross_attentions) == 3
    assert count(make(mechanism='c_attn', n_targets=5).adapter) == count(shared)
    layer_0, layer_1 = own.cross_attentions[:2]
    assert not torch.equal(layer_0.q.weight, layer_1.q.weight)


def test_parameters_of_c_attn_are_about_20_million_with_llama_7b_counted_by_hand():
    d, d_llm, d_encoder = 1024, 4096, 1024

    def linear(n_in, n_out):
        return n_in * n_out + n_out
    block = 4 * linear(d, d) + 2 * linear(d, d) + 2 * 2 * d         # attention, MLP, two LayerNorms
    connector = linear(d_encoder, d) + block + linear(d, d)
    query_mlp = linear(d_llm, d) + linear(d, d) + d                 # and an RMSNorm
    cross_attention = query_mlp + 3 * linear(d, d) + d + linear(d, d_llm) + 1
    cfg = AdapterConfig(connector='c_attn', mapper_layers=1, n_targets=12, last_target=-4,
                        source_layers=4, n_prompt=0)
    with torch.device('meta'):
        adapter = Adapter(cfg, d_encoder, (16, 16), d_llm, 32)
    assert count(adapter) == connector + cross_attention
    assert 20e6 < count(adapter) < 21e6


@both_kinds
@either_cross_attention
def test_a_closed_gate_leaves_the_llm_as_it_was_and_an_open_one_does_not(llm, mechanism):
    palm = make(llm, mechanism, n_prompt=0)
    features, ids, labels, _ = inputs()
    alone = palm.llm(ids).logits
    assert (palm.logits(ids, features=features) - alone).abs().max() > 1e-2
    with torch.no_grad():
        for cross in palm.adapter.cross_attentions:
            cross.gate.zero_()
    assert torch.equal(palm.logits(ids, features=features), alone)
    palm(ids, labels, features=features).backward()
    for cross in palm.adapter.cross_attentions:                     # but the gate can open
        assert cross.gate.grad.abs().max() > 0


@either_cross_attention
def test_a_new_gate_is_closed(mechanism):
    adapter = Adapter(AdapterConfig(**MECHANISMS[mechanism][0]), D_ENC, GRID, 64, LAYERS)
    assert all(cross.gate.item() == 0 for cross in adapter.cross_attentions)


@both_kinds
def test_every_layer_reads_the_visual_tokens_of_its_own_source(llm):
    palm = make(llm, 'c_attn')
    features, ids, _, _ = inputs()
    injections = palm.injections(palm.visual_tokens(palm.encode(features=features)))
    keys = [injection.cross_attention[1] for injection in injections[-3:]]
    assert keys[0] is keys[1]                                       # targets 0 and 1 of 3: source 0
    assert (keys[1] - keys[2]).abs().max() > 1e-2                   # target 2: source 1


@either_cross_attention
def test_cross_attention_reads_a_layer_0_without_the_start_of_a_prefix(mechanism):
    knobs = dict(n_targets=2, last_target=1)
    palm, plain = make(mechanism=mechanism, **knobs), make(mechanism=mechanism, **knobs)
    palm.prefix_start = torch.tensor([5, 9])
    features, ids, _, _ = inputs()
    assert_close(palm.logits(ids, features=features), plain.logits(ids, features=features))
    assert_close(palm.logits(ids, features=features), naive_logits(palm, features, ids))


@either_cross_attention
def test_cross_attention_without_an_encoder_is_blind(mechanism):
    model = AutoModelForCausalLM.from_config(LLMS['llama'])
    cfg = AdapterConfig(n_prompt=3, **MECHANISMS[mechanism][0])
    palm = PALM(model, Adapter(cfg, None, None, 64, LAYERS))
    _, ids, _, _ = inputs()
    assert_close(palm.logits(ids), naive_logits(palm, None, ids))


@both_kinds
@either_cross_attention
@greedy_or_beams
@pytest.mark.parametrize('ends', [False, True])
def test_generation_with_a_cache_is_that_of_whole_texts_without(llm, mechanism, num_beams, ends):
    palm = make(llm, mechanism)
    features, ids, _, mask = inputs(G=2, T=7, padding='left')
    eos = None
    if ends:                                                        # a token that texts come to
        new = palm.generate(ids, mask, features=features, num_beams=num_beams, max_new_tokens=6)
        eos = new[:, 2].mode().values.item()
    cached = palm.generate(ids, mask, features=features, num_beams=num_beams, max_new_tokens=6,
                           eos_token_id=eos, pad_token_id=eos)
    for i, (row, seen) in enumerate(zip(ids, mask.bool())):
        alone = naive_generate(palm, features[i // 2:][:1], row[seen][None], 6, num_beams, eos)
        padding = [eos] * (cached.shape[1] - alone.shape[1])
        assert cached[i].tolist() == alone[0].tolist() + padding


# ---- where training starts -----------------------------------------------------------------------

@pytest.mark.parametrize('std', [0.02, 1.0])
def test_queries_and_prompt_tokens_start_with_the_deviation_that_is_asked_for(std):
    torch.manual_seed(0)
    for connector in ('qpmapper', 'qformer', 'r_qpmapper'):
        cfg = AdapterConfig(connector=connector, adapter_dim=64, n_queries=300, n_prompt=300,
                            token_init_std=std)
        adapter = Adapter(cfg, D_ENC, GRID, 64, LAYERS)
        mapper = adapter.connectors[0][1]
        queries = mapper.pool.queries if connector == 'r_qpmapper' else mapper.queries
        for tokens in (queries, adapter.prompt):
            assert 0.97 * std < tokens.std() < 1.03 * std
            assert tokens.mean().abs() < 0.03 * std


# ---- what is trained, and what is not -------------------------------------------------------------------------------

def fingerprint(tensors):
    return {name: hashlib.sha256(t.detach().numpy().tobytes()).hexdigest() for name, t in tensors.items()}


@both_kinds
@every_mechanism
def test_three_steps_of_training_change_what_is_trained_and_nothing_else(llm, mechanism):
    palm = make(llm, mechanism).train()
    trained = palm.trained()
    tuned = {name for name in trained if not name.startswith('adapter.')}
    assert {p for p in palm.adapter.parameters()} <= set(trained.values())
    assert bool(tuned) == (mechanism == 'everything') and all('bias_tuner' in name or 'norm' in name for name in tuned)
    before = fingerprint(palm.state_dict())
    frozen = {name for name in before if name not in trained}
    assert len(frozen) > 6 * LAYERS
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-3, weight_decay=0.1)
    features, ids, labels, mask = inputs(padding='right')
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = palm(ids, labels, mask, features=features)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    after = fingerprint(palm.state_dict())
    assert {name for name in before if before[name] != after[name]} <= set(trained)
    assert {name for name in trained if before[name] == after[name]} <= tuned       # tuned, but leading to no label
    assert all(p.grad is None for name, p in palm.named_parameters() if name not in trained)
    assert {id(p) for p in optimizer.state} <= {id(p) for p in trained.values()} and optimizer.state
    assert losses[2] < losses[0]


@pytest.mark.parametrize('llm', ['opt', 'opt_postnorm'])
def test_dropout_of_the_frozen_llm_is_off_in_training(llm):
    palm = make(llm)
    features, ids, _, _ = inputs()
    quiet = palm.logits(ids, features=features)
    palm.train()
    assert palm.training and palm.adapter.training
    assert torch.equal(palm.logits(ids, features=features), quiet)
    palm.llm.train()                                                # dropout=0.1 it has
    assert (palm.logits(ids, features=features) - quiet).abs().max() > 1e-2


@pytest.mark.parametrize('mechanism', ['limber_all', 'qp_l0', 'qp_inner', 'c_attn'])
def test_dropout_of_the_llm_is_on_where_it_is_asked_for_and_in_training_alone(mechanism):
    palm, quiet = make('opt', mechanism, llm_train_mode=True), make('opt', mechanism)
    features, ids, labels, _ = inputs()
    palm.train()
    quiet.train()
    losses = {palm(ids, labels, features=features).item() for _ in range(3)}
    assert len(losses) == 3
    assert quiet(ids, labels, features=features) == quiet(ids, labels, features=features)
    torch.manual_seed(0)                                            # what train.py does every step
    first = palm(ids, labels, features=features)
    torch.manual_seed(0)
    assert palm(ids, labels, features=features) == first
    palm.eval()
    assert not palm.llm.training
    assert torch.equal(palm.logits(ids, features=features),
                       quiet.eval().logits(ids, features=features))


def test_attention_weights_of_the_llms_have_no_dropout_that_training_could_turn_on():
    """`prefix_attention` has none to apply: it is 0 in the configurations of all families."""
    for config in LLMS.values():
        assert config.attention_dropout == 0


@pytest.mark.parametrize('mechanism, millions', [('qp_l0', '17.89'), ('mapl', '2.91'), ('limber_all', '4.20'), ('limber_1', '4.20'),     # the papers'
                                                 ('epalm_original_l', '4.24'), ('qp_inner', '18.10'), ('r_avgpool', '20.99'), ('r_linear', '88.10'),
                                                 ('r_qpmapper', '18.13'), ('r_rand', '4.20'), ('epalm', '4.31'),
                                                 ('epalm_opt', '4.24'), ('c_attn', '21.06'),
                                                 ('c_attn_flamingo', '127.08')])
def test_parameter_counts_of_the_configs_are_those_documented(mechanism, millions):
    """EVA-CLIP-L and LLaMA-7B (OPT-6.7B and ViT-L have the same widths)."""
    knobs = asdict(AdapterConfig())
    assigned = run_config_file(ROOT / f'config/mechanism/{mechanism}.py', dict(knobs))
    with torch.device('meta'):
        adapter = Adapter(AdapterConfig(**{k: assigned.get(k, v) for k, v in knobs.items()}), 1024, (16, 16), 4096, 32)
    assert f'{sum(p.numel() for p in adapter.parameters()) / 1e6:.2f}' == millions


# ---- mistakes are named ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize('knob, knobs', [
    ('connector', dict(connector='qp_mapper')),
    ('n_targets', dict(n_targets=4, last_target=-4)),
    ('n_targets', dict(n_targets=0)),
    ('target_stride', dict(n_targets=2, last_target=-1, target_stride=6)),
    ('target_stride', dict(n_targets=2, last_target=-1, target_stride=0)),
    ('last_target', dict(last_target=LAYERS)),
    ('last_target', dict(last_target=-LAYERS - 1)),
    ('reduction', dict(connector='r_linear', reduction=9)),
    ('reduction', dict(connector='r_linear', reduction=2)),
    ('token_norm', dict(connector='c_attn', token_norm=True)),
    ('token_bias', dict(connector='c_attn_flamingo', token_bias=True))])
def test_impossible_knobs_are_named(knob, knobs):
    with pytest.raises(ValueError, match=knob):
        Adapter(AdapterConfig(**knobs), D_ENC, GRID, 64, LAYERS)


def test_unknown_llm_family_is_named():
    llm = AutoModelForCausalLM.from_config(GPT2Config(n_layer=2, n_embd=64, n_head=4, vocab_size=V))
    with pytest.raises(ValueError, match='gpt2'):
        PALM(llm, Adapter(AdapterConfig(connector='linear'), D_ENC, GRID, 64, 2))
