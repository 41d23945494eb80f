"""
How captions and answers are scored: CIDEr, BLEU, ROUGE-L and exact match without Java, METEOR,
SPICE and SPIDEr with it; answers by the official rule of their data set (RULES).
"""

import re
import shutil
import subprocess
import unicodedata
from collections import defaultdict

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from nanopalm.datasets import DATASETS
from nanopalm.java import java_tokenize, meteor, spice

# ---- captions: tokens ----------------------------------------------------------------------------

# characters that the tokenizer replaces before it looks for tokens
REPLACEMENTS = str.maketrans(
    {
        '’': "'",
        '‘': "'",
        '“': '"',
        '”': '"',
        '«': '"',
        '»': '"',
        '–': ' - ',
        '—': ' - ',
        '…': ' ',
        # a soft hyphen
        '\xad': '',
        '€': '$',
        '£': '#',
        '¢': ' cents',
        '¼': ' 1/4',
        '½': ' 1/2',
        '¾': ' 3/4',
    }
)
BRACKETS = str.maketrans(
    {'(': '-lrb-', ')': '-rrb-', '[': '-lsb-', ']': '-rsb-', '{': '-lcb-', '}': '-rcb-'}
)

# left out where it is a token of its own: COCO's list without the brackets
PUNCTUATION = set('\'"`.,:;?!-')

# the alternatives are tried in this order
TOKENS = re.compile(
    r"""
    # web and mail addresses, faces: b@c.org :-)
    https?://\S*\w
  | [\w.-]+@[\w-]+(?:\.\w+)*
  | [:;=]-?[()dp](?!\w)

    # words that are two tokens: can not, gon na, y' all, 't is
  | \b(?:can(?=not\b)|(?:gon|wan)(?=na\b)|got(?=ta\b)|[gl][ie]m(?=me\b)|y'(?=all))
  | 't(?=(?:is|was)\b)

    # what an apostrophe divides: do n't, the '90s, dog 's
  | [a-z]+(?=n't\b)
  | n't\b
  | (?<!\d)'\d\ds?(?!\w)
  | '(?:[smd]|re|ve|ll|em|til|n'|cause)(?!\w)

    # abbreviations with their full stops: the u.s., john f. kennedy, mr.
  | \b(?:[a-z]\.){2,}(?:[a-z]\b)?
  | \b[a-z]\.(?=\s*\S)(?!\w)
  | \b(?:mr|mrs|ms|dr|prof|gen|sgt|st|ave|blvd|rd|mt|ft|jr|sr|vs|etc|inc|co|corp|ltd|dept|ph\.d
    |jan|feb|mar|apr|ju[nl]|aug|sept?|oct|nov|dec
    |mon|tues?|wed|thu(?:rs)?|fri|no(?=\.\s?\d))\.

    # words with an apostrophe or an ampersand in them: o'clock, l'été, c'est, B&W
  | \b(?:[odl]'|ma'am\b|rock(?='n'))[^\W\d_]*
  | \b(?:[cn]|qu)'[^\W\d_]{2,}
  | \b(?-i:[A-Z]+&[A-Z])

    # numbers: 1,000, .5, 2.5, -5
  | [+-]?(?:(?<![.,])[.,]\d+|\d+[.,:]\d+)(?:[.,:]\d+)*(?:-[^\W\d_]+)*
  | (?<!-)[+-]\d+

    # words: half-eaten, a/b, example.com
  | [^\W_]+(?:(?:[-_/]|\.(?=[^\W\d_]))[^\W_]+)*

    # signs
  | [@\#][a-z]\w*
  | [?!]+
  | [^\w\s\u200b\ufeff\U00010000-\U0010ffff]
  | _+
    """,
    re.VERBOSE | re.IGNORECASE,
)


def tokenize(text):
    """Returns the tokens of a text, joined by spaces, as COCO's Java tokenizer makes them:
    "A dog's t-shirt (it isn't red)." -> "a dog 's t-shirt -lrb- it is n't red -rrb-"."""
    text = unicodedata.normalize('NFC', text).translate(REPLACEMENTS)
    tokens = [token for token in TOKENS.findall(text) if token not in PUNCTUATION]
    return ' '.join(tokens).translate(BRACKETS).lower()


def tokenize_all(texts, java=False):
    """Returns {text: its tokens, joined by spaces}. java: by COCO's own tokenizer."""
    texts = list(dict.fromkeys(texts))
    if java:
        return dict(zip(texts, java_tokenize(texts)))
    return {text: tokenize(text) for text in texts}


# ---- captions: scores ----------------------------------------------------------------------------

