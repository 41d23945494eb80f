"""
Every interfacing mechanism of eP-ALM (ICCV 2023) and DePALM (arXiv 2403.13499), read top-down:

    hidden states of the frozen encoder --connector--> tokens of the LLM's width, one set per target layer

A *connector* (LiMBeR's Linear, QPMapper, Q-Former, the resamplers R-*) makes the tokens. The *targets* say at which layers
of the LLM they are given: layer 0 with `keep_to_end` (LiMBeR, MAPL, QP,L0, R-*,L0) or inner layers (eP-ALM, QP,inner).
To change a mechanism, edit its function or class below; to add one, write it and name it in CONNECTORS.

Shapes: B inputs, N tokens, D width. Hidden states are (B, 1+N, D), the encoder's CLS or pooled token first.
Parameter counts in the docstrings are for EVA-CLIP-L (D=1024, 16x16 patches) and LLaMA-7B (d_llm=4096).
"""
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class AdapterConfig:
    """The knobs of every mechanism. train.py takes them all as its own: `--connector=r_linear --reduction=9`."""
    # connector: encoder tokens -> LLM tokens
    connector: str = 'qpmapper'     # a name in CONNECTORS
    adapter_dim: int = 1024         # width of mappers and resamplers, 0 = the LLM's
    activation: str = 'gelu'        # 'gelu' (exact) or 'none', in mappers and between the layers of the output MLP
    out_layers: int = 1             # linear layers from the connector's width to the LLM's
    norm: str = 'rms'               # 'rms' or 'layer', of resampled and of injected tokens
    # mappers (qpmapper, qformer, r_qpmapper)
    n_queries: int = 32             # learned queries, the number of tokens that come out (r_qpmapper: per group)
    mapper_layers: int = 2
    mapper_heads: int = 8
    mapper_dropout: float = 0.1
    learned_queries: bool = True    # False: no queries, the first n_queries outputs are kept
    query_per_target: bool = False  # own queries for every target layer
    # resamplers (r_*)
    reduction: int = 4              # r: patches that become one token
    drop_cls: bool = False
    duplicate_cls: int = 1          # copies of CLS in front of the resampled tokens
    # sources: which hidden states are read
    source_layers: int = 1          # the last n of the encoder
    source_tokens: str = 'all'      # 'all', or 'cls' alone (connector 'linear'; the others read all)
    source_dropout: float = 0.0     # of hidden states in training; not in the papers, for small data
    merge_sources: bool = False     # concatenate the sources along the tokens: every target gets the same
    n_connectors: int = 1           # 1 = shared by all targets; as many as sources = one for each
    # targets: where in the LLM the tokens are given
    n_targets: int = 1
    last_target: int = 0            # layer index, negative counts from the top: -4 is the fourth from the top
    target_stride: int = 1
    keep_to_end: bool = True        # tokens flow on to the top of the LLM; False: they are dropped after last_target
    prefix_start: str = ''          # a text in front of the tokens given at layer 0, such as '<s>': the first token is the LLM's attention sink
    noncausal_prefix: bool = False  # visual tokens see each other in both directions where they flow
    token_norm: bool = False        # normalise the tokens at each target layer
    token_bias: bool = False        # then y * scale + bias at each target layer
    token_bias_per_token: bool = False
    # prompt tuning and what is trained inside the frozen models
    n_prompt: int = 1               # learned tokens in front of the text
    # deviation of the normal that queries and prompt tokens start from; 1 in the papers' code
    token_init_std: float = 0.02
    prompt_mlp: bool = False        # eP-ALM: prompt tokens go through Linear, Tanh, Linear
    prompt_positions: bool = True   # False (eP-ALM): prompt tokens have no position, text starts at 0
    # True, as in the papers' code: the LLM's own dropout is on in training (OPT 0.1, LLaMA none)
    llm_train_mode: bool = False
    llm_bias_tuning: bool = False   # y * scale + bias after every Linear of the LLM
    llm_norm_tuning: bool = False   # the norms of the LLM are trained
    encoder_bias_tuning: bool = False   # the same for the encoder, which then cannot be cached
    encoder_norm_tuning: bool = False
    bottleneck: str = 'none'        # eP-ALM's adapters inside the LLM: 'normal', 'parallel' or 'scaled'
    bottleneck_at: str = 'mlp'      # 'mlp' or 'attention'
    bottleneck_factor: int = 4      # they are d_llm / factor wide


