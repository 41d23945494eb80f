"""
From examples to batches: tokenized texts, inputs with their files, and the order of batches.
"""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

import data
from data import (
    ExampleDataset,
    collate,
    group_by_file,
    shuffled_batches,
    split_captions,
    to_device,
    tokenize_examples,
)
from encoders import Preprocessing
from nanopalm.datasets import load_examples
from nanopalm.examples import BadData
from nanopalm.prompts import encode_prompt, encode_targets

IMAGE = Preprocessing('image', (3, 32, 32), (0.5,) * 3, (0.5,) * 3, 'bicubic')
SMALL = Preprocessing('image', (3, 16, 16), (0.5,) * 3, (0.5,) * 3, 'bicubic')


def config(**changes):
    defaults = dict(
        dataset='',
        data_dir='',
        restval=False,
        train_rows=0.0,
        bad_rows='error',
        seed=0,
        resize='squash',
        texts_per_input=1,
        instruction='{prompt}',
        answer_prompt='',
        max_text_tokens=50,
    )
    return defaults | changes


@pytest.fixture(scope='module')
def examples(pictures):
    """The 16 training examples of coloured shapes, two captions each."""
    return load_examples(config(dataset=str(pictures)), 'train')


@pytest.fixture
def tokenizer(llm):
    return AutoTokenizer.from_pretrained(llm)


# ---- texts ---------------------------------------------------------------------------------------


def test_an_example_is_its_prompt_and_the_ids_of_its_captions(tokenizer):
    examples = [dict(caption=['b', 'a']), dict(caption=['b'])]
    first, second = tokenize_examples(examples, tokenizer, config(answer_prompt='Answer: '))
    prompt = encode_prompt(tokenizer, dict(instruction='', answer_prompt='Answer: '))
    targets = encode_targets(tokenizer, ['b', 'a'], 50)
    assert first == (prompt, targets)
    assert second == (prompt, targets[:1])


def test_every_question_is_in_its_own_prompt(tokenizer):
    examples = []
    for question in ('who', 'what', 'who'):
        examples.append(dict(question=question, answers=['a', 'b']))
    how = config(instruction='Q: {prompt}')
    prompts = [prompt for prompt, _ in tokenize_examples(examples, tokenizer, how)]
    assert prompts[0] == prompts[2] == encode_prompt(tokenizer, how, 'who')
    assert prompts[1] == encode_prompt(tokenizer, how, 'what')


def test_with_loss_on_prompt_all_behind_bos_is_the_target(tokenizer):
    examples = [dict(question='who', answers=['a', 'b'])]
    ((prompt, targets),) = tokenize_examples(examples, tokenizer, config())
    learned = tokenize_examples(examples, tokenizer, config(loss_on_prompt=True))
    assert learned == [(prompt[:1], [prompt[1:] + target for target in targets])]


def test_questions_need_a_place_in_the_instruction(tokenizer):
    questions = [dict(question='who', answers=['a'])]
    with pytest.raises(BadData, match="instruction='Look.'.*{prompt}"):
        tokenize_examples(questions, tokenizer, config(instruction='Look.'))
    own = [questions[0] | dict(instruction='Q: {prompt}')]
    assert tokenize_examples(own, tokenizer, config(instruction='Look.'))
    assert tokenize_examples([dict(caption=['a'])], tokenizer, config(instruction='Look.'))


def test_split_captions_gives_each_caption_an_example_and_leaves_questions():
    captions = dict(image='a.png', caption=['x', 'y'], id=3)
    question = dict(image='b.png', question='who', answers=['a', 'b'])
    assert split_captions([captions, question]) == [
        dict(image='a.png', caption=['x'], id=3),
        dict(image='a.png', caption=['y'], id=3),
        question,
    ]


# ---- inputs --------------------------------------------------------------------------------------


def texts_of(examples):
    """Two targets for each example, which name it."""
    return [([1], [[i + 10, 2], [i + 50, 2]]) for i in range(len(examples))]


def training_inputs(examples, preprocessing=IMAGE, **changes):
    return ExampleDataset(
        examples, texts_of(examples), config(**changes), preprocessing=preprocessing, train=True
    )


def collate_only_batch(items):
    batch, _ = collate(items, pad_id=0)
    return batch


