"""
The reference implementation: every mechanism the plain way, as the two papers write it. It is what
model.py must equal, and what it is measured against. The best place to see what a mechanism does.

    at a target layer, the visual tokens are put in front of the text; the whole sequence goes
    through the stock decoder layer (queries, attention and MLP of the visual tokens, too); at the
    next target layer they are replaced; after the last one they are cut out, unless they stay to
    the end. Cross-attention reads them in front of every target layer instead.

The connector runs anew for every target and every text, every position has its logits, and
generation has no cache: for every new token of every beam, all that stands before it goes through
the LLM again. It is for connectors without randomness only: their dropout off, R-Rand in eval mode.

Its own are masks, positions, cross-attention, generation, and where the tokens enter. What it
shares with model.py are the weights and the modules that have them: connectors, bottlenecks (and
the hooks that call them), tuned norms and biases.

    logits = naive_logits(palm, features, input_ids)        # palm: model.PALM

Shapes: B inputs, G texts per input, T text tokens, P prompt tokens, M visual tokens, S sources of
N patches each and width C, D width of the LLM, V vocabulary.
"""

import torch
import torch.nn.functional as F

from model import Injection, injected

# ---- what the adapter gives ----------------------------------------------------------------------


def visual_tokens(palm, features):
    """Returns {target layer: its tokens (B*G, M, D)} of hidden states (B*G, S, 1+N, C)."""
    adapter = palm.adapter
    cfg = adapter.cfg
    n_targets = len(adapter.targets)
    sources = list(features.unbind(1))[-cfg.source_layers :]
    if cfg.merge_sources:
        sources = [torch.cat(sources, dim=1)]
    tokens = {}
    for j, layer in enumerate(adapter.targets):
        source = sources[j * len(sources) // n_targets]
        connector = adapter.connectors[j * len(adapter.connectors) // n_targets]
        z = connector(source, j if cfg.query_per_target else 0)
        if cfg.token_norm:
            z = adapter.token_norms[j](z)
        if cfg.token_bias:
            z = z * adapter.token_biases[j].scale + adapter.token_biases[j].bias
        if layer == 0 and not adapter.cross_attentions:
            z = put_start_in_front(palm, z)
        tokens[layer] = z.float()
    return tokens


def put_start_in_front(palm, z):
    """Returns [embeddings of prefix_start | visual tokens], (B*G, n+M, D)."""
    start = project_in(palm, palm.llm.get_input_embeddings()(palm.prefix_start))
    return torch.cat([start.expand(len(z), -1, -1), z.to(start.dtype)], dim=1)


def project_in(palm, x):
    """Returns word embeddings as wide as the layers: in OPT-350m they are narrower."""
    decoder = palm.llm.get_decoder()
    if getattr(decoder, 'project_in', None) is None:
        return x
    return decoder.project_in(x)


# ---- what every layer is given -------------------------------------------------------------------


def embed(palm, input_ids, mask):
    """Returns what enters layer 0 of an LLM without visual tokens, [prompt][text] (B*G, P+T, D),
    and its mask (B*G, P+T)."""
    decoder = palm.llm.get_decoder()
    P = palm.adapter.cfg.n_prompt
    x = palm.llm.get_input_embeddings()(input_ids)
    if P:
        prompt = palm.adapter.prompt_tokens().to(x.dtype).expand(len(x), -1, -1)
        x = torch.cat([prompt, x], dim=1)
        mask = F.pad(mask, (P, 0), value=1)
    x = project_in(palm, x)
    if hasattr(decoder, 'embed_positions'):
        # OPT has learned positions: of the text, and perhaps of the prompt
        first = 0 if palm.adapter.cfg.prompt_positions else P
        position_ids = (mask[:, first:].cumsum(1) - 1).clamp(min=0)
        positions = decoder.embed_positions(None, position_ids=position_ids)
        x = torch.cat([x[:, :first], x[:, first:] + positions], dim=1)
    return x, mask


def layer_arguments(palm, x, n, mask):
    """Returns the arguments of a stock decoder layer for [n visual tokens][prompt][text], x
    (B*G, n+P+T, D): attention is causal, padding is not seen, positions count from 0."""
    decoder = palm.llm.get_decoder()
    noncausal = palm.adapter.cfg.noncausal_prefix
    mask = F.pad(mask, (n, 0), value=1)  # (B*G, n+P+T)
    arguments = dict(attention_mask=None)  # None is causal
    if noncausal or not mask.all():
        length = mask.shape[1]
        sees = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        if noncausal:
            sees[:n, :n] = True
        # padding sees itself, for the softmax needs something to see
        itself = torch.eye(length, dtype=torch.bool, device=x.device)
        sees = sees & mask[:, None].bool() | itself
        arguments['attention_mask'] = sees[:, None]  # (B*G, 1, queries, keys)
    if hasattr(decoder, 'rotary_emb'):
        position_ids = (mask.cumsum(1) - 1).clamp(min=0)
        arguments['position_embeddings'] = decoder.rotary_emb(x, position_ids)
    return arguments


def cross_attend(cross, x, tokens):
    """Returns x + tanh(gate) * out(norm(softmax(q k^T / sqrt(d/H)) v)), where the queries q come
    from the text x (B*G, P+T, D), keys k and values v from the tokens (B*G, M, d), in H heads."""
    heads = (cross.heads, -1)
    query = cross.q(cross.query_mlp(x.to(cross.gate.dtype)))
    q = query.unflatten(2, heads).transpose(1, 2)  # (B*G, H, P+T, d/H)
    k = cross.k(tokens).unflatten(2, heads).transpose(1, 2)  # (B*G, H, M, d/H)
    v = cross.v(tokens).unflatten(2, heads).transpose(1, 2)
    weights = (q @ k.transpose(2, 3) / q.shape[3] ** 0.5).softmax(dim=3)
    attended = (weights @ v).transpose(1, 2).flatten(2)  # (B*G, P+T, d)
    return x + (cross.gate.tanh() * cross.out(cross.norm(attended))).to(x.dtype)


# ---- logits and loss -----------------------------------------------------------------------------


def naive_logits(palm, features, input_ids, attention_mask=None, tokens=None):
    """Returns the logits (B*G, T, V). features: hidden states (B, S, 1+N, C), None for a blind
    model; input_ids: (B*G, T), padded on either side; tokens: the visual ones, if they are known.
    """
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    x, mask = embed(palm, input_ids, mask)
    if tokens is None and features is None:
        tokens = {}
    elif tokens is None:
        G = len(input_ids) // len(features)
        tokens = visual_tokens(palm, features.repeat_interleave(G, dim=0))
    layers = palm.decoder.layers
    bottlenecks = [palm.adapter.bottleneck(i) for i in range(len(layers))]
    with injected(layers, [Injection(bottleneck=bottleneck) for bottleneck in bottlenecks]):
        x = through_layers(palm, x, mask, tokens)
    decoder = palm.llm.get_decoder()
    # the post-norm OPT-350m has no final norm, but projects out of its layers' width
    final_norm = decoder.norm if hasattr(decoder, 'norm') else decoder.final_layer_norm
    if final_norm is not None:
        x = final_norm(x)
    if getattr(decoder, 'project_out', None) is not None:
        x = decoder.project_out(x)
    return palm.llm.get_output_embeddings()(x)[:, -input_ids.shape[1] :]


def through_layers(palm, x, mask, tokens):
    """Returns the hidden states (B*G, ..., D) after the last layer, for [prompt][text] x and visual
    tokens {target layer: (B*G, M, D)}."""
    adapter = palm.adapter
    # visual tokens in front of the text now
    n = 0
    for i, layer in enumerate(palm.llm.get_decoder().layers):
        if i in tokens and adapter.cross_attentions:
            own = len(adapter.cross_attentions) > 1  # or one for all target layers
            cross = adapter.cross_attentions[adapter.targets.index(i) if own else 0]
            x = cross_attend(cross, x, tokens[i])
        elif i in tokens:
            # in place of what is left of the last target's
            x = torch.cat([tokens[i], x[:, n:]], dim=1)
            n = tokens[i].shape[1]
        x = layer(x, **layer_arguments(palm, x, n, mask))
        if n and i == max(tokens) and not adapter.cfg.keep_to_end:
            x = x[:, n:]
            n = 0
    return x


def naive_loss(palm, features, input_ids, labels, attention_mask=None, label_smoothing=0.0):
    """Returns the mean cross entropy over the labels (B*G, T) that are not -100; position t
    predicts token t+1."""
    logits = naive_logits(palm, features, input_ids, attention_mask)
    logits = logits[:, :-1].flatten(0, 1).float()
    targets = labels[:, 1:].flatten().to(logits.device)
    return F.cross_entropy(logits, targets, ignore_index=-100, label_smoothing=label_smoothing)


# ---- generation ----------------------------------------------------------------------------------


@torch.no_grad()
def naive_generate(palm, features, input_ids, max_new_tokens, num_beams=1, eos_token_id=None):
    """Returns the new ids (B*G, up to max_new_tokens) of prompts (B*G, T) without padding, filled
    up with EOS behind the first one."""
    # texts or beams of an input
    G = len(input_ids) // len(features) * num_beams
    tokens = visual_tokens(palm, features)
    tokens = {layer: z.repeat_interleave(G, dim=0) for layer, z in tokens.items()}
    if num_beams == 1:
        new = greedy(palm, tokens, input_ids, max_new_tokens, eos_token_id)
    else:
        new = beam_search(palm, tokens, input_ids, max_new_tokens, num_beams, eos_token_id)
    longest = max(map(len, new))
    new = [ids + [eos_token_id] * (longest - len(ids)) for ids in new]
    return torch.tensor(new, device=input_ids.device)


def greedy(palm, tokens, input_ids, max_new_tokens, eos):
    """Returns a list of new ids for each text: always the likeliest token."""
    ids = input_ids
    new = [[] for _ in input_ids]
    for _ in range(max_new_tokens):
        logits = naive_logits(palm, None, ids, tokens=tokens)[:, -1]
        token = logits.argmax(1)  # (B*G,)
        ids = torch.cat([ids, token[:, None]], dim=1)
        for text, t in zip(new, token.tolist()):
            if eos is None or eos not in text:
                text.append(t)
        if all(eos in text for text in new):
            break
    return new


def beam_search(palm, tokens, input_ids, max_new_tokens, num_beams, eos):
    """Returns a list of new ids for each text, as transformers searches them: a text is scored by
    its mean log probability, EOS counted, and the `num_beams` best are kept."""
    R, T = input_ids.shape  # R = B*G texts
    ids = input_ids[:, None].expand(-1, num_beams, -1)  # (R, beams, T + new tokens)
    # the beams begin alike, so only the first counts
    scores = torch.full((R, num_beams), -1e9, device=ids.device)
    scores[:, 0] = 0
    done = [[] for _ in range(R)]
    searching = set(range(R))
    for length in range(1, max_new_tokens + 1):
        logits = naive_logits(palm, None, ids.flatten(0, 1), tokens=tokens)[:, -1].float()
        V = logits.shape[1]
        total = scores[:, :, None] + logits.log_softmax(1).view(R, num_beams, V)
        # twice as many as beams, for half of them could be ending
        total, best = total.flatten(1).topk(2 * num_beams)  # (R, 2*beams)
        beams = ids.gather(1, (best // V)[:, :, None].expand(-1, -1, ids.shape[2]))
        beams = torch.cat([beams, (best % V)[:, :, None]], dim=2)  # (R, 2*beams, T + length)
        ended = torch.zeros_like(best, dtype=torch.bool) if eos is None else best % V == eos
        for r in sorted(searching):
            for k in range(num_beams):
                if ended[r, k] or length == max_new_tokens:
                    done[r].append((total[r, k].item() / length, beams[r, k, T:].tolist()))
            done[r] = sorted(done[r], reverse=True)[:num_beams]
            # the best mean that a beam which goes on has now
            hope = total[r][~ended[r]][0].item() / length
            if len(done[r]) == num_beams and hope <= done[r][-1][0]:
                searching.remove(r)
        if not searching:
            break
        goes_on = ended.long().argsort(dim=1, stable=True)[:, :num_beams]  # (R, beams)
        scores = total.gather(1, goes_on)
        ids = beams.gather(1, goes_on[:, :, None].expand(-1, -1, beams.shape[2]))
    return [texts[0][1] for texts in done]
