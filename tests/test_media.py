"""
Sound and video: what is read, how it is made fit, what is refused; and both through train -> eval -> sample. `pytest tests/test_media.py`
"""
import io
import json
import math
import struct

import numpy as np
import pytest
import soundfile
import torch
import transformers
from conftest import configured, flags
from PIL import Image, ImageEnhance, ImageOps
from torchvision.transforms import v2

from encoders import Preprocessing
from nanopalm import media
from nanopalm.datasets import load_examples
from nanopalm.examples import BadData

FBANK = Preprocessing('audio', (256, 128))
CLIP = Preprocessing('video', (4, 3, 32, 32), (0.5,) * 3, (0.5,) * 3, 'bicubic')


def tone(path, hz=440, seconds=1.0, rate=22050, channels=1):
    wave = 0.3 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)
    soundfile.write(path, np.stack([wave] * channels, axis=1), rate)
    return path


def chunk(name, data):
    return name + struct.pack('<I', len(data)) + data + b'\0' * (len(data) % 2)


def video(path, colours, size=(64, 32)):
    """A video of plain frames, one a colour: Motion JPEG in an AVI file."""
    frames = []
    for colour in colours:
        Image.new('RGB', size, colour).save(jpeg := io.BytesIO(), 'JPEG', quality=95)
        frames.append(chunk(b'00dc', jpeg.getvalue()))
    n, (w, h) = len(frames), size
    main = struct.pack('<14I', 100_000, 0, 0, 0x10, n, 0, 1, 1 << 16, w, h, 0, 0, 0, 0)
    stream = struct.pack('<4s4sIHHIIIIIIII4H', b'vids', b'MJPG', 0, 0, 0, 0, 1, 10, 0, n, 1 << 16, 0xffffffff, 0, 0, 0, w, h)
    form = struct.pack('<IiiHH4sIiiII', 40, w, h, 1, 24, b'MJPG', w * h * 3, 0, 0, 0, 0)
    header = b'hdrl' + chunk(b'avih', main) + chunk(b'LIST', b'strl' + chunk(b'strh', stream) + chunk(b'strf', form))
    places, at = [], 4
    for frame in frames:
        places.append(struct.pack('<4sIII', b'00dc', 0x10, at, len(frame) - 8))
        at += len(frame)
    path.write_bytes(chunk(b'RIFF', b'AVI ' + chunk(b'LIST', header) + chunk(b'LIST', b'movi' + b''.join(frames)) + chunk(b'idx1', b''.join(places))))
    return path


# ---- sound ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('ending', ['wav', 'flac', 'ogg', 'mp3', 'aiff'])
def test_formats_of_sound(tmp_path, ending):
    wave = media.read_audio(tone(tmp_path / f'a.{ending}', channels=2), 16000)
    spectrum = torch.fft.rfft(wave[2000:2000 + 8000]).abs()
    assert wave.dtype == torch.float32 and abs(len(wave) - 16000) < 1200 and abs(int(spectrum.argmax()) * 2 - 440) <= 2      # mp3 pads


def test_channels_are_averaged(tmp_path):
    soundfile.write(tmp_path / 'a.wav', np.stack([np.full(8000, 0.5), np.zeros(8000)], axis=1), 16000, subtype='FLOAT')
    assert media.read_audio(tmp_path / 'a.wav', 16000).equal(torch.full((8000,), 0.25))


def test_spectrogram_is_that_of_ast(tmp_path):
    path = tone(tmp_path / 'a.wav', seconds=1.5, rate=16000)
    ours = media.load(path, FBANK)
    theirs = transformers.ASTFeatureExtractor(max_length=256)(media.read_audio(path, 16000).numpy(), sampling_rate=16000, return_tensors='pt').input_values[0]
    silence = (0 - media.AUDIOSET_MEAN) / (2 * media.AUDIOSET_STD)
    assert ours.shape == theirs.shape == (256, 128) and (ours[150:] == silence).all()
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)                      # ASTFeatureExtractor leaves the mean in the wave


