"""
The official files of a data set, by name: `python prepare.py coco [--data_dir=FOLDER]` downloads
them, checks them, unpacks them, and counts the examples of each split. Where they come from,
nanopalm/datasets.py says.

A download that was interrupted continues where it stopped. Files that exist are not downloaded
again, and an archive that was fetched by hand into FOLDER/downloads is used like any other;
FOLDER/downloads may be deleted afterwards.
"""

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
from nanopalm.datasets import DATASETS, load_examples
from nanopalm.examples import BadData
from nanopalm.jsonl import SPLITS

CHUNK = 4 * 1024 * 1024
TIMEOUT_SECONDS = 60
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp')

WRONG_DOWNLOAD = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, ValueError)


def fetch_official(name, argv):
    """Downloads the files of a data set that are missing, and loads every split. Exits with status
    1 and says what is to be done by hand where that does not succeed."""
    entry = DATASETS[name]
    defaults = dict(data_dir=entry.folder, bad_rows='error', __doc__=__doc__)
    config = configure(defaults, argv)
    folder = Path(config['data_dir'])
    unpack_shards(folder)
    failures = [fetch_source(source, folder) for source in entry.sources]
    failures = [failure for failure in failures if failure]
    if failures:
        lines = '\n  '.join(failures)
        sys.exit(
            f'prepare.py {name}: not complete, {len(failures)} of {len(entry.sources)} are '
            f'missing; run it again afterwards\n  {lines}'
        )
    config |= dict(dataset=name, train_rows=0.0)
    try:
        counts = [f'{len(load_examples(config, split))} {split}' for split in SPLITS]
    except BadData as error:
        sys.exit(f'prepare.py {name}: {error}')
    print(f'{name}: {", ".join(counts)} examples, in {folder}', flush=True)


def fetch_source(source, folder):
    """Fetches the files of a Source that are missing. Returns '', or why it did not succeed and
    what is to be done by hand."""
    missing = [file for file in source.files if not (folder / file).exists()]
    if not missing:
        return ''
    if source.by_hand:
        paths = ', '.join(str(folder / file) for file in missing)
        return f'{paths}: to be fetched by hand: {source.by_hand}'
    path = folder / 'downloads' / source.url.rsplit('/', 1)[1]
    try:
        download(source.url, path)
        unpack(path, folder, missing)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f'{source.url}: {error}\n    To fetch it by hand, put it there: {path}'
    return ''


# ---- downloads -----------------------------------------------------------------------------------


def download(url, path):
    """Downloads a file, unless it exists, and continues what an earlier run left of it, where the
    server can. Raises OSError if the file is not complete."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + '.part')
    start = 0
    if part.exists():
        # its last byte again: a server refuses to send the rest of a part that is complete
        start = max(0, part.stat().st_size - 1)
    if start:
        print(f'fetching {url}, from byte {start:,} on', flush=True)
    else:
        print(f'fetching {url}', flush=True)
    try:
        response = request(url, start)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            # the part is longer than the file is now: the next run begins anew
            part.unlink()
        raise
    with response:
        append(response, part, start)
    part.replace(path)


def request(url, start):
    """Returns the server's response: the file from byte `start` on."""
    headers = {}
    if start:
        headers['Range'] = f'bytes={start}-'
    return urllib.request.urlopen(
        urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS
    )


def append(response, part, start):
    """Writes a response into the file `part`, from byte `start` on. Raises ConnectionError if less
    came than the server announced."""
    with open(part, 'ab') as file:
        if response.status == http.client.PARTIAL_CONTENT:
            file.truncate(start)
        else:
            # the server sends the whole file
            file.truncate(0)
        length = response.headers['Content-Length']
        total = 0
        if length:
            total = file.seek(0, os.SEEK_END) + int(length)
        while chunk := response.read(CHUNK):
            file.write(chunk)
            if sys.stdout.isatty():
                print(f'\r  {file.tell() / 1e6:,.0f} of {total / 1e6:,.0f} MB ', end='', flush=True)
        if length and file.tell() != total:
            raise ConnectionError(
                f'cut off after {file.tell():,} of {total:,} bytes; it continues from there'
            )


# ---- archives ------------------------------------------------------------------------------------