# ---- connectors: hidden states (B, 1+N, D) -> tokens (B, M, d_llm) --------------------------------------------------

def linear(cfg, d_in, d_llm, grid):
    """LiMBeR and eP-ALM (DePALM 3.1): one Linear on every token ('all') or on CLS. (B, M, D) -> (B, M, d_llm).
    4.20M; eP-ALM with 10 prompt tokens 4.24M."""
    return nn.Sequential(*[Cls()] * (cfg.source_tokens == 'cls'), *out_mlp(cfg, d_in, d_llm))


def mapper(kind):
    """QPMapper (DePALM 3.2.1; MAPL with 4 layers of 256) and Q-Former (its ablation): learned queries read the patches in a small
    transformer. (B, 1+N, D) -> (B, n_queries, d_llm). QP,L0 17.9M; QP,inner 18.1M; MAPL 2.9M."""
    def build(cfg, d_in, d_llm, grid):
        d = cfg.adapter_dim or d_llm
        return nn.Sequential(nn.Linear(d_in, d), kind(cfg, d), *out_mlp(cfg, d, d_llm))
    return build


def resampler(pool):
    """R-* (DePALM 3.2.2): groups of r patches -> one token each, CLS in front. (B, 1+N, D) -> (B, 1+N/r, d_llm)."""
    def build(cfg, d_in, d_llm, grid):
        d = cfg.adapter_dim or d_llm
        return nn.Sequential(nn.Linear(d_in, d), Resampler(cfg, d, grid, pool(cfg, d)), *out_mlp(cfg, d, d_llm))
    return build


def r_rand(cfg, d_in, d_llm, grid):
    """R-Rand (DePALM 3.2.2): a random subset of the patches at every training step, all of them in eval; no input
    projection. (B, 1+N, D) -> (B, 1+n, d_llm). 4.2M."""
    return nn.Sequential(RandomPatches(cfg, d_in), *out_mlp(cfg, d_in, d_llm))


def c_attn(cfg, d_in, d_llm, grid):
    """Gated cross-attention (DePALM 3.2.3): all tokens through a small transformer. They are no
    prefix: one CrossAttention in front of every target layer reads them.
    (B, 1+N, D) -> (B, 1+N, adapter_dim). 21.1M: 8.4M here, 12.6M in the CrossAttention."""
    d = cfg.adapter_dim or d_llm
    return nn.Sequential(nn.Linear(d_in, d), TokenMapper(cfg, d), *out_mlp(cfg, d, d))


def c_attn_flamingo(cfg, d_in, d_llm, grid):
    """The same idea closer to Flamingo, in neither paper: one Linear, and a
    FlamingoCrossAttention of its own in front of every target layer.
    (B, 1+N, D) -> (B, 1+N, adapter_dim). 127M with 12 targets."""
    return nn.Sequential(nn.Linear(d_in, cfg.adapter_dim or d_llm))


def out_mlp(cfg, d_in, d_llm):
    """`out_layers` linear layers d_in -> d_llm, the hidden ones d_in wide."""
    layers = []
    for _ in range(cfg.out_layers - 1):
        layers += [nn.Linear(d_in, d_in), make_activation(cfg)]
    return layers + [nn.Linear(d_in, d_llm)]


# ---- mappers --------------------------------------------------------------------------------------------------------

