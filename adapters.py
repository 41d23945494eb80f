"""
Every interfacing mechanism of eP-ALM (ICCV 2023) and DePALM (arXiv 2403.13499), read top-down:

    hidden states of the frozen encoder --connector--> tokens of the LLM's width --> LLM layers

A *connector* (LiMBeR's Linear, QPMapper, Q-Former, the resamplers R-*) makes the tokens. *Routes*
say which hidden states go through which connector to which layer of the LLM: to layer 0, from
where the tokens flow to the top (LiMBeR, MAPL, QP,L0, R-*,L0), or to inner layers (eP-ALM,
QP,inner). To change a mechanism, edit its function or class below; to add one, write it and name
it in CONNECTORS.

Shapes: B inputs, N tokens, D width. Hidden states are (B, 1+N, D), the encoder's CLS or pooled
token first. Parameter counts in the docstrings are for EVA-CLIP-L (D=1024, 16x16 patches) and
LLaMA-7B (d_llm=4096).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class AdapterConfig:
    """The hyperparameters of every mechanism, as in train.py, which says what each of them means
    and allows. A test compares the two lists."""

    # connector
    connector: str = 'qpmapper'
    adapter_dim: int = 1024
    activation: str = 'gelu'
    out_layers: int = 1
    norm: str = 'rms'
    # mappers
    n_queries: int = 32
    mapper_layers: int = 2
    mapper_heads: int = 8
    mapper_dropout: float = 0.1
    learned_queries: bool = True
    query_per_target: bool = False
    # resamplers
    reduction: int = 4
    drop_cls: bool = False
    duplicate_cls: int = 1
    # sources
    source_layers: int = 1
    source_tokens: str = 'all'
    source_dropout: float = 0.0
    merge_sources: bool = False
    n_connectors: int = 1
    # target layers
    target_layers: tuple = ()
    n_targets: int = 1
    last_target: int = 0
    target_stride: int = 1
    keep_to_end: bool = True
    prefix_start: str = ''
    noncausal_prefix: bool = False
    token_norm: bool = False
    token_bias: bool = False
    token_bias_per_token: bool = False
    # prompt tuning
    n_prompt: int = 1
    token_init_std: float = 0.02
    prompt_mlp: bool = False
    prompt_positions: bool = True
    # inside the frozen backbones
    llm_train_mode: bool = False
    llm_bias_tuning: bool = False
    llm_norm_tuning: bool = False
    encoder_bias_tuning: bool = False
    encoder_norm_tuning: bool = False
    bottleneck: str = 'none'
    bottleneck_at: str = 'mlp'
    bottleneck_factor: int = 4
    bottleneck_layers: str = 'all'


# ---- connectors: hidden states (B, 1+N, D) -> tokens (B, M, d_llm) -------------------------------


class Connector(nn.Sequential):
    """The parts of a connector, one after the other. A mapper among them, also that of a resampler,
    is told which row of its queries to use."""

    def forward(self, x, query_row=0):
        for part in self:
            x = part(x, query_row) if isinstance(part, (QPMapper, Resampler)) else part(x)
        return x


def linear(cfg, d_in, d_llm, grid):
    """Returns LiMBeR's and eP-ALM's connector (DePALM 3.1): one Linear on every token, or on CLS
    with source_tokens='cls'. (B, M, D) -> (B, M, d_llm). 4.20M parameters; eP-ALM with 10 prompt
    tokens 4.24M."""
    layers = out_mlp(cfg, d_in, d_llm)
    if cfg.source_tokens == 'cls':
        layers.insert(0, Cls())
    return Connector(*layers)


def qpmapper(cfg, d_in, d_llm, grid):
    """Returns the QPMapper (DePALM 3.2.1; MAPL with 4 layers of 256): learned queries and patches
    in a small transformer. (B, 1+N, D) -> (B, n_queries, d_llm). QP,L0 17.9M; QP,inner 18.1M;
    MAPL 2.9M."""
    d = cfg.adapter_dim or d_llm
    return Connector(nn.Linear(d_in, d), QPMapper(cfg, d), *out_mlp(cfg, d, d_llm))


def qformer(cfg, d_in, d_llm, grid):
    """Returns the Q-Former of DePALM's ablation: learned queries read the patches by
    cross-attention. (B, 1+N, D) -> (B, n_queries, d_llm)."""
    d = cfg.adapter_dim or d_llm
    return Connector(nn.Linear(d_in, d), QFormer(cfg, d), *out_mlp(cfg, d, d_llm))


def resampler(pool):
    """Returns the function that makes an R-* connector (DePALM 3.2.2) with this pool: groups of r
    patches become one token each, CLS in front. (B, 1+N, D) -> (B, 1+N/r, d_llm)."""

    def connector(cfg, d_in, d_llm, grid):
        d = cfg.adapter_dim or d_llm
        project = nn.Linear(d_in, d)
        groups = Resampler(cfg, d, grid, pool(cfg, d))
        return Connector(project, groups, *out_mlp(cfg, d, d_llm))

    return connector


def r_rand(cfg, d_in, d_llm, grid):
    """Returns R-Rand (DePALM 3.2.2): a random subset of the patches at every training step, all of
    them in evaluation; there is no input projection. (B, 1+N, D) -> (B, 1+n, d_llm). 4.2M."""
    return Connector(RandomPatches(cfg, d_in), *out_mlp(cfg, d_in, d_llm))


def c_attn(cfg, d_in, d_llm, grid):
    """Returns the connector of gated cross-attention (DePALM 3.2.3): all tokens through a small
    transformer. They are no prefix: one CrossAttention in front of every target layer reads them.
    (B, 1+N, D) -> (B, 1+N, adapter_dim). 21.1M: 8.4M here, 12.6M in the CrossAttention."""
    d = cfg.adapter_dim or d_llm
    return Connector(nn.Linear(d_in, d), TokenMapper(cfg, d), *out_mlp(cfg, d, d))


def c_attn_flamingo(cfg, d_in, d_llm, grid):
    """Returns the connector of the same idea closer to Flamingo, which is in neither paper: one
    Linear, and a FlamingoCrossAttention of its own in front of every target layer.
    (B, 1+N, D) -> (B, 1+N, adapter_dim). 127M with 12 targets."""
    return Connector(nn.Linear(d_in, cfg.adapter_dim or d_llm))


def out_mlp(cfg, d_in, d_llm):
    """Returns `out_layers` linear layers d_in -> d_llm, the hidden ones d_in wide, as a list."""
    layers = []
    for _ in range(cfg.out_layers - 1):
        layers += [nn.Linear(d_in, d_in), make_activation(cfg)]
    return [*layers, nn.Linear(d_in, d_llm)]


# ---- mappers -------------------------------------------------------------------------------------


def check_heads(cfg, d):
    """Raises ValueError where the heads do not divide the width d."""
    if d % cfg.mapper_heads:
        raise ValueError(f'mapper_heads={cfg.mapper_heads} does not divide the width {d}')


def mapper_blocks(cfg, d, block):
    """Returns `mapper_layers` of torch's post-norm blocks, whose feed-forward is as wide as they
    are."""
    check_heads(cfg, d)
    activation = F.gelu if cfg.activation == 'gelu' else nn.Identity()
    blocks = nn.ModuleList()
    for _ in range(cfg.mapper_layers):
        blocks.append(
            block(
                d,
                cfg.mapper_heads,
                dim_feedforward=d,
                dropout=cfg.mapper_dropout,
                activation=activation,
                layer_norm_eps=1e-4,
                batch_first=True,
            )
        )
    return blocks


class TokenMapper(nn.Module):
    """A transformer over the visual tokens, none of them a query. (B, N, d) -> (B, N, d)."""

    def __init__(self, cfg, d):
        super().__init__()
        self.blocks = mapper_blocks(cfg, d, nn.TransformerEncoderLayer)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class QPMapper(nn.Module):
    """[tokens; queries] -> transformer -> the outputs of the queries. (B, N, d) -> (B, n, d).
    R-QPMapper (DePALM 3.2.2) is one inside every group (18.1M)."""

    block = nn.TransformerEncoderLayer

    def __init__(self, cfg, d):
        super().__init__()
        self.n = cfg.n_queries
        self.queries = None
        if cfg.learned_queries:
            rows = number_of_targets(cfg) if cfg.query_per_target else 1
            self.queries = nn.Parameter(torch.randn(rows, self.n, d) * cfg.token_init_std)
        self.blocks = mapper_blocks(cfg, d, self.block)

    def forward(self, x, query_row=0):
        if self.queries is not None:
            queries = self.queries[query_row].expand(x.shape[0], -1, -1)
            x = torch.cat([x, queries], dim=1)  # (B, N+n, d)
        for block in self.blocks[:-1]:
            x = block(x)
        # without learned queries, the first n tokens are their outputs
        q = x[:, : self.n] if self.queries is None else x[:, -self.n :]
        return self.last_block(q, x)

    def last_block(self, q, x):
        """Returns what the last block makes of the queries q (B, n, d) among all tokens x. Nothing
        else of that block is read, and leaving it out saves three tenths of the mapper."""
        block = self.blocks[-1]
        attended, _ = block.self_attn(q, x, x, need_weights=False)
        q = block.norm1(q + block.dropout1(attended))
        hidden = block.dropout(block.activation(block.linear1(q)))
        return block.norm2(q + block.dropout2(block.linear2(hidden)))


class QFormer(QPMapper):
    """Queries -> transformer decoder over the tokens. (B, N, d) -> (B, n, d)."""

    block = nn.TransformerDecoderLayer

    def forward(self, x, query_row=0):
        q = self.queries[query_row].expand(x.shape[0], -1, -1)
        for block in self.blocks:
            q = block(q, x)
        return q


# ---- resamplers: a pool turns groups (B*G, r, d) into (B*G, n, d) --------------------------------


class RAvgPool(nn.Module):
    """R-AvgPool as the paper's code ran it: it averages r neighbouring *channels* of each token,
    then concatenates the r tokens of the group into one of width d. The published numbers are of
    this one; `RAvgPoolTokens` is what the paper says. 21.0M."""

    pool = staticmethod(F.avg_pool1d)

    def __init__(self, cfg, d):
        super().__init__()
        self.r = cfg.reduction

    def forward(self, x):
        x = self.pool(x, self.r)  # (B*G, r, d/r)
        return x.flatten(1).unsqueeze(1)  # (B*G, 1, d)


class RMaxPool(RAvgPool):
    """R-MaxPool as the paper's code ran it: see RAvgPool."""

    pool = staticmethod(F.max_pool1d)


