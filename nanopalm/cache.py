"""
The feature cache: the frozen encoder runs over a data set once, and training reads its hidden
states from a memory-mapped file.

A cache is one .npy file (files, views, S, 1+N, D) in float16. Its name holds a hash of everything
that the hidden states depend on (`cache_key`), so an outdated file is never read.

Here are also the functions that load files and collect what is wrong with them, which the batches
of data.py and the generation of texts use as well.
"""

import hashlib
import json
import math
import os
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from nanopalm import media
from nanopalm.examples import BadData, bullet_list, path_of
from nanopalm.files import writable_folder
from nanopalm.progress import BAR
from nanopalm.seeds import seeded
from nanopalm.workers import start_workers, worker_options


def no_wait():
    """One process waits for no other."""


def feature_cache(examples, encoder, config, split, device, autocast, is_main=True, wait=no_wait):
    """Returns the hidden states of every file of the examples, in their order, as a read-only
    memory map (files, views, S, 1+N, D) in float16. For an `EncoderGroup` it is a tuple of them,
    one for each encoder.

    View 0 is plain; the split 'train' has `cache_views` of them, and the others are augmented.
    autocast: a partial of torch.autocast with the dtype as keyword. is_main, wait: of several
    processes the main one writes, and all others wait for it.

    Raises BadData that names every file that cannot be read. With bad_rows='skip' the hidden
    states of these are NaN."""
    if isinstance(encoder.preprocessing, tuple):
        others = (config, split, device, autocast, is_main, wait)
        return tuple(feature_cache(examples, one, *others) for one in encoder.encoders)
    files = list(dict.fromkeys(map(path_of, examples)))
    shape = cache_shape(len(files), encoder, config, split)
    key = cache_key(files, shape, encoder, config, autocast)
    name = f'{split}-{key}.npy'
    folder = Path(config['cache_dir'])
    if not (folder / name).exists():
        folder = writable_folder(folder, config['out_dir'])
    path = folder / name
    if is_main and not path.exists():
        announce(path, shape, encoder, split)
        write_cache(path, shape, files, encoder, config, device, autocast)
    wait()
    return np.load(path, mmap_mode='r')


def cache_shape(n_files, encoder, config, split):
    """Returns (files, views, S, 1+N, D)."""
    n_views = config['cache_views'] if split == 'train' else 1
    return (n_files, n_views, encoder.source_layers, 1 + math.prod(encoder.grid), encoder.dim)


