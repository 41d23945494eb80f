"""
The frozen encoders of pictures, sound and video: any ViT, EVA or CNN of timm; AST, CLAP, Whisper and TimeSformer of transformers.

An `Encoder` says what it takes (`preprocessing`, by which media.py loads a file) and gives its last n hidden states, each (B, 1+N, D):
CLS, or a mean where there is none, then N patches in the encoder's own order. B inputs, T frames, D width.
"""
import hashlib
import json
import os
from dataclasses import dataclass
from typing import NamedTuple

import nanopalm.wheels  # noqa: F401  (first: mends torchvision on CPU-only torch)

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

CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)   # mean and std


class Timm(NamedTuple):
    """An image model of timm, and what of the papers' pictures is not timm's default for it."""
    id: str
    pixels: int = 0             # 0 = its own
    # DePALM squashed a picture and then gave it to timm's transform, which by the model's crop_pct
    # enlarges it again and cuts out the centre. False: the original read it through another
    # library (CLIP, DINOv2) or with no such transform (eP-ALM), or did not read it.
    crop: bool = False
    mean_std: tuple = ()        # () = timm's


# short name -> the model. timm brings mean, std, interpolation and crop_pct.
TIMM = dict(
    eva_clip_l=Timm('eva02_large_patch14_clip_224.merged2b', crop=True),
    # OpenAI's have QuickGELU, which their names in timm must say
    clip_b=Timm('vit_base_patch16_clip_quickgelu_224.openai'),
    clip_l=Timm('vit_large_patch14_clip_quickgelu_224.openai'),
    laion_clip_b=Timm('vit_base_patch16_clip_224.laion2b'),
    laion_clip_l=Timm('vit_large_patch14_clip_224.laion2b'),
    # 518 pixels by themselves
    dinov2_s=Timm('vit_small_patch14_dinov2.lvd142m', 224),
    dinov2_b=Timm('vit_base_patch14_dinov2.lvd142m', 224),
    dinov2_l=Timm('vit_large_patch14_dinov2.lvd142m', 224),
    dinov2_g=Timm('vit_giant_patch14_dinov2.lvd142m', 224),
    vit_b_in1k=Timm('vit_base_patch16_224.augreg_in1k', crop=True),
    vit_b_in21k=Timm('vit_base_patch16_224.augreg_in21k', crop=True),
    vit_b_in21k_ft=Timm('vit_base_patch16_224.augreg2_in21k_ft_in1k', crop=True),
    vit_l_in21k=Timm('vit_large_patch16_224.augreg_in21k_ft_in1k', crop=True),
    # eP-ALM's two: CLIP's mean and std although they were trained with others
    vit_b_in21k_ft_clipnorm=Timm('vit_base_patch16_224.augreg_in21k_ft_in1k', mean_std=CLIP),
    vit_l_in21k_clipnorm=Timm('vit_large_patch16_224.augreg_in21k_ft_in1k', mean_std=CLIP),
    siglip_b=Timm('vit_base_patch16_siglip_224.webli'),
    siglip_l=Timm('vit_large_patch16_siglip_256.webli'),
    # the architecture of MAViL, whose weights were never published
    audiomae=Timm('hf-hub:gaunernst/vit_base_patch16_1024_128.audiomae_as2m'),
)
# short name -> id on the Hub and type there. n source layers of AST are read in one of three ways:
#   ast       the states after its last n blocks, normed, each led by its pooled token, the mean of
#             its CLS and distillation token
#   ast_last  as DePALM: the last of these alone, n times over
#   ast_cls   as eP-ALM: the states after its last n blocks, normed, each led by its CLS
# CLAP has one state, which is given n times over, as DePALM does.
AST = ('MIT/ast-finetuned-audioset-10-10-0.4593', 'audio-spectrogram-transformer')
HUB = dict(
    ast=AST,
    ast_last=AST,
    ast_cls=AST,
    clap=('laion/clap-htsat-unfused', 'clap'),
    whisper_tiny=('openai/whisper-tiny', 'whisper'),
    timesformer_k400=('facebook/timesformer-base-finetuned-k400', 'timesformer'),
    timesformer_k600=('facebook/timesformer-base-finetuned-k600', 'timesformer'),
)
AUDIOMAE = dict(img_size=(1024, 128), in_chans=1, num_classes=0)               # what makes it of a ViT-B/16 where its weights are not wanted


