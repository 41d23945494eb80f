"""
The frozen encoders of images, sound and video.

An `Encoder` wraps a ViT, EVA or CNN of timm, or an AST, CLAP, Whisper or TimeSformer of
transformers. It says how a file is loaded for it (`preprocessing`, which nanopalm/media.py follows)
and returns its last S hidden states, each (B, 1+N, D): the CLS token, or the mean of the patches
where the model has none, and then the N patches in the encoder's own order. Several encoders that
look at the same file are an `EncoderGroup`.

To add an encoder, give it a short name in ENCODERS at the end of this file. To add a model type of
transformers, write a function that loads it and one that reads it, and list both in FAMILIES.

Shapes: B inputs, T frames, N patches, D width, S source layers.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import nanopalm.wheels  # noqa: F401

import timm
import torch
import torch.nn as nn
import torch.nn.functional as F
from transformers import (
    ASTModel,
    AutoConfig,
    ClapAudioModelWithProjection,
    ClapFeatureExtractor,
    TimesformerModel,
    WhisperFeatureExtractor,
    WhisperModel,
)

from nanopalm.errors import how_to_make

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass
class Preprocessing:
    """How nanopalm/media.py loads a file for an encoder."""

    # 'image', 'audio' or 'video'
    medium: str
    # of what the encoder takes: (3, S, S) of an image of S pixels, (T, 3, S, S) of a video,
    # (frames, bands) of a spectrogram, or the shape that the extractor below returns
    shape: tuple
    # of the colours of an image or video
    mean: tuple = ()
    std: tuple = ()
    interpolation: str = ''
    # side of the part that the encoder sees, of the side of the enlarged square; 1 = all of it
    crop_pct: float = 1.0
    # a feature extractor of transformers, which makes the spectrogram of a clip of so many seconds
    extractor: object = None
    seconds: int = 0


# ---- one encoder ---------------------------------------------------------------------------------


class Encoder(nn.Module):
    """A frozen encoder: x -> its last S hidden states, each (B, 1+N, D).

    name: a short name in ENCODERS, a timm name, an id on the Hub, or a folder in the format of timm
    or transformers.
    video_frames: makes an image encoder one of video, which sees each frame by itself.
    video_tokens: the patches of 'all' frames, or their 'mean' over time.
    pool_patches: the patches of an image are averaged to a grid of so many a side; 0 = they are
    not.
    pretrained: whether the weights are loaded, or random.

    x, by medium: 'image' (B, 3, H, W), 'video' (B, T, 3, H, W), 'audio' a spectrogram. The final
    norm of the model is applied to every hidden state, except for EVA-CLIP, as in DePALM; the
    tokens of CLAP have length 1.

    dim: the width D. grid: how the N patches lie, (H, W), or (N,) in a line.
    """

    def __init__(
        self,
        name,
        source_layers=1,
        image_size=0,
        video_frames=0,
        video_tokens='all',
        audio_seconds=0,
        pool_patches=0,
        pretrained=True,
    ):
        super().__init__()
        self.source_layers = source_layers
        self.video_tokens = video_tokens
        self.pool_patches = pool_patches
        options = dict(
            image_size=image_size,
            video_frames=video_frames,
            audio_seconds=audio_seconds,
            pool_patches=pool_patches,
        )
        self.load(name, options, pretrained)
        self.check_options(name, options)
        self.grid, self.dim = self.measure(name, options)

    @property
    def medium(self):
        return self.preprocessing.medium

    def load(self, name, options, pretrained):
        """Sets `name` (in timm or on the Hub), `type` (in transformers; None for a model of timm),
        `model`, `preprocessing` and `read`, the function that computes the hidden states.

        Raises ValueError for a model that cannot be read here, and FileNotFoundError for one that
        does not exist or cannot be downloaded."""
        try:
            entry = ENCODERS.get(name) or unnamed_encoder(name)
            self.name = entry.id
            if isinstance(entry, TimmEncoder):
                self.type = None
                self.model, self.preprocessing = load_timm(entry, options, pretrained)
                self.read = read_vit if is_vit(self.model) else read_cnn_stages
                if not is_vit(self.model):
                    # a CPU convolves 1.4 times as fast, half precision on a GPU needs it
                    self.model.to(memory_format=torch.channels_last)
            else:
                family = FAMILIES[entry.type]
                self.type = entry.type
                self.model, self.preprocessing = family.load(entry.id, options, pretrained)
                self.read = entry.read or family.read
            self.model.requires_grad_(False).eval()
        except ValueError as error:
            raise ValueError(f'encoder {name!r}: {error}') from error
        except Exception as error:
            reason = (str(error) or 'no reason given').splitlines()[0][:200]
            raise FileNotFoundError(
                f'encoder {name!r} could not be loaded: it is neither a folder here nor a model of '
                f'timm or the Hub whose weights can be downloaded '
                f'({type(error).__name__}: {reason}){how_to_make(name)}'
            ) from error

    def check_options(self, name, options):
        """Raises ValueError if an option is given that has no meaning for this encoder."""
        if self.type:
            accepted = FAMILIES[self.type].options
        elif self.medium == 'audio':
            accepted = ()
        else:
            accepted = ('image_size', 'video_frames', 'pool_patches')
        refused = [key for key, value in options.items() if value and key not in accepted]
        if refused:
            raise ValueError(f'encoder {name!r} takes no {" or ".join(refused)}')

    def measure(self, name, options):
        """Returns (grid, dim), by reading an empty input. Raises ValueError if that fails."""
        try:
            with torch.no_grad():
                states, grid = self.hidden_states(torch.zeros(1, *self.preprocessing.shape))
        except (AssertionError, RuntimeError) as error:
            raise ValueError(
                f'encoder {name!r} does not work with image_size={options["image_size"]}, '
                f'source_layers={self.source_layers}, video_frames={options["video_frames"]}: '
                f'{error}'
            ) from error
        if len(states) != self.source_layers:
            raise ValueError(
                f'source_layers={self.source_layers}: encoder {name!r} has {len(states)} layers'
            )
        return grid, states[-1].shape[-1]

    def hidden_states(self, x):
        """Returns (the last S hidden states, their grid)."""
        if self.medium == 'video' and self.type is None:
            return self.read_frames(x)
        return self.read_images(x)

    def read_images(self, x):
        """Returns the hidden states of images (B, 3, H, W), or of other files that are no frames,
        and their grid."""
        states, grid = self.read(self, x)
        if not self.pool_patches:
            return states, grid
        if self.pool_patches > min(grid):
            raise ValueError(
                f'pool_patches={self.pool_patches}: expected at most {min(grid)}, for encoder '
                f'{self.name!r} has {grid_text(grid)} patches'
            )
        side = self.pool_patches
        return [pool_patches(state, grid, side) for state in states], (side, side)

    def read_frames(self, x):
        """Returns the hidden states of videos (B, T, 3, H, W) and their grid, from an image encoder
        that sees each frame by itself. CLS is the mean over time of those of the frames."""
        B, T = x.shape[:2]
        of_frames, grid = self.read_images(x.flatten(0, 1))
        states = []
        for state in of_frames:
            # (B, T, 1+N, D)
            state = state.unflatten(0, (B, T))
            if self.video_tokens == 'mean':
                states.append(state.mean(1))
            else:
                cls = state[:, :, :1].mean(1)
                patches = state[:, :, 1:].flatten(1, 2)
                states.append(torch.cat([cls, patches], dim=1))
        if self.video_tokens != 'mean':
            # the frames below one another
            grid = (T * grid[0], *grid[1:])
        return states, grid

    def forward(self, x):
        # gradients are needed only where biases or norms of the encoder are tuned
        tuned = any(parameter.requires_grad for parameter in self.parameters())
        with torch.set_grad_enabled(tuned and torch.is_grad_enabled()):
            states, _ = self.hidden_states(x)
        return states

    def fingerprint(self):
        """Returns a hash of the weights and of the function that reads them, which the name of a
        feature cache holds."""
        digest = hashlib.blake2b(self.read.__name__.encode(), digest_size=16)
        for name, tensor in self.model.state_dict().items():
            data = tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy()
            digest.update(name.encode())
            digest.update(data.tobytes())
        return digest.hexdigest()


def cls_first(patches, cls=None):
    """Returns patches (B, N, D) behind their CLS token (B, 1, D), or behind their mean where there
    is none: (B, 1+N, D)."""
    if cls is None:
        cls = patches.mean(1, keepdim=True)
    return torch.cat([cls, patches], dim=1)


def pool_patches(state, grid, side):
    """Returns CLS and the means of side x side parts of the grid, which overlap where they do not
    tile it: (B, 1+N, D) -> (B, 1+side^2, D)."""
    patches = state[:, 1:].transpose(1, 2).unflatten(2, grid)  # (B, D, H, W)
    means = F.adaptive_avg_pool2d(patches, side).flatten(2).transpose(1, 2)
    return torch.cat([state[:, :1], means], dim=1)


# ---- several encoders ----------------------------------------------------------------------------


class EncoderGroup(nn.Module):
    """Several frozen encoders that look at the same file.

    x is a tuple with the input of each encoder, loaded by its own preprocessing. The hidden states
    are joined in one of two ways:

    'tokens'    each encoder keeps its own; the adapter has a connector for each, and their tokens
                stand side by side. forward(x) returns a list for each encoder of its S hidden
                states; `dim` and `grid` are tuples, one entry an encoder.
    'channels'  patch by patch, which needs equal grids. forward(x) returns S hidden states
                (B, 1+N, sum of the D), and `dim` and `grid` are those of one such encoder.
    """

    def __init__(self, encoders, join='tokens'):
        super().__init__()
        self.encoders = nn.ModuleList(encoders)
        self.join = join
        self.name = ','.join(encoder.name for encoder in encoders)
        self.type = tuple(encoder.type for encoder in encoders)
        self.source_layers = encoders[0].source_layers
        self.video_tokens = encoders[0].video_tokens
        self.preprocessing = tuple(encoder.preprocessing for encoder in encoders)
        self.medium = encoders[0].medium
        self.check()
        self.dim = tuple(encoder.dim for encoder in encoders)
        self.grid = tuple(encoder.grid for encoder in encoders)
        if join == 'channels':
            self.dim = sum(self.dim)
            self.grid = encoders[0].grid

    def check(self):
        """Raises ValueError for encoders that cannot be joined."""
        if self.join not in ('tokens', 'channels'):
            raise ValueError(f"encoder_join={self.join!r}: expected 'tokens' or 'channels'")
        first = self.encoders[0]
        for other in self.encoders[1:]:
            if other.medium != first.medium:
                message = (
                    f'encoders of one run take files of the same medium, but {first.name!r} takes '
                    f'{first.medium} files and {other.name!r} {other.medium} files'
                )
                if {first.medium, other.medium} == {'image', 'video'}:
                    message += '; with --video_frames=8 or so an image encoder takes video files'
                raise ValueError(message)
            if self.join == 'channels' and other.grid != first.grid:
                raise ValueError(
                    f"encoder_join='channels' joins the encoders patch by patch, but "
                    f'{first.name!r} has {grid_text(first.grid)} patches and {other.name!r} '
                    f'{grid_text(other.grid)}; give --encoder_join=tokens, or an --image_size with '
                    f'which all have the same number of patches'
                )

    def forward(self, x):
        states = [encoder(pixels) for encoder, pixels in zip(self.encoders, x, strict=True)]
        if self.join == 'tokens':
            return states
        # S hidden states, each of all encoders side by side
        return [torch.cat(state, dim=-1) for state in zip(*states)]


def grid_text(grid):
    return 'x'.join(map(str, grid))


def make_encoder(config, source_layers, pretrained=True):
    """Returns the encoder of a run's config: an `Encoder`, an `EncoderGroup` if `encoder` is a list
    of names with commas between them, or None for a text-only baseline."""
    if not config['encoder']:
        return None
    names = [config['encoder']]
    if not os.path.isdir(config['encoder']):
        names = [name.strip() for name in config['encoder'].split(',')]
    keys = ('image_size', 'video_frames', 'video_tokens', 'audio_seconds', 'pool_patches')
    options = {key: config[key] for key in keys}
    encoders = [Encoder(name, source_layers, pretrained=pretrained, **options) for name in names]
    if len(encoders) == 1:
        return encoders[0]
    # checkpoints from before this hyperparameter have one encoder
    return EncoderGroup(encoders, config.get('encoder_join', 'tokens'))


# ---- models of timm ------------------------------------------------------------------------------


class TimmEncoder(NamedTuple):
    """A model of timm, and in what the papers' use of it differs from timm's defaults.

    crop: DePALM squashed an image and then gave it to timm's transform, which enlarges it by the
    model's crop_pct and cuts out the centre. It is False where the original read the model through
    another library (CLIP, DINOv2) or without such a transform (eP-ALM), or did not use it.
    """

    id: str
    # pixels; 0 = the model's own
    image_size: int = 0
    crop: bool = False
    # () = timm's
    mean: tuple = ()
    std: tuple = ()


# what makes AudioMAE of timm's ViT-B/16 where its weights are not wanted
AUDIOMAE = dict(img_size=(1024, 128), in_chans=1, num_classes=0)


def load_timm(entry, options, pretrained):
    """Returns (model, Preprocessing) of a `TimmEncoder`."""
    size = options['image_size'] or entry.image_size
    model = create_timm_model(entry.id, size, pretrained)
    patch_embed = getattr(model, 'patch_embed', None)
    if patch_embed and patch_embed.proj.in_channels == 1:
        # one channel: a spectrogram of (frames, bands)
        return model, Preprocessing('audio', tuple(patch_embed.img_size))
    data = timm.data.resolve_model_data_config(model)
    size = size or data['input_size'][-1]
    frames = options['video_frames']
    preprocessing = Preprocessing(
        medium='video' if frames else 'image',
        shape=(frames, 3, size, size) if frames else (3, size, size),
        mean=entry.mean or data['mean'],
        std=entry.std or data['std'],
        interpolation=data['interpolation'],
        crop_pct=data['crop_pct'] if entry.crop else 1.0,
    )
    return model, preprocessing


def create_timm_model(id_, size, pretrained):
    """Returns the model of timm with this name, Hub id or folder, for images of so many pixels (0
    for its own)."""
    if 'audiomae' in id_ and not pretrained:
        return timm.create_model('vit_base_patch16_224', **AUDIOMAE)
    if os.path.isdir(id_):
        id_ = f'local-dir:{id_}'
    elif '/' in id_ and ':' not in id_:
        id_ = f'hf-hub:{id_}'
    if not size:
        return timm.create_model(id_, pretrained=pretrained)
    try:
        return timm.create_model(id_, pretrained=pretrained, img_size=size)
    except TypeError:
        # a CNN has no img_size: it takes any
        return timm.create_model(id_, pretrained=pretrained)


def is_vit(model):
    return all(hasattr(model, name) for name in ('blocks', 'patch_embed', 'num_prefix_tokens'))


def read_vit(encoder, x):
    vit = encoder.model
    if x.dim() == 3:
        # a spectrogram has one channel
        x = x[:, None]
    has_cls = vit.num_prefix_tokens > 0
    layers = vit.forward_intermediates(
        x,
        indices=encoder.source_layers,
        norm=not isinstance(vit, timm.models.Eva),
        output_fmt='NLC',
        return_prefix_tokens=has_cls,
        intermediates_only=True,
    )
    states = []
    for layer in layers:
        if has_cls:
            # behind CLS, the prefix may hold registers, which are left out
            patches, prefix = layer
            states.append(cls_first(patches, prefix[:, :1]))
        else:
            states.append(cls_first(layer))
    return states, tuple(vit.patch_embed.grid_size)


# of a CNN: what the last stage says of a place, beside what the stages before it saw there
CNN_STAGES = 3


def read_cnn_stages(encoder, x):
    """Returns the last feature maps of a CNN as patches, joined channel by channel: those of
    earlier stages are averaged to the grid of the last. None has a final norm, so each gets one.
    A linear classifier of the demo's emoji is right in 65% with three stages, and in 58% with the
    channels that ImageNet's classes are made of (docs/speedrun.md)."""
    if encoder.source_layers > 1:
        raise ValueError(
            f'source_layers={encoder.source_layers}: the layers of {encoder.name} differ in width, '
            f'so they can only be read as one'
        )
    # [(B, D, H, W), ...], from the largest map to the smallest
    stages = encoder.model.forward_intermediates(
        x, indices=CNN_STAGES, output_fmt='NCHW', intermediates_only=True
    )
    grid = tuple(stages[-1].shape[2:])
    states = []
    for stage in stages:
        patches = F.adaptive_avg_pool2d(stage, grid).flatten(2).transpose(1, 2)
        state = cls_first(patches)
        states.append(F.layer_norm(state, state.shape[-1:]))
    return [torch.cat(states, dim=-1)], grid


