"""
What a model looked at: every word that it writes, beside the image (or the spectrogram, or the
frames), and over it the attention that the word paid to the prefix.

Drawn by `python sample.py --out_dir=... --input=photo.jpg --show=attention.png`, for mechanisms
whose prefix tokens are patches or groups of patches (linear, r_*). What a learned query has read is
not in the LLM's attention.
"""

import contextlib
import math
import textwrap

import numpy as np
import torch
from matplotlib.figure import Figure

from nanopalm import media
from nanopalm.examples import path_of
from nanopalm.prompts import encode_prompt, encode_targets, question_of

# tokens of a generated text; longer than any
MAX_TOKENS = 1000


# ---- maps ----------------------------------------------------------------------------------------


def prefix_attention_of(model, tokenizer, config, example, pixels, text):
    """Returns [(word, map)] for each word of a text that the model has generated for an example.

    A map tells how the attention that the word's tokens paid to the prefix is spread over the
    patches, the mean over heads and layers.

    It is (H, W), or (N,) where the patches are a line, and sums to 1. pixels: the example's file as
    the encoder takes it, without a batch dimension. Raises ValueError for a mechanism whose
    tokens have no place in the image."""
    check_tokens_are_patches(model)
    grid = prefix_grid(model)
    prompt = encode_prompt(tokenizer, config, *question_of(example))
    space = config.get('target_space', True)
    (target,) = encode_targets(tokenizer, [text], MAX_TOKENS, space=space)
    weights = text_attention(model, prompt + target, pixels)

    # keys are [prefix | prompt tokens | text]; the patches are the last tokens of the prefix
    n_prefix = weights.shape[1] - weights.shape[0]
    n_patches = math.prod(grid)
    # a token is predicted at the position before it; the last one, EOS, is not a word
    first = -len(target) - 1
    weights = weights[first:-2, n_prefix - n_patches : n_prefix]
    weights = weights / weights.sum(1, keepdim=True)
    maps = weights.reshape(-1, *grid).float().cpu().numpy()
    pieces = [tokenizer.decode([token]) for token in target[:-1]]
    return join_words(pieces, maps)


def check_tokens_are_patches(model):
    """Raises ValueError where the prefix tokens of a model have no place in the image."""
    encoder = model.encoder
    if encoder is None:
        raise ValueError('a blind model looks at nothing')
    if isinstance(encoder.preprocessing, tuple):
        raise ValueError(
            f'encoder={encoder.name!r}: the attention is drawn over the image that one encoder '
            f'takes, and this run has several encoders'
        )
    cfg = model.adapter.cfg
    reduces = cfg.connector.startswith('r_')
    has_queries = cfg.connector == 'r_qpmapper'
    if has_queries or cfg.source_tokens == 'cls' or not (reduces or cfg.connector == 'linear'):
        raise ValueError(
            f'connector={cfg.connector!r}: its tokens are no patches, so there is no map of the '
            f'attention (linear and r_* have one)'
        )
    if math.prod(prefix_grid(model)) == 1:
        raise ValueError(
            f'connector={cfg.connector!r}, reduction={cfg.reduction}: it makes one token of all '
            f'patches, so there is no map of the attention'
        )
    in_a_line = len(encoder.grid) == 1
    interleaved = encoder.type in ('audio-spectrogram-transformer', 'timesformer')
    if reduces and cfg.reduction > 1 and in_a_line and interleaved:
        raise ValueError(
            f'connector={cfg.connector!r}: runs of {cfg.reduction} tokens of this encoder are not '
            f'places in the image, so there is no map of the attention'
        )


