"""
A frozen encoder, a frozen language model, and the one idea that joins them:

    the perceptual tokens stand in front of the text and attention is causal, so they never see it;
    all that the text can read of them is, at each LLM layer, their keys and values:
    every mechanism is ONE K/V PREFIX PER LAYER, computed once per image, clip or video.

(Gated cross-attention is the exception: a block of its own in front of a layer reads the tokens.)

    encoder -> adapter -> compute_prefix -> injected(...) -> prefix_attention
    hidden states  tokens   (k, v) per layer   for one call     reads them

The LLM is a stock transformers model: nothing is forked, wrapped or patched, and its own `generate`
(cache, beams, sampling) works unchanged. Beams, and several texts of one input, share its prefix.

Shapes: B inputs, G texts per input, R texts or beams, T text tokens, P prompt tokens, N prefix
tokens, D width, L layers, V vocabulary, H query heads, K key/value heads, C channels of a head.
"""

import contextlib
import inspect
from typing import NamedTuple

import nanopalm.wheels  # noqa: F401  (first: mends torchvision on CPU-only torch)

import torch
import torch.nn as nn
import torch.nn.functional as F
import transformers
from transformers import AttentionInterface, DynamicCache, StaticCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from adapters import tune_biases, tune_norms
from llms import family_of, keep_stream_in_float32

# transformers 5.24 renamed this argument of a decoder and of `generate`; the old name warns there
DECODER_ARGUMENTS = inspect.signature(transformers.LlamaModel.forward).parameters
CACHE = 'cache' if 'cache' in DECODER_ARGUMENTS else 'past_key_values'
# tokens: compiled generation pads prompts to a multiple, so that its graphs serve all batches
PROMPT_STEP = 32
# a score of no weight, whatever the precision
MASKED = torch.finfo(torch.float16).min

# loading a small LLM is no event
transformers.logging.disable_progress_bar()


# ---- what is injected into a layer of the LLM ----------------------------------------------------


class Part(NamedTuple):
    """Keys and values that stand in front of the text at one layer, both (B, K, N, C); mask:
    (B, 1, 1, N), which of them are seen, None for all."""

    keys: torch.Tensor
    values: torch.Tensor
    mask: torch.Tensor = None


class Packing(NamedTuple):
    """Texts of unequal length as one row without pads: in training, the LLM computes nothing that
    no label needs. Only attention must know which text a token belongs to, so only there the texts
    are laid out as padded rows again."""

    # (M,) of each token in the row, its place among the R * T places of R padded texts
    places: torch.Tensor
    R: int
    T: int

    def pack(self, x):
        """(R, T, ...) -> (1, M, ...)."""
        return x.flatten(0, 1).index_select(0, self.places)[None]

    def unpack(self, x):
        """(1, M, ...) -> (R, T, ...), with zeros at the pads."""
        padded = x.new_zeros(self.R * self.T, *x.shape[2:])
        return padded.index_copy(0, self.places, x[0]).unflatten(0, (self.R, self.T))


class Injection(NamedTuple):
    """All that an adapter adds to one LLM layer for the duration of a call."""

    # how the texts of the call are packed, None for padded ones
    packing: Packing = None
    # of Part: the visual tokens', and in generation the prompt's
    prefix: tuple = ()
    # (CrossAttention, keys, values), which stands in front of the layer
    cross_attention: tuple = None
    # eP-ALM's Bottleneck beside a block of the layer
    bottleneck: nn.Module = None


NOTHING = Injection()


@contextlib.contextmanager
def injected(layers, injections):
    """While this runs, each of the LLM's layers reads its Injection; afterwards, whatever happens,
    what it read before."""
    before = [layer.injection for layer in layers]
    for layer, injection in zip(layers, injections):
        set_injection(layer, injection)
    try:
        yield
    finally:
        for layer, injection in zip(layers, before):
            set_injection(layer, injection)


def set_injection(layer, injection):
    # the attention function is handed its own module, not the layer
    layer.injection = injection
    layer.self_attn.injection = injection


def prepare_layer(layer, adapter, family):
    """Registers the hooks by which a layer reads its Injection. Several adapters may share an LLM:
    each hook is registered once, and does nothing where nothing is injected."""
    if not hasattr(layer, 'injection'):
        set_injection(layer, NOTHING)
        layer.self_attn.captured = None
        layer.hooked = set()
    if adapter.cross_attentions and 'cross_attention' not in layer.hooked:
        layer.register_forward_pre_hook(read_cross_attention)
        layer.hooked.add('cross_attention')
    block = adapter.cfg.bottleneck_at
    if adapter.cfg.bottleneck != 'none' and block not in layer.hooked:
        hook_bottleneck(layer, block, *family.block_ends(layer, block))
        layer.hooked.add(block)


