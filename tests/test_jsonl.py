"""
The user's own data: JSONL files and their splits. `pytest tests/test_jsonl.py`
"""

import json
import os
import shutil

import pytest

from nanopalm.examples import BadData
from nanopalm.jsonl import SPLITS, read_jsonl, split_examples


@pytest.fixture
def folder(tmp_path):
    """A folder with one file of each medium; whether a file exists matters here, not what it
    holds."""
    for name in ('a.png', 'a.wav', 'a.mp4'):
        (tmp_path / name).touch()
    return tmp_path


def write(folder, *lines):
    """Writes a JSONL file of these lines, each an object or the text itself. Returns its path."""
    texts = []
    for line in lines:
        texts.append(line if isinstance(line, str) else json.dumps(line, ensure_ascii=False))
    path = folder / 'examples.jsonl'
    # half a character is written as JSON writes it, '\ud83d'
    path.write_text('\n'.join(texts), encoding='utf-8', errors='backslashreplace')
    return path


def read(folder, *lines, bad_rows='error'):
    """Returns the examples of a JSONL file of these lines."""
    return read_jsonl(write(folder, *lines), bad_rows)


def error_in(folder, *lines, bad_rows='error'):
    """Returns the message of the error that these lines give."""
    with pytest.raises(BadData) as error:
        read(folder, *lines, bad_rows=bad_rows)
    return str(error.value)


def caption(**keys):
    return {'image': 'a.png', 'caption': 'A cat.', **keys}


def question(**keys):
    return {'image': 'a.png', 'question': 'what?', 'answers': 'a', **keys}


# ---- what a line may hold ------------------------------------------------------------------------


@pytest.mark.parametrize(
    'medium, file', [('image', 'a.png'), ('audio', 'a.wav'), ('video', 'a.mp4')]
)
def test_captions_and_questions_of_every_medium(folder, medium, file):
    examples = read(
        folder,
        {medium: file, 'caption': 'A cat.', 'instruction': 'Say it:'},
        {medium: file, 'question': 'why?', 'answers': ['so'], 'instruction': 'Q: {prompt}'},
    )
    path = str(folder / file)
    assert examples == [
        {medium: path, 'caption': ['A cat.'], 'instruction': 'Say it:', 'id': 0},
        {
            medium: path,
            'question': 'why?',
            'answers': ['so'],
            'instruction': 'Q: {prompt}',
            'id': 1,
        },
    ]


def test_what_a_line_may_hold(folder):
    examples = read(
        folder,
        caption(),
        '',
        '   ',
        caption(caption=['Ünï.', '猫'], id='x'),
        caption(image=str(folder / 'a.png')),
        caption(split='train'),
    )
    captions = [example['caption'] for example in examples]
    assert captions == [['A cat.'], ['Ünï.', '猫'], ['A cat.'], ['A cat.']]
    assert {example['image'] for example in examples} == {str(folder / 'a.png')}
    assert examples[1]['id'] == 'x'


def test_separators_inside_a_text_do_not_end_the_line(folder):
    """JSON allows these inside a text, and other tools write them."""
    examples = read(folder, caption(caption='one\u2028two\x85three'), caption())
    assert [example['caption'] for example in examples] == [['one\u2028two\x85three'], ['A cat.']]


def test_byte_order_mark_and_crlf(folder):
    path = write(folder)
    line = json.dumps(caption()).encode()
    path.write_bytes(b'\xef\xbb\xbf' + line + b'\r\n' + line + b'\r\n')
    assert len(read_jsonl(path, 'error')) == 2


# ---- wrong lines ---------------------------------------------------------------------------------

