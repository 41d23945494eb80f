"""
adapters.py: routes, target layers, connectors, cross-attention, and where training starts.
"""

from dataclasses import asdict, replace

import pytest
import torch
from conftest import ROOT
from tiny_models import (
    D_ENCODER,
    GRID,
    LAYERS,
    MECHANISMS,
    WIDTH,
    either_cross_attention,
    inputs,
    make,
)

from adapters import Adapter, AdapterConfig, find_target_layers, make_routes
from configurator import hyperparameters, run_config_file, script_scope


def make_adapter(**hyperparameters):
    return Adapter(AdapterConfig(**hyperparameters), D_ENCODER, GRID, WIDTH, LAYERS)


def n_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


# ---- hyperparameters -----------------------------------------------------------------------------


def test_the_adapters_hyperparameters_are_those_of_train_py_with_the_same_values():
    of_the_script = hyperparameters(script_scope(ROOT / 'train.py'))
    of_the_adapter = asdict(AdapterConfig())
    assert {name: of_the_script.get(name) for name in of_the_adapter} == of_the_adapter
    for name, value in of_the_adapter.items():
        assert type(of_the_script[name]) is type(value), name


@pytest.mark.parametrize(
    'name, hyperparameters',
    [
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
        ('token_bias', dict(connector='c_attn_flamingo', token_bias=True)),
    ],
)
def test_an_impossible_hyperparameter_is_named(name, hyperparameters):
    with pytest.raises(ValueError, match=name):
        make_adapter(**hyperparameters)


# ---- target layers and routes --------------------------------------------------------------------


def routes(**hyperparameters):
    cfg = AdapterConfig(**hyperparameters)
    return make_routes(cfg, find_target_layers(cfg, LAYERS))


def test_target_layers_may_be_listed():
    assert [route.layer for route in routes(target_layers=(1, 3, -1))] == [1, 3, 5]


@pytest.mark.parametrize('layers', [(3, 1), (1, 1), (6,), (-7,), (2, -4)])
def test_target_layers_that_do_not_exist_or_are_out_of_order_are_refused(layers):
    with pytest.raises(ValueError, match='target_layers'):
        routes(target_layers=layers)


def test_listed_layers_give_what_the_progression_gives():
    features, ids, _, _ = inputs()
    progression = make('llama', 'qp_inner')
    listed = make('llama', 'qp_inner', target_layers=(2, 3, 4), n_targets=1, last_target=0)
    expected = progression.logits(ids, features=features)
    assert torch.equal(listed.logits(ids, features=features), expected)


def test_sources_and_connectors_are_spread_evenly_over_the_target_layers():
    found = routes(n_targets=4, last_target=-1, source_layers=2, n_connectors=2)
    assert [(route.layer, route.sources, route.connector) for route in found] == [
        (2, (0,), 0),
        (3, (0,), 0),
        (4, (1,), 1),
        (5, (1,), 1),
    ]


def test_a_route_describes_what_it_connects():
    cfg = AdapterConfig(connector='linear', source_layers=2, n_targets=2, last_target=3)
    lines = [route.describe(cfg) for route in make_routes(cfg, [2, 3])]
    assert lines == [
        'encoder 0 h[-2] -> linear 0 -> LLM layer 2',
        'encoder 0 h[-1] -> linear 0 -> LLM layer 3',
    ]


@pytest.mark.parametrize('connector', ['linear', 'qpmapper', 'r_linear', 'r_rand', 'c_attn'])
def test_tokens_of_two_encoders_stand_side_by_side(connector):
    torch.manual_seed(0)
    cfg = AdapterConfig(connector=connector, adapter_dim=32, mapper_heads=4, n_queries=5)
    adapter = Adapter(cfg, (24, 40), ((4, 4), (2, 2)), WIDTH, LAYERS).eval()
    states = [torch.randn(2, 17, 24), torch.randn(2, 5, 40)]
    both = adapter([[states[0]], [states[1]]])[0]
    first = adapter.connectors[0](states[0])
    second = adapter.connectors[1](states[1])
    assert torch.equal(both, torch.cat([first, second], dim=1))


