"""
The frozen encoders of pictures, sound and video: any ViT, EVA or CNN of timm; AST, CLAP, Whisper and TimeSformer of transformers.

An `Encoder` says what it takes (`preprocessing`, by which media.py loads a file) and gives its last n hidden states, each (B, 1+N, D):
CLS, or a mean where there is none, then N patches in the encoder's own order. B inputs, T frames, D width.
"""
import hashlib
import json
import os
from dataclasses import dataclass

import wheels  # noqa: F401  (first: mends torchvision on CPU-only torch)
import timm
import torch
import torch.nn as nn
import torch.nn.functional as F
from transformers import (ASTModel, AutoConfig, ClapFeatureExtractor, ClapModel, TimesformerModel, WhisperFeatureExtractor, WhisperModel)

# short name -> timm's name (which brings mean, std and interpolation) and the pixels it is used at, 0 = its own
TIMM = dict(
    eva_clip_l=('eva02_large_patch14_clip_224.merged2b', 0),
    clip_b=('vit_base_patch16_clip_quickgelu_224.openai', 0),   # OpenAI's have QuickGELU, which their names in timm must say
    clip_l=('vit_large_patch14_clip_quickgelu_224.openai', 0),
    laion_clip_b=('vit_base_patch16_clip_224.laion2b', 0),
    laion_clip_l=('vit_large_patch14_clip_224.laion2b', 0),
    dinov2_s=('vit_small_patch14_dinov2.lvd142m', 224),         # 518 by itself
    dinov2_b=('vit_base_patch14_dinov2.lvd142m', 224),
    dinov2_l=('vit_large_patch14_dinov2.lvd142m', 224),
    dinov2_g=('vit_giant_patch14_dinov2.lvd142m', 224),
    vit_b_in1k=('vit_base_patch16_224.augreg_in1k', 0),
    vit_b_in21k=('vit_base_patch16_224.augreg_in21k', 0),
    vit_b_in21k_ft=('vit_base_patch16_224.augreg2_in21k_ft_in1k', 0),
    vit_l_in21k=('vit_large_patch16_224.augreg_in21k_ft_in1k', 0),
    siglip_b=('vit_base_patch16_siglip_224.webli', 0),
    siglip_l=('vit_large_patch16_siglip_256.webli', 0),
    audiomae=('hf-hub:gaunernst/vit_base_patch16_1024_128.audiomae_as2m', 0),  # the architecture of MAViL, whose weights were never published
)
# short name -> id on the Hub and type there
HUB = dict(
    ast=('MIT/ast-finetuned-audioset-10-10-0.4593', 'audio-spectrogram-transformer'),
    clap=('laion/clap-htsat-unfused', 'clap'),
    whisper_tiny=('openai/whisper-tiny', 'whisper'),
    timesformer_k400=('facebook/timesformer-base-finetuned-k400', 'timesformer'),
    timesformer_k600=('facebook/timesformer-base-finetuned-k600', 'timesformer'),
)
AUDIOMAE = dict(img_size=(1024, 128), in_chans=1, num_classes=0)               # what makes it of a ViT-B/16 where its weights are not wanted
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)       # mean and std


@dataclass
class Preprocessing:
    """How media.py loads a file."""
    medium: str                         # 'image', 'audio' or 'video'
    shape: tuple                        # of what the encoder takes: (3, S, S); (T, 3, S, S); (frames, bands), or as the extractor gives it
    mean: tuple = ()                    # pictures and video
    std: tuple = ()
    interpolation: str = ''
    extractor: object = None            # of transformers: makes the spectrogram of a clip of
    seconds: int = 0