def test_long_clips_are_cut_and_masked_in_training(tmp_path):
    path = tone(tmp_path / 'a.wav', seconds=6, rate=16000)
    plain = media.load(path, FBANK)
    assert plain.equal(media.load(path, FBANK)) and plain.shape == (256, 128)
    views = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        views.append(media.load(path, FBANK, train=True))
    masked = (0 - media.AUDIOSET_MEAN) / (2 * media.AUDIOSET_STD)
    assert views[0].equal(views[2]) and not views[0].equal(views[1])
    blank = [(v == masked) for v in views]
    assert all(b.all(0).sum() <= 24 and b.all(1).sum() <= 96 for b in blank) and any(b.any() for b in blank) and not (plain == masked).all(1).any()


def test_extractors_of_whisper_and_clap(tmp_path):
    path = tone(tmp_path / 'a.wav', seconds=3)
    whisper = Preprocessing('audio', (80, 200), extractor=transformers.WhisperFeatureExtractor(80, chunk_length=2), seconds=2)
    clap = Preprocessing('audio', (1, 1001, 64), extractor=transformers.ClapFeatureExtractor(truncation='rand_trunc'), seconds=10)
    for how in (whisper, clap):
        x = media.load(path, how)
        assert x.shape == how.shape and x.dtype == torch.float32 and x.isfinite().all() and x.equal(media.load(path, how))


def test_a_spectrogram_is_made_in_float32_within_autocast(tmp_path):
    path = tone(tmp_path / 'a.wav', seconds=3)
    extractor = transformers.WhisperFeatureExtractor(80, chunk_length=2)
    whisper = Preprocessing('audio', (80, 200), extractor=extractor, seconds=2)
    for preprocessing in (whisper, FBANK):
        plain = media.load(path, preprocessing)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            assert media.load(path, preprocessing).equal(plain)


@pytest.mark.parametrize('make, words', [
    (lambda p: p.write_bytes(b'RIFF' + b'nothing' * 50), ['not a readable sound']), (lambda p: None, ['not a readable sound']),
    (lambda p: p.write_bytes(b''), ['not a readable sound']), (lambda p: tone(p, seconds=0.05), ['too short', '0.050 seconds']),
    (lambda p: tone(p, seconds=0), ['too short']), (lambda p: soundfile.write(p, np.full(9000, np.nan), 16000, subtype='FLOAT'), ['no numbers'])])
def test_broken_sounds_are_named(tmp_path, make, words):
    make(tmp_path / 'a.wav')
    with pytest.raises(BadData) as e:
        media.load(tmp_path / 'a.wav', FBANK)
    assert all(w in str(e.value) for w in [str(tmp_path / 'a.wav'), *words])


# ---- pictures -----------------------------------------------------------------------------------

PICTURE = Preprocessing('image', (3, 224, 224), (0.0,) * 3, (1.0,) * 3, 'bicubic')
ENLARGED = Preprocessing('image', (3, 224, 224), (0.0,) * 3, (1.0,) * 3, 'bicubic', crop_pct=0.9)


def noise(path, size=(90, 60)):
    """A file with a smooth picture of random colours."""
    small = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    Image.fromarray(small).resize(size, Image.BICUBIC).save(path)
    return path


def loaded(path, preprocessing, resize='squash', train=False):
    """What media.load gives for mean 0 and deviation 1, as an array of bytes (H, W, 3)."""
    x = media.load(path, preprocessing, resize, train)
    return (x * 255).round().byte().permute(1, 2, 0).numpy()


def test_the_square_of_a_squash_is_enlarged_and_its_centre_cut_out(tmp_path):
    path = noise(tmp_path / 'a.png')
    square = Image.open(path).resize((224, 224), Image.BICUBIC)
    centre = square.resize((248, 248), Image.BICUBIC).crop((12, 12, 236, 236))
    assert np.array_equal(loaded(path, ENLARGED), centre)
    assert np.array_equal(loaded(path, PICTURE), square)
    assert np.array_equal(loaded(path, ENLARGED, 'squash_whole'), square)
    for resize in ('pad', 'crop'):
        assert np.array_equal(loaded(path, ENLARGED, resize), loaded(path, PICTURE, resize))


