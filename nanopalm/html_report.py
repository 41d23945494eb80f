"""
The pages of the evaluations: each one self-contained file of html, a card for every picture, to be read in a browser or mailed.
"""
import base64
import io
import json
from html import escape

import numpy as np
import soundfile
from PIL import Image

from nanopalm.examples import BadData, medium_of
from nanopalm.scores import describe_rule

STYLE = """:root{color-scheme:light dark;--soft:light-dark(#6a6a70,#a2a2a8);--line:light-dark(#e2e0da,#36383c)}.see{color:light-dark(#24705c,#63c5a8)}
.blind{color:light-dark(#ad6030,#dd9a63)}*{box-sizing:border-box;margin:0}.bars{margin-top:auto}.bar{display:flex;align-items:center}body{max-width:1400px;
margin:auto;padding:36px 24px;background:light-dark(#f5f4f0,#131416);font:15px/1.45 system-ui,sans-serif;overflow-wrap:anywhere}h2{font-size:18px;
line-height:1.3}.soft,th,summary{color:var(--soft);font-size:13px;font-weight:400}pre{white-space:pre-wrap}.wide{overflow-x:auto}table{margin:18px 0 10px}
td,th{padding-left:22px;text-align:right;white-space:nowrap}td:nth-child(2){font-size:32px;font-weight:650}tr>:first-child{padding:0;text-align:left}
button{font:inherit;color:inherit;background:none;border:1px solid var(--line);border-radius:99px;padding:4px 14px;margin:14px 6px 0 0}main{display:grid;
grid:auto/repeat(auto-fill,minmax(250px,1fr));gap:16px;margin-top:18px}article{background:light-dark(#fff,#1e1f22);border:1px solid var(--line);
border-radius:14px;overflow:hidden;padding:0 16px 14px;display:flex;flex-direction:column;gap:8px}figure{background:#fff;display:grid;place-items:center;
height:230px;margin:0 -16px 4px}img,audio{max-width:92%;max-height:206px}.bar b{width:38px;text-align:right;font-size:12px}.bar i{flex:1;height:5px;
border-radius:3px;background:linear-gradient(currentColor 0 0) 0/var(--w) no-repeat var(--line)}"""
SCRIPT = """nav.hidden=0;const all=[...grid.children];nav.onclick=e=>e.target.value&&grid.append(...all.toSorted((a,b)=>(a.dataset.c-b.dataset.c)*e.target.value))"""


WHAT = dict(image='picture', audio='sound', video='video')


def bar(kind, value, full):
    """A score as a bar: kind 'see' or 'blind', `full` is the value that fills it."""
    return f'<div class="bar {kind}"><i style="--w:{value / full:.1%}"></i><b>{value:.0f}</b></div>'


def card(row, score, heading, below, bars):
    """One row: its picture, transparent parts on white; frames of its video; or its sound, to be played. below, bars: html; score sorts the page."""
    try:
        figure = shown(row)
    except BadData as e:                                                                                            # a blind model never read it
        figure = escape(str(e))
    return f"""<article data-c="{score}"><figure>{figure}</figure>
<h2 title="{escape(str(row['id']))}">{escape(heading) or '&mdash;'}</h2>{below}<div class="bars">{bars}</div></article>"""


def shown(row):
    """The html of what a row shows. Raises BadData for a file that cannot be read."""
    from nanopalm import media
    medium, file = medium_of(row), io.BytesIO()
    if medium == 'audio':
        soundfile.write(file, media.read_audio(row['audio'], 16000)[:160000].numpy(), 16000, format='OGG')          # its first ten seconds
        return f'<audio controls src="data:audio/ogg;base64,{base64.b64encode(file.getvalue()).decode()}"></audio>'
    if medium == 'image':
        picture = media.read_image(row['image'])
    else:                                                                                                           # four frames side by side
        picture = Image.fromarray(np.concatenate(media.read_video(row['video'], 4, train=False).permute(0, 2, 3, 1).numpy(), axis=1))
    picture.thumbnail((256, 256) if medium == 'image' else (512, 256))
    picture.save(file, 'JPEG', quality=85)
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}" alt="">'


