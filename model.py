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
import json
import os

import wheels  # noqa: F401  (first: mends torchvision on CPU-only torch)
import torch
import torch.nn as nn
import torch.nn.functional as F
import timm
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache, StaticCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from adapters import Adapter, AdapterConfig, tune_biases, tune_norms
from encoders import Encoder
from scale import shard_over_processes

LLM_FAMILIES = ('llama', 'mistral', 'qwen2', 'qwen3', 'opt')    # the layouts of layer that `keys_values` knows
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


def keys_values(layer, z, rotary):
    """The keys and values that a stock decoder layer makes of z (B, N, D): two (B, K, N, C), and nothing else of the layer."""
    attention = layer.self_attn
    if hasattr(layer, 'input_layernorm'):                       # LLaMA, Mistral, Qwen
        z = layer.input_layernorm(z)
    elif layer.do_layer_norm_before:                            # OPT but for the post-norm 350m
        z = layer.self_attn_layer_norm(z)
    k, v = (proj(z).unflatten(-1, (-1, attention.head_dim)) for proj in (attention.k_proj, attention.v_proj))
    if hasattr(attention, 'k_norm'):                            # Qwen3
        k = attention.k_norm(k)
    k, v = k.transpose(1, 2), v.transpose(1, 2)
    if rotary is not None:
        k, _ = apply_rotary_pos_emb(k, k, *rotary)
    return k, v


def block_ends(layer, block):
    """The linear layers by which an 'attention' or 'mlp' block's input enters and its output leaves."""
    if block == 'attention':
        return layer.self_attn.q_proj, getattr(layer.self_attn, 'o_proj', None) or layer.self_attn.out_proj
    return (layer.mlp.gate_proj, layer.mlp.down_proj) if hasattr(layer, 'mlp') else (layer.fc1, layer.fc2)


def keep_stream_in_float32(llm):
    """Half precision is for matrix products alone. What flows from layer to layer, and the norms that read it, stay in
    float32: under autocast the LLM then computes what it would with float32 weights, in half the memory.

    A stream in bfloat16 has 8 bits; what each layer adds to it is rounded away. Measured in docs/precision.md.
    """
    for module in llm.modules():
        if 'Norm' in type(module).__name__:
            module.float()
    # the stream begins here; OPT-350m projects its narrower embeddings first
    for start in (llm.get_input_embeddings(), getattr(llm.get_decoder(), 'project_in', None)):
        if start is not None:
            start.register_forward_hook(to_float32)


def to_float32(module, args, output):
    """Forward hook."""
    return output.float()


def no_embedding_below_zero(module, args, kwargs, embedding):
    """Hook on OPT's learned positions: perceptual tokens, and eP-ALM's prompt tokens at position -1, have none."""
    return embedding.masked_fill((kwargs['position_ids'] < 0)[..., None], 0)


# ---- building, saving, loading --------------------------------------------------------------------------------------

def pick_device_and_dtype(device, dtype, llm=''):
    """'auto' -> a GPU if there is one; float32 on a CPU. On a GPU the half precision that this LLM, a folder or Hub id, was
    published in: its weights are exact there, and its activations have the range they had in training.

    Why: docs/precision.md. Raises ValueError for a device that is not there.
    """
    if device.split(':')[0] not in ('auto', 'cpu', 'cuda', 'mps'):
        raise ValueError(f"device={device!r}: expected 'auto', 'cpu', 'cuda', 'cuda:1' or so, or 'mps'")
    if device.startswith('cuda') and not torch.cuda.is_available():
        raise ValueError(f'device={device!r}: there is no GPU that this torch can use')
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    if dtype == 'auto' and not device.startswith('cuda'):
        dtype = 'float32'
    elif dtype == 'auto':
        config = read_llm_config(llm) if llm else {}
        published = config.get('dtype') or config.get('torch_dtype')
        dtype = 'float16' if published == 'float16' or not torch.cuda.is_bf16_supported() else 'bfloat16'
    return device, dtype


def read_llm_config(name):
    """The config.json of a local folder or Hub id as a dict, unlike AutoConfig's of any family. Raises FileNotFoundError."""
    try:
        return transformers.PreTrainedConfig.get_config_dict(name)[0]
    except Exception as e:
        raise not_loaded(name, e) from e


def not_loaded(name, error):
    """FileNotFoundError for an LLM that cannot be had, with the first line of why."""
    return FileNotFoundError(
        f'llm={name!r} could not be loaded: neither a folder of a transformers model here nor a Hub id that can be had '
        f'({str(error).splitlines()[0][:200]}). `python prepare.py demo` makes data/models/smollm2-135m')


