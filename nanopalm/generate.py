"""
Texts for rows.
"""
import json
import os
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from data import group_by_file
from nanopalm.cache import load_views, report_bad
from nanopalm.examples import BadData, medium_of, path_of
from nanopalm.progress import BAR
from nanopalm.prompts import encode_prompt, question_of
from nanopalm.seeds import seeded

MAX_TEXTS = 8                       # questions of one picture in one batch


def generate_texts(model, tokenizer, config, rows, batch_size, progress=True, seed=0, **options):
    """Returns one text for each row, in order; None for a row whose file cannot be read, with
    bad_rows='skip'. With num_return_sequences above 1 it is a list of texts for each row.

    config: the knobs the model was trained with, or others in their places. options: arguments of
    `PALM.generate`. seed: what is sampled is a function of it, of the rows and of batch_size.
    Raises BadData for files of a medium that the encoder does not take."""
    do_sample = options.get('do_sample', False)
    distinct = list(dict.fromkeys(map(question_of, rows)))
    if model.encoder is None and not do_sample and len(distinct) < len(rows):
        # blind: the same answer to the same question
        questions = [dict(image='', question=q, instruction=i) for q, i in distinct]
        texts = generate_texts(model, tokenizer, config, questions, batch_size, progress, **options)
        text_of = dict(zip(distinct, texts))
        return [text_of[question_of(row)] for row in rows]
    check_medium(model.encoder, rows)
    prompts = [encode_prompt(tokenizer, config, *question_of(row)) for row in rows]
    # the questions of a picture share its prefix; those of like length need little padding
    inputs = sorted(group_by_file(rows, MAX_TEXTS),
                    key=lambda group: (len(group), max(len(prompts[i]) for i in group)))
    device = next(model.adapter.parameters()).device
    half = model.llm.dtype != torch.float32
    several = options.get('num_return_sequences', 1)
    texts = [None] * len(rows)
    bad = []
    for b in tqdm(range(0, len(inputs), batch_size), desc='generating', unit='batch',
                  disable=not progress, **BAR):
        batch = inputs[b:b + batch_size]
        pixels, errors = load_pixels(model.encoder, config, [rows[group[0]] for group in batch])
        bad += [error for error in errors if error]
        if bad and config['bad_rows'] == 'error':
            report_bad(bad, config)
        if pixels is not None:
            pixels = pixels.to(device)
        # (B*G,) rows: every input has as many texts
        G = max(map(len, batch))
        of_row = [group[g % len(group)] for group in batch for g in range(G)]
        ids, mask = pad_left([prompts[i] for i in of_row], tokenizer.pad_token_id, device)
        if do_sample:
            torch.manual_seed(seeded(seed, b) % 2**63)
        # the model alone runs under autocast: files are decoded and resampled in float32
        with torch.autocast(device.type, dtype=model.llm.dtype, enabled=half):
            new = model.generate(ids, mask, pixels=pixels, **options)
        # (B*G*several,)
        new = [' '.join(text.split())
               for text in tokenizer.batch_decode(new, skip_special_tokens=True)]
        for n, i in enumerate(of_row):
            if errors[n // G]:
                continue
            texts[i] = new[n] if several == 1 else new[n * several:(n + 1) * several]
    if bad:
        report_bad(bad, config)
    return texts


def check_medium(encoder, rows):
    """Raises BadData if the rows show files of another medium than the encoder takes."""
    if encoder is None or not rows:
        return
    shown, taken = medium_of(rows[0]), encoder.preprocessing.medium
    if shown != taken:
        raise BadData(f'the data set has {shown} files, the encoder {encoder.name!r} of this run '
                      f'takes {taken} files')


def load_pixels(encoder, config, rows):
    """Returns (what the encoder takes of the rows' files, (B, ...), None for a blind model, and for
    each row what is wrong with its file, '' if it could be read)."""
    if encoder is None:
        return None, [''] * len(rows)
    views = [(path_of(row), encoder.preprocessing, config['resize'], False, 0) for row in rows]
    pixels, errors = load_views(views)
    return torch.from_numpy(pixels), errors


def pad_left(prompts, pad_id, device):
    """Returns prompts of different lengths as ids (R, T), and their attention mask (R, T), None if
    nothing is padded."""
    T = max(map(len, prompts))
    ids = [[pad_id] * (T - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (T - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    mask = torch.tensor(mask, device=device)
    return torch.tensor(ids, device=device), None if mask.all() else mask


def first_text(texts):
    """Returns the first of what `generate_texts` gives for a row, which may be one text alone."""
    return texts[0] if isinstance(texts, list) else texts


def readable(rows, texts):
    """Those rows, with their texts, whose file could be read."""
    kept = [(row, text) for row, text in zip(rows, texts) if text is not None]
    return map(list, zip(*kept)) if kept else sys.exit('none of the files can be read')


def choose_checkpoint(out_dir, which):
    """Returns the name of a run's checkpoint, 'best' or 'last': `which`, or if that is '' what the
    run's config.json says under `test_checkpoint` ('best' where it says nothing)."""
    if which:
        return which
    path = os.path.join(out_dir, 'config.json')
    if not os.path.isfile(path):
        return 'best'
    with open(path, encoding='utf-8') as f:
        return json.load(f).get('test_checkpoint', 'best')


def with_other_data(config, **others):
    """Returns the knobs of a run with others in the places of its dataset, data_dir, instruction
    and answer_prompt; '' leaves the run's, None for one of the two prompts means none."""
    config = dict(config)
    if others['dataset'] not in ('', config['dataset']):
        # a limit of the training's rows is no limit of another data set's
        config['train_rows'] = 0.0
    for key, value in others.items():
        if value is None:
            config[key] = '{prompt}' if key == 'instruction' else ''
        elif value:
            config[key] = value
    return config


def what_was_evaluated(config, out_dir, which, split):
    """Returns what the results of an evaluation say of it: the data set, its prompts, the split and
    the checkpoint. What the model was trained with stands beside it."""
    keys = [key for key in ('dataset', 'data_dir', 'instruction', 'answer_prompt') if key in config]
    evaluated = {key: config[key] for key in keys}
    return evaluated | dict(split=split, checkpoint=choose_checkpoint(out_dir, which))


def result_name(trained_with, evaluated):
    """Returns the middle of the names of an evaluation's files: 'test', or 'nocaps_test' if the
    data set is another than the training's."""
    if evaluated['dataset'] == trained_with['dataset']:
        return evaluated['split']
    return f'{Path(evaluated["dataset"]).stem}_{evaluated["split"]}'


def with_blind(out_dir, blind_dir, which, device, bad_rows, dtype='auto'):
    """(prefix of its results' keys, model, tokenizer, knobs) of a run and, if there is a blind_dir, of the same LLM trained without pictures."""
    from nanopalm.checkpoint import load_checkpoint
    llm = None
    for side, folder in (('', out_dir), *[('blind_', blind_dir)] * bool(blind_dir)):
        checkpoint = choose_checkpoint(folder, which)
        model, tokenizer, config = load_checkpoint(folder, checkpoint, device, dtype, bad_rows)
        if side and (config['encoder'] or config['llm'] != llm):
            sys.exit(f'{folder}: a blind run has encoder=None and the same llm, this one {config["encoder"]!r} and {config["llm"]!r}')
        llm = config['llm']
        yield side, model, tokenizer, config
