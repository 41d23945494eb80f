"""
Rows, pictures, text, the feature cache and the batches. `pytest tests/test_data.py`
"""
import errno
import functools
import io
import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

import data
from data import ExampleDataset, collate, shuffled_batches, tokenize_examples
from encoders import Encoder
from nanopalm.cache import feature_cache
from nanopalm.datasets import DATASETS, load_examples
from nanopalm.examples import BadData
from nanopalm.media import image_transform, read_image
from nanopalm.prompts import encode_prompt, encode_targets


def config(**knobs):
    return dict(dataset='', data_dir='', restval=False, bad_rows='error', train_rows=0.0, seed=0, resize='squash', texts_per_input=1, num_workers=0, cache_dir='', out_dir='',
                cache_views=1, cache_batch_size=5, instruction='{prompt}', answer_prompt='', max_text_tokens=50) | knobs


def load(path, split='train', **knobs):
    return load_examples(config(dataset=str(path), **knobs), split)


def message(path, split='train', **knobs):
    with pytest.raises(BadData) as e:
        load(path, split, **knobs)
    return str(e.value)


@pytest.fixture
def jsonl(tmp_path):
    """jsonl(row, or text of a line, ...) -> a file of them beside the picture a.png."""
    Image.new('RGB', (4, 4)).save(tmp_path / 'a.png')

    def write(*lines, name='rows.jsonl'):
        path = tmp_path / name
        path.write_text('\n'.join(line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines), encoding='utf-8')
        return path
    return write


def row(**keys):
    return dict(image='a.png', caption='A cat.') | keys


def split_files(jsonl, *lines):
    """The folder of a data set with these training lines."""
    return jsonl(*lines, name='train.jsonl').parent


# ---- JSONL ----------------------------------------------------------------------------------------------------------

def test_rows_of_a_folder(pictures):
    rows = {split: load(pictures, split) for split in ('train', 'val', 'test')}
    assert {split: len(r) for split, r in rows.items()} == dict(train=16, val=4, test=4)
    assert rows['train'][1] == dict(image=str(pictures / 'images/1.png'), caption=['A green circle.', 'A picture of a green circle.'], id=1)


def test_what_a_line_may_hold(jsonl):
    folder = split_files(jsonl, row(), '', '   ', row(caption=['Ünï.', '猫'], id='x'), row(image=str(jsonl().parent / 'a.png')), row(split='train'))
    rows = load(folder)
    assert [r['caption'] for r in rows] == [['A cat.'], ['Ünï.', '猫'], ['A cat.'], ['A cat.']]
    assert {r['image'] for r in rows} == {str(folder / 'a.png')} and rows[1]['id'] == 'x'


def test_separators_that_are_no_line_ends(jsonl):
    """JSON allows these inside a text, and so does a file written by another tool."""
    assert [r['caption'] for r in load(split_files(jsonl, row(caption='one\u2028two\x85three'), row()))] == [['one\u2028two\x85three'], ['A cat.']]


def test_byte_order_mark_and_crlf(jsonl):
    path = jsonl(name='train.jsonl')
    path.write_bytes(b'\xef\xbb\xbf' + b'\r\n'.join([json.dumps(row()).encode()] * 2) + b'\r\n')
    assert len(load(path.parent)) == 2


