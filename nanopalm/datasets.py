"""
Data sets -> rows: the user's own JSONL files, and official files as their authors publish them (`--dataset=NAME --data_dir=FOLDER`).
A data set is a list of rows, a row one picture, sound or video with its captions, or with a question and its answers:

    {'image': '/path/a.jpg', 'caption': ['a cat', 'a cat on a mat'], 'id': 0}
    {'video': '/path/a.mp4', 'question': 'is it asleep?', 'answers': ['yes', 'yes', 'no'], 'id': 1}

To add a data set, write a function (data_dir, split, config) -> rows, see `coco`, and name it in DATASETS.
"""
import csv
import io
import json
import os
from pathlib import Path

import numpy as np

from nanopalm.examples import BadData, bullet_list, medium_of
from nanopalm.jsonl import read_jsonl, split_examples


def load_examples(config, split):
    """The rows of a split, `config['train_rows']` applied to 'train': a fraction (<= 1) or a number of rows, seeded."""
    dataset, path = config['dataset'], Path(config['dataset'])
    if split not in ('train', 'val', 'test'):
        raise BadData(f"split={split!r} is none of 'train', 'val', 'test'")
    if dataset in DATASETS:
        rows = DATASETS[dataset](Path(config['data_dir']), split, config)
    elif path.is_dir():
        rows = read_jsonl(path / f'{split}.jsonl', config)
    elif path.is_file():
        rows = split_examples(read_jsonl(path, config), path)[split]
    else:
        raise BadData(f"dataset={dataset!r}: neither {', '.join(map(repr, DATASETS))}, nor a folder with train.jsonl, val.jsonl and test.jsonl, "
                      f"nor a .jsonl file")
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


# ---- official files -------------------------------------------------------------------------------------------------

def coco(data_dir, split, config):
    """COCO captions in Karpathy's split: dataset_coco.json and the image folders train2014/ and val2014/ in data_dir. The knob restval: its
    30,504 images train too (113,287; eP-ALM's use) or not (82,783; DePALM's)."""
    splits = (split, 'restval') if split == 'train' and config['restval'] else (split,)
    path = data_dir / 'dataset_coco.json'
    return with_files(path, split, read(path, KARPATHY, lambda file: [
        dict(image=str(data_dir / i['filepath'] / i['filename']), caption=[s['raw'].strip() for s in i['sentences']], id=i['cocoid'])
        for i in file['images'] if i['split'] in splits]), config)


def textcaps(data_dir, split, config):
    """TextCaps: TextCaps_0.1_{train,val}.json and the pictures in train_images/ (both). 'test' is 'val': the test captions are secret."""
    part = 'train' if split == 'train' else 'val'
    path = data_dir / f'TextCaps_0.1_{part}.json'
    entries = read(path, 'TextCaps (textvqa.org)', lambda file: {
        c['image_id']: dict(image=str(data_dir / f'train_images/{c["image_id"]}.jpg'), caption=c['reference_strs'], id=c['image_id']) for c in file['data']})
    return with_files(path, split, list(entries.values()), config)       # the file has an entry for each caption


def vqav2(data_dir, split, config):
    """VQAv2 in its own split: v2_OpenEnded_mscoco_{train,val}2014_questions.json, v2_mscoco_{train,val}2014_annotations.json and the image
    folders of COCO. 'test' is 'val': the test answers are secret."""
    return vqa_rows(data_dir, split, config, 'VQAv2 (visualqa.org)', 'v2_', ['train2014' if split == 'train' else 'val2014'])


def vqav2_karpathy(data_dir, split, config):
    """VQAv2 in Karpathy's split of COCO, as both papers: his restval trains too. Needs dataset_coco.json as well."""
    splits = ('train', 'restval') if split == 'train' else (split,)
    images = read(data_dir / 'dataset_coco.json', KARPATHY, lambda file: {i['cocoid'] for i in file['images'] if i['split'] in splits})
    return vqa_rows(data_dir, split, config, 'VQAv2 (visualqa.org)', 'v2_', ['train2014', 'val2014'], images)


