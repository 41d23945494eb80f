"""
nanopalm/scores.py: our scores against those of pycocoevalcap with Java, on the 200 captioned images
of captions.json; VQA rules against a second implementation; odd captions and answers.

captions.json holds texts, one image a line, and what pycocoevalcap's own PTBTokenizer, Cider, Bleu,
Rouge and Meteor make of them. `python tests/test_scores.py` computes that again from its texts; it
needs Java and a UTF-8 locale.

vqa_cases.json holds predictions, annotators' answers ({text: how many wrote it}), a rule, and the
score worked out by hand from the official scripts. reference_vqa.py is a second implementation of
the rules that shares nothing with ours.
"""

import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pytest
from conftest import needs_java
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from reference_vqa import reference_score
from test_java import fake_java

from nanopalm import scores
from nanopalm.scores import (
    RULES,
    category_match,
    check_java,
    check_rule,
    compare_captions,
    default_rule,
    describe_rule,
    normalise,
    score_answers,
    score_captions,
    strip_punctuation,
    tokenize,
)

FIXTURE = Path(__file__).with_name('captions.json')
CAPTIONS = json.loads(FIXTURE.read_text(encoding='utf-8'))
IMAGES = CAPTIONS['pictures']
CORPUS = CAPTIONS['corpus']
REFERENCES = [image['references'] for image in IMAGES]
HYPOTHESES = [image['hypothesis'] for image in IMAGES]
VQA_CASES = json.loads(FIXTURE.with_name('vqa_cases.json').read_text(encoding='utf-8'))
PURE = ['CIDEr', 'BLEU-1', 'BLEU-2', 'BLEU-3', 'BLEU-4', 'ROUGE-L']


def write_fixture():
    """Computes all in captions.json but the texts."""
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    def tokenized(texts_of_images):
        captions = {}
        for i, texts in enumerate(texts_of_images):
            captions[i] = [{'caption': text} for text in texts]
        return PTBTokenizer().tokenize(captions)

    references = tokenized(REFERENCES)
    hypotheses = tokenized([text] for text in HYPOTHESES)
    corpus = {}
    of_images = {}
    for name, metric in {'CIDEr': Cider, 'ROUGE-L': Rouge, 'METEOR': Meteor}.items():
        corpus[name], of_images[name] = metric().compute_score(references, hypotheses)
    bleus, bleus_of_images = Bleu(4).compute_score(references, hypotheses, verbose=0)
    for n in range(4):
        corpus[f'BLEU-{n + 1}'] = bleus[n]
        of_images[f'BLEU-{n + 1}'] = bleus_of_images[n]
    lines = []
    for i, image in enumerate(IMAGES):
        entry = {
            'references': image['references'],
            'hypothesis': image['hypothesis'],
            'tokens': [*references[i], *hypotheses[i]],
            'scores': {name: float(values[i]) for name, values in of_images.items()},
        }
        lines.append(json.dumps(entry, ensure_ascii=False))
    corpus = {name: float(score) for name, score in corpus.items()}
    pictures = ',\n'.join(lines)
    text = f'{{"corpus": {json.dumps(corpus)},\n"pictures": [\n{pictures}]}}\n'
    FIXTURE.write_text(text, encoding='utf-8')


# ---- tokens --------------------------------------------------------------------------------------
# the right column is what Stanford's PTBTokenizer 3.4.1 gave, as pycocoevalcap calls it