# ---- models of transformers ----------------------------------------------------------------------


class HubEncoder(NamedTuple):
    """A model of transformers. type: a key of FAMILIES. read: a function in place of the family's
    own, for a model that the papers read in several ways."""

    id: str
    type: str
    read: Callable = None


class Family(NamedTuple):
    """The models of one type of transformers.

    load: (id or folder, options, pretrained) -> (model, Preprocessing). read: (encoder, x) -> (its
    last S hidden states, their grid). options: which of image_size, video_frames and audio_seconds
    have a meaning for them.
    """

    load: Callable
    read: Callable
    options: tuple = ()


def unnamed_encoder(name):
    """Returns the entry of a model that has no short name: a folder, a Hub id or a timm name.
    Raises ValueError for a model of transformers that cannot be read here."""
    model_type = None
    if os.path.isdir(name):
        with open(os.path.join(name, 'config.json'), encoding='utf-8') as file:
            model_type = json.load(file).get('model_type')
    elif '/' in name and ':' not in name:
        model_type = AutoConfig.from_pretrained(name).model_type
    if not model_type or model_type == 'timm_wrapper':
        # the latter is what transformers calls a model of timm on the Hub
        return TimmEncoder(name)
    if model_type not in FAMILIES:
        raise ValueError(
            f'it is of type {model_type!r}; of the types of transformers, only '
            f'{", ".join(FAMILIES)} can be read'
        )
    return HubEncoder(name, model_type)


