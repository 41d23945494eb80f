"""
The frozen encoders: the named ones at their real size on the meta device, a tiny one of every kind for real. `pytest tests/test_encoders.py`
"""
import pytest
import timm
import torch
import torch.nn.functional as F
import transformers
from conftest import configured

from adapters import Adapter, AdapterConfig
from encoders import HUB, TIMM, Encoder

WIDTH_AND_GRID = dict(
    eva_clip_l=(1024, 16), clip_b=(768, 14), clip_l=(1024, 16), laion_clip_b=(768, 14), laion_clip_l=(1024, 16), dinov2_s=(384, 16), dinov2_b=(768, 16),
    dinov2_l=(1024, 16), dinov2_g=(1536, 16), vit_b_in1k=(768, 14), vit_b_in21k=(768, 14), vit_b_in21k_ft=(768, 14), vit_l_in21k=(1024, 14),
    vit_b_in21k_ft_clipnorm=(768, 14), vit_l_in21k_clipnorm=(1024, 14),
    siglip_b=(768, 14), siglip_l=(1024, 16))


@pytest.mark.parametrize('name', WIDTH_AND_GRID)
def test_named_encoders(name):
    width, side = WIDTH_AND_GRID[name]
    with torch.device('meta'):
        encoder = Encoder(name, source_layers=2, pretrained=False)
        states = encoder(torch.zeros(3, *encoder.preprocessing.shape))
    assert (encoder.dim, encoder.grid) == (width, (side, side)) and [s.shape for s in states] == [(3, 1 + side ** 2, width)] * 2
    assert encoder.preprocessing.shape == (3, *[256 if name == 'siglip_l' else 224] * 2)
    assert encoder.model.num_prefix_tokens == (0 if 'siglip' in name else 1)
    assert any('QuickGELU' in type(m).__name__ or 'quick_gelu' in repr(m) for m in encoder.model.modules()) == (name in ('clip_b', 'clip_l'))
    assert not any(p.requires_grad for p in encoder.parameters())
    if 'clipnorm' not in name:
        assert encoder.preprocessing.mean == timm.get_pretrained_cfg(encoder.name).mean


# those that DePALM gave to timm's own transform, after the squash
ENLARGED = ('eva_clip_l', 'vit_b_in1k', 'vit_b_in21k', 'vit_b_in21k_ft', 'vit_l_in21k')


@pytest.mark.parametrize('name', WIDTH_AND_GRID)
def test_the_crop_of_timm_is_applied_where_depalm_applied_it(name):
    with torch.device('meta'):
        preprocessing = Encoder(name, pretrained=False).preprocessing
    assert preprocessing.crop_pct == (0.9 if name in ENLARGED else 1.0)


@pytest.mark.parametrize('name', ['vit_b_in21k_ft_clipnorm', 'vit_l_in21k_clipnorm'])
def test_encoders_of_epalm_get_pictures_with_the_mean_and_std_of_clip(name):
    with torch.device('meta'):
        clip = Encoder('clip_b', pretrained=False).preprocessing
        ours = Encoder(name, pretrained=False)
    assert (ours.preprocessing.mean, ours.preprocessing.std) == (clip.mean, clip.std)
    assert ours.name.endswith('_patch16_224.augreg_in21k_ft_in1k')


# name -> what it takes, its tokens (CLS and all), how its patches lie
SOUND_AND_VIDEO = dict(
    audiomae=((1024, 128), (513, 768), (64, 8)),
    ast=((1024, 128), (1215, 768), (1214,)),
    ast_last=((1024, 128), (1215, 768), (1214,)),
    ast_cls=((1024, 128), (1215, 768), (1214,)),
    clap=((1, 1001, 64), (1025, 512), (1024,)),
    whisper_tiny=((80, 3000), (1501, 384), (1500,)),
    timesformer_k400=((8, 3, 224, 224), (1569, 768), (1568,)), timesformer_k600=((8, 3, 224, 224), (1569, 768), (1568,)))


