"""
nanopalm/attention_map.py: the maps are the attention of the stock LLM on the whole sequence.
"""

import pytest
import torch
from conftest import configured, flags
from PIL import Image
from transformers import AutoModelForCausalLM
from untrained import SMALL

from nanopalm.attention_map import check_tokens_are_patches, draw_attention, prefix_attention_of
from nanopalm.checkpoint import build
from nanopalm.media import load
from nanopalm.prompts import encode_prompt, encode_targets

TEXT = 'A red circle.'


@pytest.fixture
def make(llm, encoder):
    """make(dtype, hyperparameter=value, ...) -> (model, tokenizer, config)."""

    def make(dtype='float32', **hyperparameters):
        defaults = {**SMALL, 'llm': llm, 'encoder': encoder}
        config = configured(*flags(**{**defaults, **hyperparameters}))
        torch.manual_seed(0)
        model, tokenizer = build(config, 'cpu', dtype)
        return model.eval(), tokenizer, config

    return make


@pytest.fixture
def example(pictures):
    return {'image': str(pictures / 'images/0.png')}


def maps_of(model, tokenizer, config, example):
    pixels = load(example['image'], model.encoder.preprocessing)
    return prefix_attention_of(model, tokenizer, config, example, pixels, TEXT)


def test_maps_are_the_attention_of_the_stock_llm(make, llm, example):
    model, tokenizer, config = make(connector='linear', n_prompt=2, prefix_start='<s>')
    words = maps_of(model, tokenizer, config, example)
    assert [word for word, _ in words] == ['A', 'red', 'circle.']

    # the same sequence through the stock LLM
    stock = AutoModelForCausalLM.from_pretrained(llm, attn_implementation='eager')
    embed = model.llm.get_input_embeddings()
    prompt = encode_prompt(tokenizer, config)
    (target,) = encode_targets(tokenizer, [TEXT], 50)
    pixels = load(example['image'], model.encoder.preprocessing)[None]
    with torch.no_grad():
        # (1+16, D)
        visual = model.adapter(model.encoder(pixels))[0][0]
        start = embed(model.prefix_start)
        text = embed(torch.tensor(prompt + target))
        sequence = torch.cat([start, visual, model.adapter.prompt_tokens(), text])
        attentions = stock(inputs_embeds=sequence[None], output_attentions=True).attentions
    # (all, all)
    mean = torch.cat(attentions).mean((0, 1))
    # CLS is no patch either
    first = len(model.prefix_start) + 1
    maps = mean[-len(target) - 1 : -2, first : first + 16]
    maps = maps / maps.sum(1, keepdim=True)

    word_of_token = []
    for token in target[:-1]:
        begins_word = tokenizer.decode([token]).startswith(' ')
        last = word_of_token[-1] if word_of_token else -1
        word_of_token.append(last + 1 if begins_word else last)
    word_of_token = torch.tensor(word_of_token)
    for number, (_, heat) in enumerate(words):
        assert heat.shape == (4, 4) and abs(heat.sum() - 1) < 1e-5
        expected = maps[word_of_token == number].mean(0)
        ours = torch.from_numpy(heat).flatten()
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


def test_half_precision_with_a_tuned_llm_is_close(make, example):
    tuned = {'connector': 'linear', 'llm_norm_tuning': True, 'llm_bias_tuning': True}
    exact = maps_of(*make('float32', **tuned), example)
    half = maps_of(*make('bfloat16', **tuned), example)
    for (_, exact_map), (_, half_map) in zip(exact, half):
        assert 0 < abs(exact_map - half_map).max() < 0.1 * exact_map.max()


@pytest.mark.parametrize(
    'connector, grid',
    [
        ('linear', (4, 4)),
        ('r_rand', (4, 4)),
        ('r_linear', (2, 2)),
        ('r_avgpool_tokens', (2, 2)),
    ],
)
def test_a_map_has_a_place_for_every_token(make, example, connector, grid):
    words = maps_of(*make(connector=connector), example)
    assert all(heat.shape == grid for _, heat in words)


@pytest.mark.parametrize(
    'changes',
    [
        {'connector': 'qpmapper'},
        {'connector': 'r_qpmapper'},
        {'connector': 'linear', 'source_tokens': 'cls'},
    ],
)
def test_queries_are_no_patches(make, example, changes):
    with pytest.raises(ValueError, match='no patches'):
        maps_of(*make(**changes), example)


def test_a_single_token_has_no_place(make, example):
    with pytest.raises(ValueError, match='one token of all patches'):
        maps_of(*make(connector='r_linear', reduction=16), example)


def test_a_blind_model_looks_at_nothing(make):
    model, _, _ = make(connector='linear')
    model.encoder = None
    with pytest.raises(ValueError, match='blind'):
        check_tokens_are_patches(model)


@pytest.mark.parametrize('join', ['tokens', 'channels'])
def test_the_attention_to_several_encoders_is_not_drawn(make, encoder, example, join):
    two = {'encoder': f'{encoder},{encoder}', 'encoder_join': join, 'connector': 'linear'}
    model, tokenizer, config = make(**two)
    with pytest.raises(ValueError, match='this run has several encoders'):
        draw_attention('attention.png', model, tokenizer, config, [example], [TEXT])


def test_a_drawing_has_a_line_for_every_example(make, pictures, tmp_path):
    examples = []
    for i in (0, 1):
        image = str(pictures / f'images/{i}.png')
        examples.append({'image': image, 'question': 'what colour is it?'})
    path = tmp_path / 'attention.png'
    draw_attention(path, *make(connector='linear'), examples, [TEXT, 'A ball.'])
    with Image.open(path) as image:
        assert image.width > 300 and image.height > 200
        assert len(image.convert('RGB').getcolors(1 << 20)) > 100
