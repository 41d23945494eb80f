"""
Scores: ours against those of pycocoevalcap with Java, on the 200 captioned pictures of captions.json; and odd answers. `pytest tests/test_scores.py`

captions.json holds texts, one picture a line, and what pycocoevalcap's own PTBTokenizer, Cider, Bleu, Rouge and Meteor make of them.
`python tests/test_scores.py` computes that again from its texts; it needs java and a UTF-8 locale.

vqa_cases.json holds predictions, annotators' answers ({text: how many wrote it}), a rule, and the
score worked out by hand from the official scripts. reference_vqa.py is a second implementation of
the rules that shares nothing with ours.
"""
import json
import random
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pytest
from reference_vqa import reference_score

import eval_caption
from nanopalm import generate, java, scores
from nanopalm.java import java_tokenize
from nanopalm.scores import (
    RULES,
    check_rule,
    default_rule,
    normalise,
    score_answers,
    score_captions,
    tokenize,
)

FIXTURE = Path(__file__).with_name('captions.json')
PICTURES, CORPUS = (json.loads(FIXTURE.read_text(encoding='utf-8'))[k] for k in ('pictures', 'corpus'))
VQA_CASES = json.loads(FIXTURE.with_name('vqa_cases.json').read_text(encoding='utf-8'))
REFERENCES, HYPOTHESES = [p['references'] for p in PICTURES], [p['hypothesis'] for p in PICTURES]
PURE = ['CIDEr', 'BLEU-1', 'BLEU-2', 'BLEU-3', 'BLEU-4', 'ROUGE-L']
needs_java = pytest.mark.skipif(not shutil.which('java'), reason='no java on the PATH')


def write_fixture():
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
    refs, hyps = (PTBTokenizer().tokenize({i: [dict(caption=t) for t in texts] for i, texts in enumerate(side)})
                  for side in (REFERENCES, [[t] for t in HYPOTHESES]))
    names, (bleu, bleus) = ['CIDEr', 'ROUGE-L', 'METEOR'], Bleu(4).compute_score(refs, hyps, verbose=0)
    corpus, each = zip(*(metric().compute_score(refs, hyps) for metric in (Cider, Rouge, Meteor)))
    names, corpus, each = names + [f'BLEU-{n}' for n in range(1, 5)], [*corpus, *bleu], [*each, *bleus]
    pictures = [dict(references=p['references'], hypothesis=p['hypothesis'], tokens=[*refs[i], *hyps[i]],
                     scores={name: float(values[i]) for name, values in zip(names, each)}) for i, p in enumerate(PICTURES)]
    lines = ',\n'.join(json.dumps(p, ensure_ascii=False) for p in pictures)
    FIXTURE.write_text(f'{{"corpus": {json.dumps(dict(zip(names, map(float, corpus))))},\n"pictures": [\n{lines}]}}\n', encoding='utf-8')


# ---- captions, without Java -----------------------------------------------------------------------------------------

def test_fixture_is_not_trivial():
    texts = ' '.join(t for r in REFERENCES for t in r)
    assert len(PICTURES) == 200 and {len(r) for r in REFERENCES} == {1, 2, 3, 5} and 20 < 100 * CORPUS['BLEU-4'] < 80
    assert all(mark in texts for mark in '"\'()[]{}.,:;?!-/&$%#@\u2019\u201c\u00e9\u732b\u2014\u00bd')
    assert '' in [p['tokens'][-1] for p in PICTURES]


@pytest.mark.parametrize('picture', PICTURES, ids=range(200))
def test_tokens_and_scores_of_a_picture(picture):
    assert [tokenize(t) for t in [*picture['references'], picture['hypothesis']]] == picture['tokens']
    ours, _, missing = score_captions([picture['references']], [picture['hypothesis']])
    assert ours.pop('CIDEr') == 0 and not missing           # of one picture alone; of all of them: below
    assert ours == pytest.approx({k: 100 * picture['scores'][k] for k in PURE[1:]}, abs=1e-6)