def unpack(path, folder, files):
    """Moves these files and folders of a download into the folder, each complete or not at all.
    Raises ValueError if the download is not what it should be (zip archives have checksums), and
    renames it to NAME.wrong."""
    temporary = folder / f'{path.name}.tmp'
    # left by a run that was killed
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        extract(path, temporary, files)
        absent = [file for file in files if not (temporary / file).exists()]
        if absent:
            raise ValueError(f'no {", ".join(absent)} in it')
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (temporary / file).replace(folder / file)
            print(f'{folder / file}: complete', flush=True)
    except WRONG_DOWNLOAD as error:
        path.replace(f'{path}.wrong')
        raise ValueError(
            f'it came as another file than expected ({error}), now {path}.wrong'
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def extract(path, target, files):
    """Extracts the wanted files of a .zip, .tar or .tar.gz archive into the folder `target`, or
    copies a .json or .csv file there. Raises one of WRONG_DOWNLOAD for a file of another kind."""
    if path.suffix == '.zip':
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if is_wanted(name, files)]
            archive.extractall(target, names)
    elif path.suffix in ('.tar', '.gz'):
        with tarfile.open(path) as archive:
            # an attribute of Python 3.11.4 and later
            archive.extraction_filter = getattr(tarfile, 'data_filter', None)
            members = [member for member in archive if is_wanted(member.name, files)]
            archive.extractall(target, members)
    else:
        check_text(path)
        shutil.copy(path, target)


def is_wanted(name, files):
    """Returns whether the file `name` of an archive is one of these files or in one of these
    folders."""
    name = os.path.normpath(name)
    return any(f'{name}/'.startswith(f'{file}/') for file in files)


def check_text(path):
    """Raises ValueError for a text file that is not what its name says, such as an HTML page."""
    text = path.read_text(encoding='utf-8')
    header = text.partition('\n')[0]
    if path.suffix == '.json':
        json.loads(text)
    elif text.lstrip().startswith('<'):
        raise ValueError('an HTML page')
    elif path.suffix == '.csv' and ',' not in header:
        raise ValueError('no header with the names of the columns')


# ---- tar shards ----------------------------------------------------------------------------------


def unpack_shards(folder):
    """Unpacks folder/shards/{train,val}/*.tar, as img2dataset writes them, if there are any, into
    folder/images/{train,val}/NAME OF THE SHARD/: the images and captions.jsonl. A shard that is
    unpacked already is skipped. Exits with a message where one cannot be read."""
    for part in ('train', 'val'):
        for shard in sorted((folder / 'shards' / part).glob('*.tar')):
            target = folder / 'images' / part / shard.stem
            if target.exists():
                continue
            temporary = target.with_name(f'{target.name}.tmp')
            # left by a run that was killed
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            try:
                count = unpack_shard(shard, temporary)
                temporary.replace(target)
            except (tarfile.TarError, EOFError, ValueError, KeyError) as error:
                sys.exit(
                    f'{shard}: not a whole tar shard of img2dataset ({error}). Fetch it anew, '
                    f'or remove it to do without it'
                )
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            print(f'{target}: {count} images', flush=True)


def check_end(archive):
    """Raises tarfile.ReadError where a tar file that has been read to its end has no end: it was
    cut off between two files, which tarfile does not notice."""
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError('it is cut off')


def unpack_shard(shard, target):
    """Unpacks one shard: each image KEY.jpg (or .jpeg, .png, .webp) that has a caption, which is
    the text of KEY.txt or else `caption` in KEY.json. Returns the number of images."""
    images = {}
    captions = {}
    with tarfile.open(shard) as archive:
        for member in archive:
            # names without folders: nothing is written outside the target
            path = Path(Path(member.name).name)
            if not member.isfile():
                continue
            if path.suffix in IMAGE_SUFFIXES:
                (target / path).write_bytes(archive.extractfile(member).read())
                images[path.stem] = path.name
            elif path.suffix == '.txt':
                captions[path.stem] = archive.extractfile(member).read().decode()
            elif path.suffix == '.json':
                entry = json.loads(archive.extractfile(member).read())
                # img2dataset's caption is null for an image without one
                captions.setdefault(path.stem, entry.get('caption') or '')
        check_end(archive)
    lines = []
    for key, name in sorted(images.items()):
        caption = captions.get(key, '').strip()
        if not caption:
            (target / name).unlink()
            continue
        line = {'image': name, 'caption': caption}
        lines.append(json.dumps(line, ensure_ascii=False) + '\n')
    (target / 'captions.jsonl').write_text(''.join(lines), encoding='utf-8')
    return len(lines)
