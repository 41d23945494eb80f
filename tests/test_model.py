"""
model.py: PALM against the reference implementation (naive.py), and what its design promises.
"""

import hashlib
import itertools

import pytest
import torch
from tiny_models import (
    CROSS_ATTENTIONS,
    LAYERS,
    LLMS,
    MECHANISMS,
    PREFIX_LAYERS,
    VOCABULARY,
    WIDTH,
    assert_close,
    cases,
    either_cross_attention,
    every_mechanism,
    greedy_or_beams,
    inputs,
    make,
    make_llm,
    move_from_initial_values,
    n_different,
    rotary_or_learned,
)
from torch._dynamo.testing import CompileCounter
from transformers import AutoModelForCausalLM, GPT2Config

from adapters import Adapter, AdapterConfig
from model import NOTHING, PALM, Injection, injected, prefix_attention
from naive import naive_generate, naive_logits, naive_loss
from nanopalm.parallel import checkpoint_activations

# ---- training: the same numbers as the reference implementation ----------------------------------

# every mechanism over two LLMs; over every LLM, tokens that flow, tokens in front, cross-attention
COMPARED = [
    (llm, mechanism)
    for llm in LLMS
    for mechanism in MECHANISMS
    if llm in ('llama', 'opt') or mechanism in ('inner_to_end', 'started', 'c_attn')
]
# (number of prompt tokens, texts per input, side of the padding)
TEXTS = [(0, 3, None), (3, 1, 'left'), (3, 3, 'right')]


@cases(
    'llm, mechanism, n_prompt, G, padding',
    [(*pair, *texts) for pair in COMPARED for texts in TEXTS],
    # each pair with one of the three
    quick=[(*pair, *TEXTS[i % 3]) for i, pair in enumerate(COMPARED)],
)
def test_logits_loss_and_gradients_are_those_of_the_reference_implementation(
    llm, mechanism, n_prompt, G, padding
):
    prompt_mlp = mechanism == 'epalm' and n_prompt > 0
    palm = make(llm, mechanism, n_prompt=n_prompt, prompt_mlp=prompt_mlp)
    features, ids, labels, mask = inputs(G=G, padding=padding)
    valid = torch.ones_like(ids).bool() if mask is None else mask.bool()

    logits = palm.logits(ids, mask, features=features)[valid]
    expected = naive_logits(palm, features, ids, mask)[valid]
    assert_close(logits, expected)
    of_other_images = naive_logits(palm, features.flip(0), ids, mask)[valid]
    assert (expected - of_other_images).abs().max() > 0.1 * expected.abs().max()

    loss = palm(ids, labels, mask, features=features, label_smoothing=0.1)
    expected = naive_loss(palm, features, ids, labels, mask, label_smoothing=0.1)
    assert_close(loss.detach(), expected.detach())
    assert_same_gradients(gradients_of(palm, loss), gradients_of(palm, expected))


def gradients_of(palm, loss):
    """Returns {name: gradient, None where there is none} of all that is trained."""
    trained = palm.trained()
    return dict(zip(trained, torch.autograd.grad(loss, trained.values(), allow_unused=True)))


def assert_same_gradients(actual, expected):
    largest = max(g.abs().max() for g in expected.values() if g is not None)
    for name, g in expected.items():
        if g is None or actual[name] is None:
            # of the LLM's tuned tensors, those that lead to no label have no gradient; of the
            # adapter's, none is left out
            assert g is None or g.abs().max() == 0, name
            assert actual[name] is None or actual[name].abs().max() == 0, name
            assert g is not None or not name.startswith('adapter.'), name
        else:
            # 5e-7 of the largest is zero but for rounding, as that of a bias of all keys
            tolerance = 1e-4 * g.abs().max() + 5e-7 * largest
            assert (actual[name] - g).abs().max() <= tolerance, name


def test_source_dropout_is_on_in_training_and_off_in_evaluation():
    palm = make(mechanism='limber_all', source_dropout=0.5)
    without = make(mechanism='limber_all')
    features, ids, labels, _ = inputs()

    def loss():
        return palm(ids, labels, features=features).item()

    assert loss() == loss()
    assert loss() == without(ids, labels, features=features).item()
    palm.train()
    assert loss() != loss()
    torch.manual_seed(0)
    first = loss()
    torch.manual_seed(0)
    assert loss() == first


