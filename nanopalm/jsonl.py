"""
The user's own data sets: JSONL files, one example a line.

    {"image": "images/a.jpg", "caption": ["a cat", "a cat on a mat"]}
    {"image": "images/a.jpg", "question": "is it asleep?", "answers": ["yes", "yes", "no"]}

A whole file is checked before any error is reported, so that all wrong lines are listed at once.
"""

import difflib
import hashlib
import json
import os

from nanopalm.examples import MEDIA, BadData, bullet_list, medium_of, path_of
from nanopalm.prompts import check_braces

SPLITS = ('train', 'val', 'test')

A_PATH = 'a path, relative to the file'
A_TEXT = 'a text, not cut within a character'
TEXTS = 'a text or a list of texts, none empty or cut within a character'

# what the keys of a line may hold
KEYS = {
    'image': A_PATH,
    'caption': TEXTS,
    'audio': A_PATH,
    'video': A_PATH,
    'question': A_TEXT,
    'answers': TEXTS,
    'instruction': A_TEXT,
    'split': "'train', 'val' or 'test'",
    'id': 'anything',
    'category': A_TEXT,
    'question_type': A_TEXT,
    'answer_type': A_TEXT,
    'difficult_direct_answer': 'true or false',
}


def read_jsonl(path, bad_rows):
    """Returns the examples of a JSONL file. Paths in it are relative to the file's folder.

    bad_rows: 'skip' leaves out examples whose image, sound or video does not exist, and lists them;
    otherwise they count as wrong lines. Raises BadData that lists all wrong lines."""
    if not path.is_file():
        raise BadData(f'{path}: no such file')
    examples = []
    errors = []
    left_out = []
    existing_files = set()
    first_lines = {}
    for number, line in numbered_lines(path):
        example, line_errors = parse_line(line)
        missing = []
        if example is not None:
            line_errors = example_errors(example)
            missing = missing_files(example, path.parent, existing_files)
        if bad_rows != 'skip':
            line_errors = line_errors + missing
        if line_errors:
            errors += [f'line {number}: {error}' for error in line_errors]
            continue
        first_lines.setdefault(medium_of(example), number)
        if missing:
            left_out += [f'line {number}: {message}' for message in missing]
        else:
            examples.append(complete_example(example, path.parent, default_id=len(examples)))
    errors += mixed_media_errors(first_lines)
    if errors:
        lines = 'line' if len(errors) == 1 else 'lines'
        raise BadData(f'{path}: {len(errors)} wrong {lines}{bullet_list(errors)}')
    if left_out:
        total = len(examples) + len(left_out)
        print(f'{path}: left out {len(left_out)} of {total} examples{bullet_list(left_out)}')
    return examples


def numbered_lines(path):
    """Returns (number, bytes) of every line that is not blank, counted from 1."""
    content = path.read_bytes().removeprefix(b'\xef\xbb\xbf')
    # not splitlines(), which also splits at characters that JSON allows in a text, such as U+2028
    lines = enumerate(content.split(b'\n'), 1)
    return [(number, line) for number, line in lines if line.strip()]


def parse_line(line):
    """Returns (the JSON object of a line, []), or (None, [what is wrong with the line])."""
    try:
        example = json.loads(line.decode())
    except json.JSONDecodeError as error:
        return None, [not_json(f'{error.msg} at column {error.colno}')]
    except UnicodeDecodeError as error:
        return None, [not_json(f'not UTF-8: {error}')]
    except ValueError as error:
        # a number with thousands of digits
        return None, [not_json(error)]
    if not isinstance(example, dict):
        kind = type(example).__name__
        return None, [f'a {kind}, expected an object {{"image": ..., "caption": ...}}']
    return example, []


def not_json(reason):
    return f'not JSON ({reason}); expected {{"image": "a.jpg", "caption": ["..."]}}'


def texts_key(example):
    """Returns the key of the texts that a model learns to write."""
    return 'answers' if 'question' in example else 'caption'


def complete_example(example, folder, default_id):
    """Returns a checked example with the full path of its file, a list of texts and an id."""
    medium = medium_of(example)
    key = texts_key(example)
    texts = example[key]
    if isinstance(texts, str):
        texts = [texts]
    path = str(folder / example[medium])
    return {**example, medium: path, key: texts, 'id': example.get('id', default_id)}


# ---- what may be wrong with an example -----------------------------------------------------------


def example_errors(example):
    """Returns what is wrong with an example, as a list of sentences. Whether its file exists is
    not looked up."""
    return (
        unknown_key_errors(example)
        + medium_errors(example)
        + text_errors(example)
        + instruction_errors(example)
        + flag_errors(example)
    )


def expected(example, key):
    """Returns the message about a key that holds something else than KEYS says."""
    return f'key {key!r} is {example.get(key)!r}, expected {KEYS[key]}'


