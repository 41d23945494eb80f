"""
The frozen language models: loading them, and what model.py must know of a family's layers.

To add a family whose layers differ from LLaMA's, write a small class and name it in FAMILIES.

Shapes: B inputs, N tokens, D width, K key/value heads, C channels of a head.
"""

import nanopalm.wheels  # noqa: F401  (first: mends torchvision on CPU-only torch)

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from nanopalm.errors import how_to_make

# ---- the families --------------------------------------------------------------------------------


class Llama:
    """LLaMA, Mistral, Qwen2: a norm in front of each block, rotary positions.

    A prefix of N tokens has the positions -N..-1, in every layer; what follows it, trained prompt
    tokens or the text, starts at 0. Rotary attention reads differences of positions alone, so
    negative ones do no harm."""

    def __init__(self, llm):
        self.decoder = llm.get_decoder()

    def prefix_positions(self, n, device):
        """Returns the positions of n tokens in front of the text, (1, n)."""
        return torch.arange(-n, 0, device=device)[None]

    def prompt_start(self, cfg):
        """Returns the position of the first of the trained prompt tokens."""
        return 0

    def to_stream(self, embeddings):
        """Returns word embeddings as they enter layer 0, (B, N, D)."""
        return embeddings

    def stream_starts(self):
        """Returns the modules whose output is the beginning of the residual stream."""
        return [self.decoder.get_input_embeddings()]

    def rotary(self, layer, z):
        """Returns (cos, sin) for tokens z (B, N, D) of the prefix at a layer, None for learned
        positions."""
        return self.decoder.rotary_emb(z, self.prefix_positions(z.shape[1], z.device))

    def keys_values(self, layer, z, rotary):
        """Returns the keys and values that a decoder layer makes of z (B, N, D), both (B, K, N, C),
        and computes nothing else of the layer."""
        attention = layer.self_attn
        z = self.attention_norm(layer, z)
        k = attention.k_proj(z).unflatten(-1, (-1, attention.head_dim))
        v = attention.v_proj(z).unflatten(-1, (-1, attention.head_dim))
        k = self.key_norm(attention, k).transpose(1, 2)
        if rotary is not None:
            k, _ = apply_rotary_pos_emb(k, k, *rotary)
        return k, v.transpose(1, 2)

    def attention_norm(self, layer, z):
        return layer.input_layernorm(z)

    def key_norm(self, attention, k):
        return k

    def key_value_weights(self, layer):
        """Returns the number of weights that make a layer's keys and values."""
        attention = layer.self_attn
        return attention.k_proj.weight.numel() + attention.v_proj.weight.numel()

    def block_ends(self, layer, block):
        """Returns the two linear layers by which the input of an 'attention' or 'mlp' block enters
        and its output leaves."""
        if block == 'attention':
            return layer.self_attn.q_proj, layer.self_attn.o_proj
        return layer.mlp.gate_proj, layer.mlp.down_proj


class Qwen3(Llama):
    """LLaMA with a norm on the keys (and queries) of each head."""

    def key_norm(self, attention, k):
        return attention.k_norm(k)


class Opt(Llama):
    """OPT: learned positions, which are added to the word embeddings alone. So the tokens of a
    prefix have none, and with prompt_positions=False (eP-ALM) neither have the prompt tokens; both
    count as position -1, whose embedding is replaced by 0. OPT-350m has its norms behind the
    blocks, and word embeddings that are narrower than its layers."""

    def __init__(self, llm):
        super().__init__(llm)
        self.decoder.embed_positions.register_forward_hook(
            no_embedding_below_zero, with_kwargs=True
        )

    def prefix_positions(self, n, device):
        return torch.full((1, n), -1, device=device)

    def prompt_start(self, cfg):
        return 0 if cfg.prompt_positions else -cfg.n_prompt

    def to_stream(self, embeddings):
        if self.decoder.project_in is None:
            return embeddings
        return self.decoder.project_in(embeddings)

    def stream_starts(self):
        starts = [self.decoder.get_input_embeddings(), self.decoder.project_in]
        return [module for module in starts if module is not None]

    def rotary(self, layer, z):
        return None

    def attention_norm(self, layer, z):
        return layer.self_attn_layer_norm(z) if layer.do_layer_norm_before else z

    def block_ends(self, layer, block):
        if block == 'attention':
            return layer.self_attn.q_proj, layer.self_attn.out_proj
        return layer.fc1, layer.fc2