@pytest.mark.parametrize('mechanism', ['qp_inner', 'epalm'])
def test_no_gradient_is_computed_below_the_first_target_layer(mechanism):
    palm = make('llama', mechanism, n_prompt=0, prompt_mlp=False)
    needs_gradient = []

    def note(layer, args, x):
        needs_gradient.append(x.requires_grad)

    for layer in palm.decoder.layers:
        layer.register_forward_hook(note)
    features, ids, labels, _ = inputs()
    palm(ids, labels, features=features)
    # targets 2 to 4 have new tokens at each layer: these go through no layer
    assert needs_gradient == [False] * 2 + [True] * 4


# ---- generation: the same texts as the reference implementation ----------------------------------


# (LLM, texts per input)
GENERATING = [('llama', 1), ('llama', 2), ('qwen3', 1), ('opt', 2), ('opt_postnorm', 2)]
# tokens that flow from layer 0 to the top, and new ones at inner layers
FLOWING_OR_NEW = ['limber_all', 'qp_inner']


@greedy_or_beams
@cases(
    'llm, G, mechanism',
    [(*pair, mechanism) for pair in GENERATING for mechanism in FLOWING_OR_NEW],
    quick=[('llama', 2, 'limber_all'), ('opt', 2, 'qp_inner')],
)
def test_generated_texts_are_those_of_the_reference_implementation(llm, G, mechanism, num_beams):
    palm = make(llm, mechanism)
    features, ids, _, _ = inputs(G=G, T=4)
    options = dict(num_beams=num_beams, max_new_tokens=7)
    free = palm.generate(ids, features=features, **options)
    assert free.shape == (2 * G, 7)
    assert n_different(free) > G
    of_other_images = palm.generate(ids, features=features.flip(0), **options)
    assert free.tolist() != of_other_images.tolist()
    assert free.tolist() == naive_generate(palm, features, ids, 7, num_beams).tolist()

    # a token that the first text comes to
    eos = free[0, 3].item()
    ended = palm.generate(ids, features=features, eos_token_id=eos, pad_token_id=eos, **options)
    assert ended.tolist() != free.tolist()
    assert ended.tolist() == naive_generate(palm, features, ids, 7, num_beams, eos).tolist()


@pytest.mark.parametrize('mechanism', FLOWING_OR_NEW)
@cases('llm, G', GENERATING, quick=[('llama', 2), ('opt', 2)])
def test_several_texts_of_an_image_are_drawn_at_random(llm, G, mechanism):
    palm = make(llm, mechanism)
    features, ids, _, _ = inputs(G=G, T=4)
    drawn = palm.generate(
        ids, features=features, do_sample=True, num_return_sequences=3, max_new_tokens=7
    )
    assert drawn.shape == (6 * G, 7)
    assert n_different(drawn) > 2 * G


CACHES = [('llama', 'dynamic'), ('mistral', 'static'), ('opt', 'dynamic'), ('opt', 'static')]


