"""
From rows (see rows.py) to batches: files by media.py, or the frozen encoder's hidden states from a memory-mapped cache; text -> token ids
once per data set; everything random is a function of (seed, epoch, row), so a resumed run sees what an
uninterrupted one would have seen, whatever the number of workers or processes.
"""
import errno
import hashlib
import inspect
import json
import math
import os
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import media
from rows import BadData, listed, path_of, row_targets


# progress bars say how long it will yet take; into a file or a pipe they write a line a minute at most
BAR = dict(dynamic_ncols=True, mininterval=0.5 if sys.stderr.isatty() else 60, delay=0 if sys.stderr.isatty() else 10)


def seeded(*numbers):
    """One integer from (seed, epoch, row, ...)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


# ---- text -----------------------------------------------------------------------------------------------------------

def tokenize_rows(rows, tokenizer, config):
    """Returns for each row (prompt ids, [target ids, ...]), once per data set.

    Text is BOS, prompt; a target is a caption or answer and EOS. With `loss_on_prompt` all behind
    BOS is the target, so that the question is learned too. Raises BadData for an instruction
    without a place for the question.
    """
    if '{prompt}' not in config['instruction']:
        if any('question' in row and 'instruction' not in row for row in rows):
            raise BadData(f"instruction={config['instruction']!r}: there is no {{prompt}} in it, "
                          f'where the questions of the data set would stand')
    texts = sorted({text for row in rows for text in row_targets(row)})
    space = config.get('target_space', True)
    ids = dict(zip(texts, encode_targets(tokenizer, texts, config['max_text_tokens'], space)))
    prompts = {}
    for question in map(asked, rows):
        if question not in prompts:
            prompts[question] = encode_prompt(tokenizer, config, *question)
    tokenized = []
    for row in rows:
        prompt = prompts[asked(row)]
        targets = [ids[text] for text in row_targets(row)]
        if config.get('loss_on_prompt'):
            targets = [prompt[1:] + target for target in targets]
            prompt = prompt[:1]
        tokenized.append((prompt, targets))
    return tokenized


def split_captions(rows):
    """Returns a row for each caption of each of the rows; questions stay as they are."""
    split = []
    for row in rows:
        for caption in row.get('caption', ()):
            split.append(row | dict(caption=[caption]))
        if 'caption' not in row:
            split.append(row)
    return split


def asked(row):
    """What a row asks: (its question, its own instruction), '' where there is none."""
    return row.get('question', ''), row.get('instruction', '')


def encode_prompt(tokenizer, config, question='', instruction=''):
    """Returns the ids of BOS (EOS where the tokenizer has none), then the instruction and the
    answer prompt, whose last space belongs to the target, then the token `prompt_end`."""
    text = (instruction or config['instruction']).format(prompt=question) + config['answer_prompt']
    # the space goes with the target, or, in front of `prompt_end`, as in the papers' code
    text = re.sub(' +$', '', text)
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    ids = [bos]
    if text:
        ids += tokenizer(text, add_special_tokens=False).input_ids
    if config.get('prompt_end'):
        ids.append(prompt_end_id(tokenizer, config['prompt_end']))
    return ids


def prompt_end_id(tokenizer, token):
    """Returns the id of a token; of one that is not in the vocabulary, the first id behind it. This
    is what the papers' code did for OPT, whose embedding has seven rows more than its vocabulary:
    the token has one of them, which is frozen and in its published weights."""
    id_ = tokenizer.convert_tokens_to_ids(token)
    unknown = id_ is None or id_ == tokenizer.unk_token_id and token != tokenizer.unk_token
    return len(tokenizer) if unknown else id_


def check_prompt_end(tokenizer, config, n_embeddings):
    """Raises BadData where the LLM's embedding has no row for `prompt_end`."""
    token = config.get('prompt_end')
    if token and prompt_end_id(tokenizer, token) >= n_embeddings:
        raise BadData(f'prompt_end={token!r}: it is not in the vocabulary of llm={config["llm"]!r}, '
                      f'and all {n_embeddings} rows of its embedding are taken (OPT has rows to '
                      f'spare); leave it out, or give a token that the LLM knows')


def encode_targets(tokenizer, texts, max_tokens, space=True):
    """Returns target ids with EOS. space: a target is preceded by one, which sentencepiece
    tokenizers add by themselves."""
    if not texts:
        return []
    pieces = tokenizer.convert_ids_to_tokens(tokenizer('a', add_special_tokens=False).input_ids)
    if pieces[0].startswith('\u2581'):
        space = False
    lines = []
    for text in texts:
        lines.append((' ' if space else '') + ' '.join(text.split()))
    ids = tokenizer(lines, add_special_tokens=False, split_special_tokens=True).input_ids
    return [i[:max_tokens - 1] + [tokenizer.eos_token_id] for i in ids]


# ---- the feature cache ----------------------------------------------------------------------------------------------