@dataclass
class Preprocessing:
    """How media.py loads a file."""
    medium: str                         # 'image', 'audio' or 'video'
    shape: tuple                        # of what the encoder takes: (3, S, S); (T, 3, S, S); (frames, bands), or as the extractor gives it
    mean: tuple = ()                    # pictures and video
    std: tuple = ()
    interpolation: str = ''
    crop_pct: float = 1.0               # of the enlarged square the side that is seen; 1 = all
    extractor: object = None            # of transformers: makes the spectrogram of a clip of
    seconds: int = 0


class Encoder(nn.Module):
    """x -> the last n hidden states, each (B, 1+N, D), frozen.

    name: a short name above, a timm name, an id on the Hub, or a folder in timm's or transformers' format. x, by medium: 'image'
    (B, 3, H, W); 'video' (B, T, 3, H, W), also for an image encoder that is given video_frames: it sees each frame by itself; 'audio' a
    spectrogram. video_tokens: the patches of 'all' frames, or their 'mean' over time. The final
    norm is applied to every hidden state, but for EVA-CLIP, as in DePALM; CLAP's tokens are of
    length 1.
    """

    def __init__(self, name, source_layers=1, image_size=0, video_frames=0, video_tokens='all', audio_seconds=0, pretrained=True):
        super().__init__()
        self.source_layers, self.video_tokens = source_layers, video_tokens
        self.name, hub_type = HUB.get(name, (name, None))
        try:
            self.type = hub_type or transformers_type(self.name)
            if self.type:
                make, self.read = TYPES[self.type]
                self.read = READINGS.get(name, self.read)
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
        """Hash of the weights and of how they are read: what a feature cache was made with."""
        h = hashlib.blake2b(self.read.__name__.encode(), digest_size=16)
        for name, t in self.model.state_dict().items():
            h.update(name.encode() + t.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return h.hexdigest()


# ---- timm -----------------------------------------------------------------------------------------------------------

def make_timm(encoder, image_size, frames, pretrained):
    known = TIMM.get(encoder.name, Timm(encoder.name))
    encoder.name = known.id
    size = image_size or known.pixels
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
    medium, shape = 'image', (3, size, size)
    if frames:
        medium, shape = 'video', (frames, 3, size, size)
    mean, std = known.mean_std or (data['mean'], data['std'])
    crop_pct = data['crop_pct'] if known.crop else 1.0
    return Preprocessing(medium, shape, mean, std, data['interpolation'], crop_pct)


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
        with open(os.path.join(name, 'config.json'), encoding='utf-8') as f:
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


def normed_states(encoder, x, norm):
    """Returns the last n hidden states of a model of transformers, each (B, N, D) and passed
    through its final norm, which the model itself applies to the last one alone."""
    out = encoder.model(x, output_hidden_states=True)
    # without the embeddings, which stand first
    earlier = out.hidden_states[1:][-encoder.source_layers:-1]
    return [*map(norm, earlier), out.last_hidden_state]


def read_ast(encoder, x):
    """Returns the last n states, (B, 1+N, D): the pooled token of a state as the model makes it,
    the mean of CLS and distillation token, and then the state, whose first two these are."""
    states = normed_states(encoder, x, encoder.model.layernorm)
    led = [cls_first(s, s[:, :2].mean(1, keepdim=True)) for s in states]
    return led, (states[-1].shape[1],)


def read_ast_last(encoder, x):
    """Returns what DePALM reads of AST: the last state as `read_ast` gives it, n times over."""
    last = encoder.model(x)
    state = cls_first(last.last_hidden_state, last.pooler_output[:, None])
    return [state] * encoder.source_layers, (last.last_hidden_state.shape[1],)


def read_ast_cls(encoder, x):
    """Returns what eP-ALM reads of AST: as `read_ast`, but CLS stands in front, not the mean."""
    states = normed_states(encoder, x, encoder.model.layernorm)
    return [cls_first(s, s[:, :1]) for s in states], (states[-1].shape[1],)


def make_clap(encoder, _, pretrained):
    encoder.model = load_model(ClapAudioModelWithProjection, encoder.name, pretrained)
    if encoder.model.config.enable_fusion:
        raise ValueError('a CLAP that fuses crops of long clips cannot be read, the unfused one can')
    extractor = ClapFeatureExtractor(truncation='rand_trunc', frequency_min=50)
    return Preprocessing('audio', (1, 1001, 64), extractor=extractor, seconds=10)


def read_clap(encoder, x):
    """Returns DePALM's tokens of CLAP, n times over: the pooled one and a fine-grained one for each
    of the 1,024 frames that the spectrogram is stretched to, (B, 1+1024, 512), projected into the
    space that CLAP shares with texts and scaled to length 1.

    A fine-grained token is the last feature map's, averaged over frequency (as LAION's CLAP makes
    `fine_grained_embedding`); the map has 32 steps of time, so 32 frames have a token in common.
    In float32, as in DePALM, where half precision gave NaN.
    """
    config = encoder.model.config
    frames = config.spec_size * (config.spec_size // config.num_mel_bins)
    # autocast does not know the meta device
    with torch.autocast('cpu' if x.is_meta else x.device.type, enabled=False):
        out = encoder.model.audio_model(x.float())
        steps = out.last_hidden_state.mean(2).transpose(1, 2)               # (B, 32, D)
        tokens = torch.cat([out.pooler_output[:, None], steps], dim=1)      # (B, 1+32, D)
        tokens = F.normalize(encoder.model.audio_projection(tokens), dim=-1)
    pooled, steps = tokens[:, :1], tokens[:, 1:]
    fine = steps.repeat_interleave(frames // steps.shape[1], dim=1)
    return [torch.cat([pooled, fine], dim=1)] * encoder.source_layers, (frames,)


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
    states = normed_states(encoder, x, encoder.model.layer_norm)
    return [cls_first(s) for s in states], (states[-1].shape[1],)


def make_timesformer(encoder, frames, pretrained):
    encoder.model = load_model(TimesformerModel, encoder.name, pretrained)
    config = encoder.model.config
    config.num_frames = frames or config.num_frames                 # its layers go by it; time embeddings are interpolated
    return Preprocessing('video', (config.num_frames, 3, config.image_size, config.image_size), *CLIP, 'bicubic')


def read_timesformer(encoder, x):
    """Returns the last n states, normed, as both papers; tokens as they come: CLS, then patches,
    the frames of a patch one after another."""
    T, *_, size = encoder.preprocessing.shape
    side = size // encoder.model.config.patch_size
    states = normed_states(encoder, x, encoder.model.layernorm)
    if encoder.video_tokens == 'mean':
        return [cls_first(s[:, 1:].unflatten(1, (-1, T)).mean(2), s[:, :1]) for s in states], (side, side)
    return states, (side * side * T,)


# model type -> how it is made and how it is read
TYPES = {'audio-spectrogram-transformer': (make_ast, read_ast), 'clap': (make_clap, read_clap), 'whisper': (make_whisper, read_whisper),
         'timesformer': (make_timesformer, read_timesformer)}
# short name -> how it is read where its type alone does not say
READINGS = dict(ast_last=read_ast_last, ast_cls=read_ast_cls)