@pytest.mark.parametrize(
    'text, tokens',
    [
        ('A cat.', 'a cat'),
        ('  Two\tdogs,  one ball ;  no cat:  ', 'two dogs one ball no cat'),
        ("A man's dog doesn't bark.", "a man 's dog does n't bark"),
        (
            "they're here, I've seen, she'll, he'd, I'm, can't, cannot, won't",
            "they 're here i 've seen she 'll he 'd i 'm ca n't can not wo n't",
        ),
        ("the dogs' bowl at 3 o'clock, in the '90s", "the dogs bowl at 3 o'clock in the '90s"),
        ("gonna wanna gotta gimme lemme 'tis", "gon na wan na got ta gim me lem me 't is"),
        (
            'A black-and-white cat -- sitting - on a t-shirt',
            'a black-and-white cat sitting on a t-shirt',
        ),
        ('dash\u2013en dash\u2014em a \u2013 b', 'dash en dash em a b'),
        (
            '"Quoted" \'single\' \u201ccurly\u201d \u2018both\u2019 `back`',
            'quoted single curly both back',
        ),
        ('a sign, "another \'nested\' one."', 'a sign another nested one'),
        ('a bus (red) [left]', 'a bus -lrb- red -rrb- -lsb- left -rsb-'),
        (
            '1,000 3.5 $5 5% 10:30 1/2 2nd 3-year-old .5',
            '1,000 3.5 $ 5 5 % 10:30 1/2 2nd 3-year-old .5',
        ),
        ('Mr. Smith at 5 p.m. on Main St.', 'mr. smith at 5 p.m. on main st.'),
        ('He lives in the U.S.', 'he lives in the u.s.'),
        ('a boat/ship, B&W, mustard & ketchup #5', 'a boat/ship b&w mustard & ketchup # 5'),
        ('what?! yes? dots... two.. ellipsis\u2026', 'what ?! yes dots two ellipsis'),
        ('caf\u00e9 na\u00efve \u00dcbung \u732b', 'caf\u00e9 na\u00efve \u00fcbung \u732b'),
        ('cafe\u0301', 'caf\u00e9'),
        ('\u00a35 \u20ac10 \u00bd cup', '# 5 $ 10 1/2 cup'),
        ('... - "', ''),
        ('', ''),
    ],
)
def test_tokens_are_those_of_the_java_tokenizer(text, tokens):
    assert tokenize(text) == tokens


def test_curly_apostrophes_are_straight_ones():
    """In Java don\u2019t and don't are the same, but o\u2019clock and o'clock are not."""
    text = "it's 3 o'clock, don't"
    assert tokenize(text.replace("'", '\u2019')) == tokenize(text)


# ---- captions, without Java ----------------------------------------------------------------------

DOG_AND_CATS = [
    ['A brown dog runs on the beach.', 'A dog is running.'],
    ['Two cats sit on a red couch.'],
    ['A man rides a big wave.', 'A surfer.'],
]


def test_the_fixture_is_not_trivial():
    texts = ' '.join(text for references in REFERENCES for text in references)
    assert len(IMAGES) == 200
    assert {len(references) for references in REFERENCES} == {1, 2, 3, 5}
    assert 20 < 100 * CORPUS['BLEU-4'] < 80
    for mark in '"\'()[]{}.,:;?!-/&$%#@\u2019\u201c\u00e9\u732b\u2014\u00bd':
        assert mark in texts
    assert '' in [image['tokens'][-1] for image in IMAGES]


@pytest.mark.parametrize('image', IMAGES, ids=range(200))
def test_tokens_and_scores_of_an_image_are_those_with_java(image):
    texts = [*image['references'], image['hypothesis']]
    assert [tokenize(text) for text in texts] == image['tokens']
    ours, _, missing = score_captions([image['references']], [image['hypothesis']])
    # the CIDEr of one image alone is 0; that of all images is below
    assert ours.pop('CIDEr') == 0 and not missing
    # COCO's scripts do not have it
    del ours['exact']
    theirs = {name: 100 * image['scores'][name] for name in PURE[1:]}
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_scores_of_all_images_are_those_with_java():
    ours, ciders, missing = score_captions(REFERENCES, HYPOTHESES)
    assert list(ours) == [*PURE, 'exact'] and not missing
    del ours['exact']
    assert ours == pytest.approx({name: 100 * CORPUS[name] for name in PURE}, abs=1e-6)
    theirs = [100 * image['scores']['CIDEr'] for image in IMAGES]
    assert ciders == pytest.approx(theirs, abs=1e-6)


