"""
Questions: their rows, their batches, the official accuracy, and eval_vqa.py from end to end. `pytest tests/test_vqa.py`
"""
import json
import shutil

import pytest
import torch
from conftest import config_file, configured, flags, start
from PIL import Image
from transformers import AutoTokenizer

import eval_vqa
from data import ExampleDataset, group_by_file, tokenize_examples
from encoders import HUB, TIMM
from nanopalm import datasets as rows
from nanopalm.checkpoint import load_checkpoint
from nanopalm.decoding import token_limit
from nanopalm.generate import generate_texts
from nanopalm.html_report import answers_page
from nanopalm.scores import normalise, score_answers, strip_punctuation

CONFIG = dict(seed=0, texts_per_input=1, train_rows=0.0, restval=False, bad_rows='error', data_dir='')
TINY = dict(device='cpu', dtype='float32', adapter_dim=32, mapper_heads=4, n_queries=4, batch_size=4, max_iters=2, num_workers=0,
            instruction='{prompt} Answer:', max_new_tokens=4)


@pytest.fixture(scope='module')
def asked(pictures):
    """The folder of pictures with questions: of different lengths, two of every picture."""
    for split in ('train', 'val', 'test'):
        lines = (pictures / f'{split}.jsonl').read_text().splitlines()
        with open(pictures / f'asked_{split}.jsonl', 'w') as f:
            for i, line in enumerate(lines):
                image, (caption, _) = (json.loads(line)[k] for k in ('image', 'caption'))
                _, colour, shape = caption.strip('.').split()
                for question, answers, kind in (('what color?', [colour] * 9 + [shape], 'other'), (f'is there a {shape} in the picture?', ['yes'] * 10, 'yes/no')):
                    f.write(json.dumps(dict(image=image, question=question, answers=answers, split=split, answer_type=kind,
                                            question_type=question.split()[0])) + '\n')
    path = pictures / 'asked.jsonl'
    path.write_text(''.join((pictures / f'asked_{split}.jsonl').read_text() for split in ('train', 'val', 'test')))
    return path


# ---- the official accuracy ------------------------------------------------------------------------------------------

@pytest.mark.parametrize('text, normal', [
    ('The two dogs, dont!', "2 dogs don't"), ('1,000', '1000'), ('black-white', 'black white'), ('black - white', 'black white'),
    ('3.5', '3.5'), ('no. 3.', 'no 3'), ('None', '0'), ('ten', '10'), ('an', ''), ("it's", "it's"), ('whats', "what's"), ("couldnt've", "couldn't've"),
    ("yall'd've", "y'all'd've"), ("somebody'd", 'somebodyd'), ('a b/c', 'b c'), ('b /c', 'b c'), ('yes\n', 'yes'), ('Im', 'im'), ("dog's", "dog's"), ('', '')])
def test_normalised(text, normal):
    assert normalise(text) == normal


def test_a_mark_beside_a_space_anywhere_goes_without_trace_everywhere():
    assert strip_punctuation('a-b - c') == 'ab  c' and strip_punctuation('a-b') == 'a b' and strip_punctuation('1,000 a-b') == '1000 ab'


def test_scores_by_type():
    questions = [{'answers': ['yes'] * 10, 'answer_type': 'yes/no'},
                 {'answers': ['no'] * 10, 'answer_type': 'yes/no'}, {'answers': ['red']}]
    scores, each = score_answers(questions, ['yes', 'yes', 'red'], 'vqa_or_exact')
    assert scores == {'accuracy': 66.67, "answers 'yes/no'": 50.0} and each == [100, 0, 100]


