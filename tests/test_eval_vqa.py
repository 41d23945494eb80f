"""
eval_vqa.py from end to end, on a tiny LLM, a tiny encoder and a random adapter.
"""

import json

import pytest
from conftest import flags
from PIL import Image
from untrained import CPU, write_questions, write_run

from nanopalm.checkpoint import load_checkpoint
from nanopalm.datasets import load_examples
from nanopalm.generate import generate_texts


@pytest.fixture(scope='module')
def questions(pictures, tmp_path_factory):
    return write_questions(pictures, tmp_path_factory.mktemp('questions') / 'questions.jsonl')


@pytest.fixture(scope='module')
def make_run(llm, questions, tmp_path_factory):
    """make_run(hyperparameter=value, ...) -> the folder of a run on the questions."""

    def make_run(**hyperparameters):
        defaults = {'llm': llm, 'dataset': questions, 'instruction': '{prompt} Answer:'}
        return write_run(tmp_path_factory.mktemp('run'), **{**defaults, **hyperparameters})

    return make_run


@pytest.fixture(scope='module')
def out_dir(make_run, encoder):
    return make_run(encoder=encoder)


@pytest.fixture
def evaluate(run, out_dir):
    """evaluate(hyperparameter=value, ...) -> the result. name: of its file."""

    def evaluate(name='test', **hyperparameters):
        greedy = {'max_new_tokens': 6, 'num_beams': 1}
        run('eval_vqa.py', *flags(out_dir=out_dir, **{**CPU, **greedy, **hyperparameters}))
        return json.loads((out_dir / f'eval_{name}.json').read_text())

    return evaluate


def generated(result):
    return [row['generated'] for row in result['rows']]


# ---- scores and files ----------------------------------------------------------------------------


def test_questions_are_answered_and_scored_beside_the_blind_run(run, out_dir, make_run):
    blind_dir = make_run(encoder=None, n_prompt=2)
    arguments = {'out_dir': out_dir, 'blind_dir': blind_dir, 'max_new_tokens': 4, 'batch_size': 3}
    out = run('eval_vqa.py', *flags(**arguments, **CPU))
    result = json.loads((out_dir / 'eval_test.json').read_text())
    rows = result['rows']
    names = {'accuracy', "answers 'other'", "answers 'yes/no'", "questions 'what'"}
    names.add("questions 'is'")
    assert len(rows) == 8
    assert set(result['scores']) == set(result['blind_scores']) == names

    assert result['rule'] == 'vqa' and "rule 'vqa': The script of VQAv2" in out
    (line,) = [line for line in out.splitlines() if line.startswith("accuracy by rule 'vqa'")]
    assert f'{result["scores"]["accuracy"]:.2f}' in line
    assert f'blind {result["blind_scores"]["accuracy"]:8.2f}' in line
    page = (out_dir / 'eval_test.html').read_text()
    assert 'by the rule &#39;vqa&#39;' in page or "by the rule 'vqa'" in page
    assert page.count('<article') == 8

    submission = json.loads((out_dir / 'results_test.json').read_text())
    expected = [{'question_id': row['id'], 'answer': row['answer']} for row in rows]
    assert submission == expected
    assert len({row['answer'] for row in rows}) > 1
    blind_answers = {}
    for row in rows:
        # without an image, the answer to the same question is the same
        blind_answer = blind_answers.setdefault(row['question'], row['blind_answer'])
        assert blind_answer == row['blind_answer']

    # one by one, as in a batch
    model, tokenizer, config = load_checkpoint(out_dir, 'best', 'cpu', 'float32')
    options = {'progress': False, 'num_beams': 3, 'max_new_tokens': 4}
    for row, example in zip(rows, load_examples(config, 'test')):
        alone = generate_texts(model, tokenizer, config, [example], 1, **options)
        assert alone == [row['answer']]


@pytest.mark.slow
def test_another_rule_can_be_chosen(run, out_dir, evaluate, tmp_path):
    assert evaluate(rule='exact')['rule'] == 'exact'
    assert "accuracy by rule 'exact'" in (tmp_path / 'stdout').read_text()
    error = run('eval_vqa.py', *flags(out_dir=out_dir, rule='exakt'), fails=True)
    assert "rule='exakt'" in error and "'exact'" in error