def okvqa(data_dir, split, config):
    """Returns the rows of OK-VQA. data_dir holds OpenEnded_mscoco_{train,val}2014_questions.json,
    mscoco_{train,val}2014_annotations.json and the image folders of COCO; 'test' is 'val'. The
    answers are what the annotators wrote (`raw_answer`), as in DePALM, not their lemmas
    (`answer`)."""
    folders = ['train2014' if split == 'train' else 'val2014']
    return vqa_rows(data_dir, split, config, 'OK-VQA (okvqa.allenai.org)', '', folders,
                    answer_key='raw_answer')


def aokvqa(data_dir, split, config):
    """Returns the rows of A-OKVQA with its direct answers. data_dir holds
    aokvqa_v1p0_{train,val}.json and COCO's train2017/ and val2017/. 'test' is 'val': the test
    answers are secret. Questions with difficult_direct_answer train too, as in DePALM; the official
    score leaves them out."""
    part = 'train' if split == 'train' else 'val'
    path = data_dir / f'aokvqa_v1p0_{part}.json'

    def rows_of(questions):
        rows = []
        for question in questions:
            image = data_dir / f'{part}2017/{question["image_id"]:012d}.jpg'
            rows.append({'image': str(image), 'question': question['question'],
                         'answers': question['direct_answers'], 'id': question['question_id'],
                         'difficult_direct_answer': question['difficult_direct_answer']})
        return rows

    rows = read(path, 'A-OKVQA (allenai.org/project/a-okvqa)', rows_of)
    return with_files(path, split, rows, config)


def textvqa(data_dir, split, config):
    """TextVQA: TextVQA_0.5.1_{train,val}.json and the pictures in train_images/ (both). 'test' is 'val': the test answers are secret."""
    part = 'train' if split == 'train' else 'val'
    path = data_dir / f'TextVQA_0.5.1_{part}.json'
    return with_files(path, split, read(path, 'TextVQA (textvqa.org)', lambda file: [
        dict(image=str(data_dir / f'train_images/{q["image_id"]}.jpg'), question=q['question'], answers=q['answers'], id=q['question_id'])
        for q in file['data']]), config)


def gqa(data_dir, split, config):
    """GQA, balanced: {train,val,testdev}_balanced_questions.json and the pictures in images/. 'test' is 'testdev'."""
    path = data_dir / f'{"testdev" if split == "test" else split}_balanced_questions.json'
    return with_files(path, split, read(path, 'GQA (cs.stanford.edu/people/dorarad/gqa)', lambda file: [
        dict(image=str(data_dir / f'images/{q["imageId"]}.jpg'), question=q['question'], answers=[q['answer']], id=i, question_type=q['types']['structural'])
        for i, q in file.items()]), config)


def audiocaps(data_dir, split, config):
    """Returns the rows of AudioCaps. data_dir holds {train,val,test}.csv and the clips of a split
    in audio/{split}/, each as {youtube_id}_{start_time}.wav (or .flac, .ogg, .mp3) or by the
    audiocap_id of one of its captions, 91139.wav: the names that the packages aac-datasets and
    audiocaps-download give. `,` and `"` are removed from the captions, those to train on and the
    references of val and test, as DePALM did."""
    path = data_dir / f'{split}.csv'
    there = {f.stem: f for f in sorted((data_dir / 'audio' / split).glob('*.*')) if f.suffix in ('.wav', '.flac', '.ogg', '.mp3')}

    def clips(lines):
        rows = {}
        for line in lines:
            name = f'{line["youtube_id"]}_{line["start_time"]}'
            row = rows.setdefault(name, dict(audio='', caption=[], id=name))
            row['caption'].append(line['caption'].replace(',', '').replace('"', '').strip())
            row['audio'] = row['audio'] or str(there.get(name) or there.get(line['audiocap_id']) or '')
        return [row | dict(audio=row['audio'] or str(data_dir / f'audio/{split}/{name}.wav')) for name, row in rows.items()]
    rows = read(path, 'AudioCaps (github.com/cdjkim/audiocaps)', clips, parse=lambda text: csv.DictReader(io.StringIO(text)))
    return with_files(path, split, rows, config)


