"""
Caption your own pictures, sounds or videos, or ask about them, with a trained adapter:

    python sample.py --out_dir=out/demo --input=photo.jpg
    python sample.py --out_dir=out/demo --input='holiday/*.jpg' --output=captions.jsonl
    python sample.py --out_dir=out/demo_vqa --input=shape.png --question='what color is the shape?'
"""
import glob
import json
import os
import sys

import torch
from tqdm import tqdm

import media
from configurator import configure
from data import BAR, asked, by_file, encode_prompt, load_views, report_bad
from rows import BadData, path_of

# ---- knobs ----------------------------------------------------------------------------------------------------------
out_dir = 'out/demo'                # a run of train.py
which = 'best'                      # 'best' or 'last'
input = ''                          # a picture, sound or video, a folder of them, or a pattern such as 'holiday/*.jpg'
question = ''                       # asked of every picture
show = ''                           # draw there what every word attended to, a PNG
output = ''                         # write JSON lines there, '' = print captions
num_beams = 3
max_new_tokens = 50
bad_rows = ''                       # 'error'; 'skip': a file that cannot be read is left out, and listed; '' = as in training
batch_size = 16
device = 'auto'
dtype = 'auto'
# ---------------------------------------------------------------------------------------------------------------------

AT_LEAST = dict(num_beams=1, max_new_tokens=1, batch_size=1)
ONE_OF = dict(which=('best', 'last'), bad_rows=('', 'error', 'skip'), dtype=('auto', 'bfloat16', 'float16', 'float32'))
MAX_TEXTS = 8                       # questions of one picture in one batch


def generate_rows(model, tokenizer, config, rows, batch_size, progress=True, **generation):
    """One text for each row, in order; None for one whose file cannot be read, with bad_rows='skip'. config: the knobs the model was trained with."""
    if model.encoder is None and len(questions := list(dict.fromkeys(map(asked, rows)))) < len(rows):
        distinct = [dict(image='', question=q, instruction=i) for q, i in questions]
        texts = generate_rows(model, tokenizer, config, distinct, batch_size, progress, **generation)
        return [dict(zip(questions, texts))[asked(row)] for row in rows]                # blind: the same answer to the same question
    prompts = [encode_prompt(tokenizer, config, *asked(row)) for row in rows]
    # the questions of a picture share its prefix; those of like length need little padding
    inputs = sorted(by_file(rows, MAX_TEXTS), key=lambda group: (len(group), max(len(prompts[i]) for i in group)))
    device, texts, bad = next(model.adapter.parameters()).device, [None] * len(rows), []
    half = model.llm.dtype != torch.float32
    for b in tqdm(range(0, len(inputs), batch_size), desc='generating', unit='batch', disable=not progress, **BAR):
        batch, pixels = inputs[b:b + batch_size], None
        errors = [''] * len(batch)
        if model.encoder:
            pixels, errors = load_views([(path_of(rows[group[0]]), model.encoder.preprocessing, config['resize'], False, 0) for group in batch])
            bad += [e for e in errors if e]
            if bad and config['bad_rows'] == 'error':
                report_bad(bad, config)
            pixels = torch.from_numpy(pixels).to(device)
        G = max(map(len, batch))
        of_row = [group[g % len(group)] for group in batch for g in range(G)]            # (B*G,) rows: every input has as many texts
        T = max(len(prompts[i]) for i in of_row)
        ids = torch.tensor([[tokenizer.pad_token_id] * (T - len(prompts[i])) + prompts[i] for i in of_row], device=device)
        mask = torch.tensor([[0] * (T - len(prompts[i])) + [1] * len(prompts[i]) for i in of_row], device=device)
        # the model alone runs under autocast: files are decoded and resampled in float32
        with torch.autocast(device.type, dtype=model.llm.dtype, enabled=half):
            new = model.generate(ids, None if mask.all() else mask, pixels=pixels, **generation)
        for n, (i, text) in enumerate(zip(of_row, tokenizer.batch_decode(new, skip_special_tokens=True))):
            texts[i] = None if errors[n // G] else ' '.join(text.split())
    if bad:
        report_bad(bad, config)
    return texts


def readable(rows, texts):
    """Those rows, with their texts, whose file could be read."""
    kept = [(row, text) for row, text in zip(rows, texts) if text is not None]
    return map(list, zip(*kept)) if kept else sys.exit('none of the files can be read')


def with_blind(out_dir, blind_dir, which, device, bad_rows, dtype='auto'):
    """(prefix of its results' keys, model, tokenizer, knobs) of a run and, if there is a blind_dir, of the same LLM trained without pictures."""
    from model import load_checkpoint
    llm = None
    for side, folder in (('', out_dir), *[('blind_', blind_dir)] * bool(blind_dir)):
        model, tokenizer, config = load_checkpoint(folder, which, device, dtype, bad_rows)
        if side and (config['encoder'] or config['llm'] != llm):
            sys.exit(f'{folder}: a blind run has encoder=None and the same llm, this one {config["encoder"]!r} and {config["llm"]!r}')
        llm = config['llm']
        yield side, model, tokenizer, config


def find_files(pattern, medium):
    """A file, those of a folder, or what a glob pattern matches."""
    if os.path.isdir(pattern):
        return sorted(p for p in glob.glob(os.path.join(glob.escape(pattern), '**'), recursive=True) if p.lower().endswith(media.ENDINGS[medium]))
    return [pattern] if os.path.isfile(pattern) else sorted(glob.glob(pattern, recursive=True))


def main():
    from model import load_checkpoint
    if not os.path.isdir(input) and not find_files(input, 'image'):
        sys.exit(f'--input={input!r}: nothing there (a file, a folder, or a pattern in quotes)')
    if wrong := [p for p in (output, show) if p and (os.path.isdir(p) or not os.path.isdir(os.path.dirname(p) or '.'))]:
        sys.exit(f'{wrong[0]}: expected the name of a file, in a folder that exists')
    model, tokenizer, trained_with = load_checkpoint(out_dir, which, device, dtype, bad_rows)
    medium = model.encoder.preprocessing.medium if model.encoder else 'image'
    paths = find_files(input, medium)
    if not paths:
        sys.exit(f'--input={input!r}: no {medium} file in this folder')
    if question and '{prompt}' not in trained_with['instruction']:
        sys.exit(f'--question: {out_dir} was trained with instruction={trained_with["instruction"]!r}, in which there is no place for a question')
    rows = [{medium: p, 'question': question} for p in paths]
    texts = generate_rows(model, tokenizer, trained_with, rows, batch_size, num_beams=num_beams, max_new_tokens=max_new_tokens)
    rows, texts = readable(rows, texts)
    if show:
        from show import draw_attention
        draw_attention(show, model, tokenizer, trained_with, rows, texts)
    kind = 'answer' if question else 'caption'
    lines = [json.dumps({medium: row[medium], kind: t}, ensure_ascii=False) if output else f'{row[medium]}: {t}' for row, t in zip(rows, texts)]
    if output:
        with open(output, 'w', encoding='utf-8') as f:
            f.write('\n'.join(lines) + '\n')
    else:
        print('\n'.join(lines))


if __name__ == '__main__':
    configure(globals())
    try:
        main()
    except (BadData, OSError, ValueError) as e:
        sys.exit(str(e))
