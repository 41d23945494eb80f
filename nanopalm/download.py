"""
The official files of a data set, by name: fetched, checked, unpacked, counted. `python prepare.py coco [--data_dir=FOLDER]`

A download that was cut off or killed continues where it stopped. What is there already is not fetched again, and an archive fetched by
hand into FOLDER/downloads is used like one of ours; FOLDER/downloads may be deleted afterwards.
"""
import functools
import http.client
import json
import os
import shutil
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path

from configurator import configure
from nanopalm.datasets import load_examples
from nanopalm.examples import BadData

print = functools.partial(print, flush=True)

COCO = 'http://images.cocodataset.org/zips/'                        # its https has another host's certificate
VQAV2 = 'https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa/v2_'
OKVQA = 'https://okvqa.allenai.org/static/data/'
TEXTVQA = 'https://dl.fbaipublicfiles.com/textvqa/'
GQA = 'https://downloads.cs.stanford.edu/nlp/data/gqa/'
AUDIOCAPS = 'https://raw.githubusercontent.com/cdjkim/audiocaps/master/dataset/'
COCO_2014 = [(f'{COCO}{part}2014.zip', f'{part}2014') for part in ('train', 'val')]
KARPATHY = [('https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip', 'dataset_coco.json')]
VQAV2_TEXTS = [entry for part in ('train', 'val') for entry in (
    (f'{VQAV2}Questions_{part.title()}_mscoco.zip', f'v2_OpenEnded_mscoco_{part}2014_questions.json'),
    (f'{VQAV2}Annotations_{part.title()}_mscoco.zip', f'v2_mscoco_{part}2014_annotations.json'))]
TEXTVQA_IMAGES = [(f'{TEXTVQA}images/train_val_images.zip', 'train_images')]
MSRVTT_VIDEOS = 'https://www.robots.ox.ac.uk/~maxbain/frozen-in-time/data/MSRVTT.zip', 'MSRVTT/videos/all'
# of tar shards
PICTURES = ('.jpg', '.jpeg', '.png', '.webp')
QA_FILES = 'train_qa.json', 'val_qa.json', 'test_qa.json'

# name -> the folder that its config file calls data_dir, and (where a file comes from, what is wanted of it: paths in that folder). What has
# no address is to be fetched by hand.
OFFICIAL = {
    'coco': ('data/coco', KARPATHY + COCO_2014),
    'vqav2': ('data/coco', VQAV2_TEXTS + COCO_2014),
    'vqav2_karpathy': ('data/coco', VQAV2_TEXTS + KARPATHY + COCO_2014),
    'okvqa': ('data/coco', [(f'{OKVQA}{file}.zip', file) for part in ('train', 'val') for file in (
        f'OpenEnded_mscoco_{part}2014_questions.json', f'mscoco_{part}2014_annotations.json')] + COCO_2014),
    'aokvqa': ('data/coco', [('https://prior-datasets.s3.us-east-2.amazonaws.com/aokvqa/aokvqa_v1p0.tar.gz',
                              'aokvqa_v1p0_train.json', 'aokvqa_v1p0_val.json'),
                             (f'{COCO}train2017.zip', 'train2017'), (f'{COCO}val2017.zip', 'val2017')]),
    'textcaps': ('data/textvqa', [(f'{TEXTVQA}data/textcaps/TextCaps_0.1_{part}.json', f'TextCaps_0.1_{part}.json') for part in ('train', 'val')]
                 + TEXTVQA_IMAGES),
    'textvqa': ('data/textvqa', [(f'{TEXTVQA}data/TextVQA_0.5.1_{part}.json', f'TextVQA_0.5.1_{part}.json') for part in ('train', 'val')]
                + TEXTVQA_IMAGES),
    'gqa': ('data/gqa', [(f'{GQA}questions1.2.zip', *(f'{part}_balanced_questions.json' for part in ('train', 'val', 'testdev'))),
                         (f'{GQA}images.zip', 'images')]),
    'cc3m': ('data/cc3m', [
        ('img2dataset (a Python package) gets the pictures that are left, from the two tsv files '
         'of the page https://ai.google.com/research/ConceptualCaptions/download with a first line '
         '"caption<tab>url". Put its tar shards (--output_format=webdataset) into shards/train and '
         'shards/val, and run this again: it unpacks them. Or put the tsv files here, and what '
         '--output_format=files writes into images/train and images/val',
         'images/train', 'images/val')]),
    'audiocaps': ('data/audiocaps', [(f'{AUDIOCAPS}{part}.csv', f'{part}.csv') for part in ('train', 'val', 'test')] + [
        ('clips of YouTube: aac-datasets or audiocaps-download (Python packages) get those that are left; name them {youtube_id}_{start_time}.wav',
         'audio/train', 'audio/val', 'audio/test')]),
    'msrvtt': ('data/msrvtt', [(*MSRVTT_VIDEOS, 'MSRVTT/annotation/MSR_VTT.json')]),
    'msrvtt_7k': ('data/msrvtt', [(*MSRVTT_VIDEOS, 'MSRVTT/annotation/MSR_VTT.json')]),
    'msrvtt_qa': ('data/msrvtt', [MSRVTT_VIDEOS, ('MSRVTT-QA, from the page https://data.mendeley.com/datasets/bvxhs33bw6', *QA_FILES)]),
    'msvd_qa': ('data/msvd', [('https://www.cs.utexas.edu/users/ml/clamp/videoDescription/YouTubeClips.tar', 'YouTubeClips'),
                              ('MSVD-QA, from the page https://data.mendeley.com/datasets/h5j7cpwnvn', *QA_FILES, 'youtube_mapping.txt')]),
}