@pytest.mark.parametrize('name', SOUND_AND_VIDEO)
def test_named_encoders_of_sound_and_video(name):
    shape, tokens, grid = SOUND_AND_VIDEO[name]
    n = 2
    with torch.device('meta'):
        encoder = Encoder(name, source_layers=n, pretrained=False)
        states = encoder(torch.zeros(2, *shape))
    assert (encoder.preprocessing.shape, encoder.dim, encoder.grid) == (shape, tokens[1], grid) and [s.shape for s in states] == [(2, *tokens)] * n
    assert encoder.preprocessing.medium == ('video' if 'timesformer' in name else 'audio') and not any(p.requires_grad for p in encoder.parameters())


def test_every_name_has_its_shape_here():
    assert {*WIDTH_AND_GRID, *SOUND_AND_VIDEO} == {*TIMM, *HUB} and set(WIDTH_AND_GRID) == {*TIMM} - {'audiomae'}


small = dict(img_size=32, embed_dim=48, depth=3, num_heads=2)
TINY = dict(
    cls=('vit_tiny_patch16_224', small | dict(patch_size=8)),
    no_cls=('vit_base_patch16_siglip_224', small | dict(patch_size=8, num_classes=0)),
    registers=('vit_small_patch14_reg4_dinov2', small | dict(patch_size=8)),
    eva=('eva02_tiny_patch14_224', small | dict(patch_size=8)))


@pytest.mark.parametrize('kind', TINY)
def test_tiny_vits(kind, tmp_path):
    name, sizes = TINY[kind]
    torch.manual_seed(0)
    vit = timm.create_model(name, **sizes)
    with torch.no_grad():
        for p in vit.parameters():                                      # else DINO's LayerScale hides what a block does
            p += 0.1 * torch.randn_like(p)
    timm.models.save_for_hf(vit, tmp_path, model_args=sizes, safe_serialization=True)
    encoder = Encoder(str(tmp_path), source_layers=2)
    pixels = torch.randn(2, 3, 32, 32, requires_grad=True)
    before, last = encoder(pixels)
    assert before.shape == last.shape == (2, 17, 48) and not last.requires_grad and encoder.grid == (4, 4)
    if kind == 'eva':
        encoder.model.norm = torch.nn.Identity()                          # EVA's final norm is not applied
    plain = encoder.model.forward_features(pixels).detach()               # [CLS, registers, patches], normed
    skip = encoder.model.num_prefix_tokens
    patches = plain[:, skip:]
    torch.testing.assert_close(last[:, 1:], patches)
    torch.testing.assert_close(last[:, 0], plain[:, 0] if skip else patches.mean(1))
    assert (before - last).abs().max() > 0.1


def test_cnn(tmp_path):
    torch.manual_seed(0)
    timm.models.save_for_hf(timm.create_model('tf_efficientnet_lite0'), tmp_path, safe_serialization=True)
    encoder = Encoder(str(tmp_path), image_size=96)
    pixels = torch.randn(2, 3, 96, 96)
    tokens, = encoder(pixels)
    features = encoder.model.forward_features(pixels)                     # (2, 1280, 3, 3)
    assert tokens.shape == (2, 10, 1280) and encoder.grid == (3, 3) and not tokens.requires_grad
    torch.testing.assert_close(tokens[:, 1 + 3 * 1 + 2], F.layer_norm(features[:, :, 1, 2], (1280,)))
    torch.testing.assert_close(tokens[:, 0], F.layer_norm(features.mean((2, 3)), (1280,)))
    with pytest.raises(ValueError, match='source_layers=2'):
        Encoder(str(tmp_path), source_layers=2, image_size=96)


# ---- transformers ---------------------------------------------------------------------------------------------------