def cache_key(files, shape, encoder, config, autocast):
    """Returns a hash of everything that hidden states depend on.

    The encoder's name is part of it, since two models of timm with the same weights may differ in
    their activation function. Of a file, the time of its last change in the file system (ctime) is
    part of it too: `cp -p`, `rsync -t` and archives restore the other time (mtime)."""
    stats = []
    for file in files:
        stat = os.stat(file)
        stats.append((file, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    depends_on = dict(
        media_version=media.MEDIA_VERSION,
        shape=shape,
        weights=encoder.fingerprint(),
        encoder=encoder.name,
        video_tokens=encoder.video_tokens,
        preprocessing=repr(encoder.preprocessing),
        resize=config['resize'],
        seed=config['seed'],
        files=stats,
        autocast=repr(autocast.keywords),
    )
    return hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:16]


def gigabytes(shape):
    """Returns the size of a cache, 'x.xx GB'."""
    return f'{math.prod(shape) * 2 / 1e9:.2f} GB'


def announce(path, shape, encoder, split):
    """Prints what is going to be cached, and which other caches lie in the same folder."""
    n_files, n_views, *states = shape
    message = (
        f'caching {n_files} x {n_views} {split} {encoder.preprocessing.medium}s as '
        f'{"x".join(map(str, states))} hidden states, {gigabytes(shape)}, in {path}'
    )
    others = [other.name for other in path.parent.glob(f'{split}-*.npy')]
    if others:
        message += f'; there already, of other data or another encoder: {", ".join(others)}'
    print(message)


def write_cache(path, shape, files, encoder, config, device, autocast):
    """Writes the file of a cache, under a temporary name until it is complete. Raises BadData if it
    cannot be written, or if files cannot be read."""
    views = []
    for i, file in enumerate(files):
        for view in range(shape[1]):
            seed = seeded(config['seed'], view, i)
            views.append((file, encoder.preprocessing, config['resize'], view > 0, seed))
    loader = torch.utils.data.DataLoader(
        views,
        batch_size=config['cache_batch_size'],
        **worker_options(config['num_workers']),
        collate_fn=load_views,
    )
    temporary = path.with_suffix(f'.{os.getpid()}.tmp')
    errors = []
    try:
        # written batch by batch and not through a memory map, so that a full disk is an error here
        with open(temporary, 'wb') as file:
            header = dict(descr='<f2', fortran_order=False, shape=shape)
            np.lib.format.write_array_header_1_0(file, header)
            bar = dict(desc='caching', unit='files', unit_scale=config['cache_batch_size'], **BAR)
            for pixels, batch_errors in tqdm(start_workers(loader), total=len(loader), **bar):
                states = encode(encoder, pixels, batch_errors, device, autocast)
                file.write(states.tobytes())
                errors += [error for error in batch_errors if error]
        if errors:
            report_bad(errors, config)
        os.replace(temporary, path)
    except OSError as error:
        raise BadData(
            f'{path}: the feature cache cannot be written ({error}); it needs {gigabytes(shape)}. '
            f'Free some space, or give another --cache_dir, or --cache_features=False'
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def encode(encoder, pixels, errors, device, autocast):
    """Returns the hidden states of a batch as an array (B, S, 1+N, D) in float16, NaN for the files
    that could not be read."""
    pixels = torch.from_numpy(pixels).to(device)
    with autocast():
        states = torch.stack(encoder(pixels), dim=1)
    for i, error in enumerate(errors):
        if error:
            states[i] = math.nan
    return states.half().cpu().numpy()


# ---- loading files -------------------------------------------------------------------------------


def load_views(views):
    """Returns (what the encoder takes of these files as an array (B, ...), a tuple of what is wrong
    with each, '' for a file that could be read).

    views: the arguments of `load_seeded` for each file. Where their preprocessing is a tuple, so is
    what is returned: an array for each encoder. They are arrays and not tensors because those of a
    worker come through a pipe, while tensors would need a large /dev/shm."""
    loaded = [load_seeded(*view) for view in views]
    pixels = stack([one for one, _ in loaded])
    return pixels, tuple(error for _, error in loaded)


def stack(tensors):
    """Returns a list of tensors as one array, or a list of tuples of tensors as a tuple of
    arrays."""
    if isinstance(tensors[0], tuple):
        return tuple(torch.stack(of_encoder).numpy() for of_encoder in zip(*tensors))
    return torch.stack(tensors).numpy()


def load_seeded(path, preprocessing, resize, train, seed):
    """Returns (what the encoder takes of a file, ''), or, where the file cannot be read, (zeros of
    the same shape, what is wrong with it).

    For a tuple of preprocessings, of an `EncoderGroup`, the first is a tuple. Each of its tensors
    is loaded with the same random draws, so all encoders see the same crop of the file."""
    if isinstance(preprocessing, tuple):
        loaded = [load_seeded(path, one, resize, train, seed) for one in preprocessing]
        errors = [error for _, error in loaded if error]
        return tuple(pixels for pixels, _ in loaded), errors[0] if errors else ''
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return media.load(path, preprocessing, resize, train), ''
        except BadData as error:
            return torch.zeros(preprocessing.shape), str(error)


def report_bad(errors, config):
    """Raises BadData that names the files that cannot be read, or with bad_rows='skip' prints
    them."""
    errors = list(dict.fromkeys(errors))
    found = f'{len(errors)} file(s) cannot be read'
    if config['bad_rows'] == 'error':
        raise BadData(f'{found}; --bad_rows=skip leaves them out:{bullet_list(errors)}')
    tqdm.write(f'{found} and are left out:{bullet_list(errors)}')
