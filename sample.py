"""
Caption your own pictures, sounds or videos, or ask about them, with a trained adapter:

    python sample.py --out_dir=out/demo --input=photo.jpg
    python sample.py --out_dir=out/demo --input='holiday/*.jpg' --output=captions.jsonl
    python sample.py --out_dir=out/demo_vqa --input=shape.png --question='what color is the shape?'
    python sample.py --out_dir=out/demo --input=photo.jpg --do_sample=True --num_beams=1 \
        --num_return_sequences=3 --seed=1

Several texts of a file are printed one a line; as JSON, `caption` is the first of them and
`captions` all (`answer` and `answers` to a question). docs/evaluation.md says more about sampling.
"""
import glob
import json
import os
import sys

from configurator import at_least, between, configure, one_of
from nanopalm import media
from nanopalm.decoding import decoding_options
from nanopalm.examples import BadData
from nanopalm.generate import choose_checkpoint, first_text, generate_texts, readable

# ---- knobs ----------------------------------------------------------------------------------------------------------
out_dir = 'out/demo'                # a run of train.py
which: one_of('best', 'last', '') = ''  # 'best' or 'last'; '' = what the run says, mostly 'best'
input = ''                          # a picture, sound or video, a folder of them, or a pattern such as 'holiday/*.jpg'
question = ''                       # asked of every picture
show = ''                           # draw there what every word attended to, a PNG
output = ''                         # write JSON lines there, '' = print captions
num_beams: at_least(1) = 3
max_new_tokens: at_least(1) = 50
length_penalty = 1.0                # of beams; above 1 longer texts win, below shorter ones
repetition_penalty: at_least(0.01) = 1.0  # above 1: what a text already has said becomes less likely
do_sample = False                   # draw the words instead of taking the likeliest
temperature: at_least(0.01) = 1.0  # of sampling: below 1 it is more careful
top_k: at_least(0) = 50  # of sampling: from so many of the likeliest tokens, 0 = all
top_p: between(0.01, 1) = 1.0  # of sampling: from the likeliest that together have so much
num_return_sequences: at_least(1) = 1  # texts of each file
seed: at_least(0) = 0  # of sampling
bad_rows: one_of('', 'error', 'skip') = ''  # 'error'; 'skip': a file that cannot be read is left out, and listed; '' = as in training
batch_size: at_least(1) = 16
device = 'auto'
dtype: one_of('auto', 'float32', 'bfloat16', 'float16') = 'auto'
# ---------------------------------------------------------------------------------------------------------------------



def find_files(pattern, medium):
    """A file, those of a folder, or what a glob pattern matches."""
    if os.path.isdir(pattern):
        return sorted(p for p in glob.glob(os.path.join(glob.escape(pattern), '**'), recursive=True) if p.lower().endswith(media.ENDINGS[medium]))
    return [pattern] if os.path.isfile(pattern) else sorted(glob.glob(pattern, recursive=True))


def main():
    from nanopalm.checkpoint import load_checkpoint
    if not os.path.isdir(input) and not find_files(input, 'image'):
        sys.exit(f'--input={input!r}: nothing there (a file, a folder, or a pattern in quotes)')
    if wrong := [p for p in (output, show) if p and (os.path.isdir(p) or not os.path.isdir(os.path.dirname(p) or '.'))]:
        sys.exit(f'{wrong[0]}: expected the name of a file, in a folder that exists')
    options = decoding_options(globals())
    checkpoint = choose_checkpoint(out_dir, which)
    model, tokenizer, trained_with = load_checkpoint(out_dir, checkpoint, device, dtype, bad_rows)
    medium = model.encoder.preprocessing.medium if model.encoder else 'image'
    paths = find_files(input, medium)
    if not paths:
        sys.exit(f'--input={input!r}: no {medium} file in this folder')
    if question and '{prompt}' not in trained_with['instruction']:
        sys.exit(f'--question: {out_dir} was trained with instruction={trained_with["instruction"]!r}, in which there is no place for a question')
    rows = [{medium: p, 'question': question} for p in paths]
    texts = generate_texts(model, tokenizer, trained_with, rows, batch_size, seed=seed, **options)
    rows, texts = readable(rows, texts)
    if show:
        from nanopalm.attention_map import draw_attention
        firsts = [first_text(of_row) for of_row in texts]
        draw_attention(show, model, tokenizer, trained_with, rows, firsts)
    lines = []
    for row, of_row in zip(rows, texts):
        lines += output_lines(row[medium], medium, of_row)
    if output:
        with open(output, 'w', encoding='utf-8') as f:
            f.write('\n'.join(lines) + '\n')
    else:
        print('\n'.join(lines))


def output_lines(path, medium, texts):
    """Returns what is said of a file: a line of JSON where there is an `output`, else a line for
    each text. texts: what `generate_texts` gives for it."""
    several = isinstance(texts, list)
    if not output:
        return [f'{path}: {text}' for text in (texts if several else [texts])]
    kind = 'answer' if question else 'caption'
    entry = {medium: path, kind: first_text(texts)}
    if several:
        entry[f'{kind}s'] = texts
    return [json.dumps(entry, ensure_ascii=False)]


if __name__ == '__main__':
    configure(globals())
    try:
        main()
    except (BadData, OSError, ValueError) as e:
        sys.exit(str(e))
