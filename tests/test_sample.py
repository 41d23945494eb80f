"""
sample.py from end to end, on a tiny LLM, a tiny encoder and a random adapter.
"""

import json
import shutil

import pytest
from conftest import flags
from PIL import Image
from untrained import CPU, write_questions, write_run

from nanopalm.checkpoint import load_checkpoint
from nanopalm.generate import generate_texts


@pytest.fixture(scope='module')
def out_dir(llm, encoder, pictures, tmp_path_factory):
    """The folder of a run on captions, by a mechanism whose attention can be drawn."""
    run = {'llm': llm, 'encoder': encoder, 'dataset': pictures, 'connector': 'linear'}
    return write_run(tmp_path_factory.mktemp('run'), **run)


@pytest.fixture
def sample(run, out_dir):
    """sample(hyperparameter=value, ...) -> what is printed."""

    def sample(fails=False, **hyperparameters):
        defaults = {'out_dir': out_dir, 'max_new_tokens': 8, **CPU}
        return run('sample.py', *flags(**{**defaults, **hyperparameters}), fails=fails)

    return sample


# ---- captions ------------------------------------------------------------------------------------


def test_a_file_is_captioned_and_its_attention_drawn(sample, pictures, tmp_path):
    path = str(pictures / 'images/3.png')
    line = sample(input=path, show=tmp_path / 'attention.png')
    assert line.startswith(f'{path}: ') and line.count('\n') == 1
    with Image.open(tmp_path / 'attention.png') as image:
        assert image.width > 100


@pytest.mark.slow
def test_a_folder_or_a_pattern_is_captioned_into_a_file(sample, pictures, tmp_path):
    folder = tmp_path / '\u00fcn\u00ef [1]*'
    shutil.copytree(pictures / 'images', folder / 'deep')
    (folder / 'notes.txt').write_text('no picture')
    output = tmp_path / 'captions.jsonl'

    def captions(input, **hyperparameters):
        assert sample(input=input, output=output, **hyperparameters) == ''
        caption_of = {}
        for line in output.read_text(encoding='utf-8').splitlines():
            entry = json.loads(line)
            assert set(entry) == {'image', 'caption'}
            caption_of[entry['image']] = entry['caption']
        return caption_of

    everything = captions(folder)
    assert list(everything) == sorted(map(str, folder.glob('deep/*.png')))
    assert len(set(everything.values())) > 1
    one = str(folder / 'deep/3.png')
    assert sample(input=one) == f'{one}: {everything[one]}\n'
    some = captions(tmp_path / '\u00fcn\u00ef*/**/?.png', batch_size=3)
    paths = sorted(map(str, folder.glob('deep/?.png')))
    assert some == {path: everything[path] for path in paths}


@pytest.mark.slow
def test_a_blind_model_says_the_same_about_every_image(sample, llm, pictures, tmp_path):
    blind = write_run(tmp_path / 'blind', llm=llm, encoder=None, dataset=pictures, n_prompt=4)
    lines = sample(out_dir=blind, input=pictures / 'images').splitlines()
    assert len(lines) == 24
    assert len({line.partition(': ')[2] for line in lines}) == 1


@pytest.mark.slow
def test_samples_of_an_image_are_printed_and_written(sample, pictures, tmp_path):
    image = str(pictures / 'images/3.png')
    sampled = {
        'input': image,
        'do_sample': True,
        'num_beams': 1,
        'temperature': 2.0,
        'num_return_sequences': 3,
    }
    printed = sample(**sampled).splitlines()
    assert len(printed) == 3 and len(set(printed)) > 1
    sample(**sampled, output=tmp_path / 'captions.jsonl')
    entry = json.loads((tmp_path / 'captions.jsonl').read_text())
    assert printed == [f'{image}: {text}' for text in entry['captions']]
    assert entry['caption'] == entry['captions'][0] and entry['image'] == image
    assert sample(**sampled, seed=1).splitlines() != printed


