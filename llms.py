"""
The language models.
"""
import nanopalm.wheels  # noqa: F401  (first: mends torchvision on CPU-only torch)

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

LLM_FAMILIES = ('llama', 'mistral', 'qwen2', 'qwen3', 'opt')    # the layouts of layer that `keys_values` knows


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
