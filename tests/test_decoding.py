"""
nanopalm/decoding.py: the arguments of `generate` that the scripts' hyperparameters stand for.
"""

import pytest
from conftest import flags

from nanopalm.decoding import SAMPLING, decoding_options, token_limit

DEFAULTS = {
    'num_beams': 3,
    'max_new_tokens': 50,
    'num_return_sequences': 1,
    'do_sample': False,
    'repetition_penalty': 1.0,
    'length_penalty': 1.0,
    **SAMPLING,
}


def test_beams_have_a_length_penalty_and_samples_a_temperature():
    always = {
        'num_beams',
        'max_new_tokens',
        'num_return_sequences',
        'do_sample',
        'repetition_penalty',
    }
    assert set(decoding_options(DEFAULTS, {})) == always | {'length_penalty'}
    assert set(decoding_options({**DEFAULTS, 'num_beams': 1}, {})) == always
    sampled = decoding_options({**DEFAULTS, 'num_beams': 1, 'do_sample': True, 'top_k': 7}, {})
    assert set(sampled) == always | set(SAMPLING) and sampled['top_k'] == 7
    assert set(decoding_options({**DEFAULTS, 'do_sample': True}, {})) == (
        always | set(SAMPLING) | {'length_penalty'}
    )


@pytest.mark.parametrize(
    'changes, words',
    [
        ({'temperature': 0.7}, 'temperature=0.7 is for sampling'),
        ({'top_k': 3}, 'top_k=3 is for sampling'),
        ({'top_p': 0.5}, 'top_p=0.5 is for sampling'),
        ({'num_beams': 1, 'length_penalty': 2.0}, 'length_penalty=2.0 compares beams'),
        ({'num_return_sequences': 4}, 'num_beams=3 ends with no more than 3'),
        ({'num_return_sequences': 4, 'do_sample': True}, 'num_beams=3 ends with no more than 3'),
        ({'num_beams': 1, 'num_return_sequences': 2}, '--do_sample=True --num_beams=1'),
    ],
)
def test_what_would_have_no_effect_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        decoding_options({**DEFAULTS, **changes}, {})


def test_more_samples_than_beams_are_allowed_without_beams():
    several = {'num_beams': 1, 'num_return_sequences': 9, 'do_sample': True}
    assert decoding_options({**DEFAULTS, **several}, {})['num_return_sequences'] == 9


def test_an_answer_may_have_as_many_tokens_as_depalms_or_as_the_run_says():
    assert token_limit(0, {}) == token_limit(0, {'test_new_tokens': 0}) == 50
    assert token_limit(0, {'test_new_tokens': 30}) == 30
    assert token_limit(7, {'test_new_tokens': 30}) == 7


REFUSED = [
    ({'temperature': 0, 'do_sample': True}, 'temperature=0.0: expected 0.01 or more'),
    ({'top_p': 0, 'do_sample': True}, 'top_p=0.0: expected 0.01 or more'),
    ({'top_p': 1.5, 'do_sample': True}, 'top_p=1.5: expected 1 or less'),
    ({'top_k': -1, 'do_sample': True}, 'top_k=-1: expected 0 or more'),
    ({'repetition_penalty': 0}, 'repetition_penalty=0.0: expected 0.01 or more'),
    ({'num_return_sequences': 0}, 'num_return_sequences=0: expected 1 or more'),
    ({'num_return_sequences': 4}, 'num_beams=3 ends with no more than 3'),
    ({'num_beams': 1, 'num_return_sequences': 2}, '--do_sample=True --num_beams=1'),
    ({'temperature': 0.7}, 'temperature=0.7 is for sampling'),
    ({'num_beams': 1, 'length_penalty': 2.0}, 'length_penalty=2.0 compares beams'),
]


@pytest.mark.slow
@pytest.mark.parametrize('script', ['sample.py', 'eval_caption.py', 'eval_vqa.py'])
@pytest.mark.parametrize('changes, words', REFUSED)
def test_the_scripts_refuse_it_before_anything_is_loaded(run, pictures, script, changes, words):
    if script == 'sample.py':
        changes = {**changes, 'input': pictures / 'images/0.png'}
    assert words in run(script, *flags(out_dir='nowhere', device='cpu', **changes), fails=True)