def test_identical_captions_have_the_highest_scores():
    texts = [references[0] for references in DOG_AND_CATS]
    captions = [text.upper().replace('.', ' !') for text in texts]
    scores, ciders, _ = score_captions([[text] for text in texts], captions)
    assert list(scores) == [*PURE, 'exact']
    assert list(scores.values()) == pytest.approx([1000, 100, 100, 100, 100, 100, 100], abs=1e-4)
    assert ciders == pytest.approx([1000] * 3)


@pytest.mark.parametrize(
    'caption', ['purple elephants', '', '...', 'zebra zebra zebra zebra zebra']
)
def test_captions_without_a_common_word_score_zero(caption):
    scores, ciders, _ = score_captions(DOG_AND_CATS, [caption] * 3)
    assert list(scores.values()) == pytest.approx([0] * 7, abs=1e-3)
    assert ciders == [0, 0, 0]


def test_scores_are_pycocoevalcaps_own(capsys):
    captions = ['A dog runs on a beach!', 'Two dogs sit, on a "red" couch.', "It isn't a wave."]
    scores, ciders, _ = score_captions(DOG_AND_CATS, captions)
    assert capsys.readouterr().out == ''
    references = {
        0: ['a brown dog runs on the beach', 'a dog is running'],
        1: ['two cats sit on a red couch'],
        2: ['a man rides a big wave', 'a surfer'],
    }
    hypotheses = {
        0: ['a dog runs on a beach'],
        1: ['two dogs sit on a red couch'],
        2: ["it is n't a wave"],
    }
    cider, ciders_of_images = Cider().compute_score(references, hypotheses)
    bleus, _ = Bleu(4).compute_score(references, hypotheses, verbose=0)
    rouge, _ = Rouge().compute_score(references, hypotheses)
    # no caption is exactly a reference
    expected = [100 * score for score in [cider, *bleus, rouge, 0]]
    assert list(scores.values()) == pytest.approx(expected)
    assert ciders == pytest.approx(100 * ciders_of_images)
    assert 0 < ciders[2] < ciders[0] < 1000


# ---- captions, with Java -------------------------------------------------------------------------


@pytest.mark.slow
@needs_java
def test_scores_with_java_are_pycocoevalcaps_own(monkeypatch):
    """The one run of METEOR on all images, 10 to 30 s. SPICE is faked: its models are a download of
    400 MB."""
    monkeypatch.setattr(scores, 'spice', lambda references, captions: 0.25)
    ours, ciders, missing = score_captions(REFERENCES, HYPOTHESES, java=True)
    assert list(ours) == [*PURE, 'exact', 'METEOR', 'SPICE', 'SPIDEr'] and not missing
    # COCO's scripts do not have it
    del ours['exact']
    assert ours.pop('SPICE') == 25
    assert ours.pop('SPIDEr') == pytest.approx((ours['CIDEr'] + 25) / 2)
    assert ours == pytest.approx({name: 100 * score for name, score in CORPUS.items()}, abs=1e-6)
    theirs = [100 * image['scores']['CIDEr'] for image in IMAGES]
    assert ciders == pytest.approx(theirs, abs=1e-6)


def test_exact_match_ignores_case_articles_and_punctuation():
    references = [['a dog', 'a brown dog'], ["a clock at one o'clock"], ['cherries'], ['a cat']]
    captions = ['The brown dog.', "a clock at 1 o'clock", 'cherry', 'a cat on a mat']
    scores, _, _ = score_captions(references, captions)
    assert scores['exact'] == 50


def test_a_caption_that_names_another_thing_of_the_category_counts_there():
    tiger = {'caption': ['a tiger'], 'category': 'animal'}
    orange = {'caption': ['an orange'], 'category': 'food'}
    leopard = {'caption': ['a leopard'], 'category': 'animal'}
    known = [tiger, orange, leopard]
    assert category_match([tiger, tiger], ['Leopard.', 'a tiger'], known) == 100
    assert category_match([tiger, tiger], ['an orange', 'a loungo'], known) == 0
    # what no known example is called belongs to no category
    assert category_match([tiger, orange], ['a leopard', 'an orange'], [tiger, orange]) == 50
    assert category_match([tiger, {'caption': ['a lamp']}], ['a tiger', 'a lamp'], known) is None


