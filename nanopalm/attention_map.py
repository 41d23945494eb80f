"""
What a model looked at: every word it says beside the picture (or the spectrogram, or the frames), and over it the attention that the
word paid to the prefix.

Drawn by `python sample.py --out_dir=... --input=photo.jpg --show=attention.png`. For mechanisms whose tokens are patches or groups of
patches (linear, r_*); what a learned query has read is not in the LLM's attention.
"""
import math
import textwrap

import matplotlib
import numpy as np
import torch

from nanopalm import media
from nanopalm.examples import path_of
from nanopalm.prompts import encode_prompt, encode_targets, question_of

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402


def prefix_attention_of(model, tokenizer, config, row, x, text):
    """[(word, map)] for each word of the text which the model says to `x`, a row's picture as the encoder takes it: how the attention that
    the word's tokens paid to the prefix was spread over the patches; the mean over heads and layers. A map is (H, W), or (N,) where the
    patches stand in a line. Raises ValueError for a mechanism whose tokens have no place in the picture."""
    cfg = model.adapter.cfg
    if model.encoder is None:
        raise ValueError('a blind model looks at nothing')
    if not (cfg.connector == 'linear' or cfg.connector.startswith('r_')) or cfg.connector == 'r_qpmapper' or cfg.source_tokens == 'cls':
        raise ValueError(f'connector={cfg.connector!r}: its tokens are no patches, so there is no map of what was looked at (linear and r_* have one)')
    grid = model.encoder.grid
    if model.encoder.type in ('audio-spectrogram-transformer', 'timesformer') and len(grid) == 1 and cfg.connector.startswith('r_') and cfg.reduction > 1:
        raise ValueError(f'connector={cfg.connector!r}: runs of {cfg.reduction} tokens of this encoder are no places in the picture')
    if cfg.connector not in ('linear', 'r_rand'):                                           # tokens, not patches
        side = math.isqrt(cfg.reduction) if len(grid) == 2 else cfg.reduction
        grid = [n // side for n in grid]
    prompt, (said,) = encode_prompt(tokenizer, config, *question_of(row)), encode_targets(tokenizer, [text], 1000, space=config.get('target_space', True))
    ids = torch.tensor([prompt + said], device=model.llm.device)
    seen, hooks = [], [layer.self_attn.register_forward_hook(
        lambda attention, args, output: seen.append(output[1][0].mean(0)) if attention.injection.prefix else None)
        for layer in model.decoder.layers]
    try:
        with torch.no_grad(), torch.autocast(ids.device.type, dtype=model.llm.dtype, enabled=model.llm.dtype != torch.float32):
            model.hidden(ids, pixels=x[None].to(ids.device))                                # seen: of each layer (P+T, N+P+T)
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
    """One line of pictures per row: what the encoder gets, then every word with its map."""
    loaded = [media.load(path_of(row), model.encoder.preprocessing, config['resize']) for row in rows]
    lines = [prefix_attention_of(model, tokenizer, config, row, x, text) for row, x, text in zip(rows, loaded, texts)]
    columns = 1 + max(map(len, lines))
    views = [view(x, model.encoder) for x in loaded]
    wide = min(4, max(1, views[0].shape[1] / views[0].shape[0]))
    fig, axes = plt.subplots(len(lines), columns, figsize=(1.7 * wide * columns, 2 * len(lines)), squeeze=False)
    for row, words, picture, line in zip(rows, lines, views, axes):
        line[0].set_title('\n'.join(textwrap.wrap(row.get('question', ''), 22)), fontsize=8)
        for ax in line:
            ax.axis('off')
        for ax, (word, heat) in zip(line, [('', None), *words]):
            ax.imshow(picture, cmap='gray', aspect='auto' if model.encoder.preprocessing.medium == 'audio' else None)
            if heat is not None:
                ax.set_title(word, fontsize=10)
                ax.imshow(lay_out(heat, model.encoder), extent=(0, picture.shape[1], picture.shape[0], 0), cmap='inferno', alpha=0.6,
                          interpolation='bilinear', aspect='auto' if model.encoder.preprocessing.medium == 'audio' else None)
    fig.savefig(path, format='png', dpi=100, bbox_inches='tight')
    plt.close(fig)


def view(x, encoder):
    """What the encoder takes as a picture: (H, W, 3); the frames of a video side by side; a spectrogram (bands, time), the lowest band below."""
    p = encoder.preprocessing
    if p.medium == 'audio':
        return (x if encoder.type == 'whisper' else x.squeeze(0).T).flip(0).numpy()
    frames = (x * torch.tensor(p.std)[:, None, None] + torch.tensor(p.mean)[:, None, None]).clamp(0, 1)
    return torch.cat([*frames], dim=2).permute(1, 2, 0).numpy() if p.medium == 'video' else frames.permute(1, 2, 0).numpy()


def lay_out(heat, encoder):
    """A map of tokens (as `prefix_attention_of` gives it) as it lies over the picture of `view`: (rows, columns)."""
    p = encoder.preprocessing
    if p.medium == 'image':
        return heat
    if p.medium == 'audio':
        if encoder.type == 'audio-spectrogram-transformer':         # CLS and distillation token, then a row for each band
            config = encoder.model.config
            heat = heat[2:].reshape((config.num_mel_bins - config.patch_size) // config.frequency_stride + 1, -1)
        return (heat[None] if heat.ndim == 1 else heat if encoder.type else heat.T)[::-1]      # of timm: (time, bands)
    if encoder.type == 'timesformer' and heat.ndim == 1:            # the frames of a patch follow one another
        side = encoder.preprocessing.shape[-1] // encoder.model.config.patch_size
        heat = heat.reshape(side, side, -1).transpose(2, 0, 1).reshape(-1, side)
    frames = p.shape[0]
    heat = heat.reshape(frames, -1, heat.shape[1]) if encoder.video_tokens == 'all' else np.tile(heat, (frames, 1, 1))      # (T, H, W)
    return np.concatenate(heat, axis=1)
