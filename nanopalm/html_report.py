"""
The pages of the evaluations: each is one self-contained HTML file with a card for every example,
to be read in a browser or sent by mail. The templates are in nanopalm/templates.
"""

import base64
import io
import json
from collections import Counter
from pathlib import Path

import jinja2
import numpy as np
import soundfile
from PIL import Image

from nanopalm import media
from nanopalm.examples import BadData, medium_of
from nanopalm.scores import describe_rule

TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name('templates')),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
NOUNS = {'image': 'image', 'audio': 'sound', 'video': 'video'}

# samples a second, and how many seconds of a sound are on the page
SOUND_RATE = 16000
SOUND_SECONDS = 10
VIDEO_FRAMES = 4


# ---- pages ---------------------------------------------------------------------------------------


def captions_page(result):
    """Returns the HTML page of what eval_caption.py writes into eval_SPLIT.json."""
    ciders = [100]
    for row in result['rows']:
        ciders.append(row['cider'])
        ciders.append(row.get('blind_cider', 0))
    cards = []
    for row in spread(result['rows'], result['knobs']['page_rows']):
        # CIDEr ends at 1000, and at 250 for a single word: those that are right come first
        cards.append(make_card(row, row['caption'], row['cider'] + 1000 * row['exact']))
    ratio = None
    blind_scores = result.get('blind_scores')
    if blind_scores and blind_scores['CIDEr']:
        ratio = result['scores']['CIDEr'] / blind_scores['CIDEr']
    return render(
        'captions.html',
        result,
        kind='captions',
        metrics=list(result['scores']),
        ratio=ratio,
        cards=cards,
        # the CIDEr at which the bars are full
        full=max(ciders),
        tokenizer=result['tokenizer'],
        missing=result['missing'],
    )


def answers_page(result):
    """Returns the HTML page of what eval_vqa.py writes into eval_SPLIT.json."""
    cards = []
    for row in spread(result['rows'], result['knobs']['page_rows']):
        # a question that is left out of the score is sorted below the wrong answers
        score = -1 if row['accuracy'] is None else row['accuracy']
        card = make_card(row, row['answer'], score)
        card['truth'] = count_answers(row['answers'])
        cards.append(card)
    # there may be dozens of types of questions
    metrics = [name for name in result['scores'] if not name.startswith('questions')]
    return render(
        'answers.html',
        result,
        kind='answers',
        metrics=metrics,
        ratio=None,
        cards=cards,
        rule=result['rule'],
        rule_description=describe_rule(result['rule']),
    )


def render(template, result, **variables):
    """Returns a page: a template filled with what all pages say about a result, and with the
    variables."""
    run = result['trained_with']
    evaluated = result.get('evaluated', {})
    dataset = evaluated.get('dataset', run['dataset'])
    settings = {'evaluated': {**result['knobs'], **evaluated}, 'trained': run}
    return TEMPLATES.get_template(template).render(
        title=f'{dataset}, {result["knobs"]["split"]} split',
        number=len(result['rows']),
        noun=NOUNS[medium_of(result['rows'][0])],
        llm=run['llm'],
        encoder=run['encoder'],
        connector=run['connector'],
        bottlenecks=run.get('bottleneck', 'none') != 'none',
        trained_on=run['dataset'] if run['dataset'] != dataset else '',
        scores=result['scores'],
        blind_scores=result.get('blind_scores'),
        settings=json.dumps(settings, indent=1),
        **variables,
    )


def make_card(row, text, score):
    """Returns the variables of a card: those of the row, and what all cards have. score: what the
    buttons of the page sort by."""
    other_texts = row.get('generated', [])[1:]
    return {**row, 'text': text, 'other_texts': other_texts, 'score': score, 'figure': figure(row)}


def count_answers(answers):
    """Returns the answers of all annotators as a text: 'red (9), pink'."""
    texts = []
    for answer, count in Counter(answers).items():
        texts.append(f'{answer} ({count})' if count > 1 else answer)
    return ', '.join(texts)


def spread(rows, most):
    """Returns at most so many of the rows, evenly spread."""
    if most == 0:
        return []
    # rounded up
    step = (len(rows) + most - 1) // most
    return rows[::step]


# ---- figures -------------------------------------------------------------------------------------


def figure(row):
    """Returns what a card shows of a row's file, as {'kind': 'image' or 'audio', 'source': a data
    URL}, or {'kind': 'error', 'message': ...} where a blind model has not needed to read it."""
    try:
        if medium_of(row) == 'audio':
            return {'kind': 'audio', 'source': data_url('audio/ogg', encode_sound(row['audio']))}
        return {'kind': 'image', 'source': data_url('image/jpeg', encode_picture(row))}
    except BadData as error:
        return {'kind': 'error', 'message': str(error)}


def encode_sound(path):
    """Returns the beginning of a sound as the bytes of an OGG file."""
    wave = media.read_audio(path, SOUND_RATE)[: SOUND_RATE * SOUND_SECONDS]
    file = io.BytesIO()
    soundfile.write(file, wave.numpy(), SOUND_RATE, format='OGG')
    return file.getvalue()


def encode_picture(row):
    """Returns a row's image, or frames of its video side by side, as the bytes of a small JPEG."""
    if 'image' in row:
        picture = media.read_image(row['image'])
        picture.thumbnail((256, 256))
    else:
        # (T, 3, H, W) -> (T, H, W, 3) -> (H, T*W, 3)
        frames = media.read_video(row['video'], VIDEO_FRAMES, train=False).permute(0, 2, 3, 1)
        picture = Image.fromarray(np.concatenate(frames.numpy(), axis=1))
        picture.thumbnail((512, 256))
    file = io.BytesIO()
    picture.save(file, 'JPEG', quality=85)
    return file.getvalue()


def data_url(mime_type, data):
    return f'data:{mime_type};base64,{base64.b64encode(data).decode()}'