class Encoder(nn.Module):
    """x -> the last n hidden states, each (B, 1+N, D), frozen.

    name: a short name above, a timm name, an id on the Hub, or a folder in timm's or transformers' format. x, by medium: 'image'
    (B, 3, H, W); 'video' (B, T, 3, H, W), also for an image encoder that is given video_frames: it sees each frame by itself; 'audio' a
    spectrogram. video_tokens: the patches of 'all' frames, or their 'mean' over time. The final norm is applied to every hidden state, but
    for EVA-CLIP and TimeSformer, as in DePALM.
    """

    def __init__(self, name, source_layers=1, image_size=0, video_frames=0, video_tokens='all', audio_seconds=0, pretrained=True):
        super().__init__()
        self.source_layers, self.video_tokens = source_layers, video_tokens
        self.name, hub_type = HUB.get(name, (name, None))
        try:
            self.type = hub_type or transformers_type(self.name)
            if self.type:
                make, self.read = TYPES[self.type]
                self.preprocessing = make(self, audio_seconds or video_frames, pretrained)
            else:
                self.preprocessing = make_timm(self, image_size, video_frames, pretrained)
            self.model.requires_grad_(False).eval()
        except ValueError as e:
            raise ValueError(f'encoder {name!r}: {e}') from e
        except Exception as e:
            raise FileNotFoundError(f'encoder {name!r} could not be loaded: neither a folder here nor a timm model or Hub id whose weights can be had '
                                    f'({type(e).__name__}: {(str(e) or "no reason given").splitlines()[0][:200]})') from e
        refused = dict(audio_seconds=audio_seconds and self.type != 'whisper', video_frames=video_frames and self.preprocessing.medium != 'video',
                       image_size=image_size and (self.type or self.preprocessing.medium == 'audio'))
        if any(refused.values()):
            raise ValueError(f'encoder {name!r} takes no {" or ".join(k for k, given in refused.items() if given)}')
        try:
            with torch.no_grad():
                states, self.grid = self.hidden_states(torch.zeros(1, *self.preprocessing.shape))
        except (AssertionError, RuntimeError) as e:
            raise ValueError(f'encoder {name!r} cannot give image_size={image_size}, source_layers={source_layers}, '
                             f'video_frames={video_frames}: {e}') from e
        if len(states) != source_layers:
            raise ValueError(f'source_layers={source_layers}: encoder {name!r} has {len(states)} layers')
        self.dim = states[-1].shape[-1]

    def hidden_states(self, x):
        """The states, and how their patches lie: (H, W), or (N,) in a line."""
        if self.preprocessing.medium != 'video' or self.type:
            return self.read(self, x)
        states, grid = self.read(self, x.flatten(0, 1))                             # an image encoder, frame by frame: (B*T, 1+N, D)
        states = [s.unflatten(0, x.shape[:2]) for s in states]
        if self.video_tokens == 'mean':
            return [s.mean(1) for s in states], grid
        return [torch.cat([s[:, :, :1].mean(1), s[:, :, 1:].flatten(1, 2)], dim=1) for s in states], (x.shape[1] * grid[0], *grid[1:])

    def forward(self, x):
        with torch.set_grad_enabled(torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())):   # only where tuned
            return self.hidden_states(x)[0]

    def fingerprint(self):
        """Hash of the weights: what a feature cache was made with."""
        h = hashlib.blake2b(digest_size=16)
        for name, t in self.model.state_dict().items():
            h.update(name.encode() + t.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return h.hexdigest()


# ---- timm -----------------------------------------------------------------------------------------------------------

def make_timm(encoder, image_size, frames, pretrained):
    encoder.name, size = TIMM.get(encoder.name, (encoder.name, 0))
    size = image_size or size
    source = 'local-dir:' if os.path.isdir(encoder.name) else 'hf-hub:' if '/' in encoder.name and ':' not in encoder.name else ''
    name = source + encoder.name
    try:
        if 'audiomae' in name and not pretrained:
            encoder.model = timm.create_model('vit_base_patch16_224', **AUDIOMAE)
        else:
            encoder.model = timm.create_model(name, pretrained=pretrained, **dict(img_size=size) if size else {})
    except TypeError:                                               # a CNN takes any size
        encoder.model = timm.create_model(name, pretrained=pretrained)
    encoder.read = read_vit if all(hasattr(encoder.model, a) for a in ('blocks', 'patch_embed', 'num_prefix_tokens')) else read_cnn
    if getattr(encoder.model, 'patch_embed', None) and encoder.model.patch_embed.proj.in_channels == 1:
        return Preprocessing('audio', tuple(encoder.model.patch_embed.img_size))                    # a spectrogram: (frames, bands)
    data = timm.data.resolve_model_data_config(encoder.model)
    size = size or data['input_size'][-1]
    return Preprocessing(*('video', (frames, 3, size, size)) if frames else ('image', (3, size, size)), data['mean'], data['std'], data['interpolation'])


def read_vit(encoder, x):
    vit = encoder.model
    x = x[:, None] if x.dim() == 3 else x                           # one channel
    cls, norm = vit.num_prefix_tokens > 0, not isinstance(vit, timm.models.Eva)
    out = vit.forward_intermediates(x, indices=encoder.source_layers, norm=norm, output_fmt='NLC', return_prefix_tokens=cls, intermediates_only=True)
    states = [cls_first(patches, prefix[:, :1]) for patches, prefix in out] if cls else [cls_first(patches) for patches in out]
    return states, tuple(vit.patch_embed.grid_size)


def read_cnn(encoder, x):
    if encoder.source_layers > 1:
        raise ValueError(f'source_layers={encoder.source_layers}: the layers of {encoder.name} differ in width, only its last can be read')
    x = encoder.model.forward_features(x)                           # (B, D, H, W)
    norm = lambda t: F.layer_norm(t, t.shape[-1:])                  # a CNN has no final norm: it gets one
    patches = x.flatten(2).transpose(1, 2)
    return [cls_first(norm(patches), norm(patches.mean(1, keepdim=True)))], tuple(x.shape[2:])


def cls_first(patches, cls=None):
    return torch.cat([patches.mean(1, keepdim=True) if cls is None else cls, patches], dim=1)


# ---- transformers ---------------------------------------------------------------------------------------------------

def transformers_type(name):
    """The model type of a folder or Hub id of transformers; None for one of timm. Raises ValueError for a type that is not read here."""
    if os.path.isdir(name):
        with open(os.path.join(name, 'config.json')) as f:
            kind = json.load(f).get('model_type')
    else:
        kind = AutoConfig.from_pretrained(name).model_type if '/' in name and ':' not in name else None
    if kind == 'timm_wrapper':                                      # timm's models on the Hub
        return None
    if kind and kind not in TYPES:
        raise ValueError(f'it is of type {kind!r}; of transformers, {", ".join(TYPES)} can be read')
    return kind


def load_model(kind, name, pretrained):
    return kind.from_pretrained(name, dtype=torch.float32) if pretrained else kind(kind.config_class())


def make_ast(encoder, _, pretrained):
    encoder.model = load_model(ASTModel, encoder.name, pretrained)
    return Preprocessing('audio', (encoder.model.config.max_length, encoder.model.config.num_mel_bins))


def read_ast(encoder, x):
    """As in DePALM: the pooled token, then the last hidden state, whose first two are CLS and distillation token."""
    last_only(encoder)
    out = encoder.model(x)
    return [cls_first(out.last_hidden_state, out.pooler_output[:, None])], (out.last_hidden_state.shape[1],)


def make_clap(encoder, _, pretrained):
    encoder.model = load_model(ClapModel, encoder.name, pretrained).audio_model
    if encoder.model.config.enable_fusion:
        raise ValueError('a CLAP that fuses crops of long clips cannot be read, the unfused one can')
    return Preprocessing('audio', (1, 1001, 64), extractor=ClapFeatureExtractor(truncation='rand_trunc', frequency_min=50), seconds=10)


def read_clap(encoder, x):
    last_only(encoder)
    out = encoder.model(x)
    return [cls_first(out.last_hidden_state.flatten(2).transpose(1, 2), out.pooler_output[:, None])], tuple(out.last_hidden_state.shape[2:])


def make_whisper(encoder, seconds, pretrained):
    encoder.model = load_model(WhisperModel, encoder.name, pretrained).encoder
    config = encoder.model.config
    seconds = seconds or config.max_source_positions // 50          # 50 states a second
    if seconds * 50 > config.max_source_positions:
        raise ValueError(f'audio_seconds={seconds}: at most {config.max_source_positions // 50}')
    config.max_source_positions = seconds * 50                      # shorter clips: the first positions alone
    encoder.model.embed_positions = nn.Embedding.from_pretrained(encoder.model.embed_positions.weight[:seconds * 50])
    extractor = WhisperFeatureExtractor(config.num_mel_bins, chunk_length=seconds)
    return Preprocessing('audio', (config.num_mel_bins, seconds * 100), extractor=extractor, seconds=seconds)


def read_whisper(encoder, x):
    out = encoder.model(x, output_hidden_states=True)
    states = [*map(encoder.model.layer_norm, out.hidden_states[1:][-encoder.source_layers:-1]), out.last_hidden_state]
    return [cls_first(s) for s in states], (out.last_hidden_state.shape[1],)


def make_timesformer(encoder, frames, pretrained):
    encoder.model = load_model(TimesformerModel, encoder.name, pretrained)
    config = encoder.model.config
    config.num_frames = frames or config.num_frames                 # its layers go by it; time embeddings are interpolated
    return Preprocessing('video', (config.num_frames, 3, config.image_size, config.image_size), *CLIP, 'bicubic')


def read_timesformer(encoder, x):
    """Tokens as they come: the frames of a patch follow one another."""
    T, *_, size = encoder.preprocessing.shape
    side = size // encoder.model.config.patch_size
    states = encoder.model(x, output_hidden_states=True).hidden_states[1:][-encoder.source_layers:]     # no norm, as in DePALM
    if encoder.video_tokens == 'mean':
        return [cls_first(s[:, 1:].unflatten(1, (-1, T)).mean(2), s[:, :1]) for s in states], (side, side)
    return list(states), (side * side * T,)


def last_only(encoder):
    if encoder.source_layers > 1:
        raise ValueError(f'source_layers={encoder.source_layers}: of {encoder.name} only the last can be read')


# model type -> how it is made and how it is read
TYPES = {'audio-spectrogram-transformer': (make_ast, read_ast), 'clap': (make_clap, read_clap), 'whisper': (make_whisper, read_whisper),
         'timesformer': (make_timesformer, read_timesformer)}
