"""
Data sets in the files that their authors publish -> rows, as data.py reads them: `train.py --dataset=NAME --data_dir=FOLDER`.

To add one, write a function (data_dir, split, config) -> rows and name it in DATASETS.
"""
import json
import os

from data import BadData


def coco(data_dir, split, config):
    """COCO captions in Karpathy's split: dataset_coco.json and the image folders train2014/ and val2014/ in data_dir. The knob restval: its
    30,504 images train too (113,287; eP-ALM's use) or not (82,783; DePALM's)."""
    splits = (split, 'restval') if split == 'train' and config['restval'] else (split,)
    path = data_dir / 'dataset_coco.json'
    return with_pictures(path, split, read(path, KARPATHY, lambda file: [
        dict(image=str(data_dir / i['filepath'] / i['filename']), caption=[s['raw'].strip() for s in i['sentences']], id=i['cocoid'])
        for i in file['images'] if i['split'] in splits]))


def vqav2(data_dir, split, config):
    """VQAv2 in its own split, whose test answers are secret: 'test' is 'val' here. v2_OpenEnded_mscoco_{train,val}2014_questions.json,
    v2_mscoco_{train,val}2014_annotations.json and the image folders of COCO in data_dir."""
    return vqa_rows(data_dir, split, ['train2014' if split == 'train' else 'val2014'])


def vqav2_karpathy(data_dir, split, config):
    """VQAv2 in Karpathy's split of COCO, as both papers: his restval trains too. Needs dataset_coco.json as well."""
    splits = ('train', 'restval') if split == 'train' else (split,)
    images = read(data_dir / 'dataset_coco.json', KARPATHY, lambda file: {i['cocoid'] for i in file['images'] if i['split'] in splits})
    return vqa_rows(data_dir, split, ['train2014', 'val2014'], images)


DATASETS = dict(coco=coco, vqav2=vqav2, vqav2_karpathy=vqav2_karpathy)
KARPATHY, VQA = "Karpathy's caption_datasets.zip", 'VQAv2 (visualqa.org)'


def vqa_rows(data_dir, split, folders, images=None):
    """Questions about the pictures in these folders of COCO; images: the ids of those wanted, None = all."""
    rows = []
    for folder in folders:
        asked = read(data_dir / f'v2_OpenEnded_mscoco_{folder}_questions.json', VQA,
                     lambda file: {q['question_id']: q['question'] for q in file['questions']})
        path = data_dir / f'v2_mscoco_{folder}_annotations.json'
        rows += read(path, VQA, lambda file: [
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
    except (ValueError, KeyError, TypeError) as e:
        raise BadData(f'{path}: not the file of {origin} ({type(e).__name__}: {e})') from e


def with_pictures(path, split, rows):
    """The rows, if all their pictures are there."""
    missing = [image for image in dict.fromkeys(r['image'] for r in rows) if not os.path.isfile(image)]
    if missing:
        raise BadData(f'{path}: {len(missing)} of {len({r["image"] for r in rows})} images of split {split!r} are not there, the first is {missing[0]}')
    return rows
