"""
Caption a split and score it: out_dir/eval_SPLIT.json, and eval_SPLIT.html to look at, one file with the pictures inside.

    python eval_caption.py --out_dir=out/demo                               # the test split
    python eval_caption.py --out_dir=out/demo --blind_dir=out/demo_blind    # beside the same LLM without a picture
    python eval_caption.py --out_dir=out/coco_depalm --java=True            # as the papers: COCO's own tokenizer, METEOR, SPICE, SPIDEr too
"""
import json
import shutil
import sys
from pathlib import Path

from configurator import configure
from page import captions_page
from rows import BadData, load_rows, medium_of, path_of
from scores import score_captions, tokenize

# ---- knobs ----------------------------------------------------------------------------------------------------------
out_dir = 'out/demo'                # a run of train.py
which = 'best'                      # 'best' or 'last'
blind_dir = ''                      # a run with the same llm and encoder=None
split = 'test'
max_rows = 0                        # score so many pictures, spread over the split; 0 = all
page_rows = 1000                    # show so many of them on the page, about 10 KB each
bad_rows = ''                       # 'error'; 'skip': a file that cannot be read is left out, and listed; '' = as in training
java = False                        # COCO's own tokenizer in place of ours, and METEOR, SPICE, SPIDEr; needs Java 8 to 14, without SPICE any later
num_beams = 3
max_new_tokens = 50
batch_size = 16
device = 'auto'
dtype = 'auto'                      # 'float32', 'bfloat16', 'float16'; auto = float32 on a CPU, on a GPU as the LLM was published
compile = False                     # torch.compile: minutes before the first batch
# ---------------------------------------------------------------------------------------------------------------------

AT_LEAST = dict(max_rows=0, page_rows=0, num_beams=1, max_new_tokens=1, batch_size=1)
ONE_OF = dict(which=('best', 'last'), bad_rows=('', 'error', 'skip'), dtype=('auto', 'bfloat16', 'float16', 'float32'))


def inputs(rows, n=0):
    """Rows of one picture, sound or video become one row with all their references; n of them, spread over the split, 0 = all."""
    merged = {}
    for row in rows:
        if 'caption' not in row:
            sys.exit(f'split {split!r} has questions, no captions: eval_vqa.py scores those')
        if not any(tokenize(t) for t in row['caption']):
            sys.exit(f"row {row['id']!r} ({path_of(row)}) has no reference caption")
        merged.setdefault(path_of(row), dict(row, caption=[]))['caption'].extend(row['caption'])
    rows = list(merged.values()) or sys.exit(f'split {split!r} is empty: there is nothing to caption')
    return [rows[i * len(rows) // n] for i in range(n)] if 0 < n < len(rows) else rows


def main(config):
    from model import write_atomically
    from sample import generate_rows, readable, with_blind
    if java and not shutil.which('java'):
        sys.exit('java=True: there is no java on the PATH. Install one (Java 8 to 14; without SPICE any later one does), or leave java=False')
    tokenizers = {False: 'PTB-like, pure Python (scores.tokenize)', True: 'PTB, Java (Stanford CoreNLP 3.4.1)'}
    result, said = dict(tokenizer=tokenizers[java], knobs=config), {}
    for side, model, tokenizer, trained_with in with_blind(out_dir, blind_dir, which, device, bad_rows, dtype):
        if not side:
            rows = inputs(load_rows(trained_with, split), max_rows)
            if java:                        # a rehearsal: what it lacks is said before captions are generated, perhaps for hours
                report(score_captions([rows[0]['caption']], rows[0]['caption'][:1], java)[2])
        said[side] = generate_rows(model, tokenizer, trained_with, rows, batch_size, num_beams=num_beams, max_new_tokens=max_new_tokens, compile=compile)
        if not side:
            rows, said[side] = readable(rows, said[side])
            references = [r['caption'] for r in rows]
            result |= dict(trained_with=trained_with, rows=[{'id': r['id'], medium_of(r): path_of(r), 'references': r['caption']} for r in rows])
    try:
        scored, missing = {side: score_captions(references, captions, java) for side, captions in said.items()}, {}
    except OSError as e:                    # java has failed after all: the captions are not lost
        scored, missing = {side: score_captions(references, captions) for side, captions in said.items()}, {tokenizers[java]: str(e)}
        result['tokenizer'] = tokenizers[False]
    for _, _, why in scored.values():
        missing |= why
    for side, (scores, ciders, _) in scored.items():
        result[side + 'scores'] = {name: score for name, score in scores.items() if name not in missing}        # those that both sides have
        for row, caption, cider in zip(result['rows'], said[side], ciders):
            row |= {side + 'caption': caption, side + 'cider': cider}
    result['missing'] = missing
    for name, score in result['scores'].items():
        print(f'{name:8}{score:8.2f}' + (f'   blind {result["blind_scores"][name]:8.2f}' if blind_dir else ''))
    report(missing)
    for ending, text in dict(json=json.dumps(result, indent=1, ensure_ascii=False), html=captions_page(result)).items():
        write_atomically(f'{out_dir}/eval_{split}.{ending}', lambda temporary: Path(temporary).write_text(text, encoding='utf-8'))
        print(f'{out_dir}/eval_{split}.{ending}')


def report(missing):
    for name, why in missing.items():
        print(f'no {name}: {why}', flush=True)


if __name__ == '__main__':
    try:
        main(configure(globals()))
    except (BadData, ValueError, OSError) as e:
        sys.exit(str(e))
