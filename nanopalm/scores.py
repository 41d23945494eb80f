"""
How captions and answers are scored: CIDEr, BLEU and ROUGE-L without Java, METEOR and SPICE with it;
answers by the official rule of their data set (RULES).
"""
import re
import subprocess
import unicodedata
from collections import defaultdict

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from nanopalm.java import java_tokenize, meteor, spice

# ---- captions -------------------------------------------------------------------------------------------------------

STRAIGHT = str.maketrans({'’': "'", '‘': "'", '“': '"', '”': '"', '«': '"', '»': '"', '–': ' - ', '—': ' - ', '…': ' ', '\xad': '',
                          '€': '$', '£': '#', '¢': ' cents', '¼': ' 1/4', '½': ' 1/2', '¾': ' 3/4'})
BRACKETS = str.maketrans({'(': '-lrb-', ')': '-rrb-', '[': '-lsb-', ']': '-rsb-', '{': '-lcb-', '}': '-rcb-'})
PUNCTUATION = set('\'"`.,:;?!-')    # dropped where it is a token of its own; like COCO's list without the brackets
TOKENS = re.compile(r"""
    https?://\S*\w | [\w.-]+@[\w-]+(?:\.\w+)* | [:;=]-?[()dp](?!\w)                                     # b@c.org, :-)
  | \b(?:can(?=not\b)|(?:gon|wan)(?=na\b)|got(?=ta\b)|[gl][ie]m(?=me\b)|y'(?=all)) | 't(?=(?:is|was)\b)  # can not, gon na, y' all, 't is
  | [a-z]+(?=n't\b) | n't\b | (?<!\d)'\d\ds?(?!\w) | '(?:[smd]|re|ve|ll|em|til|n'|cause)(?!\w)          # do n't, the '90s, dog 's
  | \b(?:[a-z]\.){2,}(?:[a-z]\b)? | \b[a-z]\.(?=\s*\S)(?!\w)                                            # the u.s., john f. kennedy
  | \b(?:mr|mrs|ms|dr|prof|gen|sgt|st|ave|blvd|rd|mt|ft|jr|sr|vs|etc|inc|co|corp|ltd|dept|ph\.d|jan|feb|mar|apr|ju[nl]|aug|sept?|oct|nov|dec
    |mon|tues?|wed|thu(?:rs)?|fri|no(?=\.\s?\d))\.
  | \b(?:[odl]'|ma'am\b|rock(?='n'))[^\W\d_]* | \b(?:[cn]|qu)'[^\W\d_]{2,} | \b(?-i:[A-Z]+&[A-Z])       # o'clock, l'été, c'est, B&W
  | [+-]?(?:(?<![.,])[.,]\d+|\d+[.,:]\d+)(?:[.,:]\d+)*(?:-[^\W\d_]+)* | (?<!-)[+-]\d+                     # 1,000, .5, 2.5 kg, -5
  | [^\W_]+(?:(?:[-_/]|\.(?=[^\W\d_]))[^\W_]+)*                                                         # half-eaten, a/b, example.com
  | [@\#][a-z]\w* | [?!]+ | [^\w\s\u200b\ufeff\U00010000-\U0010ffff] | _+""", re.VERBOSE | re.IGNORECASE)


def tokenize(text):
    """"A dog's t-shirt (it isn't red)." -> "a dog 's t-shirt -lrb- it is n't red -rrb-": what COCO's Java tokenizer makes of captions."""
    words = TOKENS.findall(unicodedata.normalize('NFC', text).translate(STRAIGHT))
    return ' '.join(w for w in words if w not in PUNCTUATION).translate(BRACKETS).lower()