def page(kind, result, table, note, cards):
    """kind: 'captions' or 'answers'; result: what eval_SPLIT.json holds; table: html rows; cards: html. Returns the page."""
    knobs, run = result['knobs'], result['trained_with']
    dataset = result.get('evaluated', run)['dataset']
    trained_on = '' if dataset == run['dataset'] else escape(f', on {run["dataset"]}')
    names = f'{dataset}, {knobs["split"]} split', run['llm'], str(run['encoder']), run['connector']
    title, llm, encoder, connector = map(escape, names)
    settings = {'evaluated': knobs | result.get('evaluated', {}), 'trained': run}
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none';img-src data:;media-src data:;style-src 'unsafe-inline';script-src 'unsafe-inline'">
<style>{STYLE}</style><header><p class="soft">nanoPALM {kind}</p><h1>{title}</h1><p>{len(result['rows'])} {kind}, given by {llm} through
{encoder}, both frozen; only the {connector} adapter between them is trained{trained_on}.</p><div class="wide"><table>{table}</table></div>
<p class="soft">{note}</p>
<details><summary>Settings</summary><pre>{escape(json.dumps(settings, indent=1))}</pre></details>
<nav id="nav" hidden><button value="0">in order</button><button value="-1">best first</button><button value="1">worst first</button></nav></header>
<main id="grid">{''.join(cards)}</main><script>{SCRIPT}</script></html>"""


def spread(rows, most):
    """At most so many of them, evenly spread."""
    return rows[::-(-len(rows) // most)]


def score_table(rows, scores, blind, names):
    """Html: a line of the named scores for the model and, if there is one, for the blind one."""
    sides = [('see', f'with the {WHAT[medium_of(rows[0])]}', scores), ('blind', 'blind: the same LLM without it', blind)]
    return '<tr><th>' + ''.join(f'<th>{escape(name)}' for name in names) + ''.join(
        f'<tr class="{kind}"><td>{who}' + ''.join(f'<td>{side[name]:.1f}' for name in names) for kind, who, side in sides if side)


def other_texts(row):
    """Html: what the model gave for a row besides the first text, if several were asked for."""
    texts = row.get('generated', [])[1:]
    return f'<p>{"<br>".join(map(escape, texts))}</p>' if texts else ''


def captions_page(result):
    """What eval_SPLIT.json holds -> one self-contained page of html."""
    rows, scores, blind = result['rows'], result['scores'], result.get('blind_scores')
    table = score_table(rows, scores, blind, list(scores))
    table += f'<tr><td>ratio<td>{scores["CIDEr"] / blind["CIDEr"]:.1f}&times;' if blind and blind['CIDEr'] else ''
    full = max(100, *(max(r['cider'], r.get('blind_cider', 0)) for r in rows))
    cards = []
    for row in spread(rows, result['knobs']['page_rows']):
        below = other_texts(row)
        if 'blind_caption' in row:
            blind_text = escape(row['blind_caption'])
            below += f'<p class="blind"><span class="soft">blind:</span> {blind_text}</p>'
        below += f'<p class="soft">reference: {"<br>".join(map(escape, row["references"]))}</p>'
        bars = ''.join(bar(kind, row[key], full) for kind, key in (('see', 'cider'), ('blind', 'blind_cider')) if key in row)
        cards.append(card(row, row['cider'], row['caption'], below, bars))
    return page('captions', result, table, f'Scores x 100. Bars: CIDEr of the one picture, full at {full:.0f}. Tokenizer: {escape(result["tokenizer"])}.'
                + ''.join(f' No {name}: {escape(why)}.' for name, why in result['missing'].items()), cards)


def answers_page(result):
    """What eval_SPLIT.json holds -> one self-contained page of html."""
    rows = result['rows']
    table = score_table(rows, result['scores'], result.get('blind_scores'), [name for name in result['scores'] if not name.startswith('questions')])
    cards = []
    for row in spread(rows, result['knobs']['page_rows']):
        truths = ', '.join(f'{t} ({n})' if n > 1 else t for t in dict.fromkeys(row['answers']) for n in [row['answers'].count(t)])
        below = f'<p>{escape(row["question"])}</p>' + other_texts(row)
        below += f'<p class="blind"><span class="soft">blind:</span> {escape(row["blind_answer"])}</p>' if 'blind_answer' in row else ''
        if row['accuracy'] is None:
            verdict = 'left out of the score'
        else:
            verdict = f'{row["accuracy"]:.0f}% right'
        below += f'<p class="soft">{verdict}; truth: {escape(truths)}</p>'
        # what is left out is sorted below what is wrong
        position = -1 if row['accuracy'] is None else row['accuracy']
        cards.append(card(row, position, row['answer'], below, ''))
    rule = result['rule']
    note = f'Accuracy x 100 by the rule {rule!r}. {describe_rule(rule)}'
    return page('answers', result, table, escape(note), cards)