# ---- parameter counts ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    'mechanism, millions',
    [
        # the papers'
        ('qp_l0', '17.89'),
        ('mapl', '2.91'),
        ('limber_all', '4.20'),
        ('limber_1', '4.20'),
        ('epalm_original_l', '4.24'),
        ('qp_inner', '18.10'),
        ('r_avgpool', '20.99'),
        ('r_linear', '88.10'),
        ('r_qpmapper', '18.13'),
        ('r_rand', '4.20'),
        # ours
        ('epalm', '4.31'),
        ('epalm_opt', '4.24'),
        ('c_attn', '21.06'),
        ('c_attn_flamingo', '127.08'),
    ],
)
def test_parameter_counts_of_the_configs_are_those_documented(mechanism, millions):
    """With EVA-CLIP-L and LLaMA-7B (OPT-6.7B and ViT-L have the same widths)."""
    values = asdict(AdapterConfig())
    assigned = run_config_file(ROOT / f'config/mechanism/{mechanism}.py', dict(values))
    for name in values:
        values[name] = assigned.get(name, values[name])
    with torch.device('meta'):
        adapter = Adapter(AdapterConfig(**values), 1024, (16, 16), 4096, 32)
    assert f'{n_parameters(adapter) / 1e6:.2f}' == millions


def test_parameters_of_c_attn_are_about_20_million_with_llama_7b_counted_by_hand():
    d = 1024
    d_encoder = 1024
    d_llm = 4096

    def linear(n_in, n_out):
        return n_in * n_out + n_out

    # attention, feed-forward, two LayerNorms
    block = 4 * linear(d, d) + 2 * linear(d, d) + 2 * 2 * d
    connector = linear(d_encoder, d) + block + linear(d, d)
    # and an RMSNorm
    query_mlp = linear(d_llm, d) + linear(d, d) + d
    # queries, keys and values; RMSNorm; output; gate
    cross_attention = query_mlp + 3 * linear(d, d) + d + linear(d, d_llm) + 1
    cfg = AdapterConfig(
        connector='c_attn',
        mapper_layers=1,
        n_targets=12,
        last_target=-4,
        source_layers=4,
        n_prompt=0,
    )
    with torch.device('meta'):
        adapter = Adapter(cfg, d_encoder, (16, 16), d_llm, 32)
    assert n_parameters(adapter) == connector + cross_attention
    assert 20e6 < n_parameters(adapter) < 21e6


def test_cross_attention_of_depalm_is_one_for_all_layers_and_that_of_flamingo_one_for_each():
    shared = make_adapter(**MECHANISMS['c_attn'])
    own = make_adapter(**MECHANISMS['c_attn_flamingo'])
    assert len(shared.cross_attentions) == 1
    assert len(own.cross_attentions) == 3
    of_five_layers = make_adapter(**MECHANISMS['c_attn'] | dict(n_targets=5))
    assert n_parameters(of_five_layers) == n_parameters(shared)
    first, second = own.cross_attentions[:2]
    assert not torch.equal(first.q.weight, second.q.weight)


# ---- initial values ------------------------------------------------------------------------------


@either_cross_attention
def test_a_new_gate_is_closed(mechanism):
    adapter = make_adapter(**MECHANISMS[mechanism])
    assert all(cross.gate.item() == 0 for cross in adapter.cross_attentions)


@pytest.mark.parametrize('std', [0.02, 1.0])
@pytest.mark.parametrize('connector', ['qpmapper', 'qformer', 'r_qpmapper'])
def test_queries_and_prompt_tokens_start_with_the_deviation_of_token_init_std(connector, std):
    torch.manual_seed(0)
    adapter = make_adapter(
        connector=connector, adapter_dim=64, n_queries=300, n_prompt=300, token_init_std=std
    )
    mapper = adapter.connectors[0][1]
    queries = mapper.pool.queries if connector == 'r_qpmapper' else mapper.queries
    for tokens in (queries, adapter.prompt):
        assert 0.97 * std < tokens.std() < 1.03 * std
        assert tokens.mean().abs() < 0.03 * std


# ---- connectors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'connector, n_tokens',
    [
        ('linear', 17),
        ('qpmapper', 5),
        ('qformer', 5),
        ('r_avgpool', 5),
        ('r_maxpool', 5),
        ('r_avgpool_tokens', 5),
        ('r_conv', 5),
        ('r_linear', 5),
        # five for each of four groups, behind CLS
        ('r_qpmapper', 21),
        # all, in evaluation
        ('r_rand', 17),
    ],
)
def test_a_connector_makes_so_many_tokens_of_16_patches_and_cls(connector, n_tokens):
    adapter = make_adapter(connector=connector, adapter_dim=32, mapper_heads=4, n_queries=5).eval()
    tokens = adapter([torch.randn(2, 17, D_ENCODER)])
    assert list(tokens) == [0]
    assert tokens[0].shape == (2, n_tokens, WIDTH)