layers = dict(hidden_size=48, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64)
HUB_TINY = dict(
    ast=lambda: transformers.ASTModel(transformers.ASTConfig(max_length=64, num_mel_bins=32, **layers)),
    clap=lambda: transformers.ClapModel(transformers.ClapConfig(
        audio_config=dict(patch_embeds_hidden_size=16, hidden_size=128, depths=[1, 1, 1, 1], num_attention_heads=[2, 2, 2, 2], spec_size=256),
        text_config=layers | dict(projection_dim=8, vocab_size=9))),
    whisper=lambda: transformers.WhisperModel(transformers.WhisperConfig(
        vocab_size=9, num_mel_bins=80, d_model=48, encoder_layers=3, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=64, decoder_ffn_dim=64, max_source_positions=150, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1)),
    timesformer=lambda: transformers.TimesformerModel(transformers.TimesformerConfig(image_size=32, patch_size=8, num_frames=4, **layers)))


@pytest.fixture
def hub(tmp_path):
    """hub(kind, knobs) -> (the stock model, our encoder of its folder)."""
    def make(kind, **knobs):
        torch.manual_seed(0)
        model = HUB_TINY[kind]().eval()
        with torch.no_grad():
            for p in model.parameters():
                p += 0.1 * torch.randn_like(p)
        model.save_pretrained(tmp_path)
        return model, Encoder(str(tmp_path), **knobs)
    return make


def inputs(encoder):
    return torch.randn(2, *encoder.preprocessing.shape)


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


def test_ast_gives_its_last_blocks_normed_and_led_by_their_pooled_tokens(hub):
    model, encoder = hub('ast', source_layers=2)
    x = inputs(encoder)
    tokens = encoder(x)
    assert encoder.preprocessing.shape == (64, 32) and encoder.grid == (2 + 2 * 5,)
    for ours, state in zip(tokens, states_of_ast(model, x)[-2:], strict=True):
        torch.testing.assert_close(ours[:, 0], (state[:, 0] + state[:, 1]) / 2)
        torch.testing.assert_close(ours[:, 1:], state)
    out = model(x)
    torch.testing.assert_close(tokens[-1][:, 0], out.pooler_output.detach())
    torch.testing.assert_close(tokens[-1][:, 1:], out.last_hidden_state.detach())
    assert (tokens[0] - tokens[1]).abs().max() > 0.1


def test_ast_as_depalm_repeats_its_last_state(hub, monkeypatch):
    model, one = hub('ast')
    monkeypatch.setitem(HUB, 'ast_last', (one.name, one.type))
    encoder = Encoder('ast_last', source_layers=4)
    x = inputs(encoder)
    out = model(x)
    tokens = encoder(x)
    assert len(tokens) == 4 and encoder.grid == one.grid
    for state in tokens:
        torch.testing.assert_close(state[:, 0], out.pooler_output.detach())
        torch.testing.assert_close(state[:, 1:], out.last_hidden_state.detach())
    torch.testing.assert_close(one(x)[0], tokens[0])


def test_ast_as_epalm_is_led_by_cls(hub, monkeypatch):
    model, one = hub('ast')
    monkeypatch.setitem(HUB, 'ast_cls', (one.name, one.type))
    encoder = Encoder('ast_cls', source_layers=3)
    x = inputs(encoder)
    for ours, state in zip(encoder(x), states_of_ast(model, x), strict=True):
        torch.testing.assert_close(ours[:, 0], state[:, 0])
        torch.testing.assert_close(ours[:, 1:], state)


def test_readings_of_one_model_do_not_share_a_feature_cache(hub, monkeypatch):
    _, one = hub('ast')
    seen = {one.fingerprint()}
    for name in ('ast_last', 'ast_cls'):
        monkeypatch.setitem(HUB, name, (one.name, one.type))
        seen.add(Encoder(name).fingerprint())
    assert len(seen) == 3


