"""
What test_vqa.py tested of data.py (for test_data.py) and of config/ (for test_recipes.py).
"""

import pytest
from conftest import configured

from data import ExampleDataset, group_by_file
from encoders import ENCODERS
from nanopalm.datasets import DATASETS

CONFIG = {'seed': 0, 'texts_per_input': 1}


def test_questions_about_an_image_share_an_input():
    examples = [{'image': image} for image in 'aabacb']
    assert group_by_file(examples, 2) == [[0, 1], [2, 5], [3], [4]]
    texts = [([i], [[10 * i], [10 * i + 1]]) for i in range(6)]
    inputs = ExampleDataset(examples, texts, {**CONFIG, 'texts_per_input': 2}, train=True)
    assert len(inputs) == 4
    assert [prompt for prompt, _ in inputs[0, 1]['texts']] == [[2], [5]]
    # one question alone: both of its answers
    (_, first), (_, second) = inputs[0, 2]['texts']
    assert sorted([first, second]) == [[30], [31]]
    # with one text per input, every question is its own
    assert len(ExampleDataset(examples, texts, CONFIG, train=True)) == 6


@pytest.mark.parametrize(
    'name',
    [
        'vqav2',
        'okvqa',
        'aokvqa',
        'textvqa',
        'textcaps',
        'gqa',
        'audiocaps',
        'msrvtt',
        'msrvtt_qa',
        'msvd_qa',
        'cc3m',
    ],
)
def test_the_config_of_a_data_set_goes_with_the_config_of_a_mechanism(name):
    config = configured(name, 'limber_all')
    assert config['dataset'] in DATASETS
    assert config['encoder'] in ENCODERS
    assert '{prompt}' in config['instruction']
    assert config['connector'] == 'linear'