def mapper_blocks(cfg, d, block):
    """`mapper_layers` of torch's post-norm blocks, whose feed-forward is as wide as they are."""
    activation = F.gelu if cfg.activation == 'gelu' else nn.Identity()
    blocks = nn.ModuleList()
    for _ in range(cfg.mapper_layers):
        blocks.append(block(d, cfg.mapper_heads, dim_feedforward=d, dropout=cfg.mapper_dropout,
                            activation=activation, layer_norm_eps=1e-4, batch_first=True))
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
    """[tokens; queries] -> transformer -> the queries' outputs. (B, N, d) -> (B, n, d).
    R-QPMapper (DePALM 3.2.2) is one inside every group (18.1M)."""
    block = nn.TransformerEncoderLayer

    def __init__(self, cfg, d):
        super().__init__()
        self.n = cfg.n_queries
        self.queries = None
        if cfg.learned_queries:
            rows = cfg.n_targets if cfg.query_per_target else 1
            self.queries = nn.Parameter(torch.randn(rows, self.n, d) * cfg.token_init_std)
        self.blocks = mapper_blocks(cfg, d, self.block)

    def forward(self, x, query_row=0):
        if self.queries is not None:
            x = torch.cat([x, self.queries[query_row].expand(x.shape[0], -1, -1)], dim=1)   # (B, N+n, d)
        for block in self.blocks[:-1]:
            x = block(x)
        q, last = x[:, :self.n] if self.queries is None else x[:, -self.n:], self.blocks[-1]        # of the last block, only theirs is read
        q = last.norm1(q + last.dropout1(last.self_attn(q, x, x, need_weights=False)[0]))
        return last.norm2(q + last.dropout2(last.linear2(last.dropout(last.activation(last.linear1(q))))))


class QFormer(QPMapper):
    """Queries -> transformer decoder over the tokens. (B, N, d) -> (B, n, d)."""
    block = nn.TransformerDecoderLayer

    def forward(self, x, query_row=0):
        q = self.queries[query_row].expand(x.shape[0], -1, -1)
        for block in self.blocks:
            q = block(q, x)
        return q


# ---- resamplers: a pool turns groups (B*G, r, d) into (B*G, n, d) ---------------------------------------------------

class RAvgPool(nn.Module):
    """R-AvgPool as the paper's code ran it: averages r neighbouring *channels* of each token, then concatenates the r tokens
    of the group into one of width d. The published numbers are of this one; `RAvgPoolTokens` is what the paper says. 21.0M."""
    pool = staticmethod(F.avg_pool1d)

    def __init__(self, cfg, d):
        super().__init__()
        self.r = cfg.reduction

    def forward(self, x):
        return self.pool(x, self.r).flatten(1).unsqueeze(1)         # (B*G, r, d/r) -> (B*G, 1, d)


class RMaxPool(RAvgPool):
    """R-MaxPool as the paper's code ran it: see RAvgPool."""
    pool = staticmethod(F.max_pool1d)


class RAvgPoolTokens(nn.Module):
    """R-AvgPool as the paper writes it: the mean of the r tokens of a group."""
    def __init__(self, cfg, d):
        super().__init__()

    def forward(self, x):
        return x.mean(1, keepdim=True)


class RConv(nn.Conv1d):
    """R-Conv (ablation): a convolution over the tokens of a group, kernel = stride = r."""

    def __init__(self, cfg, d):
        super().__init__(d, d, kernel_size=cfg.reduction, stride=cfg.reduction)

    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)   # (B*G, d, r) -> (B*G, 1, d)


class RLinear(nn.Linear):
    """R-Linear: one Linear on the r tokens of a group side by side. 88.1M."""

    def __init__(self, cfg, d):
        super().__init__(cfg.reduction * d, d)

    def forward(self, x):
        return super().forward(x.flatten(1)).unsqueeze(1)           # (B*G, r*d) -> (B*G, 1, d)


