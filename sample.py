"""
Caption your own pictures, or ask about them, with a trained adapter:

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

from configurator import configure
from data import by_picture, encode_prompt, image_transform, read_image
from rows import BadData

# ---- knobs ----------------------------------------------------------------------------------------------------------
out_dir = 'out/demo'                # a run of train.py
which = 'best'                      # 'best' or 'last'
input = ''                          # a picture, a folder, or a pattern such as 'holiday/*.jpg'
question = ''                       # asked of every picture
show = ''                           # draw there what every word attended to, a PNG
output = ''                         # write JSON lines there, '' = print captions
num_beams = 3
max_new_tokens = 50
batch_size = 16
device = 'auto'
dtype = 'auto'
# ---------------------------------------------------------------------------------------------------------------------

MAX_TEXTS = 8                       # questions of one picture in one batch
PICTURES = ('.png', '.jpg', '.jpeg', '.webp', '.gif', '.bmp', '.tif', '.tiff')


def generate_rows(model, tokenizer, config, rows, batch_size, progress=True, **generation):
    """One text for each row, in order. config: the knobs the model was trained with."""
    if model.encoder is None and len(asked := list(dict.fromkeys(row.get('question', '') for row in rows))) < len(rows):
        texts = generate_rows(model, tokenizer, config, [dict(image='', question=q) for q in asked], batch_size, progress, **generation)
        return [dict(zip(asked, texts))[row.get('question', '')] for row in rows]       # blind: the same answer to the same question
    transform = image_transform(model.encoder, config['resize'], train=False) if model.encoder else None
    prompts = [encode_prompt(tokenizer, config, row.get('question', '')) for row in rows]
    inputs = sorted(by_picture(rows, MAX_TEXTS), key=len)      # the questions of a picture share its prefix
    device, texts = next(model.adapter.parameters()).device, [''] * len(rows)
    with torch.autocast(device.type, dtype=model.llm.dtype, enabled=model.llm.dtype != torch.float32):
        for b in tqdm(range(0, len(inputs), batch_size), desc='generating', unit='batch', disable=not progress or not sys.stderr.isatty()):
            batch = inputs[b:b + batch_size]
            G = max(map(len, batch))
            asked = [group[g % len(group)] for group in batch for g in range(G)]             # (B*G,) rows: every input has as many texts
            T = max(len(prompts[i]) for i in asked)
            ids = torch.tensor([[tokenizer.pad_token_id] * (T - len(prompts[i])) + prompts[i] for i in asked], device=device)
            mask = torch.tensor([[0] * (T - len(prompts[i])) + [1] * len(prompts[i]) for i in asked], device=device)
            pixels = torch.stack([transform(read_image(rows[group[0]]['image'])) for group in batch]).to(device) if transform else None
            new = model.generate(ids, None if mask.all() else mask, pixels=pixels, **generation)
            for i, text in zip(asked, tokenizer.batch_decode(new, skip_special_tokens=True)):
                texts[i] = ' '.join(text.split())
    return texts


def with_blind(out_dir, blind_dir, which, device):
    """(prefix of its results' keys, model, tokenizer, knobs) of a run and, if there is a blind_dir, of the same LLM trained without pictures."""
    from model import load_checkpoint
    llm = None
    for side, folder in (('', out_dir), *[('blind_', blind_dir)] * bool(blind_dir)):
        model, tokenizer, config = load_checkpoint(folder, which, device)
        if side and (config['encoder'] or config['llm'] != llm):
            sys.exit(f'{folder}: a blind run has encoder=None and the same llm, this one {config["encoder"]!r} and {config["llm"]!r}')
        llm = config['llm']
        yield side, model, tokenizer, config


def find_pictures(pattern):
    """A file, the pictures of a folder, or what a glob pattern matches."""
    if os.path.isdir(pattern):
        return sorted(p for p in glob.glob(os.path.join(glob.escape(pattern), '**'), recursive=True) if p.lower().endswith(PICTURES))
    return [pattern] if os.path.isfile(pattern) else sorted(glob.glob(pattern, recursive=True))


def main():
    from model import load_checkpoint
    paths = find_pictures(input)
    if not paths:
        sys.exit(f'--input={input!r}: no picture there (a file, a folder, or a pattern in quotes)')
    for path in paths:
        read_image(path)                                        # every unreadable one is an error before the models are loaded
    model, tokenizer, trained_with = load_checkpoint(out_dir, which, device, dtype)
    if question and '{prompt}' not in trained_with['instruction']:
        sys.exit(f'--question: {out_dir} was trained with instruction={trained_with["instruction"]!r}, in which there is no place for a question')
    rows = [dict(image=p, question=question) for p in paths]
    texts = generate_rows(model, tokenizer, trained_with, rows, batch_size, num_beams=num_beams, max_new_tokens=max_new_tokens)
    if show:
        from show import draw_attention
        draw_attention(show, model, tokenizer, trained_with, rows, texts)
    kind = 'answer' if question else 'caption'
    lines = [json.dumps({'image': p, kind: t}, ensure_ascii=False) if output else f'{p}: {t}' for p, t in zip(paths, texts)]
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
