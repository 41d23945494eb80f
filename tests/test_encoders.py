"""
The frozen encoders: the named ones at their real size on the meta device, which computes shapes
alone, and a tiny one of every kind for real.
"""

import functools

import pytest
import timm
import torch
import torch.nn.functional as F
import transformers
from conftest import configured

import encoders
from adapters import Adapter, AdapterConfig
from encoders import ENCODERS, Encoder, EncoderGroup, HubEncoder, TimmEncoder, make_encoder

# ---- the named encoders at their real size -------------------------------------------------------

# name -> width, side of the square grid of patches
WIDTH_AND_SIDE = dict(
    eva_clip_l=(1024, 16),
    clip_b=(768, 14),
    clip_l=(1024, 16),
    laion_clip_b=(768, 14),
    laion_clip_l=(1024, 16),
    dinov2_s=(384, 16),
    dinov2_b=(768, 16),
    dinov2_l=(1024, 16),
    dinov2_g=(1536, 16),
    vit_b_in1k=(768, 14),
    vit_b_in21k=(768, 14),
    vit_b_in21k_ft=(768, 14),
    vit_l_in21k=(1024, 14),
    vit_b_in21k_ft_clipnorm=(768, 14),
    vit_l_in21k_clipnorm=(1024, 14),
    siglip_b=(768, 14),
    siglip_l=(1024, 16),
)
# name -> shape of its input, (tokens with CLS, width), grid
SOUND_AND_VIDEO = dict(
    audiomae=((1024, 128), (513, 768), (64, 8)),
    ast=((1024, 128), (1215, 768), (1214,)),
    ast_last=((1024, 128), (1215, 768), (1214,)),
    ast_cls=((1024, 128), (1215, 768), (1214,)),
    clap=((1, 1001, 64), (1025, 512), (1024,)),
    whisper_tiny=((80, 3000), (1501, 384), (1500,)),
    timesformer_k400=((8, 3, 224, 224), (1569, 768), (1568,)),
    timesformer_k600=((8, 3, 224, 224), (1569, 768), (1568,)),
)
# those whose squashed images DePALM gave to timm's own transform
ENLARGED = ('eva_clip_l', 'vit_b_in1k', 'vit_b_in21k', 'vit_b_in21k_ft', 'vit_l_in21k')


# large ones that differ from another in their weights or size alone
SLOW = ('laion_clip_l', 'vit_l_in21k', 'vit_l_in21k_clipnorm', 'siglip_l', 'dinov2_g')


def image_encoders():
    names = []
    for name in WIDTH_AND_SIDE:
        marks = [pytest.mark.slow] if name in SLOW else []
        names.append(pytest.param(name, marks=marks))
    return names


every_image_encoder = pytest.mark.parametrize('name', image_encoders())


@functools.cache
def meta_encoder(name, source_layers=2):
    """An encoder without weights, built once for all tests of this file."""
    with torch.device('meta'):
        return Encoder(name, source_layers, pretrained=False)


@functools.cache
def meta_states(name, source_layers=2, batch_size=2):
    encoder = meta_encoder(name, source_layers)
    with torch.device('meta'):
        return encoder(torch.zeros(batch_size, *encoder.preprocessing.shape))


def has_quick_gelu(model):
    for module in model.modules():
        if 'QuickGELU' in type(module).__name__ or 'quick_gelu' in repr(module):
            return True
    return False


def test_every_short_name_is_tested_here():
    assert {*WIDTH_AND_SIDE, *SOUND_AND_VIDEO} == set(ENCODERS)
    of_timm = [name for name, entry in ENCODERS.items() if isinstance(entry, TimmEncoder)]
    assert {*WIDTH_AND_SIDE, 'audiomae'} == set(of_timm)