def test_scores_of_all_pictures():
    ours, ciders, missing = score_captions(REFERENCES, HYPOTHESES)
    assert list(ours) == PURE and not missing
    assert ours == pytest.approx({k: 100 * CORPUS[k] for k in PURE}, abs=1e-6)
    assert ciders == pytest.approx([100 * p['scores']['CIDEr'] for p in PICTURES], abs=1e-6)


# ---- captions, with Java --------------------------------------------------------------------------------------------

@needs_java
def test_java_itself(monkeypatch):
    """The one run of METEOR, 10 to 30 s. SPICE is faked: its models are a download of 400 MB."""
    monkeypatch.setattr(scores, 'spice', lambda refs, hyps: 0.25)
    theirs, ciders, missing = score_captions(REFERENCES, HYPOTHESES, java=True)
    assert list(theirs) == [*PURE, 'METEOR', 'SPICE', 'SPIDEr'] and not missing
    assert theirs.pop('SPICE') == 25 and theirs.pop('SPIDEr') == pytest.approx((theirs['CIDEr'] + 25) / 2)
    assert theirs == pytest.approx({k: 100 * v for k, v in CORPUS.items()}, abs=1e-6)
    assert ciders == pytest.approx([100 * p['scores']['CIDEr'] for p in PICTURES], abs=1e-6)


@needs_java
def test_java_tokens_of_odd_lines():
    tokens = {'a\nb\r\nc\u2028d\x85e\x0bf': 'a b c d e f', '': '', ' ': '', '|||': '| | |', '\u732b': '\u732b', '\ud800': '', 'a': 'a'}
    assert java_tokenize(list(tokens)) == list(tokens.values())


def fake_java(folder, monkeypatch, script):
    """A `java` that is this shell script."""
    path = folder / 'java'
    path.write_text(f'#!/bin/sh\n{script}\n')
    path.chmod(0o755)
    monkeypatch.setenv('PATH', f'{folder}:/usr/bin:/bin')


def test_java_that_fails(tmp_path, monkeypatch):
    fake_java(tmp_path, monkeypatch, 'echo "no heap" >&2; exit 1')
    with pytest.raises(OSError, match='(?s)tokenizer.*no heap'):
        java_tokenize(['a cat'])
    with pytest.raises(OSError):
        java.meteor({0: ['a cat']}, {0: ['a cat']})


@pytest.fixture
def no_download(monkeypatch):
    def fail():
        raise OSError('no network')
    monkeypatch.setattr('pycocoevalcap.spice.spice.get_stanford_models', fail)


@pytest.mark.parametrize('version, words', [('17.0.15', ['Java 8 to 14', 'this is 17']), ('1.8.0_402', ['a download that failed: no network']),
                                            ('11.0.2', ['a download that failed: no network'])])
def test_what_spice_lacks(version, words, no_download, tmp_path, monkeypatch):
    fake_java(tmp_path, monkeypatch, f"echo 'openjdk version \"{version}\"' >&2")
    monkeypatch.setattr(java, 'JARS', tmp_path)
    with pytest.raises(OSError) as error:
        java.spice({}, {})
    by_hand = ['corenlp-3.6.0.jar and stanford-corenlp-3.6.0-models.jar', 'stanford-corenlp-full-2015-12-09.zip', str(tmp_path / 'spice/lib')]
    assert all(w in str(error.value) for w in words + by_hand) and ('Java 8 to 14' in str(error.value)) == (version[:2] == '17')


# ---- eval_caption.py --java=True ------------------------------------------------------------------------------------

@pytest.fixture
def evaluate(pictures, tmp_path, monkeypatch):
    """evaluate() -> what eval_caption.py --java=True writes of two fake models; `generated` counts their captions."""
    def with_blind(*_):
        yield '', None, None, trained_with
        yield 'blind_', None, None, trained_with

    def generate_texts(model, tokenizer, config, rows, *_, **__):
        generated.extend(rows)
        return [f'A {"red" if i else "green"} circle.' for i in range(len(rows))]

    def evaluate():
        eval_caption.main(knobs)
        assert (tmp_path / 'eval_test.html').is_file()
        return json.loads((tmp_path / 'eval_test.json').read_text())
    trained_with = dict(dataset=str(pictures), llm='llm', encoder='encoder', connector='linear', seed=0, train_rows=0.0,
                        texts_per_input=1, data_dir='', restval=False, bad_rows='error')
    knobs = dict(out_dir=str(tmp_path), blind_dir='blind', split='test', page_rows=10, java=True)
    evaluate.generated = generated = []
    monkeypatch.setattr(generate, 'with_blind', with_blind)
    monkeypatch.setattr(generate, 'generate_texts', generate_texts)
    for name, value in knobs.items():
        monkeypatch.setattr(eval_caption, name, value)
    return evaluate


