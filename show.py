"""
What a model looked at: every word it says beside the picture, and over it the attention that the word paid to the visual prefix.

Drawn by `python sample.py --out_dir=... --input=photo.jpg --show=attention.png`. For mechanisms whose tokens are patches or groups of
patches (linear, r_*); what a learned query has read is not in the LLM's attention.
"""
import math
import textwrap

import matplotlib
import numpy as np
import torch

from data import encode_prompt, encode_targets, image_transform, read_image

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402


def prefix_attention_of(model, tokenizer, config, row, text):
    """[(word, (H, W) map)]: for each word of the text, how the attention that its tokens paid to the prefix was spread over the patches;
    the mean over heads and layers. Raises ValueError for a mechanism whose tokens have no place in the picture."""
    cfg = model.adapter.cfg
    if model.encoder is None:
        raise ValueError('a blind model looks at nothing')
    side = 1 if cfg.connector in ('linear', 'r_rand') else math.isqrt(cfg.reduction)
    if cfg.connector not in ('linear', 'r_rand') and not cfg.connector.startswith('r_') or cfg.connector == 'r_qpmapper' or cfg.source_tokens == 'cls':
        raise ValueError(f'connector={cfg.connector!r}: its tokens are no patches, so there is no map of what was looked at (linear and r_* have one)')
    grid = [n // side for n in model.encoder.grid]                                          # tokens, not patches
    prompt, (said,) = encode_prompt(tokenizer, config, row.get('question', '')), encode_targets(tokenizer, [text], 1000)
    ids = torch.tensor([prompt + said], device=model.llm.device)
    pixels = image_transform(model.encoder, config['resize'], train=False)(read_image(row['image']))[None].to(ids.device)
    seen, hooks = [], [layer.self_attn.register_forward_hook(
        lambda attention, args, output: seen.append(output[1][0].mean(0)) if getattr(attention, 'prefix', None) is not None else None)
        for layer in model.decoder.layers]
    try:
        with torch.no_grad():
            model.hidden(ids, pixels=pixels)                                                # seen: of each layer (P+T, N+P+T)
    finally:
        for hook in hooks:
            hook.remove()
    n, tokens = math.prod(grid), len(said) - 1                                              # EOS is no word
    N = seen[0].shape[1] - seen[0].shape[0]
    weights = torch.stack(seen).mean(0)[-len(said) - 1:-2, N - n:N]                         # (tokens, patches): the position before a token says it
    maps = (weights / weights.sum(1, keepdim=True)).reshape(tokens, *grid).float().cpu().numpy()
    words = []
    for token, one in zip(said, maps):
        piece = tokenizer.decode([token])
        if not words or piece.startswith(' '):
            words.append((piece.strip(), [one]))
        else:
            words[-1] = (words[-1][0] + piece, words[-1][1] + [one])
    return [(word, np.mean(of_pieces, axis=0)) for word, of_pieces in words]


def draw_attention(path, model, tokenizer, config, rows, texts):
    """One line of pictures per row: the picture as the encoder gets it, then every word with its map."""
    lines = [(row, text, prefix_attention_of(model, tokenizer, config, row, text)) for row, text in zip(rows, texts)]
    transform = image_transform(model.encoder, config['resize'], train=False)
    mean, std = (np.array(v)[:, None, None] for v in (model.encoder.mean, model.encoder.std))
    columns = 1 + max(len(words) for *_, words in lines)
    fig, axes = plt.subplots(len(lines), columns, figsize=(1.7 * columns, 2 * len(lines)), squeeze=False)
    for (row, text, words), line in zip(lines, axes):
        picture = (transform(read_image(row['image'])).numpy() * std + mean).clip(0, 1).transpose(1, 2, 0)      # (H, W, 3)
        line[0].set_title('\n'.join(textwrap.wrap(row.get('question', ''), 22)), fontsize=8)
        for ax in line:
            ax.axis('off')
        for ax, (word, heat) in zip(line, [('', None), *words]):
            ax.imshow(picture)
            if heat is not None:
                ax.set_title(word, fontsize=10)
                ax.imshow(heat, extent=(0, picture.shape[1], picture.shape[0], 0), cmap='inferno', alpha=0.6, interpolation='bilinear')
    fig.savefig(path, format='png', dpi=100, bbox_inches='tight')
    plt.close(fig)