@every_image_encoder
def test_named_image_encoders_have_their_width_and_grid(name):
    width, side = WIDTH_AND_SIDE[name]
    encoder = meta_encoder(name)
    assert encoder.dim == width
    assert encoder.grid == (side, side)
    assert [state.shape for state in meta_states(name)] == [(2, 1 + side**2, width)] * 2
    pixels = 256 if name == 'siglip_l' else 224
    assert encoder.preprocessing.shape == (3, pixels, pixels)
    assert encoder.model.num_prefix_tokens == (0 if 'siglip' in name else 1)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


@every_image_encoder
def test_only_the_clip_of_openai_has_quick_gelu(name):
    assert has_quick_gelu(meta_encoder(name).model) == (name in ('clip_b', 'clip_l'))


@every_image_encoder
def test_images_have_the_mean_of_the_models_pretraining_unless_it_is_epalms(name):
    encoder = meta_encoder(name)
    if 'clipnorm' not in name:
        assert encoder.preprocessing.mean == timm.get_pretrained_cfg(encoder.name).mean
        return
    clip = meta_encoder('clip_b').preprocessing
    assert encoder.preprocessing.mean == clip.mean
    assert encoder.preprocessing.std == clip.std
    assert encoder.name.endswith('_patch16_224.augreg_in21k_ft_in1k')


@every_image_encoder
def test_the_crop_of_timm_is_applied_where_depalm_applied_it(name):
    expected = 0.9 if name in ENLARGED else 1.0
    assert meta_encoder(name).preprocessing.crop_pct == expected


@pytest.mark.parametrize('name', SOUND_AND_VIDEO)
def test_named_encoders_of_sound_and_video_have_their_width_and_grid(name):
    shape, tokens, grid = SOUND_AND_VIDEO[name]
    encoder = meta_encoder(name)
    assert encoder.preprocessing.shape == shape
    assert encoder.dim == tokens[1]
    assert encoder.grid == grid
    assert [state.shape for state in meta_states(name)] == [(2, *tokens)] * 2
    assert encoder.medium == ('video' if 'timesformer' in name else 'audio')
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


# ---- every mechanism on sound --------------------------------------------------------------------

ANY_LENGTH = (
    'qp_l0',
    'qp_inner',
    'c_attn',
    'epalm',
    'epalm_opt',
    'epalm_original',
    'mapl',
    'limber_1',
    'limber_all',
    'r_rand',
)
GROUPS_OF_FOUR = ('r_avgpool', 'r_linear', 'r_qpmapper')


def mechanism_on_sound(mechanism, name):
    """What the adapter of config/data/audiocaps.py with the file of a mechanism returns, as shapes
    alone. name: of another encoder than the config's."""
    config = configured('audiocaps', mechanism)
    cfg = AdapterConfig(**{key: config[key] for key in AdapterConfig.__dataclass_fields__})
    name = name or config['encoder']
    encoder = meta_encoder(name, cfg.source_layers)
    with torch.device('meta'):
        adapter = Adapter(cfg, encoder.dim, encoder.grid, 4096, 32, 4096).eval()
        return adapter(meta_states(name, cfg.source_layers, batch_size=1))


@pytest.mark.parametrize('mechanism', ANY_LENGTH)
@pytest.mark.parametrize('name', [None, 'ast', 'ast_cls', 'clap'])
def test_every_mechanism_finds_the_source_layers_it_reads_of_sound(mechanism, name):
    assert mechanism_on_sound(mechanism, name) or mechanism == 'c_attn'


@pytest.mark.parametrize('mechanism', GROUPS_OF_FOUR)
def test_resamplers_find_whole_groups_in_clap_and_say_so_where_ast_has_none(mechanism):
    assert mechanism_on_sound(mechanism, 'clap')
    # AST has 1,214 tokens
    with pytest.raises(ValueError, match='reduction=4 does not tile'):
        mechanism_on_sound(mechanism, None)


# ---- tiny models of timm -------------------------------------------------------------------------

VIT_SIZES = dict(img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=2)
TINY_VITS = dict(
    cls=('vit_tiny_patch16_224', VIT_SIZES),
    no_cls=('vit_base_patch16_siglip_224', VIT_SIZES | dict(num_classes=0)),
    registers=('vit_small_patch14_reg4_dinov2', VIT_SIZES),
    eva=('eva02_tiny_patch14_224', VIT_SIZES),
)