def test_clap_gives_depalms_tokens_of_length_one_and_repeats_them(hub):
    model, encoder = hub('clap', source_layers=3)
    x = inputs(encoder)
    states = encoder(x)
    tokens = states[0]
    assert len(states) == 3 and all(state.equal(tokens) for state in states)
    assert tokens.shape == (2, 1 + 1024, 512) and encoder.grid == (1024,)
    torch.testing.assert_close(tokens.norm(dim=-1), torch.ones(2, 1025))
    # the pooled token is the model's own embedding of a sound
    embedding = model.get_audio_features(x)
    if not isinstance(embedding, torch.Tensor):
        embedding = embedding.pooler_output
    torch.testing.assert_close(tokens[:, 0], F.normalize(embedding.detach(), dim=-1))
    # frame 333 lies in step 333 // 32 of the map (B, D, 2 bands, 32 steps)
    feature_map = model.audio_model(x).last_hidden_state
    step = (feature_map[:, :, 0, 10] + feature_map[:, :, 1, 10]) / 2
    fine = F.normalize(model.audio_projection(step), dim=-1).detach()
    torch.testing.assert_close(tokens[:, 1 + 333], fine)


def test_clap_is_read_in_float32_within_autocast(hub):
    _, encoder = hub('clap')
    x = inputs(encoder)
    plain = encoder(x)[0]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert encoder(x)[0].equal(plain)


ANY_LENGTH = ('qp_l0', 'qp_inner', 'c_attn', 'epalm', 'epalm_opt', 'epalm_original', 'mapl',
              'limber_1', 'limber_all', 'r_rand')
GROUPS_OF_FOUR = ('r_avgpool', 'r_linear', 'r_qpmapper')


def mechanism_on_sound(mechanism, name):
    """Returns what the adapter of config/data/audiocaps.py with a mechanism's file gives; name: of
    another encoder than the config's. On the meta device: shapes alone."""
    config = configured('audiocaps', mechanism)
    knobs = AdapterConfig(**{key: config[key] for key in AdapterConfig.__dataclass_fields__})
    with torch.device('meta'):
        encoder = Encoder(name or config['encoder'], knobs.source_layers, pretrained=False)
        adapter = Adapter(knobs, encoder.dim, encoder.grid, 4096, 32, 4096).eval()
        return adapter(encoder(torch.zeros(1, *encoder.preprocessing.shape)))


@pytest.mark.parametrize('mechanism', ANY_LENGTH)
@pytest.mark.parametrize('name', [None, 'ast', 'ast_cls', 'clap'])
def test_every_mechanism_finds_the_source_layers_it_reads_of_sound(mechanism, name):
    assert mechanism_on_sound(mechanism, name) or mechanism == 'c_attn'


@pytest.mark.parametrize('mechanism', GROUPS_OF_FOUR)
def test_resamplers_find_whole_groups_in_clap_and_say_so_where_ast_has_none(mechanism):
    assert mechanism_on_sound(mechanism, 'clap')
    with pytest.raises(ValueError, match='reduction=4 does not tile'):         # 1,214 tokens
        mechanism_on_sound(mechanism, None)


def test_whisper(hub):
    model, encoder = hub('whisper', source_layers=2)
    x = inputs(encoder)
    before, last = encoder(x)
    assert encoder.preprocessing.shape == (80, 300) and encoder.grid == (150,)
    seen = []
    model.encoder.layers[1].register_forward_hook(lambda layer, args, out: seen.append(out[0] if isinstance(out, tuple) else out))
    plain = model.encoder(x).last_hidden_state.detach()
    torch.testing.assert_close(last[:, 1:], plain)
    torch.testing.assert_close(last[:, 0], plain.mean(1))
    torch.testing.assert_close(before[:, 1:], model.encoder.layer_norm(seen[0]).detach())


def test_whisper_of_short_clips(hub):
    model, encoder = hub('whisper', audio_seconds=2)
    x = inputs(encoder)
    assert encoder.preprocessing.shape == (80, 200) and encoder.preprocessing.extractor.chunk_length == 2 and encoder(x)[0].shape == (2, 101, 48)
    own = transformers.WhisperModel(transformers.WhisperConfig(**model.config.to_dict() | dict(max_source_positions=100))).encoder.eval()
    own.load_state_dict(model.encoder.state_dict() | {'embed_positions.weight': model.encoder.embed_positions.weight[:100]})
    torch.testing.assert_close(encoder(x)[0][:, 1:], own(x).last_hidden_state.detach())
    with pytest.raises(ValueError, match='at most 3'):
        hub('whisper', audio_seconds=4)