def fail(*_):
    raise OSError('needs a jar')


def tokenize_in_python(texts):
    return [tokenize(text) for text in texts]


@pytest.fixture
def java_works(tmp_path, monkeypatch):
    """A Java whose tokenizer is ours, METEOR is 0.5 and SPICE is 0.25."""
    fake_java(tmp_path, monkeypatch, '')
    monkeypatch.setattr(scores, 'java_tokenize', tokenize_in_python)
    monkeypatch.setattr(scores, 'meteor', lambda references, captions: 0.5)
    monkeypatch.setattr(scores, 'spice', lambda references, captions: 0.25)


# of the run and of the text-only baseline
REDS = [['A red circle.', 'A circle that is red.'], ['A red square.'], ['A green circle.']]
BOTH_CAPTIONS = {
    '': ['A green circle.', 'A red square.', 'A red circle.'],
    'blind_': ['A red circle.', 'A red circle.', 'A red circle.'],
}


def test_what_java_lacks_is_known_before_captions_are_generated(java_works, monkeypatch):
    assert check_java() == {}
    monkeypatch.setattr(scores, 'spice', fail)
    assert check_java() == {
        'SPICE': 'needs a jar',
        'SPIDEr': 'it is the mean of CIDEr and SPICE',
    }


def test_without_a_working_java_nothing_is_generated(tmp_path, monkeypatch):
    fake_java(tmp_path, monkeypatch, 'exit 1')
    with pytest.raises(OSError, match='tokenizer'):
        check_java()
    monkeypatch.setenv('PATH', '')
    with pytest.raises(ValueError, match='no java on the PATH'):
        check_java()


def test_the_tokens_of_all_scores_are_javas(java_works, monkeypatch):
    monkeypatch.setattr(scores, 'java_tokenize', lambda texts: ['a red circle'] * len(texts))
    monkeypatch.setattr(scores, 'spice', fail)
    comparison = compare_captions(REDS, BOTH_CAPTIONS, java=True)
    assert 'Java' in comparison['tokenizer']
    for side in ('', 'blind_'):
        assert list(comparison['scores'][side]) == [*PURE, 'exact', 'METEOR']
        assert comparison['scores'][side]['METEOR'] == 50
        assert comparison['scores'][side]['ROUGE-L'] == 100
    assert comparison['missing'] == {
        'SPICE': 'needs a jar',
        'SPIDEr': 'it is the mean of CIDEr and SPICE',
    }


def test_models_are_compared_by_the_scores_that_all_have(java_works, monkeypatch):
    answers = iter([0.5])

    def meteor_once(references, captions):
        return next(answers, None) or fail()

    monkeypatch.setattr(scores, 'meteor', meteor_once)
    comparison = compare_captions(REDS, BOTH_CAPTIONS, java=True)
    for side in ('', 'blind_'):
        assert list(comparison['scores'][side]) == [*PURE, 'exact', 'SPICE', 'SPIDEr']
    assert comparison['missing'] == {'METEOR': 'needs a jar'}


def test_captions_are_not_lost_if_java_fails_late(java_works, monkeypatch):
    calls = iter([tokenize_in_python])

    def tokenize_once(texts):
        return next(calls, fail)(texts)

    monkeypatch.setattr(scores, 'java_tokenize', tokenize_once)
    comparison = compare_captions(REDS, BOTH_CAPTIONS, java=True)
    assert 'pure Python' in comparison['tokenizer']
    assert list(comparison['missing'].values()) == ['needs a jar']
    for side, captions in BOTH_CAPTIONS.items():
        expected, ciders, _ = score_captions(REDS, captions)
        assert comparison['scores'][side] == expected
        assert comparison['ciders'][side] == ciders