def load_model(model_class, id_, pretrained):
    if pretrained:
        return model_class.from_pretrained(id_, dtype=torch.float32)
    return model_class(model_class.config_class())


def normed_states(encoder, x, norm):
    """Returns the last S hidden states of a model of transformers, each (B, N, D), after its final
    norm, which the model itself applies to the last one alone."""
    output = encoder.model(x, output_hidden_states=True)
    # the first are the embeddings
    blocks = output.hidden_states[1:]
    earlier = [norm(state) for state in blocks[-encoder.source_layers : -1]]
    return [*earlier, output.last_hidden_state]


# AST is read in one of three ways, each by a short name of its own. The second of them is DePALM's
# and the third eP-ALM's.


def load_ast(id_, options, pretrained):
    model = load_model(ASTModel, id_, pretrained)
    shape = (model.config.max_length, model.config.num_mel_bins)
    return model, Preprocessing('audio', shape)


def read_ast(encoder, x):
    """Returns the states after the last S blocks, normed, each behind its pooled token, which the
    model defines as the mean of CLS and distillation token: the first two tokens of a state."""
    states = normed_states(encoder, x, encoder.model.layernorm)
    pooled = [cls_first(state, state[:, :2].mean(1, keepdim=True)) for state in states]
    return pooled, (states[-1].shape[1],)


