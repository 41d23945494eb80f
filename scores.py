"""
How captions and answers are scored: CIDEr, BLEU and ROUGE-L without Java, METEOR and SPICE with it, and the official VQA accuracy.
"""
import re
import subprocess
import unicodedata
from collections import defaultdict

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from java import java_tokenize, meteor, spice

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


# ---- answers --------------------------------------------------------------------------------------------------------

SPLIT_AT = ';/[]"{}()=+\\_-><@`,?!'
NUMBERS = dict(zip('none zero one two three four five six seven eight nine ten'.split(), '0 0 1 2 3 4 5 6 7 8 9 10'.split()))
APOSTROPHES = """ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's how'd how'll
    how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've
    should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've
    something'll that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
    wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've""".split()
CONTRACTIONS = {w[:i] + w[i + 1:]: w for w in APOSTROPHES for i, c in enumerate(w) if c == "'"} | {"somebody'd": 'somebodyd'}


def strip_punctuation(text):
    """As the official evaluation: a mark goes without a trace where it stands beside a space, or the text has a number such as 1,000;
    else it leaves a space ("black-white" is two words). Full stops go, but for those before a digit."""
    stripped = text
    for p in SPLIT_AT:
        stripped = stripped.replace(p, '' if f'{p} ' in text or f' {p}' in text or re.search(r'\d,\d', text) else ' ')
    return re.sub(r'\.(?!\d)', '', stripped)


def normalise(text):
    """'The two dogs, dont!' -> "2 dogs don't": punctuation, number words, articles, contractions."""
    words = strip_punctuation(text.replace('\n', ' ').replace('\t', ' ').strip()).lower().split()
    words = [NUMBERS.get(w, w) for w in words]
    return ' '.join(CONTRACTIONS.get(w, w) for w in words if w not in ('a', 'an', 'the'))


def accuracy(answer, truths):
    """The official VQA accuracy, 0 to 1: min(1, matches / 3) among all annotators but one, averaged over who is left out. A single true
    answer (GQA, video, easy-VQA) must be matched exactly. As in the official script the annotators' answers are normalised less than the
    model's (their punctuation alone), and not at all where they all agree."""
    answer = normalise(answer)
    if len(truths) == 1:
        return float(answer == normalise(truths[0]))
    truths = [strip_punctuation(t) for t in truths] if len(set(truths)) > 1 else truths
    matches = sum(t == answer for t in truths)
    return sum(min(1, (matches - (t == answer)) / 3) for t in truths) / len(truths)


def score_answers(rows, answers):
    """Rows with `answers` and perhaps `question_type`, `answer_type` -> ({name: mean accuracy x 100}, [accuracy of each x 100])."""
    each, groups = [], defaultdict(list)
    for row, answer in zip(rows, answers):
        each.append(100 * accuracy(answer, row['answers']))
        for name in ('accuracy', *(f'{kind} {row[key]!r}' for key, kind in (('answer_type', 'answers'), ('question_type', 'questions')) if key in row)):
            groups[name].append(each[-1])
    return {name: round(sum(values) / len(values), 2) for name, values in groups.items()}, each