def test_a_question_left_out_of_the_score_is_told_in_print_and_on_the_page(tmp_path, capsys):
    Image.new('RGB', (8, 8)).save(tmp_path / 'a.png')
    questions = [{'image': str(tmp_path / 'a.png'), 'question': 'what?', 'answers': ['taxi'] * 10,
                  'id': number, 'difficult_direct_answer': number == 1} for number in range(2)]
    scores, accuracies = score_answers(questions, ['taxi', 'cab'], 'aokvqa')
    for question, answer, accuracy in zip(questions, ['taxi', 'cab'], accuracies):
        question.update(answer=answer, accuracy=accuracy)
    result = {'rule': 'aokvqa', 'scores': scores, 'rows': questions,
              'knobs': {'split': 'test', 'page_rows': 9},
              'trained_with': {'dataset': 'aokvqa', 'llm': 'opt', 'encoder': 'vit',
                               'connector': 'linear'}}
    eval_vqa.print_scores(result)
    out = capsys.readouterr().out
    assert "rule 'aokvqa': A-OKVQA's own script" in out
    assert '1 of 2 questions are left out of the score' in out and '100.00' in out
    html = answers_page(result)
    assert 'left out of the score' in html and 'data-c="-1"' in html and '100% right' in html


# ---- rows -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('row, words', [
    (dict(question='what?'), ["key 'answers' is None"]),
    (dict(question='what?', answers=[]), ["key 'answers' is []"]),
    (dict(question=' ', answers='a'), ["key 'question' is ' '"]),
    (dict(question='what?', answers='a', caption='b'), ['either']),
    (dict(caption='b', answers='a'), ['either']),
    (dict(question='what?', answer='a'), ["did you mean 'answers'"]),
    (dict(question='what?', answers='a', difficult_direct_answer='no'),
     ["key 'difficult_direct_answer' is 'no', expected true or false"])])
def test_wrong_questions(row, words, tmp_path):
    Image.new('RGB', (8, 8)).save(tmp_path / 'a.png')
    path = tmp_path / 'rows.jsonl'
    path.write_text(json.dumps(dict(image='a.png') | row) + '\n')
    with pytest.raises(rows.BadData) as error:
        rows.load_examples(CONFIG | dict(dataset=str(path)), 'train')
    assert all(w in str(error.value) for w in ['line 1', *words])


def vqav2(folder):
    """VQAv2's and Karpathy's files of four pictures, two of them in Karpathy's val and test."""
    images = [(folder_, 10 * i + j, split) for i, (folder_, splits) in enumerate(dict(train2014=('train', 'train'), val2014=('restval', 'test')).items())
              for j, split in enumerate(splits)]
    for part in ('train2014', 'val2014'):
        (folder / part).mkdir(parents=True)
        mine = [i for f, i, _ in images if f == part]
        for i in mine:
            Image.new('RGB', (8, 8)).save(folder / part / f'COCO_{part}_{i:012d}.jpg')
        (folder / f'v2_OpenEnded_mscoco_{part}_questions.json').write_text(json.dumps(dict(questions=[
            dict(image_id=i, question=f'What is {i}?', question_id=i * 1000) for i in mine])))
        (folder / f'v2_mscoco_{part}_annotations.json').write_text(json.dumps(dict(annotations=[
            dict(question_type='what is', multiple_choice_answer=str(i), image_id=i, question_id=i * 1000, answer_type='number',
                 answers=[dict(answer=str(i), answer_confidence='yes', answer_id=k) for k in range(1, 11)]) for i in mine])))
    (folder / 'dataset_coco.json').write_text(json.dumps(dict(images=[
        dict(filepath=f, filename=f'COCO_{f}_{i:012d}.jpg', cocoid=i, split=s, sentences=[dict(raw='x')]) for f, i, s in images])))
    return folder


def test_vqav2(tmp_path):
    folder = vqav2(tmp_path)
    load = lambda name, split: [r['id'] for r in rows.load_examples(CONFIG | dict(dataset=name, data_dir=str(folder)), split)]
    assert load('vqav2', 'train') == [0, 1000] and load('vqav2', 'val') == load('vqav2', 'test') == [10000, 11000]
    assert load('vqav2_karpathy', 'train') == [0, 1000, 10000] and load('vqav2_karpathy', 'test') == [11000]
    row = rows.load_examples(CONFIG | dict(dataset='vqav2', data_dir=str(folder)), 'train')[1]
    assert row == dict(image=str(folder / 'train2014/COCO_train2014_000000000001.jpg'), question='What is 1?', answers=['1'] * 10, id=1000,
                       question_type='what is', answer_type='number')
    (folder / 'v2_mscoco_val2014_annotations.json').unlink()
    with pytest.raises(rows.BadData, match='v2_mscoco_val2014_annotations.json: no such file'):
        load('vqav2', 'val')