def feature_cache(rows, encoder, config, split, device, autocast, is_main=True, wait=lambda: None):
    """The frozen encoder's hidden states of every file of the rows, in their order, as a read-only memory map (files, views, S, 1+N, D), fp16.

    View 0 is plain, the others are augmented ones ('train' alone, `cache_views` of them in all). The name carries a hash of the
    encoder's weights, the preprocessing and the data, so a stale cache is never read. is_main, wait: in a multi-process run one
    process writes and all wait for it. Raises BadData naming every file that cannot be read; with bad_rows='skip' it is NaN here.
    """
    files = list(dict.fromkeys(map(path_of, rows)))
    shape = (len(files), config['cache_views'] if split == 'train' else 1, encoder.source_layers, 1 + int(np.prod(encoder.grid)), encoder.dim)
    stat = [(file, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for file in files for s in [os.stat(file)]]
    key = hashlib.sha256(json.dumps([shape, encoder.fingerprint(), encoder.name, encoder.video_tokens, repr(encoder.preprocessing), inspect.getsource(media),
                                     config['resize'], config['seed'], stat, repr(autocast.keywords)]).encode()).hexdigest()[:16]
    name = f'{split}-{key}.npy'
    folder = Path(config['cache_dir'])
    if not (folder / name).exists():
        folder = writable_folder(folder, config['out_dir'])
    path = folder / name
    if is_main and not path.exists():
        stale = [p.name for p in folder.glob(f'{split}-*.npy')]
        print(f'caching {len(files)} x {shape[1]} {split} {encoder.preprocessing.medium}s as {"x".join(map(str, shape[2:]))} hidden states, '
              f'{np.prod(shape) * 2 / 1e9:.2f} GB, in {path}' + (f' (made with other data or another encoder: {", ".join(stale)})' if stale else ''))
        write_cache(path, shape, files, encoder, config, device, autocast)
    wait()
    return np.load(path, mmap_mode='r')


def writable_folder(cache_dir, out_dir):
    """Returns cache_dir, made if need be, or where it cannot be written, in a read-only checkout say, `cache` in out_dir.
    Raises BadData for one that can never be a folder."""
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache_dir):
            return cache_dir
    except OSError as e:
        if e.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise BadData(f'cache_dir={str(cache_dir)!r}: {e}') from e
    folder = Path(out_dir) / 'cache'
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_cache(path, shape, files, encoder, config, device, autocast):
    temporary = path.with_suffix(f'.{os.getpid()}.tmp')
    views = [(file, encoder.preprocessing, config['resize'], v > 0, seeded(config['seed'], v, i)) for i, file in enumerate(files) for v in range(shape[1])]
    loader = torch.utils.data.DataLoader(views, batch_size=config['cache_batch_size'], num_workers=config['num_workers'], collate_fn=load_views)
    bad = []
    try:
        with open(temporary, 'wb') as f:                                # written through, so that a full disk is an error here and now
            np.lib.format.write_array_header_1_0(f, dict(descr='<f2', fortran_order=False, shape=shape))
            for inputs, errors in tqdm(loader, desc='caching', unit_scale=config['cache_batch_size'], unit='files', **BAR):
                with autocast():
                    states = torch.stack(encoder(torch.from_numpy(inputs).to(device)), dim=1)             # (B, S, 1+N, D)
                states[[i for i, e in enumerate(errors) if e]] = math.nan
                f.write(states.half().cpu().numpy().tobytes())
                bad += [e for e in errors if e]
        if bad:
            report_bad(bad, config)
        os.replace(temporary, path)
    except OSError as e:
        raise BadData(f'{path}: the feature cache cannot be written ({e}); it needs {np.prod(shape) * 2 / 1e9:.2f} GB. '
                      f'Free some, or give another --cache_dir, or --cache_features=False') from e
    finally:
        temporary.unlink(missing_ok=True)


def report_bad(errors, config):
    """Raises BadData that names the files which cannot be read, or lists them as left out."""
    errors = list(dict.fromkeys(errors))
    if config['bad_rows'] == 'error':
        raise BadData(f'{len(errors)} file(s) cannot be read; --bad_rows=skip leaves them out:{listed(errors)}')
    tqdm.write(f'{len(errors)} file(s) cannot be read and are left out:{listed(errors)}')


def load_views(views):
    """Arrays, not tensors: those of a worker come through a pipe, where tensors would need a large /dev/shm."""
    inputs, errors = zip(*(load_seeded(*view) for view in views))
    return torch.stack(inputs).numpy(), errors


