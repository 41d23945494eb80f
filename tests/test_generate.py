"""
nanopalm/generate.py: texts are not mixed up by batches, padding, beams and samples.
"""

from types import SimpleNamespace

import pytest
import torch
from conftest import configured, flags
from untrained import SMALL, randomise, write_questions

from nanopalm.checkpoint import build
from nanopalm.datasets import load_examples
from nanopalm.examples import BadData
from nanopalm.generate import (
    check_medium,
    first_text,
    generate_texts,
    make_batches,
    pad_left,
    readable,
)

QUESTION = {'instruction': '{prompt} Answer:'}


@pytest.fixture(scope='module')
def questions(pictures, tmp_path_factory):
    """The path of a data set of questions about the pictures."""
    return write_questions(pictures, tmp_path_factory.mktemp('questions') / 'questions.jsonl')


@pytest.fixture(scope='module')
def make(llm, encoder, questions):
    """make(mechanism, hyperparameter=value, ...) -> (model, tokenizer, config, test questions)."""

    def make(mechanism='', **hyperparameters):
        files = [mechanism] if mechanism else []
        defaults = {**SMALL, **QUESTION, 'llm': llm, 'encoder': encoder, 'dataset': questions}
        config = configured(*files, *flags(**{**defaults, **hyperparameters}))
        model, tokenizer = build(config, 'cpu', 'float32')
        randomise(model)
        return model.eval(), tokenizer, config, load_examples(config, 'test')

    return make


def generate(model, tokenizer, config, examples, batch_size=3, **options):
    options = {'max_new_tokens': 6, **options}
    return generate_texts(model, tokenizer, config, examples, batch_size, progress=False, **options)


# ---- texts ---------------------------------------------------------------------------------------


def test_questions_in_a_batch_are_answered_as_alone(make):
    model, tokenizer, config, examples = make()
    together = generate(model, tokenizer, config, examples, num_beams=3)
    alone = []
    for example in examples:
        alone += generate(model, tokenizer, config, [example], batch_size=1, num_beams=3)
    assert together == alone
    assert len(set(alone)) > 2


@pytest.mark.parametrize('join', ['tokens', 'channels'])
def test_two_encoders_see_the_same_image(make, encoder, join):
    model, tokenizer, config, examples = make(encoder=f'{encoder},{encoder}', encoder_join=join)
    together = generate(model, tokenizer, config, examples)
    alone = []
    for example in examples:
        alone += generate(model, tokenizer, config, [example], batch_size=1)
    assert together == alone
    assert len(set(alone)) > 2


@pytest.mark.parametrize('mechanism', ['limber_all', 'epalm', 'c_attn'])
def test_several_answers_to_each_of_several_questions_read_the_right_image(make, mechanism):
    """From the likeliest token alone each of them is the greedy answer: texts, questions and images
    are not mixed up, whatever the mechanism."""
    few_layers = {'n_prompt': 2, 'source_layers': 1, 'n_targets': 1, 'target_stride': 1}
    model, tokenizer, config, examples = make(mechanism, **few_layers, last_target=-1)
    alone = []
    for example in examples:
        alone += generate(model, tokenizer, config, [example], batch_size=1, max_new_tokens=12)
    several = generate(
        model,
        tokenizer,
        config,
        examples,
        max_new_tokens=12,
        do_sample=True,
        top_k=1,
        num_return_sequences=3,
    )
    assert len(set(alone)) > 2
    assert several == [[answer] * 3 for answer in alone]


def test_a_penalty_that_the_language_model_brings_is_not_used(make):
    """Qwen's generation_config.json has one."""
    model, tokenizer, config, examples = make()
    plain = generate(model, tokenizer, config, examples, num_beams=2, max_new_tokens=12)
    model.llm.generation_config.repetition_penalty = 5.0
    again = generate(model, tokenizer, config, examples, num_beams=2, max_new_tokens=12)
    assert again == plain


def test_samples_are_a_function_of_the_seed(make):
    model, tokenizer, config, examples = make()
    sampled = {'do_sample': True, 'temperature': 3.0, 'top_k': 0}
    texts = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(texts))
        texts.append(generate(model, tokenizer, config, examples, seed=seed, **sampled))
    assert texts[0] == texts[1] != texts[2]


def test_without_an_image_the_answer_to_the_same_question_is_the_same(make):
    model, tokenizer, config, examples = make(encoder=None, n_prompt=1)
    texts = generate(model, tokenizer, config, examples)
    text_of = {}
    for example, text in zip(examples, texts):
        assert text_of.setdefault(example['question'], text) == text
    # two shapes
    assert len(text_of) <= 3 < len(texts)


def test_sampling_blind_draws_for_every_question_anew(make):
    model, tokenizer, config, examples = make(encoder=None, n_prompt=1)
    same = [examples[0]] * 4
    sampled = {'do_sample': True, 'temperature': 3.0, 'top_k': 0}
    assert len(set(generate(model, tokenizer, config, same))) == 1
    assert len(set(generate(model, tokenizer, config, same, **sampled))) > 1


def test_a_file_that_cannot_be_read_has_no_text_or_is_an_error(make, tmp_path, capsys):
    model, tokenizer, config, examples = make()
    path = tmp_path / 'torn.png'
    path.write_bytes(b'no picture')
    torn = [{**examples[0], 'image': str(path)}, *examples[:3]]
    with pytest.raises(BadData, match='torn.png'):
        generate(model, tokenizer, {**config, 'bad_rows': 'error'}, torn)
    texts = generate(model, tokenizer, {**config, 'bad_rows': 'skip'}, torn)
    assert texts == [None, *generate(model, tokenizer, config, examples[:3])]
    assert readable(torn, texts) == (examples[:3], texts[1:])
    with pytest.raises(BadData, match='none of the files can be read'):
        readable(torn[:1], texts[:1])


def test_the_first_text_is_of_one_or_of_several():
    assert first_text('one') == first_text(['one', 'two']) == 'one'


# ---- batches -------------------------------------------------------------------------------------


def test_questions_about_an_image_are_in_one_group():
    examples = [{'image': image} for image in 'aabacb']
    prompts = [[0] * length for length in (1, 1, 9, 1, 2, 1)]
    # smaller groups first, then shorter prompts, so that little is padded
    assert make_batches(examples, prompts, 2) == [[[4], [2, 5]], [[0, 1, 3]]]


def test_prompts_are_padded_on_the_left():
    ids, mask = pad_left([[5], [6, 7, 8]], 0, 'cpu')
    assert ids.tolist() == [[0, 0, 5], [6, 7, 8]]
    assert mask.tolist() == [[0, 0, 1], [1, 1, 1]]
    ids, mask = pad_left([[5, 6], [7, 8]], 0, 'cpu')
    assert ids.tolist() == [[5, 6], [7, 8]] and mask is None


# ---- files ---------------------------------------------------------------------------------------


def test_files_of_another_medium_are_refused():
    encoder = SimpleNamespace(name='clip_l', medium='image')
    check_medium(encoder, [{'image': 'a.png'}])
    check_medium(encoder, [])
    check_medium(None, [{'audio': 'a.wav'}])
    with pytest.raises(BadData, match='has audio files, but the encoder .* takes image files'):
        check_medium(encoder, [{'audio': 'a.wav'}])