def jpegs(folder, *names):
    folder.mkdir(parents=True)
    for name in names:
        Image.new('RGB', (8, 8)).save(folder / f'{name}.jpg')


def okvqa(folder):
    vqav2(folder)
    for path in folder.glob('v2_*'):
        path.rename(folder / path.name.removeprefix('v2_'))
    # OK-VQA's annotators have a raw_answer each, and its lemma as answer
    for path in folder.glob('mscoco_*_annotations.json'):
        file = json.loads(path.read_text())
        for annotation in file['annotations']:
            for answer in annotation['answers']:
                answer['raw_answer'] = answer['answer']
                answer['answer'] = 'lemma'
        path.write_text(json.dumps(file))
    return dict(image='train2014/COCO_train2014_000000000000.jpg', question='What is 0?', answers=['0'] * 10, id=0, question_type='what is', answer_type='number')


def aokvqa(folder):
    for part, i in (('train', 299207), ('val', 461751)):
        jpegs(folder / f'{part}2017', f'{i:012d}')
        (folder / f'aokvqa_v1p0_{part}.json').write_text(json.dumps([
            dict(split=part, image_id=i, question_id=f'22MexN{part}', question='What is the man by the bags awaiting?', choices=['skateboarder', 'train', 'cab'],
                 correct_choice_idx=2, direct_answers=['ride'] * 5 + ['taxi'] * 5, difficult_direct_answer=False, rationales=['A cab is near.'])]))
    return dict(image='train2017/000000299207.jpg', id='22MexNtrain',
                question='What is the man by the bags awaiting?',
                answers=['ride'] * 5 + ['taxi'] * 5, difficult_direct_answer=False)


def textvqa(folder):
    jpegs(folder / 'train_images', '0054c91397f2fe05', 'b')
    for part, i, number in (('train', '0054c91397f2fe05', 0), ('val', 'b', 1)):
        (folder / f'TextVQA_0.5.1_{part}.json').write_text(json.dumps(dict(dataset_type=part, dataset_name='textvqa', data=[
            dict(question='what is the brand of phone?', image_id=i, image_classes=['Phone'], flickr_original_url='', image_width=8, image_height=8,
                 answers=['nokia'] * 9 + ['toshiba'], question_tokens=['what'], question_id=number, set_name=part)])))
    return dict(image='train_images/0054c91397f2fe05.jpg', question='what is the brand of phone?', answers=['nokia'] * 9 + ['toshiba'], id=0)


def textcaps(folder):
    jpegs(folder / 'train_images', 'a', 'b')
    for part, i in (('train', 'a'), ('val', 'b')):
        texts = ['A sign says stop.', 'A stop sign.']
        (folder / f'TextCaps_0.1_{part}.json').write_text(json.dumps(dict(dataset_name='textcaps', data=[
            dict(caption_str=text, caption_id=k, image_id=i, image_path=f'train/{i}.jpg', reference_strs=texts, set_name=part) for k, text in enumerate(texts)])))
    return dict(image='train_images/a.jpg', caption=['A sign says stop.', 'A stop sign.'], id='a')


def gqa(folder):
    jpegs(folder / 'images', '2354786', 'n1')
    for part, i in (('train', '2354786'), ('val', '2354786'), ('testdev', 'n1')):
        (folder / f'{part}_balanced_questions.json').write_text(json.dumps({f'0{part}': dict(
            semantic=[], entailed=[], equivalent=[], question='Is the sky dark?', imageId=i, isBalanced=True, groups={}, answer='yes', semanticStr='',
            annotations={}, types=dict(detailed='verify', semantic='attr', structural='verify'), fullAnswer='Yes, the sky is dark.')}))
    return dict(image='images/2354786.jpg', question='Is the sky dark?', answers=['yes'], id='0train', question_type='verify')