@pytest.mark.parametrize('connector', ['qpmapper', 'qformer', 'r_linear', 'r_qpmapper', 'c_attn'])
def test_the_input_projection_is_the_first_to_be_drawn(connector):
    """So a seed has the same initial weights in every version."""
    cfg = AdapterConfig(connector=connector, adapter_dim=32, mapper_heads=4, n_queries=5)
    torch.manual_seed(0)
    expected = torch.nn.Linear(D_ENCODER, 32).weight
    torch.manual_seed(0)
    adapter = Adapter(cfg, D_ENCODER, GRID, WIDTH, LAYERS)
    assert torch.equal(adapter.connectors[0][0].weight, expected)


def test_a_bias_for_each_token_counts_the_tokens_of_all_encoders():
    cfg = AdapterConfig(
        adapter_dim=32, mapper_heads=4, n_queries=5, token_bias=True, token_bias_per_token=True
    )
    adapter = Adapter(cfg, (24, 40), ((4, 4), (2, 2)), WIDTH, LAYERS)
    sources = [[torch.randn(2, 17, 24)], [torch.randn(2, 5, 40)]]
    assert adapter(sources)[0].shape == (2, 10, WIDTH)


@pytest.mark.parametrize(
    'unused, words',
    [
        (dict(connector='linear', n_connectors=2), '--n_connectors=1'),
        (dict(token_bias_per_token=True), 'token_bias=True, too'),
        (dict(connector='qformer', learned_queries=False), 'learned_queries=False'),
        (dict(connector='c_attn', mapper_heads=5), 'mapper_heads=5'),
        (dict(connector='c_attn_flamingo', mapper_heads=5), 'mapper_heads=5'),
    ],
)
def test_a_hyperparameter_that_would_have_no_effect_is_refused(unused, words):
    cfg = AdapterConfig(**dict(adapter_dim=32, mapper_heads=4) | unused)
    with pytest.raises(ValueError, match=words):
        Adapter(cfg, D_ENCODER, GRID, WIDTH, LAYERS)


@pytest.mark.parametrize('n_queries', [1, 5])
def test_a_bias_for_each_token_needs_as_many_as_there_are_tokens(n_queries):
    cfg = dict(connector='linear', source_tokens='cls', n_queries=n_queries)
    adapter = make_adapter(**cfg, token_bias=True, token_bias_per_token=True)
    states = [torch.randn(2, 17, D_ENCODER)]
    if n_queries == 1:
        assert adapter(states)[0].shape == (2, 1, WIDTH)
        return
    with pytest.raises(ValueError, match="n_queries=5 .*connector='linear' makes 1 in all"):
        adapter(states)


@pytest.mark.parametrize('connector', ['qpmapper', 'qformer', 'r_qpmapper'])
def test_each_target_may_have_queries_of_its_own(connector):
    cfg = dict(connector=connector, adapter_dim=32, mapper_heads=4, n_queries=5, n_targets=2)
    states = [torch.randn(2, 17, D_ENCODER)]
    for own in (True, False):
        adapter = make_adapter(**cfg, last_target=-1, query_per_target=own).eval()
        first, second = adapter(states).values()
        assert torch.equal(first, second) is not own


def test_a_connector_without_heads_may_have_any_width():
    cfg = AdapterConfig(connector='r_linear', adapter_dim=30, mapper_heads=8)
    Adapter(cfg, D_ENCODER, GRID, WIDTH, LAYERS)


@pytest.mark.parametrize('d_in', [48, None])
def test_bottlenecks_are_in_all_layers_or_in_the_targets(d_in):
    cfg = AdapterConfig(connector='linear', n_targets=2, last_target=-2, bottleneck='parallel')
    everywhere = Adapter(cfg, d_in, (4, 4), 32, n_layers=6)
    cfg = replace(cfg, bottleneck_layers='targets')
    at_targets = Adapter(cfg, d_in, (4, 4), 32, n_layers=6)
    nowhere = Adapter(replace(cfg, bottleneck='none'), d_in, (4, 4), 32, n_layers=6)
    assert [everywhere.bottleneck(i) is not None for i in range(6)] == [True] * 6
    assert [i for i in range(6) if at_targets.bottleneck(i)] == [3, 4]
    assert not any(nowhere.bottleneck(i) for i in range(6))


def test_target_layers_are_whole_numbers():
    cfg = AdapterConfig(target_layers=(1.0, 2.0))
    with pytest.raises(ValueError, match='whole numbers'):
        find_target_layers(cfg, LAYERS)