def first_batches(dataset, first=0, n=8, num_workers=0):
    """The batches number `first` to n of a training with 4 inputs in each."""
    # no global state may matter
    torch.manual_seed(first + num_workers)
    keys = shuffled_batches(len(dataset), 4, dataset.config['seed'], first=first)
    loader = DataLoader(
        dataset, batch_sampler=keys, num_workers=num_workers, collate_fn=collate_only_batch
    )
    return [batch for _, batch in zip(range(n - first), loader)]


def equal(batches, others):
    for batch, other in zip(batches, others, strict=True):
        if not all(np.array_equal(batch[key], other[key]) for key in batch):
            return False
    return True


def test_augmentation_is_a_function_of_the_seed(examples):
    batches = first_batches(training_inputs(examples))
    assert batches[0]['pixels'].shape == (4, 3, 32, 32)
    assert equal(first_batches(training_inputs(examples)), batches)
    assert not equal(first_batches(training_inputs(examples, seed=1)), batches)


def test_a_resumed_run_sees_the_same_batches(examples):
    batches = first_batches(training_inputs(examples))
    assert equal(first_batches(training_inputs(examples), first=3), batches[3:])


def test_workers_make_the_same_batches(examples):
    batches = first_batches(training_inputs(examples))
    assert equal(first_batches(training_inputs(examples), num_workers=2), batches)


def test_an_image_is_augmented_anew_in_each_epoch_and_no_global_state_changes(examples):
    dataset = training_inputs(examples)
    state = torch.get_rng_state()
    views = [dataset[epoch, 0]['pixels'] for epoch in (0, 1, 0)]
    assert torch.get_rng_state().equal(state)
    assert views[0].equal(views[2])
    assert not views[0].equal(views[1])


def test_captions_are_drawn_anew_in_each_epoch(examples):
    dataset = training_inputs(examples)
    drawn = []
    for epoch in range(12):
        drawn += dataset[epoch, 0]['texts']
    assert len(drawn) == 12
    assert {tuple(target) for _, target in drawn} == {(10, 2), (50, 2)}


def test_several_texts_of_an_input_are_different_as_long_as_there_are_enough(examples):
    both = [([1], [10, 2]), ([1], [50, 2])]
    assert sorted(training_inputs(examples, texts_per_input=2)[0, 0]['texts']) == both
    assert sorted(training_inputs(examples, texts_per_input=4)[0, 0]['texts']) == sorted(both * 2)


def test_validation_takes_the_first_text_of_each_example(examples):
    dataset = ExampleDataset(examples, texts_of(examples), config(texts_per_input=2))
    assert len(dataset) == 16
    assert dataset[0, 0]['texts'] == [([1], [10, 2])]


def test_length_is_that_of_the_text_that_is_drawn(examples):
    texts = []
    for _ in examples:
        texts.append(([1], [[9] * n + [2] for n in (1, 3, 7)]))
    dataset = ExampleDataset(examples, texts, config(texts_per_input=2), train=True)
    lengths = set()
    for epoch in range(8):
        for i in range(4):
            length = dataset.length(epoch, i)
            lengths.add(length)
            drawn = dataset[epoch, i]['texts']
            assert length == max(len(prompt) + len(target) for prompt, target in drawn)
    # the longer of two texts of 3, 5 and 9 tokens
    assert lengths == {5, 9}


def test_the_questions_of_a_file_form_inputs_of_at_most_so_many():
    examples = [dict(image=name) for name in 'aabaaba']
    assert group_by_file(examples, 1) == [[0], [1], [2], [3], [4], [5], [6]]
    assert group_by_file(examples, 2) == [[0, 1], [2, 5], [3, 4], [6]]
    assert group_by_file(examples, 9) == [[0, 1, 3, 4, 6], [2, 5]]