NOT_OBJECTS = [
    ('{"image": "a.png"', ['not JSON']),
    ('not json', ['not JSON']),
    ('{"image": "a.png", "caption": "\x01"}', ['not JSON']),
    ('{"image": "a.png", "id": ' + '1' * 5000 + '}', ['not JSON', 'digits']),
    ('["a.png"]', ['a list, expected an object']),
    ('null', ['expected an object']),
]
WRONG_KEYS = [
    (caption(imag='a.png'), ["key 'imag' is not known", "did you mean 'image'?"]),
    (caption(zzzzz=1), ["key 'zzzzz' is not known", 'known: image, caption']),
    ({'vidoe': 'a.mp4', 'caption': 'x'}, ["did you mean 'video'?"]),
    ({'image': 'a.png', 'question': 'what?', 'answer': 'a'}, ["did you mean 'answers'"]),
]
WRONG_FILES = [
    ({'caption': 'A cat.'}, ["no key 'image', 'audio' or 'video', expected a path"]),
    (
        {'audio': 'a.wav', 'video': 'a.mp4', 'caption': 'x'},
        ["keys 'audio' and 'video', expected one of them"],
    ),
    (caption(image=3), ["key 'image' is 3", 'expected a path']),
    (caption(image=''), ["key 'image' is ''", 'expected a path']),
    ({'video': ['a.mp4'], 'caption': 'x'}, ["key 'video' is ['a.mp4'], expected a path"]),
    (caption(image='b.png'), ["key 'image'", 'there is no file', 'b.png']),
    ({'audio': 'b.wav', 'caption': 'x'}, ["key 'audio': there is no file"]),
    (caption(image='.'), ["key 'image'", 'there is no file']),
    (caption(image='a\0.png'), ["key 'image'"]),
    (caption(image='a' * 5000), ["key 'image'"]),
]
WRONG_TEXTS = [
    ({'image': 'a.png'}, ["key 'caption' is None", 'expected a text or a list']),
    (caption(caption=''), ["key 'caption' is ''", 'none empty']),
    (caption(caption=' \t'), ["key 'caption'", 'none empty']),
    (caption(caption=[]), ["key 'caption' is []", 'none empty']),
    (caption(caption=['A cat.', '']), ["key 'caption'", 'none empty']),
    (caption(caption=['A cat.', 3]), ["key 'caption'", 'expected a text or a list']),
    (caption(caption={'en': 'A cat.'}), ["key 'caption'", 'expected a text or a list']),
    # two things are wrong with the next line, and both are reported
    (caption(image='b.png', caption=''), ["key 'image'"]),
    (caption(image='b.png', caption=''), ["key 'caption'"]),
    ({'image': 'a.png', 'question': 'what?'}, ["key 'answers' is None"]),
    (question(answers=[]), ["key 'answers' is []"]),
    (question(question=' '), ["key 'question' is ' '"]),
    (question(caption='b'), ["either 'caption', or 'question' with 'answers'"]),
    (caption(answers='a'), ["either 'caption', or 'question' with 'answers'"]),
    # half an emoji, as a program that counts characters otherwise leaves it
    (caption(caption='A cat \ud83d'), ["key 'caption'", 'cut within a character']),
    (question(question='what \ud83d?'), ["key 'question'", 'cut within a character']),
]
WRONG_INSTRUCTIONS = [
    (caption(instruction=3), ["key 'instruction' is 3, expected a text"]),
    (caption(instruction='{prompts}'), ['expected no braces but those of {prompt}']),
    (caption(instruction='{'), ['expected no braces but those of {prompt}']),
    (caption(instruction='{prompt.x}'), ['expected no braces but those of {prompt}']),
    (question(instruction='Answer:'), ['with {prompt} in it']),
    (question(instruction=3), ["key 'instruction' is 3", 'with {prompt} in it']),
    (caption(instruction='\ud83d'), ["key 'instruction'", 'cut within a character']),
]
WRONG_FLAGS = [
    (caption(split='training'), ["key 'split' is 'training'", "'train', 'val' or 'test'"]),
    (caption(category=['animal']), ["key 'category' is ['animal']", 'a text']),
    (question(question_type=1), ["key 'question_type' is 1", 'a text']),
    (question(answer_type=''), ["key 'answer_type' is ''", 'a text']),
    (caption(split=['train']), ["key 'split' is ['train']", "'train', 'val' or 'test'"]),
    (
        question(difficult_direct_answer='no'),
        ["key 'difficult_direct_answer' is 'no', expected true or false"],
    ),
]
WRONG = NOT_OBJECTS + WRONG_KEYS + WRONG_FILES + WRONG_TEXTS + WRONG_INSTRUCTIONS + WRONG_FLAGS


@pytest.mark.parametrize('number', range(len(WRONG)))
def test_a_wrong_line_is_reported_with_its_number_and_what_was_expected(folder, number):
    line, words = WRONG[number]
    message = error_in(folder, caption(), line, caption())
    assert message.startswith(f'{folder / "examples.jsonl"}: ')
    reported = [part for part in message.split('\n')[1:] if all(word in part for word in words)]
    assert len(reported) == 1
    assert reported[0].startswith('  line 2: ')


def test_all_wrong_lines_are_reported_at_once(folder):
    message = error_in(folder, caption(image='b.png'), caption(), '{', caption(caption=''))
    assert '3 wrong lines' in message
    numbers = [line.split(':')[0].strip() for line in message.split('\n')[1:]]
    assert numbers == ['line 1', 'line 3', 'line 4']


