"""
The feature cache: what it holds, when it is used again and when it is not, and what happens if it
cannot be written.
"""

import errno
import functools
import importlib.util
import io
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from encoders import Encoder, EncoderGroup, Preprocessing
from nanopalm import cache as cache_module
from nanopalm import media
from nanopalm.cache import cache_key, cache_shape, feature_cache, load_views
from nanopalm.datasets import load_examples
from nanopalm.examples import BadData

FLOAT32 = functools.partial(torch.autocast, 'cpu', enabled=False)
BFLOAT16 = functools.partial(torch.autocast, 'cpu', dtype=torch.bfloat16, enabled=True)


def config(**changes):
    defaults = dict(
        dataset='',
        data_dir='',
        restval=False,
        train_rows=0.0,
        bad_rows='error',
        seed=0,
        resize='squash',
        num_workers=0,
        cache_dir='',
        out_dir='',
        cache_views=1,
        cache_batch_size=5,
    )
    return defaults | changes


def load(folder, split='train'):
    return load_examples(config(dataset=str(folder)), split)


@pytest.fixture(scope='module')
def vit(encoder):
    return Encoder(str(encoder))


@pytest.fixture(scope='module')
def examples(pictures):
    return load(pictures)


@pytest.fixture
def own_examples(pictures, tmp_path):
    """Examples of a copy of the images, which a test may change."""
    return load(shutil.copytree(pictures, tmp_path / 'own'))


@pytest.fixture
def cached(vit, tmp_path):
    """cached(examples, ...) -> (the cache, how many images the encoder encoded for it)."""

    def make(examples, encoder=vit, split='train', **changes):
        encoded = []

        def count(module, args, output):
            encoded.append(len(args[0]))

        settings = config(cache_dir=str(tmp_path / 'cache'), **changes)
        encoders = getattr(encoder, 'encoders', [encoder])
        hooks = [one.register_forward_hook(count) for one in encoders]
        try:
            cache = feature_cache(examples, encoder, settings, split, 'cpu', FLOAT32)
        finally:
            for hook in hooks:
                hook.remove()
        return cache, sum(encoded)

    return make


# ---- what it holds -------------------------------------------------------------------------------


def test_the_cache_holds_the_hidden_states_of_every_file(examples, vit, cached):
    cache, n_encoded = cached(examples)
    assert cache.shape == (16, 1, 1, 17, 48)
    assert cache.dtype == np.float16
    assert not cache.flags.writeable
    assert n_encoded == 16
    for i in (0, 7, 15):
        pixels = media.load(examples[i]['image'], vit.preprocessing)
        (states,) = vit(pixels[None])
        error = (torch.from_numpy(cache[i, 0].astype(np.float32)) - states).abs().max()
        assert error <= 1e-3 * states.abs().max()
    assert np.isfinite(cache).all()
    assert len({states.tobytes() for states in cache}) == 16


def test_examples_of_the_same_file_share_its_hidden_states(examples, cached):
    twice = [examples[0], examples[1], dict(examples[0], caption=['other'])]
    cache, n_encoded = cached(twice)
    assert len(cache) == n_encoded == 2


def test_training_has_a_plain_view_and_augmented_ones(examples, cached):
    cache, n_encoded = cached(examples, cache_views=3)
    assert cache.shape[:2] == (16, 3)
    assert n_encoded == 48
    plain, _ = cached(examples)
    assert np.abs(cache[:, 0] - plain[:, 0]).max() < 1e-2
    for views in cache:
        assert len({states.tobytes() for states in views}) == 3


def test_validation_has_the_plain_view_alone(pictures, cached):
    cache, _ = cached(load(pictures, 'val'), split='val', cache_views=3)
    assert cache.shape[1] == 1


def test_views_depend_on_the_seed_and_not_on_the_batch_size(examples, cached):
    cache, _ = cached(examples, cache_views=3)
    tens, _ = cached(examples, cache_views=3, cache_batch_size=10)
    other_seed, _ = cached(examples, cache_views=3, seed=1)
    assert np.array_equal(tens, cache)
    assert not np.array_equal(other_seed, cache)


# ---- several encoders ----------------------------------------------------------------------------


def test_each_encoder_of_a_group_has_a_cache_of_its_own(examples, vit, encoder, cached, tmp_path):
    small = Encoder(str(encoder), image_size=16)
    caches, n_encoded = cached(examples, EncoderGroup([vit, small]), cache_views=2)
    assert isinstance(caches, tuple)
    assert [cache.shape for cache in caches] == [(16, 2, 1, 17, 48), (16, 2, 1, 5, 48)]
    assert n_encoded == 2 * 16 * 2
    assert len(list((tmp_path / 'cache').iterdir())) == 2
    # which it shares with runs that have this encoder alone
    alone, n_encoded = cached(examples, small, cache_views=2)
    assert n_encoded == 0
    assert np.array_equal(alone, caches[1])