WRONG = [
    ('{"image": "a.png"', ['not JSON']),
    ('not json', ['not JSON']),
    ('{"image": "a.png", "caption": "\x01"}', ['not JSON']),
    ('["a.png"]', ['a list, expected an object']),
    ('null', ['expected an object']),
    (row(imag='a.png'), ["key 'imag' is not known", "did you mean 'image'?"]),
    (row(zzzzz=1), ["key 'zzzzz' is not known", 'known: image, caption']),
    (dict(caption='A cat.'), ["key 'image'", 'expected a path']),
    (row(image=3), ["key 'image' is 3", 'expected a path']),
    (row(image=''), ["key 'image' is ''", 'expected a path']),
    (row(image='b.png'), ["key 'image'", 'there is no file', 'b.png']),
    (row(image='.'), ["key 'image'", 'there is no file']),
    (row(image='a\0.png'), ["key 'image'"]),
    (row(image='a' * 5000), ["key 'image'"]),
    (dict(image='a.png'), ["key 'caption' is None", 'expected a text or a list']),
    (row(caption=''), ["key 'caption' is ''", 'none empty']),
    (row(caption=' \t'), ["key 'caption'", 'none empty']),
    (row(caption=[]), ["key 'caption' is []", 'none empty']),
    (row(caption=['A cat.', '']), ["key 'caption'", 'none empty']),
    (row(caption=['A cat.', 3]), ["key 'caption'", 'expected a text or a list']),
    (row(caption=dict(en='A cat.')), ["key 'caption'", 'expected a text or a list']),
    (row(split='training'), ["key 'split' is 'training'", "'train', 'val' or 'test'"]),
    (row(split=['train']), ["key 'split' is ['train']", "'train', 'val' or 'test'"]),
    (row(image='b.png', caption=''), ["key 'image'"]),
    (row(image='b.png', caption=''), ["key 'caption'"])]


@pytest.mark.parametrize('number', range(len(WRONG)))
def test_a_wrong_line_is_reported(jsonl, number):
    line, words = WRONG[number]
    folder = split_files(jsonl, row(), line, row())
    text = message(folder)
    assert text.startswith(f'{folder / "train.jsonl"}: ')
    reported = [part for part in text.split('\n')[1:] if all(w in part for w in words)]
    assert len(reported) == 1 and reported[0].startswith('  line 2: ')


def test_all_wrong_lines_are_reported_at_once(jsonl):
    folder = split_files(jsonl, row(image='b.png'), row(), '{', row(caption=''))
    text = message(folder)
    assert '3 wrong lines' in text and [part.split(':')[0].strip() for part in text.split('\n')[1:]] == ['line 1', 'line 3', 'line 4']
    text = message(split_files(jsonl, *[row(caption='')] * 30))
    assert '30 wrong lines' in text and text.endswith('... and 10 more') and len(text.split('\n')) == 22


def test_not_utf8(jsonl):
    path = jsonl(row(), name='train.jsonl')
    path.write_bytes(path.read_bytes() + b'\n{"image": "a.png", "caption": "caf\xe9"}')
    text = message(path.parent)
    assert str(path) in text and 'line 2' in text and 'UTF-8' in text


def test_data_sets_that_are_none(jsonl, tmp_path):
    assert all(repr(name) in message(tmp_path / 'nowhere') for name in DATASETS)
    assert str(tmp_path / 'train.jsonl') in message(tmp_path)
    assert 'no rows' in message(split_files(jsonl, ''))


# ---- splits ---------------------------------------------------------------------------------------------------------

def test_one_file_is_split_by_its_images(tmp_path):
    for i in range(30):
        Image.new('RGB', (2, 2)).save(tmp_path / f'{i}.png')
    path = tmp_path / 'rows.jsonl'
    path.write_text('\n'.join(json.dumps(dict(image=f'{i % 30}.png', caption=f'Number {i}.')) for i in range(40)))
    images = {split: [r['image'] for r in load(path, split)] for split in ('train', 'val', 'test')}
    assert {split: len(set(i)) for split, i in images.items()} == dict(train=24, val=3, test=3)
    assert sum(len(i) for i in images.values()) == 40 and len(set().union(*images.values())) == 30
    copy = shutil.copytree(tmp_path, tmp_path / 'elsewhere')                # the split is of the data, not of where they are
    assert {split: [os.path.basename(i) for i in images[split]] for split in images} == {
        split: [os.path.basename(r['image']) for r in load(copy / path.name, split)] for split in images}


