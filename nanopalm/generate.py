"""
Texts for examples: prompts, files and batches for `PALM.generate`.
"""

import torch
from tqdm import tqdm

from data import group_by_file, move
from nanopalm.cache import load_views, report_bad
from nanopalm.examples import BadData, medium_of, path_of
from nanopalm.progress import BAR
from nanopalm.prompts import encode_prompt, question_of
from nanopalm.seeds import seeded

# questions about one image in one batch
MAX_TEXTS = 8


# ---- texts for examples --------------------------------------------------------------------------


def generate_texts(
    model, tokenizer, config, examples, batch_size, progress=True, seed=0, **options
):
    """Returns one text for each example, in order; None for an example whose file cannot be read,
    with bad_rows='skip'. With num_return_sequences above 1, a list of texts for each example.

    config: the hyperparameters that the model was trained with, or others in their places.
    options: arguments of `PALM.generate`. seed: what is sampled is a function of it, of the
    examples and of batch_size. Raises BadData for files of a medium that the encoder does not
    take."""
    do_sample = options.get('do_sample', False)
    questions = list(dict.fromkeys(question_of(example) for example in examples))
    if model.encoder is None and not do_sample and len(questions) < len(examples):
        # without an image, the answer to the same question is the same
        distinct = [blind_example(*question) for question in questions]
        texts = generate_texts(
            model, tokenizer, config, distinct, batch_size, progress=progress, **options
        )
        text_of = dict(zip(questions, texts))
        return [text_of[question_of(example)] for example in examples]

    check_medium(model.encoder, examples)
    prompts = [encode_prompt(tokenizer, config, *question_of(example)) for example in examples]
    batches = make_batches(examples, prompts, batch_size)
    texts = [None] * len(examples)
    bad_files = []
    for number, batch in enumerate(
        tqdm(batches, desc='generating', unit='batch', disable=not progress, **BAR)
    ):
        files = [examples[group[0]] for group in batch]
        pixels, errors = load_pixels(model.encoder, config, files)
        bad_files += [error for error in errors if error]
        if bad_files and config['bad_rows'] == 'error':
            report_bad(bad_files, config)
        if do_sample:
            torch.manual_seed(seeded(seed, number * batch_size) % 2**63)
        for i, text in generate_batch(model, tokenizer, prompts, batch, pixels, errors, options):
            texts[i] = text
    if bad_files:
        report_bad(bad_files, config)
    return texts


def generate_batch(model, tokenizer, prompts, batch, pixels, errors, options):
    """Returns [(index of an example, its text, or its texts if it has several)] of a batch.

    prompts: token ids for each example; batch: B groups of example indices, those of a group share
    a file; pixels: what the encoder takes of the B files; errors: for each file why it cannot be
    read, '' if it can; options: arguments of `PALM.generate`."""
    # the model takes B*G prompts, G for each file, so a smaller group repeats some of its own
    G = max(len(group) for group in batch)
    indices = []
    for group in batch:
        indices += [group[g % len(group)] for g in range(G)]

    device = next(model.adapter.parameters()).device
    pad_id = tokenizer.pad_token_id
    ids, mask = pad_left([prompts[i] for i in indices], pad_id, device)
    # files were decoded and resampled in float32; only the model runs under autocast
    half_precision = model.llm.dtype != torch.float32
    if pixels is not None:
        pixels = move(pixels, device)
    with torch.autocast(device.type, dtype=model.llm.dtype, enabled=half_precision):
        new_ids = model.generate(ids, mask, pixels=pixels, **options)

    # (B * G * texts of each prompt,)
    decoded = tokenizer.batch_decode(new_ids, skip_special_tokens=True)
    decoded = [' '.join(text.split()) for text in decoded]
    several = options.get('num_return_sequences', 1)
    pairs = []
    for n, i in enumerate(indices):
        if errors[n // G]:
            continue
        texts = decoded[n * several : (n + 1) * several]
        pairs.append((i, texts if several > 1 else texts[0]))
    return pairs


def blind_example(question, instruction):
    """Returns an example for a model without an encoder, which reads no file."""
    return {'image': '', 'question': question, 'instruction': instruction}


def first_text(texts):
    """Returns the first text of an example; `texts` is what `generate_texts` returns for it: one
    text, or a list of several."""
    return texts[0] if isinstance(texts, list) else texts


def readable(examples, texts):
    """Returns the examples whose file could be read, and their texts. Raises BadData if there is
    none."""
    readable_examples = []
    readable_texts = []
    for example, text in zip(examples, texts):
        if text is not None:
            readable_examples.append(example)
            readable_texts.append(text)
    if not readable_examples:
        raise BadData('none of the files can be read')
    return readable_examples, readable_texts


# ---- batches -------------------------------------------------------------------------------------


def make_batches(examples, prompts, batch_size):
    """Returns lists of at most batch_size groups of example indices. The examples of a group are
    questions about the same file, whose prefix is computed once for all of them."""
    groups = group_by_file(examples, MAX_TEXTS)

    def size(group):
        """Returns the key that sorts groups so that those of a batch need little padding."""
        return len(group), max(len(prompts[i]) for i in group)

    groups.sort(key=size)
    return [groups[start : start + batch_size] for start in range(0, len(groups), batch_size)]


def pad_left(prompts, pad_id, device):
    """Returns prompts of different lengths as ids (R, T), and their attention mask (R, T), None if
    nothing is padded."""
    T = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), T), pad_id)
    mask = torch.zeros(len(prompts), T, dtype=torch.long)
    for r, prompt in enumerate(prompts):
        ids[r, T - len(prompt) :] = torch.tensor(prompt)
        mask[r, T - len(prompt) :] = 1
    if mask.all():
        return ids.to(device), None
    return ids.to(device), mask.to(device)


# ---- files ---------------------------------------------------------------------------------------


def check_medium(encoder, examples):
    """Raises BadData if the files of the examples are of another medium than the encoder takes."""
    if encoder is None or not examples:
        return
    medium = medium_of(examples[0])
    if medium == encoder.medium:
        return
    hint = ''
    if (medium, encoder.medium) == ('video', 'image'):
        hint = ': with --video_frames=8 or so it would see their frames'
    raise BadData(
        f'the data set has {medium} files, but the encoder {encoder.name!r} takes '
        f'{encoder.medium} files{hint}'
    )


def load_pixels(encoder, config, examples):
    """Returns what the encoder takes of the examples' files, (B, ...), or a tuple of it for several
    encoders, or None for a model without an encoder; and for each example why its file cannot be
    read, '' if it can."""
    if encoder is None:
        return None, [''] * len(examples)
    views = []
    for example in examples:
        # not augmented, so the seed has no effect
        views.append((path_of(example), encoder.preprocessing, config['resize'], False, 0))
    return load_views(views)