@pytest.mark.slow
def test_a_question_left_out_of_the_score_is_said_to_be(run, out_dir, pictures, tmp_path):
    """By A-OKVQA's rule."""
    lines = []
    for number in range(2):
        line = {
            'image': str(pictures / f'images/{number}.png'),
            'question': 'what?',
            'answers': ['taxi'] * 10,
            'difficult_direct_answer': number == 1,
        }
        lines.append(json.dumps(line))
    (tmp_path / 'test.jsonl').write_text('\n'.join(lines))
    arguments = {'dataset': tmp_path, 'rule': 'aokvqa', 'max_new_tokens': 2}
    out = run('eval_vqa.py', *flags(out_dir=out_dir, **arguments, **CPU))
    assert "rule 'aokvqa': A-OKVQA's own script" in out
    assert '1 of 2 questions are left out of the score' in out


# ---- what is wrong is said first -----------------------------------------------------------------


def test_captions_are_for_the_other_script(run, out_dir, pictures):
    error = run('eval_vqa.py', *flags(out_dir=out_dir, dataset=pictures, **CPU), fails=True)
    assert 'eval_caption.py' in error


@pytest.mark.slow
def test_questions_without_a_place_in_the_instruction_are_refused(run, out_dir):
    wrong = {'instruction': 'Describe it.'}
    error = run('eval_vqa.py', *flags(out_dir=out_dir, **CPU, **wrong), fails=True)
    assert "instruction='Describe it.': there is no {prompt} in it" in error


@pytest.mark.slow
def test_a_rule_that_cannot_score_the_questions_is_refused(run, out_dir, pictures, tmp_path):
    line = {'image': str(pictures / 'images/0.png'), 'question': 'what?', 'answers': 'taxi'}
    (tmp_path / 'test.jsonl').write_text(json.dumps(line))
    arguments = {'dataset': tmp_path, 'rule': 'vqa'}
    error = run('eval_vqa.py', *flags(out_dir=out_dir, **arguments, **CPU), fails=True)
    assert '--rule=exact' in error


# ---- other data ----------------------------------------------------------------------------------


def write_textvqa(folder):
    """Writes TextVQA's official file of one question."""
    (folder / 'train_images').mkdir(parents=True)
    Image.new('RGB', (8, 8)).save(folder / 'train_images/b.jpg')
    question = {
        'question': 'what is the brand of phone?',
        'image_id': 'b',
        'answers': ['nokia'] * 9 + ['toshiba'],
        'question_id': 1,
    }
    path = folder / 'TextVQA_0.5.1_val.json'
    path.write_text(json.dumps({'data': [question]}))
    return folder


@pytest.mark.slow
def test_questions_of_another_data_set_are_scored_by_its_own_rule(
    evaluate, questions, out_dir, tmp_path
):
    data_dir = write_textvqa(tmp_path / 'textvqa')
    other = {'dataset': 'textvqa', 'data_dir': data_dir, 'instruction': 'Q: {prompt}'}
    result = evaluate('textvqa_test', **other)
    assert result['rule'] == 'textvqa'
    assert [row['question'] for row in result['rows']] == ['what is the brand of phone?']
    assert result['evaluated'] == {
        'dataset': 'textvqa',
        'data_dir': str(data_dir),
        'instruction': 'Q: {prompt}',
        'answer_prompt': '',
        'split': 'test',
        'checkpoint': 'best',
    }
    assert result['trained_with']['dataset'] == str(questions)
    assert (out_dir / 'results_textvqa_test.json').is_file()
    out = (tmp_path / 'stdout').read_text()
    assert f'textvqa, by a model trained on {questions}' in out and "rule 'textvqa'" in out
    # for the training's own data it is 'vqa', by the number of answers
    own = evaluate(max_rows=0.5)
    assert own['rule'] == 'vqa' and len(own['rows']) == 4
    assert own['evaluated']['instruction'] == '{prompt} Answer:'


@pytest.mark.slow
def test_the_answer_prompt_of_the_training_can_be_left_away(evaluate):
    assert evaluate(answer_prompt='So: ')['evaluated']['answer_prompt'] == 'So: '
    assert evaluate(answer_prompt=None)['evaluated']['answer_prompt'] == ''


# ---- samples -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_sampled_answers_repeat_with_their_seed(evaluate):
    sampled = {'do_sample': True, 'temperature': 2.0, 'top_k': 0, 'num_return_sequences': 3}
    first = evaluate(seed=1, **sampled)
    again = evaluate(seed=1, **sampled)
    other = evaluate(seed=2, **sampled)
    assert generated(first) == generated(again) != generated(other)
    for row in first['rows']:
        assert len(row['generated']) == 3 and row['answer'] == row['generated'][0]