def msrvtt(data_dir, split, config):
    """MSR-VTT captions in the official split (6,513, 497 and 2,990 videos). data_dir holds MSRVTT.zip's MSRVTT/videos/all/video0.mp4 ... and its
    MSRVTT/annotation/MSR_VTT.json, which does not say the split: it goes by the numbers of the videos. The challenge's own files come
    first if they are there: train_val_videodatainfo.json and test_videodatainfo.json, whose videos have a key split."""
    path = data_dir / ('test_videodatainfo.json' if split == 'test' else 'train_val_videodatainfo.json')
    if not path.is_file():
        path = data_dir / 'MSRVTT/annotation/MSR_VTT.json'

    def videos(file):
        if 'videos' in file:
            mine = {v['video_id'] for v in file['videos'] if v['split'] == ('validate' if split == 'val' else split)}
            told = [(s['video_id'], s['caption']) for s in file['sentences']]
        else:
            numbers = dict(train=range(6513), val=range(6513, 7010), test=range(7010, 10000))[split]
            mine, told = {f'video{i}' for i in numbers}, [(a['image_id'], a['caption']) for a in file['annotations']]
        captions = {}
        for video, caption in told:
            captions.setdefault(video, []).append(caption.strip())
        return [dict(video=str(data_dir / f'MSRVTT/videos/all/{v}.mp4'), caption=c, id=v) for v, c in captions.items() if v in mine]
    return with_files(path, split, read(path, 'MSR-VTT (MSRVTT.zip of github.com/m-bain/frozen-in-time)', videos), config)


def msrvtt_7k(data_dir, split, config):
    """Returns MSR-VTT captions in the split of both papers: 'train' is the official train and val,
    7,010 videos, and 'val' the official test, as 'test' is: what is chosen by it has seen it. The
    files are those of `msrvtt`."""
    if split != 'train':
        return msrvtt(data_dir, 'test', config)
    return msrvtt(data_dir, 'train', config) + msrvtt(data_dir, 'val', config)


def msrvtt_qa(data_dir, split, config):
    """MSRVTT-QA: {train,val,test}_qa.json, beside the videos of MSR-VTT in MSRVTT/videos/all/."""
    return video_questions(data_dir, split, config, lambda number: f'MSRVTT/videos/all/video{number}.mp4')


def msvd_qa(data_dir, split, config):
    """MSVD-QA: {train,val,test}_qa.json and youtube_mapping.txt ('-4wsuPCjDBc_5_15 vid1' a line), beside the videos of MSVD in YouTubeClips/."""
    names = read(data_dir / 'youtube_mapping.txt', VIDEO_QA, parse=str.splitlines, rows=lambda lines: {
        int(number.removeprefix('vid')): name for name, number in map(str.split, lines)})
    return video_questions(data_dir, split, config, lambda number: f'YouTubeClips/{names[number]}.avi')


def cc3m(data_dir, split, config):
    """Returns the rows of Conceptual Captions 3M, one caption each. 'test' is 'val': the test
    captions are secret.

    The pictures of a split are in data_dir/images/{train,val}/, in one of two ways. Unpacked tar
    shards (`python prepare.py cc3m` does it) have a captions.jsonl in each folder, which says all.
    Else captions are those of the official tsv, and that of line n, counted from 0 without a
    header, is of the picture n // 10000 as 5 digits / n as 9 digits .jpg, as in
    images/train/00001/000010002.jpg: the names that img2dataset's `files` output gives."""
    part = 'train' if split == 'train' else 'val'
    folder = data_dir / 'images' / part
    if not folder.is_dir():
        raise BadData(f'{folder}: no such file or folder. It is for the pictures of {CC3M}; '
                      f'`python prepare.py cc3m` says how to get them; data_dir is a knob')
    indexes = sorted(folder.glob('*/captions.jsonl'))
    rows = []
    for index in indexes:

        def rows_of(lines):
            return [{'image': str(index.parent / line['image']), 'caption': [line['caption']],
                     'id': Path(line['image']).stem} for line in lines]

        rows += read(index, 'the unpacked shards of CC3M', rows_of, parse=jsonl_objects)
    if indexes:
        return with_files(folder, split, rows, config)
    path = data_dir / CC3M_TSV[part]
    for number, caption in enumerate(read(path, CC3M, list, parse=first_columns)):
        image = folder / f'{number // 10000:05d}' / f'{number:09d}.jpg'
        rows.append({'image': str(image), 'caption': [caption], 'id': f'{number:09d}'})
    return with_files(path, split, rows, config)


def jsonl_objects(text):
    """Returns the JSON object of each line."""
    return [json.loads(line) for line in text.split('\n') if line]


