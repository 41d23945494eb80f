"""
What an adapter injects into a frozen LLM is gone after the call, and fast paths change nothing.
"""

import pytest
import torch
from test_model import LLMS, inputs, make

from adapters import Adapter, AdapterConfig, find_target_layers, make_routes
from model import NOTHING, PALM, Injection, injected

GRID, D_ENC, LAYERS = (4, 4), 24, 6


def injections_of(palm):
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


@pytest.mark.parametrize('first', ['qp_inner', 'c_attn', 'bottleneck'])
@pytest.mark.parametrize('second', ['limber_all', 'c_attn_flamingo', 'bottleneck'])
def test_two_adapters_over_one_llm_do_not_see_each_other(first, second):
    """Each gives what it gives over an LLM of its own, before and after the other has been used."""
    features, ids, _, _ = inputs()
    alone = []
    for mechanism in (first, second):
        palm = make_with_bottleneck(mechanism)
        alone.append(palm.logits(ids, features=features))
    shared = [make_with_bottleneck(first), make_with_bottleneck(second)]
    one_llm = shared[0].llm
    shared[1] = PALM(one_llm, shared[1].adapter)
    for _ in range(2):
        for palm, expected in zip(shared, alone):
            assert torch.equal(palm.logits(ids, features=features), expected)


def make_with_bottleneck(mechanism):
    if mechanism == 'bottleneck':
        return make('llama', 'limber_all', bottleneck='parallel', bottleneck_at='attention')
    return make('llama', mechanism)


@pytest.mark.parametrize('llm', ['llama', 'opt'])
@pytest.mark.parametrize('mechanism', ['limber_cls', 'qp_l0', 'started', 'qp_inner', 'everything'])
def test_fast_paths_give_what_the_plain_way_through_the_model_gives(llm, mechanism):
    fast = make(llm, mechanism)
    plain = make(llm, mechanism)
    plain.fast_paths = False
    features, ids, labels, mask = inputs(padding='right')
    gradients = []
    for palm in (fast, plain):
        loss = palm(ids, labels, mask, features=features)
        trained = palm.trained()
        found = torch.autograd.grad(loss, trained.values(), allow_unused=True)
        gradients.append((loss, dict(zip(trained, found))))
    (loss, ours), (plain_loss, expected) = gradients
    assert (loss - plain_loss).abs() <= 1e-5 * plain_loss
    largest = max(g.abs().max() for g in expected.values() if g is not None)
    for name, g in expected.items():
        if g is not None:
            assert (ours[name] - g).abs().max() <= 1e-5 * largest, name
    _, ids, _, mask = inputs(G=2, T=7, padding='left')
    for beams in (1, 3):
        texts = []
        for palm in (fast, plain):
            options = dict(features=features, num_beams=beams, max_new_tokens=6)
            texts.append(palm.generate(ids, mask, **options).tolist())
        assert texts[0] == texts[1]


# ---- routes --------------------------------------------------------------------------------------


def routes(**hyperparameters):
    cfg = AdapterConfig(**hyperparameters)
    return make_routes(cfg, find_target_layers(cfg, LAYERS))


def test_target_layers_may_be_listed():
    assert [r.layer for r in routes(target_layers=(1, 3, -1))] == [1, 3, 5]


@pytest.mark.parametrize('layers', [(3, 1), (1, 1), (6,), (-7,), (2, -4)])
def test_target_layers_that_do_not_exist_or_are_out_of_order_are_refused(layers):
    with pytest.raises(ValueError, match='target_layers'):
        routes(target_layers=layers)


def test_sources_and_connectors_are_spread_evenly_over_the_targets():
    found = routes(n_targets=4, last_target=-1, source_layers=2, n_connectors=2)
    assert [(r.layer, r.sources, r.connector) for r in found] == [
        (2, (0,), 0),
        (3, (0,), 0),
        (4, (1,), 1),
        (5, (1,), 1),
    ]


def test_listed_layers_give_what_the_progression_gives():
    features, ids, _, _ = inputs()
    progression = make('llama', 'qp_inner')
    listed = make('llama', 'qp_inner', target_layers=(2, 3, 4), n_targets=1, last_target=0)
    expected = progression.logits(ids, features=features)
    assert torch.equal(listed.logits(ids, features=features), expected)


def test_a_route_says_what_it_connects():
    cfg = AdapterConfig(connector='linear', source_layers=2, n_targets=2, last_target=3)
    lines = [r.describe(cfg) for r in make_routes(cfg, [2, 3])]
    assert lines[0] == 'encoder 0 h[-2] -> linear 0 -> LLM layer 2'
    assert lines[1] == 'encoder 0 h[-1] -> linear 0 -> LLM layer 3'


# ---- several encoders ----------------------------------------------------------------------------


@pytest.mark.parametrize('connector', ['linear', 'qpmapper', 'r_linear', 'r_rand', 'c_attn'])
def test_tokens_of_two_encoders_stand_side_by_side(connector):
    torch.manual_seed(0)
    cfg = AdapterConfig(connector=connector, adapter_dim=32, mapper_heads=4, n_queries=5)
    widths, grids = (24, 40), ((4, 4), (2, 2))
    adapter = Adapter(cfg, widths, grids, 64, LAYERS).eval()
    sources = [torch.randn(2, 17, 24), torch.randn(2, 5, 40)]
    both = adapter([[sources[0]], [sources[1]]])[0]
    first = adapter.connectors[0](sources[0])
    second = adapter.connectors[1](sources[1])
    assert torch.equal(both, torch.cat([first, second], dim=1))


def test_the_text_reads_both_encoders():
    torch.manual_seed(0)
    adapter = Adapter(AdapterConfig(connector='linear'), (24, 40), ((4, 4), (2, 2)), 64, LAYERS)
    from transformers import AutoModelForCausalLM

    palm = PALM(AutoModelForCausalLM.from_config(LLMS['llama']), adapter)
    with torch.no_grad():
        for parameter in palm.trained().values():
            parameter += 0.1 * torch.randn_like(parameter)
    _, ids, labels, _ = inputs()
    features = (torch.randn(2, 1, 17, 24), torch.randn(2, 1, 5, 40))
    logits = palm.logits(ids, features=features)
    for changed in (0, 1):
        other = list(features)
        other[changed] = other[changed].flip(0)
        assert (palm.logits(ids, features=tuple(other)) - logits).abs().max() > 1e-2
    palm(ids, labels, features=features).backward()
    assert all(p.grad.abs().max() > 0 for p in palm.trained().values())