def fetch_official(name, argv):
    """Fetch what is missing and load every split. Exits with 1 and says what is to be done by hand where that does not succeed."""
    folder, files = OFFICIAL[name]
    config = configure(dict(data_dir=folder, bad_rows='error', __doc__=__doc__), argv)
    folder, failed = Path(config['data_dir']), []
    if name == 'cc3m':
        unpack_shards(folder)
    for source, *wanted in files:
        wanted = [w for w in wanted if not (folder / w).exists()]
        if not wanted:
            continue
        if not source.startswith('http'):
            failed.append(f'{", ".join(str(folder / w) for w in wanted)}: to be fetched by hand: {source}')
            continue
        path = folder / 'downloads' / source.rsplit('/', 1)[1]
        try:
            download(source, path)
            unpack(path, folder, wanted)
        except (OSError, ValueError, http.client.HTTPException) as error:
            failed.append(f'{source}: {error}\n    To fetch it by hand, put it there: {path}')
    if failed:
        sys.exit(f'prepare.py {name}: not complete, {len(failed)} of {len(files)} are missing; run it again afterwards\n  ' + '\n  '.join(failed))
    try:
        rows = {split: load_examples(config | dict(dataset=name, restval=False, train_rows=0.0, seed=0), split) for split in ('train', 'val', 'test')}
    except BadData as error:
        sys.exit(f'prepare.py {name}: {error}')
    print(f'{name}: ' + ', '.join(f'{len(r)} {split}' for split, r in rows.items()) + f' rows, in {folder}')