# ---- questions -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_question_is_answered(sample, llm, encoder, pictures, tmp_path):
    questions = write_questions(pictures, tmp_path / 'questions.jsonl')
    run = {'llm': llm, 'encoder': encoder, 'dataset': questions}
    out_dir = write_run(tmp_path / 'vqa', **run, instruction='{prompt} Answer:')
    image = str(pictures / 'images/20.png')
    example = {'image': image, 'question': 'what color?'}
    model, tokenizer, config = load_checkpoint(out_dir, 'best', 'cpu', 'float32')
    options = {'progress': False, 'num_beams': 3, 'max_new_tokens': 8}
    (answer,) = generate_texts(model, tokenizer, config, [example], 1, **options)
    asked = {'out_dir': out_dir, 'input': image, 'question': 'what color?'}
    assert sample(**asked) == f'{image}: {answer}\n'
    sample(**asked, output=tmp_path / 'answers.jsonl')
    entry = json.loads((tmp_path / 'answers.jsonl').read_text())
    assert entry == {'image': image, 'answer': answer}


# ---- mistakes ------------------------------------------------------------------------------------


def test_a_question_needs_a_place_in_the_instruction(sample, llm, encoder, pictures, tmp_path):
    run = {'llm': llm, 'encoder': encoder, 'dataset': pictures, 'instruction': 'Caption:'}
    captioner = write_run(tmp_path / 'captions', **run)
    image = pictures / 'images/0.png'
    error = sample(out_dir=captioner, input=image, question='why?', fails=True)
    assert 'no place for a question' in error


@pytest.mark.slow
def test_an_input_that_is_not_there_is_named(sample, tmp_path):
    for path in ('nowhere.jpg', 'nowhere/*.jpg', '', tmp_path):
        assert f"--input='{path}'" in sample(input=path, fails=True)


@pytest.mark.slow
def test_an_image_that_cannot_be_read_is_named(sample, pictures, tmp_path):
    folder = shutil.copytree(pictures / 'images', tmp_path / 'images')
    (folder / '5.png').write_bytes(b'no picture')
    assert str(folder / '5.png') in sample(input=folder, fails=True)
    lines = sample(input=folder, bad_rows='skip').splitlines()
    assert len([line for line in lines if line.startswith(str(folder))]) == 23


@pytest.mark.slow
def test_a_checkpoint_that_is_missing_or_torn_is_named(sample, out_dir, pictures, tmp_path):
    image = pictures / 'images/3.png'
    assert 'best.safetensors' in sample(input=image, out_dir='nowhere', fails=True)
    path = tmp_path / 'best.safetensors'
    path.write_bytes((out_dir / 'best.safetensors').read_bytes()[:500])
    assert str(path) in sample(input=image, out_dir=tmp_path, fails=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    'wrong, words',
    [
        ({'which': 'middle'}, "which='middle': expected one of 'best', 'last'"),
        ({'num_beams': 0}, 'num_beams=0: expected 1 or more'),
        ({'max_new_tokens': -1}, 'max_new_tokens=-1: expected 0 or more'),
        ({'batch_size': -1}, 'batch_size=-1: expected 1 or more'),
        ({'bad_rows': 'Skip'}, "expected one of '', 'error', 'skip'"),
    ],
)
def test_a_wrong_hyperparameter_is_named_before_anything_is_loaded(sample, pictures, wrong, words):
    image = pictures / 'images/3.png'
    assert words in sample(input=image, out_dir='nowhere', **wrong, fails=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    'wrong', [{'show': 'no/such/a.png'}, {'output': 'no/such/file'}, {'output': ''}]
)
def test_a_file_that_cannot_be_written_is_named_before_anything_is_loaded(
    sample, pictures, tmp_path, wrong
):
    ((name, path),) = wrong.items()
    # '' is the folder itself
    path = tmp_path / path
    image = pictures / 'images/3.png'
    error = sample(input=image, out_dir='nowhere', fails=True, **{name: path})
    assert f'{path}: expected the name of a file' in error