def load_llm(name, dtype, weights=True):
    """A causal LM and its tokenizer by local folder or Hub id; without its weights, its shapes alone. Raises ValueError for a family that is not in
    LLM_FAMILIES, before its weights are read, and FileNotFoundError for what cannot be loaded."""
    family = read_llm_config(name).get('model_type')
    try:
        if family in (None, *LLM_FAMILIES):                      # None: no model here, of which these say more
            tokenizer = AutoTokenizer.from_pretrained(name)
            llm = (AutoModelForCausalLM.from_pretrained(name, dtype=getattr(torch, dtype)) if weights
                   else AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(name)))
    except Exception as e:
        raise not_loaded(name, e) from e
    if family not in LLM_FAMILIES:
        raise ValueError(f'llm={name!r}: the layers of {family!r} models cannot be given a prefix; known: {", ".join(LLM_FAMILIES)}')
    if tokenizer.eos_token_id is None:
        raise ValueError(f'llm={name!r}: its tokenizer has no eos_token, which every text ends with; tokenizer_config.json can name one')
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= llm.config.vocab_size:   # none, or one that the weights do not have
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token                    # masked, and no label: EOS does no harm
    llm.generation_config = transformers.GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id)
    return llm, tokenizer


def build(config, device, dtype, shard=False):
    """The knobs of a run -> (PALM on the device, tokenizer). Device 'meta': shapes alone, no weights are read. shard: the LLM over all processes."""
    weights, cfg = device != 'meta', AdapterConfig(**{k: config[k] for k in AdapterConfig.__dataclass_fields__})
    with torch.device(device if not weights else 'cpu'):
        llm, tokenizer = load_llm(config['llm'], dtype, weights)
        how = {k: config[k] for k in ('image_size', 'video_frames', 'video_tokens', 'audio_seconds')}
        encoder = Encoder(config['encoder'], cfg.source_layers, pretrained=weights, **how) if config['encoder'] else None
        adapter = Adapter(cfg, encoder and encoder.dim, encoder and encoder.grid, llm.config.hidden_size, llm.config.num_hidden_layers,
                          llm.get_input_embeddings().embedding_dim)
    start = tokenizer(cfg.prefix_start, add_special_tokens=False).input_ids if cfg.prefix_start else ()
    model = PALM(llm, adapter, encoder, start)
    if shard:
        shard_over_processes(llm, device)
    return model.to(device), tokenizer


def write_atomically(path, write):
    """write(temporary path), then rename: a killed run or a full disk never leaves half a file under the name."""
    temporary = f'{path}.tmp'
    try:
        write(temporary)
        os.replace(temporary, path)
    except Exception as e:                                      # safetensors and torch.save raise no OSError when a disk is full
        raise OSError(f'{path} could not be written ({e})') from e
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def save_adapter(path, trained, config, **facts):
    """Trained tensors {name: tensor} as safetensors; the run's knobs, library versions and facts (iteration, losses) in its metadata."""
    versions = dict(torch=torch.__version__, transformers=transformers.__version__, timm=timm.__version__)
    metadata = dict(config=json.dumps(config), versions=json.dumps(versions), facts=json.dumps(facts))
    tensors = {name: p.detach().cpu().contiguous() for name, p in trained.items()}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata))


def load_checkpoint(out_dir, which='best', device='auto', dtype='auto', bad_rows=''):
    """(model in eval mode, tokenizer, the knobs it was trained with). which: 'best' or 'last'. bad_rows: in place of that knob."""
    path = os.path.join(out_dir, f'{which}.safetensors')
    if not os.path.isfile(path):
        raise FileNotFoundError(f'{path}: no such checkpoint; train.py writes it into its out_dir')
    try:
        with safe_open(path, 'pt') as f:
            # checkpoints of before these two were hyperparameters: they had these values
            config = dict(token_init_std=0.02, llm_train_mode=False) | json.loads(f.metadata()['config'])
            config |= dict(bad_rows=bad_rows) if bad_rows else {}
            tensors = {name: f.get_tensor(name) for name in f.keys()}
    except Exception as e:
        raise ValueError(f'{path} is no checkpoint of train.py ({type(e).__name__}: {e})') from e
    device, dtype = pick_device_and_dtype(device, dtype, config['llm'])
    try:
        model, tokenizer = build(config, device, dtype)
    except KeyError as e:
        raise ValueError(f'{path} is of an older version: its config has no {e}') from e
    trained = model.trained()
    if set(trained) != set(tensors):
        raise ValueError(f'{path}: its tensors are not those of its config: {sorted(set(trained) ^ set(tensors))[:4]}')
    with torch.no_grad():
        for name, p in trained.items():
            p.copy_(tensors[name])
    return model.eval(), tokenizer, config