def read_cross_attention(layer, args):
    """Forward pre-hook of a layer: its input (B*G, T, D) reads the visual tokens first."""
    if layer.injection.cross_attention is None:
        return args
    cross_attention, keys, values = layer.injection.cross_attention
    packing = layer.injection.packing
    if packing is None:
        x = cross_attention(args[0], keys, values)
    else:
        x = packing.pack(cross_attention(packing.unpack(args[0]), keys, values))
    return x, *args[1:]


def hook_bottleneck(layer, block, first, last):
    """Puts the injected Bottleneck beside a block of the layer, whose input enters by the linear
    layer `first` and whose output leaves by `last`."""

    def active():
        bottleneck = layer.injection.bottleneck
        return bottleneck is not None and bottleneck.block == block

    def keep_input(module, args):
        if active():
            layer.block_input = args[0]

    def add_bottleneck(module, args, output):
        if active():
            x, layer.block_input = layer.block_input, None
            return layer.injection.bottleneck(x, output)

    first.register_forward_pre_hook(keep_input)
    last.register_forward_hook(add_bottleneck)


# ---- attention over [prefix | text] --------------------------------------------------------------


def packed_attention(module, query, key, value, attention_mask, **kwargs):
    """Returns `prefix_attention` of packed texts: query (1, H, M, C), key and value (1, K, M, C) ->
    (1, M, H, C); and None in place of the weights."""
    packing = module.injection.packing
    if packing is None:
        return prefix_attention(module, query, key, value, attention_mask, **kwargs)
    # (1, H, M, C) -> (R, H, T, C)
    rows = [packing.unpack(x.transpose(1, 2)).transpose(1, 2) for x in (query, key, value)]
    # pads stand on the right, where no token sees them
    output, _ = prefix_attention(module, *rows, None, **kwargs)
    return packing.pack(output), None


