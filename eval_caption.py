"""
Caption a split and score it: out_dir/eval_SPLIT.json, and eval_SPLIT.html to look at, one file with the pictures inside.

    python eval_caption.py --out_dir=out/demo                               # the test split
    python eval_caption.py --out_dir=out/demo --blind_dir=out/demo_blind    # beside the same LLM without a picture
"""
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
from page import bar, card, page as html_page

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


def page(result):
    """What eval_SPLIT.json holds -> one self-contained page of html."""
    rows, scores, blind = result['rows'], result['scores'], result.get('blind_scores')
    table = f'<tr><th><th>{"<th>".join(scores)}' + ''.join(f'<tr class="{kind}"><td>{name}<td>' + '<td>'.join(f'{v:.1f}' for v in side.values()) for kind, name, side in (
        ('see', 'with the picture', scores), ('blind', 'blind: the same LLM without it', blind)) if side)
    table += f'<tr><td>ratio<td>{scores["CIDEr"] / blind["CIDEr"]:.1f}&times;' if blind and blind['CIDEr'] else ''
    full = max(100, *(max(r['cider'], r.get('blind_cider', 0)) for r in rows))
    cards = []
    for row in rows:
        below = f'<p class="blind"><span class="soft">blind:</span> {escape(row["blind_caption"])}</p>' if 'blind_caption' in row else ''
        below += f'<p class="soft">reference: {"<br>".join(map(escape, row["references"]))}</p>'
        bars = ''.join(bar(kind, row[key], full) for kind, key in (('see', 'cider'), ('blind', 'blind_cider')) if key in row)
        cards.append(card(row['image'], row['cider'], str(row['id']), row['caption'], below, bars))
    return html_page('captions', result, table, f'Scores x 100. Bars: CIDEr of the one picture, full at {full:.0f}. Tokenizer: {escape(result["tokenizer"])}.', cards)


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