def test_one_file_split_by_its_keys(jsonl):
    path = jsonl(row(), row(split='val', caption='v'), row(split='test', caption='t'), row(split='train'))
    assert [[r['caption'] for r in load(path, split)] for split in ('train', 'val', 'test')] == [[['A cat.']] * 2, [['v']], [['t']]]
    assert "'test' has no rows" in message(jsonl(row(), row(split='val')), 'test')


def test_too_few_images_to_split(jsonl):
    assert '1 image' in message(jsonl(row(), row()))


def test_train_rows(pictures):
    all_rows = load(pictures)
    half, five = load(pictures, train_rows=0.5), load(pictures, train_rows=5)
    assert (len(half), len(five)) == (8, 5)
    for some in (half, five):
        assert [r for r in all_rows if r in some] == some               # their order is kept
    assert load(pictures, train_rows=0.5) == half and load(pictures, train_rows=0.5, seed=1) != half
    assert load(pictures, train_rows=1.0) == all_rows and load(pictures, train_rows=100) == all_rows
    assert load(pictures, 'val', train_rows=0.5) == load(pictures, 'val')
    assert all(r in half for r in five)                                  # more rows include fewer
    assert 'no rows' in message(pictures, train_rows=1e-9)


@pytest.mark.parametrize('n', [-0.5, -3])
def test_negative_train_rows(pictures, n):
    assert 'train_rows' in message(pictures, train_rows=n)


# ---- COCO -----------------------------------------------------------------------------------------------------------

def test_coco(coco):
    rows = {split: load('coco', split, data_dir=str(coco)) for split in ('train', 'val', 'test')}
    assert rows['train'] == [dict(image=str(coco / 'train2014/COCO_train2014_000000000000.jpg'), caption=['A picture of number 0.', 'Number 0'], id=100)]
    assert [rows[s][0]['id'] for s in rows] == [100, 102, 103]
    with_restval = load('coco', data_dir=str(coco), restval=True)
    assert [r['id'] for r in with_restval] == [100, 101]
    assert load('coco', 'val', data_dir=str(coco), restval=True) == rows['val']


def test_coco_without_its_files(coco, tmp_path):
    assert 'dataset_coco.json' in message('coco', data_dir=str(tmp_path / 'nowhere')) and 'data_dir' in message('coco', data_dir=str(tmp_path))
    shutil.rmtree(coco / 'val2014')
    assert load('coco', data_dir=str(coco))
    assert '1 of 1 images' in message('coco', 'val', data_dir=str(coco)) and 'COCO_val2014_000000000002.jpg' in message('coco', 'val', data_dir=str(coco))
    (coco / 'dataset_coco.json').write_text('{"images": [{"split": "train"}]}')
    assert 'dataset_coco.json' in message('coco', data_dir=str(coco))
    (coco / 'dataset_coco.json').write_text('{"images": ')
    assert 'dataset_coco.json' in message('coco', data_dir=str(coco))


# ---- pictures -------------------------------------------------------------------------------------------------------

def saved(tmp_path, image, name='a.png', **options):
    image.save(tmp_path / name, **options)
    return read_image(tmp_path / name)


def test_transparency_is_white(tmp_path):
    red = Image.new('RGBA', (2, 1), (255, 0, 0, 255))
    for alpha, colour in ((0, (255, 255, 255)), (128, (255, 127, 127)), (255, (255, 0, 0))):
        red.putpixel((1, 0), (255, 0, 0, alpha))
        assert [saved(tmp_path, red).getpixel((x, 0)) for x in (0, 1)] == [(255, 0, 0), colour]
    assert saved(tmp_path, Image.new('LA', (1, 1), (0, 0))).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new('P', (2, 1), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    image = saved(tmp_path, palette, transparency=0)
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 0, 255)]
    assert saved(tmp_path, Image.new('RGB', (1, 1), (9, 9, 9)), transparency=(9, 9, 9)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize('mode, value, name, rgb', [
    ('L', 100, 'a.png', (100,) * 3), ('1', 1, 'a.png', (255,) * 3), ('CMYK', (0, 255, 255, 0), 'a.jpg', (255, 0, 0)),
    ('I;16', 100 * 257, 'a.png', (100,) * 3), ('I;16', 100 * 257, 'a.tif', (100,) * 3), ('P', 0, 'a.gif', (0, 0, 0))])
def test_every_kind_of_picture(tmp_path, mode, value, name, rgb):
    image = saved(tmp_path, Image.new(mode, (8, 8), value), name)
    assert image.mode == 'RGB' and image.size == (8, 8)
    assert max(abs(a - b) for a, b in zip(image.getpixel((4, 4)), rgb)) <= 2


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new('RGB', (8, 8), c) for c in ('red', 'blue')]
    assert saved(tmp_path, frames[0], 'a.gif', save_all=True, append_images=frames[1:]).getpixel((0, 0)) == (255, 0, 0)