def test_captions_are_compared_without_java_too():
    comparison = compare_captions(REDS, BOTH_CAPTIONS)
    assert 'pure Python' in comparison['tokenizer'] and comparison['missing'] == {}
    assert comparison['scores'][''] == score_captions(REDS, BOTH_CAPTIONS[''])[0]


# ---- answers: normalisation ----------------------------------------------------------------------


@pytest.mark.parametrize(
    'text, normal',
    [
        ('The two dogs, dont!', "2 dogs don't"),
        ('1,000', '1000'),
        ('black-white', 'black white'),
        ('black - white', 'black white'),
        ('3.5', '3.5'),
        ('no. 3.', 'no 3'),
        ('None', '0'),
        ('ten', '10'),
        ('an', ''),
        ("it's", "it's"),
        ('whats', "what's"),
        ("couldnt've", "couldn't've"),
        ("yall'd've", "y'all'd've"),
        ("somebody'd", 'somebodyd'),
        ('a b/c', 'b c'),
        ('b /c', 'b c'),
        ('yes\n', 'yes'),
        ('Im', 'im'),
        ("dog's", "dog's"),
        ('', ''),
    ],
)
def test_answers_are_normalised_as_in_the_official_script(text, normal):
    assert normalise(text) == normal


@pytest.mark.parametrize(
    'text, normal',
    [
        ('isnt it', "isn't it"),
        ('cant', "can't"),
        ("shouldnt've", "shouldn't've"),
        ('shouldntve', 'shouldntve'),
        ("wed've", "we'd've"),
        ('wed', 'wed'),
        ('shes', 'shes'),
        ('lets', 'lets'),
        ('Ive', 'ive'),
        ('5 oclock', "5 o'clock"),
        ("10 O'Clock", "10 o'clock"),
        ("ow's'at", "'ow's'at"),
        ('twas', "'twas"),
        ('Yall', "y'all"),
        ("it's maam", "it's ma'am"),
        ('don\u2019t', 'don\u2019t'),
        ("man's", "man's"),
        ('mans', 'mans'),
        ('A', ''),
        ('the an a', ''),
        ('The White House', 'white house'),
        ('theater', 'theater'),
        ('a/b', 'b'),
        ('a+', ''),
        ('a.m', 'am'),
        ('one-way', '1 way'),
        ('twenty-one', 'twenty 1'),
        ('one hundred', '1 hundred'),
        ('eleven', 'eleven'),
        ('Zero', '0'),
        ('NONE', '0'),
        ('none.', '0'),
        ('no one', 'no 1'),
        ('someone', 'someone'),
        ('ten-ten', '10 10'),
        ('two\ndogs', '2 dogs'),
        ('  tennis   racket ', 'tennis racket'),
        ('10,000', '10000'),
        ('1,000.50', '1000.50'),
        ('1, 2', '1 2'),
        ('1,2-3', '123'),
        ('red,blue', 'red blue'),
        ('red ,blue-green', 'red blue green'),
        ('red - blue-green', 'red bluegreen'),
        ('3.14', '3.14'),
        ('3.', '3'),
        ('.5', '.5'),
        ('7.a', '7a'),
        ('5 p.m.', '5 pm'),
        ('U.S.A.', 'usa'),
        ('wait...', 'wait'),
        ('10:30', '10:30'),
        ('50%', '50%'),
        ('$5.00', '$5.00'),
        ('#1', '#1'),
        ('stop!', 'stop'),
        ('what?!', 'what'),
        ('"stop"', 'stop'),
        ('(left) side', 'left side'),
        ('x_y', 'x y'),
        ('rock & roll', 'rock & roll'),
        ('e-mail@site.com', 'e mail sitecom'),
        ('<unk>', 'unk'),
        ('half;full', 'half full'),
        ('b\\c', 'b c'),
        ('caf\u00e9', 'caf\u00e9'),
        ('\u00c9COLE', '\u00e9cole'),
        ('\u00bd', '\u00bd'),
        ('\u732b', '\u732b'),
        ('...', ''),
        ('-', ''),
    ],
)
def test_odd_answers_are_normalised_as_worked_out_by_hand(text, normal):
    """From the rules of the official evaluation (GT-Vision-Lab/VQA, vqaEval.py)."""
    assert normalise(text) == normal


