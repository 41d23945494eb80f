"""
The feature cache.
"""
import hashlib
import inspect
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


def report_bad(errors, config):
    """Raises BadData that names the files which cannot be read, or lists them as left out."""
    errors = list(dict.fromkeys(errors))
    if config['bad_rows'] == 'error':
        raise BadData(f'{len(errors)} file(s) cannot be read; --bad_rows=skip leaves them out:{bullet_list(errors)}')
    tqdm.write(f'{len(errors)} file(s) cannot be read and are left out:{bullet_list(errors)}')