def fail(*_):
    raise OSError('needs a jar')


def test_script_says_what_is_missing_before_and_after(evaluate, tmp_path, monkeypatch, capsys):
    fake_java(tmp_path, monkeypatch, '')
    monkeypatch.setattr(scores, 'java_tokenize', lambda texts: ['a red circle'] * len(texts))
    monkeypatch.setattr(scores, 'meteor', lambda refs, hyps: 0.5)
    monkeypatch.setattr(scores, 'spice', fail)
    result, out = evaluate(), capsys.readouterr().out
    assert 'Java' in result['tokenizer'] and list(result['scores']) == list(result['blind_scores']) == [*PURE, 'METEOR']
    assert result['scores']['METEOR'] == 50 and result['scores']['ROUGE-L'] == 100       # all tokens are those of java_tokenize
    assert result['missing'] == {'SPICE': 'needs a jar', 'SPIDEr': 'it is the mean of CIDEr and SPICE'}
    assert out.index('no SPICE: needs a jar') < out.index('CIDEr  ') < out.rindex('no SPICE: needs a jar')


def test_script_compares_what_both_sides_have(evaluate, tmp_path, monkeypatch):
    answers = iter([0.5, 0.5])                              # the rehearsal, the run, then the blind run gets none
    fake_java(tmp_path, monkeypatch, '')
    monkeypatch.setattr(scores, 'java_tokenize', lambda texts: list(map(tokenize, texts)))
    monkeypatch.setattr(scores, 'meteor', lambda *_: next(answers, None) or fail())
    monkeypatch.setattr(scores, 'spice', lambda *_: 0.25)
    result = evaluate()
    assert list(result['scores']) == list(result['blind_scores']) == [*PURE, 'SPICE', 'SPIDEr'] and result['missing'] == {'METEOR': 'needs a jar'}


def test_script_loses_no_caption_if_java_fails_late(evaluate, tmp_path, monkeypatch):
    fake_java(tmp_path, monkeypatch, '')
    monkeypatch.setattr(scores, 'java_tokenize', lambda texts: fail() if evaluate.generated else list(map(tokenize, texts)))
    monkeypatch.setattr(scores, 'meteor', lambda *_: 0.5)
    monkeypatch.setattr(scores, 'spice', lambda *_: 0.25)
    result = evaluate()
    assert 'pure Python' in result['tokenizer'] and list(result['missing'].values()) == ['needs a jar'] and list(result['scores']) == PURE
    assert [row['caption'] for row in result['rows']] == ['A green circle.'] + ['A red circle.'] * 3


def test_script_without_a_working_java_generates_nothing(evaluate, tmp_path, monkeypatch):
    fake_java(tmp_path, monkeypatch, 'exit 1')
    with pytest.raises(OSError, match='tokenizer'):
        evaluate()
    monkeypatch.setenv('PATH', '')
    with pytest.raises(SystemExit, match='no java on the PATH'):
        evaluate()
    assert not evaluate.generated