def test_a_mark_beside_a_space_anywhere_is_deleted_everywhere():
    assert strip_punctuation('a-b - c') == 'ab  c'
    assert strip_punctuation('a-b') == 'a b'
    assert strip_punctuation('1,000 a-b') == '1000 ab'


# ---- answers: rules ------------------------------------------------------------------------------


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
    return [
        text,
        f'{text} ',
        f'the {text}',
        f'{text}.',
        text.upper(),
        text.replace('-', ' '),
        text.replace("'", ''),
        text.replace(',', ''),
        text.replace('two', '2'),
        normalise(text),
    ]


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


def test_scores_are_given_by_type_of_answer_too():
    questions = [
        {'answers': ['yes'] * 10, 'answer_type': 'yes/no'},
        {'answers': ['no'] * 10, 'answer_type': 'yes/no'},
        {'answers': ['red']},
    ]
    scores, accuracies = score_answers(questions, ['yes', 'yes', 'red'], 'vqa_or_exact')
    assert scores == {'accuracy': 66.67, "answers 'yes/no'": 50.0}
    assert accuracies == [100, 0, 100]


@pytest.mark.parametrize('rule', RULES)
def test_every_rule_is_described_in_one_line(rule):
    assert len(describe_rule(rule)) > 40 and '\n' not in describe_rule(rule)


def test_difficult_questions_of_aokvqa_are_left_out_by_its_own_rule_alone():
    rows = [
        {'answers': ['taxi'] * 10, 'difficult_direct_answer': False},
        {'answers': ['ride'] * 10, 'difficult_direct_answer': True},
        {'answers': ['taxi'] * 2 + ['ride'] * 8},
    ]
    scores, each = score_answers(rows, ['taxi', 'taxi', 'taxi'], 'aokvqa')
    assert scores == {'accuracy': 83.33}
    assert each == [100, None, pytest.approx(66.6666667)]
    scores, each = score_answers(rows, ['taxi', 'taxi', 'taxi'], 'depalm')
    assert scores == {'accuracy': 53.33} and each == [100, 0, pytest.approx(60)]


@pytest.mark.parametrize(
    'dataset, rule',
    [
        ('vqav2', 'vqa'),
        ('vqav2_karpathy', 'vqa'),
        ('okvqa', 'vqa'),
        ('textvqa', 'textvqa'),
        ('aokvqa', 'aokvqa'),
        ('gqa', 'exact'),
        ('msrvtt_qa', 'exact'),
        ('msvd_qa', 'exact'),
    ],
)
def test_a_data_set_has_its_official_rule(dataset, rule):
    assert default_rule(dataset, [{'answers': ['yes']}]) == rule


@pytest.mark.parametrize(
    'numbers, rule', [([10, 10], 'vqa'), ([2], 'vqa'), ([1, 1], 'exact'), ([1, 10], 'vqa_or_exact')]
)
def test_the_number_of_answers_decides_for_a_data_set_of_ones_own(numbers, rule):
    assert default_rule('mine.jsonl', [{'answers': ['yes'] * n} for n in numbers]) == rule


@pytest.mark.parametrize(
    'rule, rows, words',
    [
        ('vqa', [{'answers': ['yes']}, {'answers': ['no'] * 10}], '1 of 2 questions have a single'),
        ('textvqa', [{'answers': ['yes']}], '--rule=exact'),
        ('aokvqa', [{'answers': ['yes'], 'difficult_direct_answer': True}], '--rule=depalm'),
        ('VQA', [{'answers': ['yes'] * 10}], "expected one of 'vqa', 'depalm'"),
    ],
)
def test_a_rule_that_cannot_score_the_questions_is_refused(rule, rows, words):
    with pytest.raises(ValueError, match=words):
        check_rule(rule, rows)


if __name__ == '__main__':
    write_fixture()