def download(url, path):
    """Fetch to path, unless it is there. A part that an earlier run left is continued, where the server can. OSError if it is not complete."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + '.part')
    start = max(0, part.stat().st_size - 1) if part.exists() else 0     # its last byte anew: nobody has the rest of a part that is complete
    print(f'fetching {url}' + f', from byte {start:,} on' * (start > 0))
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers={'Range': f'bytes={start}-'} if start else {}), timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416:                                           # longer than the file now is: begin anew next time
            part.unlink()
        raise
    with response, open(part, 'ab') as f:
        f.truncate(start if response.status == 206 else 0)
        length = response.headers['Content-Length']
        total = f.seek(0, os.SEEK_END) + int(length) if length else 0
        while chunk := response.read(1 << 22):
            f.write(chunk)
            if sys.stdout.isatty():
                print(f'\r  {f.tell() / 1e6:,.0f} of {total / 1e6:,.0f} MB ', end='')
        if length and f.tell() != total:
            raise ConnectionError(f'cut off after {f.tell():,} of {total:,} bytes; it continues from there')
    part.replace(path)


def unpack(path, folder, wanted):
    """Put what is wanted of a download into its place in the folder, complete or not at all. ValueError, and the download is set aside, if it is
    not what it should be (zip archives have checksums)."""
    tmp = folder / f'{path.name}.tmp'
    shutil.rmtree(tmp, ignore_errors=True)                              # of a run that was killed
    tmp.mkdir()
    among = lambda name: any(f'{os.path.normpath(name)}/'.startswith(f'{w}/') for w in wanted)
    try:
        if path.suffix == '.zip':
            with zipfile.ZipFile(path) as z:
                z.extractall(tmp, filter(among, z.namelist()))
        elif path.suffix in ('.tar', '.gz'):
            with tarfile.open(path) as t:
                t.extraction_filter = getattr(tarfile, 'data_filter', None)     # newer than Python 3.11.3
                t.extractall(tmp, [m for m in t if among(m.name)])
        else:
            text = path.read_text(encoding='utf-8')
            json.loads(text) if path.suffix == '.json' else text.index('youtube_id')
            shutil.copy(path, tmp)
        if absent := [w for w in wanted if not (tmp / w).exists()]:
            raise ValueError(f'no {", ".join(absent)} in it')
        for w in wanted:
            (folder / w).parent.mkdir(parents=True, exist_ok=True)
            (tmp / w).replace(folder / w)
            print(f'{folder / w}: there')
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, ValueError) as error:
        path.replace(f'{path}.wrong')
        raise ValueError(f'it came as another file than expected ({error}), now {path}.wrong') from error
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


# ---- tar shards ----------------------------------------------------------------------------------

def unpack_shards(folder):
    """Unpacks folder/shards/{train,val}/*.tar, as img2dataset writes them, into
    folder/images/{train,val}/NAME OF THE SHARD/: the pictures and captions.jsonl. A shard that is
    there already, complete or not at all, is not unpacked again. Exits where one cannot be read."""
    for part in ('train', 'val'):
        for shard in sorted((folder / 'shards' / part).glob('*.tar')):
            target = folder / 'images' / part / shard.stem
            if target.exists():
                continue
            temporary = target.with_name(f'{target.name}.tmp')
            # of a run that was killed
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            try:
                count = unpack_shard(shard, temporary)
                temporary.replace(target)
            except (tarfile.TarError, EOFError, ValueError, KeyError) as error:
                sys.exit(f'{shard}: not a whole tar shard of img2dataset ({error}). Fetch it anew, '
                         f'or remove it to do without it')
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            print(f'{target}: {count} pictures')


def unpack_shard(shard, target):
    """Unpacks one shard: each picture KEY.jpg (or .jpeg, .png, .webp) with a caption, which is the
    text of KEY.txt or else `caption` in KEY.json. Returns their number. A picture without a caption
    is left out."""
    pictures, captions = {}, {}
    with tarfile.open(shard) as archive:
        for member in archive:
            # names alone: nothing is written outside the folder
            path = Path(Path(member.name).name)
            if not member.isfile():
                continue
            if path.suffix in PICTURES:
                (target / path).write_bytes(archive.extractfile(member).read())
                pictures[path.stem] = path.name
            elif path.suffix == '.txt':
                captions[path.stem] = archive.extractfile(member).read().decode()
            elif path.suffix == '.json':
                # img2dataset's caption is null where there was none
                entry = json.loads(archive.extractfile(member).read())
                captions.setdefault(path.stem, entry.get('caption') or '')
    lines = []
    for key, name in sorted(pictures.items()):
        caption = captions.get(key, '').strip()
        if caption:
            line = {'image': name, 'caption': caption}
            lines.append(json.dumps(line, ensure_ascii=False) + '\n')
        else:
            (target / name).unlink()
    (target / 'captions.jsonl').write_text(''.join(lines), encoding='utf-8')
    return len(lines)