def test_files_are_loaded_for_each_encoder_of_a_group(examples, tmp_path):
    sizes = (32, 16)
    both = tuple(
        Preprocessing('image', (3, n, n), (0.5,) * 3, (0.5,) * 3, 'bicubic') for n in sizes
    )
    broken = tmp_path / 'broken.png'
    broken.write_bytes(b'broken')
    paths = [examples[0]['image'], str(broken)]
    pixels, errors = load_views([(path, both, 'squash', True, 3) for path in paths])
    assert errors[0] == ''
    assert 'broken.png' in errors[1]
    for one, array in zip(both, pixels, strict=True):
        alone, _ = load_views([(path, one, 'squash', True, 3) for path in paths])
        assert isinstance(array, np.ndarray)
        assert array.shape == (2, *one.shape)
        assert np.array_equal(array, alone)
        assert not array[1].any()


# ---- when it is used again -----------------------------------------------------------------------


def test_a_cache_is_used_again(pictures, cached, tmp_path):
    first, _ = cached(load(pictures))
    (path,) = (tmp_path / 'cache').iterdir()
    before = path.stat()
    again, n_encoded = cached(load(pictures))
    assert n_encoded == 0
    assert list((tmp_path / 'cache').iterdir()) == [path]
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert np.array_equal(first, again)


def test_a_cache_is_used_again_with_other_captions_workers_and_batches(examples, cached):
    cached(examples)
    other_captions = [dict(example, caption=['other']) for example in examples]
    assert cached(other_captions)[1] == 0
    assert cached(examples, num_workers=1, cache_batch_size=3)[1] == 0


def test_another_resize_other_files_or_another_encoder_make_a_new_cache(
    vit, own_examples, cached, encoder
):
    original, _ = cached(own_examples)

    def renewed(examples=own_examples, **options):
        cache, n_encoded = cached(examples, **options)
        assert n_encoded == len(examples)
        return cache

    assert not np.array_equal(renewed(resize='pad'), original)
    assert np.array_equal(renewed(own_examples[::-1])[::-1], original)
    renewed(own_examples[:9])
    # one image of another colour
    Image.new('RGB', (50, 50), 'purple').save(own_examples[3]['image'])
    changed = renewed()
    differing = [i for i in range(16) if not np.array_equal(changed[i], original[i])]
    assert differing == [3]
    # other weights
    other = Encoder(str(encoder))
    with torch.no_grad():
        other.model.blocks[0].attn.qkv.bias[5] += 0.1
    renewed(encoder=other)
    # more layers
    two_layers = renewed(encoder=Encoder(str(encoder), source_layers=2))
    assert not np.array_equal(two_layers[:, :, 0], original[:, :, 0])
    # another preprocessing
    other_mean = Encoder(str(encoder))
    other_mean.preprocessing.mean = (0.4, 0.5, 0.5)
    renewed(encoder=other_mean)


def test_an_image_replaced_by_one_of_equal_size_and_time_makes_a_new_cache(own_examples, cached):
    """cp -p, rsync -t, git and unpacked archives keep times."""
    a = own_examples[0]['image']
    b = own_examples[1]['image']
    Image.new('RGB', (20, 20), 'red').save(a, 'BMP')
    Image.new('RGB', (20, 20), 'blue').save(b, 'BMP')
    os.utime(a, (1e9, 1e9))
    os.utime(b, (1e9, 1e9))
    before, _ = cached(own_examples)
    shutil.copy2(b, a)
    after, _ = cached(own_examples)
    assert not np.array_equal(before[0], after[0])


# ---- its key -------------------------------------------------------------------------------------


def key_of(files, encoder, autocast=FLOAT32, split='train', **changes):
    settings = config(**changes)
    shape = cache_shape(len(files), encoder, settings, split)
    return cache_key(files, shape, encoder, settings, autocast)


@pytest.fixture
def files(own_examples):
    return [example['image'] for example in own_examples]


def media_from_source(tmp_path, source):
    """nanopalm.media as it would be with this source text."""
    path = tmp_path / 'media.py'
    path.write_text(source, encoding='utf-8')
    spec = importlib.util.spec_from_file_location('nanopalm_media_copy', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_comment_in_media_changes_no_key_and_a_new_version_changes_all(
    files, vit, tmp_path, monkeypatch
):
    before = key_of(files, vit)
    with open(media.__file__, encoding='utf-8') as file:
        source = file.read()
    commented = media_from_source(tmp_path, source + '\n# a comment\n')
    monkeypatch.setattr(cache_module, 'media', commented)
    assert key_of(files, vit) == before
    line = f'MEDIA_VERSION = {media.MEDIA_VERSION}\n'
    assert line in source
    newer = media_from_source(tmp_path, source.replace(line, 'MEDIA_VERSION = 1000\n'))
    monkeypatch.setattr(cache_module, 'media', newer)
    assert key_of(files, vit) != before


def test_the_key_depends_on_everything_that_changes_hidden_states(files, vit, encoder):
    folder = str(encoder)
    keys = [
        key_of(files, vit),
        key_of(files, vit, resize='pad'),
        key_of(files, vit, seed=1),
        key_of(files, vit, cache_views=2),
        key_of(files, vit, autocast=BFLOAT16),
        key_of(files[:9], vit),
        key_of(files[::-1], vit),
        key_of(files, Encoder(folder, source_layers=2)),
        key_of(files, Encoder(folder, image_size=16)),
        key_of(files, Encoder(folder, pool_patches=2)),
        key_of(files, Encoder(folder, video_frames=2)),
        key_of(files, Encoder(folder, video_frames=2, video_tokens='mean')),
    ]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    'field, value',
    [
        ('mean', (0.4, 0.5, 0.5)),
        ('std', (0.4, 0.5, 0.5)),
        ('interpolation', 'nearest'),
        ('crop_pct', 0.9),
        ('seconds', 3),
        ('extractor', 'another'),
    ],
)
def test_the_key_depends_on_every_field_of_the_preprocessing(files, encoder, field, value):
    vit = Encoder(str(encoder))
    before = key_of(files, vit)
    setattr(vit.preprocessing, field, value)
    assert key_of(files, vit) != before