@pytest.mark.parametrize('kind', ['whisper', 'timesformer'])
def test_more_layers_than_there_are(hub, kind):
    with pytest.raises(ValueError, match='has 3 layers'):
        hub(kind, source_layers=4)


def test_a_clap_that_fuses_is_refused(tmp_path):
    model = HUB_TINY['clap']()
    model.config.audio_config.enable_fusion = True
    transformers.ClapModel(model.config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match='fuses'):
        Encoder(str(tmp_path))


@pytest.mark.parametrize('frames', [0, 6])
def test_timesformer(hub, frames):
    model, encoder = hub('timesformer', source_layers=2, video_frames=frames)
    x = inputs(encoder)
    T = model.config.num_frames = frames or 4                           # the stock model's layers go by it as well
    assert x.shape == (2, T, 3, 32, 32) and encoder.grid == (16 * T,)
    # the state after each block, through the model's final norm, as in both originals
    plain, hidden = [], model.embeddings(x)
    for layer in model.encoder.layer:
        hidden = layer(hidden)[0]
        plain.append(model.layernorm(hidden).detach())
    for ours, theirs in zip(encoder(x), plain[-2:], strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(plain[-1], model(x).last_hidden_state.detach())
    _, mean = hub('timesformer', video_frames=frames, video_tokens='mean')
    tokens, = mean(x)
    assert tokens.shape == (2, 17, 48) and mean.grid == (4, 4)
    torch.testing.assert_close(tokens[:, 1 + 5], plain[-1][:, 1:].reshape(2, 16, T, 48)[:, 5].mean(1))


def test_image_encoder_of_frames(encoder):
    image, frames = Encoder(str(encoder), source_layers=2), Encoder(str(encoder), source_layers=2, video_frames=3)
    mean = Encoder(str(encoder), source_layers=2, video_frames=3, video_tokens='mean')
    x = torch.randn(2, 3, 3, 32, 32)
    assert frames.preprocessing.medium == 'video' and frames.preprocessing.shape == (3, 3, 32, 32) and frames.grid == (12, 4) and mean.grid == (4, 4)
    for all_of_them, averaged, *each in zip(frames(x), mean(x), *(image(x[:, t]) for t in range(3)), strict=True):
        torch.testing.assert_close(all_of_them[:, 1:], torch.cat([e[:, 1:] for e in each], dim=1))
        torch.testing.assert_close(all_of_them[:, 0], torch.stack(each).mean(0)[:, 0])
        torch.testing.assert_close(averaged, torch.stack(each).mean(0))


def test_audiomae(tmp_path):
    sizes = dict(img_size=(64, 32), in_chans=1, patch_size=16, embed_dim=48, depth=2, num_heads=2, num_classes=0)
    vit = timm.create_model('vit_base_patch16_224', **sizes).eval()
    timm.models.save_for_hf(vit, tmp_path, model_args=sizes, safe_serialization=True)
    encoder = Encoder(str(tmp_path))
    tokens, = encoder(x := inputs(encoder))
    assert encoder.preprocessing.medium == 'audio' and x.shape == (2, 64, 32) and encoder.grid == (4, 2)
    torch.testing.assert_close(tokens, encoder.model.forward_features(x[:, None]).detach())


@pytest.mark.parametrize('kind, knobs', [('ast', dict(audio_seconds=3)), ('whisper', dict(video_frames=3)), ('clap', dict(image_size=32)),
                                         ('timesformer', dict(image_size=64))])
def test_knobs_of_other_media_are_refused(hub, kind, knobs):
    with pytest.raises(ValueError, match=f'takes no {next(iter(knobs))}'):
        hub(kind, **knobs)


def test_other_types_of_transformers_are_refused(tmp_path):
    transformers.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="type 'bert'.*whisper"):
        Encoder(str(tmp_path))
