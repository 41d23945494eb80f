"""
show.py: the maps are the attention of the stock LLM on the whole sequence. `pytest tests/test_show.py`
"""
import pytest
import torch
from conftest import configured, flags
from PIL import Image
from transformers import AutoModelForCausalLM

from nanopalm.attention_map import draw_attention, prefix_attention_of
from nanopalm.checkpoint import build
from nanopalm.media import load
from nanopalm.prompts import encode_prompt, encode_targets

TEXT = 'A red circle.'


@pytest.fixture
def make(llm, encoder):
    def make(dtype='float32', **knobs):
        config = configured(*flags(llm=llm, encoder=encoder, adapter_dim=32, mapper_heads=4, n_queries=4, **knobs))
        torch.manual_seed(0)
        model, tokenizer = build(config, 'cpu', dtype)
        return model.eval(), tokenizer, config
    return make


def maps_of(model, tokenizer, config, row):
    return prefix_attention_of(model, tokenizer, config, row, load(row['image'], model.encoder.preprocessing), TEXT)


def test_maps_are_the_attention_of_the_stock_llm(make, llm, pictures):
    model, tokenizer, config = make(connector='linear', n_prompt=2, prefix_start='<s>')
    row = dict(image=str(pictures / 'images/0.png'))
    words = maps_of(model, tokenizer, config, row)
    assert [word for word, _ in words] == ['A', 'red', 'circle.']

    stock, embed = AutoModelForCausalLM.from_pretrained(llm, attn_implementation='eager'), model.llm.get_input_embeddings()
    prompt, (said,) = encode_prompt(tokenizer, config), encode_targets(tokenizer, [TEXT], 50)
    pixels = load(row['image'], model.encoder.preprocessing)[None]
    with torch.no_grad():
        visual = model.adapter(model.encoder(pixels))[0][0]                                 # (1+16, D)
        sequence = torch.cat([embed(model.prefix_start), visual, model.adapter.prompt_tokens(), embed(torch.tensor(prompt + said))])
        attentions = stock(inputs_embeds=sequence[None], output_attentions=True).attentions
    mean = torch.cat(attentions).mean((0, 1))                                               # (all, all)
    n_start = len(model.prefix_start) + 1                                                   # and CLS
    maps = mean[-len(said) - 1:-2, n_start:n_start + 16]
    maps = maps / maps.sum(1, keepdim=True)
    pieces = [tokenizer.decode([t]) for t in said[:-1]]
    of_word = torch.tensor([sum(p.startswith(' ') for p in pieces[:i + 1]) - 1 for i in range(len(pieces))])
    for w, (_, heat) in enumerate(words):
        assert heat.shape == (4, 4) and abs(heat.sum() - 1) < 1e-5
        torch.testing.assert_close(torch.from_numpy(heat).flatten(), maps[of_word == w].mean(0), rtol=1e-4, atol=1e-6)


def test_half_precision_with_a_tuned_llm(make, pictures):
    row, knobs = dict(image=str(pictures / 'images/0.png')), dict(connector='linear', llm_norm_tuning=True, llm_bias_tuning=True)
    exact, half = (maps_of(*make(dtype, **knobs), row) for dtype in ('float32', 'bfloat16'))
    for (_, a), (_, b) in zip(exact, half):
        assert 0 < abs(a - b).max() < 0.1 * a.max()


@pytest.mark.parametrize('connector, grid', [('linear', (4, 4)), ('r_rand', (4, 4)), ('r_linear', (2, 2)), ('r_avgpool_tokens', (2, 2))])
def test_grids(make, pictures, connector, grid):
    words = maps_of(*make(connector=connector), dict(image=str(pictures / 'images/1.png')))
    assert all(heat.shape == grid for _, heat in words)


@pytest.mark.parametrize('knobs', [dict(connector='qpmapper'), dict(connector='r_qpmapper'), dict(connector='linear', source_tokens='cls')])
def test_queries_are_no_patches(make, pictures, knobs):
    with pytest.raises(ValueError, match='no patches'):
        maps_of(*make(**knobs), dict(image=str(pictures / 'images/1.png')))


def test_picture(make, pictures, tmp_path):
    rows = [dict(image=str(pictures / f'images/{i}.png'), question='what colour is it?') for i in (0, 1)]
    draw_attention(tmp_path / 'a.png', *make(connector='linear'), rows, [TEXT, 'A ball.'])
    with Image.open(tmp_path / 'a.png') as image:
        assert image.width > 300 and image.height > 200 and len(image.convert('RGB').getcolors(1 << 20)) > 100