def test_the_key_depends_on_the_weights_and_the_name_of_the_encoder(files, encoder):
    vit = Encoder(str(encoder))
    before = key_of(files, vit)
    # the same weights with another activation function have another name in timm
    vit.name = 'vit_quickgelu'
    renamed = key_of(files, vit)
    with torch.no_grad():
        vit.model.norm.bias[3] += 1e-3
    assert len({before, renamed, key_of(files, vit)}) == 3


def test_the_key_depends_on_size_and_times_of_each_file(files, vit):
    before = key_of(files, vit)
    os.utime(files[4], (1e9, 1e9))
    touched = key_of(files, vit)
    with open(files[4], 'ab') as file:
        file.write(b'\0')
    os.utime(files[4], (1e9, 1e9))
    assert len({before, touched, key_of(files, vit)}) == 3


def test_views_of_validation_do_not_change_its_key(files, vit):
    assert key_of(files, vit, split='val', cache_views=3) == key_of(files, vit, split='val')


# ---- what can go wrong ---------------------------------------------------------------------------


def halve(path):
    """Leaves the first half of a file."""
    with open(path, 'rb') as file:
        content = file.read()
    with open(path, 'wb') as file:
        file.write(content[: len(content) // 2])


def test_unreadable_images_are_all_named_and_nothing_is_left(own_examples, cached, tmp_path):
    for i in (2, 11):
        halve(own_examples[i]['image'])
    with pytest.raises(BadData) as error:
        cached(own_examples)
    message = str(error.value)
    assert '2 file' in message
    assert '--bad_rows=skip' in message
    assert own_examples[2]['image'] in message
    assert own_examples[11]['image'] in message
    assert list((tmp_path / 'cache').iterdir()) == []


def test_unreadable_images_are_nan_if_bad_rows_are_skipped(own_examples, cached, capsys):
    halve(own_examples[2]['image'])
    cache, _ = cached(own_examples, bad_rows='skip')
    unreadable = [i for i in range(16) if np.isnan(cache[i]).all()]
    assert unreadable == [2]
    assert not np.isnan(np.delete(cache, 2, axis=0)).any()
    output = capsys.readouterr()
    assert own_examples[2]['image'] in output.out + output.err


@pytest.mark.parametrize('error', [KeyboardInterrupt, RuntimeError])
def test_of_an_interrupted_cache_nothing_is_left(
    own_examples, vit, cached, tmp_path, error, monkeypatch
):
    hidden_states = vit.hidden_states
    calls = []

    def interrupted(pixels):
        calls.append(1)
        if len(calls) == 3:
            raise error
        return hidden_states(pixels)

    monkeypatch.setattr(vit, 'hidden_states', interrupted)
    with pytest.raises(error):
        cached(own_examples)
    assert len(calls) == 3
    assert list((tmp_path / 'cache').iterdir()) == []
    assert cached(own_examples)[1] == 16


class FullDisk(io.BytesIO):
    """A file on a disk that has room for 20 kB."""

    def write(self, content):
        if self.tell() > 20_000:
            raise OSError(errno.ENOSPC, 'No space left on device')
        return super().write(content)


def test_a_full_disk_is_reported_and_nothing_is_left(examples, cached, tmp_path, monkeypatch):
    def open_file(path, *args, **options):
        if str(path).endswith('.tmp'):
            return FullDisk()
        return open(path, *args, **options)

    monkeypatch.setattr(cache_module, 'open', open_file, raising=False)
    with pytest.raises(BadData, match='No space left.*--cache_dir'):
        cached(examples)
    assert list((tmp_path / 'cache').iterdir()) == []


def test_a_cache_dir_that_is_a_file_is_refused(examples, cached, tmp_path):
    (tmp_path / 'cache').write_text('a file')
    with pytest.raises(BadData, match='cache'):
        cached(examples)


def test_only_the_main_process_writes_and_the_others_wait_for_it(examples, vit, tmp_path):
    settings = config(cache_dir=str(tmp_path / 'cache'))

    def main_process_writes():
        feature_cache(examples, vit, settings, 'train', 'cpu', FLOAT32)

    cache = feature_cache(
        examples, vit, settings, 'train', 'cpu', FLOAT32, is_main=False, wait=main_process_writes
    )
    assert cache.shape == (16, 1, 1, 17, 48)