def test_the_square_is_enlarged_in_training_too(tmp_path):
    path = noise(tmp_path / 'a.png')
    for seed in range(5):
        torch.manual_seed(seed)
        square = Image.fromarray(loaded(path, PICTURE, train=True))
        torch.manual_seed(seed)
        centre = square.resize((248, 248), Image.BICUBIC).crop((12, 12, 236, 236))
        assert np.array_equal(loaded(path, ENLARGED, train=True), centre)


def opencv_affine(array, forward):
    """An array (H, W, 3) moved by a matrix (2, 3) from source to target pixels, which are counted
    from the middle of the first, bilinearly and with grey around, as cv2.warpAffine does it."""
    H, W, _ = array.shape
    inverse = np.linalg.inv(np.vstack([forward, [0, 0, 1]]))
    y, x = np.mgrid[:H, :W]
    u, v, _ = inverse @ np.stack([x.ravel(), y.ravel(), np.ones(H * W)])
    left, top = np.floor(u).astype(int), np.floor(v).astype(int)
    result = np.zeros((H * W, 3))
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        i, j = left + dx, top + dy
        weight = (1 - abs(u - i)) * (1 - abs(v - j))
        inside = (i >= 0) & (i < W) & (j >= 0) & (j < H)
        value = np.full((H * W, 3), 128.0)
        value[inside] = array[j[inside], i[inside]]
        result += weight[:, None] * value
    return result.reshape(H, W, 3)


def matrix_of(name, side, size):
    """What an operation does to pixels (x, y) at level 7 of 10, to one side: a matrix (2, 3)."""
    amount = 0.3 * 0.7 * side
    turn = math.radians(30 * 0.7 * side)
    a, b, c = math.cos(turn), math.sin(turn), size / 2
    return np.array(dict(
        shear_x=[[1, amount, 0], [0, 1, 0]],
        shear_y=[[1, 0, 0], [amount, 1, 0]],
        translate_x=[[1, 0, 7 * side], [0, 1, 0]],
        translate_y=[[1, 0, 0], [0, 1, 7 * side]],
        rotate=[[a, b, (1 - a) * c - b * c], [-b, a, b * c + (1 - a) * c]])[name])


@pytest.mark.parametrize('name', ['shear_x', 'shear_y', 'translate_x', 'translate_y', 'rotate'])
def test_operations_that_move_a_picture_are_those_of_the_papers(tmp_path, name):
    image = Image.open(noise(tmp_path / 'a.png', (96, 96)))
    augment, sides = media.PictureRandAugment(), set()
    for seed in range(8):
        torch.manual_seed(seed)
        ours = np.asarray(augment.apply(image, name)).astype(float)
        for side in (1, -1):
            theirs = opencv_affine(np.asarray(image).astype(float), matrix_of(name, side, 96))
            # at the border of the picture OpenCV blends with grey and Pillow does not
            if np.median(abs(ours - theirs)) <= 1 and np.mean(abs(ours - theirs) > 2) < 0.02:
                sides.add(side)
    assert sides == {1, -1}


def test_operations_on_colours_are_those_of_pillow_at_level_7(tmp_path):
    image = Image.open(noise(tmp_path / 'a.png'))
    theirs = dict(
        identity=image, autocontrast=ImageOps.autocontrast(image),
        equalize=ImageOps.equalize(image),
        brightness=ImageEnhance.Brightness(image).enhance(1.36),
        sharpness=ImageEnhance.Sharpness(image).enhance(1.36))
    for name, expected in theirs.items():
        ours = media.PictureRandAugment().apply(image, name)
        assert abs(np.asarray(ours).astype(int) - np.asarray(expected)).max() <= 1, name


