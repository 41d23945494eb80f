"""
nanopalm/evaluation.py: which run, examples and prompts an evaluation takes, and what its results
say about it.
"""

import json

import pytest
from untrained import write_questions, write_run

from nanopalm.evaluation import (
    add_texts,
    check_blind_run,
    choose_checkpoint,
    describe_evaluation,
    load_captions,
    load_questions,
    read_run,
    result_name,
    with_other_data,
)
from nanopalm.examples import BadData

# of a script, unless a test changes it
SCRIPT = {
    'out_dir': 'out/run',
    'which': '',
    'bad_rows': '',
    'dataset': '',
    'data_dir': '',
    'instruction': '',
    'answer_prompt': '',
    'split': 'test',
}
# of a run
RUN = {
    'dataset': 'coco',
    'data_dir': 'data/coco',
    'instruction': 'Caption:',
    'answer_prompt': 'A: ',
    'answer_cue': ' Answer:',
    'caption_prompt': 'A picture of',
    'train_rows': 0.1,
    'bad_rows': 'error',
    'restval': False,
    'seed': 0,
}


# ---- runs ----------------------------------------------------------------------------------------


def test_the_checkpoint_is_the_one_that_the_run_says(tmp_path):
    # adapters are published without a config.json
    assert choose_checkpoint(tmp_path, '') == 'best'
    (tmp_path / 'config.json').write_text(json.dumps({}))
    assert choose_checkpoint(tmp_path, '') == 'best'
    (tmp_path / 'config.json').write_text(json.dumps({'test_checkpoint': 'last'}))
    assert choose_checkpoint(tmp_path, '') == 'last'
    assert choose_checkpoint(tmp_path, 'best') == 'best'


def test_a_run_is_read_without_its_model(llm, encoder, pictures, tmp_path):
    write_run(tmp_path, llm=llm, encoder=encoder, dataset=pictures)
    run = read_run(tmp_path, SCRIPT)
    assert run['llm'] == str(llm) and run['bad_rows'] == 'error'
    assert read_run(tmp_path, {**SCRIPT, 'bad_rows': 'skip'})['bad_rows'] == 'skip'
    with pytest.raises(FileNotFoundError, match='last.safetensors'):
        read_run(tmp_path, {**SCRIPT, 'which': 'last'})
    content = (tmp_path / 'best.safetensors').read_bytes()
    (tmp_path / 'best.safetensors').write_bytes(content[:500])
    with pytest.raises(ValueError, match='best.safetensors'):
        read_run(tmp_path, SCRIPT)


def test_a_blind_run_has_no_encoder_and_the_same_llm(llm, encoder, pictures, tmp_path):
    blind = write_run(tmp_path / 'blind', llm=llm, encoder=None, dataset=pictures, n_prompt=1)
    full = write_run(tmp_path / 'full', llm=llm, encoder=encoder, dataset=pictures)
    check_blind_run(blind, SCRIPT, {'llm': str(llm)})
    with pytest.raises(ValueError, match='a blind run has encoder=None'):
        check_blind_run(full, SCRIPT, {'llm': str(llm)})
    with pytest.raises(ValueError, match="the same llm='another'"):
        check_blind_run(blind, SCRIPT, {'llm': 'another'})


# ---- other data ----------------------------------------------------------------------------------


def test_what_is_not_given_is_the_runs():
    assert with_other_data(RUN, SCRIPT) == RUN
    assert with_other_data(RUN, {**SCRIPT, 'dataset': 'coco'}) == RUN


def test_a_limit_of_the_trainings_rows_is_no_limit_of_another_data_set():
    other = with_other_data(RUN, {**SCRIPT, 'dataset': 'nocaps', 'data_dir': 'data/nocaps'})
    assert other == {**RUN, 'dataset': 'nocaps', 'data_dir': 'data/nocaps', 'train_rows': 0.0}
    assert RUN['train_rows'] == 0.1


def test_a_prompt_can_be_replaced_or_left_away():
    other = with_other_data(RUN, {**SCRIPT, 'instruction': 'Q: {prompt}'})
    assert other == {**RUN, 'instruction': 'Q: {prompt}', 'answer_cue': ''}
    none = with_other_data(RUN, {**SCRIPT, 'instruction': None, 'answer_prompt': None})
    assert none == {
        **RUN,
        'instruction': '{prompt}',
        'answer_cue': '',
        'answer_prompt': '',
        'caption_prompt': '',
    }


@pytest.mark.parametrize('instruction', ['Describe {it}', 'As {"a": 1}: {prompt}', '{'])
def test_an_instruction_with_other_braces_is_refused(instruction):
    with pytest.raises(ValueError, match='--instruction is .*no braces but those'):
        with_other_data(RUN, {**SCRIPT, 'instruction': instruction})


