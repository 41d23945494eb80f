"""
The official files, downloaded from a server on this machine. `pytest tests/test_download.py`
"""

import dataclasses
import http.server
import io
import json
import shutil
import tarfile
import threading
import zipfile

import pytest

from nanopalm import datasets
from nanopalm.datasets import DATASETS, Source, load_examples
from nanopalm.download import fetch_official
from nanopalm.examples import BadData

# the files of the miniature, when it is complete
COMPLETE = {
    'dataset_coco.json',
    'val2014/train.jpg',
    'val2014/val.jpg',
    'val2014/test.jpg',
    'notes.json',
    'more.csv',
}


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the files of `server.files`."""

    def do_GET(self):
        server = self.server
        requested_range = self.headers['Range']
        server.requests.append((self.path, requested_range))
        content = server.files.get(self.path)
        if content is None:
            return self.send_error(404)
        start = 0
        if requested_range and server.accepts_ranges:
            start = int(requested_range[len('bytes=') : -1])
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header('Content-Length', str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : len(content) - server.bytes_cut_off])

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    """files: {path: bytes}. accepts_ranges: whether a download can continue. bytes_cut_off: how
    many bytes less are sent than announced. requests: the (path, range) of each request."""

    def __init__(self, files):
        super().__init__(('127.0.0.1', 0), Handler)
        self.files = files
        self.accepts_ranges = True
        self.bytes_cut_off = 0
        self.requests = []


def coco_archive():
    images = []
    for split in ('train', 'val', 'test'):
        images.append(
            {
                'filepath': 'val2014',
                'filename': f'{split}.jpg',
                'split': split,
                'cocoid': 0,
                'sentences': [{'raw': 'A cat.'}],
            }
        )
    content = io.BytesIO()
    with zipfile.ZipFile(content, 'w') as archive:
        archive.writestr('dataset_flickr8k.json', '{}')
        archive.writestr('dataset_coco.json', json.dumps({'images': images}))
    return content.getvalue()


def image_archive():
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode='w:gz') as archive:
        for name in (
            'val2014/train.jpg',
            './val2014/val.jpg',
            'val2014/test.jpg',
            'val2014_notes.txt',
        ):
            archive.addfile(tarfile.TarInfo(name))
    return content.getvalue()


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server with a miniature of COCO, which `fetch_official('coco', [])` downloads from there
    into tmp_path / 'data'."""
    server = Server(
        {
            '/caption_datasets.zip': coco_archive(),
            '/val2014.tar.gz': image_archive(),
            '/notes.json': b'[1, 2]',
            '/more.csv': b'id,text\n1,a\n',
        }
    )
    threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.01)).start()
    url = f'http://127.0.0.1:{server.server_port}'
    sources = [
        Source(['dataset_coco.json'], url=f'{url}/caption_datasets.zip'),
        Source(['val2014'], url=f'{url}/val2014.tar.gz'),
        Source(['notes.json'], url=f'{url}/notes.json'),
        Source(['more.csv'], url=f'{url}/more.csv'),
    ]
    set_sources(monkeypatch, tmp_path, sources)
    yield server
    server.shutdown()
    server.server_close()


def set_sources(monkeypatch, tmp_path, sources):
    entry = dataclasses.replace(DATASETS['coco'], folder=str(tmp_path / 'data'), sources=sources)
    monkeypatch.setitem(datasets.DATASETS, 'coco', entry)


def fetch_fails():
    """Returns the message with which the fetching of COCO exits."""
    with pytest.raises(SystemExit) as error:
        fetch_official('coco', [])
    # a message, which makes the exit status 1
    assert isinstance(error.value.code, str)
    return error.value.code


def files_in(folder):
    """Returns the relative paths of all files, without those in downloads/."""
    files = set()
    for path in folder.rglob('*'):
        if path.is_file() and 'downloads' not in path.parts:
            files.add(str(path.relative_to(folder)))
    return files


# ---- downloads that succeed ----------------------------------------------------------------------


def test_official_files_are_fetched_and_counted(server, tmp_path, capsys):
    fetch_official('coco', [])
    assert files_in(tmp_path / 'data') == COMPLETE
    assert 'coco: 1 train, 1 val, 1 test examples, in ' in capsys.readouterr().out
    assert not list(tmp_path.rglob('*.part'))
    assert not list(tmp_path.rglob('*.tmp'))
    assert len(server.requests) == 4


def test_files_that_exist_are_not_fetched_again(server, tmp_path):
    fetch_official('coco', [])
    fetch_official('coco', [])
    assert len(server.requests) == 4
    # its download is still there
    (tmp_path / 'data/notes.json').unlink()
    fetch_official('coco', [])
    assert len(server.requests) == 4
    assert files_in(tmp_path / 'data') == COMPLETE


def test_an_image_that_is_missing_afterwards_is_an_error(server, tmp_path):
    fetch_official('coco', [])
    (tmp_path / 'data/val2014/val.jpg').unlink()
    assert '1 of 1 images' in fetch_fails()


