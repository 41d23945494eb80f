"""
The frozen encoders: the named ones at their real size on the meta device, a tiny one of every kind for real. `pytest tests/test_encoders.py`
"""
import pytest
import timm
import torch
import torch.nn.functional as F

from model import ENCODERS, Encoder

WIDTH_AND_GRID = dict(
    eva_clip_l=(1024, 16), clip_b=(768, 14), clip_l=(1024, 16), laion_clip_b=(768, 14), laion_clip_l=(1024, 16), dinov2_s=(384, 16), dinov2_b=(768, 16),
    dinov2_l=(1024, 16), dinov2_g=(1536, 16), vit_b_in1k=(768, 14), vit_b_in21k=(768, 14), vit_b_in21k_ft=(768, 14), vit_l_in21k=(1024, 14),
    siglip_b=(768, 14), siglip_l=(1024, 16))


@pytest.mark.parametrize('name', ENCODERS)
def test_named_encoders(name):
    width, side = WIDTH_AND_GRID[name]
    with torch.device('meta'):
        encoder = Encoder(name, source_layers=2, pretrained=False)
        states = encoder(torch.zeros(3, 3, encoder.image_size, encoder.image_size))
    assert (encoder.dim, encoder.grid) == (width, (side, side)) and [s.shape for s in states] == [(3, 1 + side ** 2, width)] * 2
    assert encoder.image_size == (256 if name == 'siglip_l' else 224)
    assert encoder.vit.num_prefix_tokens == (0 if 'siglip' in name else 1)
    assert any('QuickGELU' in type(m).__name__ or 'quick_gelu' in repr(m) for m in encoder.vit.modules()) == (name in ('clip_b', 'clip_l'))
    assert encoder.mean == timm.get_pretrained_cfg(encoder.name).mean and not any(p.requires_grad for p in encoder.parameters())


def test_every_name_has_its_shape_here():
    assert set(WIDTH_AND_GRID) == set(ENCODERS)


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
        encoder.vit.norm = torch.nn.Identity()                          # EVA's final norm is not applied
    plain = encoder.vit.forward_features(pixels).detach()               # [CLS, registers, patches], normed
    skip = encoder.vit.num_prefix_tokens
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
    features = encoder.vit.forward_features(pixels)                     # (2, 1280, 3, 3)
    assert tokens.shape == (2, 10, 1280) and encoder.grid == (3, 3) and not tokens.requires_grad
    torch.testing.assert_close(tokens[:, 1 + 3 * 1 + 2], F.layer_norm(features[:, :, 1, 2], (1280,)))
    torch.testing.assert_close(tokens[:, 0], F.layer_norm(features.mean((2, 3)), (1280,)))
    with pytest.raises(ValueError, match='source_layers=2'):
        Encoder(str(tmp_path), source_layers=2, image_size=96)
