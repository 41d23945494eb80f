"""
Every prefix mechanism the plain way: what the two papers say, written down, and the oracle and baseline of the fast way.

    at a target layer the visual tokens are put in front of the text, the whole sequence goes through the stock decoder
    layer (queries, attention and MLP of the visual tokens too), at the next target they are replaced, after the last
    one they are cut out (unless they stay to the end); c-attn reads them in front of every target layer instead

The connector runs anew for every target and every text, every position has its logits, and generation has no cache: every new token of
every beam goes through the LLM with all that stands before it (the visual tokens are made once and repeated). Nothing here is shared
with model.py but the weights. Only for deterministic connectors: their dropout off, R-Rand in eval mode.

    logits = naive_logits(palm, features, input_ids)                # palm: model.PALM

Shapes: B inputs, G texts per input, T text tokens, P prompt tokens, N visual tokens, S sources, D width, V vocabulary.
"""
import torch
import torch.nn.functional as F


def visual_tokens(palm, features):
    """features (B*G, S, 1+M, D_enc) -> {target layer: (B*G, N, D)}."""
    adapter, cfg = palm.adapter, palm.adapter.cfg
    sources = list(features.unbind(1))[-cfg.source_layers:]
    if cfg.merge_sources:
        sources = [torch.cat(sources, dim=1)]
    tokens, n_targets = {}, len(adapter.targets)
    for j, layer in enumerate(adapter.targets):
        connector = adapter.connectors[j * len(adapter.connectors) // n_targets]
        z = adapter.connect(connector, sources[j * len(sources) // n_targets], j if cfg.query_per_target else 0)
        if cfg.token_norm:
            z = adapter.token_norms[j](z)
        if cfg.token_bias:
            z = z * adapter.token_biases[j].scale + adapter.token_biases[j].bias
        if layer == 0 and not adapter.cross_attentions:
            start = palm.llm.get_input_embeddings()(palm.prefix_start)
            if getattr(palm.decoder, 'project_in', None) is not None:
                start = palm.decoder.project_in(start)
            z = torch.cat([start.expand(len(z), -1, -1), z.to(start.dtype)], dim=1)
        tokens[layer] = z.float()
    return tokens


def embed(palm, input_ids, mask):
    """What enters layer 0 of an LLM that is given nothing else: [prompt][text] (B*G, P+T, D); and its mask (B*G, P+T)."""
    decoder, P = palm.llm.get_decoder(), palm.adapter.cfg.n_prompt
    x = palm.llm.get_input_embeddings()(input_ids)
    if P:
        x = torch.cat([palm.adapter.prompt_tokens().to(x.dtype).expand(len(x), -1, -1), x], dim=1)
        mask = F.pad(mask, (P, 0), value=1)
    if getattr(decoder, 'project_in', None) is not None:            # OPT-350m: word embeddings are narrower than the layers
        x = decoder.project_in(x)
    if hasattr(decoder, 'embed_positions'):                         # OPT: learned positions, of the text and perhaps of the prompt
        first = 0 if palm.adapter.cfg.prompt_positions else P
        positions = decoder.embed_positions(None, position_ids=(mask[:, first:].cumsum(1) - 1).clamp(min=0))
        x = torch.cat([x[:, :first], x[:, first:] + positions], dim=1)
    return x, mask


def layout(palm, x, n, mask):
    """What every stock decoder layer is told of [n visual tokens][prompt][text], x (B*G, n+P+T, D): causal, padding unseen, positions from 0."""
    mask = F.pad(mask, (n, 0), value=1)                             # (B*G, n+P+T)
    length, told = mask.shape[1], dict(attention_mask=None)         # none: causal
    if palm.adapter.cfg.noncausal_prefix or not mask.all():
        causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        if palm.adapter.cfg.noncausal_prefix:
            causal[:n, :n] = True
        itself = torch.eye(length, dtype=torch.bool, device=x.device)   # padding sees itself, for softmax needs something to see
        told['attention_mask'] = (causal & mask[:, None].bool() | itself)[:, None]      # (B*G, 1, queries, keys)
    if hasattr(palm.llm.get_decoder(), 'rotary_emb'):
        told['position_embeddings'] = palm.llm.get_decoder().rotary_emb(x, (mask.cumsum(1) - 1).clamp(min=0))
    return told


def cross_attend(cross, x, tokens):
    """x + tanh(gate) * out(norm(softmax(q k^T / sqrt(C)) v)), where the queries q come from the
    text x (B*G, P+T, D), keys k and values v from the tokens (B*G, N, d), in heads of C channels."""
    heads = (cross.heads, -1)
    query = cross.q(cross.query_mlp(x.to(cross.gate.dtype)))
    q = query.unflatten(2, heads).transpose(1, 2)                   # (B*G, H, P+T, C)
    k = cross.k(tokens).unflatten(2, heads).transpose(1, 2)         # (B*G, H, N, C)
    v = cross.v(tokens).unflatten(2, heads).transpose(1, 2)
    weights = (q @ k.transpose(2, 3) / q.shape[3] ** 0.5).softmax(dim=3)
    attended = (weights @ v).transpose(1, 2).flatten(2)             # (B*G, P+T, d)
    return x + (cross.gate.tanh() * cross.out(cross.norm(attended))).to(x.dtype)


def naive_logits(palm, features, input_ids, attention_mask=None, tokens=None):
    """features (B, S, 1+M, D_enc) or None (blind); input_ids (B*G, T), padded on either side -> (B*G, T, V). tokens: the visual ones, if
    they are known."""
    palm.set_prefix({})                                           # the LLM as it was loaded: attention reads no prefix
    decoder, cfg, adapter = palm.llm.get_decoder(), palm.adapter.cfg, palm.adapter
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    x, mask = embed(palm, input_ids, mask)
    if tokens is None:
        tokens = {} if features is None else visual_tokens(palm, features.repeat_interleave(len(input_ids) // len(features), dim=0))
    n, told = 0, layout(palm, x, 0, mask)                           # n: visual tokens in front of the text now
    for i, layer in enumerate(decoder.layers):
        if i in tokens and adapter.cross_attentions:
            own = len(adapter.cross_attentions) > 1                 # or one for all target layers
            cross = adapter.cross_attentions[adapter.targets.index(i) if own else 0]
            x = cross_attend(cross, x, tokens[i])
        elif i in tokens:
            x, before = torch.cat([tokens[i], x[:, n:]], dim=1), n  # put in front, in place of what is left of the last target's
            n = tokens[i].shape[1]
            told = layout(palm, x, n, mask) if n != before else told
        x = layer(x, **told)
        if n and i == max(tokens) and not cfg.keep_to_end:
            x, n = x[:, n:], 0
            told = layout(palm, x, 0, mask)
    final_norm = decoder.norm if hasattr(decoder, 'norm') else decoder.final_layer_norm
    for module in (final_norm, getattr(decoder, 'project_out', None)):
        x = x if module is None else module(x)                      # the post-norm OPT-350m has no final norm
    return palm.llm.get_output_embeddings()(x)[:, -input_ids.shape[1]:]


def naive_loss(palm, features, input_ids, labels, attention_mask=None, label_smoothing=0.0):
    """Mean cross entropy over the labels (B*G, T) that are not -100; position t predicts token t+1."""
    logits = naive_logits(palm, features, input_ids, attention_mask)
    logits, targets = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    return F.cross_entropy(logits.float(), targets, ignore_index=-100, label_smoothing=label_smoothing)


@torch.no_grad()
def naive_generate(palm, features, input_ids, max_new_tokens, num_beams=1, eos_token_id=None):
    """input_ids (B*G, T), none padded -> the new ids (B*G, <= max_new_tokens), filled up with EOS behind the first one."""
    search = greedy if num_beams == 1 else beam_search
    each = len(input_ids) // len(features) * num_beams                                              # texts or beams of an input
    tokens = {i: z.repeat_interleave(each, dim=0) for i, z in visual_tokens(palm, features).items()}
    new = search(palm, tokens, input_ids, max_new_tokens, num_beams, eos_token_id)                  # a list of ids per text
    longest = max(map(len, new))
    return torch.tensor([ids + [eos_token_id] * (longest - len(ids)) for ids in new], device=input_ids.device)


def greedy(palm, tokens, input_ids, max_new_tokens, num_beams, eos):
    ids, new = input_ids, [[] for _ in input_ids]
    for _ in range(max_new_tokens):
        token = naive_logits(palm, None, ids, tokens=tokens)[:, -1].argmax(1)                                  # (B*G,)
        ids = torch.cat([ids, token[:, None]], dim=1)
        for text, t in zip(new, token.tolist()):
            if eos is None or eos not in text:
                text.append(t)
        if all(eos in text for text in new):
            break
    return new


def beam_search(palm, tokens, input_ids, max_new_tokens, num_beams, eos):
    """As transformers has it: a text is scored by its mean log probability, EOS counted; the `num_beams` best are kept."""
    R, T = input_ids.shape                                          # R = B*G texts
    ids = input_ids[:, None].expand(-1, num_beams, -1)              # (R, beams, T + tokens so far)
    scores = torch.full((R, num_beams), -1e9, device=ids.device)
    scores[:, 0] = 0                                                # the beams begin alike: only the first counts
    done, searching = [[] for _ in range(R)], set(range(R))
    for length in range(1, max_new_tokens + 1):
        logits = naive_logits(palm, None, ids.flatten(0, 1), tokens=tokens)[:, -1].float()
        V = logits.shape[1]
        total = (scores[:, :, None] + logits.log_softmax(1).view(R, num_beams, V)).flatten(1)       # (R, beams*V)
        total, best = total.topk(2 * num_beams)                     # twice as many, for half of them could be ending
        beams = ids.gather(1, (best // V)[:, :, None].expand(-1, -1, ids.shape[2]))
        beams = torch.cat([beams, (best % V)[:, :, None]], dim=2)   # (R, 2*beams, T + length)
        ended = torch.zeros_like(best, dtype=torch.bool) if eos is None else best % V == eos
        for r in sorted(searching):
            for k in range(num_beams):
                if ended[r, k] or length == max_new_tokens:
                    done[r].append((total[r, k].item() / length, beams[r, k, T:].tolist()))
            done[r] = sorted(done[r], reverse=True)[:num_beams]
            hope = total[r][~ended[r]][0].item() / length
            if len(done[r]) == num_beams and hope <= done[r][-1][0]:
                searching.remove(r)
        if not searching:
            break
        goes_on = ended.long().argsort(dim=1, stable=True)[:, :num_beams]                           # (R, beams)
        scores = total.gather(1, goes_on)
        ids = beams.gather(1, goes_on[:, :, None].expand(-1, -1, beams.shape[2]))
    return [texts[0][1] for texts in done]