def no_embedding_below_zero(module, args, kwargs, embedding):
    """Forward hook on OPT's learned positions."""
    return embedding.masked_fill((kwargs['position_ids'] < 0)[..., None], 0)


# the one list of families: transformers' model type, and its class
FAMILIES = dict(llama=Llama, mistral=Llama, qwen2=Llama, qwen3=Qwen3, opt=Opt)


def family_of(llm):
    """Returns the family of a causal LM of transformers. Raises ValueError for one that is not in
    FAMILIES."""
    check_family(llm.config.model_type)
    return FAMILIES[llm.config.model_type](llm)


def check_family(model_type, where=''):
    if model_type not in FAMILIES:
        raise ValueError(
            f'{where}the layers of {model_type!r} models cannot be given a prefix; '
            f'known: {", ".join(FAMILIES)}'
        )


# ---- half precision ------------------------------------------------------------------------------


def keep_stream_in_float32(llm, family):
    """Leaves half precision to matrix products alone. What flows from layer to layer, and the norms
    that read it, stay in float32: under autocast the LLM then computes what it would with float32
    weights, in half the memory.

    A stream in bfloat16 has 8 bits, and what each layer adds to it is rounded away. Measured in
    docs/precision.md."""
    for module in llm.modules():
        if 'Norm' in type(module).__name__:
            for name, parameter in list(module.named_parameters(recurse=False)):
                # module.float() cannot convert the tensors without contents of tools.bench
                float32 = torch.nn.Parameter(parameter.float(), parameter.requires_grad)
                setattr(module, name, float32)
    for module in family.stream_starts():
        module.register_forward_hook(to_float32)


def to_float32(module, args, output):
    """Forward hook."""
    return output.float()


# ---- loading -------------------------------------------------------------------------------------


def load_llm(name, dtype, weights=True):
    """Returns a causal LM and its tokenizer by local folder or Hub id; without weights, its shapes
    alone. Raises ValueError for a family that is not in FAMILIES, before any weights are read, and
    FileNotFoundError for what cannot be loaded."""
    model_type = read_llm_config(name).get('model_type')
    # without a model type there is no model here, which the loading below says better
    if model_type is not None:
        check_family(model_type, where=f'llm={name!r}: ')
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        if weights:
            llm = AutoModelForCausalLM.from_pretrained(name, dtype=getattr(torch, dtype))
        else:
            llm = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(name))
    except Exception as error:
        raise not_loaded(name, error) from error
    settle_special_tokens(name, llm, tokenizer)
    return llm, tokenizer


def settle_special_tokens(name, llm, tokenizer):
    """Gives the tokenizer a pad token, and the LLM the generation config of its own special tokens
    and nothing else. Raises ValueError for a tokenizer without an end of text."""
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f'llm={name!r}: its tokenizer has no eos_token, which every text ends with; '
            f'tokenizer_config.json can name one'
        )
    # a pad token may be missing, or be one that the weights do not have
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= llm.config.vocab_size:
        # it is masked, and never a label, so the end of text does no harm
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    llm.generation_config = transformers.GenerationConfig(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )


def read_llm_config(name):
    """Returns the config.json of a local folder or Hub id as a dict. Raises FileNotFoundError."""
    try:
        return transformers.PreTrainedConfig.get_config_dict(name)[0]
    except Exception as error:
        raise not_loaded(name, error) from error


def not_loaded(name, error):
    """Returns the FileNotFoundError for an LLM that cannot be loaded, with why in one line."""
    reason = str(error).splitlines()[0][:200]
    return FileNotFoundError(
        f'llm={name!r} could not be loaded: it is neither a folder of a transformers model here '
        f'nor a Hub id that can be reached ({reason}){how_to_make(name)}'
    )