PYTHON_TOKENIZER = 'PTB-like, pure Python (scores.tokenize)'
JAVA_TOKENIZER = 'PTB, Java (Stanford CoreNLP 3.4.1)'


def score_captions(references, captions, java=False):
    """Returns how captions score against the references.

    references: the reference texts of each example; captions: one text for each example.
    java: use COCO's own tokenizer, and compute METEOR, SPICE and SPIDEr as well.

    Returns ({metric: score}, [CIDEr of each caption], {metric: why it is missing}). 'exact' is the
    share of captions that equal a reference after both are normalised. All scores are x 100, so
    that CIDEr ends at 1000 and the others at 100. CIDEr weighs words by how rare they are in these
    very references, so the CIDEr of one example alone is 0.

    Raises OSError where COCO's tokenizer does not run."""
    texts = list(captions)
    for references_of_one in references:
        texts += references_of_one
    tokens = tokenize_all(texts, java)
    tokenized_references = {}
    tokenized_captions = {}
    for number, (references_of_one, caption) in enumerate(zip(references, captions)):
        tokenized_references[number] = [tokens[text] for text in references_of_one]
        tokenized_captions[number] = [tokens[caption]]

    cider, ciders = Cider().compute_score(tokenized_references, tokenized_captions)
    rouge, _ = Rouge().compute_score(tokenized_references, tokenized_captions)
    bleus, _ = Bleu().compute_score(tokenized_references, tokenized_captions, verbose=0)
    scores = {'CIDEr': cider}
    for n, bleu in enumerate(bleus, start=1):
        scores[f'BLEU-{n}'] = bleu
    scores['ROUGE-L'] = rouge
    scores['exact'] = exact_match(references, captions)
    missing = {}
    if java:
        java_scores, missing = score_in_java(tokenized_references, tokenized_captions, cider)
        scores.update(java_scores)
    percent = {name: 100 * float(score) for name, score in scores.items()}
    return percent, [100 * float(cider) for cider in ciders], missing


def exact_match(references, captions):
    """Returns the share of captions, 0 to 1, that equal one of their references after both are
    normalised as answers are: case, articles and punctuation do not count."""
    return sum(map(is_exact, references, captions)) / len(captions)


def is_exact(references, caption):
    """Whether a caption equals one of its references, both normalised as in `exact_match`."""
    return normalise(caption) in map(normalise, references)


def category_match(examples, captions, named_examples):
    """Returns the share x 100 of captions that name something of their example's category; None
    where an example has no `category`.

    A caption belongs to a category if it equals, after both are normalised, a reference of an
    example of this category among named_examples, such as those of all splits."""
    if not all('category' in example for example in examples):
        return None
    categories = defaultdict(set)
    for example in named_examples:
        for caption in example['caption']:
            categories[normalise(caption)].add(example.get('category'))
    matches = 0
    for example, caption in zip(examples, captions):
        matches += example['category'] in categories[normalise(caption)]
    return 100 * matches / len(examples)


def score_in_java(references, captions, cider):
    """Returns ({metric: score} of METEOR, SPICE and SPIDEr, those that could be computed, 0 to 1,
    and {metric: why it is missing}).

    references, captions: {number: [tokenized texts]}; cider: their CIDEr, a part of SPIDEr."""
    scores = {}
    missing = {}
    for name, metric in {'METEOR': meteor, 'SPICE': spice}.items():
        try:
            scores[name] = metric(references, captions)
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            missing[name] = str(error)
    if 'SPICE' in scores:
        scores['SPIDEr'] = (cider + scores['SPICE']) / 2
    else:
        missing['SPIDEr'] = 'it is the mean of CIDEr and SPICE'
    return scores, missing


def check_java():
    """Scores one caption with Java, so that what is missing is known before captions are generated.

    Returns {metric: why it is missing}. Raises ValueError where there is no Java, and OSError where
    it does not run COCO's tokenizer."""
    if not shutil.which('java'):
        raise ValueError(
            'java=True: there is no java on the PATH. Install one (Java 8 to 14; without SPICE any '
            'later one does), or leave java=False'
        )
    _, _, missing = score_captions([['A dog runs on the beach.']], ['A dog runs.'], java=True)
    return missing


