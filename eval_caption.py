"""
Caption a split and score it: out_dir/eval_SPLIT.json, and eval_SPLIT.html to look at, one file with the pictures inside.

    python eval_caption.py --out_dir=out/demo                               # the test split
    python eval_caption.py --out_dir=out/demo --blind_dir=out/demo_blind    # beside the same LLM without a picture
"""
import base64
import io
import json
import re
import sys
import unicodedata
from html import escape
from pathlib import Path

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from configurator import configure

# ---- knobs ----------------------------------------------------------------------------------------------------------
out_dir = 'out/demo'                # a run of train.py
which = 'best'                      # 'best' or 'last'
blind_dir = ''                      # a run with the same llm and encoder=None
split = 'test'
max_rows = 0                        # score so many pictures, spread over the split; 0 = all
page_rows = 1000                    # show so many of them on the page, about 10 KB each
num_beams = 3
max_new_tokens = 50
batch_size = 16
device = 'auto'
# ---------------------------------------------------------------------------------------------------------------------

STRAIGHT = str.maketrans({'’': "'", '‘': "'", '“': '"', '”': '"', '–': ' - ', '—': ' - ', '…': ' ', '½': ' 1/2', '€': '$', '£': '#', '\xad': ''})
BRACKETS = {'(': '-lrb-', ')': '-rrb-', '[': '-lsb-', ']': '-rsb-', '{': '-lcb-', '}': '-rcb-'}
PUNCTUATION = set('\'"`.,:;?!-')    # dropped where it is a token of its own; like COCO's list without the brackets
TOKENS = re.compile(r"""
    \b(?:can(?=not\b)|(?:gon|wan)(?=na\b)|got(?=ta\b)|[gl][ie]m(?=me\b)) | 't(?=(?:is|was)\b)           # can not, gon na, 't is
  | [a-z]+(?=n't\b) | n't\b | '(?:[smd]|re|ve|ll|em|til|n'|\d\ds?)(?!\w)                                # do n't, dog 's, the '90s
  | \b(?:[a-z]\.){2,} | \b[a-z]\.(?=\s*\S)(?!\w)                                                        # the u.s., john f. kennedy
  | \b(?:mr|mrs|ms|dr|prof|gen|sgt|st|ave|blvd|rd|mt|ft|jr|sr|vs|etc|inc|co|corp|ltd|dept|no(?=\.\s?\d))\.
  | \b(?:[odl]'|ma'am\b|rock(?='n'))[a-z]* | \b(?-i:[A-Z]+&[A-Z])\b | \bat&t\b                          # o'clock, B&W
  | (?:(?<![\w.])\.(?=\d))?[^\W_]+(?:(?:[-_./]|(?<=\d)[,:](?=\d))[^\W_]+)*                              # half-eaten, a/b, 1,000, .5
  | [@\#][a-z]\w* | [?!]+ | [^\w\s] | _+""", re.VERBOSE | re.IGNORECASE)


def tokenize(text):
    """"A dog's t-shirt (it isn't red)." -> "a dog 's t-shirt -lrb- it is n't red -rrb-": what COCO's Java tokenizer makes of captions."""
    words = TOKENS.findall(unicodedata.normalize('NFC', text).translate(STRAIGHT))
    return ' '.join(BRACKETS.get(w, w) for w in words if w not in PUNCTUATION).lower()


def score_captions(references, hypotheses):
    """references: the texts of each row; hypotheses: one text for each. Returns ({metric: score}, [CIDEr of each row]), all x 100: CIDEr
    ends at 1000, the others at 100. CIDEr weighs words by how rare they are in these very references: a row alone has 0."""
    refs = {i: [tokenize(t) for t in texts] for i, texts in enumerate(references)}
    hyps = {i: [tokenize(t)] for i, t in enumerate(hypotheses)}
    (cider, ciders), (bleu, _), (rouge, _) = Cider().compute_score(refs, hyps), Bleu(4).compute_score(refs, hyps, verbose=0), Rouge().compute_score(refs, hyps)
    scores = dict(zip(('CIDEr', 'BLEU-1', 'BLEU-2', 'BLEU-3', 'BLEU-4', 'ROUGE-L'), [cider, *bleu, rouge]))
    return {k: round(100 * float(v), 2) for k, v in scores.items()}, [round(100 * float(c), 1) for c in ciders]