def save_timm(folder, name, **sizes):
    """Writes a model of timm with random weights into a folder, which it returns as a text."""
    torch.manual_seed(0)
    model = timm.create_model(name, **sizes)
    with torch.no_grad():
        for parameter in model.parameters():
            # else DINO's LayerScale would hide what a block does
            parameter += 0.1 * torch.randn_like(parameter)
    timm.models.save_for_hf(model, folder, model_args=sizes, safe_serialization=True)
    return str(folder)


@pytest.mark.parametrize('kind', TINY_VITS)
def test_a_vit_returns_cls_and_patches_of_its_last_layers(kind, tmp_path):
    name, sizes = TINY_VITS[kind]
    encoder = Encoder(save_timm(tmp_path, name, **sizes), source_layers=2)
    pixels = torch.randn(2, 3, 32, 32, requires_grad=True)
    before, last = encoder(pixels)
    assert before.shape == last.shape == (2, 17, 48)
    assert encoder.grid == (4, 4)
    assert not last.requires_grad
    if kind == 'eva':
        # EVA's final norm is not applied
        encoder.model.norm = torch.nn.Identity()
    # [CLS, registers, patches], normed
    plain = encoder.model.forward_features(pixels).detach()
    n_prefix = encoder.model.num_prefix_tokens
    patches = plain[:, n_prefix:]
    torch.testing.assert_close(last[:, 1:], patches)
    torch.testing.assert_close(last[:, 0], plain[:, 0] if n_prefix else patches.mean(1))
    assert (before - last).abs().max() > 0.1