def compare_captions(references, captions, java=False):
    """Returns how the captions of several models score against the same references, as a dict:

    scores      {model: {metric: score}}, the metrics that could be computed for all models
    ciders      {model: [CIDEr of each caption]}
    missing     {metric: why it is missing}
    tokenizer   the name of the tokenizer

    references: the reference texts of each example; captions: {model: [its caption of each
    example]}. If Java fails, the captions are scored without it, so that they are not lost."""
    tokenizer = JAVA_TOKENIZER if java else PYTHON_TOKENIZER
    missing = {}
    results = {}
    try:
        for model, texts in captions.items():
            results[model] = score_captions(references, texts, java)
    except OSError as error:
        missing[JAVA_TOKENIZER] = str(error)
        tokenizer = PYTHON_TOKENIZER
        for model, texts in captions.items():
            results[model] = score_captions(references, texts)
    for _, _, missing_of_one in results.values():
        missing.update(missing_of_one)
    scores = {}
    ciders = {}
    for model, (scores_of_one, ciders[model], _) in results.items():
        scores[model] = {name: s for name, s in scores_of_one.items() if name not in missing}
    return {'scores': scores, 'ciders': ciders, 'missing': missing, 'tokenizer': tokenizer}


# ---- answers: normalisation ----------------------------------------------------------------------

# in the order of the official list, though the order does not matter
PUNCTUATION_MARKS = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = ('a', 'an', 'the')
NUMBER_WORDS = {
    'none': '0',
    'zero': '0',
    'one': '1',
    'two': '2',
    'three': '3',
    'four': '4',
    'five': '5',
    'six': '6',
    'seven': '7',
    'eight': '8',
    'nine': '9',
    'ten': '10',
}
APOSTROPHES = """ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't
    hadn't've hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am
    mightn't mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't
    she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
    someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've
    weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll
    who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've
    you'd you'd've you'll you're you've""".split()


def contractions():
    """Returns {a contraction that lacks one of its apostrophes: the contraction}."""
    # an error in the official list, kept so that scores are the official ones
    table = {"somebody'd": 'somebodyd'}
    for word in APOSTROPHES:
        for i, character in enumerate(word):
            if character == "'":
                table[word[:i] + word[i + 1 :]] = word
    return table


CONTRACTIONS = contractions()


def strip_punctuation(text):
    """Returns the text without punctuation, as the official VQA script makes it.

    A mark is deleted where it stands beside a space anywhere in the text, or where the text has a
    number such as 1,000; otherwise a space takes its place ("black-white" becomes two words). Full
    stops are deleted unless a digit follows."""
    has_thousands = re.search(r'\d,\d', text) is not None
    stripped = text
    for mark in PUNCTUATION_MARKS:
        beside_space = f'{mark} ' in text or f' {mark}' in text
        stripped = stripped.replace(mark, '' if beside_space or has_thousands else ' ')
    # the official script passes re.UNICODE, which is 32, where re.sub takes the greatest number of
    # replacements
    return re.sub(r'\.(?!\d)', '', stripped, count=32)


def one_line(text):
    """Returns the text with spaces for line breaks and tabs, and without space around it."""
    return text.replace('\n', ' ').replace('\t', ' ').strip()


def normalise(text):
    """Returns what the official VQA script compares, 'The two dogs, dont!' -> "2 dogs don't": no
    punctuation, lower case, number words as digits, no articles, contractions with apostrophes."""
    words = []
    for word in strip_punctuation(one_line(text)).lower().split():
        word = NUMBER_WORDS.get(word, word)
        if word not in ARTICLES:
            words.append(CONTRACTIONS.get(word, word))
    return ' '.join(words)


def normalise_evalai(text):
    """Returns what EvalAI's answer processor compares, "The dog's, 1,000?" -> "dog 's 1000": as the
    VQA script, but commas and question marks are deleted first, and 's is a word of its own."""
    text = text.lower().replace(',', '').replace('?', '').replace("'s", " 's")
    return normalise(text)


def leave_one_out(prediction, answers):
    """Returns the VQA accuracy of an already normalised prediction, 0 to 1: min(1, matches / 3)
    among all annotators but one, averaged over which one is left out. With fewer than four
    annotators no answer reaches 1, and with a single annotator every answer has 0."""
    matches = answers.count(prediction)
    total = 0
    for answer in answers:
        others = matches - 1 if answer == prediction else matches
        total += min(1, others / 3)
    return total / len(answers)


# ---- answers: rules ------------------------------------------------------------------------------
# (prediction, example) -> 0 to 1, or None where the official script leaves the question out.
# The docstrings are printed beside the scores.


def score_vqa(prediction, example):
    """The script of VQAv2 (visualqa.org) as it stands since March 2021: the prediction and the
    answers are normalised where the annotators differ, and not where they all agree; one annotator
    is left out in turn."""
    prediction = one_line(prediction)
    answers = [one_line(answer) for answer in example['answers']]
    if len(set(answers)) > 1:
        prediction = normalise(prediction)
        answers = [normalise(answer) for answer in answers]
    return leave_one_out(prediction, answers)


