"""
From rows (see rows.py) to batches: files by media.py, or the frozen encoder's hidden states from a memory-mapped cache; text -> token ids
once per data set; everything random is a function of (seed, epoch, row), so a resumed run sees what an
uninterrupted one would have seen, whatever the number of workers or processes.
"""

import numpy as np
import torch

from nanopalm.cache import load_seeded
from nanopalm.examples import BadData, path_of, target_texts
from nanopalm.prompts import encode_prompt, encode_targets, question_of
from nanopalm.seeds import seeded

# ---- text -----------------------------------------------------------------------------------------------------------

def tokenize_examples(rows, tokenizer, config):
    """Returns for each row (prompt ids, [target ids, ...]), once per data set.

    Text is BOS, prompt; a target is a caption or answer and EOS. With `loss_on_prompt` all behind
    BOS is the target, so that the question is learned too. Raises BadData for an instruction
    without a place for the question.
    """
    if '{prompt}' not in config['instruction']:
        if any('question' in row and 'instruction' not in row for row in rows):
            raise BadData(f"instruction={config['instruction']!r}: there is no {{prompt}} in it, "
                          f'where the questions of the data set would stand')
    texts = sorted({text for row in rows for text in target_texts(row)})
    space = config.get('target_space', True)
    ids = dict(zip(texts, encode_targets(tokenizer, texts, config['max_text_tokens'], space)))
    prompts = {}
    for question in map(question_of, rows):
        if question not in prompts:
            prompts[question] = encode_prompt(tokenizer, config, *question)
    tokenized = []
    for row in rows:
        prompt = prompts[question_of(row)]
        targets = [ids[text] for text in target_texts(row)]
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


# ---- the feature cache ----------------------------------------------------------------------------------------------


# ---- batches --------------------------------------------------------------------------------------------------------

GROUPED = 32                        # batches


class ExampleDataset(torch.utils.data.Dataset):
    """(epoch, input index) -> one picture, sound or video and, in training, `texts_per_input` of its texts. cache: its hidden states; else
    preprocessing: how it is loaded; blind: neither. With bad_rows='skip' the next input stands in for one that cannot be read.

    A row is an input of its own; but with several texts per input, the rows of a file (its questions) share one, as many as fit.
    """

    def __init__(self, rows, texts, config, preprocessing=None, cache=None, train=False):
        self.rows, self.texts, self.config, self.preprocessing, self.cache, self.train = rows, texts, config, preprocessing, cache, train
        self.texts_per_input = config['texts_per_input'] if train else 1
        self.files = {file: i for i, file in enumerate(dict.fromkeys(map(path_of, rows)))}
        self.inputs = group_by_file(rows, self.texts_per_input)

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


def group_by_file(rows, most):
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


def shuffled_batches(n, batch_size, seed, first=0, rank=0, world=1, length=None):
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