def test_a_phone_held_upright(tmp_path):
    sideways = Image.new('RGB', (8, 4), 'red')
    exif = sideways.getexif()
    exif[0x112] = 6                                                     # shown turned by a quarter
    assert saved(tmp_path, sideways, 'a.jpg', exif=exif).size == (4, 8)


def jpeg(size=(64, 64)):
    f = io.BytesIO()
    Image.effect_noise(size, 90).convert('RGB').save(f, 'JPEG')
    return f.getvalue()


@pytest.mark.parametrize('content', [jpeg()[:900], jpeg()[:20], b'', b'no picture', b'\x89PNG\r\n\x1a\n' + b'\0' * 50, b'<svg/>'])
def test_a_file_that_is_no_whole_picture(tmp_path, content):
    path = tmp_path / 'hälf.jpg'
    path.write_bytes(content)
    with pytest.raises(BadData, match='hälf.jpg'):
        read_image(path)
    with pytest.raises(BadData, match='nowhere.jpg'):
        read_image(tmp_path / 'nowhere.jpg')
    with pytest.raises(BadData):
        read_image(tmp_path)


def test_a_picture_too_large_for_memory(tmp_path, monkeypatch):
    path = tmp_path / 'bomb.png'
    Image.new('1', (200, 200)).save(path)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
    with pytest.raises(BadData, match='bomb.png'):
        read_image(path)


@pytest.mark.parametrize('resize', ['squash', 'pad', 'crop'])
def test_transform(vit, resize):
    """A picture three times as wide as high, its middle red."""
    image = Image.new('RGB', (96, 32), 'blue')
    image.paste('red', (32, 0, 64, 32))
    plain = image_transform(vit.preprocessing, resize, train=False)(image) * 0.5 + 0.5
    assert plain.shape == (3, 32, 32) and plain.dtype == torch.float32
    red, white = (plain[0] > 0.9) & (plain[1] < 0.1), plain.min(0).values > 0.9
    share = dict(squash=(1 / 3, 0), pad=(1 / 9, 2 / 3), crop=(1, 0))[resize]
    assert abs(red.float().mean() - share[0]) < 0.09 and abs(white.float().mean() - share[1]) < 0.09
    assert image_transform(vit.preprocessing, resize, train=True)(image).shape == (3, 32, 32)
    assert image_transform(vit.preprocessing, resize, train=True)(Image.new('RGB', (1, 500))).shape == (3, 32, 32)


# ---- text -----------------------------------------------------------------------------------------------------------