@pytest.mark.parametrize('make', [okvqa, aokvqa, textvqa, textcaps, gqa], ids=lambda make: make.__name__)
def test_official_files(make, tmp_path):
    """Miniatures in the official form; a missing picture and a file of another form are named."""
    first = make(tmp_path)
    load = lambda split: rows.load_examples(CONFIG | dict(dataset=make.__name__, data_dir=str(tmp_path)), split)
    assert load('train')[0] == first | dict(image=str(tmp_path / first['image']))
    ids = {split: {r['id'] for r in load(split)} for split in ('train', 'val', 'test')}
    assert not ids['train'] & (ids['val'] | ids['test']) and len(load('train')) == (2 if make is okvqa else 1)
    (tmp_path / first['image']).unlink()
    with pytest.raises(rows.BadData, match=f'{first["image"]}'):
        load('train')
    for path in tmp_path.glob('*train*.json'):
        path.write_text('[{"a": 1}]')
    with pytest.raises(rows.BadData, match='not the file of'):
        load('train')


@pytest.mark.parametrize('name', ['vqav2', 'okvqa', 'aokvqa', 'textvqa', 'textcaps', 'gqa', 'audiocaps', 'msrvtt', 'msrvtt_qa', 'msvd_qa', 'cc3m'])
def test_config_files(name):
    config = configured(name, 'limber_all')
    assert config['dataset'] in rows.DATASETS and config['encoder'] in {*TIMM, *HUB} and ('{prompt}' in config['instruction']) and config['connector'] == 'linear'


def test_an_instruction_without_a_place_for_the_question(llm):
    with pytest.raises(rows.BadData, match='no {prompt} in it'):
        tokenize_examples([dict(question='why?', answers=['so'])], AutoTokenizer.from_pretrained(llm), dict(instruction='Caption:', answer_prompt='', max_text_tokens=9))


# ---- batches --------------------------------------------------------------------------------------------------------

def test_questions_of_a_picture_share_an_input():
    three = [dict(image=image) for image in 'aabacb']
    assert group_by_file(three, 2) == [[0, 1], [2, 5], [3], [4]]
    texts = [([i], [[10 * i], [10 * i + 1]]) for i in range(6)]
    inputs = ExampleDataset(three, texts, CONFIG | dict(texts_per_input=2), train=True)
    assert len(inputs) == 4 and [p for (p, _) in inputs[0, 1]['texts']] == [[2], [5]]
    (_, first), (_, second) = inputs[0, 2]['texts']                     # one question alone: both of its answers
    assert sorted([first, second]) == [[30], [31]]
    assert len(ExampleDataset(three, texts, CONFIG, train=True)) == 6           # one text per input: every question is its own


# ---- the script -----------------------------------------------------------------------------------------------------

