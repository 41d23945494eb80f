"""
From examples (nanopalm/examples.py) to batches.

Texts are tokenized once for the whole data set. Files are loaded by nanopalm/media.py, or the
frozen encoder's hidden states are read from a feature cache (nanopalm/cache.py). Everything random
is a function of (seed, epoch, input), so a run that is resumed sees the same batches as one that
was never interrupted, whatever the number of workers or processes.

Shapes: B inputs (files) in a batch, G texts of each, T text tokens.
"""

import numpy as np
import torch

from nanopalm.cache import load_seeded, stack
from nanopalm.examples import BadData, path_of, target_texts
from nanopalm.prompts import encode_prompt, encode_targets, question_of
from nanopalm.seeds import seeded

# ---- texts ---------------------------------------------------------------------------------------


def tokenize_examples(examples, tokenizer, config):
    """Returns for each example (prompt ids, [target ids, ...]).

    A prompt begins with BOS; a target is a caption or an answer, and EOS. With `loss_on_prompt` all
    that follows BOS belongs to the target, so that the question is learned too. Raises BadData for
    an instruction without a place for the questions."""
    check_instruction(examples, config)
    texts = set()
    for example in examples:
        texts.update(target_texts(example))
    texts = sorted(texts)
    space = config.get('target_space', True)
    target_ids = encode_targets(tokenizer, texts, config['max_text_tokens'], space)
    ids_of = dict(zip(texts, target_ids))
    # question -> its prompt, since many examples ask the same or nothing
    prompts = {}
    tokenized = []
    for example in examples:
        question = question_of(example)
        if question not in prompts:
            prompts[question] = encode_prompt(tokenizer, config, *question)
        prompt = prompts[question]
        targets = [ids_of[text] for text in target_texts(example)]
        if config.get('loss_on_prompt'):
            targets = [prompt[1:] + target for target in targets]
            prompt = prompt[:1]
        tokenized.append((prompt, targets))
    return tokenized


def check_instruction(examples, config):
    """Raises BadData if the examples have questions and the instruction has no place for them. An
    example with an instruction of its own was checked when it was read."""
    if '{prompt}' in config['instruction']:
        return
    for example in examples:
        if 'question' in example and 'instruction' not in example:
            raise BadData(
                f'instruction={config["instruction"]!r}: there is no {{prompt}} in it, which '
                f'stands for the questions of the data set'
            )


def split_captions(examples):
    """Returns an example for each caption of each of the examples; questions stay as they are."""
    split = []
    for example in examples:
        if 'caption' not in example:
            split.append(example)
            continue
        for caption in example['caption']:
            split.append(example | dict(caption=[caption]))
    return split


# ---- inputs --------------------------------------------------------------------------------------


class ExampleDataset(torch.utils.data.Dataset):
    """The inputs of a split. An input is a file with its texts: those of one example, or, with
    several `texts_per_input`, those of the examples that share the file (its questions), as many as
    fit.

    dataset[epoch, i] is what a batch holds of input i, a dict:
        texts      [(prompt ids, target ids), ...]: in training `texts_per_input` of its texts,
                   drawn anew in each epoch; else the first
        pixels     what the encoder takes of the file, a tensor, if there is a `preprocessing`
        features   or the encoder's hidden states (S, 1+N, D), if there is a `cache`
        error      what is wrong with the file, '' if nothing is
        errors     the same of all files that were tried: with bad_rows='skip' the next input takes
                   the place of one that cannot be read

    Without preprocessing and cache it holds texts alone, for the text-only baseline. For an
    `EncoderGroup`, preprocessing, cache, pixels and features are tuples with one entry an encoder;
    with encoder_join='channels' the features are one tensor, joined like the hidden states.

    texts: of each example what `tokenize_examples` returns. train: draw texts, augment files.
    """

    def __init__(self, examples, texts, config, preprocessing=None, cache=None, train=False):
        self.examples = examples
        self.texts = texts
        self.config = config
        self.preprocessing = preprocessing
        self.cache = cache
        self.train = train
        self.texts_per_input = config['texts_per_input'] if train else 1
        self.inputs = group_by_file(examples, self.texts_per_input)
        # where the hidden states of a file are in the cache
        self.file_index = {}
        for example in examples:
            self.file_index.setdefault(path_of(example), len(self.file_index))

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, key):
        epoch, i = key
        errors = []
        for j in range(len(self)):
            item = self.load(epoch, (i + j) % len(self))
            if item['error']:
                errors.append(item['error'])
            if not item['error'] or self.config['bad_rows'] == 'error':
                return item | dict(errors=errors)
        raise BadData(f'none of the files can be read: {errors[0]}')

    def load(self, epoch, i):
        """Returns an input without looking for another if its file cannot be read."""
        texts, generator = self.draw_texts(epoch, i)
        item = dict(texts=texts, error='')
        file = path_of(self.examples[self.inputs[i][0]])
        if self.cache is not None:
            features = self.read_cache(file, generator)
            item['features'] = features
            # a file is unreadable for all encoders of a group or for none
            of_first = features[0] if isinstance(features, tuple) else features
            if of_first[0, 0, 0].isnan():
                item['error'] = f'{file}: could not be read when it was cached'
        elif self.preprocessing is not None:
            seed = seeded(self.config['seed'], epoch, i)
            item['pixels'], item['error'] = load_seeded(
                file, self.preprocessing, self.config['resize'], self.train, seed
            )
        return item

    def draw_texts(self, epoch, i):
        """Returns ([(prompt ids, target ids), ...] of an input, the generator that drew them). In
        training they are captions or answers of each of its examples in turn, all different as long
        as there are enough; in evaluation the first of each."""
        generator = np.random.default_rng(seeded(self.config['seed'], epoch, i))
        texts = [self.texts[index] for index in self.inputs[i]]
        if not self.train:
            return [(prompt, targets[0]) for prompt, targets in texts], generator
        orders = [generator.permutation(len(targets)) for _, targets in texts]
        drawn = []
        for g in range(self.texts_per_input):
            prompt, targets = texts[g % len(texts)]
            order = orders[g % len(texts)]
            # how often this example had its turn
            turn = g // len(texts)
            drawn.append((prompt, targets[order[turn % len(order)]]))
        return drawn, generator

    def length(self, epoch, i):
        """Returns the number of tokens of the longest text that an input has in an epoch."""
        texts, _ = self.draw_texts(epoch, i)
        return max(len(prompt) + len(target) for prompt, target in texts)

    def read_cache(self, file, generator):
        """Returns the cached hidden states of a file (S, 1+N, D) in float32; in training those of a
        view drawn at random, which is the same for all encoders of a group."""
        caches = self.cache if isinstance(self.cache, tuple) else (self.cache,)
        view = generator.integers(caches[0].shape[1]) if self.train else 0
        features = []
        for cache in caches:
            states = cache[self.file_index[file], view]
            features.append(torch.from_numpy(states.astype(np.float32)))
        if len(features) == 1:
            return features[0]
        if self.config.get('encoder_join') == 'channels':
            return torch.cat(features, dim=-1)
        return tuple(features)