def unknown_key_errors(example):
    errors = []
    for key in example:
        if key in KEYS:
            continue
        similar = difflib.get_close_matches(key, KEYS, n=1)
        if similar:
            errors.append(f'key {key!r} is not known, did you mean {similar[0]!r}?')
        else:
            errors.append(f'key {key!r} is not known; known: {", ".join(KEYS)}')
    return errors


def medium_errors(example):
    media = [medium for medium in MEDIA if medium in example]
    errors = []
    if not media:
        errors.append(f"no key 'image', 'audio' or 'video', expected {A_PATH}")
    if len(media) > 1:
        errors.append(f'keys {" and ".join(map(repr, media))}, expected one of them')
    for medium in media:
        if not is_path(example[medium]):
            errors.append(expected(example, medium))
    return errors


def text_errors(example):
    key = texts_key(example)
    texts = example.get(key)
    if isinstance(texts, str):
        texts = [texts]
    errors = []
    if not isinstance(texts, list) or not texts or not all(map(is_text, texts)):
        errors.append(expected(example, key))
    other_key = 'caption' if key == 'answers' else 'answers'
    if other_key in example:
        errors.append("expected either 'caption', or 'question' with 'answers'")
    if 'question' in example and not is_text(example['question']):
        errors.append(expected(example, 'question'))
    return errors


def instruction_errors(example):
    if 'instruction' not in example:
        return []
    instruction = example['instruction']
    is_string = isinstance(instruction, str) and is_whole(instruction)
    if 'question' in example and not (is_string and '{prompt}' in instruction):
        return [
            f"key 'instruction' is {instruction!r}, expected a text with {{prompt}} in it, in the "
            f'place where the question is to stand'
        ]
    if not is_string:
        return [expected(example, 'instruction')]
    try:
        check_braces("key 'instruction'", instruction)
    except ValueError as error:
        return [str(error)]
    return []


def flag_errors(example):
    errors = []
    for key in ('category', 'question_type', 'answer_type'):
        if key in example and not is_text(example[key]):
            errors.append(expected(example, key))
    if not isinstance(example.get('difficult_direct_answer', False), bool):
        errors.append(expected(example, 'difficult_direct_answer'))
    if example.get('split', 'train') not in SPLITS:
        errors.append(expected(example, 'split'))
    return errors


def is_path(value):
    return isinstance(value, str) and value != ''


def is_text(value):
    return isinstance(value, str) and value.strip() != '' and is_whole(value)


def is_whole(text):
    """Returns whether a text is whole: JSON can hold half a character, as '\\ud83d', which can be
    neither tokenized nor written."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def missing_files(example, folder, existing_files):
    """Returns a sentence for each file of the example that does not exist. Files found are added
    to the set existing_files, and those in it are not looked up again."""
    messages = []
    for medium in MEDIA:
        file = example.get(medium)
        if not is_path(file) or file in existing_files:
            continue
        if os.path.isfile(folder / file):
            existing_files.add(file)
        else:
            messages.append(f'key {medium!r}: there is no file {folder / file}')
    return messages


def mixed_media_errors(first_lines):
    """Returns what is wrong if a file holds, for instance, images and sounds. first_lines: the
    number of the first line of each medium."""
    if len(first_lines) < 2:
        return []
    (medium, line), (other_medium, other_line) = list(first_lines.items())[:2]
    return [
        f'line {other_line}: has the key {other_medium!r}, but line {line} has {medium!r}; '
        f'expected the same in all lines of a data set'
    ]


# ---- splits --------------------------------------------------------------------------------------


def split_examples(examples, path):
    """Returns {'train': examples, 'val': examples, 'test': examples} of a data set in one file.

    The key `split` of its lines decides if there is one (a line without it is for training). Else
    a tenth of the images, sounds or videos each go to test and to val: drawn by a hash of their
    paths relative to the file, so that the same data is split alike on every machine."""
    if any('split' in example for example in examples):
        splits = [example.get('split', 'train') for example in examples]
    else:
        split_of = split_files(set(map(path_of, examples)), path)
        splits = [split_of[path_of(example)] for example in examples]
    parts = {split: [] for split in SPLITS}
    for example, split in zip(examples, splits):
        parts[split].append(example)
    return parts


def split_files(files, path):
    """Returns {file: its split}. Raises BadData for fewer than three files."""
    if len(files) < 3:
        raise BadData(
            f'{path}: {len(files)} image, audio or video file(s), too few to split into train, '
            f'val and test'
        )

    def hash_of(file):
        return hashlib.sha256(os.path.relpath(file, path.parent).encode()).digest()

    tenth = max(1, len(files) // 10)
    split_of = {}
    for index, file in enumerate(sorted(files, key=hash_of)):
        if index < tenth:
            split_of[file] = 'test'
        elif index < 2 * tenth:
            split_of[file] = 'val'
        else:
            split_of[file] = 'train'
    return split_of
