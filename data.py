"""
From rows (see rows.py) to batches: decode -> augment -> (B, 3, H, W), or the frozen encoder's hidden states from a memory-mapped cache; text
-> token ids once per data set; everything random is a function of (seed, epoch, row), so a resumed run sees what an
uninterrupted one would have seen, whatever the number of workers or processes.
"""
import hashlib
import json
import os
import re
from pathlib import Path

import wheels  # noqa: F401  (first: mends torchvision on CPU-only torch)
import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2
from tqdm import tqdm

from rows import MAX_ERRORS_SHOWN, BadData, row_targets


# ---- pictures -------------------------------------------------------------------------------------------------------

def read_image(path):
    """RGB, transparent parts on white. Raises BadData for a file that is no whole picture."""
    try:
        with Image.open(path) as image:
            image.load()
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith('I'):                              # 16 bits: convert() would clip them
                image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
            if image.mode in ('RGBA', 'LA', 'PA') or 'transparency' in image.info:
                image = image.convert('RGBA')
                return Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image).convert('RGB')
            return image.convert('RGB')
    except Exception as e:                                              # Pillow's decoders raise all kinds
        raise BadData(f'{path}: not a readable picture ({e})') from e


def pad_to_square(image):
    """White borders on the short side."""
    w, h = image.size
    if w == h:
        return image
    square = Image.new('RGB', (max(w, h), max(w, h)), 'white')
    square.paste(image, ((square.width - w) // 2, (square.height - h) // 2))
    return square


def image_transform(encoder, resize, train):
    """PIL -> normalised (3, H, W). resize: 'squash' to a square (as the papers), 'crop' its centre, or 'pad' with white.
    train: the papers' augmentation, random resized crop, flip and RandAugment."""
    size, how = encoder.image_size, getattr(v2.InterpolationMode, encoder.interpolation.upper())
    fit = dict(squash=[], pad=[v2.Lambda(pad_to_square)], crop=[v2.Resize(size, how), v2.CenterCrop(size)])[resize]
    augment = [v2.RandomResizedCrop(size, scale=(0.5, 1.0), interpolation=how), v2.RandomHorizontalFlip(),
               v2.RandAugment(2, 7, fill=255)] if train else [v2.Resize((size, size), how)]
    return v2.Compose([*fit, *augment, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(encoder.mean, encoder.std)])


def seeded(*numbers):
    """One integer from (seed, epoch, row, ...)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


# ---- text -----------------------------------------------------------------------------------------------------------

def tokenize_rows(rows, tokenizer, config):
    """For each row: (prompt ids, [target ids, ...]), once per data set. Text is BOS, prompt; a target is a caption or answer and EOS."""
    if '{prompt}' not in config['instruction'] and any('question' in r for r in rows):
        raise BadData(f"instruction={config['instruction']!r}: there is no {{prompt}} in it, where the questions of the data set would stand")
    targets = sorted({t for r in rows for t in row_targets(r)})
    ids = dict(zip(targets, encode_targets(tokenizer, targets, config['max_text_tokens'])))
    prompts = {q: encode_prompt(tokenizer, config, q) for q in {r.get('question', '') for r in rows}}
    return [(prompts[r.get('question', '')], [ids[t] for t in row_targets(r)]) for r in rows]


def encode_prompt(tokenizer, config, question=''):
    """BOS (EOS where the tokenizer has none), then the instruction and the answer prompt, whose last space belongs to the target."""
    text = re.sub(' +$', '', config['instruction'].format(prompt=question) + config['answer_prompt'])
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return [bos] + (tokenizer(text, add_special_tokens=False).input_ids if text else [])


def encode_targets(tokenizer, texts, max_tokens):
    """Target ids with EOS. A target is preceded by a space, which sentencepiece tokenizers add by themselves."""
    pieces = tokenizer.convert_ids_to_tokens(tokenizer('a', add_special_tokens=False).input_ids)
    space = '' if pieces[0].startswith('\u2581') else ' '
    ids = tokenizer([space + ' '.join(t.split()) for t in texts], add_special_tokens=False, split_special_tokens=True).input_ids if texts else []
    return [i[:max_tokens - 1] + [tokenizer.eos_token_id] for i in ids]


# ---- the feature cache ----------------------------------------------------------------------------------------------

def feature_cache(rows, encoder, config, split, device, autocast, is_main=True, wait=lambda: None):
    """The frozen encoder's hidden states of every picture of the rows, in their order, as a read-only memory map (pictures, views, S, 1+N, D), fp16.

    View 0 is the plain picture, the others are augmented ones ('train' alone, `cache_views` of them in all). The file's name carries
    a hash of the encoder's weights, the preprocessing and the data, so a stale cache is never read. is_main, wait: in a
    multi-process run one process writes and all wait for it. Raises BadData naming every picture that cannot be read.
    """
    images = list(dict.fromkeys(r['image'] for r in rows))
    views = config['cache_views'] if split == 'train' else 1
    transforms = [image_transform(encoder, config['resize'], train=v > 0) for v in range(min(views, 2))]
    shape = (len(images), views, encoder.source_layers, 1 + int(np.prod(encoder.grid)), encoder.dim)
    stat = [(image, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for image in images for s in [os.stat(image)]]
    key = hashlib.sha256(json.dumps([shape, encoder.fingerprint(), encoder.name, encoder.image_size, repr(transforms), config['seed'],
                                     stat, repr(autocast.keywords)]).encode()).hexdigest()[:16]
    folder = Path(config['cache_dir'])
    path = folder / f'{split}-{key}.npy'
    if is_main and not path.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise BadData(f'cache_dir={str(folder)!r}: {e}') from e
        stale = [p.name for p in folder.glob(f'{split}-*.npy')]
        print(f'caching {len(images)} x {views} {split} pictures as {"x".join(map(str, shape[2:]))} hidden states, '
              f'{np.prod(shape) * 2 / 1e9:.2f} GB, in {path}' + (f' (made with other data or another encoder: {", ".join(stale)})' if stale else ''))
        write_cache(path, shape, images, encoder, transforms, config, device, autocast)
    wait()
    return np.load(path, mmap_mode='r')


def write_cache(path, shape, images, encoder, transforms, config, device, autocast):
    temporary = path.with_suffix(f'.{os.getpid()}.tmp')
    views = [(image, transforms[min(v, 1)], seeded(config['seed'], v, i)) for i, image in enumerate(images) for v in range(shape[1])]
    loader = torch.utils.data.DataLoader(views, batch_size=config['cache_batch_size'], num_workers=config['num_workers'], collate_fn=load_views)
    errors = []
    try:
        with open(temporary, 'wb') as f:                                # written through, so that a full disk is an error here and now
            np.lib.format.write_array_header_1_0(f, dict(descr='<f2', fortran_order=False, shape=shape))
            for pixels, names in tqdm(loader, desc='caching', unit_scale=config['cache_batch_size'], unit='pictures'):
                errors += [n for n in names if n]
                with autocast():
                    states = torch.stack(encoder(pixels.to(device)), dim=1)             # (B, S, 1+N, D)
                f.write(states.half().cpu().numpy().tobytes())
        if errors:
            raise BadData(f'{len(errors)} picture(s) cannot be read:\n  ' + '\n  '.join(errors[:MAX_ERRORS_SHOWN]))
        os.replace(temporary, path)
    except OSError as e:
        raise BadData(f'{path}: the feature cache cannot be written ({e}); it needs {np.prod(shape) * 2 / 1e9:.2f} GB. '
                      f'Free some, or give another --cache_dir, or --cache_features=False') from e
    finally:
        temporary.unlink(missing_ok=True)


def load_views(views):
    pixels, errors = zip(*(load_pixels(*view) for view in views))
    return torch.stack(pixels), errors


def load_pixels(path, transform, seed):
    """(pixels (3, H, W), '') or, where the file is no picture, (a grey one, what is wrong)."""
    try:
        image, error = read_image(path), ''
    except BadData as e:
        image, error = Image.new('RGB', (8, 8), 'grey'), str(e)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transform(image), error


# ---- batches --------------------------------------------------------------------------------------------------------

class Inputs(torch.utils.data.Dataset):
    """(epoch, input index) -> one picture and, in training, `texts_per_input` of its texts. cache: its hidden states, else it is decoded.

    A row is an input of its own; but with several texts per input, the rows of a picture (its questions) share one, as many as fit.
    """

    def __init__(self, rows, texts, config, transform=None, cache=None, train=False):
        self.rows, self.texts, self.transform, self.cache, self.train = rows, texts, transform, cache, train
        self.seed, self.texts_per_input = config['seed'], config['texts_per_input'] if train else 1
        self.pictures = {image: i for i, image in enumerate(dict.fromkeys(r['image'] for r in rows))}
        self.inputs = by_picture(rows, self.texts_per_input)

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, key):
        epoch, i = key
        seed = seeded(self.seed, epoch, i)
        rng = np.random.default_rng(seed)
        chosen = []
        texts = [self.texts[row] for row in self.inputs[i]]
        if self.train:                                                  # of each row a caption or answer, drawn afresh each epoch
            orders = [rng.permutation(len(targets)) for _, targets in texts]
            for g in range(self.texts_per_input):
                (prompt, targets), order = texts[g % len(texts)], orders[g % len(texts)]
                chosen.append((prompt, targets[order[g // len(texts) % len(order)]]))
        else:
            chosen = [(prompt, targets[0]) for prompt, targets in texts]
        item, image = dict(texts=chosen, error=''), self.rows[self.inputs[i][0]]['image']
        if self.cache is not None:
            view = rng.integers(self.cache.shape[1]) if self.train else 0
            item['features'] = torch.from_numpy(self.cache[self.pictures[image], view].astype(np.float32))      # (S, 1+N, D)
        elif self.transform is not None:
            item['pixels'], item['error'] = load_pixels(image, self.transform, seed)
        return item


def by_picture(rows, most):
    """Row indices in groups of up to `most` that have their picture in common."""
    groups, last = [], {}                                               # last: picture -> its newest group
    for i, row in enumerate(rows):
        if len(last.get(row['image'], ())) in (0, most):
            last[row['image']] = []
            groups.append(last[row['image']])
        last[row['image']].append(i)
    return groups


def collate(items, pad_id):
    """Items -> dict(input_ids, labels (B*G, T), right padded, pixels or features (B, ...), errors). Nothing attends to a pad on the
    right and no label stands on one, so no attention mask is needed."""
    texts = [(prompt + target, [-100] * len(prompt) + target) for item in items for prompt, target in item['texts']]
    T = max(len(ids) for ids, _ in texts)
    batch = dict(input_ids=torch.tensor([ids + [pad_id] * (T - len(ids)) for ids, _ in texts]),
                 labels=torch.tensor([labels + [-100] * (T - len(labels)) for _, labels in texts]))
    batch |= {k: torch.stack([item[k] for item in items]) for k in ('pixels', 'features') if k in items[0]}
    return batch, [item['error'] for item in items if item['error']]


def batch_keys(n, batch_size, seed, first=0, rank=0, world=1):
    """Endless shuffled batches of (epoch, row index) from batch number `first` on; the share of process `rank` of `world`."""
    per_epoch = n // batch_size
    while True:
        epoch, b = divmod(first, per_epoch)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seeded(seed, epoch) % 2**63)).tolist()
        for b in range(b, per_epoch):
            yield [(epoch, i) for i in order[b * batch_size:(b + 1) * batch_size][rank::world]]
        first = (epoch + 1) * per_epoch