class Resampler(nn.Module):
    """CLS aside; patches in neighbourhoods of r; the pool on each; CLS back in front; norm. (B, 1+N, d) -> (B, 1+N/r, d)."""

    def __init__(self, cfg, d, grid, pool):
        super().__init__()
        side = math.isqrt(cfg.reduction) if len(grid) == 2 else cfg.reduction
        if len(grid) == 2 and side * side != cfg.reduction or any(n % side for n in grid):
            raise ValueError(f'reduction={cfg.reduction} does not tile the encoder\'s {"x".join(map(str, grid))} patches: '
                             f'choose a {"square " if len(grid) == 2 else ""}number whose side divides the grid')
        self.grid, self.side, self.pool = grid, side, pool
        self.n_cls = 0 if cfg.drop_cls else cfg.duplicate_cls
        self.norm = make_norm(cfg, d)

    def forward(self, x):
        cls, x = x[:, :1], x[:, 1:]
        B, _, d = x.shape
        if len(self.grid) == 2:                                     # (B, H*W, d) -> (B, H/s, W/s, s, s, d)
            H, W, s = *self.grid, self.side
            x = x.view(B, H // s, s, W // s, s, d).transpose(2, 3)
        x = self.pool(x.reshape(-1, self.side ** len(self.grid), d)).reshape(B, -1, d)   # (B*G, r, d) -> (B, G*n, d)
        return self.norm(torch.cat([cls] * self.n_cls + [x], dim=1))


class RandomPatches(nn.Module):
    """CLS and one random, sorted subset of the patches, the same for the whole batch. (B, 1+N, D) -> (B, 1+n, D)."""

    def __init__(self, cfg, d):
        super().__init__()
        self.norm = make_norm(cfg, d)

    def draw(self, n):
        """Sorted indices of the patches to keep: a fraction N(.25, .2) clamped to [1/16, 1/2], with probability .1 the half."""
        fraction = 0.5 if torch.rand(()) < 0.1 else (0.25 + 0.2 * torch.randn(())).clamp(0.0625, 0.5).item()
        return torch.randperm(n)[:round(fraction * n)].sort().values

    def forward(self, x):
        if self.training:
            keep = self.draw(x.shape[1] - 1).to(x.device)
            x = torch.cat([x[:, :1], x[:, 1:][:, keep]], dim=1)
        return self.norm(x)


CONNECTORS = dict(linear=linear, qpmapper=mapper(QPMapper), qformer=mapper(QFormer), c_attn=c_attn,
                  c_attn_flamingo=c_attn_flamingo, r_rand=r_rand,
                  r_avgpool=resampler(RAvgPool), r_maxpool=resampler(RMaxPool),
                  r_avgpool_tokens=resampler(RAvgPoolTokens), r_conv=resampler(RConv),
                  r_linear=resampler(RLinear), r_qpmapper=resampler(QPMapper))


# ---- cross-attention ------------------------------------------------------------------------------------------------

class CrossAttention(nn.Module):
    """x + tanh(gate) * out(norm(attention)), where the text x asks, by q(query_mlp(x)), and the
    visual tokens z answer, by k(z) and v(z) (DePALM 3.2.3): one for all target layers.

    It stands in front of a layer. x (B*G, T, d_llm) are the hidden states of G texts of each of B
    inputs, z (B, N, d) the tokens. A position of x reads itself and z alone: it is causal, and
    neither padding nor a cache changes it. The gate starts at 0, which leaves x as it is. It has
    no dropout, as DePALM's had none in training.
    """
    shared = True

    def __init__(self, cfg, d_llm):
        super().__init__()
        d = cfg.adapter_dim or d_llm
        self.heads = cfg.mapper_heads
        self.query_mlp = nn.Sequential(
            nn.Linear(d_llm, d), make_activation(cfg), nn.Linear(d, d), make_norm(cfg, d))
        self.q = nn.Linear(d, d)
        self.k = nn.Linear(d, d)
        self.v = nn.Linear(d, d)
        self.norm = make_norm(cfg, d)
        self.out = nn.Linear(d, d_llm)
        self.gate = nn.Parameter(torch.zeros(1))

    def keys_values(self, z):
        """Visual tokens (B, N, d) -> keys and values of H heads, both (B, H, N, d/H)."""
        return self.split(self.k(z)), self.split(self.v(z))

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x, keys, values):
        """Hidden states (B*G, T, d_llm), and what `keys_values` made -> the same shape."""
        # the LLM may be in half precision, these weights never are
        q = self.q(self.query_mlp(x.to(self.gate.dtype)))
        # the G texts of an input, as one: (B, H, G*T, d/H), which needs no copy of the keys
        q = self.split(q.view(len(keys), -1, q.shape[-1]))
        y = F.scaled_dot_product_attention(q, keys.to(q.dtype), values.to(q.dtype))
        y = y.transpose(1, 2).reshape(*x.shape[:2], -1)
        return x + (self.gate.tanh() * self.out(self.norm(y))).to(x.dtype)

    def before(self, layer, args):
        """Forward pre-hook of a decoder layer: its input reads `layer.visual`, the keys and
        values of this batch, or None without visual tokens."""
        if layer.visual is None:
            return args
        return self(args[0], *layer.visual), *args[1:]


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