def test_another_folder(server, tmp_path):
    fetch_official('coco', [f'--data_dir={tmp_path}/elsewhere'])
    assert files_in(tmp_path / 'elsewhere') == COMPLETE
    assert not (tmp_path / 'data').exists()


@pytest.mark.parametrize('accepts_ranges', [True, False])
@pytest.mark.parametrize('share', [0.5, 1.0])
def test_a_download_continues(server, tmp_path, accepts_ranges, share):
    """A run was killed half-way, or just before the part got its name."""
    server.accepts_ranges = accepts_ranges
    content = server.files['/caption_datasets.zip']
    size = int(share * len(content))
    (tmp_path / 'data/downloads').mkdir(parents=True)
    part = tmp_path / 'data/downloads/caption_datasets.zip.part'
    part.write_bytes(content[:size])
    fetch_official('coco', [])
    assert server.requests[0] == ('/caption_datasets.zip', f'bytes={size - 1}-')
    assert files_in(tmp_path / 'data') == COMPLETE
    assert part.with_suffix('').read_bytes() == content
    assert not part.exists()


def test_a_download_that_is_cut_off_continues(server, tmp_path):
    server.bytes_cut_off = 3
    assert fetch_fails().count('cut off after') == 4
    assert files_in(tmp_path / 'data') == set()
    server.bytes_cut_off = 0
    fetch_official('coco', [])
    assert files_in(tmp_path / 'data') == COMPLETE
    for _, requested_range in server.requests[4:]:
        assert requested_range


def test_a_part_longer_than_the_file_is_fetched_anew(server, tmp_path):
    (tmp_path / 'data/downloads').mkdir(parents=True)
    (tmp_path / 'data/downloads/notes.json.part').write_bytes(b'x' * 100)
    assert 'notes.json: HTTP Error 416' in fetch_fails()
    fetch_official('coco', [])
    assert files_in(tmp_path / 'data') == COMPLETE


# ---- downloads that fail -------------------------------------------------------------------------

HTML = b'<!DOCTYPE html>'
FILES_IN_ARCHIVE = {'caption_datasets.zip': 1, 'val2014.tar.gz': 3, 'notes.json': 1, 'more.csv': 1}


def with_a_flipped_byte(content):
    middle = len(content) // 3
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


def archive_of_other_files(content):
    archive_content = io.BytesIO()
    with zipfile.ZipFile(archive_content, 'w') as archive:
        archive.writestr('notes.txt', 'other')
    return archive_content.getvalue()


def html_page(content):
    return HTML


def plain_text(content):
    return b'not found\n'


@pytest.mark.parametrize(
    'name, spoil',
    [
        ('caption_datasets.zip', html_page),
        ('caption_datasets.zip', with_a_flipped_byte),
        ('caption_datasets.zip', archive_of_other_files),
        ('val2014.tar.gz', html_page),
        ('val2014.tar.gz', with_a_flipped_byte),
        ('notes.json', html_page),
        ('more.csv', html_page),
        ('more.csv', plain_text),
    ],
)
def test_a_wrong_file_is_set_aside_and_fetched_anew(server, tmp_path, name, spoil):
    """The other files are kept."""
    right = server.files[f'/{name}']
    server.files[f'/{name}'] = spoil(right)
    message = fetch_fails()
    assert '1 of 4 are missing' in message
    assert f'/{name}: it came as another file than expected' in message
    assert not list(tmp_path.rglob('*.tmp'))
    assert len(files_in(tmp_path / 'data')) == len(COMPLETE) - FILES_IN_ARCHIVE[name]
    assert (tmp_path / f'data/downloads/{name}.wrong').is_file()

    server.files[f'/{name}'] = right
    fetch_official('coco', [])
    assert files_in(tmp_path / 'data') == COMPLETE
    assert len(server.requests) == 5


def test_a_file_that_the_server_does_not_have(server, tmp_path):
    del server.files['/val2014.tar.gz']
    message = fetch_fails()
    assert '1 of 4 are missing' in message
    assert 'val2014.tar.gz: HTTP Error 404' in message
    assert f'put it there: {tmp_path}/data/downloads/val2014.tar.gz' in message
    assert files_in(tmp_path / 'data') == {'dataset_coco.json', 'notes.json', 'more.csv'}


def test_no_server(server, tmp_path):
    server.shutdown()
    server.server_close()
    message = fetch_fails()
    assert '4 of 4 are missing' in message
    assert message.count('Connection refused') == 4
    assert files_in(tmp_path) == set()


def test_files_to_be_fetched_by_hand_are_named(server, tmp_path, monkeypatch):
    sources = DATASETS['coco'].sources
    by_hand = Source(['notes.json', 'other.json'], by_hand='Notes, from the page https://notes.org')
    set_sources(monkeypatch, tmp_path, [sources[0], sources[1], by_hand, sources[3]])
    folder = tmp_path / 'data'
    message = fetch_fails()
    assert (
        f'{folder}/notes.json, {folder}/other.json: to be fetched by hand: '
        f'Notes, from the page https://notes.org'
    ) in message
    assert files_in(folder) == COMPLETE - {'notes.json'}
    (folder / 'other.json').touch()
    assert f'\n  {folder}/notes.json: to be fetched by hand' in fetch_fails()