def test_a_cnn_returns_its_last_three_feature_maps_joined_and_normed(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model('tf_efficientnet_lite0')
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    encoder = Encoder(str(tmp_path), image_size=96)
    pixels = torch.randn(2, 3, 96, 96)
    (tokens,) = encoder(pixels)
    assert tokens.shape == (2, 1 + 9, 40 + 112 + 320)
    assert encoder.grid == (3, 3)
    assert not tokens.requires_grad
    # (2, 40, 12, 12), (2, 112, 6, 6), (2, 320, 3, 3)
    low, middle, high = encoder.model.forward_intermediates(
        pixels, indices=3, intermediates_only=True
    )
    patches = [
        low[:, :, 4:8, 8:12].mean((2, 3)),
        middle[:, :, 2:4, 4:6].mean((2, 3)),
        high[:, :, 1, 2],
    ]
    normed = [F.layer_norm(patch, patch.shape[1:]) for patch in patches]
    torch.testing.assert_close(tokens[:, 1 + 3 * 1 + 2], torch.cat(normed, dim=1))
    means = [stage.mean((2, 3)) for stage in (low, middle, high)]
    normed = [F.layer_norm(mean, mean.shape[1:]) for mean in means]
    torch.testing.assert_close(tokens[:, 0], torch.cat(normed, dim=1))
    with pytest.raises(ValueError, match='source_layers=2'):
        Encoder(str(tmp_path), source_layers=2, image_size=96)


def test_patches_are_pooled_to_a_coarser_grid(encoder):
    plain = Encoder(str(encoder), source_layers=2)
    halves = Encoder(str(encoder), source_layers=2, pool_patches=2)
    thirds = Encoder(str(encoder), source_layers=2, pool_patches=3)
    assert plain.grid == (4, 4)
    assert halves.grid == (2, 2)
    assert thirds.grid == (3, 3)
    x = random_input(plain)
    for state, half, third in zip(plain(x), halves(x), thirds(x), strict=True):
        torch.testing.assert_close(half[:, :1], state[:, :1])
        torch.testing.assert_close(third[:, :1], state[:, :1])
        # (B, H, W, D)
        patches = state[:, 1:].unflatten(1, (4, 4))
        torch.testing.assert_close(half[:, 2], patches[:, :2, 2:].mean((1, 2)))
        # three parts of four rows: 0 and 1, 1 and 2, 2 and 3
        torch.testing.assert_close(third[:, 5], patches[:, 1:3, 1:3].mean((1, 2)))


def test_patches_of_each_frame_are_pooled_by_themselves(encoder):
    image = Encoder(str(encoder), pool_patches=2)
    video = Encoder(str(encoder), pool_patches=2, video_frames=3)
    assert video.grid == (6, 2)
    x = torch.randn(2, 3, 3, 32, 32)
    frames = [image(x[:, t])[0][:, 1:] for t in range(3)]
    torch.testing.assert_close(video(x)[0][:, 1:], torch.cat(frames, dim=1))


def test_more_pooled_patches_than_there_are_patches_are_refused(encoder):
    with pytest.raises(ValueError, match='pool_patches=5: expected at most 4.*4x4 patches'):
        Encoder(str(encoder), pool_patches=5)


def test_a_vit_of_one_channel_takes_spectrograms(tmp_path):
    sizes = dict(img_size=(64, 32), in_chans=1, embed_dim=48, depth=2, num_heads=2, num_classes=0)
    folder = save_timm(tmp_path, 'vit_base_patch16_224', patch_size=16, **sizes)
    encoder = Encoder(folder)
    x = random_input(encoder)
    (tokens,) = encoder(x)
    assert encoder.medium == 'audio'
    assert x.shape == (2, 64, 32)
    assert encoder.grid == (4, 2)
    plain = encoder.model.forward_features(x[:, None]).detach()
    torch.testing.assert_close(tokens, plain)


def test_an_image_encoder_sees_each_frame_of_a_video_by_itself(encoder):
    image = Encoder(str(encoder), source_layers=2)
    video = Encoder(str(encoder), source_layers=2, video_frames=3)
    mean = Encoder(str(encoder), source_layers=2, video_frames=3, video_tokens='mean')
    assert video.medium == 'video'
    assert video.preprocessing.shape == (3, 3, 32, 32)
    assert video.grid == (12, 4)
    assert mean.grid == (4, 4)
    x = torch.randn(2, 3, 3, 32, 32)
    frames = [image(x[:, t]) for t in range(3)]
    for layer, (all_frames, averaged) in enumerate(zip(video(x), mean(x), strict=True)):
        states = [frame[layer] for frame in frames]
        patches = torch.cat([state[:, 1:] for state in states], dim=1)
        torch.testing.assert_close(all_frames[:, 1:], patches)
        torch.testing.assert_close(all_frames[:, 0], torch.stack(states).mean(0)[:, 0])
        torch.testing.assert_close(averaged, torch.stack(states).mean(0))


# ---- tiny models of transformers -----------------------------------------------------------------

LAYERS = dict(hidden_size=48, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64)


def tiny_ast():
    config = transformers.ASTConfig(max_length=64, num_mel_bins=32, **LAYERS)
    return transformers.ASTModel(config)


def tiny_clap():
    audio = dict(
        patch_embeds_hidden_size=16,
        hidden_size=128,
        depths=[1, 1, 1, 1],
        num_attention_heads=[2, 2, 2, 2],
        spec_size=256,
    )
    text = LAYERS | dict(projection_dim=8, vocab_size=9)
    return transformers.ClapModel(transformers.ClapConfig(audio_config=audio, text_config=text))


def tiny_whisper():
    config = transformers.WhisperConfig(
        vocab_size=9,
        num_mel_bins=80,
        d_model=48,
        encoder_layers=3,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_source_positions=150,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    return transformers.WhisperModel(config)


def tiny_timesformer():
    config = transformers.TimesformerConfig(image_size=32, patch_size=8, num_frames=4, **LAYERS)
    return transformers.TimesformerModel(config)


TINY_HUB = dict(ast=tiny_ast, clap=tiny_clap, whisper=tiny_whisper, timesformer=tiny_timesformer)


@pytest.fixture
def hub(tmp_path):
    """hub(kind, **options) -> (the stock model of transformers, our encoder of its folder)."""

    def make(kind, **options):
        torch.manual_seed(0)
        model = TINY_HUB[kind]().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        model.save_pretrained(tmp_path)
        return model, Encoder(str(tmp_path), **options)

    return make


def random_input(encoder):
    return torch.randn(2, *encoder.preprocessing.shape)


def named(monkeypatch, name, encoder):
    """Gives the folder of a tiny encoder the short name of a real one."""
    monkeypatch.setitem(ENCODERS, name, ENCODERS[name]._replace(id=encoder.name))


def states_of_ast(model, x):
    """The normed state after each block of a stock ASTModel, by a loop over its blocks."""
    layers = model.layers if hasattr(model, 'layers') else model.encoder.layer
    hidden = model.embeddings(x)
    states = []
    for layer in layers:
        hidden = layer(hidden)
        if isinstance(hidden, tuple):
            hidden = hidden[0]
        states.append(model.layernorm(hidden).detach())
    return states


def test_ast_returns_its_last_blocks_normed_behind_their_pooled_tokens(hub):
    model, encoder = hub('ast', source_layers=2)
    x = random_input(encoder)
    tokens = encoder(x)
    assert encoder.preprocessing.shape == (64, 32)
    assert encoder.grid == (2 + 2 * 5,)
    for ours, state in zip(tokens, states_of_ast(model, x)[-2:], strict=True):
        torch.testing.assert_close(ours[:, 0], (state[:, 0] + state[:, 1]) / 2)
        torch.testing.assert_close(ours[:, 1:], state)
    output = model(x)
    torch.testing.assert_close(tokens[-1][:, 0], output.pooler_output.detach())
    torch.testing.assert_close(tokens[-1][:, 1:], output.last_hidden_state.detach())
    assert (tokens[0] - tokens[1]).abs().max() > 0.1


def test_ast_as_in_depalm_repeats_its_last_state(hub, monkeypatch):
    model, one = hub('ast')
    named(monkeypatch, 'ast_last', one)
    encoder = Encoder('ast_last', source_layers=4)
    x = random_input(encoder)
    output = model(x)
    tokens = encoder(x)
    assert len(tokens) == 4
    assert encoder.grid == one.grid
    for state in tokens:
        torch.testing.assert_close(state[:, 0], output.pooler_output.detach())
        torch.testing.assert_close(state[:, 1:], output.last_hidden_state.detach())
    torch.testing.assert_close(one(x)[0], tokens[0])


def test_ast_as_in_epalm_has_cls_in_front(hub, monkeypatch):
    model, one = hub('ast')
    named(monkeypatch, 'ast_cls', one)
    encoder = Encoder('ast_cls', source_layers=3)
    x = random_input(encoder)
    for ours, state in zip(encoder(x), states_of_ast(model, x), strict=True):
        torch.testing.assert_close(ours[:, 0], state[:, 0])
        torch.testing.assert_close(ours[:, 1:], state)


def test_the_three_ways_to_read_ast_have_different_fingerprints(hub, monkeypatch):
    """So they do not share a feature cache, although their weights are the same."""
    _, one = hub('ast')
    fingerprints = {one.fingerprint()}
    for name in ('ast_last', 'ast_cls'):
        named(monkeypatch, name, one)
        fingerprints.add(Encoder(name).fingerprint())
    assert len(fingerprints) == 3


def test_clap_returns_the_tokens_of_depalm_of_length_one_and_repeats_them(hub):
    model, encoder = hub('clap', source_layers=3)
    x = random_input(encoder)
    states = encoder(x)
    tokens = states[0]
    assert len(states) == 3
    assert all(state.equal(tokens) for state in states)
    assert tokens.shape == (2, 1 + 1024, 512)
    assert encoder.grid == (1024,)
    torch.testing.assert_close(tokens.norm(dim=-1), torch.ones(2, 1025))
    # the pooled token is the model's own embedding of a sound
    embedding = model.get_audio_features(x)
    if not isinstance(embedding, torch.Tensor):
        embedding = embedding.pooler_output
    torch.testing.assert_close(tokens[:, 0], F.normalize(embedding.detach(), dim=-1))
    # frame 333 lies in step 333 // 32 of the map (B, D, 2 bands, 32 steps)
    feature_map = model.audio_model(x).last_hidden_state
    step = (feature_map[:, :, 0, 10] + feature_map[:, :, 1, 10]) / 2
    fine_grained = F.normalize(model.audio_projection(step), dim=-1).detach()
    torch.testing.assert_close(tokens[:, 1 + 333], fine_grained)


def test_clap_is_read_in_float32_within_autocast(hub):
    _, encoder = hub('clap')
    x = random_input(encoder)
    plain = encoder(x)[0]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert encoder(x)[0].equal(plain)


def test_a_clap_that_fuses_crops_is_refused(tmp_path):
    model = tiny_clap()
    model.config.audio_config.enable_fusion = True
    transformers.ClapModel(model.config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match='fuses'):
        Encoder(str(tmp_path))


def test_whisper_returns_its_last_layers_normed_behind_their_means(hub):
    model, encoder = hub('whisper', source_layers=2)
    x = random_input(encoder)
    before, last = encoder(x)
    assert encoder.preprocessing.shape == (80, 300)
    assert encoder.grid == (150,)
    outputs = []

    def keep(layer, args, output):
        outputs.append(output[0] if isinstance(output, tuple) else output)

    model.encoder.layers[1].register_forward_hook(keep)
    plain = model.encoder(x).last_hidden_state.detach()
    torch.testing.assert_close(last[:, 1:], plain)
    torch.testing.assert_close(last[:, 0], plain.mean(1))
    torch.testing.assert_close(before[:, 1:], model.encoder.layer_norm(outputs[0]).detach())


def test_whisper_of_short_clips_has_the_first_positions_alone(hub):
    model, encoder = hub('whisper', audio_seconds=2)
    x = random_input(encoder)
    assert encoder.preprocessing.shape == (80, 200)
    assert encoder.preprocessing.extractor.chunk_length == 2
    assert encoder(x)[0].shape == (2, 101, 48)
    sizes = model.config.to_dict() | dict(max_source_positions=100)
    short = transformers.WhisperModel(transformers.WhisperConfig(**sizes)).encoder.eval()
    weights = model.encoder.state_dict()
    weights['embed_positions.weight'] = weights['embed_positions.weight'][:100]
    short.load_state_dict(weights)
    torch.testing.assert_close(encoder(x)[0][:, 1:], short(x).last_hidden_state.detach())
    with pytest.raises(ValueError, match='at most 3'):
        hub('whisper', audio_seconds=4)


@pytest.mark.parametrize('frames', [0, 6])
def test_timesformer_returns_its_last_blocks_normed(hub, frames):
    model, encoder = hub('timesformer', source_layers=2, video_frames=frames)
    x = random_input(encoder)
    T = frames or 4
    # the layers of the stock model read it as well
    model.config.num_frames = T
    assert x.shape == (2, T, 3, 32, 32)
    assert encoder.grid == (16 * T,)
    # the state after each block, through the model's final norm, as in both originals
    plain = []
    hidden = model.embeddings(x)
    for layer in model.encoder.layer:
        hidden = layer(hidden)[0]
        plain.append(model.layernorm(hidden).detach())
    for ours, theirs in zip(encoder(x), plain[-2:], strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(plain[-1], model(x).last_hidden_state.detach())
    # and the mean over time
    _, mean = hub('timesformer', video_frames=frames, video_tokens='mean')
    (tokens,) = mean(x)
    assert tokens.shape == (2, 17, 48)
    assert mean.grid == (4, 4)
    of_patch = plain[-1][:, 1:].reshape(2, 16, T, 48)[:, 5]
    torch.testing.assert_close(tokens[:, 1 + 5], of_patch.mean(1))


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize('kind', ['whisper', 'timesformer'])
def test_more_source_layers_than_the_model_has_are_refused(hub, kind):
    with pytest.raises(ValueError, match='has 3 layers'):
        hub(kind, source_layers=4)


@pytest.mark.parametrize(
    'kind, option, value',
    [
        ('ast', 'audio_seconds', 3),
        ('whisper', 'video_frames', 3),
        ('clap', 'image_size', 32),
        ('timesformer', 'image_size', 64),
        ('timesformer', 'pool_patches', 2),
    ],
)
def test_options_of_other_media_are_refused(hub, kind, option, value):
    with pytest.raises(ValueError, match=f'takes no {option}'):
        hub(kind, **{option: value})


def test_what_timm_cannot_compute_is_refused(encoder):
    with pytest.raises(ValueError, match='does not work with image_size=0, source_layers=9'):
        Encoder(str(encoder), source_layers=9)


def test_other_types_of_transformers_are_refused(tmp_path):
    transformers.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="type 'bert'.*whisper"):
        Encoder(str(tmp_path))


def test_an_encoder_that_does_not_exist_is_named():
    with pytest.raises(FileNotFoundError, match="encoder 'no_such_vit' could not be loaded"):
        Encoder('no_such_vit')


# ---- several encoders ----------------------------------------------------------------------------


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """Folders of three tiny ViTs: wide (4 x 4 patches of 48 of 32 pixels), small (as many patches
    of 32, of 16 pixels) and fine (8 x 8 patches of 32, of 32 pixels)."""
    sizes = dict(
        wide=dict(img_size=32, patch_size=8, embed_dim=48),
        small=dict(img_size=16, patch_size=4, embed_dim=32),
        fine=dict(img_size=32, patch_size=4, embed_dim=32),
    )
    made = {}
    for name, size in sizes.items():
        folder = tmp_path_factory.mktemp(name)
        made[name] = save_timm(folder, 'vit_tiny_patch16_224', depth=2, num_heads=2, **size)
    return made


def group_of(folders, *names, source_layers=2, **config):
    """The encoder that a run has with these names in its config."""
    paths = ','.join(folders[name] for name in names)
    defaults = dict(
        image_size=0, video_frames=0, video_tokens='all', audio_seconds=0, pool_patches=0
    )
    return make_encoder(defaults | config | dict(encoder=paths), source_layers)


def inputs_of(group):
    torch.manual_seed(1)
    return tuple(torch.randn(2, *one.shape) for one in group.preprocessing)


def test_a_config_with_one_name_has_a_plain_encoder_and_with_none_nothing(folders):
    encoder = group_of(folders, 'wide')
    assert isinstance(encoder, Encoder)
    assert encoder.source_layers == 2
    assert make_encoder(dict(encoder=None), 2) is None


def test_a_folder_with_a_comma_in_its_name_is_one_encoder(tmp_path):
    folder = tmp_path / 'one, two'
    folder.mkdir()
    sizes = dict(VIT_SIZES, depth=1)
    path = save_timm(folder, 'vit_tiny_patch16_224', **sizes)
    assert isinstance(group_of(dict(both=path), 'both', source_layers=1), Encoder)


def test_encoders_side_by_side_keep_their_own_states(folders):
    group = group_of(folders, 'wide', 'fine')
    assert isinstance(group, EncoderGroup)
    assert group.join == 'tokens'
    assert group.dim == (48, 32)
    assert group.grid == ((4, 4), (8, 8))
    assert group.medium == 'image'
    assert group.type == (None, None)
    assert group.source_layers == 2
    assert group.name == f'{folders["wide"]},{folders["fine"]}'
    pixels = inputs_of(group)
    states = group(pixels)
    for name, x, ours in zip(('wide', 'fine'), pixels, states, strict=True):
        theirs = group_of(folders, name)(x)
        assert len(ours) == 2
        assert all(a.equal(b) for a, b in zip(ours, theirs, strict=True))


def test_encoders_joined_by_channels_have_their_states_patch_by_patch(folders):
    group = group_of(folders, 'wide', 'small', encoder_join='channels')
    assert group.dim == 48 + 32
    assert group.grid == (4, 4)
    # each loads the file at its own size
    assert [one.shape for one in group.preprocessing] == [(3, 32, 32), (3, 16, 16)]
    pixels = inputs_of(group)
    states = group(pixels)
    wide = group_of(folders, 'wide')(pixels[0])
    small = group_of(folders, 'small')(pixels[1])
    assert [state.shape for state in states] == [(2, 17, 80)] * 2
    for state, first, second in zip(states, wide, small, strict=True):
        assert state.equal(torch.cat([first, second], dim=-1))


def test_channels_of_different_grids_cannot_be_joined(folders):
    with pytest.raises(ValueError) as error:
        group_of(folders, 'wide', 'fine', encoder_join='channels')
    message = str(error.value)
    for part in ('4x4', '8x8', '--encoder_join=tokens', '--image_size', folders['fine']):
        assert part in message


def test_the_image_size_is_that_of_all_encoders(folders):
    group = group_of(folders, 'wide', 'fine', image_size=16)
    assert [one.shape for one in group.preprocessing] == [(3, 16, 16)] * 2
    assert group.grid == ((2, 2), (4, 4))


def test_encoders_of_different_media_cannot_be_joined(folders, hub):
    _, whisper = hub('whisper')
    image = group_of(folders, 'wide', source_layers=1)
    with pytest.raises(ValueError, match='image files and .* audio files') as error:
        EncoderGroup([image, whisper])
    assert 'video_frames' not in str(error.value)


def test_an_image_encoder_joins_one_of_video_with_as_many_frames(folders, hub):
    _, timesformer = hub('timesformer')
    both = folders | dict(timesformer=timesformer.name)
    with pytest.raises(ValueError, match='--video_frames=8'):
        group_of(both, 'wide', 'timesformer', source_layers=1)
    group = group_of(both, 'wide', 'timesformer', source_layers=1, video_frames=4)
    assert group.medium == 'video'
    assert [one.shape for one in group.preprocessing] == [(4, 3, 32, 32)] * 2
    assert group.grid == ((16, 4), (64,))


def test_a_way_to_join_that_does_not_exist_is_refused(folders):
    with pytest.raises(ValueError, match="encoder_join='layers'.*'tokens' or 'channels'"):
        group_of(folders, 'wide', 'fine', encoder_join='layers')


def test_one_encoder_of_a_list_that_does_not_exist_is_named(folders):
    with pytest.raises(FileNotFoundError, match="encoder 'no_such_vit' could not be loaded"):
        group_of(folders | dict(other='no_such_vit'), 'wide', 'other')


def test_clip_l_and_dinov2_l_can_be_joined_by_channels():
    group = EncoderGroup([meta_encoder('clip_l'), meta_encoder('dinov2_l')], 'channels')
    assert group.dim == 2048
    assert group.grid == (16, 16)
    with torch.device('meta'):
        states = group(tuple(torch.zeros(1, 3, 224, 224) for _ in range(2)))
    assert [state.shape for state in states] == [(1, 257, 2048)] * 2


def test_a_group_is_frozen_unless_it_is_tuned(folders):
    group = group_of(folders, 'wide', 'fine')
    assert not any(parameter.requires_grad for parameter in group.parameters())
    assert not group(inputs_of(group))[0][0].requires_grad
    group.encoders[1].model.norm.requires_grad_(True)
    wide, fine = group(inputs_of(group))
    assert not wide[0].requires_grad
    assert fine[0].requires_grad


def test_families_and_names_fit_together():
    for name, entry in ENCODERS.items():
        if isinstance(entry, HubEncoder):
            assert entry.type in encoders.FAMILIES, name
