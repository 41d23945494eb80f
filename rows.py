"""
Data sets -> rows: the user's own JSONL files, and official files as their authors publish them (`--dataset=NAME --data_dir=FOLDER`).
A data set is a list of rows, a row one picture with its captions, or with a question and its answers:

    {'image': '/path/a.jpg', 'caption': ['a cat', 'a cat on a mat'], 'id': 0}
    {'image': '/path/a.jpg', 'question': 'is it asleep?', 'answers': ['yes', 'yes', 'no'], 'id': 1}

To add a data set, write a function (data_dir, split, config) -> rows, see `coco`, and name it in DATASETS.
"""
import difflib
import hashlib
import json
import os
from pathlib import Path

import numpy as np

MAX_ERRORS_SHOWN = 20
MEDIA = ('image', 'audio', 'video')
ROW_KEYS = dict(image='a path, relative to the file', caption='a text or a list of texts, none empty', question='a text',
                answers='a text or a list of texts, none empty', split="'train', 'val' or 'test'", id='anything',
                question_type='a text', answer_type='a text')


class BadData(Exception):
    """What is wrong with the user's data, in words for the user."""


def load_rows(config, split):
    """The rows of a split, `config['train_rows']` applied to 'train': a fraction (<= 1) or a number of rows, seeded."""
    dataset, path = config['dataset'], Path(config['dataset'])
    if split not in ('train', 'val', 'test'):
        raise BadData(f"split={split!r} is none of 'train', 'val', 'test'")
    if dataset in DATASETS:
        rows = DATASETS[dataset](Path(config['data_dir']), split, config)
    elif path.is_dir():
        rows = read_jsonl(path / f'{split}.jsonl')
    elif path.is_file():
        rows = split_rows(read_jsonl(path), path)[split]
    else:
        raise BadData(f"dataset={dataset!r}: neither {', '.join(map(repr, DATASETS))}, nor a folder with train.jsonl, val.jsonl and test.jsonl, nor a .jsonl file")
    if split == 'train' and config['train_rows']:
        n = config['train_rows']
        if n < 0:
            raise BadData(f'train_rows={n}: expected 0 for all, a fraction up to 1, or a number of rows')
        n = round(n * len(rows)) if n <= 1 else int(n)
        keep = np.random.default_rng(config['seed']).permutation(len(rows))[:n]
        rows = [rows[i] for i in sorted(keep)]
    if not rows:
        raise BadData(f'dataset={dataset!r}: split {split!r} has no rows')
    return rows


def read_jsonl(path):
    """Own data: one JSON object a line, see ROW_KEYS. All wrong lines are reported at once."""
    if not path.is_file():
        raise BadData(f'{path}: no such file')
    rows, errors, known_images = [], [], set()
    for number, line in enumerate(path.read_bytes().removeprefix(b'\xef\xbb\xbf').split(b'\n'), 1):     # not splitlines(): a text may hold U+2028
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode())
        except ValueError as e:
            reason = f'{e.msg} at column {e.colno}' if isinstance(e, json.JSONDecodeError) else f'not UTF-8: {e}'
            errors.append(f'line {number}: not JSON ({reason}); expected {{"image": "a.jpg", "caption": ["..."]}}')
            continue
        wrong = row_errors(row, path.parent, known_images)
        errors += [f'line {number}: {w}' for w in wrong]
        if not wrong:
            kind = 'answers' if 'question' in row else 'caption'
            texts = [row[kind]] if isinstance(row[kind], str) else row[kind]
            rows.append({**row, 'image': str(path.parent / row['image']), kind: texts, 'id': row.get('id', len(rows))})
    if errors:
        shown = '\n  '.join(errors[:MAX_ERRORS_SHOWN])
        raise BadData(f'{path}: {len(errors)} wrong line{"s" * (len(errors) > 1)}\n  {shown}'
                      + (f'\n  ... and {len(errors) - MAX_ERRORS_SHOWN} more' if len(errors) > MAX_ERRORS_SHOWN else ''))
    return rows


