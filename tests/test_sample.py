"""
sample.py from end to end, with a trained adapter.
"""

import json
import shutil

import pytest
from conftest import flags


@pytest.fixture
def sample(run, trained):
    """sample(name=value, ...) returns what sample.py prints with the trained adapter."""
    out_dir, _ = trained
    defaults = dict(out_dir=out_dir, device='cpu', dtype='float32', max_new_tokens=8)

    def sample(fails=False, **hyperparameters):
        return run('sample.py', *flags(**defaults | hyperparameters), fails=fails)

    return sample


@pytest.fixture
def captions(sample, tmp_path):
    """captions(input, ...) returns {image: caption} that sample.py writes as JSON lines."""

    def captions(input, **hyperparameters):
        output = tmp_path / 'captions.jsonl'
        assert sample(input=input, output=output, **hyperparameters) == ''
        found = {}
        for line in output.read_text(encoding='utf-8').strip('\n').split('\n'):
            entry = json.loads(line)
            assert set(entry) == {'image', 'caption'}
            found[entry['image']] = entry['caption']
        return found

    return captions


def test_a_folder_a_file_and_a_pattern_are_captioned_alike(sample, captions, pictures, tmp_path):
    folder = tmp_path / 'ünï [1]*'
    shutil.copytree(pictures / 'images', folder / 'deep')
    (folder / 'notes.txt').write_text('no picture')

    of_the_folder = captions(folder)
    assert list(of_the_folder) == sorted(map(str, folder.glob('deep/*.png')))
    assert len(set(of_the_folder.values())) > 1

    image = str(folder / 'deep/3.png')
    figure = tmp_path / 'attention.png'
    assert sample(input=image, show=figure) == f'{image}: {of_the_folder[image]}\n'
    assert figure.stat().st_size > 1000

    of_the_pattern = captions(tmp_path / 'ünï*/**/?.png', batch_size=3)
    matching = sorted(map(str, folder.glob('deep/?.png')))
    assert of_the_pattern == {image: of_the_folder[image] for image in matching}


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize('input', ['nowhere.jpg', 'nowhere/*.jpg', '', 'an empty folder'])
def test_an_input_without_files_is_named(sample, input, tmp_path):
    if input == 'an empty folder':
        input = tmp_path
    assert f"--input='{input}'" in sample(fails=True, input=input)


def test_a_broken_picture_is_named(sample, pictures, tmp_path):
    folder = shutil.copytree(pictures / 'images', tmp_path / 'images')
    path = folder / '5.png'
    path.write_bytes(path.read_bytes()[:100])
    assert str(path) in sample(fails=True, input=folder)


def test_a_missing_checkpoint_is_named(sample, pictures):
    image = pictures / 'images/3.png'
    assert 'best.safetensors' in sample(fails=True, input=image, out_dir='nowhere')
    message = sample(fails=True, input=image, which='middle')
    assert "which='middle': expected one of 'best', 'last'" in message


def test_a_checkpoint_that_is_cut_in_half_is_named(sample, trained, pictures, tmp_path):
    out_dir, _ = trained
    path = tmp_path / 'best.safetensors'
    path.write_bytes((out_dir / 'best.safetensors').read_bytes()[:500])
    message = sample(fails=True, input=pictures / 'images/3.png', out_dir=tmp_path)
    assert str(path) in message


@pytest.mark.parametrize(
    'name, value', [('num_beams', 0), ('max_new_tokens', 0), ('batch_size', -1)]
)
def test_a_value_out_of_range_is_named_before_anything_is_loaded(sample, pictures, name, value):
    wrong = dict(out_dir='nowhere', **{name: value})
    message = sample(fails=True, input=pictures / 'images/3.png', **wrong)
    assert f'{name}={value}: expected 1 or more' in message


@pytest.mark.parametrize(
    'name, path', [('show', 'no/a.png'), ('output', 'no/file'), ('output', '')]
)
def test_a_path_that_cannot_be_written_is_named_before_anything_is_loaded(
    sample, pictures, tmp_path, name, path
):
    path = tmp_path / path
    wrong = dict(out_dir='nowhere', **{name: path})
    assert str(path) in sample(fails=True, input=pictures / 'images/3.png', **wrong)