def score_captions(references, hypotheses, java=False):
    """references: the texts of each row; hypotheses: one text for each. Returns ({metric: score}, [CIDEr of each row], {metric: why it is
    missing}), all x 100: CIDEr ends at 1000, the others at 100. CIDEr weighs words by how rare they are in these very references: a row alone has 0.
    java: with COCO's own tokenizer, and METEOR, SPICE and SPIDEr as well. Raises OSError if that tokenizer does not run."""
    texts = list(dict.fromkeys(t for row in (hypotheses, *references) for t in row))
    tokens = dict(zip(texts, java_tokenize(texts) if java else map(tokenize, texts)))
    refs, hyps = {i: [tokens[t] for t in row] for i, row in enumerate(references)}, {i: [tokens[t]] for i, t in enumerate(hypotheses)}
    (cider, ciders), (rouge, _), (bleu, _) = Cider().compute_score(refs, hyps), Rouge().compute_score(refs, hyps), Bleu().compute_score(refs, hyps, 0)
    scores, missing = dict(zip(('CIDEr', 'BLEU-1', 'BLEU-2', 'BLEU-3', 'BLEU-4', 'ROUGE-L'), [cider, *bleu, rouge])), {}
    for name, metric in dict(METEOR=meteor, SPICE=spice).items() if java else ():
        try:
            scores[name] = metric(refs, hyps)
        except (OSError, ValueError, subprocess.CalledProcessError) as e:
            missing[name] = str(e)
    if 'SPICE' in scores:
        scores['SPIDEr'] = (cider + scores['SPICE']) / 2
    elif java:
        missing['SPIDEr'] = 'it is the mean of CIDEr and SPICE'
    return {k: 100 * float(v) for k, v in scores.items()}, [100 * float(c) for c in ciders], missing


# ---- answers -------------------------------------------------------------------------------------

# in the order of the official list; the order does not matter
PUNCTUATION_MARKS = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = ('a', 'an', 'the')
NUMBER_WORDS = {'none': '0', 'zero': '0', 'one': '1', 'two': '2', 'three': '3', 'four': '4',
                'five': '5', 'six': '6', 'seven': '7', 'eight': '8', 'nine': '9', 'ten': '10'}
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
    """Returns {a contraction that lacks one of its apostrophes: the contraction}, and the official
    list's slip of the pen."""
    table = {"somebody'd": 'somebodyd'}
    for word in APOSTROPHES:
        for i, character in enumerate(word):
            if character == "'":
                table[word[:i] + word[i + 1:]] = word
    return table


CONTRACTIONS = contractions()


def strip_punctuation(text):
    """Returns the text without punctuation, as the official VQA script makes it: a mark goes
    without a trace where it stands beside a space, or where the text has a number such as 1,000;
    else it leaves a space ("black-white" is two words). Full stops go, but for those before a
    digit."""
    has_thousands = re.search(r'\d,\d', text) is not None
    stripped = text
    for mark in PUNCTUATION_MARKS:
        beside_space = f'{mark} ' in text or f' {mark}' in text
        stripped = stripped.replace(mark, '' if beside_space or has_thousands else ' ')
    # the official scripts hand re.UNICODE, which is 32, to re.sub as the number of stops to remove
    return re.sub(r'\.(?!\d)', '', stripped, count=32)


def one_line(text):
    """Returns the text with line breaks and tabs as spaces, and none around it."""
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
    VQA script, but commas and question marks go first, without a trace, and 's is a word."""
    text = text.lower().replace(',', '').replace('?', '').replace("'s", " 's")
    return normalise(text)


def leave_one_out(prediction, answers):
    """Returns the VQA accuracy of an already normalised prediction, 0 to 1: min(1, matches / 3)
    among all annotators but one, averaged over who is left out. With fewer than four annotators
    nothing reaches 1, and with a single one everything is 0."""
    matches = answers.count(prediction)
    total = 0
    for answer in answers:
        total += min(1, (matches - (answer == prediction)) / 3)
    return total / len(answers)


# ---- rules: (prediction, row) -> 0 to 1, or None where the official script leaves it out ---------

def score_vqa(prediction, row):
    """The script of VQAv2 (visualqa.org) as it stands since March 2021: both sides are normalised
    where the annotators differ, neither where they all agree; one annotator is left out in turn."""
    prediction = one_line(prediction)
    answers = [one_line(answer) for answer in row['answers']]
    if len(set(answers)) > 1:
        prediction = normalise(prediction)
        answers = [normalise(answer) for answer in answers]
    return leave_one_out(prediction, answers)


def score_depalm(prediction, row):
    """DePALM's own VQA accuracy: as 'vqa', but both sides are always normalised."""
    answers = [normalise(answer) for answer in row['answers']]
    return leave_one_out(normalise(prediction), answers)


def score_textvqa(prediction, row):
    """TextVQA's accuracy: as 'vqa', but both sides always pass EvalAI's answer processor."""
    answers = [normalise_evalai(answer) for answer in row['answers']]
    return leave_one_out(normalise_evalai(prediction), answers)