def row_errors(row, folder, known_images):
    """What is wrong with one object of a JSONL file, as a list of sentences."""
    if not isinstance(row, dict):
        return [f'a {type(row).__name__}, expected an object {{"image": ..., "caption": ...}}']
    errors = []
    for key in row:
        if key not in ROW_KEYS:
            near = difflib.get_close_matches(key, ROW_KEYS, n=1)
            errors.append(f'key {key!r} is not known' + (f', did you mean {near[0]!r}?' if near else f'; known: {", ".join(ROW_KEYS)}'))
    image, kind = row.get('image'), 'answers' if 'question' in row else 'caption'
    if not isinstance(image, str) or not image:
        errors.append(f"key 'image' is {image!r}, expected {ROW_KEYS['image']}")
    elif image not in known_images:
        if os.path.isfile(folder / image):
            known_images.add(image)
        else:
            errors.append(f"key 'image': there is no file {folder / image}")
    texts = [row[kind]] if isinstance(row.get(kind), str) else row.get(kind)
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        errors.append(f'key {kind!r} is {row.get(kind)!r}, expected {ROW_KEYS[kind]}')
    if 'caption' in row and kind == 'answers' or 'answers' in row and kind == 'caption':
        errors.append("expected either 'caption', or 'question' with 'answers'")
    if kind == 'answers' and not (isinstance(row['question'], str) and row['question'].strip()):
        errors.append(f"key 'question' is {row['question']!r}, expected {ROW_KEYS['question']}")
    if row.get('split', 'train') not in ('train', 'val', 'test'):
        errors.append(f"key 'split' is {row['split']!r}, expected {ROW_KEYS['split']}")
    return errors


