"""
A tiny random LLM of every family, an adapter of every mechanism over it, and random inputs: no
file, no network.

Weights are so large that a token, an image or a position that is wrong moves the logits a thousand
times the tolerance: nothing trivial passes a test.
"""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Qwen2Config,
    Qwen3Config,
)

from adapters import Adapter, AdapterConfig
from model import PALM

# on tensors this small, a second thread only waits
torch.set_num_threads(1)

VOCABULARY = 90
WIDTH = 64
LAYERS = 6

# of the encoder: the width of its hidden states, how its patches lie, and how many states are kept
D_ENCODER = 24
GRID = (4, 4)
SOURCES = 3


# ---- LLMs ----------------------------------------------------------------------------------------

ROTARY = dict(
    vocab_size=VOCABULARY,
    hidden_size=WIDTH,
    intermediate_size=96,
    num_hidden_layers=LAYERS,
    num_attention_heads=4,
    num_key_value_heads=2,
    initializer_range=0.15,
    pad_token_id=0,
)
OPT = dict(
    vocab_size=VOCABULARY,
    hidden_size=WIDTH,
    ffn_dim=96,
    num_hidden_layers=LAYERS,
    num_attention_heads=4,
    max_position_embeddings=64,
    word_embed_proj_dim=WIDTH,
    init_std=0.15,
    dropout=0.1,
    pad_token_id=0,
)
# as OPT-350m, but untied
POSTNORM = dict(
    do_layer_norm_before=False, word_embed_proj_dim=32, init_std=0.1, tie_word_embeddings=False
)
LLMS = dict(
    llama=LlamaConfig(**ROTARY),
    mistral=MistralConfig(**ROTARY),
    qwen2=Qwen2Config(**ROTARY),
    qwen3=Qwen3Config(**ROTARY, head_dim=32),
    opt=OPTConfig(**OPT),
    opt_postnorm=OPTConfig(**OPT | POSTNORM),
)


# ---- mechanisms ----------------------------------------------------------------------------------

MAPPER = dict(connector='qpmapper', adapter_dim=32, mapper_heads=4, n_queries=5)
INNER = MAPPER | dict(
    source_layers=2, n_targets=3, last_target=-2, keep_to_end=False, token_norm=True
)
CROSS = dict(adapter_dim=32, mapper_heads=4, source_layers=2, n_targets=3, last_target=-1)

# {name: hyperparameters of the adapter}
MECHANISMS = dict(
    limber_all=dict(connector='linear'),
    limber_cls=dict(connector='linear', source_tokens='cls'),
    qp_l0=MAPPER,
    # `make` puts two tokens of text in front of its prefix
    started=MAPPER,
    layer_0_alone=MAPPER | dict(keep_to_end=False),
    r_linear=dict(connector='r_linear', adapter_dim=32),
    qp_inner=INNER,
    strided=INNER
    | dict(n_targets=2, target_stride=2, bottleneck='parallel', bottleneck_layers='targets'),
    inner_to_end=INNER | dict(keep_to_end=True, last_target=-3),
    epalm=dict(
        connector='linear',
        source_tokens='cls',
        source_layers=3,
        n_connectors=3,
        n_targets=3,
        last_target=-2,
        keep_to_end=False,
        prompt_mlp=True,
        prompt_positions=False,
    ),
    noncausal=dict(connector='linear', noncausal_prefix=True),
    everything=INNER
    | dict(
        query_per_target=True,
        token_bias=True,
        token_bias_per_token=True,
        merge_sources=True,
        out_layers=2,
        llm_bias_tuning=True,
        llm_norm_tuning=True,
        bottleneck='scaled',
    ),
    c_attn=CROSS | dict(connector='c_attn', mapper_layers=1),
    c_attn_flamingo=CROSS | dict(connector='c_attn_flamingo'),
)
CROSS_ATTENTIONS = ('c_attn', 'c_attn_flamingo')

# {name: the LLM layers whose text reads a prefix}; cross-attention has none
PREFIX_LAYERS = dict.fromkeys(MECHANISMS, [0, 1, 2, 3, 4, 5]) | dict(
    layer_0_alone=[0],
    qp_inner=[2, 3, 4],
    strided=[2, 3, 4],
    inner_to_end=[1, 2, 3, 4, 5],
    epalm=[2, 3, 4],
    everything=[2, 3, 4],
    c_attn=[],
    c_attn_flamingo=[],
)