def test_two_of_ten_operations_are_drawn_and_each_is_applied_half_the_time(monkeypatch):
    applied = []
    monkeypatch.setattr(media.PictureRandAugment, 'apply',
                        lambda self, image, name: applied.append(name) or image)
    augment = media.PictureRandAugment()
    torch.manual_seed(0)
    numbers = []
    for _ in range(2000):
        before = len(applied)
        augment(None)
        numbers.append(len(applied) - before)
    assert set(applied) == set(augment.OPERATIONS) and len(augment.OPERATIONS) == 10
    shares = [numbers.count(n) / 2000 for n in (0, 1, 2)]
    assert np.allclose(shares, [0.25, 0.5, 0.25], atol=0.04)
    assert all(150 < applied.count(name) < 250 for name in augment.OPERATIONS)
    # drawn with replacement: numpy.random.choice(ten, 2) in both papers
    assert numbers.count(2) > sum(a != b for a, b in pairs_of(numbers, applied))


def pairs_of(numbers, applied):
    """Returns the pairs among the operations applied to one picture each."""
    at, pairs = 0, []
    for n in numbers:
        if n == 2:
            pairs.append((applied[at], applied[at + 1]))
        at += n
    return pairs


def test_videos_have_the_randaugment_of_torchvision_and_pictures_their_own():
    augmented = {}
    for medium in (PICTURE, CLIP):
        steps = media.image_transform(medium, 'squash', train=True).transforms
        augmented[medium.medium] = [s for s in steps if 'RandAugment' in type(s).__name__]
    (picture,), (clip,) = augmented['image'], augmented['video']
    assert type(picture) is media.PictureRandAugment and type(clip) is v2.RandAugment
    assert (clip.num_ops, clip.magnitude) == (2, 9)
    assert (picture.n_operations, picture.strength, picture.probability) == (2, 0.7, 0.5)


# ---- video ----------------------------------------------------------------------------------------------------------

def write_msrvtt(folder):
    """MSRVTT.zip with two videos of each official split, by their numbers."""
    numbers = dict(train=(0, 6512), val=(6513, 7009), test=(7010, 9999))
    (folder / 'MSRVTT/videos/all').mkdir(parents=True)
    (folder / 'MSRVTT/annotation').mkdir()
    annotations = []
    for split in numbers.values():
        for number in split:
            (folder / f'MSRVTT/videos/all/video{number}.mp4').touch()
            annotations.append(dict(image_id=f'video{number}', caption=f'video {number}'))
    text = json.dumps(dict(annotations=annotations))
    (folder / 'MSRVTT/annotation/MSR_VTT.json').write_text(text)


def test_into_a_picture_padded_with_white_comes_white():
    preprocessing = Preprocessing('image', (3, 32, 32), (0.0,) * 3, (1.0,) * 3, 'bilinear')
    fills = {}
    for resize in ('pad', 'squash'):
        steps = media.image_transform(preprocessing, resize, train=True).transforms
        fills[resize] = [step.fill for step in steps if isinstance(step, media.PictureRandAugment)]
    assert fills == dict(pad=[[255] * 3], squash=[[128] * 3])


def test_msrvtt_7k_trains_on_train_and_val_and_validates_on_test(tmp_path):
    write_msrvtt(tmp_path)
    ids = {}
    for split in ('train', 'val', 'test'):
        config = dict(dataset='msrvtt_7k', data_dir=str(tmp_path), train_rows=0, bad_rows='error')
        ids[split] = [row['id'] for row in load_examples(config, split)]
    assert ids['train'] == ['video0', 'video6512', 'video6513', 'video7009']
    assert ids['val'] == ids['test'] == ['video7010', 'video9999']


def test_msrvtt_is_run_as_depalm_runs_it():
    config = configured('msrvtt')
    keys = ('dataset', 'encoder', 'video_frames', 'epochs')
    assert [config[key] for key in keys] == ['msrvtt_7k', 'timesformer_k400', 16, 8]