def prefix_grid(model):
    """Returns the shape in which the prefix tokens of a model lie over the image: (rows, columns),
    or (tokens,) where they are a line."""
    cfg = model.adapter.cfg
    grid = model.encoder.grid
    if cfg.connector in ('linear', 'r_rand'):
        return list(grid)
    # a token is a square of patches, or a run of them
    side = math.isqrt(cfg.reduction) if len(grid) == 2 else cfg.reduction
    return [n // side for n in grid]


def text_attention(model, ids, pixels):
    """Returns the attention weights of a text, the mean over heads and over the layers that have a
    prefix: (P+T, N+P+T) of P prompt tokens, T token ids and N prefix tokens. Raises ValueError for
    a mechanism without a prefix."""
    ids = torch.tensor([ids], device=model.llm.device)
    half_precision = model.llm.dtype != torch.float32
    with (
        torch.no_grad(),
        torch.autocast(ids.device.type, dtype=model.llm.dtype, enabled=half_precision),
        recorded_attention(model) as weights_of_layers,
    ):
        model.hidden(ids, pixels=pixels[None].to(ids.device))
    if not weights_of_layers:
        raise ValueError('this mechanism gives the LLM no prefix, so there is no map of attention')
    return torch.stack(weights_of_layers).mean(0)


@contextlib.contextmanager
def recorded_attention(model):
    """While it lasts, every layer of the LLM that reads a prefix appends its attention weights, the
    mean over heads, to the list that this returns."""
    recorded = []

    def record(attention, arguments, output):
        _, weights = output
        # the prefix itself also passes through the layers, and some layers have none
        if weights is not None and weights.shape[-1] > weights.shape[-2]:
            recorded.append(weights[0].mean(0))

    hooks = []
    for layer in model.decoder.layers:
        hooks.append(layer.self_attn.register_forward_hook(record))
    try:
        yield recorded
    finally:
        for hook in hooks:
            hook.remove()


def join_words(pieces, maps):
    """Returns [(word, mean of the maps of its tokens)]. pieces: the text of each token; one that
    begins with a space begins a word."""
    words = []
    maps_of_words = []
    for piece, map_of_piece in zip(pieces, maps):
        if not words or piece.startswith(' '):
            words.append(piece.strip())
            maps_of_words.append([map_of_piece])
        else:
            words[-1] += piece
            maps_of_words[-1].append(map_of_piece)
    return [(word, np.mean(of_word, axis=0)) for word, of_word in zip(words, maps_of_words)]


# ---- drawing -------------------------------------------------------------------------------------


def draw_attention(path, model, tokenizer, config, examples, texts):
    """Draws a PNG with one line of images for each example: what the encoder takes, then every word
    of its text with its map. Raises ValueError for a mechanism without maps."""
    check_tokens_are_patches(model)
    encoder = model.encoder
    images = []
    words = []
    for example, text in zip(examples, texts):
        pixels = media.load(path_of(example), encoder.preprocessing, config['resize'])
        images.append(as_image(pixels, encoder))
        words.append(prefix_attention_of(model, tokenizer, config, example, pixels, text))

    columns = 1 + max(len(words_of_one) for words_of_one in words)
    height, width = images[0].shape[:2]
    aspect_ratio = min(4, max(1, width / height))
    figure = Figure(figsize=(1.7 * aspect_ratio * columns, 2 * len(examples)))
    grid = figure.subplots(len(examples), columns, squeeze=False)
    for example, image, words_of_one, line in zip(examples, images, words, grid):
        for axes in line:
            axes.axis('off')
        question = textwrap.wrap(example.get('question', ''), 22)
        line[0].set_title('\n'.join(question), fontsize=8)
        draw_image(line[0], image, encoder)
        for axes, (word, heat) in zip(line[1:], words_of_one):
            axes.set_title(word, fontsize=10)
            draw_image(axes, image, encoder)
            draw_heat(axes, image, heat, encoder)
    figure.savefig(path, format='png', dpi=100, bbox_inches='tight')


def draw_image(axes, image, encoder):
    axes.imshow(image, cmap='gray', aspect=aspect_of(encoder))


def draw_heat(axes, image, heat, encoder):
    """Draws a map of tokens over an image."""
    height, width = image.shape[:2]
    axes.imshow(
        arrange(heat, encoder),
        extent=(0, width, height, 0),
        cmap='inferno',
        alpha=0.6,
        interpolation='bilinear',
        aspect=aspect_of(encoder),
    )


def aspect_of(encoder):
    """Returns matplotlib's `aspect`: a spectrogram is stretched, what has pixels is not."""
    return 'auto' if encoder.preprocessing.medium == 'audio' else None


def as_image(pixels, encoder):
    """Returns what the encoder takes as an image: (H, W, 3); the frames of a video side by side; a
    spectrogram (bands, time) with the lowest band below."""
    preprocessing = encoder.preprocessing
    if preprocessing.medium == 'audio':
        bands = pixels if encoder.type == 'whisper' else pixels.squeeze(0).T
        return bands.flip(0).numpy()
    std = torch.tensor(preprocessing.std)[:, None, None]
    mean = torch.tensor(preprocessing.mean)[:, None, None]
    frames = (pixels * std + mean).clamp(0, 1)
    if preprocessing.medium == 'video':
        # (T, 3, H, W) -> (3, H, T*W)
        frames = torch.cat([*frames], dim=2)
    return frames.permute(1, 2, 0).numpy()


def arrange(heat, encoder):
    """Returns a map of tokens (as of `prefix_attention_of`) as it lies over the image of
    `as_image`: (rows, columns)."""
    if encoder.preprocessing.medium == 'audio':
        return arrange_bands(heat, encoder)
    if encoder.preprocessing.medium == 'video':
        return arrange_frames(heat, encoder)
    return heat


def arrange_bands(heat, encoder):
    """Returns a map over a spectrogram as (bands, time), the lowest band last."""
    if encoder.type == 'audio-spectrogram-transformer':
        # CLS and distillation token, then a row for each band
        config = encoder.model.config
        rows = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
        heat = heat[2:].reshape(rows, -1)
    if heat.ndim == 1:
        heat = heat[None]
    elif not encoder.type:
        # encoders of timm: (time, bands)
        heat = heat.T
    return heat[::-1]


def arrange_frames(heat, encoder):
    """Returns a map over a video as (H, T*W), the frames side by side."""
    shape = encoder.preprocessing.shape
    if encoder.type == 'timesformer' and heat.ndim == 1:
        # the frames of a patch follow one another: (H * W * T,) -> (T * H, W)
        side = shape[-1] // encoder.model.config.patch_size
        heat = heat.reshape(side, side, -1).transpose(2, 0, 1).reshape(-1, side)
    n_frames = shape[0]
    if encoder.video_tokens == 'all':
        # (T * H, W) -> (T, H, W)
        frames = heat.reshape(n_frames, -1, heat.shape[1])
    else:
        # the mean over time is the same for every frame
        frames = np.tile(heat, (n_frames, 1, 1))
    return np.concatenate(frames, axis=1)