def read_ast_last(encoder, x):
    """Returns the last state of `read_ast` S times over, as DePALM does."""
    output = encoder.model(x)
    state = cls_first(output.last_hidden_state, output.pooler_output[:, None])
    return [state] * encoder.source_layers, (output.last_hidden_state.shape[1],)


def read_ast_cls(encoder, x):
    """Returns the states of `read_ast` behind their CLS instead of the pooled token, as eP-ALM
    does."""
    states = normed_states(encoder, x, encoder.model.layernorm)
    return [cls_first(state, state[:, :1]) for state in states], (states[-1].shape[1],)


def load_clap(id_, options, pretrained):
    model = load_model(ClapAudioModelWithProjection, id_, pretrained)
    if model.config.enable_fusion:
        raise ValueError(
            'it is a CLAP that fuses crops of long clips, which cannot be read; the unfused one can'
        )
    extractor = ClapFeatureExtractor(truncation='rand_trunc', frequency_min=50)
    return model, Preprocessing('audio', (1, 1001, 64), extractor=extractor, seconds=10)


def read_clap(encoder, x):
    """Returns the tokens that DePALM reads of CLAP, S times over, since CLAP has one state: the
    pooled token and a fine-grained one for each of the 1,024 frames that the spectrogram is
    stretched to, (B, 1+1024, 512). They are projected into the space that CLAP shares with texts
    and scaled to length 1.

    A fine-grained token is the mean of the last feature map over frequency, as the
    `fine_grained_embedding` of LAION's CLAP. The map has 32 steps of time, so 32 frames share a
    token. All is computed in float32, as in DePALM, where half precision gave NaN.
    """
    config = encoder.model.config
    frames = config.spec_size * (config.spec_size // config.num_mel_bins)
    # autocast does not know the meta device
    device_type = 'cpu' if x.is_meta else x.device.type
    with torch.autocast(device_type, enabled=False):
        output = encoder.model.audio_model(x.float())
        # (B, 32, D)
        steps = output.last_hidden_state.mean(2).transpose(1, 2)
        # (B, 1+32, D)
        tokens = torch.cat([output.pooler_output[:, None], steps], dim=1)
        tokens = F.normalize(encoder.model.audio_projection(tokens), dim=-1)
    pooled = tokens[:, :1]
    steps = tokens[:, 1:]
    fine_grained = steps.repeat_interleave(frames // steps.shape[1], dim=1)
    state = torch.cat([pooled, fine_grained], dim=1)
    return [state] * encoder.source_layers, (frames,)


def load_whisper(id_, options, pretrained):
    model = load_model(WhisperModel, id_, pretrained).encoder
    config = model.config
    # 50 states a second
    longest = config.max_source_positions // 50
    seconds = options['audio_seconds'] or longest
    if seconds * 50 > config.max_source_positions:
        raise ValueError(f'audio_seconds={seconds}: expected at most {longest}')
    # a shorter clip has the first positions alone
    config.max_source_positions = seconds * 50
    positions = model.embed_positions.weight[: seconds * 50]
    model.embed_positions = nn.Embedding.from_pretrained(positions)
    extractor = WhisperFeatureExtractor(config.num_mel_bins, chunk_length=seconds)
    shape = (config.num_mel_bins, seconds * 100)
    return model, Preprocessing('audio', shape, extractor=extractor, seconds=seconds)


def read_whisper(encoder, x):
    states = normed_states(encoder, x, encoder.model.layer_norm)
    return [cls_first(state) for state in states], (states[-1].shape[1],)


def load_timesformer(id_, options, pretrained):
    model = load_model(TimesformerModel, id_, pretrained)
    config = model.config
    # the layers read the number of frames here; the model interpolates its time embeddings
    config.num_frames = options['video_frames'] or config.num_frames
    shape = (config.num_frames, 3, config.image_size, config.image_size)
    return model, Preprocessing('video', shape, CLIP_MEAN, CLIP_STD, 'bicubic')


def read_timesformer(encoder, x):
    """Returns the states after the last S blocks, normed, as in both papers. Tokens keep the
    model's order: CLS, then the patches, the frames of a patch one after another."""
    T = encoder.preprocessing.shape[0]
    side = encoder.preprocessing.shape[-1] // encoder.model.config.patch_size
    states = normed_states(encoder, x, encoder.model.layernorm)
    if encoder.video_tokens != 'mean':
        return states, (side * side * T,)
    means = []
    for state in states:
        # (B, H*W, T, D)
        patches = state[:, 1:].unflatten(1, (-1, T))
        means.append(cls_first(patches.mean(2), state[:, :1]))
    return means, (side, side)


# ---- what can be loaded --------------------------------------------------------------------------

# model type in transformers -> how it is loaded and read
FAMILIES = {
    'audio-spectrogram-transformer': Family(load_ast, read_ast),
    'clap': Family(load_clap, read_clap),
    'whisper': Family(load_whisper, read_whisper, options=('audio_seconds',)),
    'timesformer': Family(load_timesformer, read_timesformer, options=('video_frames',)),
}

AST = HubEncoder('MIT/ast-finetuned-audioset-10-10-0.4593', 'audio-spectrogram-transformer')

# short name -> model. Models of timm bring their mean, std, interpolation and crop_pct.
ENCODERS = dict(
    # images
    eva_clip_l=TimmEncoder('eva02_large_patch14_clip_224.merged2b', crop=True),
    # OpenAI's CLIP has QuickGELU, which timm applies only where the name says so
    clip_b=TimmEncoder('vit_base_patch16_clip_quickgelu_224.openai'),
    clip_l=TimmEncoder('vit_large_patch14_clip_quickgelu_224.openai'),
    laion_clip_b=TimmEncoder('vit_base_patch16_clip_224.laion2b'),
    laion_clip_l=TimmEncoder('vit_large_patch14_clip_224.laion2b'),
    # DINOv2's own size is 518 pixels
    dinov2_s=TimmEncoder('vit_small_patch14_dinov2.lvd142m', image_size=224),
    dinov2_b=TimmEncoder('vit_base_patch14_dinov2.lvd142m', image_size=224),
    dinov2_l=TimmEncoder('vit_large_patch14_dinov2.lvd142m', image_size=224),
    dinov2_g=TimmEncoder('vit_giant_patch14_dinov2.lvd142m', image_size=224),
    vit_b_in1k=TimmEncoder('vit_base_patch16_224.augreg_in1k', crop=True),
    vit_b_in21k=TimmEncoder('vit_base_patch16_224.augreg_in21k', crop=True),
    vit_b_in21k_ft=TimmEncoder('vit_base_patch16_224.augreg2_in21k_ft_in1k', crop=True),
    # tuned on ImageNet-1k, as the `clipnorm` ones
    vit_l_in21k=TimmEncoder('vit_large_patch16_224.augreg_in21k_ft_in1k', crop=True),
    # eP-ALM normalises with CLIP's mean and std, although these two were trained with others
    vit_b_in21k_ft_clipnorm=TimmEncoder(
        'vit_base_patch16_224.augreg_in21k_ft_in1k', mean=CLIP_MEAN, std=CLIP_STD
    ),
    vit_l_in21k_clipnorm=TimmEncoder(
        'vit_large_patch16_224.augreg_in21k_ft_in1k', mean=CLIP_MEAN, std=CLIP_STD
    ),
    siglip_b=TimmEncoder('vit_base_patch16_siglip_224.webli'),
    siglip_l=TimmEncoder('vit_large_patch16_siglip_256.webli'),
    # sound
    # the architecture of MAViL, whose weights were never published
    audiomae=TimmEncoder('hf-hub:gaunernst/vit_base_patch16_1024_128.audiomae_as2m'),
    ast=AST,
    ast_last=AST._replace(read=read_ast_last),
    ast_cls=AST._replace(read=read_ast_cls),
    clap=HubEncoder('laion/clap-htsat-unfused', 'clap'),
    whisper_tiny=HubEncoder('openai/whisper-tiny', 'whisper'),
    # video
    timesformer_k400=HubEncoder('facebook/timesformer-base-finetuned-k400', 'timesformer'),
    timesformer_k600=HubEncoder('facebook/timesformer-base-finetuned-k600', 'timesformer'),
)