def load_seeded(path, preprocessing, resize, train, seed):
    """(what the encoder takes, '') or, where the file cannot be read, (zeros, what is wrong)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return media.load(path, preprocessing, resize, train), ''
        except BadData as e:
            return torch.zeros(preprocessing.shape), str(e)


# ---- batches --------------------------------------------------------------------------------------------------------

GROUPED = 32                        # batches


class Inputs(torch.utils.data.Dataset):
    """(epoch, input index) -> one picture, sound or video and, in training, `texts_per_input` of its texts. cache: its hidden states; else
    preprocessing: how it is loaded; blind: neither. With bad_rows='skip' the next input stands in for one that cannot be read.

    A row is an input of its own; but with several texts per input, the rows of a file (its questions) share one, as many as fit.
    """

    def __init__(self, rows, texts, config, preprocessing=None, cache=None, train=False):
        self.rows, self.texts, self.config, self.preprocessing, self.cache, self.train = rows, texts, config, preprocessing, cache, train
        self.texts_per_input = config['texts_per_input'] if train else 1
        self.files = {file: i for i, file in enumerate(dict.fromkeys(map(path_of, rows)))}
        self.inputs = by_file(rows, self.texts_per_input)

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, key):
        epoch, i = key
        errors = []
        for j in range(len(self)):
            item = self.load(epoch, (i + j) % len(self))
            errors += [item['error']] if item['error'] else []
            if not item['error'] or self.config['bad_rows'] == 'error':
                return item | dict(errors=errors)
        raise BadData(f'none of the files can be read: {errors[0]}')

    def draw(self, epoch, i):
        """The texts of an input, [(prompt ids, target ids)]: in training of each row a caption or answer, drawn afresh each epoch; and the
        generator that drew them."""
        rng = np.random.default_rng(seeded(self.config['seed'], epoch, i))
        texts = [self.texts[row] for row in self.inputs[i]]
        if not self.train:
            return [(prompt, targets[0]) for prompt, targets in texts], rng
        drawn, orders = [], [rng.permutation(len(targets)) for _, targets in texts]
        for g in range(self.texts_per_input):
            (prompt, targets), order = texts[g % len(texts)], orders[g % len(texts)]
            drawn.append((prompt, targets[order[g // len(texts) % len(order)]]))
        return drawn, rng

    def length(self, epoch, i):
        """Tokens of the longest of its texts."""
        return max(len(prompt) + len(target) for prompt, target in self.draw(epoch, i)[0])

    def load(self, epoch, i):
        texts, rng = self.draw(epoch, i)
        item, file = dict(texts=texts, error=''), path_of(self.rows[self.inputs[i][0]])
        if self.cache is not None:
            view = rng.integers(self.cache.shape[1]) if self.train else 0
            item['features'] = torch.from_numpy(self.cache[self.files[file], view].astype(np.float32))      # (S, 1+N, D)
            if item['features'][0, 0, 0].isnan():
                item['error'] = f'{file}: could not be read when it was cached'
        elif self.preprocessing is not None:
            seed = seeded(self.config['seed'], epoch, i)
            item['pixels'], item['error'] = load_seeded(file, self.preprocessing, self.config['resize'], self.train, seed)
        return item


def by_file(rows, most):
    """Row indices in groups of up to `most` that have their file in common."""
    groups, last = [], {}                                               # last: file -> its newest group
    for i, file in enumerate(map(path_of, rows)):
        if len(last.get(file, ())) in (0, most):
            last[file] = []
            groups.append(last[file])
        last[file].append(i)
    return groups


def collate(items, pad_id):
    """Items -> dict(input_ids, labels (B*G, T), right padded, pixels or features (B, ...), errors). Nothing attends to a pad on the
    right and no label stands on one, so no attention mask is needed. Texts are tensors, pixels and features arrays."""
    texts = [(prompt + target, [-100] * len(prompt) + target) for item in items for prompt, target in item['texts']]
    T = max(len(ids) for ids, _ in texts)
    batch = dict(input_ids=torch.tensor([ids + [pad_id] * (T - len(ids)) for ids, _ in texts]),
                 labels=torch.tensor([labels + [-100] * (T - len(labels)) for _, labels in texts]))
    for key in ('pixels', 'features'):
        if key in items[0]:
            # an array, as in load_views: from a worker it comes through a pipe
            batch[key] = torch.stack([item[key] for item in items]).numpy()
    return batch, [e for item in items for e in item['errors']]


def batch_keys(n, batch_size, seed, first=0, rank=0, world=1, length=None):
    """Endless shuffled batches of (epoch, input index) from batch number `first` on; the share of process `rank` of `world`. length(epoch,
    index): inputs of like length come together, sorted within every GROUPED batches, which are then shuffled."""
    per_epoch = n // batch_size
    while True:
        epoch, b = divmod(first, per_epoch)
        generator = torch.Generator().manual_seed(seeded(seed, epoch) % 2**63)
        order, batches = torch.randperm(n, generator=generator).tolist()[:per_epoch * batch_size], list(range(per_epoch))
        if length:
            step = GROUPED * batch_size
            order = [i for at in range(0, len(order), step) for i in sorted(order[at:at + step], key=lambda i: length(epoch, i))]
            batches = torch.randperm(per_epoch, generator=generator).tolist()
        for b in batches[b:]:
            yield [(epoch, i) for i in order[b * batch_size:(b + 1) * batch_size][rank::world]]
        first = (epoch + 1) * per_epoch