def prefix_attention(
    module, query, key, value, attention_mask, dropout=0.0, scaling=None, **kwargs
):
    """Returns transformers' attention of the text, (R, T, H, C), over what stands in front of it
    and over itself; and the weights (R, H, T, N+S).

    query (R, H, T, C); key, value (R, K, S, C), S >= T tokens of R texts or beams. The prefix of an
    input is shared, without a copy, by the R/B texts that follow one another. The scores of each
    part are made by themselves and normalised together.
    """
    if kwargs.get('softcap') is not None:
        # a new family whose scores are capped: without this, they would silently not be
        raise NotImplementedError('prefix_attention has no soft cap: apply softcap to its scores')
    if module.captured is not None:
        module.captured.append(Part(key, value))
    if not module.injection.prefix:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    R, H, T, C = query.shape
    K, S = key.shape[1:3]
    if attention_mask is None and T > 1:
        # nothing is padded or cached: the text is causal
        attention_mask = torch.ones(1, 1, T, S, dtype=torch.bool, device=query.device).tril()
    if attention_mask is not None:
        # (R, 1, H/K*T, S): the query heads of a key head are rows of one matrix
        attention_mask = attention_mask[..., :S].repeat(1, 1, H // K, 1)
    query = (query * scaling).reshape(R, K, -1, C)  # (R, K, H/K*T, C)

    parts = [*module.injection.prefix, Part(key, value, attention_mask)]
    scores = []
    for part in parts:
        score = fold(query, len(part.keys)) @ part.keys.transpose(2, 3)
        if part.mask is not None:
            score = score.masked_fill(~part.mask, MASKED)
        scores.append(unfold(score, R))  # (R, K, H/K*T, N)
    weights = torch.cat(scores, dim=3).softmax(3, dtype=torch.float32).to(query.dtype)

    output = 0
    shares = weights.split([score.shape[3] for score in scores], dim=3)
    for share, part in zip(shares, parts):
        output = output + unfold(fold(share, len(part.values)) @ part.values, R)
    output = output.reshape(R, H, T, C).transpose(1, 2)
    return output, weights.view(R, H, T, -1)


def fold(x, B):
    """Returns what R texts have, (R, K, M, C), by the B inputs they belong to, (B, K, R/B*M, C):
    the R/B texts of an input follow one another."""
    return x.unflatten(0, (B, -1)).transpose(1, 2).flatten(2, 3)


def unfold(x, R):
    """Returns the inverse of fold: (B, K, R/B*M, C) -> (R, K, M, C)."""
    return x.unflatten(2, (R // len(x), -1)).transpose(1, 2).flatten(0, 1)


AttentionInterface.register('prefix', packed_attention)
AttentionMaskInterface.register('prefix', sdpa_mask)


@contextlib.contextmanager
def captured_keys_values(layer):
    """While this runs, the layer's attention appends its keys and values to the list."""
    before = layer.self_attn.captured
    captured = []
    layer.self_attn.captured = captured
    try:
        yield captured
    finally:
        layer.self_attn.captured = before


# ---- the model -----------------------------------------------------------------------------------


class PALM(nn.Module):
    """A causal LM of transformers that perceives. llm, encoder: both frozen; encoder may be None
    (cached hidden states, or blind). prefix_start: token ids in front of the perceptual tokens that
    are injected at layer 0. fast_paths: three shortcuts with the same result, see
    `pack_texts`, `fits_in_one_pass` and `move_prompt_into_prefix`; docs/7-performance.md says what
    they save."""

    def __init__(self, llm, adapter, encoder=None, prefix_start=(), fast_paths=True):
        super().__init__()
        cfg = adapter.cfg
        self.family = family_of(llm)
        self.llm = llm.requires_grad_(False)
        self.adapter = adapter
        self.encoder = encoder
        self.fast_paths = fast_paths
        self.compiled = False
        self.compiled_layers = False
        # for the count of FLOPs: of each layer with a prefix (B * N, whether its tokens flow on),
        # and the tokens that went through the layers with the text
        self.prefix_tokens = []
        self.text_tokens = 0
        llm.set_attn_implementation('prefix')
        if llm.dtype != torch.float32:
            keep_stream_in_float32(llm, self.family)
        tune(llm, cfg.llm_norm_tuning, cfg.llm_bias_tuning)
        if encoder is not None:
            tune(encoder, cfg.encoder_norm_tuning, cfg.encoder_bias_tuning)
        for layer in self.decoder.layers:
            prepare_layer(layer, adapter, self.family)
        start = torch.tensor(prefix_start, dtype=torch.long)
        self.register_buffer('prefix_start', start, persistent=False)
        self.train(False)

    @property
    def decoder(self):
        return self.llm.get_decoder()

    def compile_layers(self, **options):
        """Compiles the LLM's layers for training. They share their graphs, which are compiled much
        sooner than the whole model's."""
        self.compiled_layers = True
        for layer in self.decoder.layers:
            layer.compile(**options)

    def train(self, mode=True):
        """The frozen models stay in eval mode, so that their dropout is off, but for the LLM with
        `llm_train_mode`. Dropout of its attention weights (0 in OPT and LLaMA) is never on."""
        super().train(mode)
        self.llm.train(mode and self.adapter.cfg.llm_train_mode)
        if self.encoder is not None:
            self.encoder.eval()
        return self

    def trained(self):
        """Returns {name: parameter} of all that is trained; the frozen models are never in a
        checkpoint."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    # -- from the image to the prefix

    def encode(self, pixels=None, features=None):
        """Returns the encoder's last S hidden states, a list of (B, 1 + patches, D), None for a
        blind model; of several encoders, a list for each.

        pixels: what the encoder takes, (B, 3, H, W) for images; features: cached hidden states
        (B, S, 1 + patches, D). Both are tuples of several encoders."""
        if pixels is not None:
            return self.encoder(pixels)
        if features is None:
            return None
        if isinstance(features, (tuple, list)):
            return [list(states.unbind(1)) for states in features]
        return list(features.unbind(1))

    def visual_tokens(self, sources):
        """Returns {target layer: its tokens (B, N, D)} of the encoder's hidden states, {} for a
        blind model."""
        if sources is None:
            return {}
        tokens = self.adapter(sources)
        if 0 in tokens and len(self.prefix_start) and not self.adapter.cross_attentions:
            start = self.llm.get_input_embeddings()(self.prefix_start)
            start = self.family.to_stream(start).expand(len(tokens[0]), -1, -1)  # (B, n, D)
            tokens[0] = torch.cat([start, tokens[0].to(start.dtype)], dim=1)
        return tokens

    def flow(self, tokens):
        """Returns for each LLM layer whether visual tokens flow on through it to the next: to the
        next target layer they do not (they are replaced there), nor where nothing reads them."""
        if not tokens:
            return [False] * len(self.decoder.layers)
        flows = []
        for i in range(len(self.decoder.layers)):
            read_later = self.adapter.cfg.keep_to_end or i < max(tokens)
            is_last = i + 1 == len(self.decoder.layers)
            flows.append(i >= min(tokens) and read_later and not is_last and i + 1 not in tokens)
        return flows

    def compute_prefix(self, tokens):
        """Returns for each LLM layer the Part that its text reads, None where there is none.

        tokens: {target layer: (B, N, D)}. What is injected at a target layer replaces what flowed
        there. Where the tokens flow on, they go through the whole stock layer; elsewhere their keys
        and values are all that is computed.
        """
        z = None
        prefix = []
        for i, (layer, flows_on) in enumerate(zip(self.decoder.layers, self.flow(tokens))):
            if i in tokens:
                z = tokens[i].float()  # (B, N, D)
            if z is None:
                prefix.append(None)
                continue
            rotary = self.family.rotary(layer, z)
            if flows_on:
                with captured_keys_values(layer) as captured:
                    z = layer(z, attention_mask=self.prefix_mask(z), position_embeddings=rotary)
                keys, values, _ = captured[0]
            else:
                keys, values = self.family.keys_values(layer, z, rotary)
                z = None
            # in half precision rotary positions leave the keys in float32: else each token of the
            # text would cast them anew
            prefix.append(Part(keys.to(values.dtype), values))
        return prefix

    def prefix_mask(self, z):
        """Returns the attention mask among the visual tokens, None for a causal one."""
        if not self.adapter.cfg.noncausal_prefix:
            return None
        return torch.ones(1, 1, z.shape[1], z.shape[1], dtype=torch.bool, device=z.device)

    def injections(self, tokens):
        """Returns the Injection of each LLM layer for visual tokens {target layer: (B, N, D)}."""
        layers = self.decoder.layers
        bottlenecks_only = []
        for i in range(len(layers)):
            bottlenecks_only.append(Injection(bottleneck=self.adapter.bottleneck(i)))
        self.prefix_tokens = []
        if self.adapter.cross_attentions:
            inputs = self.adapter.cross_attention_inputs(tokens)
            return [
                injection._replace(cross_attention=inputs.get(i))
                for i, injection in enumerate(bottlenecks_only)
            ]
        # what flows through a layer passes its bottleneck, too, and reads no prefix
        with injected(layers, bottlenecks_only):
            prefix = self.compute_prefix(tokens)
        injections = []
        for injection, part, flows_on in zip(bottlenecks_only, prefix, self.flow(tokens)):
            if part is not None:
                injection = injection._replace(prefix=(part,))
                B, _, N, _ = part.keys.shape
                self.prefix_tokens.append((B * N, flows_on))
            injections.append(injection)
        return injections

    # -- the text

    def embed(self, input_ids, attention_mask):
        """Returns [prompt tokens | text] as embeddings (B*G, P+T, D), and their attention mask
        (None if there is none) and positions, both (B*G, P+T)."""
        x = self.llm.get_input_embeddings()(input_ids)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        P = self.adapter.cfg.n_prompt
        if P:
            prompt = self.adapter.prompt_tokens().to(x.dtype).expand(len(x), -1, -1)
            x = torch.cat([prompt, x], dim=1)
            mask = F.pad(mask, (P, 0), value=1)
        first = self.family.prompt_start(self.adapter.cfg)
        position_ids = (mask.cumsum(1) - 1 + first).clamp(min=-1).masked_fill(mask == 0, 0)
        return x, None if attention_mask is None else mask, position_ids

    def before_layers(self, input_ids, attention_mask, pixels, features):
        """Returns what enters the LLM's layers: embeddings (B*G, N+P+T, D), their mask and their
        positions (B*G, N+P+T), and injections. N is 0 but in the fast path in one pass."""
        tokens = self.visual_tokens(self.encode(pixels, features))
        x, mask, position_ids = self.embed(input_ids, attention_mask)
        if self.fast_paths and self.fits_in_one_pass(tokens, x):
            injections = self.injections({})
            return *self.tokens_before_text(tokens[0], x, mask, position_ids), injections
        return x, mask, position_ids, self.injections(tokens)

    def through_layers(self, x, mask, position_ids, injections):
        """Returns what lm_head reads, of the shape of the embeddings x."""
        self.text_tokens = x.shape[0] * x.shape[1]
        with injected(self.decoder.layers, injections):
            return self.decoder(
                inputs_embeds=x, attention_mask=mask, position_ids=position_ids, use_cache=False
            ).last_hidden_state

    def hidden(self, input_ids, attention_mask=None, pixels=None, features=None):
        """Returns what lm_head reads at every text token, (B*G, T, D). The G texts of each of the B
        inputs follow one another."""
        inputs = self.before_layers(input_ids, attention_mask, pixels, features)
        return self.through_layers(*inputs)[:, -input_ids.shape[1] :]

    def forward(
        self,
        input_ids,
        labels,
        attention_mask=None,
        pixels=None,
        features=None,
        label_smoothing=0.0,
    ):
        """Returns the mean cross entropy over the labels that are not -100. input_ids, labels,
        attention_mask: (B*G, T), right padded. Only labelled positions reach lm_head: captions are
        short, and the vocabulary is the widest matrix of the model."""
        inputs = self.before_layers(input_ids, attention_mask, pixels, features)
        # train.py leaves labels on the CPU, so that this waits for no GPU
        labels = labels.cpu()
        # position t predicts token t+1, and visual and prompt tokens (N+P) predict nothing
        n_before = inputs[0].shape[1] - labels.shape[1]
        labelled = F.pad(labels[:, 1:] != -100, (n_before, 1))  # (B*G, N+P+T)
        if self.fast_paths and not self.compiled_layers:
            inputs, labelled = self.pack_texts(*inputs, labelled)
        x = self.through_layers(*inputs).flatten(0, 1)
        x = x[labelled.flatten().nonzero().squeeze(1).to(x.device, non_blocking=True)]
        logits = self.llm.get_output_embeddings()(x)  # (labels, V)
        targets = labels[:, 1:][labels[:, 1:] != -100].to(x.device, non_blocking=True)
        return F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)

    def logits(self, input_ids, attention_mask=None, pixels=None, features=None):
        """Returns all logits (B*G, T, V), for tests and analysis."""
        x = self.hidden(input_ids, attention_mask, pixels, features)
        return self.llm.get_output_embeddings()(x)

    # -- fast path of training: no pads

    def pack_texts(self, x, mask, position_ids, injections, labelled):
        """Returns embeddings, mask, positions and injections of the same texts without pads, in one
        row of M tokens, and which of these are labelled, (1, M). labelled: (R, T), on the CPU.

        The last token of a text is left out with the pads behind it, since nothing reads it. Layers
        that are compiled would be compiled anew for each M, so they are given padded texts."""
        # (R, T): whether this position or a later one predicts a label
        read = labelled.flip(1).cumsum(1).flip(1) > 0
        if mask is not None:
            read &= mask.cpu().bool()
        R, T = read.shape
        # wherever the pads were, those of a packing stand on the right
        places = read.cumsum(1) - 1 + T * torch.arange(R)[:, None]
        packing = Packing(places[read].to(x.device, non_blocking=True), R, T)
        injections = [injection._replace(packing=packing) for injection in injections]
        kept = read.flatten().nonzero().squeeze(1).to(x.device, non_blocking=True)
        x = x.flatten(0, 1).index_select(0, kept)[None]
        position_ids = position_ids.expand(R, T).flatten()[kept][None]
        # transformers hands a mask of four dimensions on as it is, and packed_attention reads none
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=x.device)
        return (x, mask, position_ids, injections), labelled[read][None]

    # -- fast path of training: the visual tokens in the text's own pass

    def fits_in_one_pass(self, tokens, x):
        """Whether in training the visual tokens may go first in the text's own pass through the
        LLM, instead of a pass of their own before it. That is the same where they flow from layer 0
        to the top for one text each; and it is faster where they are few, for the LLM's weights are
        then read once."""
        embeddings = self.llm.get_input_embeddings()
        return (
            torch.is_grad_enabled()
            and list(tokens) == [0]
            and len(tokens[0]) == len(x)
            and tokens[0].shape[1] <= x.shape[1]
            and self.adapter.cfg.keep_to_end
            and not self.adapter.cfg.noncausal_prefix
            and not self.adapter.cross_attentions
            and embeddings.embedding_dim == self.llm.config.hidden_size
        )

    def tokens_before_text(self, z, x, mask, position_ids):
        """Returns embeddings, mask and positions of [visual tokens | prompt tokens | text]."""
        B, N = z.shape[:2]
        x = torch.cat([z.to(x.dtype), x], dim=1)
        if mask is not None:
            mask = F.pad(mask, (N, 0), value=1)
        before = self.family.prefix_positions(N, x.device).expand(B, N)
        return x, mask, torch.cat([before, position_ids], dim=1)

    # -- generation

    @torch.no_grad()
    def generate(
        self,
        input_ids,
        attention_mask=None,
        pixels=None,
        features=None,
        num_beams=1,
        max_new_tokens=20,
        do_sample=False,
        repetition_penalty=1.0,
        compile=False,
        **generation,
    ):
        """Returns the new ids (B*G, up to max_new_tokens) that transformers' own `generate` finds
        for prompts (B*G, T), left padded. compile: every new token by torch.compile."""
        layers = self.decoder.layers
        if compile and not self.compiled:
            self.llm.forward = torch.compile(self.llm.forward)
            self.compiled = True
        # encode and prefill: only what is done for every token is worth compiling
        with torch.compiler.set_stance('force_eager'):
            injections = self.injections(self.visual_tokens(self.encode(pixels, features)))
            x, mask, position_ids = self.embed(input_ids, attention_mask)
            if mask is None:
                mask = torch.ones_like(position_ids)
            if self.fast_paths or compile:
                if compile:
                    x, mask, position_ids = pad_prompts(x, mask, position_ids)
                injections = self.move_prompt_into_prefix(injections, x, mask, position_ids)
                x, mask, position_ids = x[:, -1:], mask[:, -1:], position_ids[:, -1:]
        # decode
        if repetition_penalty != 1.0:
            # given as an argument, transformers warns that the prompt is not penalised, which is
            # what we want
            penalty = transformers.RepetitionPenaltyLogitsProcessor(repetition_penalty)
            generation['logits_processor'] = transformers.LogitsProcessorList([penalty])
        if compile:
            # one length for all batches, so that they share their graphs
            generation[CACHE] = FixedCache(self.llm.config, max_cache_len=max_new_tokens)
        stance = torch.compiler.set_stance('default' if compile else 'force_eager')
        with injected(layers, injections), stance:
            return self.llm.generate(
                inputs_embeds=x,
                attention_mask=mask,
                position_ids=position_ids,
                num_beams=num_beams,
                max_new_tokens=max_new_tokens,
                do_sample=do_sample,
                repetition_penalty=1.0,
                **generation,
            )

    def move_prompt_into_prefix(self, injections, x, mask, position_ids):
        """Returns the injections with a second Part in each layer's prefix: all of the prompts
        (B*G, T) but their last tokens. It is a fast path of generation: beams share a prefix, so
        nothing of a prompt is computed, cached or reordered for each of them."""
        if x.shape[1] == 1:
            return injections
        cache = DynamicCache()
        with injected(self.decoder.layers, injections):
            self.decoder(
                inputs_embeds=x[:, :-1],
                attention_mask=mask[:, :-1],
                position_ids=position_ids[:, :-1],
                use_cache=True,
                **{CACHE: cache},
            )
        mask = mask[:, None, None, :-1].bool()
        longer = []
        for injection, kv in zip(injections, cache.layers):
            part = Part(kv.keys.to(kv.values.dtype), kv.values, mask)
            longer.append(injection._replace(prefix=(*injection.prefix, part)))
        return longer


def tune(model, norms, biases):
    """Trains the norms or the biases of a frozen model, or neither. Both change the model itself,
    so that other adapters over it would see it: a model that is tuned already is refused."""
    if not (norms or biases):
        return
    if getattr(model, 'is_tuned', False):
        raise ValueError('its norms or biases are tuned by another adapter: load the model again')
    model.is_tuned = True
    if norms:
        tune_norms(model)
    if biases:
        tune_biases(model)


def pad_prompts(x, mask, position_ids):
    """Returns prompts (B*G, T, D), their mask and positions, padded on the left to whole
    PROMPT_STEPs and their last token."""
    pad = -(x.shape[1] - 1) % PROMPT_STEP
    return F.pad(x, (0, 0, pad, 0)), F.pad(mask, (pad, 0)), F.pad(position_ids, (pad, 0))


class FixedCache(StaticCache):
    """A cache of fixed length for compiled generation. In half precision rotary positions leave
    keys in float32; some releases of transformers make room for the values in the keys' dtype, so
    both have the values'."""

    def update(self, key_states, value_states, *args, **kwargs):
        return super().update(key_states.to(value_states.dtype), value_states, *args, **kwargs)