def broken_image(tmp_path, examples):
    """A file with the first half of an image."""
    with open(examples[0]['image'], 'rb') as file:
        content = file.read()
    path = tmp_path / 'half.png'
    path.write_bytes(content[: len(content) // 2])
    return dict(image=str(path), caption=['a'])


def test_a_broken_image_in_a_batch_is_named(examples, tmp_path):
    dataset = training_inputs(examples[:3] + [broken_image(tmp_path, examples)])
    batch, errors = collate([dataset[0, i] for i in range(4)], 0)
    assert len(errors) == 1
    assert 'half.png' in errors[0]
    assert batch['pixels'].shape == (4, 3, 32, 32)


def test_the_next_input_takes_the_place_of_a_broken_one_if_bad_rows_are_skipped(examples, tmp_path):
    broken = broken_image(tmp_path, examples)
    dataset = training_inputs([broken, broken, examples[2]], bad_rows='skip')
    item = dataset[0, 0]
    assert len(item['errors']) == 2
    assert item['error'] == ''
    assert item['texts'][0][1] in ([12, 2], [52, 2])
    with pytest.raises(BadData, match='none of the files can be read: .*half.png'):
        training_inputs([broken], bad_rows='skip')[0, 0]


def test_features_are_read_from_the_cache_by_file(examples):
    cache = np.random.default_rng(0).normal(size=(16, 3, 1, 17, 48)).astype(np.float16)
    dataset = ExampleDataset(examples, texts_of(examples), config(), cache=cache)
    features = dataset[0, 3]['features']
    assert features.dtype == torch.float32
    assert np.array_equal(features.numpy(), cache[3, 0].astype(np.float32))


def test_training_draws_among_the_cached_views_and_validation_has_the_plain_one(examples):
    cache = np.zeros((16, 3, 1, 17, 48), dtype=np.float16)
    cache += np.arange(3, dtype=np.float16)[:, None, None, None]
    views = dict(train=set(), val=set())
    for split in views:
        dataset = ExampleDataset(
            examples, texts_of(examples), config(), cache=cache, train=split == 'train'
        )
        for epoch in range(20):
            views[split].add(float(dataset[epoch, 0]['features'][0, 0, 0]))
    assert views == dict(train={0.0, 1.0, 2.0}, val={0.0})


def test_a_file_that_could_not_be_read_when_it_was_cached_is_named(examples):
    cache = np.zeros((16, 1, 1, 17, 48), dtype=np.float16)
    cache[5] = np.nan
    dataset = ExampleDataset(examples, texts_of(examples), config(), cache=cache)
    assert examples[5]['image'] in dataset[0, 5]['error']
    assert dataset[0, 4]['error'] == ''


def test_the_text_only_baseline_has_no_files(examples):
    item = ExampleDataset(examples, texts_of(examples), config(), train=True)[0, 0]
    assert sorted(item) == ['error', 'errors', 'texts']


# ---- inputs of several encoders ------------------------------------------------------------------


def test_each_encoder_of_a_group_has_its_own_pixels_of_the_same_view(examples):
    both = training_inputs(examples, preprocessing=(IMAGE, SMALL))[2, 5]
    image = training_inputs(examples, preprocessing=IMAGE)[2, 5]
    small = training_inputs(examples, preprocessing=SMALL)[2, 5]
    assert both['pixels'][0].equal(image['pixels'])
    assert both['pixels'][1].equal(small['pixels'])
    assert both['texts'] == image['texts']
    # the same crop and flip: the larger view made small resembles the small one
    shrunk = torch.nn.functional.avg_pool2d(image['pixels'], 2)
    other = training_inputs(examples, preprocessing=SMALL)[3, 5]['pixels']
    assert (shrunk - small['pixels']).abs().mean() < 0.1
    assert (shrunk - other).abs().mean() > 0.2


def test_a_broken_image_is_named_once_for_all_encoders(examples, tmp_path):
    broken = broken_image(tmp_path, examples)
    item = training_inputs([broken], preprocessing=(IMAGE, SMALL))[0, 0]
    assert 'half.png' in item['error']
    assert [pixels.shape for pixels in item['pixels']] == [(3, 32, 32), (3, 16, 16)]


@pytest.fixture
def two_caches():
    generator = np.random.default_rng(0)
    caches = [generator.normal(size=(16, 3, 2, 17, width)) for width in (48, 32)]
    return tuple(cache.astype(np.float16) for cache in caches)


@pytest.mark.parametrize('train', [False, True])
def test_features_of_a_group_are_those_of_each_encoder_in_the_same_view(
    examples, two_caches, train
):
    texts = texts_of(examples)
    both = ExampleDataset(examples, texts, config(), cache=two_caches, train=train)
    for i, cache in enumerate(two_caches):
        alone = ExampleDataset(examples, texts, config(), cache=cache, train=train)
        for epoch in range(4):
            assert both[epoch, 7]['features'][i].equal(alone[epoch, 7]['features'])


def test_features_joined_by_channels_are_one_tensor(examples, two_caches):
    texts = texts_of(examples)
    side_by_side = ExampleDataset(examples, texts, config(), cache=two_caches)
    joined = ExampleDataset(examples, texts, config(encoder_join='channels'), cache=two_caches)
    features = joined[0, 7]['features']
    assert features.shape == (2, 17, 48 + 32)
    assert features.equal(torch.cat(side_by_side[0, 7]['features'], dim=-1))
    two_caches[0][7] = np.nan
    for dataset in (side_by_side, joined):
        assert examples[7]['image'] in dataset[0, 7]['error']


# ---- batches -------------------------------------------------------------------------------------


def test_collate_pads_on_the_right_and_labels_targets_alone():
    prompt = [1, 5]
    pixels = torch.rand(2, 3, 4, 4)
    items = [
        dict(texts=[(prompt, [7, 2]), (prompt, [8, 9, 2])], errors=[], pixels=pixels[0]),
        dict(texts=[([1], [7, 2]), ([1], [2])], errors=['bad'], pixels=pixels[1]),
    ]
    batch, errors = collate(items, pad_id=0)
    assert errors == ['bad']
    assert np.array_equal(batch['pixels'], pixels)
    assert batch['input_ids'].tolist() == [
        [1, 5, 7, 2, 0],
        [1, 5, 8, 9, 2],
        [1, 7, 2, 0, 0],
        [1, 2, 0, 0, 0],
    ]
    assert batch['labels'].tolist() == [
        [-100, -100, 7, 2, -100],
        [-100, -100, 8, 9, 2],
        [-100, 7, 2, -100, -100],
        [-100, 2, -100, -100, -100],
    ]


@pytest.mark.parametrize('key', ['pixels', 'features'])
def test_collate_stacks_what_each_encoder_of_a_group_takes(key):
    first = torch.rand(2, 3, 4, 4)
    second = torch.rand(2, 5)
    items = []
    for i in range(2):
        item = dict(texts=[([1], [2])], errors=[])
        items.append(item | {key: (first[i], second[i])})
    batch, _ = collate(items, pad_id=0)
    assert isinstance(batch[key], tuple)
    assert isinstance(batch[key][0], np.ndarray)
    assert np.array_equal(batch[key][0], first)
    assert np.array_equal(batch[key][1], second)


def test_batches_of_a_group_come_through_workers_as_well(examples):
    dataset = training_inputs(examples, preprocessing=(IMAGE, SMALL))
    plain = first_batches(dataset, n=2)
    for batch, other in zip(plain, first_batches(dataset, n=2, num_workers=1), strict=True):
        assert [pixels.shape for pixels in batch['pixels']] == [(4, 3, 32, 32), (4, 3, 16, 16)]
        for pixels, others in zip(batch['pixels'], other['pixels'], strict=True):
            assert np.array_equal(pixels, others)


@pytest.mark.parametrize('key', ['pixels', 'features'])
def test_everything_but_the_labels_of_a_batch_goes_to_the_device(key):
    values = np.ones((2, 3), dtype=np.float32)
    for given in (values, (values, values)):
        batch = dict(input_ids=torch.zeros(2, 4), labels=torch.zeros(2, 4))
        moved = to_device(batch | {key: given}, 'meta')
        assert moved['input_ids'].is_meta
        assert moved['labels'] is batch['labels']
        tensors = moved[key] if isinstance(given, tuple) else (moved[key],)
        assert [tensor.shape for tensor in tensors] == [(2, 3)] * len(tensors)
        assert all(tensor.is_meta for tensor in tensors)
        # the batch itself is left as it was
        assert not batch['input_ids'].is_meta


def test_on_a_cpu_the_values_of_a_batch_stay_what_they_are():
    pixels = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    moved = to_device(dict(input_ids=torch.arange(4), pixels=pixels), 'cpu')
    assert sorted(moved) == ['input_ids', 'pixels']
    assert isinstance(moved['pixels'], torch.Tensor)
    assert np.array_equal(moved['pixels'], pixels)
    assert moved['input_ids'].equal(torch.arange(4))


# ---- the order of batches ------------------------------------------------------------------------


def take(n, *args, **options):
    """The first n of these shuffled batches."""
    keys = shuffled_batches(*args, **options)
    return [next(keys) for _ in range(n)]


def joined(batches):
    """The keys of several batches in one list."""
    return [key for batch in batches for key in batch]


def test_every_input_comes_once_an_epoch_in_a_new_order():
    batches = take(12, 12, 3, seed=0)
    assert all(len(batch) == 3 for batch in batches)
    orders = []
    for epoch in range(3):
        keys = joined(batches[epoch * 4 : epoch * 4 + 4])
        assert {key[0] for key in keys} == {epoch}
        orders.append([i for _, i in keys])
        assert sorted(orders[-1]) == list(range(12))
    assert orders[0] != orders[1] != orders[2]
    assert orders[0] != list(range(12))
    assert take(1, 12, 3, seed=1) != batches[:1]


def test_inputs_that_do_not_fill_a_batch_are_left_out_of_the_epoch():
    keys = joined(take(4, 11, 5, seed=0))
    assert [epoch for epoch, _ in keys] == [0] * 10 + [1] * 10
    assert len(set(keys)) == 20


def test_batches_resume_anywhere_and_are_shared_among_processes():
    batches = take(20, 13, 4, seed=3)
    for first in range(19):
        n = 20 - first
        assert take(n, 13, 4, seed=3, first=first) == batches[first:]
        of_rank_0 = take(n, 13, 4, seed=3, first=first, rank=0, world=2)
        of_rank_1 = take(n, 13, 4, seed=3, first=first, rank=1, world=2)
        for batch, one, other in zip(batches[first:], of_rank_0, of_rank_1, strict=True):
            assert sorted(one + other) == sorted(batch)
            assert len(one) == len(other) == 2


def pretended_length(epoch, i):
    return (i * 7 + epoch * 5) % 40


BY_LENGTH = dict(seed=3, length=pretended_length)


def test_texts_of_similar_length_come_together():
    batches = take(2 * 175, 700, 4, **BY_LENGTH)
    spreads = []
    for batch in batches:
        lengths = [pretended_length(*key) for key in batch]
        spreads.append(max(lengths) - min(lengths))
    # of 39 at most; about 24 in a random order
    assert sum(spreads) / len(spreads) < 3
    for epoch in (0, 1):
        keys = joined(batches[epoch * 175 : epoch * 175 + 175])
        assert sorted(keys) == [(epoch, i) for i in range(700)]
    # and not from short to long
    firsts = [pretended_length(*batch[0]) for batch in batches[:20]]
    assert firsts != sorted(firsts)
    assert firsts != sorted(firsts, reverse=True)


def test_batches_by_length_resume_anywhere_and_are_shared_among_processes():
    batches = take(2 * 175, 700, 4, **BY_LENGTH)
    for first in (1, 174, 175, 200):
        assert take(5, 700, 4, **BY_LENGTH, first=first) == batches[first : first + 5]
    of_rank_0 = take(5, 700, 4, **BY_LENGTH, first=170, rank=0, world=2)
    of_rank_1 = take(5, 700, 4, **BY_LENGTH, first=170, rank=1, world=2)
    for batch, one, other in zip(batches[170:175], of_rank_0, of_rank_1, strict=True):
        assert sorted(one + other) == sorted(batch)


def test_texts_are_sorted_within_32_batches_only():
    assert data.BATCHES_SORTED_TOGETHER == 32
    order = data.sort_by_length([3, 1, 2, 0, 5, 4], 3, 0, lambda epoch, i: i)
    assert order == [1, 2, 3, 0, 4, 5]


def test_questions_about_an_image_share_an_input():
    config = {'seed': 0, 'texts_per_input': 1}
    examples = [{'image': image} for image in 'aabacb']
    assert group_by_file(examples, 2) == [[0, 1], [2, 5], [3], [4]]
    texts = [([i], [[10 * i], [10 * i + 1]]) for i in range(6)]
    inputs = ExampleDataset(examples, texts, {**config, 'texts_per_input': 2}, train=True)
    assert len(inputs) == 4
    assert [prompt for prompt, _ in inputs[0, 1]['texts']] == [[2], [5]]
    # one question alone: both of its answers
    (_, first), (_, second) = inputs[0, 2]['texts']
    assert sorted([first, second]) == [[30], [31]]
    # with one text per input, every question is its own
    assert len(ExampleDataset(examples, texts, config, train=True)) == 6
