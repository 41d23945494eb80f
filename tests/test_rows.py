"""
Rows of sounds and videos: own files, and the official ones in miniature. `pytest tests/test_rows.py`
"""
import csv
import json

import pytest

from nanopalm.datasets import load_examples
from nanopalm.examples import BadData, spread_examples


def load(dataset, split='train', **knobs):
    return load_examples(dict(dataset=str(dataset), data_dir='', restval=False, bad_rows='error', train_rows=0.0, seed=0) | knobs, split)


def message(dataset, split='train', **knobs):
    with pytest.raises(BadData) as e:
        load(dataset, split, **knobs)
    return str(e.value)


def touch(folder, *names):
    """Rows look whether a file is there, not what is in it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


# ---- own data -------------------------------------------------------------------------------------------------------

@pytest.fixture
def jsonl(tmp_path):
    """jsonl(row, ...) -> a file of them beside a.png, a.wav and a.mp4."""
    touch(tmp_path, 'a.png', 'a.wav', 'a.mp4')

    def write(*rows, name='train.jsonl'):
        (tmp_path / name).write_text('\n'.join(map(json.dumps, rows)))
        return tmp_path
    return write


@pytest.mark.parametrize('medium, file', [('image', 'a.png'), ('audio', 'a.wav'), ('video', 'a.mp4')])
def test_every_medium(jsonl, medium, file):
    folder = jsonl({medium: file, 'caption': 'A cat.', 'instruction': 'Say it:'},
                   {medium: file, 'question': 'why?', 'answers': ['so'], 'instruction': 'Q: {prompt}'})
    assert load(folder) == [{medium: str(folder / file), 'caption': ['A cat.'], 'instruction': 'Say it:', 'id': 0},
                            {medium: str(folder / file), 'question': 'why?', 'answers': ['so'], 'instruction': 'Q: {prompt}', 'id': 1}]


@pytest.mark.parametrize('row, words', [
    (dict(caption='x'), "no key 'image', 'audio' or 'video', expected a path"),
    (dict(audio='a.wav', video='a.mp4', caption='x'), "keys 'audio' and 'video', expected one of them"),
    (dict(audio='b.wav', caption='x'), "key 'audio': there is no file"),
    (dict(video=['a.mp4'], caption='x'), "key 'video' is ['a.mp4'], expected a path"),
    (dict(vidoe='a.mp4', caption='x'), "did you mean 'video'?"),
    (dict(audio='a.wav', caption='x', instruction=3), "key 'instruction' is 3, expected a text"),
    (dict(audio='a.wav', caption='x', instruction='{prompts}'), 'expected no braces but those of {prompt}'),
    (dict(audio='a.wav', caption='x', instruction='{'), 'expected no braces but those of {prompt}'),
    (dict(audio='a.wav', caption='x', instruction='{prompt.x}'), 'expected no braces but those of {prompt}'),
    (dict(audio='a.wav', question='x', answers='x', instruction='Answer:'), 'with {prompt} in it')])
def test_wrong_lines(jsonl, row, words):
    text = message(jsonl(dict(audio='a.wav', caption='x'), row))
    assert 'train.jsonl: ' in text and [words in line for line in text.split('\n') if line.startswith('  line 2: ')].count(True) == 1


def test_media_are_not_mixed(jsonl):
    wav, mp4 = dict(audio='a.wav', caption='x'), dict(video='a.mp4', caption='x')
    text = message(jsonl(wav, wav, mp4, wav, mp4))
    assert "1 wrong line\n  line 3: shows key 'video', but line 1 'audio'" in text


def test_missing_files_are_left_out(jsonl, capsys):
    gone = [dict(audio=f'gone{i}.wav', caption='x') for i in range(25)]
    folder = jsonl(*gone[:3], dict(audio='a.wav', caption='x'), *gone[3:])
    assert '25 wrong lines' in message(folder) and not capsys.readouterr().out
    assert [r['audio'] for r in load(folder, bad_rows='skip')] == [str(folder / 'a.wav')]
    lines = capsys.readouterr().out.splitlines()
    assert 'left out 25 of 26 rows' in lines[0] and 'line 1: ' in lines[1] and len(lines) == 22 and lines[-1].strip() == '... and 5 more'
    text = message(jsonl(gone[0], dict(audio='gone.wav', caption='')), bad_rows='skip')      # what else is wrong is an error still
    assert '1 wrong line\n' in text and "line 2: key 'caption'" in text
    assert "line 2: shows key 'video'" in message(jsonl(gone[0], dict(video='a.mp4', caption='x')), bad_rows='skip')
    assert 'no rows' in message(jsonl(*gone), bad_rows='skip')


def test_one_file_of_sounds_is_split(jsonl, tmp_path):
    touch(tmp_path, *(f'{i}.wav' for i in range(30)))
    path = jsonl(*(dict(audio=f'{i % 30}.wav', caption='x') for i in range(40)), name='rows.jsonl') / 'rows.jsonl'
    parts = {split: {r['audio'] for r in load(path, split)} for split in ('train', 'val', 'test')}
    assert {split: len(p) for split, p in parts.items()} == dict(train=24, val=3, test=3) and len(set().union(*parts.values())) == 30
    jsonl(dict(audio='a.wav', caption='x'), name='rows.jsonl')
    assert '1 image, audio or video file(s), too few' in message(path)


# ---- official files in miniature ------------------------------------------------------------------------------------

def audiocaps(folder):
    captions = dict(train=[(91139, 'r1nicOVtvkQ', 130, 'A woman talks nearby as water pours'),
                           (58146, '-0mG4S5Hlhk', 30, 'Constant rattling, noise and\n"birds"')],
                    val=[(97151, 'rqfQRErjfk8', 170, 'A crowd cheers'), (97152, 'rqfQRErjfk8', 170, 'Applause')],
                    test=[(103549, '7fmOlUlwoNg', 20, 'Rattling'), (103548, '7fmOlUlwoNg', 20, 'A helicopter')])
    names = dict(train=[('r1nicOVtvkQ_130', 'train/r1nicOVtvkQ_130.wav'), ('-0mG4S5Hlhk_30', 'train/58146.flac')],
                 val=[('rqfQRErjfk8_170', 'val/rqfQRErjfk8_170.wav')], test=[('7fmOlUlwoNg_20', 'test/103548.wav')])
    for split, lines in captions.items():
        with open(folder / f'{split}.csv', 'w', newline='') as f:
            csv.writer(f).writerows([('audiocap_id', 'youtube_id', 'start_time', 'caption'), *lines])
    touch(folder / 'audio/train', 'r1nicOVtvkQ_130.wav', '58146.flac', '58146.json')
    touch(folder / 'audio/val', 'rqfQRErjfk8_170.wav', '97152.ogg')
    touch(folder / 'audio/test', '103548.wav')
    rows = {}
    for split in names:
        rows[split] = []
        for name, file in names[split]:
            texts = []
            for _, youtube_id, _, text in captions[split]:
                if name.startswith(youtube_id):
                    texts.append(text.replace(',', '').replace('"', ''))
            rows[split].append(dict(audio=f'audio/{file}', caption=texts, id=name))
    return rows


def test_captions_of_audiocaps_have_no_commas_and_quotation_marks(tmp_path):
    audiocaps(tmp_path)
    captions = load('audiocaps', data_dir=str(tmp_path))[1]['caption']
    assert captions == ['Constant rattling noise and\nbirds']


MSRVTT_SPLIT = dict(train=('video0', 'video6512'), val=('video6513', 'video7009'), test=('video7010', 'video9999'))


def msrvtt(folder):
    """As in MSRVTT.zip."""
    touch(folder / 'MSRVTT/videos/all', *(f'{v}.mp4' for videos in MSRVTT_SPLIT.values() for v in videos))
    (folder / 'MSRVTT/annotation').mkdir()
    told = [(v, f'{text} {v}') for text in ('a man in', 'someone sings in') for videos in MSRVTT_SPLIT.values() for v in videos]
    (folder / 'MSRVTT/annotation/MSR_VTT.json').write_text(json.dumps(dict(
        info=dict(year='2016'), images=[dict(id=v) for v, _ in told], type='captions', licenses='',
        annotations=[dict(image_id=v, caption=text, id=i) for i, (v, text) in enumerate(told)])))
    return {split: [dict(video=f'MSRVTT/videos/all/{v}.mp4', caption=[f'a man in {v}', f'someone sings in {v}'], id=v) for v in videos]
            for split, videos in MSRVTT_SPLIT.items()}


def msrvtt_challenge(folder):
    """The files of the challenge; here video1 is in val, so the key split decides, not the number."""
    touch(folder / 'MSRVTT/videos/all', 'video0.mp4', 'video1.mp4', 'video7010.mp4')
    for name, videos in dict(train_val=[('video0', 'train'), ('video1', 'validate')], test=[('video7010', 'test')]).items():
        (folder / f'{name}_videodatainfo.json').write_text(json.dumps(dict(
            info=dict(contributor='Microsoft MSM group', version='1.0'),
            videos=[dict(category=9, url='https://www.youtube.com/watch?v=9lZi22qLlEo', video_id=v, id=i, split=split, **{'start time': 1.5})
                    for i, (v, split) in enumerate(videos)],
            sentences=[dict(caption=f'a car {n}', video_id=v, sen_id=n) for n in range(2) for v, _ in videos])))
    return {split: [dict(video=f'MSRVTT/videos/all/{v}.mp4', caption=['a car 0', 'a car 1'], id=v)] for split, v in dict(
        train='video0', val='video1', test='video7010').items()}


def msrvtt_qa(folder, file_of='MSRVTT/videos/all/video{}.mp4', keys=dict(category_id=14)):
    rows = {}
    for number, split in enumerate(('train', 'val', 'test'), 1):
        touch((folder / file_of.format(number)).parent, (folder / file_of.format(number)).name)
        (folder / f'{split}_qa.json').write_text(json.dumps([
            dict(answer=a, id=10 * number + i, question=q, video_id=number) | keys
            for i, (q, a) in enumerate([('what is a man doing?', 'talk'), ('who sings?', 'boy')])]))
        rows[split] = [dict(video=file_of.format(number), question='what is a man doing?', answers=['talk'], id=10 * number),
                       dict(video=file_of.format(number), question='who sings?', answers=['boy'], id=10 * number + 1)]
    return rows


def msvd_qa(folder):
    names = ['-4wsuPCjDBc_5_15', '-7KMZQEsJW4_205_208', '-8y1Q0rA3n8_108_115']
    (folder / 'youtube_mapping.txt').write_text(''.join(f'{name} vid{i}\n' for i, name in enumerate(names, 1)))
    touch(folder / 'YouTubeClips', *(f'{name}.avi' for name in names))
    rows = msrvtt_qa(folder, '{}', keys={})
    return {split: [r | dict(video=f'YouTubeClips/{names[int(r["video"]) - 1]}.avi') for r in rows[split]] for split in rows}


@pytest.mark.parametrize('make', [audiocaps, msrvtt, msrvtt_challenge, msrvtt_qa, msvd_qa], ids=lambda make: make.__name__)
def test_official_files(make, tmp_path, capsys):
    expected = make(tmp_path)
    name, medium = make.__name__.removesuffix('_challenge'), 'audio' if make is audiocaps else 'video'
    load_it = lambda split='train', **knobs: load(name, split, data_dir=str(tmp_path), **knobs)
    for split, rows in expected.items():
        assert load_it(split) == [r | {medium: str(tmp_path / r[medium])} for r in rows]
    assert not capsys.readouterr().out
    gone = tmp_path / expected['train'][0][medium]
    gone.unlink()
    files = len({r[medium] for r in expected['train']})
    what = 'audio files' if make is audiocaps else 'videos'
    text = message(name, data_dir=str(tmp_path))
    assert f'1 of {files} {what}' in text and str(gone) in text and '--bad_rows=skip' in text
    if files > 1:
        assert load_it(bad_rows='skip') == [r | {medium: str(tmp_path / r[medium])} for r in expected['train'] if tmp_path / r[medium] != gone]
        assert f'left out 1 of {files} {what}' in (out := capsys.readouterr().out) and str(gone) in out
    else:
        assert 'no rows' in message(name, data_dir=str(tmp_path), bad_rows='skip')
    for wrong in ('<!DOCTYPE html>\n<p>not found', '[{"a": 1}]\n\n', '{"annotations": [{"id": 1}]}')[:1 if make is audiocaps else 3]:
        for path in [*tmp_path.glob('train*'), *tmp_path.glob('MSRVTT/annotation/*')]:
            path.write_text(wrong)
        assert 'not the file of' in message(name, data_dir=str(tmp_path))


def test_no_such_file_says_what_it_is_part_of(tmp_path):
    for name, words in dict(audiocaps='train.csv: no such file. It is part of AudioCaps', msrvtt='MSR_VTT.json: no such file. It is part of MSR-VTT',
                            msrvtt_qa='train_qa.json: no such file. It is part of MSRVTT-QA', msvd_qa='youtube_mapping.txt: no such file').items():
        assert words in message(name, data_dir=str(tmp_path))
    msvd_qa(tmp_path)
    (tmp_path / 'youtube_mapping.txt').write_text('vid1 -4wsuPCjDBc_5_15\n')
    assert 'youtube_mapping.txt: not the file of' in message('msvd_qa', data_dir=str(tmp_path))


# ---- CC3M ----------------------------------------------------------------------------------------

def cc3m_by_tsv(folder, header=''):
    """The official tsv files, and pictures as img2dataset's `files` output names them; that of the
    second line of train is gone."""
    lines = ['a "quoted" dog , on grass\thttp://a.example/1', 'gone\thttp://a.example/2',
             'a cat\thttp://a.example/3']
    (folder / 'Train_GCC-training.tsv').write_text(header + '\n'.join(lines) + '\n')
    (folder / 'Validation_GCC-1.1.0-Validation.tsv').write_text('a boat\thttp://a.example/4\n')
    touch(folder / 'images/train/00000', '000000000.jpg', '000000002.jpg', '000000002.txt')
    touch(folder / 'images/val/00000', '000000000.jpg')


@pytest.mark.parametrize('header', ['', 'caption\turl\n'])
def test_cc3m_by_its_official_tsv(tmp_path, header, capsys):
    cc3m_by_tsv(tmp_path, header)
    rows = load('cc3m', data_dir=str(tmp_path), bad_rows='skip')
    folder = tmp_path / 'images/train/00000'
    assert rows == [
        {'image': str(folder / '000000000.jpg'), 'caption': ['a "quoted" dog , on grass'],
         'id': '000000000'},
        {'image': str(folder / '000000002.jpg'), 'caption': ['a cat'], 'id': '000000002'}]
    assert 'left out 1 of 3 images' in capsys.readouterr().out
    assert '000000001.jpg' in message('cc3m', data_dir=str(tmp_path))
    for split in ('val', 'test'):
        (row,) = load('cc3m', split, data_dir=str(tmp_path))
        assert row['caption'] == ['a boat']


def test_the_ten_thousandth_picture_of_cc3m_is_in_the_next_folder(tmp_path):
    lines = [f'number {i}\thttp://a.example/{i}' for i in range(10_003)]
    (tmp_path / 'Train_GCC-training.tsv').write_text('\n'.join(lines))
    touch(tmp_path / 'images/train/00001', '000010002.jpg')
    (row,) = load('cc3m', data_dir=str(tmp_path), bad_rows='skip')
    assert row['caption'] == ['number 10002'] and row['id'] == '000010002'


def test_a_wrong_line_of_cc3m_is_named(tmp_path):
    cc3m_by_tsv(tmp_path)
    path = tmp_path / 'Train_GCC-training.tsv'
    path.write_text('a dog\thttp://a.example/1\nno address\n')
    text = message('cc3m', data_dir=str(tmp_path))
    assert str(path) in text and "line 2 is 'no address', expected a caption, a tab, a URL" in text


def test_cc3m_says_what_is_missing(tmp_path):
    text = message('cc3m', data_dir=str(tmp_path))
    assert f'{tmp_path}/images/train: no such file or folder' in text and 'prepare.py cc3m' in text
    touch(tmp_path / 'images/train/00000', '000000000.jpg')
    assert 'Train_GCC-training.tsv: no such file' in message('cc3m', data_dir=str(tmp_path))


# ---- rows of a picture, rows of a split ----------------------------------------------------------

@pytest.mark.parametrize('limit, expected', [
    (0, 10), (0.0, 10), (0.5, 5), (0.04, 1), (1, 10), (1.0, 10), (2, 2), (7.0, 7), (99, 10)])
def test_rows_are_limited_by_a_fraction_or_a_number(limit, expected):
    rows = [{'id': i} for i in range(10)]
    spread = spread_examples(rows, limit)
    assert len(spread) == expected and spread[0] == rows[0]
    numbers = [row['id'] for row in spread]
    assert numbers == sorted(set(numbers))
    assert limit != 2 or numbers == [0, 5]