def test_script(run, llm, encoder, asked, tmp_path):
    see, blind, knobs = tmp_path / 'see', tmp_path / 'blind', TINY | dict(llm=llm, dataset=asked, cache_dir=tmp_path / 'cache')
    knobs.pop('max_new_tokens')
    run('train.py', *flags(**knobs, encoder=encoder, texts_per_input=2, cache_features=True, out_dir=see))
    run('train.py', *flags(**knobs, encoder=None, out_dir=blind))
    out = run('eval_vqa.py', *flags(out_dir=see, blind_dir=blind, device='cpu', dtype='float32', batch_size=3, max_new_tokens=4))
    result, submission = (json.loads((see / name).read_text()) for name in ('eval_test.json', 'results_test.json'))
    assert len(result['rows']) == 8 and set(result['scores']) == set(result['blind_scores']) == {
        'accuracy', "answers 'other'", "answers 'yes/no'", "questions 'what'", "questions 'is'"}
    assert result['rule'] == 'vqa' and "rule 'vqa': The script of VQAv2" in out
    line = next(line for line in out.splitlines() if line.startswith("accuracy by rule 'vqa'"))
    assert f"{result['scores']['accuracy']:.2f}" in line
    assert "by the rule &#x27;vqa&#x27;" in (see / 'eval_test.html').read_text()
    assert [s['answer'] for s in submission] == [r['answer'] for r in result['rows']]
    blind_answers = {}
    for row in result['rows']:                                          # the same answer to the same question
        assert blind_answers.setdefault(row['question'], row['blind_answer']) == row['blind_answer']
    assert answers_page(result).count('<article') == 8
    out = run('eval_vqa.py', *flags(out_dir=see, device='cpu', dtype='float32', max_new_tokens=4, rule='exact'))
    assert "accuracy by rule 'exact'" in out
    assert json.loads((see / 'eval_test.json').read_text())['rule'] == 'exact'
    error = run('eval_vqa.py', *flags(out_dir=see, device='cpu', rule='exakt'), fails=True)
    assert "rule='exakt'" in error and "'exact'" in error

    model, tokenizer, config = load_checkpoint(see, 'best', 'cpu', 'float32')      # one by one, as in a batch
    questions = rows.load_examples(config, 'test')
    with torch.no_grad():
        alone = [generate_texts(model, tokenizer, config, [q], 1, progress=False, num_beams=3, max_new_tokens=4)[0] for q in questions]
    assert alone == [r['answer'] for r in result['rows']]
    assert run('sample.py', *flags(out_dir=see, device='cpu', dtype='float32', input=questions[1]['image'], question=questions[1]['question'], max_new_tokens=4)) \
        == f"{questions[1]['image']}: {alone[1]}\n"
    assert 'eval_caption' in run('eval_vqa.py', *flags(out_dir=captioner(run, knobs, encoder, asked, tmp_path), device='cpu'), fails=True)
    assert 'no place for a question' in run('sample.py', *flags(out_dir=tmp_path / 'captions', input=questions[1]['image'], question='why?'), fails=True)
    assert 'eval_vqa' in run('eval_caption.py', *flags(out_dir=see, device='cpu'), fails=True)


def captioner(run, knobs, encoder, asked, tmp_path):
    run('train.py', *flags(**knobs | dict(dataset=asked.parent, encoder=encoder, instruction='Caption:', out_dir=tmp_path / 'captions')))
    return tmp_path / 'captions'


# ---- other data, other decoding ------------------------------------------------------------------

@pytest.fixture(scope='module')
def trained(llm, encoder, asked, tmp_path_factory):
    """The folder of a run on questions."""
    folder = tmp_path_factory.mktemp('trained')
    knobs = TINY | dict(llm=llm, encoder=encoder, dataset=asked, out_dir=folder / 'out')
    knobs.pop('max_new_tokens')
    process = start(folder, 'train.py', *flags(**knobs))
    process.join(120)
    assert process.exitcode == 0, (folder / 'stderr').read_text()
    return folder / 'out'


@pytest.fixture
def evaluate(run, trained, tmp_path):
    """evaluate(knob=value, ...) -> the result, of a copy of the run."""
    out_dir = shutil.copytree(trained, tmp_path / 'copy')

    def evaluate(name='test', **knobs):
        knobs = dict(device='cpu', dtype='float32', max_new_tokens=6, num_beams=1) | knobs
        run('eval_vqa.py', *flags(out_dir=out_dir, **knobs))
        return json.loads((out_dir / f'eval_{name}.json').read_text())
    return evaluate


def test_questions_of_another_data_set_are_scored_by_its_own_rule(
        evaluate, asked, tmp_path):
    data = tmp_path / 'textvqa'
    textvqa(data)
    result = evaluate('textvqa_test', dataset='textvqa', data_dir=data, instruction='Q: {prompt}')
    assert result['rule'] == 'textvqa'
    assert [row['question'] for row in result['rows']] == ['what is the brand of phone?']
    assert result['evaluated'] == {
        'dataset': 'textvqa', 'data_dir': str(data), 'instruction': 'Q: {prompt}',
        'answer_prompt': '', 'split': 'test', 'checkpoint': 'best'}
    assert result['trained_with']['dataset'] == str(asked)
    assert (tmp_path / 'copy/results_textvqa_test.json').is_file()
    out = (tmp_path / 'stdout').read_text()
    assert f'textvqa, by a model trained on {asked}' in out and "rule 'textvqa'" in out
    # the training's own data has 'vqa', by the number of answers
    own = evaluate(max_rows=0.5)
    assert own['rule'] == 'vqa' and len(own['rows']) == 4
    assert own['evaluated']['instruction'] == '{prompt} Answer:'