# ---- models and inputs ---------------------------------------------------------------------------


def make(llm='llama', mechanism='limber_all', dtype=torch.float32, **hyperparameters):
    """Returns a PALM whose every trained tensor is far from its initial value, which for norms and
    biases is the identity."""
    torch.manual_seed(0)
    model = make_llm(llm, dtype)
    defaults = dict(mapper_dropout=0.0, n_prompt=3)
    cfg = AdapterConfig(**defaults | MECHANISMS[mechanism] | hyperparameters)
    d_embed = model.get_input_embeddings().embedding_dim
    adapter = Adapter(cfg, D_ENCODER, GRID, WIDTH, LAYERS, d_embed)
    palm = PALM(model, adapter, prefix_start=(5, 9) if mechanism == 'started' else ())
    move_from_initial_values(palm)
    return palm


def make_llm(name, dtype=torch.float32):
    llm = AutoModelForCausalLM.from_config(LLMS[name], dtype=torch.float32)
    for parameter in llm.parameters():
        # but not the rotary frequencies, which from_pretrained, too, keeps in float32
        parameter.data = parameter.data.to(dtype)
    llm.generation_config.eos_token_id = None
    return llm


def move_from_initial_values(palm):
    """Adds normal noise to all that is trained, and opens the gates of cross-attention."""
    with torch.no_grad():
        for name, parameter in palm.trained().items():
            parameter += 0.1 * torch.randn_like(parameter)
            if name.endswith('.gate'):
                parameter += 1
        for attention in palm.adapter.cross_attentions:
            # so that what it reads differs from token to token
            attention.k.weight *= 4
            attention.v.weight *= 4


def inputs(B=2, G=1, T=9, padding=None):
    """Returns features (B, S, 1+N, D) of B inputs, and input_ids, labels and attention_mask, each
    (B*G, T), of G texts about each. padding: 'left' or 'right', where every second text is three
    tokens shorter; None: the mask is None."""
    generator = torch.Generator().manual_seed(1)
    n_tokens = 1 + GRID[0] * GRID[1]
    features = torch.randn(B, SOURCES, n_tokens, D_ENCODER, generator=generator)
    input_ids = torch.randint(1, VOCABULARY, (B * G, T), generator=generator)
    mask = torch.ones_like(input_ids)
    if padding == 'left':
        mask[::2, :3] = 0
    if padding == 'right':
        mask[::2, -3:] = 0
    labels = input_ids.masked_fill(mask == 0, -100)
    # an instruction
    labels[:, :4] = -100
    return features, input_ids * mask, labels, mask if padding else None


def assert_close(actual, expected, tolerance=1e-5):
    """Asserts that two tensors are as close as `tolerance` times the largest value of `expected`,
    which must not be zero."""
    assert actual.shape == expected.shape
    assert expected.abs().max() > 0
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


def n_different(texts):
    """Returns how many of the texts, a tensor of ids (R, T), differ."""
    return len(set(map(tuple, texts.tolist())))


# ---- which cases are quick -----------------------------------------------------------------------


def cases(names, all_cases, quick):
    """Returns the decorator that runs a test for every case, a tuple or one value. Those that are
    not in `quick` are marked as slow: `make test-all` runs them."""
    params = []
    for case in all_cases:
        values = case if isinstance(case, tuple) else (case,)
        marks = () if case in quick else pytest.mark.slow
        params.append(pytest.param(*values, marks=marks))
    return pytest.mark.parametrize(names, params)


# LLaMA has rotary positions, OPT learned ones
PAIRS = [(llm, mechanism) for llm in ('llama', 'opt') for mechanism in MECHANISMS]
# tokens that flow from layer 0 to the top, new ones at inner layers, none; all hyperparameters
QUICK_PAIRS = [
    ('llama', 'limber_all'),
    ('llama', 'c_attn'),
    ('opt', 'qp_inner'),
    ('opt', 'everything'),
]

every_mechanism = cases('llm, mechanism', PAIRS, quick=QUICK_PAIRS)
rotary_or_learned = pytest.mark.parametrize('llm', ['llama', 'opt'])
greedy_or_beams = pytest.mark.parametrize('num_beams', [1, 3])
either_cross_attention = pytest.mark.parametrize('mechanism', CROSS_ATTENTIONS)