class RAvgPoolTokens(nn.Module):
    """R-AvgPool as the paper writes it: the mean of the r tokens of a group."""

    def __init__(self, cfg, d):
        super().__init__()

    def forward(self, x):
        return x.mean(1, keepdim=True)  # (B*G, 1, d)


class RConv(nn.Module):
    """R-Conv (ablation): a convolution over the tokens of a group, kernel = stride = r."""

    def __init__(self, cfg, d):
        super().__init__()
        self.layer = nn.Conv1d(d, d, kernel_size=cfg.reduction, stride=cfg.reduction)

    def forward(self, x):
        return self.layer(x.transpose(1, 2)).transpose(1, 2)  # (B*G, r, d) -> (B*G, 1, d)


class RLinear(nn.Module):
    """R-Linear: one Linear on the r tokens of a group side by side. 88.1M."""

    def __init__(self, cfg, d):
        super().__init__()
        self.layer = nn.Linear(cfg.reduction * d, d)

    def forward(self, x):
        return self.layer(x.flatten(1)).unsqueeze(1)  # (B*G, r*d) -> (B*G, 1, d)


class Resampler(nn.Module):
    """Patches in neighbourhoods of r, the pool on each, CLS back in front, norm.
    (B, 1+N, d) -> (B, 1+N/r, d). grid: the patches lie as (H, W), or as (N,) in a line."""

    def __init__(self, cfg, d, grid, pool):
        super().__init__()
        self.grid = grid
        self.side = group_side(cfg.reduction, grid)
        self.pool = pool
        self.n_cls = 0 if cfg.drop_cls else cfg.duplicate_cls
        self.norm = make_norm(cfg, d)

    def forward(self, x, query_row=0):
        cls = x[:, :1]
        patches = self.groups(x[:, 1:])  # (B*G, r, d)
        row = (query_row,) if isinstance(self.pool, QPMapper) else ()
        tokens = self.pool(patches, *row)  # (B*G, n, d)
        tokens = tokens.reshape(len(x), -1, x.shape[2])  # (B, G*n, d)
        return self.norm(torch.cat([cls] * self.n_cls + [tokens], dim=1))

    def groups(self, x):
        """Returns the patches (B, N, d) by neighbourhood, (B*G, r, d)."""
        B, _, d = x.shape
        side = self.side
        if len(self.grid) == 1:
            return x.reshape(-1, side, d)
        H, W = self.grid
        x = x.view(B, H // side, side, W // side, side, d)
        x = x.transpose(2, 3)  # (B, H/s, W/s, s, s, d)
        return x.reshape(-1, side * side, d)


def group_side(reduction, grid):
    """Returns the side of a neighbourhood of r patches: the root of r on a plane, r in a line.
    Raises ValueError where neighbourhoods do not tile the grid."""
    if len(grid) == 1:
        side = reduction
        fits = grid[0] % side == 0
    else:
        side = math.isqrt(reduction)
        fits = side * side == reduction and all(n % side == 0 for n in grid)
    if not fits:
        kind = 'square number' if len(grid) == 2 else 'number'
        size = 'x'.join(map(str, grid))
        raise ValueError(
            f"reduction={reduction} does not tile the encoder's {size} patches: "
            f'choose a {kind} whose side divides the grid'
        )
    return side


class RandomPatches(nn.Module):
    """CLS and one random, sorted subset of the patches, the same for the whole batch.
    (B, 1+N, D) -> (B, 1+n, D)."""

    def __init__(self, cfg, d):
        super().__init__()
        self.norm = make_norm(cfg, d)

    def draw(self, n):
        """Returns the sorted indices of the patches to keep: a fraction drawn from N(.25, .2),
        clamped to [1/16, 1/2], or with probability .1 the half of them."""
        if torch.rand(()) < 0.1:
            fraction = 0.5
        else:
            fraction = (0.25 + 0.2 * torch.randn(())).clamp(0.0625, 0.5).item()
        return torch.randperm(n)[: round(fraction * n)].sort().values

    def forward(self, x):
        if self.training:
            keep = self.draw(x.shape[1] - 1).to(x.device)
            x = torch.cat([x[:, :1], x[:, 1:][:, keep]], dim=1)
        return self.norm(x)


# the one list of connectors: a name of --connector, and the function that makes it
CONNECTORS = dict(
    linear=linear,
    qpmapper=qpmapper,
    qformer=qformer,
    r_avgpool=resampler(RAvgPool),
    r_maxpool=resampler(RMaxPool),
    r_avgpool_tokens=resampler(RAvgPoolTokens),
    r_conv=resampler(RConv),
    r_linear=resampler(RLinear),
    r_qpmapper=resampler(QPMapper),
    r_rand=r_rand,
    c_attn=c_attn,
    c_attn_flamingo=c_attn_flamingo,
)


# ---- cross-attention -----------------------------------------------------------------------------


class CrossAttention(nn.Module):
    """x + tanh(gate) * out(norm(attention)), where the queries q(query_mlp(x)) come from the text
    x, keys k(z) and values v(z) from the visual tokens z (DePALM 3.2.3): one for all target layers.

    It stands in front of a layer. x (B*G, T, d_llm) are the hidden states of G texts of each of B
    inputs, z (B, N, d) the tokens. A position of x reads itself and z alone: it is causal, and
    neither padding nor a cache changes it. The gate starts at 0, which leaves x as it is. It has
    no dropout, as DePALM's had none in training.
    """

    shared = True

    def __init__(self, cfg, d_llm):
        super().__init__()
        d = cfg.adapter_dim or d_llm
        check_heads(cfg, d)
        self.heads = cfg.mapper_heads
        self.query_mlp = nn.Sequential(
            nn.Linear(d_llm, d), make_activation(cfg), nn.Linear(d, d), make_norm(cfg, d)
        )
        self.q = nn.Linear(d, d)
        self.k = nn.Linear(d, d)
        self.v = nn.Linear(d, d)
        self.norm = make_norm(cfg, d)
        self.out = nn.Linear(d, d_llm)
        self.gate = nn.Parameter(torch.zeros(1))

    def keys_values(self, z):
        """Returns the keys and values of H heads, both (B, H, N, d/H), of tokens (B, N, d)."""
        return self.split(self.k(z)), self.split(self.v(z))

    def split(self, x):
        """(B, N, d) -> (B, H, N, d/H)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x, keys, values):
        """Returns hidden states like x (B*G, T, d_llm); keys, values as from `keys_values`."""
        # the LLM may be in half precision, these weights never are
        q = self.q(self.query_mlp(x.to(self.gate.dtype)))
        # the G texts of an input, as one: (B, H, G*T, d/H), which needs no copy of the keys
        q = self.split(q.view(len(keys), -1, q.shape[-1]))
        y = F.scaled_dot_product_attention(q, keys.to(q.dtype), values.to(q.dtype))
        y = y.transpose(1, 2).reshape(*x.shape[:2], -1)
        return x + (self.gate.tanh() * self.out(self.norm(y))).to(x.dtype)


class FlamingoCrossAttention(CrossAttention):
    """As in Flamingo, a norm in front of the query and none on the output (and without Flamingo's
    gated feed-forward): one for each target layer."""

    shared = False

    def __init__(self, cfg, d_llm):
        super().__init__(cfg, d_llm)
        self.query_mlp = make_norm(cfg, d_llm)
        self.q = nn.Linear(d_llm, cfg.adapter_dim or d_llm)
        self.norm = nn.Identity()


# connectors whose tokens are read by cross-attention; those of all others are a prefix
CROSS_ATTENTIONS = dict(c_attn=CrossAttention, c_attn_flamingo=FlamingoCrossAttention)


# ---- small parts ---------------------------------------------------------------------------------


class Cls(nn.Module):
    """(B, 1+N, D) -> (B, 1, D)."""

    def forward(self, x):
        return x[:, :1]


def make_activation(cfg):
    return nn.Identity() if cfg.activation == 'none' else nn.GELU()


def make_norm(cfg, d):
    kind = {'rms': nn.RMSNorm, 'layer': nn.LayerNorm}[cfg.norm]
    norm = kind(d, eps=1e-4)
    # under autocast the input is in half precision, the norm's weights are in float32
    norm.register_forward_pre_hook(to_dtype_of_weight)
    return norm


def to_dtype_of_weight(norm, args):
    """Forward pre-hook."""
    return (args[0].to(norm.weight.dtype),)


class BiasTuning(nn.Module):
    """y * scale + bias, which starts as the identity. shape: (d,), or (N, d) for one per token."""

    def __init__(self, *shape):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, y):
        return y * self.scale + self.bias


def tune_biases(model):
    """Trains a frozen model in the way of BitFit: the output of every nn.Linear becomes
    y * scale + bias."""
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    for module in linears:
        module.bias_tuner = BiasTuning(module.out_features)
        module.register_forward_hook(apply_bias_tuner)


def apply_bias_tuner(module, args, y):
    """Forward hook."""
    return module.bias_tuner(y)


def tune_norms(model):
    """Trains the scale (and bias) of every norm of a frozen model, in full precision: small steps
    would be lost in half."""
    for module in model.modules():
        if 'Norm' in type(module).__name__:
            module.float().requires_grad_(True)


class Bottleneck(nn.Module):
    """eP-ALM's adapter (after MAGMA) beside a block y = f(x) of the LLM: 'normal' y + A(y),
    'parallel' y + A(x), 'scaled' y + s A(x)."""

    def __init__(self, cfg, d):
        super().__init__()
        self.block = cfg.bottleneck_at
        self.down = nn.Linear(d, d // cfg.bottleneck_factor)
        self.up = nn.Linear(d // cfg.bottleneck_factor, d)
        for layer in (self.down, self.up):
            nn.init.normal_(layer.weight, std=1e-3)
            nn.init.zeros_(layer.bias)
        self.reads_output = cfg.bottleneck == 'normal'
        self.scale = nn.Parameter(torch.ones(1)) if cfg.bottleneck == 'scaled' else 1.0

    def forward(self, x, y):
        """Returns what the block's output y becomes, of its shape; x: the block's input."""
        h = y if self.reads_output else x
        return y + self.scale * self.up(F.relu(self.down(h))).view_as(y)


# ---- routes: which hidden states go through which connector to which layer -----------------------


@dataclass(frozen=True)
class Route:
    """One way from the encoder to a layer of the LLM."""

    layer: int  # of the LLM, where the tokens are injected
    encoder: int  # of several encoders, which one
    sources: tuple  # its hidden states that are read; several are concatenated along the tokens
    connector: int  # index in Adapter.connectors
    query_row: int  # of a mapper's queries

    def describe(self, cfg):
        """Returns the line that is printed at the start of a training."""
        states = ', '.join(f'h[{i - cfg.source_layers}]' for i in self.sources)
        queries = f', queries {self.query_row}' if cfg.query_per_target else ''
        return (
            f'encoder {self.encoder} {states} -> {cfg.connector} {self.connector}{queries} '
            f'-> LLM layer {self.layer}'
        )


def number_of_targets(cfg):
    return len(cfg.target_layers) or cfg.n_targets


def find_target_layers(cfg, n_layers):
    """Returns the layers of an LLM of n_layers where tokens are injected, in ascending order:
    `target_layers`, or `n_targets` of them that end with `last_target`. Raises ValueError for
    layers that do not exist."""
    if cfg.target_layers:
        if any(type(layer) is not int for layer in cfg.target_layers):
            raise ValueError(f'target_layers={cfg.target_layers}: expected whole numbers')
        layers = [layer % n_layers for layer in cfg.target_layers if -n_layers <= layer < n_layers]
        if len(layers) < len(cfg.target_layers) or layers != sorted(set(layers)):
            raise ValueError(
                f'target_layers={cfg.target_layers}: expected layers of an LLM of {n_layers} in '
                f'ascending order, each once; negative ones count from the top'
            )
        return layers
    if min(cfg.n_targets, cfg.target_stride) < 1:
        raise ValueError(
            f'n_targets={cfg.n_targets}, target_stride={cfg.target_stride}: expected 1 or more'
        )
    if not -n_layers <= cfg.last_target < n_layers:
        raise ValueError(
            f'last_target={cfg.last_target}: there is no such layer in an LLM of {n_layers}'
        )
    last = cfg.last_target % n_layers
    first = last - (cfg.n_targets - 1) * cfg.target_stride
    layers = list(range(first, last + 1, cfg.target_stride))
    if first < 0:
        raise ValueError(
            f'n_targets={cfg.n_targets} with target_stride={cfg.target_stride} and '
            f'last_target={cfg.last_target} reach below layer 0 of an LLM of {n_layers} layers: '
            f'{layers}'
        )
    return layers


def find_bottleneck_layers(cfg, n_layers):
    """Returns the layers of an LLM of n_layers that have a Bottleneck. A blind model has them where
    the model that it is compared with has them."""
    if cfg.bottleneck == 'none':
        return []
    if cfg.bottleneck_layers == 'targets':
        return find_target_layers(cfg, n_layers)
    return list(range(n_layers))


def make_routes(cfg, layer_ids, n_encoders=1):
    """Returns the routes to these layers. The sources and the connectors are spread evenly over
    the targets: with as many sources as targets, the j-th target reads the j-th source."""
    n_sources = 1 if cfg.merge_sources else cfg.source_layers
    routes = []
    for j, layer in enumerate(layer_ids):
        if cfg.merge_sources:
            sources = tuple(range(cfg.source_layers))
        else:
            sources = (j * n_sources // len(layer_ids),)
        connector = j * cfg.n_connectors // len(layer_ids)
        query_row = j if cfg.query_per_target else 0
        for encoder in range(n_encoders):
            # each encoder has connectors of its own
            index = encoder * cfg.n_connectors + connector
            routes.append(Route(layer, encoder, sources, index, query_row))
    return routes


# ---- the adapter ---------------------------------------------------------------------------------


def check_connector(cfg, n_targets):
    """Raises ValueError for a connector that does not exist, and for hyperparameters that it would
    leave unused."""
    if cfg.connector not in CONNECTORS:
        raise ValueError(f'connector={cfg.connector!r}: expected one of {", ".join(CONNECTORS)}')
    if cfg.n_connectors > n_targets:
        raise ValueError(
            f'n_connectors={cfg.n_connectors}: expected no more than there are target layers, '
            f'{n_targets}; --n_connectors=1 is one that all of them share'
        )
    if cfg.token_bias_per_token and not cfg.token_bias:
        raise ValueError('token_bias_per_token=True: expected token_bias=True, too')
    if cfg.connector == 'qformer' and not cfg.learned_queries:
        raise ValueError(
            "learned_queries=False: connector='qformer' has nothing but its queries to begin with"
        )


class Adapter(nn.Module):
    """All that is trained: connectors, norms and biases of the target layers, prompt tokens.

    d_in: width of the encoder's hidden states, None for a blind model; grid: how its patches lie,
    (H, W) or (N,); of several encoders, both are tuples with an entry for each. d_llm, n_layers: of
    the LLM; d_embed: width of its word embeddings (d_llm but for OPT-350m).
    """

    def __init__(self, cfg, d_in, grid, d_llm, n_layers, d_embed=None):
        super().__init__()
        self.cfg = cfg
        self.targets = []
        self.routes = []
        self.cross_attentions = nn.ModuleList()
        # of each layer that has one
        self.bottlenecks = nn.ModuleDict()
        # without an encoder there is nothing to route: the prompt tokens alone are trained
        if d_in:
            self.add_connectors(d_in, grid, d_llm, n_layers)
        for layer in find_bottleneck_layers(cfg, n_layers):
            self.bottlenecks[str(layer)] = Bottleneck(cfg, d_llm)
        if cfg.n_prompt:
            d = d_embed or d_llm
            self.prompt = nn.Parameter(torch.randn(cfg.n_prompt, d) * cfg.token_init_std)
            if cfg.prompt_mlp:
                self.prompt_mlp = nn.Sequential(nn.Linear(d, d), nn.Tanh(), nn.Linear(d, d))

    def add_connectors(self, d_in, grid, d_llm, n_layers):
        cfg = self.cfg
        self.targets = find_target_layers(cfg, n_layers)
        check_connector(cfg, len(self.targets))
        if isinstance(d_in, int):
            d_in = (d_in,)
            grid = (grid,)
        self.routes = make_routes(cfg, self.targets, n_encoders=len(d_in))
        self.connectors = nn.ModuleList()
        for width, patches in zip(d_in, grid):
            for _ in range(cfg.n_connectors):
                self.connectors.append(CONNECTORS[cfg.connector](cfg, width, d_llm, patches))
        if cfg.connector in CROSS_ATTENTIONS:
            self.add_cross_attentions(CROSS_ATTENTIONS[cfg.connector], d_llm)
        if cfg.token_norm:
            self.token_norms = nn.ModuleList(make_norm(cfg, d_llm) for _ in self.targets)
        if cfg.token_bias:
            # of several encoders, the tokens stand side by side
            n_tokens = cfg.n_queries * len(d_in)
            shape = (n_tokens, d_llm) if cfg.token_bias_per_token else (d_llm,)
            self.token_biases = nn.ModuleList(BiasTuning(*shape) for _ in self.targets)

    def add_cross_attentions(self, kind, d_llm):
        """kind: CrossAttention, one for all targets, or FlamingoCrossAttention, one for each."""
        for name in ('token_norm', 'token_bias', 'noncausal_prefix'):
            if getattr(self.cfg, name):
                raise ValueError(
                    f'{name}=True changes the tokens of a prefix, and '
                    f'connector={self.cfg.connector!r} has no prefix: leave it out'
                )
        for _ in self.targets[:1] if kind.shared else self.targets:
            self.cross_attentions.append(kind(self.cfg, d_llm))

    def forward(self, sources):
        """Returns {target layer: its tokens (B, M, d_llm)}.

        sources: the last hidden states of the encoder, each (B, 1+N, D); of several encoders, a
        list of such lists."""
        cfg = self.cfg
        if torch.is_tensor(sources[0]):
            sources = [sources]
        sources = [[self.drop(x) for x in states[-cfg.source_layers :]] for states in sources]
        outputs = {}
        tokens = {}
        for route in self.routes:
            # targets that share connector, source and queries share their tokens, too
            key = (route.connector, route.sources, route.query_row)
            if key not in outputs:
                states = [sources[route.encoder][i] for i in route.sources]
                x = states[0] if len(states) == 1 else torch.cat(states, dim=1)
                outputs[key] = self.connectors[route.connector](x, route.query_row)
            # the tokens of several encoders stand side by side
            tokens.setdefault(route.layer, []).append(outputs[key])
        return {layer: self.at_target(j, parts) for j, (layer, parts) in enumerate(tokens.items())}

    def drop(self, x):
        return F.dropout(x, self.cfg.source_dropout, self.training)

    def at_target(self, j, parts):
        """Returns the tokens of the j-th target layer: those of each encoder side by side, through
        the layer's own norm and bias."""
        z = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        if self.cfg.token_norm:
            z = self.token_norms[j](z)
        if self.cfg.token_bias:
            bias = self.token_biases[j]
            if self.cfg.token_bias_per_token and len(bias.scale) != z.shape[1]:
                raise ValueError(
                    f'token_bias_per_token=True is for n_queries={self.cfg.n_queries} tokens of an '
                    f'encoder, and connector={self.cfg.connector!r} makes {z.shape[1]} in all'
                )
            z = bias(z)
        return z

    def cross_attention(self, j):
        """Returns the one in front of the j-th target layer."""
        return self.cross_attentions[0 if self.cross_attentions[0].shared else j]

    def cross_attention_inputs(self, tokens):
        """Returns {target layer: (its CrossAttention, keys, values)} of {target layer: its tokens
        (B, N, d)}. Layers that share tokens and CrossAttention share keys and values, too."""
        inputs = {}
        made = {}
        for j, (layer, z) in enumerate(tokens.items()):
            cross = self.cross_attention(j)
            if (cross, id(z)) not in made:
                made[cross, id(z)] = cross.keys_values(z)
            inputs[layer] = (cross, *made[cross, id(z)])
        return inputs

    def bottleneck(self, layer):
        """Returns the Bottleneck in an LLM layer, None where there is none."""
        return self.bottlenecks[str(layer)] if str(layer) in self.bottlenecks else None

    def prompt_tokens(self):
        """Returns the trained prompt tokens, (P, d_embed)."""
        return self.prompt_mlp(self.prompt) if self.cfg.prompt_mlp else self.prompt