def test_text(llm):
    tokenizer = AutoTokenizer.from_pretrained(llm)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert encode_prompt(tokenizer, dict(instruction='{prompt}', answer_prompt='')) == [bos]
    prompt = encode_prompt(tokenizer, dict(instruction='Q: {prompt}', answer_prompt='\n\nAnswer: '), 'What is it?')
    assert prompt[0] == bos and bos not in prompt[1:] and tokenizer.decode(prompt[1:]) == 'Q: What is it?\n\nAnswer:'
    targets = encode_targets(tokenizer, ['A red circle.', '  A \n red circle. ', '猫'], 50)
    assert all(t[-1] == eos and eos not in t[:-1] and bos not in t for t in targets)
    assert [tokenizer.decode(t[:-1]) for t in targets] == [' A red circle.', ' A red circle.', ' 猫']
    assert encode_targets(tokenizer, ['A red circle. ' * 9], 7) == [tokenizer(' A red circle. A red', add_special_tokens=False).input_ids[:6] + [eos]]
    rows = [dict(caption=['b', 'a']), dict(caption=['b'])]
    texts = tokenize_examples(rows, tokenizer, config(answer_prompt='Answer: '))
    assert texts[0][0] == encode_prompt(tokenizer, dict(instruction='', answer_prompt='Answer: ')) and texts[0][1] == encode_targets(tokenizer, ['b', 'a'], 50) and texts[1][1] == texts[0][1][:1]


def test_special_tokens_in_a_caption_are_text(llm):
    """A caption that spells EOS must not end the text."""
    tokenizer = AutoTokenizer.from_pretrained(llm)
    target, = encode_targets(tokenizer, ['A </s> sign.'], 50)
    assert target.count(tokenizer.eos_token_id) == 1


def test_collate():
    prompt, pixels = [1, 5], torch.rand(2, 3, 4, 4)
    items = [dict(texts=[(prompt, [7, 2]), (prompt, [8, 9, 2])], errors=[], pixels=pixels[0]), dict(texts=[([1], [7, 2]), ([1], [2])], errors=['bad'], pixels=pixels[1])]
    batch, errors = collate(items, pad_id=0)
    assert errors == ['bad'] and np.array_equal(batch['pixels'], pixels)
    assert batch['input_ids'].tolist() == [[1, 5, 7, 2, 0], [1, 5, 8, 9, 2], [1, 7, 2, 0, 0], [1, 2, 0, 0, 0]]
    assert batch['labels'].tolist() == [[-100, -100, 7, 2, -100], [-100, -100, 8, 9, 2], [-100, 7, 2, -100, -100], [-100, 2, -100, -100, -100]]


# ---- batches --------------------------------------------------------------------------------------------------------

def take(n, *args, **options):
    keys = shuffled_batches(*args, **options)
    return [next(keys) for _ in range(n)]


def test_every_row_once_an_epoch():
    batches = take(12, 12, 3, seed=0)
    assert all(len(b) == 3 for b in batches)
    epochs = [sum(batches[e * 4:e * 4 + 4], []) for e in range(3)]
    for e, epoch in enumerate(epochs):
        assert {k for k, _ in epoch} == {e} and sorted(i for _, i in epoch) == list(range(12))
    orders = [[i for _, i in epoch] for epoch in epochs]
    assert orders[0] != orders[1] != orders[2] and orders[0] != list(range(12))
    assert take(1, 12, 3, seed=1) != batches[:1]
    uneven = take(4, 11, 5, seed=0)
    assert [k for k, _ in sum(uneven, [])] == [0] * 10 + [1] * 10 and len(set(sum(uneven, []))) == 20


def test_batches_resume_anywhere_and_are_shared_among_processes():
    batches = take(20, 13, 4, seed=3)
    for first in range(19):
        assert take(20 - first, 13, 4, seed=3, first=first) == batches[first:]
        shares = [take(20 - first, 13, 4, seed=3, first=first, rank=rank, world=2) for rank in (0, 1)]
        for batch, *parts in zip(batches[first:], *shares):
            assert sorted(sum(parts, [])) == sorted(batch) and [len(p) for p in parts] == [2, 2]