def test_frames_of_a_video(tmp_path):
    greys = [(20 * i,) * 3 for i in range(12)]
    path = video(tmp_path / 'a.avi', greys)
    frames = media.read_video(path, 4, train=False)
    assert frames.shape == (4, 3, 32, 64) and frames.dtype == torch.uint8
    assert [round(float(f.float().mean()) / 20) for f in frames] == [1, 4, 7, 10]       # the middle of each quarter
    drawn = []
    for seed in range(20):
        torch.manual_seed(seed)
        drawn.append([round(float(f.float().mean()) / 20) for f in media.read_video(path, 4, train=True)])
    assert all(3 * t <= n < 3 * t + 3 for one in drawn for t, n in enumerate(one)) and {one[0] for one in drawn} == {0, 1, 2}
    short = media.read_video(video(tmp_path / 'b.avi', greys[:2]), 4, train=False)
    assert [round(float(f.float().mean()) / 20) for f in short] == [0, 0, 1, 1]


@pytest.mark.parametrize('resize, border', [('squash', False), ('pad', True), ('crop', False)])
def test_frames_as_the_encoder_takes_them(tmp_path, resize, border):
    path = video(tmp_path / 'a.avi', ['black'] * 5)
    x = media.load(path, CLIP, resize)
    assert x.shape == (4, 3, 32, 32) and x.dtype == torch.float32 and bool((x[:, :, 0] > 0.9).all()) == border and (x[:, :, 16] < -0.9).all()
    torch.manual_seed(0)
    augmented = media.load(video(tmp_path / 'b.avi', ['red'] * 5), CLIP, resize, train=True)
    assert augmented.shape == (4, 3, 32, 32) and all(f.equal(augmented[0]) for f in augmented)      # all frames alike


@pytest.mark.parametrize('content', [b'', b'nothing' * 100, None])
def test_broken_videos_are_named(tmp_path, content):
    if content is not None:
        (tmp_path / 'a.mp4').write_bytes(content)
    with pytest.raises(BadData) as e:
        media.load(tmp_path / 'a.mp4', CLIP)
    assert str(tmp_path / 'a.mp4') in str(e.value) and 'not a readable video' in str(e.value)


# ---- the whole job --------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def whisper(tmp_path_factory):
    folder = tmp_path_factory.mktemp('whisper')
    transformers.WhisperModel(transformers.WhisperConfig(
        vocab_size=9, d_model=32, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, max_source_positions=100, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1)).save_pretrained(folder)
    return folder


def write_rows(folder, medium, make, broken=()):
    folder.mkdir(exist_ok=True)
    for split, n in dict(train=8, val=3, test=4).items():
        lines = []
        for i in range(n):
            file = f'{split}{i}.{"wav" if medium == "audio" else "avi"}'
            (folder / file).write_bytes(b'broken') if (split, i) in broken else make(folder / file, i)
            lines.append(json.dumps({medium: file, 'caption': [f'A thing {i}.', f'Thing {i}.']}))
        (folder / f'{split}.jsonl').write_text('\n'.join(lines))
    return folder


KNOBS = dict(connector='qpmapper', adapter_dim=32, mapper_heads=4, n_queries=2, batch_size=4, max_iters=3, eval_interval=3, n_samples=1, num_workers=0, device='cpu',
             dtype='float32')


@pytest.fixture
def job(tmp_path, llm, run):
    """job(data, encoder, knobs): train.py on it, into tmp_path/run."""
    def job(data, encoder, fails=False, **knobs):
        return run('train.py', *flags(**KNOBS | dict(llm=llm, encoder=encoder, dataset=data, out_dir=tmp_path / 'run', cache_dir=tmp_path / 'cache') | knobs), fails=fails)
    return job


SHORT = ['--num_beams=1', '--max_new_tokens=5', '--device=cpu', '--dtype=float32']