@greedy_or_beams
@cases(
    'llm, cache, mechanism',
    [(*pair, mechanism) for pair in CACHES for mechanism in (*FLOWING_OR_NEW, 'c_attn')],
    quick=[
        ('llama', 'dynamic', 'limber_all'),
        ('mistral', 'static', 'qp_inner'),
        ('opt', 'static', 'c_attn'),
    ],
)
def test_prompts_of_different_length_generate_in_a_batch_what_they_generate_alone(
    llm, cache, mechanism, num_beams, monkeypatch
):
    """The batch is padded on the left, with two texts about each of two inputs. The static cache
    is that of compile=True."""
    monkeypatch.setattr(torch, 'compile', same)
    palm = make(llm, mechanism)
    options = dict(num_beams=num_beams, max_new_tokens=6, compile=cache == 'static')
    features, ids, _, mask = inputs(G=2, T=7, padding='left')
    batch = palm.generate(ids, mask, features=features, **options)
    of_other_images = palm.generate(ids, mask, features=features.flip(0), **options)
    assert n_different(batch) > 2
    assert batch.tolist() != of_other_images.tolist()
    for i, text in enumerate(batch.tolist()):
        prompt = ids[i, mask[i].bool()][None]
        image = features[i // 2 :][:1]
        assert palm.generate(prompt, features=image, **options)[0].tolist() == text


def same(function):
    """Stands for torch.compile where what is compiled is not the question."""
    return function


@greedy_or_beams
@cases(
    'llm, mechanism, ends',
    itertools.product(['llama', 'opt'], CROSS_ATTENTIONS, [False, True]),
    quick=[('llama', 'c_attn', True), ('opt', 'c_attn_flamingo', False)],
)
def test_generation_with_a_cache_is_that_of_whole_texts_without_one(
    llm, mechanism, ends, num_beams
):
    palm = make(llm, mechanism)
    features, ids, _, mask = inputs(G=2, T=7, padding='left')
    options = dict(features=features, num_beams=num_beams, max_new_tokens=6)
    eos = None
    if ends:
        # a token that texts come to
        eos = palm.generate(ids, mask, **options)[:, 2].mode().values.item()
    cached = palm.generate(ids, mask, eos_token_id=eos, pad_token_id=eos, **options)
    for i, text in enumerate(cached.tolist()):
        prompt = ids[i, mask[i].bool()][None]
        image = features[i // 2 :][:1]
        alone = naive_generate(palm, image, prompt, 6, num_beams, eos)[0].tolist()
        padding = [eos] * (len(text) - len(alone))
        assert text == alone + padding


# ---- what attention may see ----------------------------------------------------------------------


@every_mechanism
def test_no_token_sees_a_later_one_and_every_later_one_sees_it(llm, mechanism):
    palm = make(llm, mechanism)
    features, ids, _, _ = inputs()
    before = palm.logits(ids, features=features)
    ids[:, 5] = (ids[:, 5] + 1) % VOCABULARY
    after = palm.logits(ids, features=features)
    assert_close(after[:, :5], before[:, :5], 1e-6)
    for t in range(5, ids.shape[1]):
        assert (after[:, t] - before[:, t]).abs().max() > 1e-2


@pytest.mark.parametrize('padding', ['right', 'left'])
@every_mechanism
def test_padding_is_not_seen(llm, mechanism, padding):
    palm = make(llm, mechanism)
    features, ids, _, mask = inputs(padding=padding)
    padded = palm.logits(ids, mask, features=features)
    for i, valid in enumerate(mask.bool()):
        alone = palm.logits(ids[i, valid][None], features=features[i : i + 1])
        assert_close(padded[i, valid], alone[0])
    if padding == 'left':
        # on the right, causality alone would hide it
        unmasked = palm.logits(ids, features=features)
        assert (unmasked - padded)[0, mask[0].bool()].abs().max() > 1e-2


# ---- one prefix for all texts about an input -----------------------------------------------------


@every_mechanism
def test_texts_about_an_input_share_its_prefix(llm, mechanism):
    B, G = 2, 3
    palm = make(llm, mechanism)
    features, ids, _, _ = inputs(B, G)
    injections = palm.injections(palm.visual_tokens(palm.encode(features=features)))
    with_prefix = [i for i, injection in enumerate(injections) if injection.prefix]
    assert with_prefix == PREFIX_LAYERS[mechanism]
    K = getattr(palm.llm.config, 'num_key_value_heads', None) or 4
    for i in with_prefix:
        (part,) = injections[i].prefix
        for tensor in (part.keys, part.values):
            N, C = tensor.shape[2:]
            assert tensor.shape[:2] == (B, K)
            # B * K * N * C floats of four bytes, perhaps keys and values in one: not expanded
            assert tensor.untyped_storage().nbytes() <= 4 * 2 * B * K * N * C

    together = palm.logits(ids, features=features)
    for i in range(B * G):
        alone = palm.logits(ids[i : i + 1], features=features[i // G :][:1])
        assert_close(together[i : i + 1], alone)


def test_beams_share_all_of_a_prompt_but_its_last_token(monkeypatch):
    B, G, T, P = 2, 2, 9, 3
    palm = make(mechanism='limber_all', n_prompt=P)
    features, ids, _, _ = inputs(B, G, T)
    generate = palm.llm.generate
    received = {}
    prefixes = []

    def prefix_of_layers():
        return [layer.injection.prefix for layer in palm.decoder.layers]

    def watched_generate(**arguments):
        received.update(arguments)
        prefixes.append(prefix_of_layers())
        new = generate(**arguments)
        prefixes.append(prefix_of_layers())
        return new

    monkeypatch.setattr(palm.llm, 'generate', watched_generate)
    palm.generate(ids, features=features, num_beams=3, max_new_tokens=4)
    assert received['inputs_embeds'].shape[:2] == (B * G, 1)
    before, after = prefixes
    for image, prompt in after:
        N = features.shape[2]
        K, C = image.keys.shape[1], image.keys.shape[3]
        assert image.keys.shape == (B, K, N, C)
        assert prompt.keys.shape == (B * G, K, P + T - 1, C)
        # not expanded for the beams: four bytes a float, perhaps keys and values in one
        assert image.keys.untyped_storage().nbytes() <= 4 * 2 * B * N * K * C
    for parts_before, parts_after in zip(before, after):
        for a, b in zip(parts_before, parts_after):
            assert a.keys is b.keys


# ---- what is injected is gone after the call -----------------------------------------------------


def injections_of(palm):
    """Returns what every layer, and every attention, would read now."""
    layers = palm.decoder.layers
    return [layer.injection for layer in layers] + [layer.self_attn.injection for layer in layers]


@pytest.mark.parametrize('mechanism', ['limber_all', 'qp_inner', 'c_attn', 'everything'])
def test_nothing_is_left_in_the_llm_after_a_call(mechanism):
    palm = make('llama', mechanism)
    features, ids, labels, _ = inputs()
    palm(ids, labels, features=features).backward()
    assert all(injection is NOTHING for injection in injections_of(palm))
    palm.generate(ids, features=features, max_new_tokens=2)
    assert all(injection is NOTHING for injection in injections_of(palm))


def test_nothing_is_left_in_the_llm_after_an_error():
    palm = make('llama', 'qp_inner')
    layers = palm.decoder.layers
    with pytest.raises(RuntimeError, match='in the middle'):
        with injected(layers, [Injection(prefix=('a part',))] * len(layers)):
            assert layers[0].self_attn.injection.prefix == ('a part',)
            raise RuntimeError('in the middle')
    assert all(injection is NOTHING for injection in injections_of(palm))


@pytest.mark.parametrize('mechanism', ['qp_inner', 'c_attn'])
def test_an_image_is_forgotten_after_its_batch(mechanism):
    palm = make(mechanism=mechanism, n_prompt=0)
    features, ids, _, _ = inputs()
    without_image = palm.llm(ids).logits
    assert (palm.logits(ids, features=features) - without_image).abs().max() > 1e-2
    assert_close(palm.logits(ids), without_image)
    palm.generate(ids, features=features, max_new_tokens=1)
    assert_close(palm.llm(ids).logits, without_image)
    assert_close(naive_logits(palm, None, ids), without_image)


@pytest.mark.parametrize('first', ['qp_inner', 'c_attn', 'bottleneck'])
@pytest.mark.parametrize('second', ['limber_all', 'c_attn_flamingo', 'bottleneck'])
def test_two_adapters_over_one_llm_do_not_see_each_other(first, second):
    """Each gives what it gives over an LLM of its own, before and after the other was used."""
    features, ids, _, _ = inputs()
    palms = [make_with_bottleneck(first), make_with_bottleneck(second)]
    alone = [palm.logits(ids, features=features) for palm in palms]
    one_llm = palms[0].llm
    sharing = [palms[0], PALM(one_llm, palms[1].adapter)]
    for _ in range(2):
        for palm, expected in zip(sharing, alone):
            assert torch.equal(palm.logits(ids, features=features), expected)


def make_with_bottleneck(mechanism):
    if mechanism == 'bottleneck':
        return make('llama', 'limber_all', bottleneck='parallel', bottleneck_at='attention')
    return make('llama', mechanism)


@pytest.mark.parametrize('bottleneck_layers, first', [('all', 0), ('targets', 2)])
def test_below_the_first_bottleneck_and_target_nothing_needs_a_gradient(bottleneck_layers, first):
    palm = make(mechanism='strided', n_prompt=0, bottleneck_layers=bottleneck_layers)
    needing = []
    for i, layer in enumerate(palm.decoder.layers):
        layer.register_forward_hook(
            lambda layer, args, output, i=i: needing.append(i) if output.requires_grad else None
        )
    features, ids, labels, _ = inputs()
    palm(ids, labels, features=features).backward()
    assert set(needing) == set(range(first, 6))
    assert all(p.grad is not None for p in palm.trained().values())


# ---- fast paths ----------------------------------------------------------------------------------


@cases(
    'llm, mechanism',
    itertools.product(
        ['llama', 'opt'], ['limber_cls', 'qp_l0', 'started', 'qp_inner', 'everything']
    ),
    quick=[('llama', 'limber_cls'), ('opt', 'started'), ('opt', 'qp_inner')],
)
def test_fast_paths_give_what_the_plain_way_through_the_model_gives(llm, mechanism):
    fast = make(llm, mechanism)
    plain = make(llm, mechanism)
    plain.fast_paths = False
    features, ids, labels, mask = inputs(padding='right')
    loss = fast(ids, labels, mask, features=features)
    expected = plain(ids, labels, mask, features=features)
    assert (loss - expected).abs() <= 1e-5 * expected
    gradients = gradients_of(fast, loss)
    expected = gradients_of(plain, expected)
    largest = max(g.abs().max() for g in expected.values() if g is not None)
    for name, g in expected.items():
        if g is not None:
            assert (gradients[name] - g).abs().max() <= 1e-5 * largest, name

    _, ids, _, mask = inputs(G=2, T=7, padding='left')
    for num_beams in (1, 3):
        options = dict(features=features, num_beams=num_beams, max_new_tokens=6)
        text = fast.generate(ids, mask, **options)
        assert text.tolist() == plain.generate(ids, mask, **options).tolist()


@pytest.mark.parametrize('mechanism', ['qp_inner', 'epalm', 'c_attn'])
def test_in_training_the_llm_computes_nothing_that_no_label_needs(mechanism):
    packed = make(mechanism=mechanism)
    padded = make(mechanism=mechanism)
    padded.fast_paths = False
    features, ids, labels, _ = inputs(B=2, G=2, T=9)
    # the third text ends after seven tokens; the last has no label
    labels[2, 7:] = -100
    labels[3] = -100
    loss = packed(ids, labels, features=features)
    expected = padded(ids, labels, features=features)
    assert_close(loss.detach(), expected.detach())
    assert_same_gradients(gradients_of(packed, loss), gradients_of(padded, expected))
    P = packed.adapter.cfg.n_prompt
    assert padded.text_tokens == 4 * (P + 9)
    # the last token of a text is read by nothing
    assert packed.text_tokens == 2 * (P + 8) + (P + 6)


@pytest.mark.parametrize(
    'mechanism, G, grad, calls',
    [
        ('limber_cls', 1, True, 1),
        ('qp_l0', 1, True, 1),
        ('qp_l0', 1, False, 2),
        ('qp_l0', 2, True, 2),
        ('limber_all', 1, True, 2),
        ('noncausal', 1, True, 2),
        ('qp_inner', 1, True, 1),
    ],
)
def test_visual_tokens_go_in_the_pass_of_the_text_in_training_where_they_are_few(
    mechanism, G, grad, calls
):
    """That is, where each text has an image of its own. Those of inner layers never flow through
    layer 0."""
    palm = make(mechanism=mechanism)
    passes = []

    def count_pass(*args):
        passes.append(1)

    palm.decoder.layers[0].mlp.register_forward_hook(count_pass)
    features, ids, labels, _ = inputs(G=G)
    with torch.set_grad_enabled(grad):
        palm(ids, labels, features=features)
    assert len(passes) == calls


# ---- cross-attention -----------------------------------------------------------------------------


@rotary_or_learned
@either_cross_attention
def test_a_closed_gate_leaves_the_llm_as_it_was_and_an_open_one_does_not(llm, mechanism):
    palm = make(llm, mechanism, n_prompt=0)
    features, ids, labels, _ = inputs()
    without_image = palm.llm(ids).logits
    assert (palm.logits(ids, features=features) - without_image).abs().max() > 1e-2
    with torch.no_grad():
        for cross in palm.adapter.cross_attentions:
            cross.gate.zero_()
    assert torch.equal(palm.logits(ids, features=features), without_image)
    palm(ids, labels, features=features).backward()
    for cross in palm.adapter.cross_attentions:
        # but the gate can open
        assert cross.gate.grad.abs().max() > 0


@rotary_or_learned
def test_every_layer_reads_the_visual_tokens_of_its_own_source(llm):
    palm = make(llm, 'c_attn')
    features, _, _, _ = inputs()
    injections = palm.injections(palm.visual_tokens(palm.encode(features=features)))
    keys = [injection.cross_attention[1] for injection in injections[-3:]]
    # of the three targets, the first two read source 0
    assert keys[0] is keys[1]
    # and the third reads source 1
    assert (keys[1] - keys[2]).abs().max() > 1e-2


@either_cross_attention
def test_cross_attention_reads_a_layer_0_without_the_start_of_a_prefix(mechanism):
    layers = dict(n_targets=2, last_target=1)
    palm = make(mechanism=mechanism, **layers)
    plain = make(mechanism=mechanism, **layers)
    palm.prefix_start = torch.tensor([5, 9])
    features, ids, _, _ = inputs()
    logits = palm.logits(ids, features=features)
    assert_close(logits, plain.logits(ids, features=features))
    assert_close(logits, naive_logits(palm, features, ids))


@either_cross_attention
def test_cross_attention_without_an_encoder_is_the_text_only_baseline(mechanism):
    llm = AutoModelForCausalLM.from_config(LLMS['llama'], dtype=torch.float32)
    cfg = AdapterConfig(n_prompt=3, **MECHANISMS[mechanism])
    palm = PALM(llm, Adapter(cfg, None, None, WIDTH, LAYERS))
    _, ids, _, _ = inputs()
    assert_close(palm.logits(ids), naive_logits(palm, None, ids))


# ---- several encoders ----------------------------------------------------------------------------


def test_the_text_reads_the_tokens_of_both_encoders():
    torch.manual_seed(0)
    cfg = AdapterConfig(connector='linear')
    adapter = Adapter(cfg, (24, 40), ((4, 4), (2, 2)), WIDTH, LAYERS)
    palm = PALM(make_llm('llama'), adapter)
    move_from_initial_values(palm)
    _, ids, labels, _ = inputs()
    features = (torch.randn(2, 1, 17, 24), torch.randn(2, 1, 5, 40))
    logits = palm.logits(ids, features=features)
    for encoder in (0, 1):
        changed = list(features)
        changed[encoder] = changed[encoder].flip(0)
        assert (palm.logits(ids, features=tuple(changed)) - logits).abs().max() > 1e-2
    palm(ids, labels, features=features).backward()
    assert all(p.grad.abs().max() > 0 for p in palm.trained().values())


# ---- what is trained, and what is frozen ---------------------------------------------------------


def fingerprints(tensors):
    """Returns {name: digest of its bytes}."""
    digests = {}
    for name, tensor in tensors.items():
        digests[name] = hashlib.sha256(tensor.detach().numpy().tobytes()).hexdigest()
    return digests


@every_mechanism
def test_three_steps_of_training_change_what_is_trained_and_nothing_else(llm, mechanism):
    palm = make(llm, mechanism).train()
    trained = palm.trained()
    tuned = {name for name in trained if not name.startswith('adapter.')}
    assert set(palm.adapter.parameters()) <= set(trained.values())
    assert bool(tuned) == (mechanism == 'everything')
    assert all('bias_tuner' in name or 'norm' in name for name in tuned)
    before = fingerprints(palm.state_dict())
    frozen = set(before) - set(trained)
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

    assert losses[2] < losses[0]
    after = fingerprints(palm.state_dict())
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= set(trained)
    # what is tuned in the LLM, but leads to no label, may stay
    assert set(trained) - changed <= tuned
    assert all(p.grad is None for name, p in palm.named_parameters() if name not in trained)
    assert optimizer.state
    assert set(optimizer.state) <= set(trained.values())


@pytest.mark.parametrize('llm', ['opt', 'opt_postnorm'])
def test_dropout_of_the_frozen_llm_is_off_in_training(llm):
    palm = make(llm)
    features, ids, _, _ = inputs()
    logits = palm.logits(ids, features=features)
    palm.train()
    assert palm.training
    assert palm.adapter.training
    assert torch.equal(palm.logits(ids, features=features), logits)
    # it has a dropout of 0.1
    palm.llm.train()
    assert (palm.logits(ids, features=features) - logits).abs().max() > 1e-2


@pytest.mark.parametrize('mechanism', ['limber_all', 'qp_l0', 'qp_inner', 'c_attn'])
def test_dropout_of_the_llm_is_on_with_llm_train_mode_and_in_training_alone(mechanism):
    palm = make('opt', mechanism, llm_train_mode=True)
    without = make('opt', mechanism)
    features, ids, labels, _ = inputs()
    palm.train()
    without.train()
    losses = {palm(ids, labels, features=features).item() for _ in range(3)}
    assert len(losses) == 3
    first = without(ids, labels, features=features)
    assert without(ids, labels, features=features) == first

    # as train.py seeds every step
    torch.manual_seed(0)
    first = palm(ids, labels, features=features)
    torch.manual_seed(0)
    assert palm(ids, labels, features=features) == first

    palm.eval()
    without.eval()
    assert not palm.llm.training
    logits = palm.logits(ids, features=features)
    assert torch.equal(logits, without.logits(ids, features=features))


def test_the_attention_weights_of_the_llms_have_no_dropout_that_training_could_turn_on():
    """`prefix_attention` has none to apply: it is 0 in the configurations of all families."""
    for config in LLMS.values():
        assert config.attention_dropout == 0


# ---- torch.compile -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize('checkpointed', [False, True])
# qp_l0: one pass; strided: layers with and without a prefix, in both passes; c_attn: with and
# without its hook
@pytest.mark.parametrize('mechanism, expected', [('qp_l0', 1), ('strided', 4), ('c_attn', 4)])
def test_compiled_layers_give_the_same_and_share_their_graphs(mechanism, expected, checkpointed):
    torch._dynamo.reset()
    counter = CompileCounter()
    palm = make(mechanism=mechanism)
    compiled = make(mechanism=mechanism)
    for layer in compiled.decoder.layers:
        if checkpointed:
            checkpoint_activations(layer)
    compiled.compile_layers(backend=counter)
    graphs = []
    for T in (9, 12, 17, 9):
        features, ids, labels, _ = inputs(T=T)
        loss = compiled(ids, labels, features=features)
        expected_loss = palm(ids, labels, features=features)
        assert_close(loss.detach(), expected_loss.detach(), 1e-6)
        gradients = torch.autograd.grad(loss, compiled.trained().values())
        expected_gradients = torch.autograd.grad(expected_loss, palm.trained().values())
        largest = max(g.abs().max() for g in expected_gradients)
        for a, b in zip(gradients, expected_gradients):
            assert (a - b).abs().max() <= 1e-5 * largest
        graphs.append(counter.frame_count)
    # for all six layers
    assert 0 < graphs[0] <= expected
    # at most one more once lengths are known to vary, then none
    assert graphs[1] == graphs[2] == graphs[3] <= max(2, expected) + checkpointed


@pytest.mark.slow
def test_layers_with_recomputed_activations_are_compiled_where_visual_tokens_flow():
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = make(mechanism='limber_all')
    for layer in compiled.decoder.layers:
        checkpoint_activations(layer)
    compiled.compile_layers(backend=counter)
    features, ids, labels, _ = inputs()
    loss = compiled(ids, labels, features=features)
    assert_close(
        loss.detach(), make(mechanism='limber_all')(ids, labels, features=features).detach()
    )
    # of the pass of the visual tokens, and of that of the text
    assert 2 <= counter.frame_count <= 3


@pytest.mark.slow
@greedy_or_beams
@rotary_or_learned
def test_compiled_generation_gives_the_same_and_batches_share_its_graphs(
    llm, num_beams, monkeypatch
):
    torch._dynamo.reset()
    counter = CompileCounter()
    torch_compile = torch.compile

    def counted_compile(function):
        return torch_compile(function, backend=counter)

    monkeypatch.setattr(torch, 'compile', counted_compile)
    palm = make(llm, 'strided')
    graphs = []
    for T in (6, 9, 1, 12, 30):
        features, ids, _, mask = inputs(T=T, padding='left')
        options = dict(features=features, num_beams=num_beams, max_new_tokens=7)
        for m in (None, mask):
            expected = palm.generate(ids, m, compile=False, **options)
            compiled = palm.generate(ids, m, compile=True, **options)
            assert compiled.tolist() == expected.tolist()
        graphs.append(counter.frame_count)
    # for the first token, and for the others
    assert 0 < graphs[0] <= 2
    assert graphs == [graphs[0]] * 5


# ---- mistakes ------------------------------------------------------------------------------------


def test_an_unknown_llm_family_is_named():
    config = GPT2Config(n_layer=2, n_embd=64, n_head=4, vocab_size=VOCABULARY)
    llm = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ValueError, match='gpt2'):
        PALM(llm, Adapter(AdapterConfig(connector='linear'), 24, (4, 4), WIDTH, 2))


def test_a_soft_cap_on_the_scores_is_refused_and_not_ignored():
    module = make('llama').decoder.layers[0].self_attn
    x = torch.randn(1, 4, 3, 16)
    with pytest.raises(NotImplementedError, match='soft cap'):
        prefix_attention(module, x, x, x, None, scaling=1.0, softcap=50.0)