def group_by_file(examples, most):
    """Returns the indices of the examples in groups of at most `most` that have the same file."""
    groups = []
    # file -> its newest group
    newest = {}
    for i, example in enumerate(examples):
        file = path_of(example)
        if file not in newest or len(newest[file]) == most:
            newest[file] = []
            groups.append(newest[file])
        newest[file].append(i)
    return groups


# ---- batches -------------------------------------------------------------------------------------


def collate(items, pad_id):
    """Returns (the batch of these inputs, the errors of their files).

    A batch is a dict of input_ids and labels, tensors (B*G, T) padded on the right, and of pixels
    or features, if there are any: an array (B, ...), or for an `EncoderGroup` a tuple of them. The
    labels of prompts and pads are -100. A pad on the right is attended to by no other token, so no
    attention mask is needed."""
    texts = []
    errors = []
    for item in items:
        texts += item['texts']
        errors += item['errors']
    T = max(len(prompt) + len(target) for prompt, target in texts)
    input_ids = []
    labels = []
    for prompt, target in texts:
        n_pads = T - len(prompt) - len(target)
        input_ids.append(prompt + target + [pad_id] * n_pads)
        labels.append([-100] * len(prompt) + target + [-100] * n_pads)
    batch = dict(input_ids=torch.tensor(input_ids), labels=torch.tensor(labels))
    for key in ('pixels', 'features'):
        if key in items[0]:
            batch[key] = stack([item[key] for item in items])
    return batch, errors


def to_device(batch, device):
    """Returns a batch of `collate` with everything but its labels on the device. Labels stay on the
    CPU: the loss counts them there without waiting for the GPU."""
    moved = dict(batch)
    for key in ('input_ids', 'pixels', 'features'):
        if key in batch:
            moved[key] = move(batch[key], device)
    return moved


def move(values, device):
    """Returns a tensor or array as a tensor on the device, a tuple of them as a tuple of tensors.
    From pinned memory, the copy to a GPU runs while the CPU goes on."""
    if isinstance(values, tuple):
        return tuple(move(value, device) for value in values)
    tensor = torch.as_tensor(values)
    if torch.device(device).type == 'cuda' and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


# with `length`, inputs are sorted by it within so many batches
BATCHES_SORTED_TOGETHER = 32


def shuffled_batches(n, batch_size, seed, first=0, rank=0, world=1, length=None):
    """Yields the batches of training, without end: lists of (epoch, input index), from batch number
    `first` on.

    Each epoch has all n inputs in a new order, but for those that do not fill a last batch. rank,
    world: of several processes each gets its share of every batch. length: a function of (epoch,
    index); inputs of similar length then come in the same batch, which saves padding."""
    per_epoch = n // batch_size
    while True:
        epoch, position = divmod(first, per_epoch)
        generator = torch.Generator().manual_seed(seeded(seed, epoch) % 2**63)
        order = torch.randperm(n, generator=generator).tolist()[: per_epoch * batch_size]
        batches = list(range(per_epoch))
        if length:
            order = sort_by_length(order, batch_size * BATCHES_SORTED_TOGETHER, epoch, length)
            # else each stretch would run from short to long
            batches = torch.randperm(per_epoch, generator=generator).tolist()
        for b in batches[position:]:
            indices = order[b * batch_size : (b + 1) * batch_size]
            yield [(epoch, i) for i in indices[rank::world]]
        first = (epoch + 1) * per_epoch


def sort_by_length(order, stretch, epoch, length):
    """Returns the indices in `order`, sorted by length(epoch, index) within every stretch of so
    many."""
    result = []
    for start in range(0, len(order), stretch):
        result += sorted(order[start : start + stretch], key=lambda i: length(epoch, i))
    return result