# ---- answers --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('text, normal', [
    ('isnt it', "isn't it"), ('cant', "can't"), ("shouldnt've", "shouldn't've"), ('shouldntve', 'shouldntve'), ("wed've", "we'd've"), ('wed', 'wed'),
    ('shes', 'shes'), ('lets', 'lets'), ('Ive', 'ive'), ('5 oclock', "5 o'clock"), ("10 O'Clock", "10 o'clock"), ("ow's'at", "'ow's'at"),
    ('twas', "'twas"), ('Yall', "y'all"), ("it's maam", "it's ma'am"), ('don\u2019t', 'don\u2019t'), ("man's", "man's"), ('mans', 'mans'),
    ('A', ''), ('the an a', ''), ('The White House', 'white house'), ('theater', 'theater'), ('a/b', 'b'), ('a+', ''), ('a.m', 'am'),
    ('one-way', '1 way'), ('twenty-one', 'twenty 1'), ('one hundred', '1 hundred'), ('eleven', 'eleven'), ('Zero', '0'), ('NONE', '0'),
    ('none.', '0'), ('no one', 'no 1'), ('someone', 'someone'), ('ten-ten', '10 10'), ('two\ndogs', '2 dogs'),
    ('  tennis   racket ', 'tennis racket'),
    ('10,000', '10000'), ('1,000.50', '1000.50'), ('1, 2', '1 2'), ('1,2-3', '123'), ('red,blue', 'red blue'), ('red ,blue-green', 'red blue green'),
    ('red - blue-green', 'red bluegreen'), ('3.14', '3.14'), ('3.', '3'), ('.5', '.5'), ('7.a', '7a'), ('5 p.m.', '5 pm'), ('U.S.A.', 'usa'),
    ('wait...', 'wait'), ('10:30', '10:30'), ('50%', '50%'), ('$5.00', '$5.00'), ('#1', '#1'), ('stop!', 'stop'), ('what?!', 'what'),
    ('"stop"', 'stop'), ('(left) side', 'left side'), ('x_y', 'x y'), ('rock & roll', 'rock & roll'), ('e-mail@site.com', 'e mail sitecom'),
    ('<unk>', 'unk'), ('half;full', 'half full'), ('b\\c', 'b c'), ('caf\u00e9', 'caf\u00e9'), ('\u00c9COLE', '\u00e9cole'), ('\u00bd', '\u00bd'),
    ('\u732b', '\u732b'), ('...', ''), ('-', '')])
def test_odd_answers(text, normal):
    """By hand, from the rules of the official evaluation (GT-Vision-Lab/VQA, vqaEval.py)."""
    assert normalise(text) == normal


def annotators(counts):
    """Returns ['two', 'two', '2'] for {'two': 2, '2': 1}."""
    answers = []
    for text, count in counts.items():
        answers += [text] * count
    return answers


@pytest.mark.parametrize('case', VQA_CASES, ids=range(len(VQA_CASES)))
def test_answers_score_as_worked_out_by_hand(case):
    answers = annotators(case['answers'])
    ours = RULES[case['rule']](case['prediction'], {'answers': answers})
    assert ours == pytest.approx(case['score']), case['why']
    reference = reference_score(case['rule'], case['prediction'], answers)
    assert reference == pytest.approx(case['score']), case['why']


@pytest.mark.parametrize('text', ['two', 'coca-cola', 'the north face'])
@pytest.mark.parametrize('rule', ['vqa', 'depalm', 'textvqa', 'aokvqa'])
def test_what_all_ten_annotators_say_is_right(rule, text):
    assert score_answers([{'answers': [text] * 10}], [text], rule) == ({'accuracy': 100.0}, [100.0])


ODD_TOKENS = """two 2 ten 10 none zero 0 eleven one-way a an the A The theater u.s. U.S.A. no. no .5
    3.5 3. ... . , ; - _ / ? ! " ( [x] {y} = + \\ > < @ ` : ' & % $5.00 #1 1,000 1,000.50 1,2-3 1,
    ,5 red,blue coca-cola black/white e-mail@site.com what?! dont don't isnt isn't it's its Im I'm
    somebody'd somebodyd couldntve couldnt've couldn'tve couldn't've 'twas twas o'clock oclock
    yall'd've dog's DOG'S dogs thats that's let's she's ow's'at caf\u00e9 CAF\u00c9 \u732b \u00bd
    \u0663,\u0664 don\u2019t \u0130stanbul \u00df north face cat Cat""".split()
ODD_TOKENS += ['\u00a0', '.' * 33, '']
JOINTS = [' ', ' ', ' ', '', '-', ',', '\n', '\t', '  ', '\n\n', ', ', ' / ']


def odd_answer(generator):
    """Returns one to four odd tokens, joined oddly."""
    text = generator.choice(ODD_TOKENS)
    for _ in range(generator.randrange(4)):
        text += generator.choice(JOINTS) + generator.choice(ODD_TOKENS)
    return text