@pytest.mark.parametrize('cache', [False, True])
def test_sound_through_the_whole_job(tmp_path, run, job, whisper, cache):
    data = write_rows(tmp_path / 'data', 'audio', lambda path, i: tone(path, hz=200 + 100 * i))
    job(data, whisper, cache_features=cache, cache_views=2)
    out = f'--out_dir={tmp_path / "run"}'
    run('eval_caption.py', out, *SHORT)
    rows = json.loads((tmp_path / 'run/eval_test.json').read_text())['rows']
    assert [r['audio'] for r in rows] == [str(data / f'test{i}.wav') for i in range(4)]
    assert (tmp_path / 'run/eval_test.html').read_text().count('<audio controls src="data:audio/ogg;base64,') == 4
    run('sample.py', out, f'--input={data}', f'--output={tmp_path / "said.jsonl"}', *SHORT)
    assert len([json.loads(line)['audio'] for line in (tmp_path / 'said.jsonl').read_text().splitlines()]) == 15


@pytest.mark.parametrize('knobs', [dict(video_frames=2), dict(video_frames=2, video_tokens='mean', cache_features=True)])
def test_video_through_the_whole_job(tmp_path, run, job, encoder, knobs):
    data = write_rows(tmp_path / 'data', 'video', lambda path, i: video(path, [(30 * i, 90, 20 * t) for t in range(5)]))
    job(data, encoder, connector='linear', **knobs)
    out = f'--out_dir={tmp_path / "run"}'
    run('eval_caption.py', out, *SHORT)
    assert (tmp_path / 'run/eval_test.html').read_text().count('<img src="data:image/jpeg;base64,') == 4
    run('sample.py', out, f'--input={data / "test0.avi"}', f'--show={tmp_path / "seen.png"}', *SHORT)
    assert Image.open(tmp_path / 'seen.png').width > 300


def test_other_media_than_the_encoder_takes(tmp_path, job, encoder, whisper):
    sounds = write_rows(tmp_path / 'sounds', 'audio', lambda path, i: tone(path))
    clips = write_rows(tmp_path / 'clips', 'video', lambda path, i: video(path, ['red'] * 3))
    assert 'has audio files' in job(sounds, encoder, fails=True) and '--video_frames' in job(clips, encoder, fails=True)
    assert 'takes audio files' in job(clips, whisper, fails=True)


@pytest.mark.parametrize('cache', [False, True])
def test_bad_rows(tmp_path, run, job, whisper, cache):
    data = write_rows(tmp_path / 'data', 'audio', lambda path, i: tone(path, hz=200 + 100 * i), broken=[('train', 2), ('val', 0), ('test', 1)])
    told = job(data, whisper, fails=True, cache_features=cache)
    assert ('train2.wav' in told or 'val0.wav' in told) and '--bad_rows=skip' in told
    told = job(data, whisper, cache_features=cache, bad_rows='skip', out_dir=tmp_path / 'skipped', batch_size=8)
    assert 'left out' in told and 'train2.wav' in told and 'val0.wav' in told
    out = f'--out_dir={tmp_path / "skipped"}'
    assert 'test1.wav' in run('eval_caption.py', out, *SHORT, '--bad_rows=error', fails=True)
    assert 'test1.wav' in run('eval_caption.py', out, *SHORT)          # as in training
    assert [r['audio'][-9:] for r in json.loads((tmp_path / 'skipped/eval_test.json').read_text())['rows']] == ['test0.wav', 'test2.wav', 'test3.wav']
    run('sample.py', out, f'--input={data}', '--bad_rows=skip', *SHORT)
    for command in ('sample.py', f'--input={data}'), ('eval_caption.py',), ('eval_vqa.py',):
        assert "expected one of '', 'error', 'skip'" in run(*command, '--out_dir=nowhere', '--bad_rows=Skip', fails=True)      # before anything is loaded
    for file in data.glob('train*.wav'):
        file.write_bytes(b'broken')
    assert 'none of the files can be read' in job(data, whisper, fails=True, cache_features=cache, bad_rows='skip', out_dir=tmp_path / 'none')