# ---- tar shards ----------------------------------------------------------------------------------


def write_shard(path, files):
    """Writes a tar file as img2dataset does. files: {name: bytes}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, 'w') as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path):
    """A folder with three shards of CC3M. Of the first one's samples, 2 has its caption in its
    .json alone, 3 has none, 4 failed and has no image, 5 wants to be written elsewhere."""
    write_shard(
        tmp_path / 'shards/train/00000.tar',
        {
            '000000000.jpg': b'image 0',
            '000000000.txt': b'a "red" dog',
            '000000000.json': b'{}',
            '000000002.png': b'image 2',
            '000000002.json': b'{"caption": "caf\xc3\xa9"}',
            '000000003.jpg': b'image 3',
            '000000003.json': b'{"caption": null}',
            '000000004.txt': b'gone',
            '000000004.json': b'{"status": "failed_to_download"}',
            '../../000000005.jpg': b'image 5',
            '../../000000005.txt': b'a cat',
        },
    )
    write_shard(
        tmp_path / 'shards/train/00001.tar',
        {'000010000.jpg': b'image', '000010000.txt': b'a bus'},
    )
    write_shard(
        tmp_path / 'shards/val/00000.tar',
        {'000000000.jpg': b'image', '000000000.txt': b'a boat'},
    )
    return tmp_path


def load_cc3m(folder, split='train'):
    config = dict(dataset='cc3m', data_dir=str(folder), bad_rows='error', train_rows=0.0)
    return load_examples(config, split)


def test_shards_of_cc3m_are_unpacked_and_read(shards, capsys):
    fetch_official('cc3m', [f'--data_dir={shards}'])
    assert 'cc3m: 4 train, 1 val, 1 test examples' in capsys.readouterr().out
    folder = shards / 'images/train'
    assert load_cc3m(shards) == [
        {
            'image': f'{folder}/00000/000000000.jpg',
            'caption': ['a "red" dog'],
            'id': '000000000',
        },
        {
            'image': f'{folder}/00000/000000002.png',
            'caption': ['caf\xe9'],
            'id': '000000002',
        },
        {
            'image': f'{folder}/00000/000000005.jpg',
            'caption': ['a cat'],
            'id': '000000005',
        },
        {
            'image': f'{folder}/00001/000010000.jpg',
            'caption': ['a bus'],
            'id': '000010000',
        },
    ]
    assert (folder / '00000/000000002.png').read_bytes() == b'image 2'
    images = [str(path.relative_to(shards)) for path in shards.rglob('*.jpg')]
    assert len(images) == 4
    assert all(path.startswith('images/') for path in images)
    assert [example['caption'] for example in load_cc3m(shards, 'test')] == [['a boat']]


def test_a_shard_of_cc3m_is_unpacked_once_and_a_new_one_is_added(shards):
    fetch_official('cc3m', [f'--data_dir={shards}'])
    image = shards / 'images/train/00000/000000000.jpg'
    image.write_bytes(b'changed')
    write_shard(
        shards / 'shards/train/00002.tar',
        {'000020000.jpg': b'image', '000020000.txt': b'a bird'},
    )
    fetch_official('cc3m', [f'--data_dir={shards}'])
    assert image.read_bytes() == b'changed'
    assert len(load_cc3m(shards)) == 5


# cut within a file, and between two: a header and a file of 5 bytes are two blocks of 512
@pytest.mark.parametrize('content', ['the first 700 bytes', 'the first 1024 bytes', 'html'])
def test_a_broken_shard_of_cc3m_is_named_and_leaves_nothing_behind(shards, content):
    shard = shards / 'shards/train/00001.tar'
    if content == 'html':
        shard.write_bytes(b'html')
    else:
        shard.write_bytes(shard.read_bytes()[: int(content.split()[2])])
    with pytest.raises(SystemExit, match='not a whole tar shard') as error:
        fetch_official('cc3m', [f'--data_dir={shards}'])
    assert str(shard) in str(error.value)
    assert [path.name for path in (shards / 'images/train').iterdir()] == ['00000']


def test_shards_of_cc3m_that_are_not_all_unpacked_are_not_taken_for_the_data_set(shards):
    fetch_official('cc3m', [f'--data_dir={shards}'])
    shutil.rmtree(shards / 'images/train/00001')
    with pytest.raises(BadData, match='00001.tar is not unpacked: `python prepare.py cc3m`'):
        load_cc3m(shards)
    # as after all are unpacked
    (shards / 'shards/train/00001.tar').unlink()
    assert len(load_cc3m(shards)) == 3


def test_cc3m_without_its_images_says_how_to_get_them(tmp_path):
    with pytest.raises(SystemExit, match='img2dataset') as error:
        fetch_official('cc3m', [f'--data_dir={tmp_path}'])
    message = str(error.value)
    assert f'{tmp_path}/images/train, {tmp_path}/images/val: to be fetched by hand' in message
