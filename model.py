"""
A frozen encoder, a frozen language model, and the one idea that joins them:

    the perceptual tokens stand in front of the text and attention is causal, so they never see the text;
    all that the text can read of them is, at each LLM layer, their keys and values:
    every mechanism is ONE K/V PREFIX PER LAYER, computed once per image, clip or video.

`PALM.prefix` computes it, `prefix_attention` reads it. The LLM is a stock transformers model: nothing is forked, wrapped or
patched, and its own `generate` (cache, beams, sampling) works unchanged. Beams, and several texts of one input, share
its prefix. Rotary positions: the prefix sits at -N..-1 in every layer, text starts at 0.

Shapes: B inputs, G texts per input, R texts or beams, T text tokens, P prompt tokens, N prefix tokens, D width, L layers, V vocabulary,
H query heads, K key/value heads, C channels of a head.
"""
import inspect

import nanopalm.wheels  # noqa: F401  (first: mends torchvision on CPU-only torch)

import torch
import torch.nn as nn
import torch.nn.functional as F
import transformers
from transformers import (
    AttentionInterface,
    DynamicCache,
    StaticCache,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from adapters import tune_biases, tune_norms
from llms import (
    LLM_FAMILIES,
    block_ends,
    keep_stream_in_float32,
    keys_values,
    no_embedding_below_zero,
)

# transformers 5.24 renamed this argument of a decoder and of `generate`; the old name warns there, and later goes
CACHE = 'cache' if 'cache' in inspect.signature(transformers.LlamaModel.forward).parameters else 'past_key_values'
PROMPT_STEP = 32                                                # tokens: compiled generation pads prompts to a multiple
NEVER = torch.finfo(torch.float16).min                          # a score of no weight, whatever the precision


# ---- attention over [prefix | text] ---------------------------------------------------------------------------------

def prefix_attention(module, query, key, value, attention_mask, dropout=0.0, scaling=None, **kwargs):
    """transformers' attention with what stands in front of the text.

    query (R, H, T, C); key, value (R, K, S, C), S >= T tokens of R texts or beams. `module.prefix`: a list of (k, v, seen), k and v (B, K, N, C),
    shared without a copy by the next R/B texts each; seen (B, 1, 1, N), None = all. Scores are made part by part and normalised together.
    """
    if getattr(module, 'kept', None) is not None:               # `PALM.prefix` asks for them
        module.kept[:] = key, value
    if not getattr(module, 'prefix', None):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
    R, H, T, C = query.shape
    K, S = key.shape[1:3]
    if attention_mask is None and T > 1:                                                    # nothing padded nor cached: causal
        attention_mask = torch.ones(1, 1, T, S, dtype=torch.bool, device=query.device).tril()
    if attention_mask is not None:
        attention_mask = attention_mask[..., :S].repeat(1, 1, H // K, 1)                    # (R, 1, H/K*T, S)
    query = (query * scaling).reshape(R, K, -1, C)                                          # (R, K, H/K*T, C)
    parts = [*module.prefix, (key, value, attention_mask)]
    scores = []                                                                             # of each part (R, K, H/K*T, N)
    for k, _, seen in parts:
        score = fold(query, len(k)) @ k.transpose(2, 3)
        scores.append(unfold(score if seen is None else score.masked_fill(~seen, NEVER), R))
    weights = torch.cat(scores, dim=3).softmax(3, dtype=torch.float32).to(query.dtype)
    shares = weights.split([score.shape[3] for score in scores], dim=3)
    y = sum(unfold(fold(share, len(v)) @ v, R) for share, (_, v, _) in zip(shares, parts))
    return y.reshape(R, H, T, C).transpose(1, 2), weights.view(R, H, T, -1)                 # (R, T, H, C)


def fold(x, B):
    """(R, K, M, C) of texts -> (B, K, R/B*M, C) of the inputs they belong to, R/B texts that follow one another each."""
    return x.unflatten(0, (B, -1)).transpose(1, 2).flatten(2, 3)


def unfold(x, R):
    """(B, K, R/B*M, C) -> (R, K, M, C): the inverse of fold."""
    return x.unflatten(2, (R // len(x), -1)).transpose(1, 2).flatten(0, 1)


transformers.logging.disable_progress_bar()                    # loading a small LLM is no event
AttentionInterface.register('prefix', prefix_attention)
AttentionMaskInterface.register('prefix', sdpa_mask)


# ---- the model ------------------------------------------------------------------------------------------------------

class PALM(nn.Module):
    """encoder: `Encoder` or None (cached features, or blind); llm: a causal LM of transformers; both frozen. prefix_start: token ids
    in front of the perceptual tokens that are given at layer 0."""

    def __init__(self, llm, adapter, encoder=None, prefix_start=()):
        super().__init__()
        if llm.config.model_type not in LLM_FAMILIES:
            raise ValueError(f'the layers of {llm.config.model_type!r} models cannot be given a prefix; known: {", ".join(LLM_FAMILIES)}')
        llm.set_attn_implementation('prefix')
        cfg = adapter.cfg
        self.llm, self.adapter, self.encoder = llm.requires_grad_(False), adapter, encoder
        if llm.dtype != torch.float32:
            keep_stream_in_float32(llm)
        for model, norms, biases in ((llm, cfg.llm_norm_tuning, cfg.llm_bias_tuning), (encoder, cfg.encoder_norm_tuning, cfg.encoder_bias_tuning)):
            if model is not None and norms:
                tune_norms(model)
            if model is not None and biases:
                tune_biases(model)
        if adapter.cross_attentions:
            for j, i in enumerate(adapter.targets):
                layer = self.decoder.layers[i]
                layer.visual = None
                layer.register_forward_pre_hook(adapter.cross_attention(j).before)
        if cfg.bottleneck != 'none':
            for bottleneck, layer in zip(adapter.bottlenecks, self.decoder.layers):
                bottleneck.attach(*block_ends(layer, cfg.bottleneck_at))
        self.unplaced_prompt = llm.config.model_type == 'opt' and not cfg.prompt_positions
        if llm.config.model_type == 'opt':
            self.decoder.embed_positions.register_forward_hook(no_embedding_below_zero, with_kwargs=True)
        self.prefix_tokens, self.compiled = [], False
        self.register_buffer('prefix_start', torch.tensor(prefix_start, dtype=torch.long), persistent=False)
        self.train(False)

    @property
    def decoder(self):
        return self.llm.get_decoder()

    def train(self, mode=True):
        """The frozen models stay in eval mode, so that their dropout is off, but for the LLM with
        `llm_train_mode`. Dropout of its attention weights (0 in OPT and LLaMA) is never on."""
        super().train(mode)
        self.llm.train(mode and self.adapter.cfg.llm_train_mode)
        if self.encoder is not None:
            self.encoder.eval()
        return self

    def tokens(self, sources):
        """Hidden states of the encoder -> {target layer: its tokens (B, N, D)}, none where blind."""
        given = {} if sources is None else self.adapter(sources)
        if 0 in given and len(self.prefix_start) and not self.adapter.cross_attentions:
            start = self.llm.get_input_embeddings()(self.prefix_start)
            start = start if getattr(self.decoder, 'project_in', None) is None else self.decoder.project_in(start)      # (n, D)
            given[0] = torch.cat([start.expand(len(given[0]), -1, -1), given[0].to(start.dtype)], dim=1)
        return given

    def prefix(self, given):
        """The tokens of the target layers -> for each LLM layer its (k, v), both (B, K, N, C), or None where it has no prefix.

        Tokens given at a target layer replace what flowed there; what a later layer reads flows on through the stock layer;
        where nothing reads them any more, keys and values are all that is computed.
        """
        cfg, decoder = self.adapter.cfg, self.decoder
        z, prefix, self.prefix_tokens = None, [], []            # prefix_tokens: of each layer (B * N, do they flow on), for the FLOP count
        for i, layer in enumerate(decoder.layers):
            z = given[i].float() if i in given else z           # (B, N, D)
            if z is None:
                prefix.append(None)
                continue
            positions = torch.arange(-z.shape[1], 0, device=z.device)[None]
            rotary = decoder.rotary_emb(z, positions) if hasattr(decoder, 'rotary_emb') else None       # (cos, sin), or learned positions
            flows_on = i + 1 < len(decoder.layers) and i + 1 not in given and (cfg.keep_to_end or i < max(given))
            self.prefix_tokens.append((z.shape[0] * z.shape[1], flows_on))
            if flows_on:
                mask = torch.ones(1, 1, z.shape[1], z.shape[1], dtype=torch.bool, device=z.device) if cfg.noncausal_prefix else None
                layer.self_attn.kept = kept = []
                z = layer(z, attention_mask=mask, position_embeddings=rotary)
                layer.self_attn.kept = None
                k, v = kept
            else:
                k, v = keys_values(layer, z, rotary)
                z = None
            # in half precision rotary positions leave the keys in float32: without this, each token would cast them anew
            prefix.append((k.to(v.dtype), v))
        return prefix

    def set_prefix(self, given):
        attentions = [layer.self_attn for layer in self.decoder.layers]
        for attention in attentions:
            attention.prefix = []                               # frees the last batch's, and none is read while computing this one
        if self.adapter.cross_attentions:
            visual = self.adapter.keys_values(given)
            for i in self.adapter.targets:
                self.decoder.layers[i].visual = visual.get(i)
        elif given:
            for attention, kv in zip(attentions, self.prefix(given)):
                attention.prefix = [(*kv, None)] if kv else []

    def encode(self, pixels=None, features=None):
        """pixels: what the encoder takes, (B, 3, H, W) of pictures; or cached hidden states (B, S, 1+N, D) -> S states (B, 1+N, D); None = blind."""
        if pixels is not None:
            return self.encoder(pixels)
        return None if features is None else list(features.unbind(1))

    def embed(self, input_ids, attention_mask):
        """[prompt tokens | text] as embeddings (B, P+T, D), with their attention mask and positions (B, P+T)."""
        x = self.llm.get_input_embeddings()(input_ids)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        P = self.adapter.cfg.n_prompt
        if P:
            x = torch.cat([self.adapter.prompt_tokens().to(x.dtype).expand(len(x), -1, -1), x], dim=1)
            mask = F.pad(mask, (P, 0), value=1)
        first = -P if self.unplaced_prompt else 0
        position_ids = (mask.cumsum(1) - 1 + first).clamp(min=-1).masked_fill(mask == 0, 0)
        return x, None if attention_mask is None else mask, position_ids

    def hidden(self, input_ids, attention_mask=None, pixels=None, features=None):
        """What lm_head reads at every text token: (B*G, T, D). G texts of each of B inputs follow one another."""
        given = self.tokens(self.encode(pixels, features))
        x, mask, position_ids = self.embed(input_ids, attention_mask)
        if self.in_one_pass(given, x):
            z = given[0].to(x.dtype)                                # (B, N, D)
            B, N = z.shape[:2]
            self.set_prefix({})
            self.prefix_tokens = [(B * N, True)] * len(self.decoder.layers)
            x = torch.cat([z, x], dim=1)
            mask = None if mask is None else F.pad(mask, (N, 0), value=1)
            before = torch.arange(-N if hasattr(self.decoder, 'rotary_emb') else -1, 0, device=x.device)     # OPT: -1 is no position
            position_ids = torch.cat([before.expand(B, N), position_ids], dim=1)
        else:
            self.set_prefix(given)
        x = self.decoder(inputs_embeds=x, attention_mask=mask, position_ids=position_ids, use_cache=False).last_hidden_state
        return x[:, -input_ids.shape[1]:]

    def in_one_pass(self, given, x):
        """Whether in training the tokens go first in the text's own pass through the LLM, instead of one of their own before it. It is the same
        where they flow from layer 0 to the top for one text each; and faster where they are few: the LLM's weights are then read once."""
        return (torch.is_grad_enabled() and list(given) == [0] and len(given[0]) == len(x) and given[0].shape[1] <= x.shape[1]
                and not self.adapter.cfg.noncausal_prefix and not self.adapter.cross_attentions
                and getattr(self.decoder, 'project_in', None) is None)

    def forward(self, input_ids, labels, attention_mask=None, pixels=None, features=None, label_smoothing=0.0):
        """Mean cross entropy over the labels that are not -100. input_ids, labels, attention_mask (B*G, T), right padded.
        Only labelled positions reach lm_head: captions are short and the vocabulary is the widest matrix of the model."""
        x = self.hidden(input_ids, attention_mask, pixels, features)
        targets = labels[:, 1:].flatten()                       # position t predicts token t+1
        labelled = (targets != -100).nonzero().squeeze(1)       # train.py leaves labels on the CPU, so that this waits for no GPU
        logits = self.llm.get_output_embeddings()(x[:, :-1].flatten(0, 1)[labelled.to(x.device, non_blocking=True)])        # (labels, V)
        return F.cross_entropy(logits.float(), targets[labelled].to(x.device, non_blocking=True), label_smoothing=label_smoothing)

    def logits(self, input_ids, attention_mask=None, pixels=None, features=None):
        """(B*G, T, V), for tests and analysis."""
        return self.llm.get_output_embeddings()(self.hidden(input_ids, attention_mask, pixels, features))

    @torch.no_grad()
    def generate(self, input_ids, attention_mask=None, pixels=None, features=None, num_beams=1,
                 max_new_tokens=20, do_sample=False, repetition_penalty=1.0, compile=False,
                 **generation):
        """transformers' own `generate`; prompts (B*G, T) left padded. Returns the new ids alone (B*G, <= max_new_tokens). All of a prompt but its last
        token joins the prefix, which beams share. compile: new tokens by torch.compile, prompts padded to whole PROMPT_STEPs: its graphs serve all batches."""
        if compile and not self.compiled:
            self.llm.forward, self.compiled = torch.compile(self.llm.forward), True
        with torch.compiler.set_stance('force_eager'):          # only what is done for every token is compiled
            self.set_prefix(self.tokens(self.encode(pixels, features)))
            x, mask, position_ids = self.embed(input_ids, attention_mask)
            pad = -(x.shape[1] - 1) % PROMPT_STEP if compile else 0
            x, mask = F.pad(x, (0, 0, pad, 0)), F.pad(torch.ones_like(position_ids) if mask is None else mask, (pad, 0))
            position_ids, cache = F.pad(position_ids, (pad, 0)), DynamicCache()
            if x.shape[1] > 1:
                self.decoder(inputs_embeds=x[:, :-1], attention_mask=mask[:, :-1], position_ids=position_ids[:, :-1],
                             use_cache=True, **{CACHE: cache})
            for layer, kv in zip(self.decoder.layers, cache.layers):
                layer.self_attn.prefix.append((kv.keys.to(kv.values.dtype), kv.values, mask[:, None, None, :-1].bool()))
        if repetition_penalty != 1.0:
            # handed over as an object: as an argument, transformers warns that it leaves the prompt out, which is meant here
            penalty = transformers.RepetitionPenaltyLogitsProcessor(repetition_penalty)
            generation['logits_processor'] = transformers.LogitsProcessorList([penalty])
        if compile:                                             # one length for all batches, so that they share their graphs
            generation[CACHE] = FixedCache(self.llm.config, max_cache_len=max_new_tokens)
        with torch.compiler.set_stance('default' if compile else 'force_eager'):
            ids = self.llm.generate(inputs_embeds=x[:, -1:], attention_mask=mask[:, -1:], position_ids=position_ids[:, -1:],
                                    num_beams=num_beams, max_new_tokens=max_new_tokens,
                                    do_sample=do_sample, repetition_penalty=1.0, **generation)
        self.set_prefix({})
        return ids

    def trained(self):
        """{name: parameter} of all that is trained; the frozen models are never in a checkpoint."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}


class FixedCache(StaticCache):
    """A cache of fixed length for compiled generation. In half precision rotary positions leave keys in float32; some releases of
    transformers make room for the values in the keys' dtype, so both have the values'."""

    def update(self, key_states, value_states, *args, **kwargs):
        return super().update(key_states.to(value_states.dtype), value_states, *args, **kwargs)


# ---- building, saving, loading --------------------------------------------------------------------------------------