def test_texts_of_like_length_come_together():
    def length(epoch, i):
        return (i * 7 + epoch * 5) % 40
    knobs = dict(seed=3, length=length)
    batches = take(2 * 175, 700, 4, **knobs)
    spread = [max(length(*key) for key in batch) - min(length(*key) for key in batch) for batch in batches]
    assert sum(spread) / len(spread) < 3                            # of 39; about 24 where they come as they are
    for epoch in (0, 1):
        assert sorted(sum(batches[epoch * 175:epoch * 175 + 175], [])) == [(epoch, i) for i in range(700)]
    firsts = [length(*batch[0]) for batch in batches[:20]]
    assert firsts != sorted(firsts) and firsts != sorted(firsts, reverse=True)       # not from short to long
    for first in (1, 174, 175, 200):
        assert take(5, 700, 4, **knobs, first=first) == batches[first:first + 5]
    shares = [take(5, 700, 4, **knobs, first=170, rank=rank, world=2) for rank in (0, 1)]
    assert [sorted(a + b) for a, b in zip(*shares)] == [sorted(batch) for batch in batches[170:175]]


def test_length_is_of_the_text_that_is_drawn(vit, pictures):
    rows = load(pictures)
    dataset = ExampleDataset(rows, [([1], [[9] * n + [2] for n in (1, 3, 7)]) for _ in rows], config(texts_per_input=2), preprocessing=vit.preprocessing, train=True)
    lengths = {dataset.length(epoch, i) for epoch in range(8) for i in range(4)}
    assert lengths == {5, 9}                                        # the longer of two of 3, 5 and 9 tokens
    assert all(dataset.length(e, i) == max(len(p) + len(t) for p, t in dataset[e, i]['texts']) for e in range(3) for i in range(4))


@pytest.fixture(scope='module')
def vit(encoder):
    return Encoder(str(encoder))


def train_rows(vit, rows, **knobs):
    texts = [([1], [[i + 10, 2], [i + 50, 2]]) for i in range(len(rows))]
    return ExampleDataset(rows, texts, config(**knobs), preprocessing=vit.preprocessing, train=True)


def epoch_of(dataset, first=0, n=8, num_workers=0):
    torch.manual_seed(first + num_workers)                              # no global state matters
    keys = shuffled_batches(len(dataset.rows), 4, dataset.config['seed'], first=first)
    loader = DataLoader(dataset, batch_sampler=keys, num_workers=num_workers, collate_fn=lambda items: collate(items, 0)[0])
    return [batch for _, batch in zip(range(n - first), loader)]


def equal(a, b):
    return all(np.array_equal(x[k], y[k]) for x, y in zip(a, b, strict=True) for k in x)


def test_augmentation_is_a_function_of_the_seed(vit, pictures):
    rows = load(pictures)
    batches = epoch_of(train_rows(vit, rows))
    assert batches[0]['pixels'].shape == (4, 3, 32, 32)
    assert equal(epoch_of(train_rows(vit, rows)), batches)
    assert equal(epoch_of(train_rows(vit, rows), first=3), batches[3:])             # resumed
    assert equal(epoch_of(train_rows(vit, rows), num_workers=2), batches)
    assert not equal(epoch_of(train_rows(vit, rows, seed=1)), batches)
    dataset = train_rows(vit, rows)
    views = [dataset[epoch, 0]['pixels'] for epoch in (0, 1, 0)]
    assert views[0].equal(views[2]) and not views[0].equal(views[1])                # another view each epoch
    state = torch.get_rng_state()
    dataset[0, 0]
    assert torch.get_rng_state().equal(state)


def test_captions_of_an_epoch(vit, pictures):
    rows = load(pictures)
    both = [([1], [10, 2]), ([1], [50, 2])]
    drawn = [train_rows(vit, rows)[epoch, 0]['texts'] for epoch in range(12)]
    assert all(len(d) == 1 for d in drawn) and sorted({tuple(t) for d in drawn for _, t in d}) == [(10, 2), (50, 2)]
    assert sorted(train_rows(vit, rows, texts_per_input=2)[0, 0]['texts']) == both      # all different where there are as many
    assert sorted(train_rows(vit, rows, texts_per_input=4)[0, 0]['texts']) == sorted(both * 2)
    plain = ExampleDataset(rows, [([1], [[10, 2], [50, 2]])] * len(rows), config(texts_per_input=2))
    assert plain[0, 0]['texts'] == both[:1]                                             # validation: the first


