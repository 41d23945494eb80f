"""
What an example is, and lists of examples. `pytest tests/test_examples.py`
"""

import pytest

from nanopalm.examples import (
    bullet_list,
    medium_of,
    merge_captions,
    path_of,
    spread_examples,
    target_texts,
)


@pytest.mark.parametrize('medium', ['image', 'audio', 'video'])
def test_an_example_has_one_medium_and_its_path(medium):
    example = {'id': 0, medium: 'a.file', 'caption': ['A cat.']}
    assert medium_of(example) == medium
    assert path_of(example) == 'a.file'


def test_an_example_without_a_file_is_an_error_that_says_which_keys_there_are():
    with pytest.raises(KeyError, match='image, audio, video'):
        medium_of({'caption': ['A cat.']})


def test_a_model_learns_to_write_the_captions_or_the_answers():
    assert target_texts({'caption': ['A cat.']}) == ['A cat.']
    assert target_texts({'question': 'why?', 'answers': ['so', 'because']}) == ['so', 'because']


def test_captions_of_the_same_file_are_merged_in_order():
    examples = [
        {'image': 'a.png', 'caption': ['A cat.'], 'id': 0},
        {'image': 'b.png', 'caption': ['A dog.'], 'id': 1},
        {'image': 'a.png', 'caption': ['A tabby.', 'A pet.'], 'id': 2},
    ]
    assert merge_captions(examples) == [
        {'image': 'a.png', 'caption': ['A cat.', 'A tabby.', 'A pet.'], 'id': 0},
        {'image': 'b.png', 'caption': ['A dog.'], 'id': 1},
    ]
    # the examples themselves stay as they are
    assert examples[0]['caption'] == ['A cat.']


@pytest.mark.parametrize(
    'limit, expected',
    [
        (0, 10),
        (0.0, 10),
        (0.5, 5),
        (0.04, 1),
        (1, 10),
        (1.0, 10),
        (2, 2),
        (7.0, 7),
        (99, 10),
    ],
)
def test_examples_are_limited_by_a_fraction_or_a_number(limit, expected):
    examples = [{'id': i} for i in range(10)]
    spread = spread_examples(examples, limit)
    assert len(spread) == expected
    assert spread[0] == examples[0]
    ids = [example['id'] for example in spread]
    assert ids == sorted(set(ids))


def test_a_limited_number_of_examples_is_spread_over_the_whole_list():
    examples = [{'id': i} for i in range(10)]
    assert spread_examples(examples, 2) == [{'id': 0}, {'id': 5}]


def test_a_long_list_in_a_message_is_cut_and_counted():
    assert bullet_list([]) == ''
    assert bullet_list(['one', 'two']) == '\n  one\n  two'
    lines = bullet_list([f'number {i}' for i in range(25)]).split('\n')[1:]
    assert len(lines) == 21
    assert lines[19] == '  number 19'
    assert lines[20] == '  ... and 5 more'