def test_the_answer_prompt_of_the_training_can_be_left_away(evaluate):
    assert evaluate(answer_prompt='So: ')['evaluated']['answer_prompt'] == 'So: '
    assert evaluate(answer_prompt=None)['evaluated']['answer_prompt'] == ''


def test_questions_without_a_place_in_the_instruction_are_refused(run, trained):
    error = run('eval_vqa.py', *flags(out_dir=trained, device='cpu', dtype='float32',
                                      instruction='Describe it.'), fails=True)
    assert "instruction='Describe it.': there is no {prompt} in it" in error


def test_sampled_answers_repeat_with_their_seed(evaluate):
    sampled = dict(do_sample=True, temperature=2.0, top_k=0, num_return_sequences=3)
    first = evaluate(seed=1, **sampled)
    again = evaluate(seed=1, **sampled)
    other = evaluate(seed=2, **sampled)

    def generated(result):
        return [row['generated'] for row in result['rows']]
    assert generated(first) == generated(again) != generated(other)
    for row in first['rows']:
        assert len(row['generated']) == 3 and row['answer'] == row['generated'][0]


@pytest.mark.parametrize('name', ['limber_all', 'epalm', 'c_attn'])
def test_several_answers_to_each_of_several_questions_read_the_right_picture(
        run, llm, encoder, asked, tmp_path, name):
    """From the likeliest token alone each of them is the greedy answer: texts, questions and
    pictures are not mixed up, whatever the mechanism."""
    knobs = TINY | dict(llm=llm, encoder=encoder, dataset=asked, out_dir=tmp_path / 'out',
                        n_prompt=2, source_layers=1, n_targets=1, target_stride=1, last_target=-1)
    knobs.pop('max_new_tokens')
    run('train.py', config_file(name), *flags(**knobs))
    model, tokenizer, config = load_checkpoint(tmp_path / 'out', 'best', 'cpu', 'float32')
    # far from what training starts with, so that pictures matter
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.trained().values():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    questions = rows.load_examples(config, 'test')
    options = dict(progress=False, max_new_tokens=12)
    with torch.no_grad():
        alone = [generate_texts(model, tokenizer, config, [question], 1, **options)[0]
                 for question in questions]
        several = generate_texts(model, tokenizer, config, questions, 3, do_sample=True, top_k=1,
                                num_return_sequences=3, **options)
    assert len(set(alone)) > 2
    assert several == [[answer] * 3 for answer in alone]


def test_an_answer_may_have_as_many_tokens_as_depalms_or_as_the_run_says():
    assert token_limit(eval_vqa.max_new_tokens, {}) == 50
    assert token_limit(eval_vqa.max_new_tokens, dict(test_new_tokens=30)) == 30
    assert token_limit(7, dict(test_new_tokens=30)) == 7


def test_sampling_blind_draws_for_every_question_anew(run, llm, asked, tmp_path):
    """Beams give the same answer to the same question."""
    knobs = TINY | dict(llm=llm, encoder=None, dataset=asked, out_dir=tmp_path / 'blind',
                        n_prompt=1)
    knobs.pop('max_new_tokens')
    run('train.py', *flags(**knobs))
    model, tokenizer, config = load_checkpoint(tmp_path / 'blind', 'best', 'cpu', 'float32')
    questions = [rows.load_examples(config, 'test')[0]] * 4
    options = dict(progress=False, max_new_tokens=6)
    with torch.no_grad():
        greedy = generate_texts(model, tokenizer, config, questions, 4, **options)
        sampled = generate_texts(model, tokenizer, config, questions, 4, do_sample=True,
                                temperature=3.0, top_k=0, **options)
    assert len(set(greedy)) == 1 and len(set(sampled)) > 1