def test_a_broken_picture_in_a_batch_is_named(vit, pictures, tmp_path):
    (tmp_path / 'half.jpg').write_bytes(jpeg()[:900])
    rows = load(pictures)[:3] + [dict(image=str(tmp_path / 'half.jpg'), caption=['a'])]
    dataset = train_rows(vit, rows)
    batch, errors = collate([dataset[0, i] for i in range(4)], 0)
    assert len(errors) == 1 and 'half.jpg' in errors[0] and batch['pixels'].shape[0] == 4


# ---- the feature cache ----------------------------------------------------------------------------------------------

@pytest.fixture
def cached(vit, tmp_path):
    """cached(rows, ...) -> (the cache, how many pictures the encoder saw for it)."""
    def make(rows, encoder=vit, split='train', **knobs):
        seen = []
        hook = encoder.register_forward_hook(lambda module, args, out: seen.append(len(args[0])))
        try:
            cache = feature_cache(rows, encoder, config(cache_dir=str(tmp_path / 'cache'), **knobs), split, 'cpu', functools.partial(torch.autocast, 'cpu', enabled=False))
        finally:
            hook.remove()
        return cache, sum(seen)
    return make


@pytest.fixture
def own_rows(pictures, tmp_path):
    """Rows of a copy of the pictures, to be changed."""
    return load(shutil.copytree(pictures, tmp_path / 'own'))


def test_cache_holds_what_the_encoder_says(vit, pictures, cached):
    rows = load(pictures)
    cache, seen = cached(rows)
    assert cache.shape == (16, 1, 1, 17, 48) and cache.dtype == np.float16 and not cache.flags.writeable and seen == 16
    transform = image_transform(vit.preprocessing, 'squash', train=False)
    for i in (0, 7, 15):
        states = vit(transform(read_image(rows[i]['image']))[None])[0]
        assert abs(torch.from_numpy(cache[i, 0].astype(np.float32)) - states).max() <= 1e-3 * states.abs().max()
    assert np.isfinite(cache).all() and len({c.tobytes() for c in cache}) == 16
    item = ExampleDataset(rows, [([1], [[2]])] * 16, config(), cache=cache)[0, 3]
    assert item['features'].dtype == torch.float32 and item['features'].numpy().astype(np.float16).tobytes() == cache[3, 0].tobytes()


def test_cache_is_used_again(pictures, cached, tmp_path):
    first, _ = cached(load(pictures))
    path, = (tmp_path / 'cache').iterdir()
    before = path.stat()
    again, seen = cached(load(pictures))
    assert seen == 0 and list((tmp_path / 'cache').iterdir()) == [path] and path.stat().st_mtime_ns == before.st_mtime_ns
    assert np.array_equal(first, again)
    recaptioned = [dict(r, caption=['other']) for r in load(pictures)]
    assert cached(recaptioned)[1] == 0 and cached(load(pictures), num_workers=1, cache_batch_size=3)[1] == 0


def test_cached_views(pictures, cached, vit):
    rows = load(pictures)
    cache, seen = cached(rows, cache_views=3)
    assert cache.shape[:2] == (16, 3) and seen == 48
    plain, _ = cached(rows)
    assert np.abs(cache[:, 0] - plain[:, 0]).max() < 1e-2
    assert all(len({v.tobytes() for v in row}) == 3 for row in cache)
    assert cached(load(pictures, 'val'), split='val', cache_views=3)[0].shape[1] == 1
    dataset = ExampleDataset(rows, [([1], [[2]])] * 16, config(), cache=cache, train=True)
    shown = {dataset[epoch, 0]['features'].numpy().tobytes() for epoch in range(20)}
    assert len(shown) == 3
    (tenth, _), (other_seed, _) = cached(rows, cache_views=3, cache_batch_size=10), cached(rows, cache_views=3, seed=1)
    assert np.array_equal(tenth, cache) and not np.array_equal(other_seed, cache)