def score_aokvqa(prediction, row):
    """A-OKVQA's own script: min(1, exact matches / 3) of all annotators, nothing is normalised, and
    questions with difficult_direct_answer are left out."""
    if row.get('difficult_direct_answer'):
        return None
    return min(1.0, row['answers'].count(prediction) / 3)


def score_exact(prediction, row):
    """Exact match, as GQA's script and the video question sets: 1 if the prediction is one of the
    answers letter by letter; neither case nor punctuation nor spaces are forgiven."""
    return float(prediction in row['answers'])


def score_epalm(prediction, row):
    """eP-ALM's accuracy on GQA and on videos: 1 if the prediction is one of the answers once both
    are normalised as the VQA script does."""
    answers = [normalise(answer) for answer in row['answers']]
    return float(normalise(prediction) in answers)


def score_vqa_or_exact(prediction, row):
    """As 'vqa' where a question has several answers, as 'exact' where it has one."""
    score = score_vqa if len(row['answers']) > 1 else score_exact
    return score(prediction, row)


RULES = {'vqa': score_vqa, 'depalm': score_depalm, 'textvqa': score_textvqa, 'aokvqa': score_aokvqa,
         'exact': score_exact, 'epalm': score_epalm, 'vqa_or_exact': score_vqa_or_exact}
LEAVE_ONE_OUT = ('vqa', 'depalm', 'textvqa')
# of other data sets, a user's among them, the number of answers decides
DATASET_RULES = {'vqav2': 'vqa', 'vqav2_karpathy': 'vqa', 'okvqa': 'vqa', 'textvqa': 'textvqa',
                 'aokvqa': 'aokvqa', 'gqa': 'exact', 'msrvtt_qa': 'exact', 'msvd_qa': 'exact'}


def describe_rule(rule):
    """Returns what a rule does, in words: its docstring on one line."""
    return ' '.join(RULES[rule].__doc__.split())


def default_rule(dataset, rows):
    """Returns the name of the rule that scores these rows: the official one of a known data set; of
    any other, 'vqa' where every question has several answers, 'exact' where every one has a single
    answer, 'vqa_or_exact' where both occur."""
    if dataset in DATASET_RULES:
        return DATASET_RULES[dataset]
    single = sum(len(row['answers']) == 1 for row in rows)
    if single == 0:
        return 'vqa'
    return 'exact' if single == len(rows) else 'vqa_or_exact'


def check_rule(rule, rows):
    """Raises ValueError where a rule cannot score these rows, before answers are generated."""
    if rule not in RULES:
        names = ', '.join(map(repr, RULES))
        raise ValueError(f'rule={rule!r}: expected one of {names}')
    single = sum(len(row['answers']) == 1 for row in rows)
    if rule in LEAVE_ONE_OUT and single:
        raise ValueError(
            f'rule={rule!r} leaves one annotator out and counts the others, but {single} of '
            f'{len(rows)} questions have a single answer; --rule=exact scores those')
    if rule == 'aokvqa' and all(row.get('difficult_direct_answer') for row in rows):
        raise ValueError(
            "rule='aokvqa' leaves out questions with difficult_direct_answer, and all of these "
            "have it; --rule=depalm scores them")


def score_answers(rows, answers, rule):
    """Scores one answer for each row by the rule of that name.

    rows have `answers`, perhaps `question_type` and `answer_type`. Returns ({name: mean accuracy x
    100}, [accuracy of each row x 100, None where the rule leaves the question out]). Raises
    ValueError where it leaves out all of them."""
    score = RULES[rule]
    accuracies = []
    groups = defaultdict(list)
    for row, answer in zip(rows, answers):
        accuracy = score(answer, row)
        if accuracy is None:
            accuracies.append(None)
            continue
        accuracies.append(100 * accuracy)
        groups['accuracy'].append(100 * accuracy)
        if 'answer_type' in row:
            groups[f'answers {row["answer_type"]!r}'].append(100 * accuracy)
        if 'question_type' in row:
            groups[f'questions {row["question_type"]!r}'].append(100 * accuracy)
    if not groups:
        raise ValueError(f'rule={rule!r} leaves out every question that could be answered')
    means = {name: round(sum(values) / len(values), 2) for name, values in groups.items()}
    return means, accuracies