def pictures(rows, n=0):
    """Rows of one picture become one row with all their references; n of them, spread over the split, 0 = all."""
    merged = {}
    for row in rows:
        if not any(tokenize(t) for t in row['caption']):
            sys.exit(f"row {row['id']!r} ({row['image']}) has no reference caption")
        merged.setdefault(row['image'], dict(row, caption=[]))['caption'].extend(row['caption'])
    rows = list(merged.values()) or sys.exit(f'split {split!r} is empty: there is nothing to caption')
    return [rows[i * len(rows) // n] for i in range(n)] if 0 < n < len(rows) else rows


STYLE = """:root{color-scheme:light dark;--soft:light-dark(#6a6a70,#a2a2a8);--line:light-dark(#e2e0da,#36383c)}.see{color:light-dark(#24705c,#63c5a8)}
.blind{color:light-dark(#ad6030,#dd9a63)}*{box-sizing:border-box;margin:0}.bars{margin-top:auto}.bar{display:flex;align-items:center}body{max-width:1400px;
margin:auto;padding:36px 24px;background:light-dark(#f5f4f0,#131416);font:15px/1.45 system-ui,sans-serif;overflow-wrap:anywhere}h2{font-size:18px;
line-height:1.3}.soft,th,summary{color:var(--soft);font-size:13px;font-weight:400}pre{white-space:pre-wrap}.wide{overflow-x:auto}table{margin:18px 0 10px}
td,th{padding-left:22px;text-align:right;white-space:nowrap}td:nth-child(2){font-size:32px;font-weight:650}tr>:first-child{padding:0;text-align:left}
button{font:inherit;color:inherit;background:none;border:1px solid var(--line);border-radius:99px;padding:4px 14px;margin:14px 6px 0 0}main{display:grid;
grid:auto/repeat(auto-fill,minmax(250px,1fr));gap:16px;margin-top:18px}article{background:light-dark(#fff,#1e1f22);border:1px solid var(--line);
border-radius:14px;overflow:hidden;padding:0 16px 14px;display:flex;flex-direction:column;gap:8px}figure{background:#fff;display:grid;place-items:center;
height:230px;margin:0 -16px 4px}img{max-width:92%;max-height:206px}.bar b{width:38px;text-align:right;font-size:12px}.bar i{flex:1;height:5px;
border-radius:3px;background:linear-gradient(currentColor 0 0) 0/var(--w) no-repeat var(--line)}"""
SCRIPT = """nav.hidden=0;const all=[...grid.children];nav.onclick=e=>e.target.value&&grid.append(...all.toSorted((a,b)=>(a.dataset.c-b.dataset.c)*e.target.value))"""


def card(row, full):
    """One picture of the page, transparent parts on white. full: the CIDEr of a full bar."""
    from data import read_image
    image, jpeg = read_image(row['image']), io.BytesIO()
    image.thumbnail((256, 256))
    image.save(jpeg, 'JPEG', quality=85)
    bars = ''.join(f'<div class="bar {kind}"><i style="--w:{row[key] / full:.1%}"></i><b>{row[key]:.0f}</b></div>'
                   for kind, key in (('see', 'cider'), ('blind', 'blind_cider')) if key in row)
    blind = f'<p class="blind"><span class="soft">blind:</span> {escape(row["blind_caption"])}</p>' if 'blind_caption' in row else ''
    return f"""<article data-c="{row['cider']}"><figure><img src="data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}" alt=""></figure>
<h2 title="{escape(str(row['id']))}">{escape(row['caption']) or '&mdash;'}</h2>{blind}
<p class="soft">reference: {'<br>'.join(map(escape, row['references']))}</p><div class="bars">{bars}</div></article>"""


def page(result):
    """What eval_SPLIT.json holds -> one self-contained page of html."""
    rows, scores, blind, knobs, run = result['rows'], result['scores'], result.get('blind_scores'), result['knobs'], result['trained_with']
    table = ''.join(f'<tr class="{kind}"><td>{name}<td>' + '<td>'.join(f'{v:.1f}' for v in side.values()) for kind, name, side in (
        ('see', 'with the picture', scores), ('blind', 'blind: the same LLM without it', blind)) if side)
    table += f'<tr><td>ratio<td>{scores["CIDEr"] / blind["CIDEr"]:.1f}&times;' if blind and blind['CIDEr'] else ''
    title, llm, encoder, connector = map(escape, (f'{run["dataset"]}, {knobs["split"]} split', run['llm'], str(run['encoder']), run['connector']))
    full = max(100, *(max(r['cider'], r.get('blind_cider', 0)) for r in rows))
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none';img-src data:;style-src 'unsafe-inline';script-src 'unsafe-inline'">
<style>{STYLE}</style><header><p class="soft">nanoPALM captions</p><h1>{title}</h1><p>{len(rows)} pictures, described by {llm} looking through
{encoder}, both frozen; only the {connector} adapter between them is trained.</p><div class="wide"><table><tr><th><th>{'<th>'.join(scores)}{table}</table></div>
<p class="soft">Scores x 100. Bars: CIDEr of the one picture, full at {full:.0f}. Tokenizer: {escape(result['tokenizer'])}.</p>
<details><summary>Settings</summary><pre>{escape(json.dumps({'evaluated': knobs, 'trained': run}, indent=1))}</pre></details>
<nav id="nav" hidden><button value="0">in order</button><button value="-1">best first</button><button value="1">worst first</button></nav></header>
<main id="grid">{''.join(card(row, full) for row in rows[::-(-len(rows) // knobs['page_rows'])])}</main><script>{SCRIPT}</script></html>"""


def main(config):
    from data import load_rows
    from model import load_checkpoint, write_atomically
    from sample import generate_rows
    result = dict(tokenizer='PTB-like, pure Python (eval_caption.tokenize)', knobs=config)
    for side, folder in (('', out_dir), *[('blind_', blind_dir)] * bool(blind_dir)):
        model, tokenizer, trained_with = load_checkpoint(folder, which, device)
        if not side:
            rows = pictures(load_rows(trained_with, split), max_rows)
            result |= dict(trained_with=trained_with, rows=[dict(id=r['id'], image=r['image'], references=r['caption']) for r in rows])
        elif trained_with['encoder'] or trained_with['llm'] != result['trained_with']['llm']:
            sys.exit(f'{folder}: a blind run has encoder=None and the same llm, this one {trained_with["encoder"]!r} and {trained_with["llm"]!r}')
        captions = generate_rows(model, tokenizer, trained_with, rows[:1] if side else rows, batch_size, num_beams=num_beams,
                                 max_new_tokens=max_new_tokens) * (len(rows) if side else 1)    # blind: the same for every picture
        result[side + 'scores'], ciders = score_captions([r['caption'] for r in rows], captions)
        for row, caption, cider in zip(result['rows'], captions, ciders):
            row |= {side + 'caption': caption, side + 'cider': cider}
        del model                                               # makes room for the other
    for name, score in result['scores'].items():
        print(f'{name:8}{score:8.2f}' + (f'   blind {result["blind_scores"][name]:8.2f}' if blind_dir else ''))
    for ending, text in dict(json=json.dumps(result, indent=1, ensure_ascii=False), html=page(result)).items():
        write_atomically(f'{out_dir}/eval_{split}.{ending}', lambda temporary: Path(temporary).write_text(text, encoding='utf-8'))
        print(f'{out_dir}/eval_{split}.{ending}')


if __name__ == '__main__':
    from data import BadData
    try:
        main(configure(globals()))
    except (BadData, ValueError, OSError) as e:
        sys.exit(str(e))