def test_stale_cache_is_not_used(vit, own_rows, cached, encoder):
    fresh, _ = cached(own_rows)

    def renewed(rows=own_rows, **options):
        cache, seen = cached(rows, **options)
        assert seen == len(rows)
        return cache
    assert not np.array_equal(renewed(resize='pad'), fresh)
    assert np.array_equal(renewed(own_rows[::-1])[::-1], fresh)
    renewed(own_rows[:9])
    Image.new('RGB', (50, 50), 'purple').save(own_rows[3]['image'])
    changed = renewed()
    assert [i for i in range(16) if not np.array_equal(changed[i], fresh[i])] == [3]
    other = Encoder(str(encoder))
    with torch.no_grad():
        other.model.blocks[0].attn.qkv.bias[5] += 0.1
    renewed(encoder=other)
    assert not np.array_equal(renewed(encoder=Encoder(str(encoder), source_layers=2))[:, :, 0], fresh[:, :, 0])
    larger = Encoder(str(encoder))
    larger.preprocessing.mean = (0.4, 0.5, 0.5)
    renewed(encoder=larger)


def test_cache_knows_a_picture_replaced_by_one_of_equal_size_and_time(own_rows, cached):
    """cp -p, rsync -t, git and unpacked archives keep times."""
    a, b = own_rows[0]['image'], own_rows[1]['image']
    Image.new('RGB', (20, 20), 'red').save(a, 'BMP')
    Image.new('RGB', (20, 20), 'blue').save(b, 'BMP')
    os.utime(a, (1e9, 1e9))
    os.utime(b, (1e9, 1e9))
    before, _ = cached(own_rows)
    shutil.copy2(b, a)
    after, _ = cached(own_rows)
    assert not np.array_equal(before[0], after[0])


def test_unreadable_pictures_are_all_named_and_nothing_is_left(own_rows, cached, tmp_path):
    for i in (2, 11):
        content = open(own_rows[i]['image'], 'rb').read()
        open(own_rows[i]['image'], 'wb').write(content[:len(content) // 2])
    with pytest.raises(BadData) as e:
        cached(own_rows)
    assert all(own_rows[i]['image'] in str(e.value) for i in (2, 11)) and '2 file' in str(e.value)
    assert list((tmp_path / 'cache').iterdir()) == []


@pytest.mark.parametrize('error', [KeyboardInterrupt, RuntimeError])
def test_a_cache_half_written_is_not_there(own_rows, vit, cached, tmp_path, error, monkeypatch):
    hidden_states, calls = vit.hidden_states, []

    def interrupted(pixels):
        calls.append(1)
        if len(calls) == 3:
            raise error
        return hidden_states(pixels)
    monkeypatch.setattr(vit, 'hidden_states', interrupted)
    with pytest.raises(error):
        cached(own_rows)
    assert len(calls) == 3 and list((tmp_path / 'cache').iterdir()) == []
    assert cached(own_rows)[1] == 16


class Full(io.BytesIO):
    """A file on a disk that has room for 20 kB."""

    def write(self, b):
        if self.tell() > 20_000:
            raise OSError(errno.ENOSPC, 'No space left on device')
        return super().write(b)


def test_full_disk(pictures, cached, tmp_path, monkeypatch):
    monkeypatch.setattr(data, 'open', lambda path, *args: Full() if str(path).endswith('.tmp') else open(path, *args), raising=False)
    with pytest.raises(BadData, match='No space left.*cache_dir'):
        cached(load(pictures))
    assert list((tmp_path / 'cache').iterdir()) == []


def test_cache_dir_that_cannot_be(pictures, cached, tmp_path):
    (tmp_path / 'cache').write_text('a file')
    with pytest.raises(BadData, match='cache'):
        cached(load(pictures))
