"""
Caption your own images, sounds or videos, or ask about them, with a trained adapter:

    python sample.py --out_dir=out/demo --input=photo.jpg
    python sample.py --out_dir=out/demo --input='holiday/*.jpg' --output=captions.jsonl
    python sample.py --out_dir=out/demo_vqa_colours --input=shape.png \\
        --question='what color is the shape?'
    python sample.py --out_dir=out/demo --input=photo.jpg --do_sample=True --num_beams=1 \\
        --num_return_sequences=3 --seed=1

Several texts about a file are printed one a line; as JSON, `caption` is the first of them and
`captions` all (`answer` and `answers` to a question). docs/evaluation.md says more about sampling.
"""

import glob
import os
from pathlib import Path

from configurator import at_least, between, configure, one_of
from nanopalm import media
from nanopalm.attention_map import draw_attention
from nanopalm.decoding import check_decoding, decoding_options
from nanopalm.errors import explain_errors
from nanopalm.evaluation import load_run, read_run, to_json
from nanopalm.generate import first_text, generate_texts, readable

# -- the model
out_dir = 'out/demo'  # a run of train.py
which: one_of('best', 'last', '') = ''  # its checkpoint: 'best', 'last', '' = as the run says
device = 'auto'
# 'float32', 'bfloat16', 'float16'; 'auto': float32 on a CPU, on a GPU as the LLM was published
dtype: one_of('auto', 'float32', 'bfloat16', 'float16') = 'auto'
batch_size: at_least(1) = 16

# -- input and output
input = ''  # an image, sound or video, a folder of them, or a pattern such as 'holiday/*.jpg'
question = ''  # asked about every file
output = ''  # write JSON lines to this file; '' = print captions
show = ''  # draw to this PNG file what every word attended to
# a file that cannot be read is an 'error', or 'skip': left out and listed; '' = as in training
bad_rows: one_of('', 'error', 'skip') = ''

# -- text generation
num_beams: at_least(1) = 3
max_new_tokens: at_least(0) = 0  # 0 = the run's test_new_tokens, or else 50
length_penalty = 1.0  # of beams: above 1 longer texts win, below shorter ones
repetition_penalty: at_least(0.01) = 1.0  # above 1: words of the text become less likely
do_sample = False  # draw the words instead of taking the likeliest
temperature: at_least(0.01) = 1.0  # of sampling: below 1 it is more careful
top_k: at_least(0) = 50  # of sampling: from so many of the likeliest tokens, 0 = all
top_p: between(0.01, 1) = 1.0  # of sampling: from the likeliest that together have so much
num_return_sequences: at_least(1) = 1  # texts about each file
seed: at_least(0) = 0  # of sampling

config = configure(globals())
# from here on, an error that the user can correct ends the script with its message alone
explain_errors()


def find_files(pattern, medium):
    """Returns the file of that name, or the files of a medium in the folder of that name, or what
    matches a pattern such as 'holiday/*.jpg'."""
    if os.path.isfile(pattern):
        return [pattern]
    if not os.path.isdir(pattern):
        return sorted(glob.glob(pattern, recursive=True))
    paths = glob.glob(os.path.join(glob.escape(pattern), '**'), recursive=True)
    return sorted(path for path in paths if path.lower().endswith(media.ENDINGS[medium]))


def check_paths():
    """Raises ValueError where `input` cannot be read, or `output` or `show` written."""
    if not os.path.isdir(input) and not find_files(input, 'image'):
        raise ValueError(
            f'--input={input!r}: there is no such file (expected a file, a folder, or a pattern in '
            f'quotes)'
        )
    for path in (output, show):
        folder = os.path.dirname(path) or '.'
        if path and (os.path.isdir(path) or not os.path.isdir(folder)):
            raise ValueError(f'{path}: expected the name of a file, in a folder that exists')


def output_lines(path, medium, texts):
    """Returns the lines that are printed or written about a file: a JSON object if they are
    written, else a line for each text. texts: a text, or a list of several."""
    if not output:
        several = texts if isinstance(texts, list) else [texts]
        return [f'{path}: {text}' for text in several]
    kind = 'answer' if question else 'caption'
    entry = {medium: path, kind: first_text(texts)}
    if isinstance(texts, list):
        entry[f'{kind}s'] = texts
    return [to_json(entry)]


# what is missing or wrong ends the script here, before a model is loaded
check_paths()
check_decoding(config)
trained_with = read_run(out_dir, config)
instruction = trained_with['instruction']
if question and '{prompt}' not in instruction:
    raise ValueError(
        f'--question: {out_dir} was trained with instruction={instruction!r}, in which there '
        f'is no place for a question'
    )

model, tokenizer, run = load_run(out_dir, config)
medium = model.encoder.medium if model.encoder else 'image'
paths = find_files(input, medium)
if not paths:
    raise ValueError(f'--input={input!r}: there is no {medium} file in this folder')
examples = [{medium: path, 'question': question} for path in paths]
options = decoding_options(config, run)
texts = generate_texts(model, tokenizer, run, examples, batch_size, seed=seed, **options)
examples, texts = readable(examples, texts)

if show:
    captions = [first_text(text) for text in texts]
    draw_attention(show, model, tokenizer, run, examples, captions)
lines = []
for example, text in zip(examples, texts):
    lines += output_lines(example[medium], medium, text)
if output:
    Path(output).write_text('\n'.join(lines) + '\n', encoding='utf-8')
else:
    print('\n'.join(lines))