def split_rows(rows, path):
    """One file: by its `split` keys, or else a tenth of the images (by hash of the path in the file) each to test and val."""
    if any('split' in row for row in rows):
        return {s: [r for r in rows if r.get('split', 'train') == s] for s in ('train', 'val', 'test')}
    images = sorted({r['image'] for r in rows}, key=lambda i: hashlib.sha256(os.path.relpath(i, path.parent).encode()).digest())
    if len(images) < 3:
        raise BadData(f'{path}: {len(images)} image(s), too few to split into train, val and test')
    n = max(1, len(images) // 10)
    part = {image: 'test' if i < n else 'val' if i < 2 * n else 'train' for i, image in enumerate(images)}
    return {s: [r for r in rows if part[r['image']] == s] for s in ('train', 'val', 'test')}


def medium_of(row):
    """'image', 'audio' or 'video': what a row shows, and the key under which its file stands."""
    return next(medium for medium in MEDIA if medium in row)


def path_of(row):
    """The file that a row shows."""
    return row[medium_of(row)]


def row_targets(row):
    """The texts that a model may say of this row."""
    return row['answers'] if 'question' in row else row['caption']


# ---- official files -------------------------------------------------------------------------------------------------

def coco(data_dir, split, config):
    """COCO captions in Karpathy's split: dataset_coco.json and the image folders train2014/ and val2014/ in data_dir. The knob restval: its
    30,504 images train too (113,287; eP-ALM's use) or not (82,783; DePALM's)."""
    splits = (split, 'restval') if split == 'train' and config['restval'] else (split,)
    path = data_dir / 'dataset_coco.json'
    return with_pictures(path, split, read(path, KARPATHY, lambda file: [
        dict(image=str(data_dir / i['filepath'] / i['filename']), caption=[s['raw'].strip() for s in i['sentences']], id=i['cocoid'])
        for i in file['images'] if i['split'] in splits]))


def textcaps(data_dir, split, config):
    """TextCaps: TextCaps_0.1_{train,val}.json and the pictures in train_images/ (both). 'test' is 'val': the test captions are secret."""
    part = 'train' if split == 'train' else 'val'
    path = data_dir / f'TextCaps_0.1_{part}.json'
    entries = read(path, 'TextCaps (textvqa.org)', lambda file: {
        c['image_id']: dict(image=str(data_dir / f'train_images/{c["image_id"]}.jpg'), caption=c['reference_strs'], id=c['image_id']) for c in file['data']})
    return with_pictures(path, split, list(entries.values()))               # the file has an entry for each caption


def vqav2(data_dir, split, config):
    """VQAv2 in its own split: v2_OpenEnded_mscoco_{train,val}2014_questions.json, v2_mscoco_{train,val}2014_annotations.json and the image
    folders of COCO. 'test' is 'val': the test answers are secret."""
    return vqa_rows(data_dir, split, 'VQAv2 (visualqa.org)', 'v2_', ['train2014' if split == 'train' else 'val2014'])


def vqav2_karpathy(data_dir, split, config):
    """VQAv2 in Karpathy's split of COCO, as both papers: his restval trains too. Needs dataset_coco.json as well."""
    splits = ('train', 'restval') if split == 'train' else (split,)
    images = read(data_dir / 'dataset_coco.json', KARPATHY, lambda file: {i['cocoid'] for i in file['images'] if i['split'] in splits})
    return vqa_rows(data_dir, split, 'VQAv2 (visualqa.org)', 'v2_', ['train2014', 'val2014'], images)


def okvqa(data_dir, split, config):
    """OK-VQA: OpenEnded_mscoco_{train,val}2014_questions.json, mscoco_{train,val}2014_annotations.json, the image folders of COCO; 'test' is 'val'."""
    return vqa_rows(data_dir, split, 'OK-VQA (okvqa.allenai.org)', '', ['train2014' if split == 'train' else 'val2014'])


def aokvqa(data_dir, split, config):
    """A-OKVQA, its direct answers: aokvqa_v1p0_{train,val}.json and COCO's train2017/, val2017/. 'test' is 'val': the test answers are secret."""
    part = 'train' if split == 'train' else 'val'
    path = data_dir / f'aokvqa_v1p0_{part}.json'
    return with_pictures(path, split, read(path, 'A-OKVQA (allenai.org/project/a-okvqa)', lambda file: [
        dict(image=str(data_dir / f'{part}2017/{q["image_id"]:012d}.jpg'), question=q['question'], answers=q['direct_answers'], id=q['question_id'])
        for q in file]))


def textvqa(data_dir, split, config):
    """TextVQA: TextVQA_0.5.1_{train,val}.json and the pictures in train_images/ (both). 'test' is 'val': the test answers are secret."""
    part = 'train' if split == 'train' else 'val'
    path = data_dir / f'TextVQA_0.5.1_{part}.json'
    return with_pictures(path, split, read(path, 'TextVQA (textvqa.org)', lambda file: [
        dict(image=str(data_dir / f'train_images/{q["image_id"]}.jpg'), question=q['question'], answers=q['answers'], id=q['question_id'])
        for q in file['data']]))


def gqa(data_dir, split, config):
    """GQA, balanced: {train,val,testdev}_balanced_questions.json and the pictures in images/. 'test' is 'testdev'."""
    path = data_dir / f'{"testdev" if split == "test" else split}_balanced_questions.json'
    return with_pictures(path, split, read(path, 'GQA (cs.stanford.edu/people/dorarad/gqa)', lambda file: [
        dict(image=str(data_dir / f'images/{q["imageId"]}.jpg'), question=q['question'], answers=[q['answer']], id=i, question_type=q['types']['structural'])
        for i, q in file.items()]))


DATASETS = dict(coco=coco, textcaps=textcaps, vqav2=vqav2, vqav2_karpathy=vqav2_karpathy, okvqa=okvqa, aokvqa=aokvqa, textvqa=textvqa, gqa=gqa)
KARPATHY = "Karpathy's caption_datasets.zip"


def vqa_rows(data_dir, split, origin, prefix, folders, images=None):
    """Questions about the pictures in these folders of COCO; images: the ids of those wanted, None = all."""
    rows = []
    for folder in folders:
        asked = read(data_dir / f'{prefix}OpenEnded_mscoco_{folder}_questions.json', origin,
                     lambda file: {q['question_id']: q['question'] for q in file['questions']})
        path = data_dir / f'{prefix}mscoco_{folder}_annotations.json'
        rows += read(path, origin, lambda file: [
            dict(image=str(data_dir / folder / f'COCO_{folder}_{a["image_id"]:012d}.jpg'), question=asked[a['question_id']],
                 answers=[x['answer'] for x in a['answers']], id=a['question_id'], question_type=a['question_type'], answer_type=a['answer_type'])
            for a in file['annotations'] if images is None or a['image_id'] in images])
    return with_pictures(path, split, rows)


def read(path, origin, rows):
    """rows(the JSON in path). Raises BadData that says what file is expected there and where it comes from."""
    if not path.is_file():
        raise BadData(f'{path}: no such file. It is part of {origin}; data_dir is a knob')
    try:
        return rows(json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise BadData(f'{path}: not the file of {origin} ({type(e).__name__}: {e})') from e


def with_pictures(path, split, rows):
    """The rows, if all their pictures are there."""
    missing = [image for image in dict.fromkeys(r['image'] for r in rows) if not os.path.isfile(image)]
    if missing:
        raise BadData(f'{path}: {len(missing)} of {len({r["image"] for r in rows})} images of split {split!r} are not there, the first is {missing[0]}')
    return rows