def first_columns(text):
    """Returns the captions of 'caption<TAB>url' lines, in order. Quotation marks are part of a
    caption. A header is left out. Raises ValueError for a line of another form."""
    captions = []
    for number, line in enumerate(text.split('\n'), 1):
        columns = line.rstrip('\r').split('\t')
        if columns == [''] or (number == 1 and columns == ['caption', 'url']):
            continue
        if len(columns) != 2 or not columns[0].strip():
            raise ValueError(f'line {number} is {line[:60]!r}, expected a caption, a tab, a URL')
        captions.append(columns[0].strip())
    return captions


DATASETS = dict(coco=coco, cc3m=cc3m, textcaps=textcaps, vqav2=vqav2, vqav2_karpathy=vqav2_karpathy, okvqa=okvqa, aokvqa=aokvqa, textvqa=textvqa, gqa=gqa,
                msrvtt_7k=msrvtt_7k,
                audiocaps=audiocaps, msrvtt=msrvtt, msrvtt_qa=msrvtt_qa, msvd_qa=msvd_qa)
CC3M = 'Conceptual Captions (ai.google.com/research/ConceptualCaptions/download)'
CC3M_TSV = {'train': 'Train_GCC-training.tsv', 'val': 'Validation_GCC-1.1.0-Validation.tsv'}
KARPATHY = "Karpathy's caption_datasets.zip"
VIDEO_QA = 'MSRVTT-QA or MSVD-QA (github.com/xudejing/video-question-answering)'


def vqa_rows(data_dir, split, config, origin, prefix, folders, images=None, answer_key='answer'):
    """Returns a row for every question about the pictures in these folders of COCO. images: the ids
    of those wanted, None for all. answer_key: where an annotation holds an annotator's answer."""
    def questions_of(file):
        return {question['question_id']: question['question'] for question in file['questions']}

    rows = []
    for folder in folders:
        questions_path = data_dir / f'{prefix}OpenEnded_mscoco_{folder}_questions.json'
        questions = read(questions_path, origin, questions_of)

        def rows_of(file):
            folder_rows = []
            for annotation in file['annotations']:
                if images is not None and annotation['image_id'] not in images:
                    continue
                image = data_dir / folder / f'COCO_{folder}_{annotation["image_id"]:012d}.jpg'
                folder_rows.append({
                    'image': str(image), 'question': questions[annotation['question_id']],
                    'answers': [answer[answer_key] for answer in annotation['answers']],
                    'id': annotation['question_id'], 'question_type': annotation['question_type'],
                    'answer_type': annotation['answer_type']})
            return folder_rows

        path = data_dir / f'{prefix}mscoco_{folder}_annotations.json'
        rows += read(path, origin, rows_of)
    return with_files(path, split, rows, config)


def video_questions(data_dir, split, config, file_of):
    """The questions of {split}_qa.json; file_of: the number of a video -> its path."""
    path = data_dir / f'{split}_qa.json'
    return with_files(path, split, read(path, VIDEO_QA, lambda file: [
        dict(video=str(data_dir / file_of(q['video_id'])), question=q['question'], answers=[q['answer']], id=q['id']) for q in file]), config)


def read(path, origin, rows, parse=json.loads):
    """rows(the JSON in path, or whatever `parse` makes of its text). Raises BadData that says what file is expected there and where it comes from."""
    if not path.is_file():
        raise BadData(f'{path}: no such file. It is part of {origin}; data_dir is a knob')
    try:
        return rows(parse(path.read_text(encoding='utf-8')))
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as e:
        raise BadData(f'{path}: not the file of {origin} ({type(e).__name__}: {e})') from e


def with_files(path, split, rows, config):
    """The rows, if all that they show is there; with bad_rows='skip' those of which it is."""
    files = {r[medium_of(r)]: medium_of(r) for r in rows}
    missing = [file for file in files if not os.path.isfile(file)]
    if not missing:
        return rows
    what = dict(image='images', audio='audio files', video='videos')[files[missing[0]]]
    if config['bad_rows'] != 'skip':
        raise BadData(f'{path}: {len(missing)} of {len(files)} {what} of split {split!r} are not there, the first is {missing[0]}; '
                      f'--bad_rows=skip goes on without them')
    print(f'{path}: left out {len(missing)} of {len(files)} {what} of split {split!r}, which are not there{bullet_list(missing)}')
    gone = set(missing)
    return [r for r in rows if r[medium_of(r)] not in gone]
