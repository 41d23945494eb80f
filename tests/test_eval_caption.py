"""
eval_caption.py from end to end, on a tiny LLM, a tiny encoder and a random adapter.
"""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT, flags
from test_html_report import ParsedPage
from untrained import CPU, write_questions, write_run

from nanopalm.scores import score_captions


@pytest.fixture(scope='module')
def out_dir(llm, encoder, pictures, tmp_path_factory):
    """The folder of a run whose checkpoint `last` is another than `best`."""
    folder = tmp_path_factory.mktemp('run')
    run = {'llm': llm, 'encoder': encoder, 'dataset': pictures, 'instruction': 'Caption:'}
    write_run(folder, seed=0, **run)
    return write_run(folder, seed=2, which='last', **run)


@pytest.fixture(scope='module')
def blind_dir(llm, pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp('blind')
    return write_run(folder, llm=llm, encoder=None, dataset=pictures, n_prompt=2)


@pytest.fixture
def evaluate(run, out_dir):
    """evaluate(hyperparameter=value, ...) -> the result. name: of its file."""

    def evaluate(name='test', **hyperparameters):
        greedy = {'max_new_tokens': 6, 'num_beams': 1}
        run('eval_caption.py', *flags(out_dir=out_dir, **{**CPU, **greedy, **hyperparameters}))
        return json.loads((out_dir / f'eval_{name}.json').read_text())

    return evaluate


def captions_of(result):
    return [row['caption'] for row in result['rows']]


def references_of(result):
    return [row['references'] for row in result['rows']]


# ---- scores and files ----------------------------------------------------------------------------


def test_a_split_is_captioned_and_scored_beside_the_blind_run(run, out_dir, blind_dir, llm):
    arguments = {'out_dir': out_dir, 'blind_dir': blind_dir, 'max_new_tokens': 6, 'batch_size': 3}
    out = run('eval_caption.py', *flags(**arguments, **CPU))
    result = json.loads((out_dir / 'eval_test.json').read_text())
    assert len(result['rows']) == 4
    assert all(len(references) == 2 for references in references_of(result))
    for side in ('', 'blind_'):
        captions = [row[side + 'caption'] for row in result['rows']]
        scores, ciders, _ = score_captions(references_of(result), captions)
        assert result[side + 'scores'] == scores
        assert [row[side + 'cider'] for row in result['rows']] == ciders
        assert 25 * sum(row[side + 'exact'] for row in result['rows']) == scores['exact']
        assert f'{scores["ROUGE-L"]:.2f}' in out
    assert len(set(captions_of(result))) > 1
    assert len({row['blind_caption'] for row in result['rows']}) == 1
    assert result['missing'] == {} and 'PTB' in result['tokenizer']
    assert result['trained_with']['llm'] == str(llm)
    assert result['knobs']['num_beams'] == 3
    assert set(result['knobs']) == {
        'out_dir', 'which', 'blind_dir', 'dataset', 'data_dir', 'instruction', 'answer_prompt',
        'split', 'max_rows', 'page_rows', 'java', 'num_beams', 'max_new_tokens', 'length_penalty',
        'repetition_penalty', 'do_sample', 'temperature', 'top_k', 'top_p', 'num_return_sequences',
        'seed', 'batch_size', 'device', 'dtype', 'compile', 'bad_rows',
    }  # fmt: skip
    page = (out_dir / 'eval_test.html').read_text()
    assert 'PTB' in page and page.count('<article') == 4


@pytest.mark.slow
def test_a_part_of_another_split_is_evaluated_without_a_blind_run(evaluate):
    result = evaluate('val', split='val', max_rows=2)
    assert len(result['rows']) == 2 and 'blind_scores' not in result
    assert len(evaluate(max_rows=0.5)['rows']) == 2
    assert len(evaluate(max_rows=3)['rows']) == 3
    assert len(evaluate(max_rows=1)['rows']) == 4


@pytest.mark.slow
def test_with_categories_the_share_within_them_is_scored(evaluate, pictures, tmp_path):
    folder = tmp_path / 'categories'
    folder.mkdir()
    for split in ('train', 'test'):
        lines = []
        for line in (pictures / f'{split}.jsonl').read_text().splitlines():
            example = json.loads(line)
            example['image'] = str(pictures / example['image'])
            example['category'] = 'shape'
            lines.append(json.dumps(example))
        (folder / f'{split}.jsonl').write_text('\n'.join(lines))
    result = evaluate('categories_test', dataset=folder)
    assert 0 <= result['scores']['category'] <= 100
    assert 'category' not in evaluate()['scores']


# ---- what is wrong or missing is said first ------------------------------------------------------


def test_a_blind_run_with_an_encoder_is_refused(run, out_dir):
    error = run('eval_caption.py', *flags(out_dir=out_dir, blind_dir=out_dir, **CPU), fails=True)
    assert 'a blind run has encoder=None' in error


@pytest.mark.slow
def test_questions_are_for_the_other_script(run, out_dir, pictures, tmp_path):
    questions = write_questions(pictures, tmp_path / 'questions.jsonl')
    error = run('eval_caption.py', *flags(out_dir=out_dir, dataset=questions, **CPU), fails=True)
    assert 'eval_vqa.py' in error


@pytest.mark.slow
def test_a_data_set_of_another_medium_than_the_encoders_is_refused(run, out_dir, tmp_path):
    (tmp_path / 'a.wav').touch()
    (tmp_path / 'test.jsonl').write_text(json.dumps({'audio': 'a.wav', 'caption': 'A bell.'}))
    error = run('eval_caption.py', *flags(out_dir=out_dir, dataset=tmp_path, **CPU), fails=True)
    assert 'audio files' in error and 'takes image files' in error


@pytest.mark.slow
def test_java_is_looked_for_before_anything_else():
    command = [sys.executable, 'eval_caption.py', '--java=True', '--out_dir=nowhere']
    process = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, 'PATH': ''},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1 and process.stdout == ''
    assert process.stderr.startswith('java=True: there is no java on the PATH.')