# ---- small parts ----------------------------------------------------------------------------------------------------

class Cls(nn.Module):
    """(B, 1+N, D) -> (B, 1, D)."""
    def forward(self, x):
        return x[:, :1]


def make_activation(cfg):
    return nn.Identity() if cfg.activation == 'none' else nn.GELU()


def make_norm(cfg, d):
    norm = {'rms': nn.RMSNorm, 'layer': nn.LayerNorm}[cfg.norm](d, eps=1e-4)
    norm.register_forward_pre_hook(lambda norm, args: (args[0].to(norm.weight.dtype),))     # under autocast, what comes is in half precision
    return norm


class BiasTuning(nn.Module):
    """y * scale + bias, starting as the identity. shape: (d,), or (N, d) for one per token."""

    def __init__(self, *shape):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, y):
        return y * self.scale + self.bias


def tune_biases(model):
    """BitFit-like tuning of a frozen model: every nn.Linear's output becomes y * scale + bias."""
    for linear in [m for m in model.modules() if isinstance(m, nn.Linear)]:
        linear.bias_tuner = BiasTuning(linear.out_features)
        linear.register_forward_hook(lambda module, args, y: module.bias_tuner(y))


class Bottleneck(nn.Module):
    """eP-ALM's adapter (after MAGMA) beside a block y = f(x) of the LLM: 'normal' y + A(y), 'parallel' y + A(x), 'scaled' y + s A(x)."""

    def __init__(self, cfg, d):
        super().__init__()
        self.down, self.up = nn.Linear(d, d // cfg.bottleneck_factor), nn.Linear(d // cfg.bottleneck_factor, d)
        for layer in (self.down, self.up):
            nn.init.normal_(layer.weight, std=1e-3)
            nn.init.zeros_(layer.bias)
        self.normal = cfg.bottleneck == 'normal'
        self.scale = nn.Parameter(torch.ones(1)) if cfg.bottleneck == 'scaled' else 1.0

    def attach(self, first, last):
        """first, last: the linear layers that a block's input enters and its output leaves by."""
        first.register_forward_pre_hook(lambda module, args: setattr(self, 'x', args[0]))
        last.register_forward_hook(lambda module, args, y: y + self.scale * self.up(F.relu(self.down(y if self.normal else self.x))).view_as(y))


def tune_norms(model):
    """Train the scale (and bias) of every norm of a frozen model, in full precision: small steps would be lost in half."""
    for module in model.modules():
        if 'Norm' in type(module).__name__:
            module.float().requires_grad_(True)


# ---- the adapter ----------------------------------------------------------------------------------------------------

def target_layers(cfg, n_layers):
    """The layers of the LLM that tokens are given at, in ascending order."""
    if min(cfg.n_targets, cfg.target_stride) < 1:
        raise ValueError(f'n_targets={cfg.n_targets}, target_stride={cfg.target_stride}: expected 1 or more')
    if not -n_layers <= cfg.last_target < n_layers:
        raise ValueError(f'last_target={cfg.last_target} is no layer of an LLM of {n_layers}')
    last = cfg.last_target % n_layers
    targets = [last - i * cfg.target_stride for i in reversed(range(cfg.n_targets))]
    if targets[0] < 0:
        raise ValueError(f'n_targets={cfg.n_targets} with target_stride={cfg.target_stride} and last_target={cfg.last_target} reach below '
                         f'layer 0 of an LLM of {n_layers} layers: {targets}')
    return targets


class Adapter(nn.Module):
    """All that is trained: connectors, per-target norms and biases, prompt tokens.

    d_in: width of the encoder's hidden states; grid: its patches, (H, W) or (N,); d_llm, n_layers: of the LLM;
    d_embed: width of its word embeddings (d_llm but for OPT-350m).
    """

    def __init__(self, cfg, d_in, grid, d_llm, n_layers, d_embed=None):
        super().__init__()
        self.cfg = cfg
        self.cross_attentions = nn.ModuleList()
        if d_in:
            self.targets = target_layers(cfg, n_layers)
            if cfg.connector not in CONNECTORS:
                raise ValueError(f'connector={cfg.connector!r} is none of: {", ".join(CONNECTORS)}')
            self.connectors = nn.ModuleList(CONNECTORS[cfg.connector](cfg, d_in, d_llm, grid) for _ in range(cfg.n_connectors))
            if cfg.connector in CROSS_ATTENTIONS:
                self.add_cross_attentions(CROSS_ATTENTIONS[cfg.connector], d_llm)
            if cfg.token_norm:
                self.token_norms = nn.ModuleList(make_norm(cfg, d_llm) for _ in self.targets)
            if cfg.token_bias:
                shape = (cfg.n_queries, d_llm) if cfg.token_bias_per_token else (d_llm,)
                self.token_biases = nn.ModuleList(BiasTuning(*shape) for _ in self.targets)
        else:                                                       # blind: no encoder, the prompt tokens alone are trained
            self.targets = []
        if cfg.bottleneck != 'none':
            self.bottlenecks = nn.ModuleList(Bottleneck(cfg, d_llm) for _ in range(n_layers))
        if cfg.n_prompt:
            d = d_embed or d_llm
            self.prompt = nn.Parameter(torch.randn(cfg.n_prompt, d) * cfg.token_init_std)
            if cfg.prompt_mlp:
                self.prompt_mlp = nn.Sequential(nn.Linear(d, d), nn.Tanh(), nn.Linear(d, d))

    def add_cross_attentions(self, kind, d_llm):
        """kind: CrossAttention, one for all targets, or FlamingoCrossAttention, one for each."""
        for name in ('token_norm', 'token_bias', 'noncausal_prefix'):
            if getattr(self.cfg, name):
                raise ValueError(f'{name}=True is for tokens of a prefix, and those of '
                                 f'connector={self.cfg.connector!r} are none: leave it out')
        for _ in self.targets[:1] if kind.shared else self.targets:
            self.cross_attentions.append(kind(self.cfg, d_llm))

    def cross_attention(self, j):
        """The one in front of the j-th target layer."""
        return self.cross_attentions[0 if self.cross_attentions[0].shared else j]

    def keys_values(self, tokens):
        """{target layer: its tokens (B, N, d)} -> {target layer: (keys, values) of its
        cross-attention}, made once for layers that share both."""
        made, pairs = {}, {}
        for j, (layer, z) in enumerate(tokens.items()):
            cross = self.cross_attention(j)
            if (cross, id(z)) not in made:
                made[cross, id(z)] = cross.keys_values(z)
            pairs[layer] = made[cross, id(z)]
        return pairs

    def forward(self, sources):
        """sources: the last hidden states of the encoder, each (B, 1+N, D). Returns {target layer: (B, M, d_llm)}."""
        cfg = self.cfg
        sources = [F.dropout(x, cfg.source_dropout, self.training) for x in sources[-cfg.source_layers:]]
        if cfg.merge_sources:
            sources = [torch.cat(sources, dim=1)]
        made, tokens = {}, {}
        for j, layer in enumerate(self.targets):
            row = j if cfg.query_per_target else 0
            key = (j * len(sources) // len(self.targets), j * len(self.connectors) // len(self.targets), row)
            if key not in made:                                     # targets with the same source and connector share its tokens
                made[key] = self.connect(self.connectors[key[1]], sources[key[0]], row)
            z = made[key]
            if cfg.token_norm:
                z = self.token_norms[j](z)
            if cfg.token_bias:
                z = self.token_biases[j](z)
            tokens[layer] = z
        return tokens

    def connect(self, connector, x, query_row):
        for module in connector:
            x = module(x, query_row) if isinstance(module, QPMapper) else module(x)
        return x

    def prompt_tokens(self):
        """(P, d_embed)."""
        return self.prompt_mlp(self.prompt) if self.cfg.prompt_mlp else self.prompt