@pytest.mark.parametrize('dataset', ['data/mine-1.0', 'data/mine-1.0/', 'mine-1.0.jsonl'])
def test_a_dot_in_a_folders_name_is_kept(dataset):
    evaluated = {'dataset': dataset, 'split': 'test'}
    assert result_name({'evaluated': evaluated, 'trained_with': RUN}) == 'mine-1.0_test'


def test_results_say_what_was_evaluated_and_are_named_after_it():
    run = with_other_data(RUN, {**SCRIPT, 'dataset': 'data/nocaps.jsonl'})
    evaluated = describe_evaluation(run, {**SCRIPT, 'which': 'last', 'split': 'val'})
    assert evaluated == {
        'dataset': 'data/nocaps.jsonl',
        'data_dir': 'data/coco',
        'instruction': 'Caption:',
        'answer_prompt': 'A: ',
        'split': 'val',
        'checkpoint': 'last',
    }
    assert result_name({'evaluated': evaluated, 'trained_with': RUN}) == 'nocaps_val'
    assert result_name({'evaluated': evaluated, 'trained_with': evaluated}) == 'val'


# ---- examples ------------------------------------------------------------------------------------


@pytest.fixture
def captions_of(tmp_path):
    """captions_of([(image, caption), ...], limit) -> the examples that are evaluated."""

    def captions_of(pairs, limit=0):
        lines = []
        for image, caption in pairs:
            (tmp_path / image).touch()
            lines.append(json.dumps({'image': image, 'caption': caption}))
        (tmp_path / 'test.jsonl').write_text('\n'.join(lines))
        return load_captions({**RUN, 'dataset': str(tmp_path)}, 'test', limit)

    return captions_of


def test_rows_of_one_image_are_one_example(captions_of, tmp_path):
    pairs = [('a', 'x'), ('b', 'y'), ('a', 'z'), ('c', 'w'), ('d', 'v')]
    examples = [(example['image'], example['caption']) for example in captions_of(pairs)]
    assert examples == [
        (str(tmp_path / 'a'), ['x', 'z']),
        (str(tmp_path / 'b'), ['y']),
        (str(tmp_path / 'c'), ['w']),
        (str(tmp_path / 'd'), ['v']),
    ]
    two = [example['image'] for example in captions_of(pairs, 2)]
    assert two == [str(tmp_path / 'a'), str(tmp_path / 'c')]
    assert len(captions_of(pairs, 9)) == 4
    assert len(captions_of(pairs, 0.5)) == 2


@pytest.mark.parametrize('caption', ['...', ['-', '"']])
def test_an_example_without_references_is_named(captions_of, caption):
    with pytest.raises(BadData, match=r'row 1 \(.*b\) has no reference caption'):
        captions_of([('a', 'A cat.'), ('b', caption)])


def test_an_empty_split_is_an_error(captions_of):
    with pytest.raises(BadData, match="'test'"):
        captions_of([])


@pytest.fixture
def questions(pictures, tmp_path):
    """The hyperparameters of a run on questions."""
    path = write_questions(pictures, tmp_path / 'questions.jsonl')
    return {**RUN, 'dataset': str(path), 'instruction': 'Q: {prompt}'}


def test_questions_are_spread_over_the_split(questions):
    everything = load_questions(questions, 'test')
    assert len(everything) == 8
    assert load_questions(questions, 'test', 2) == [everything[0], everything[4]]


def test_questions_need_a_place_in_the_instruction(questions):
    with pytest.raises(BadData, match="instruction='Describe it.': there is no {prompt} in it"):
        load_questions({**questions, 'instruction': 'Describe it.'}, 'test')


def test_captions_and_questions_have_scripts_of_their_own(questions, pictures):
    with pytest.raises(BadData, match='eval_vqa.py scores those'):
        load_captions(questions, 'test')
    with pytest.raises(BadData, match='eval_caption.py scores those'):
        load_questions({**questions, 'dataset': str(pictures)}, 'test')


# ---- results -------------------------------------------------------------------------------------


def test_of_several_texts_the_first_stands_by_itself():
    rows = [{'id': 0}, {'id': 1}]
    add_texts(rows, 'caption', ['one', 'two'])
    add_texts(rows, 'caption', [['three', 'four'], ['five', 'six']], 'blind_')
    assert rows[0] == {
        'id': 0,
        'caption': 'one',
        'blind_caption': 'three',
        'blind_generated': ['three', 'four'],
    }