def variants(text):
    """Returns spellings of a text, some of which a rule takes for the same."""
    return [text, f'{text} ', f'the {text}', f'{text}.', text.upper(), text.replace('-', ' '),
            text.replace("'", ''), text.replace(',', ''), text.replace('two', '2'), normalise(text)]


def odd_questions(number, seed):
    """Returns [(prediction, answers of one to ten annotators)]."""
    generator = random.Random(seed)
    questions = []
    for _ in range(number):
        texts = variants(odd_answer(generator)) + [odd_answer(generator)]
        n = generator.choice([1, 2, 5, 10, 10, 10, 10])
        if generator.random() < 0.3:
            answers = [generator.choice(texts)] * n
        else:
            answers = generator.choices(texts, k=n)
        questions.append((generator.choice(texts + answers), answers))
    return questions


@pytest.mark.parametrize('rule', RULES)
def test_odd_answers_score_as_in_the_reference_implementation(rule):
    ours, reference = [], []
    questions = odd_questions(500, seed=14)
    for prediction, answers in questions:
        ours.append(RULES[rule](prediction, {'answers': answers}))
        reference.append(reference_score(rule, prediction, answers))
    wrong = [question for question, a, b in zip(questions, ours, reference) if abs(a - b) > 1e-12]
    assert not wrong
    # the questions are neither all right nor all wrong
    assert 25 < sum(score == 0 for score in ours) < 475


def test_the_rules_differ_on_odd_answers():
    questions = odd_questions(500, seed=14)
    columns = set()
    for score in RULES.values():
        columns.add(tuple(score(prediction, {'answers': a}) for prediction, a in questions))
    assert len(columns) == len(RULES)


def test_difficult_questions_of_aokvqa_are_left_out_by_its_own_rule_alone():
    rows = [{'answers': ['taxi'] * 10, 'difficult_direct_answer': False},
            {'answers': ['ride'] * 10, 'difficult_direct_answer': True},
            {'answers': ['taxi'] * 2 + ['ride'] * 8}]
    scores, each = score_answers(rows, ['taxi', 'taxi', 'taxi'], 'aokvqa')
    assert scores == {'accuracy': 83.33}
    assert each == [100, None, pytest.approx(66.6666667)]
    scores, each = score_answers(rows, ['taxi', 'taxi', 'taxi'], 'depalm')
    assert scores == {'accuracy': 53.33} and each == [100, 0, pytest.approx(60)]


@pytest.mark.parametrize('dataset, rule', [
    ('vqav2', 'vqa'), ('vqav2_karpathy', 'vqa'), ('okvqa', 'vqa'), ('textvqa', 'textvqa'),
    ('aokvqa', 'aokvqa'), ('gqa', 'exact'), ('msrvtt_qa', 'exact'), ('msvd_qa', 'exact')])
def test_a_data_set_has_its_official_rule(dataset, rule):
    assert default_rule(dataset, [{'answers': ['yes']}]) == rule


@pytest.mark.parametrize('numbers, rule', [
    ([10, 10], 'vqa'), ([2], 'vqa'), ([1, 1], 'exact'), ([1, 10], 'vqa_or_exact')])
def test_the_number_of_answers_decides_for_a_data_set_of_ones_own(numbers, rule):
    assert default_rule('mine.jsonl', [{'answers': ['yes'] * n} for n in numbers]) == rule


@pytest.mark.parametrize('rule, rows, words', [
    ('vqa', [{'answers': ['yes']}, {'answers': ['no'] * 10}], '1 of 2 questions have a single'),
    ('textvqa', [{'answers': ['yes']}], '--rule=exact'),
    ('aokvqa', [{'answers': ['yes'], 'difficult_direct_answer': True}], '--rule=depalm'),
    ('VQA', [{'answers': ['yes'] * 10}], "expected one of 'vqa', 'depalm'")])
def test_a_rule_that_cannot_score_the_questions_is_refused(rule, rows, words):
    with pytest.raises(ValueError, match=words):
        check_rule(rule, rows)


if __name__ == '__main__':
    write_fixture()