def score_depalm(prediction, example):
    """DePALM's own VQA accuracy: as 'vqa', but prediction and answers are always normalised."""
    answers = [normalise(answer) for answer in example['answers']]
    return leave_one_out(normalise(prediction), answers)


def score_textvqa(prediction, example):
    """TextVQA's accuracy: as 'vqa', but prediction and answers are always normalised by EvalAI's
    answer processor."""
    answers = [normalise_evalai(answer) for answer in example['answers']]
    return leave_one_out(normalise_evalai(prediction), answers)


def score_aokvqa(prediction, example):
    """A-OKVQA's own script: min(1, exact matches / 3) among all annotators; nothing is normalised,
    and questions with difficult_direct_answer are left out."""
    if example.get('difficult_direct_answer'):
        return None
    return min(1.0, example['answers'].count(prediction) / 3)


def score_exact(prediction, example):
    """Exact match, as in GQA's script and for questions about videos: 1 if the prediction is one of
    the answers letter by letter, with the same case, punctuation and spaces."""
    return float(prediction in example['answers'])


def score_epalm(prediction, example):
    """eP-ALM's accuracy on GQA and on videos: 1 if the prediction is one of the answers after both
    are normalised as in the VQA script."""
    answers = [normalise(answer) for answer in example['answers']]
    return float(normalise(prediction) in answers)


def score_vqa_or_exact(prediction, example):
    """As 'vqa' where a question has several answers, as 'exact' where it has one."""
    score = score_vqa if len(example['answers']) > 1 else score_exact
    return score(prediction, example)


RULES = {
    'vqa': score_vqa,
    'depalm': score_depalm,
    'textvqa': score_textvqa,
    'aokvqa': score_aokvqa,
    'exact': score_exact,
    'epalm': score_epalm,
    'vqa_or_exact': score_vqa_or_exact,
}
LEAVE_ONE_OUT = ('vqa', 'depalm', 'textvqa')


def describe_rule(rule):
    """Returns what a rule does, in words: its docstring on one line."""
    return ' '.join(RULES[rule].__doc__.split())


def default_rule(dataset, examples):
    """Returns the name of the rule that scores these questions: the official rule of a known data
    set. For any other data set the number of answers decides: 'vqa' where every question has
    several, 'exact' where every one has a single answer, 'vqa_or_exact' where both occur."""
    if dataset in DATASETS and DATASETS[dataset].rule:
        return DATASETS[dataset].rule
    single = count_single_answers(examples)
    if single == 0:
        return 'vqa'
    if single == len(examples):
        return 'exact'
    return 'vqa_or_exact'


def count_single_answers(examples):
    """Returns how many of the questions have one answer only."""
    return sum(len(example['answers']) == 1 for example in examples)


def check_rule(rule, examples):
    """Raises ValueError where a rule cannot score these questions."""
    if rule not in RULES:
        names = ', '.join(map(repr, RULES))
        raise ValueError(f'rule={rule!r}: expected one of {names}')
    single = count_single_answers(examples)
    if rule in LEAVE_ONE_OUT and single:
        raise ValueError(
            f'rule={rule!r} leaves one annotator out and counts the others, but {single} of '
            f'{len(examples)} questions have a single answer; --rule=exact scores those'
        )
    if rule == 'aokvqa' and all(example.get('difficult_direct_answer') for example in examples):
        raise ValueError(
            "rule='aokvqa' leaves out questions with difficult_direct_answer, and all of these "
            'have it; --rule=depalm scores them'
        )


def score_answers(examples, answers, rule):
    """Scores one answer to each question by the rule of that name.

    examples: questions with their `answers`, perhaps with `question_type` and `answer_type`.
    Returns ({name: mean accuracy x 100}, [accuracy x 100 of each answer, None where the rule leaves
    the question out]). Raises ValueError where the rule leaves out all of them."""
    accuracies = []
    accuracies_by_group = defaultdict(list)
    for example, answer in zip(examples, answers):
        score = RULES[rule](answer, example)
        if score is None:
            accuracies.append(None)
            continue
        accuracy = 100 * score
        accuracies.append(accuracy)
        for group in groups_of(example):
            accuracies_by_group[group].append(accuracy)
    if not accuracies_by_group:
        raise ValueError(f'rule={rule!r} leaves out every question that could be answered')
    means = {}
    for group, values in accuracies_by_group.items():
        means[group] = round(sum(values) / len(values), 2)
    return means, accuracies


def groups_of(example):
    """Returns the names of the means to which a question counts."""
    groups = ['accuracy']
    if 'answer_type' in example:
        groups.append(f'answers {example["answer_type"]!r}')
    if 'question_type' in example:
        groups.append(f'questions {example["question_type"]!r}')
    return groups