def test_of_many_wrong_lines_the_first_are_shown(folder):
    message = error_in(folder, *[caption(caption='')] * 30)
    assert '30 wrong lines' in message
    assert message.endswith('... and 10 more')
    assert len(message.split('\n')) == 22


def test_a_file_that_is_not_utf8(folder):
    path = write(folder, caption())
    path.write_bytes(path.read_bytes() + b'\n{"image": "a.png", "caption": "caf\xe9"}')
    with pytest.raises(BadData) as error:
        read_jsonl(path, 'error')
    message = str(error.value)
    assert str(path) in message
    assert 'line 2' in message
    assert 'UTF-8' in message


def test_a_file_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(BadData, match='nowhere.jsonl: no such file'):
        read_jsonl(tmp_path / 'nowhere.jsonl', 'error')


def test_media_are_not_mixed(folder):
    sound = {'audio': 'a.wav', 'caption': 'x'}
    video = {'video': 'a.mp4', 'caption': 'x'}
    message = error_in(folder, sound, sound, video, sound, video)
    assert "1 wrong line\n  line 3: has the key 'video', but line 1 has 'audio'" in message


# ---- files that do not exist ---------------------------------------------------------------------


def missing_sounds(count):
    return [{'audio': f'missing{i}.wav', 'caption': 'x'} for i in range(count)]


def test_missing_files_are_errors_or_left_out_and_listed(folder, capsys):
    missing = missing_sounds(25)
    lines = [*missing[:3], {'audio': 'a.wav', 'caption': 'x'}, *missing[3:]]
    assert '25 wrong lines' in error_in(folder, *lines)
    assert not capsys.readouterr().out

    examples = read(folder, *lines, bad_rows='skip')
    assert examples == [{'audio': str(folder / 'a.wav'), 'caption': ['x'], 'id': 0}]
    printed = capsys.readouterr().out.splitlines()
    assert 'left out 25 of 26 examples' in printed[0]
    assert 'line 1: ' in printed[1]
    assert len(printed) == 22
    assert printed[-1].strip() == '... and 5 more'


def test_of_missing_files_alone_no_example_is_left(folder):
    assert read(folder, *missing_sounds(3), bad_rows='skip') == []


def test_other_errors_are_errors_even_where_missing_files_are_left_out(folder):
    missing = missing_sounds(1)
    message = error_in(folder, *missing, {'audio': 'b.wav', 'caption': ''}, bad_rows='skip')
    assert '1 wrong line\n' in message
    assert "line 2: key 'caption'" in message
    message = error_in(folder, *missing, {'video': 'a.mp4', 'caption': 'x'}, bad_rows='skip')
    assert "line 2: has the key 'video'" in message


# ---- splits --------------------------------------------------------------------------------------


@pytest.mark.parametrize('medium, ending', [('image', 'png'), ('audio', 'wav')])
def test_one_file_is_split_by_its_images_or_sounds(tmp_path, medium, ending):
    folder = tmp_path / 'here'
    folder.mkdir()
    for i in range(30):
        (folder / f'{i}.{ending}').touch()
    lines = [{medium: f'{i % 30}.{ending}', 'caption': f'Number {i}.'} for i in range(40)]
    path = write(folder, *lines)

    def names_by_split(path):
        parts = split_examples(read_jsonl(path, 'error'), path)
        names = {}
        for split in SPLITS:
            names[split] = [os.path.basename(example[medium]) for example in parts[split]]
        return names

    names = names_by_split(path)
    assert [len(set(names[split])) for split in SPLITS] == [24, 3, 3]
    assert sum(len(names[split]) for split in SPLITS) == 40
    assert len({*names['train'], *names['val'], *names['test']}) == 30
    # the split depends on the data, not on where it is stored
    copy = shutil.copytree(folder, tmp_path / 'elsewhere')
    assert names_by_split(copy / path.name) == names


def test_one_file_is_split_by_its_keys(folder):
    path = write(
        folder,
        caption(),
        caption(split='val', caption='v'),
        caption(split='test', caption='t'),
        caption(split='train'),
    )
    parts = split_examples(read_jsonl(path, 'error'), path)
    captions = {split: [example['caption'] for example in parts[split]] for split in SPLITS}
    assert captions == {'train': [['A cat.'], ['A cat.']], 'val': [['v']], 'test': [['t']]}


@pytest.mark.parametrize('example', [caption(), {'audio': 'a.wav', 'caption': 'x'}])
def test_too_few_images_or_sounds_to_split(folder, example):
    path = write(folder, example, example)
    with pytest.raises(BadData, match='1 image, audio or video file.*too few to split'):
        split_examples(read_jsonl(path, 'error'), path)
