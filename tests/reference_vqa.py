"""
A second, plain implementation of the rules by which answers are scored, written from their
description and sharing nothing with scores.py. Slow and literal on purpose: every annotator is left
out in turn, fractions are exact, and the contractions are spelled out.
"""

from fractions import Fraction

# an entry 'dont' maps to "don't"; the official table also has entries that change nothing
PAIRS = """
    aint>ain't arent>aren't cant>can't couldve>could've couldnt>couldn't couldn'tve>couldn't've
    couldnt've>couldn't've didnt>didn't doesnt>doesn't dont>don't hadnt>hadn't hadnt've>hadn't've
    hadn'tve>hadn't've hasnt>hasn't havent>haven't hed>he'd hed've>he'd've he'dve>he'd've hes>he's
    howd>how'd howll>how'll hows>how's Id've>I'd've I'dve>I'd've Im>I'm Ive>I've isnt>isn't
    itd>it'd itd've>it'd've it'dve>it'd've itll>it'll let's>let's maam>ma'am mightnt>mightn't
    mightnt've>mightn't've mightn'tve>mightn't've mightve>might've mustnt>mustn't mustve>must've
    neednt>needn't notve>not've oclock>o'clock oughtnt>oughtn't ow's'at>'ow's'at 'ows'at>'ow's'at
    'ow'sat>'ow's'at shant>shan't shed've>she'd've she'dve>she'd've she's>she's shouldve>should've
    shouldnt>shouldn't shouldnt've>shouldn't've shouldn'tve>shouldn't've somebody'd>somebodyd
    somebodyd've>somebody'd've somebody'dve>somebody'd've somebodyll>somebody'll
    somebodys>somebody's someoned>someone'd someoned've>someone'd've someone'dve>someone'd've
    someonell>someone'll someones>someone's somethingd>something'd somethingd've>something'd've
    something'dve>something'd've somethingll>something'll thats>that's thered>there'd
    thered've>there'd've there'dve>there'd've therere>there're theres>there's theyd>they'd
    theyd've>they'd've they'dve>they'd've theyll>they'll theyre>they're theyve>they've twas>'twas
    wasnt>wasn't wed've>we'd've we'dve>we'd've weve>we've werent>weren't whatll>what'll
    whatre>what're whats>what's whatve>what've whens>when's whered>where'd wheres>where's
    whereve>where've whod>who'd whod've>who'd've who'dve>who'd've wholl>who'll whos>who's
    whove>who've whyll>why'll whyre>why're whys>why's wont>won't wouldve>would've wouldnt>wouldn't
    wouldnt've>wouldn't've wouldn'tve>wouldn't've yall>y'all yall'll>y'all'll y'allll>y'all'll
    yall'd've>y'all'd've y'alld've>y'all'd've y'all'dve>y'all'd've youd>you'd youd've>you'd've
    you'dve>you'd've youll>you'll youre>you're youve>you've"""
CONTRACTIONS = dict(pair.split('>') for pair in PAIRS.split())
DIGITS = {
    'none': 0,
    'zero': 0,
    'one': 1,
    'two': 2,
    'three': 3,
    'four': 4,
    'five': 5,
    'six': 6,
    'seven': 7,
    'eight': 8,
    'nine': 9,
    'ten': 10,
}
MARKS = list(';/[]"{}()=+\\_-><@`,?!')
MOST_STOPS = 32


def whitespace(text):
    out = ''
    for character in text:
        out += ' ' if character in '\n\t' else character
    return out.strip()


def punctuation(text):
    thousands = False
    for left, middle, right in zip(text, text[1:], text[2:]):
        if left.isdecimal() and middle == ',' and right.isdecimal():
            thousands = True
    gone = set()
    for mark in MARKS:
        for left, right in zip(text, text[1:]):
            if (left == ' ' and right == mark) or (left == mark and right == ' '):
                gone.add(mark)
    out = ''
    for character in text:
        if character not in MARKS:
            out += character
        elif not thousands and character not in gone:
            out += ' '
    without_stops = ''
    stops = 0
    for i, character in enumerate(out):
        before_digit = i + 1 < len(out) and out[i + 1].isdecimal()
        if character == '.' and not before_digit and stops < MOST_STOPS:
            stops += 1
        else:
            without_stops += character
    return without_stops


def words(text):
    out = []
    for word in text.lower().split():
        if word in DIGITS:
            word = str(DIGITS[word])
        if word == 'a' or word == 'an' or word == 'the':
            continue
        out.append(CONTRACTIONS[word] if word in CONTRACTIONS else word)
    return ' '.join(out)


def vqa_text(text):
    return words(punctuation(whitespace(text)))


def evalai_text(text):
    text = text.lower()
    text = ''.join(character for character in text if character not in ',?')
    text = " 's".join(text.split("'s"))
    return words(punctuation(whitespace(text.strip())))


def soft_score(prediction, answers):
    total = Fraction(0)
    for left_out in range(len(answers)):
        others = answers[:left_out] + answers[left_out + 1 :]
        matches = [other for other in others if other == prediction]
        total += min(Fraction(1), Fraction(len(matches), 3))
    return float(total / len(answers))


def reference_score(rule, prediction, answers):
    """Returns the score, 0 to 1, of a prediction against the annotators' answers."""
    if rule == 'vqa_or_exact':
        rule = 'exact' if len(answers) == 1 else 'vqa'
    if rule == 'vqa':
        prediction = whitespace(prediction)
        answers = [whitespace(answer) for answer in answers]
        if any(answer != answers[0] for answer in answers):
            prediction = words(punctuation(prediction))
            answers = [words(punctuation(answer)) for answer in answers]
        return soft_score(prediction, answers)
    if rule == 'depalm':
        return soft_score(vqa_text(prediction), [vqa_text(answer) for answer in answers])
    if rule == 'textvqa':
        return soft_score(evalai_text(prediction), [evalai_text(answer) for answer in answers])
    if rule == 'aokvqa':
        return min(1.0, len([answer for answer in answers if answer == prediction]) / 3)
    if rule == 'exact':
        return 1.0 if any(answer == prediction for answer in answers) else 0.0
    if rule == 'epalm':
        hits = [answer for answer in answers if vqa_text(answer) == vqa_text(prediction)]
        return 1.0 if hits else 0.0
    raise ValueError(rule)