# ---- other data, another checkpoint --------------------------------------------------------------


@pytest.fixture
def others(pictures, tmp_path):
    """A file of other captions of the training images: a data set that was not trained on."""
    lines = []
    for line in (pictures / 'train.jsonl').read_text().splitlines()[:6]:
        image = str(pictures / json.loads(line)['image'])
        lines.append({'image': image, 'caption': 'Something else.', 'split': 'test'})
    (tmp_path / 'others.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    return tmp_path / 'others.jsonl'


@pytest.mark.slow
def test_other_data_than_the_trainings_is_evaluated_and_both_are_named(
    evaluate, others, out_dir, pictures, tmp_path
):
    result = evaluate('others_test', dataset=others, instruction='What?')
    assert len(result['rows']) == 6
    assert result['rows'][0]['references'] == ['Something else.']
    assert result['evaluated'] == {
        'dataset': str(others),
        'data_dir': 'data/coco',
        'instruction': 'What?',
        'answer_prompt': '',
        'split': 'test',
        'checkpoint': 'best',
    }
    assert result['trained_with']['dataset'] == str(pictures)
    assert result['trained_with']['instruction'] == 'Caption:'
    assert 'by a model trained on' in (tmp_path / 'stdout').read_text()
    text = ' '.join(ParsedPage((out_dir / 'eval_others_test.html').read_text()).text.split())
    assert f'{others}, test split' in text and f'is trained, on {pictures}' in text


@pytest.mark.slow
def test_the_trainings_own_instruction_and_none_at_all_are_other_prompts(evaluate, pictures):
    same = evaluate()
    none = evaluate(instruction=None)
    assert same['evaluated']['dataset'] == str(pictures)
    assert same['evaluated']['instruction'] == 'Caption:'
    assert none['evaluated']['instruction'] == '{prompt}'
    assert captions_of(same) != captions_of(none)


@pytest.mark.slow
def test_the_checkpoint_that_the_run_says_is_tested(evaluate, out_dir):
    best = evaluate(which='best')
    last = evaluate(which='last')
    assert captions_of(best) != captions_of(last)
    assert evaluate()['evaluated']['checkpoint'] == 'best'
    path = out_dir / 'config.json'
    config = path.read_text()
    try:
        path.write_text(json.dumps({**json.loads(config), 'test_checkpoint': 'last'}))
        chosen = evaluate()
        assert chosen['evaluated']['checkpoint'] == 'last'
        assert captions_of(chosen) == captions_of(last)
        assert evaluate(which='best')['evaluated']['checkpoint'] == 'best'
        # adapters are published without it
        path.unlink()
        assert evaluate()['evaluated']['checkpoint'] == 'best'
    finally:
        path.write_text(config)


# ---- beams and samples ---------------------------------------------------------------------------


@pytest.mark.slow
def test_sampling_repeats_with_its_seed_and_differs_with_another(evaluate):
    sampled = {'do_sample': True, 'temperature': 2.0, 'top_k': 0}
    first = evaluate(seed=3, **sampled)
    again = evaluate(seed=3, **sampled)
    other = evaluate(seed=4, **sampled)
    assert captions_of(first) == captions_of(again)
    assert captions_of(first) != captions_of(other)
    assert first['knobs']['seed'] == 3 and first['knobs']['temperature'] == 2.0


@pytest.mark.slow
def test_sampling_from_the_likeliest_token_alone_is_greedy(evaluate):
    greedy = captions_of(evaluate())
    assert captions_of(evaluate(do_sample=True, top_k=1)) == greedy
    assert captions_of(evaluate(do_sample=True, top_p=0.01, top_k=0)) == greedy
    assert captions_of(evaluate(do_sample=True, temperature=5.0, top_k=0)) != greedy


@pytest.mark.slow
def test_several_captions_of_an_image_are_listed_and_the_first_is_scored(evaluate, out_dir):
    beams = evaluate(num_beams=3, num_return_sequences=3, which='last')
    assert captions_of(beams) == captions_of(evaluate(num_beams=3, which='last'))
    sampled = evaluate(do_sample=True, temperature=2.0, num_return_sequences=4)
    for result, several in ((beams, 3), (sampled, 4)):
        for row in result['rows']:
            assert len(row['generated']) == several
            assert row['generated'][0] == row['caption']
            assert len(set(row['generated'])) > 1
    _, ciders, _ = score_captions(references_of(sampled), captions_of(sampled))
    assert [row['cider'] for row in sampled['rows']] == ciders
    text = ParsedPage((out_dir / 'eval_test.html').read_text()).text
    for row in sampled['rows']:
        assert all(caption in text for caption in row['generated'])


@pytest.mark.slow
def test_sampled_beams_are_seeded_too(evaluate):
    sampled = {
        'do_sample': True,
        'num_beams': 3,
        'temperature': 3.0,
        'top_k': 0,
        'num_return_sequences': 2,
    }
    texts = []
    for seed in (1, 1, 2):
        result = evaluate(seed=seed, **sampled)
        texts.append([row['generated'] for row in result['rows']])
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.slow
def test_penalties_change_the_captions(evaluate):
    plain = captions_of(evaluate(max_new_tokens=20))
    penalised = captions_of(evaluate(max_new_tokens=20, repetition_penalty=5.0))

    def repeats(texts):
        return sum(len(text) - len(set(text)) for text in texts)

    assert repeats(penalised) < repeats(plain)
    short = captions_of(evaluate(max_new_tokens=20, num_beams=4, length_penalty=-20.0))
    long = captions_of(evaluate(max_new_tokens=20, num_beams=4, length_penalty=20.0))
    assert sum(map(len, short)) < sum(map(len, long))
