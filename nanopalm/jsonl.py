"""
The user's own data sets: JSONL files.
"""
import difflib
import hashlib
import json
import os

from nanopalm.examples import MEDIA, BadData, bullet_list, medium_of, path_of

A_PATH = 'a path, relative to the file'


TEXTS = 'a text or a list of texts, none empty'


ROW_KEYS = dict(image=A_PATH, caption=TEXTS, audio=A_PATH, video=A_PATH, question='a text', answers=TEXTS, instruction='a text',
                split="'train', 'val' or 'test'", id='anything', question_type='a text',
                answer_type='a text', difficult_direct_answer='true or false')


def read_jsonl(path, config):
    """Own data: one JSON object a line, see ROW_KEYS. All wrong lines are reported at once; with bad_rows='skip', a missing file is left out."""
    if not path.is_file():
        raise BadData(f'{path}: no such file')
    rows, errors, left_out, known_files, first_lines = [], [], [], set(), {}
    for number, line in enumerate(path.read_bytes().removeprefix(b'\xef\xbb\xbf').split(b'\n'), 1):     # not splitlines(): a text may hold U+2028
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode())
        except ValueError as e:
            reason = f'{e.msg} at column {e.colno}' if isinstance(e, json.JSONDecodeError) else f'not UTF-8: {e}'
            errors.append(f'line {number}: not JSON ({reason}); expected {{"image": "a.jpg", "caption": ["..."]}}')
            continue
        wrong, missing = row_errors(row, path.parent, known_files)
        if missing and config['bad_rows'] != 'skip':
            wrong, missing = wrong + missing, []
        errors += [f'line {number}: {w}' for w in wrong]
        left_out += [f'line {number}: {m}' for m in missing]
        if wrong:
            continue
        kind, medium = 'answers' if 'question' in row else 'caption', medium_of(row)
        first_lines.setdefault(medium, number)
        if not missing:
            texts = [row[kind]] if isinstance(row[kind], str) else row[kind]
            rows.append({**row, medium: str(path.parent / row[medium]), kind: texts, 'id': row.get('id', len(rows))})
    if len(first_lines) > 1:
        (medium, first), (other, number), *_ = first_lines.items()
        errors.append(f'line {number}: shows key {other!r}, but line {first} {medium!r}; expected the same in all lines of a data set')
    if errors:
        raise BadData(f'{path}: {len(errors)} wrong line{"s" * (len(errors) > 1)}{bullet_list(errors)}')
    if left_out:
        print(f'{path}: left out {len(left_out)} of {len(rows) + len(left_out)} rows{bullet_list(left_out)}')
    return rows


def row_errors(row, folder, known_files):
    """What is wrong with one object of a JSONL file: a list of sentences, and another that names the file it shows if that is not there."""
    if not isinstance(row, dict):
        return [f'a {type(row).__name__}, expected an object {{"image": ..., "caption": ...}}'], []
    errors, missing = [], []
    for key in row:
        if key not in ROW_KEYS:
            near = difflib.get_close_matches(key, ROW_KEYS, n=1)
            errors.append(f'key {key!r} is not known' + (f', did you mean {near[0]!r}?' if near else f'; known: {", ".join(ROW_KEYS)}'))
    media, kind = [m for m in MEDIA if m in row], 'answers' if 'question' in row else 'caption'
    if len(media) != 1:
        errors.append(f'keys {" and ".join(map(repr, media))}, expected one of them' if media else
                      f"no key 'image', 'audio' or 'video', expected {A_PATH}")
    for medium in media:
        file = row[medium]
        if not isinstance(file, str) or not file:
            errors.append(f'key {medium!r} is {file!r}, expected {A_PATH}')
        elif file not in known_files:
            if os.path.isfile(folder / file):
                known_files.add(file)
            else:
                missing.append(f'key {medium!r}: there is no file {folder / file}')
    texts = [row[kind]] if isinstance(row.get(kind), str) else row.get(kind)
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        errors.append(f'key {kind!r} is {row.get(kind)!r}, expected {ROW_KEYS[kind]}')
    if 'caption' in row and kind == 'answers' or 'answers' in row and kind == 'caption':
        errors.append("expected either 'caption', or 'question' with 'answers'")
    if kind == 'answers' and not (isinstance(row['question'], str) and row['question'].strip()):
        errors.append(f"key 'question' is {row['question']!r}, expected {ROW_KEYS['question']}")
    if 'instruction' in row:
        errors += instruction_errors(row['instruction'], kind)
    if not isinstance(row.get('difficult_direct_answer', False), bool):
        errors.append(f"key 'difficult_direct_answer' is {row['difficult_direct_answer']!r}, "
                      f"expected {ROW_KEYS['difficult_direct_answer']}")
    if row.get('split', 'train') not in ('train', 'val', 'test'):
        errors.append(f"key 'split' is {row['split']!r}, expected {ROW_KEYS['split']}")
    return errors, missing


def instruction_errors(text, kind):
    """What is wrong with a row's own instruction, as a list of sentences."""
    if not isinstance(text, str) or kind == 'answers' and '{prompt}' not in text:
        return [f"key 'instruction' is {text!r}, expected a text" + ' with {prompt} in it, where the question is to stand' * (kind == 'answers')]
    try:
        text.format(prompt='')
    except (LookupError, ValueError, AttributeError):
        return [f"key 'instruction' is {text!r}, expected no braces but those of {{prompt}}; a brace itself is written twice"]
    return []


def split_examples(rows, path):
    """One file: by its `split` keys, or else a tenth of what is shown (by hash of the path in the file) each to test and val."""
    if any('split' in row for row in rows):
        return {s: [r for r in rows if r.get('split', 'train') == s] for s in ('train', 'val', 'test')}
    files = sorted(set(map(path_of, rows)), key=lambda f: hashlib.sha256(os.path.relpath(f, path.parent).encode()).digest())
    if len(files) < 3:
        raise BadData(f'{path}: {len(files)} image, audio or video file(s), too few to split into train, val and test')
    n = max(1, len(files) // 10)
    part = {file: 'test' if i < n else 'val' if i < 2 * n else 'train' for i, file in enumerate(files)}
    return {s: [r for r in rows if part[path_of(r)] == s] for s in ('train', 'val', 'test')}
