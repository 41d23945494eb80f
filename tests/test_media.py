"""
Images, sound and video: how files are read, made to fit an encoder, augmented, and refused; and
sound and video through train.py, eval_caption.py and sample.py.
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
from conftest import flags
from PIL import Image, ImageEnhance, ImageOps
from torchvision.transforms import v2

from encoders import Preprocessing
from nanopalm import media
from nanopalm.examples import BadData
from nanopalm.media import image_transform, read_image

FBANK = Preprocessing('audio', (256, 128))
CLIP = Preprocessing('video', (4, 3, 32, 32), (0.5,) * 3, (0.5,) * 3, 'bicubic')


# ---- reading images ------------------------------------------------------------------------------


def saved(tmp_path, image, name='a.png', **options):
    """The image as it is read again from a file."""
    image.save(tmp_path / name, **options)
    return read_image(tmp_path / name)


@pytest.mark.parametrize(
    'alpha, colour', [(0, (255, 255, 255)), (128, (255, 127, 127)), (255, (255, 0, 0))]
)
def test_transparent_pixels_become_white(tmp_path, alpha, colour):
    red = Image.new('RGBA', (2, 1), (255, 0, 0, 255))
    red.putpixel((1, 0), (255, 0, 0, alpha))
    image = saved(tmp_path, red)
    assert image.getpixel((0, 0)) == (255, 0, 0)
    assert image.getpixel((1, 0)) == colour


def test_transparent_greys_palettes_and_colours_become_white(tmp_path):
    grey = saved(tmp_path, Image.new('LA', (1, 1), (0, 0)))
    assert grey.getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new('P', (2, 1), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    image = saved(tmp_path, palette, transparency=0)
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 0, 255)]
    colour = saved(tmp_path, Image.new('RGB', (1, 1), (9, 9, 9)), transparency=(9, 9, 9))
    assert colour.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    'mode, value, name, rgb',
    [
        ('L', 100, 'a.png', (100, 100, 100)),
        ('1', 1, 'a.png', (255, 255, 255)),
        ('CMYK', (0, 255, 255, 0), 'a.jpg', (255, 0, 0)),
        ('I;16', 100 * 257, 'a.png', (100, 100, 100)),
        ('I;16', 100 * 257, 'a.tif', (100, 100, 100)),
        ('P', 0, 'a.gif', (0, 0, 0)),
    ],
)
def test_every_kind_of_image_is_read_as_rgb(tmp_path, mode, value, name, rgb):
    image = saved(tmp_path, Image.new(mode, (8, 8), value), name)
    assert image.mode == 'RGB'
    assert image.size == (8, 8)
    assert max(abs(a - b) for a, b in zip(image.getpixel((4, 4)), rgb)) <= 2


def test_of_an_animation_the_first_frame_is_read(tmp_path):
    red, blue = (Image.new('RGB', (8, 8), colour) for colour in ('red', 'blue'))
    image = saved(tmp_path, red, 'a.gif', save_all=True, append_images=[blue])
    assert image.getpixel((0, 0)) == (255, 0, 0)


def test_a_photo_of_a_phone_held_upright_is_turned(tmp_path):
    sideways = Image.new('RGB', (8, 4), 'red')
    exif = sideways.getexif()
    # the orientation: to be turned by a quarter
    exif[0x112] = 6
    assert saved(tmp_path, sideways, 'a.jpg', exif=exif).size == (4, 8)


def jpeg(size=(64, 64)):
    file = io.BytesIO()
    Image.effect_noise(size, 90).convert('RGB').save(file, 'JPEG')
    return file.getvalue()


BROKEN_IMAGES = dict(
    half=jpeg()[:900],
    header=jpeg()[:20],
    empty=b'',
    text=b'no picture',
    png=b'\x89PNG\r\n\x1a\n' + b'\0' * 50,
    svg=b'<svg/>',
)


@pytest.mark.parametrize('kind', BROKEN_IMAGES)
def test_a_file_that_is_not_a_complete_image_is_named(tmp_path, kind):
    path = tmp_path / 'hälf.jpg'
    path.write_bytes(BROKEN_IMAGES[kind])
    with pytest.raises(BadData, match='hälf.jpg: not a readable picture'):
        read_image(path)


def test_a_missing_image_or_a_folder_is_named(tmp_path):
    with pytest.raises(BadData, match='nowhere.jpg'):
        read_image(tmp_path / 'nowhere.jpg')
    with pytest.raises(BadData, match=tmp_path.name):
        read_image(tmp_path)


def test_an_image_too_large_for_memory_is_refused(tmp_path, monkeypatch):
    path = tmp_path / 'bomb.png'
    Image.new('1', (200, 200)).save(path)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
    with pytest.raises(BadData, match='bomb.png'):
        read_image(path)


# ---- images as the encoder takes them ------------------------------------------------------------

HALF = Preprocessing('image', (3, 32, 32), (0.5,) * 3, (0.5,) * 3, 'bicubic')
PLAIN = Preprocessing('image', (3, 224, 224), (0.0,) * 3, (1.0,) * 3, 'bicubic')
ENLARGED = Preprocessing('image', (3, 224, 224), (0.0,) * 3, (1.0,) * 3, 'bicubic', crop_pct=0.9)


@pytest.mark.parametrize(
    'resize, red_share, white_share', [('squash', 1 / 3, 0), ('pad', 1 / 9, 2 / 3), ('crop', 1, 0)]
)
def test_an_image_is_squashed_padded_or_cropped_to_a_square(resize, red_share, white_share):
    """An image three times as wide as high, the middle of it red."""
    image = Image.new('RGB', (96, 32), 'blue')
    image.paste('red', (32, 0, 64, 32))
    plain = image_transform(HALF, resize, train=False)(image) * 0.5 + 0.5
    assert plain.shape == (3, 32, 32)
    assert plain.dtype == torch.float32
    red = (plain[0] > 0.9) & (plain[1] < 0.1)
    white = plain.min(0).values > 0.9
    assert abs(red.float().mean() - red_share) < 0.09
    assert abs(white.float().mean() - white_share) < 0.09


@pytest.mark.parametrize('resize', ['squash', 'pad', 'crop'])
@pytest.mark.parametrize('size', [(96, 32), (1, 500)])
def test_an_augmented_image_of_any_proportions_is_a_square(resize, size):
    image = Image.new('RGB', size)
    assert image_transform(HALF, resize, train=True)(image).shape == (3, 32, 32)


def smooth_image(path, size=(90, 60)):
    """A file with a smooth image of random colours."""
    small = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    Image.fromarray(small).resize(size, Image.BICUBIC).save(path)
    return path


def loaded(path, preprocessing, resize='squash', train=False):
    """What media.load returns for mean 0 and deviation 1, as an array of bytes (H, W, 3)."""
    x = media.load(path, preprocessing, resize, train)
    return (x * 255).round().byte().permute(1, 2, 0).numpy()


def enlarged_centre(square):
    """What DePALM makes of a square of 224 pixels, by Pillow."""
    return square.resize((248, 248), Image.BICUBIC).crop((12, 12, 236, 236))


def test_the_square_of_a_squash_is_enlarged_and_its_centre_cut_out(tmp_path):
    path = smooth_image(tmp_path / 'a.png')
    square = Image.open(path).resize((224, 224), Image.BICUBIC)
    assert np.array_equal(loaded(path, ENLARGED), enlarged_centre(square))
    assert np.array_equal(loaded(path, PLAIN), square)
    assert np.array_equal(loaded(path, ENLARGED, 'squash_whole'), square)
    for resize in ('pad', 'crop'):
        assert np.array_equal(loaded(path, ENLARGED, resize), loaded(path, PLAIN, resize))


def test_the_square_is_enlarged_in_training_too(tmp_path):
    path = smooth_image(tmp_path / 'a.png')
    for seed in range(5):
        torch.manual_seed(seed)
        square = Image.fromarray(loaded(path, PLAIN, train=True))
        torch.manual_seed(seed)
        enlarged = loaded(path, ENLARGED, train=True)
        assert np.array_equal(enlarged, enlarged_centre(square))


# ---- augmentation --------------------------------------------------------------------------------


def opencv_affine(array, forward):
    """An array (H, W, 3) moved by a matrix (2, 3) from source to target pixels, which are counted
    from the middle of the first, bilinearly and with grey around, as cv2.warpAffine does it."""
    H, W, _ = array.shape
    inverse = np.linalg.inv(np.vstack([forward, [0, 0, 1]]))
    y, x = np.mgrid[:H, :W]
    u, v, _ = inverse @ np.stack([x.ravel(), y.ravel(), np.ones(H * W)])
    left = np.floor(u).astype(int)
    top = np.floor(v).astype(int)
    result = np.zeros((H * W, 3))
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        i = left + dx
        j = top + dy
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
    a = math.cos(turn)
    b = math.sin(turn)
    c = size / 2
    matrices = dict(
        shear_x=[[1, amount, 0], [0, 1, 0]],
        shear_y=[[1, 0, 0], [amount, 1, 0]],
        translate_x=[[1, 0, 7 * side], [0, 1, 0]],
        translate_y=[[1, 0, 0], [0, 1, 7 * side]],
        rotate=[[a, b, (1 - a) * c - b * c], [-b, a, b * c + (1 - a) * c]],
    )
    return np.array(matrices[name])


@pytest.mark.parametrize('name', ['shear_x', 'shear_y', 'translate_x', 'translate_y', 'rotate'])
def test_operations_that_move_an_image_are_those_of_the_papers(tmp_path, name):
    image = Image.open(smooth_image(tmp_path / 'a.png', (96, 96)))
    augment = media.ImageRandAugment()
    sides = set()
    for seed in range(8):
        torch.manual_seed(seed)
        ours = np.asarray(augment.apply(image, name)).astype(float)
        for side in (1, -1):
            theirs = opencv_affine(np.asarray(image).astype(float), matrix_of(name, side, 96))
            difference = abs(ours - theirs)
            # at the border of the image OpenCV blends with grey and Pillow does not
            if np.median(difference) <= 1 and np.mean(difference > 2) < 0.02:
                sides.add(side)
    assert sides == {1, -1}


def test_operations_on_colours_are_those_of_pillow_at_level_7(tmp_path):
    image = Image.open(smooth_image(tmp_path / 'a.png'))
    theirs = dict(
        identity=image,
        autocontrast=ImageOps.autocontrast(image),
        equalize=ImageOps.equalize(image),
        brightness=ImageEnhance.Brightness(image).enhance(1.36),
        sharpness=ImageEnhance.Sharpness(image).enhance(1.36),
    )
    for name, expected in theirs.items():
        ours = media.ImageRandAugment().apply(image, name)
        assert abs(np.asarray(ours).astype(int) - np.asarray(expected)).max() <= 1, name


def test_two_of_ten_operations_are_drawn_and_each_is_applied_half_the_time(monkeypatch):
    applied = []

    def apply(self, image, name):
        applied.append(name)
        return image

    monkeypatch.setattr(media.ImageRandAugment, 'apply', apply)
    augment = media.ImageRandAugment()
    torch.manual_seed(0)
    numbers = []
    for _ in range(2000):
        before = len(applied)
        augment(None)
        numbers.append(len(applied) - before)
    assert len(augment.OPERATIONS) == 10
    assert set(applied) == set(augment.OPERATIONS)
    shares = [numbers.count(n) / 2000 for n in (0, 1, 2)]
    assert np.allclose(shares, [0.25, 0.5, 0.25], atol=0.04)
    assert all(150 < applied.count(name) < 250 for name in augment.OPERATIONS)
    # drawn with replacement: numpy.random.choice(ten, 2) in both papers
    assert numbers.count(2) > sum(a != b for a, b in pairs_of(numbers, applied))


def pairs_of(numbers, applied):
    """The pairs among the operations applied to one image each."""
    pairs = []
    position = 0
    for n in numbers:
        if n == 2:
            pairs.append((applied[position], applied[position + 1]))
        position += n
    return pairs


def rand_augment_of(preprocessing, resize='squash'):
    """The RandAugment among the steps of a transform in training."""
    steps = image_transform(preprocessing, resize, train=True).transforms
    (augment,) = [step for step in steps if 'RandAugment' in type(step).__name__]
    return augment


def test_videos_have_the_randaugment_of_torchvision_and_images_their_own():
    image = rand_augment_of(PLAIN)
    assert type(image) is media.ImageRandAugment
    assert (image.n_operations, image.strength, image.probability) == (2, 0.7, 0.5)
    video = rand_augment_of(CLIP)
    assert type(video) is v2.RandAugment
    assert (video.num_ops, video.magnitude) == (2, 9)


def test_what_enters_an_image_is_white_where_it_was_padded_with_white():
    assert rand_augment_of(PLAIN, 'pad').fill == [255] * 3
    assert rand_augment_of(PLAIN, 'squash').fill == [128] * 3


# ---- sound ---------------------------------------------------------------------------------------


def tone(path, hz=440, seconds=1.0, rate=22050, channels=1):
    """Writes a sound file and returns its path."""
    wave = 0.3 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)
    soundfile.write(path, np.stack([wave] * channels, axis=1), rate)
    return path


@pytest.mark.parametrize('ending', ['wav', 'flac', 'ogg', 'mp3', 'aiff'])
def test_every_format_of_sound_is_read(tmp_path, ending):
    wave = media.read_audio(tone(tmp_path / f'a.{ending}', channels=2), 16000)
    assert wave.dtype == torch.float32
    # mp3 pads
    assert abs(len(wave) - 16000) < 1200
    spectrum = torch.fft.rfft(wave[2000 : 2000 + 8000]).abs()
    assert abs(int(spectrum.argmax()) * 2 - 440) <= 2


def test_channels_are_averaged(tmp_path):
    channels = np.stack([np.full(8000, 0.5), np.zeros(8000)], axis=1)
    soundfile.write(tmp_path / 'a.wav', channels, 16000, subtype='FLOAT')
    wave = media.read_audio(tmp_path / 'a.wav', 16000)
    assert wave.equal(torch.full((8000,), 0.25))


def test_the_spectrogram_is_that_of_ast(tmp_path):
    path = tone(tmp_path / 'a.wav', seconds=1.5, rate=16000)
    ours = media.load(path, FBANK)
    extractor = transformers.ASTFeatureExtractor(max_length=256)
    wave = media.read_audio(path, 16000).numpy()
    theirs = extractor(wave, sampling_rate=16000, return_tensors='pt').input_values[0]
    assert ours.shape == theirs.shape == (256, 128)
    silence = (0 - media.AUDIOSET_MEAN) / (2 * media.AUDIOSET_STD)
    assert (ours[150:] == silence).all()
    # ASTFeatureExtractor leaves the mean in the wave
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_long_clips_are_cut_and_in_training_masked(tmp_path):
    path = tone(tmp_path / 'a.wav', seconds=6, rate=16000)
    plain = media.load(path, FBANK)
    assert plain.shape == (256, 128)
    assert plain.equal(media.load(path, FBANK))
    views = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        views.append(media.load(path, FBANK, train=True))
    assert views[0].equal(views[2])
    assert not views[0].equal(views[1])
    # at most 24 bands and 96 frames are masked
    mask = (0 - media.AUDIOSET_MEAN) / (2 * media.AUDIOSET_STD)
    masked = [view == mask for view in views]
    assert all(one.all(0).sum() <= 24 for one in masked)
    assert all(one.all(1).sum() <= 96 for one in masked)
    assert any(one.any() for one in masked)
    assert not (plain == mask).all(1).any()


def whisper_of_two_seconds():
    extractor = transformers.WhisperFeatureExtractor(80, chunk_length=2)
    return Preprocessing('audio', (80, 200), extractor=extractor, seconds=2)


def test_whisper_and_clap_bring_their_own_extractors(tmp_path):
    path = tone(tmp_path / 'a.wav', seconds=3)
    extractor = transformers.ClapFeatureExtractor(truncation='rand_trunc')
    clap = Preprocessing('audio', (1, 1001, 64), extractor=extractor, seconds=10)
    for preprocessing in (whisper_of_two_seconds(), clap):
        x = media.load(path, preprocessing)
        assert x.shape == preprocessing.shape
        assert x.dtype == torch.float32
        assert x.isfinite().all()
        assert x.equal(media.load(path, preprocessing))


def test_a_spectrogram_is_made_in_float32_within_autocast(tmp_path):
    path = tone(tmp_path / 'a.wav', seconds=3)
    for preprocessing in (whisper_of_two_seconds(), FBANK):
        plain = media.load(path, preprocessing)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            assert media.load(path, preprocessing).equal(plain)


def write_text(path):
    path.write_bytes(b'RIFF' + b'nothing' * 50)


def write_nothing(path):
    path.write_bytes(b'')


def leave_out(path):
    """There is no such file."""


def write_short(path):
    tone(path, seconds=0.05)


def write_no_samples(path):
    tone(path, seconds=0)


def write_nan(path):
    soundfile.write(path, np.full(9000, np.nan), 16000, subtype='FLOAT')


@pytest.mark.parametrize(
    'write, words',
    [
        (write_text, ['not a readable sound']),
        (write_nothing, ['not a readable sound']),
        (leave_out, ['not a readable sound']),
        (write_short, ['too short', '0.050 seconds']),
        (write_no_samples, ['too short']),
        (write_nan, ['not a readable sound', 'not finite']),
    ],
)
def test_broken_sounds_are_named(tmp_path, write, words):
    path = tmp_path / 'a.wav'
    write(path)
    with pytest.raises(BadData) as error:
        media.load(path, FBANK)
    for word in [str(path), *words]:
        assert word in str(error.value)


# ---- video ---------------------------------------------------------------------------------------


def riff_chunk(name, content):
    """A chunk of a RIFF file, padded to an even length."""
    return name + struct.pack('<I', len(content)) + content + b'\0' * (len(content) % 2)


def video(path, colours, size=(64, 32)):
    """Writes a video whose frames have one colour each and returns its path: Motion JPEG in an AVI
    file."""
    w, h = size
    frames = []
    for colour in colours:
        file = io.BytesIO()
        Image.new('RGB', size, colour).save(file, 'JPEG', quality=95)
        frames.append(riff_chunk(b'00dc', file.getvalue()))
    n = len(frames)
    main = struct.pack('<14I', 100_000, 0, 0, 0x10, n, 0, 1, 1 << 16, w, h, 0, 0, 0, 0)
    numbers = (0, 0, 0, 0, 1, 10, 0, n, 1 << 16, 0xFFFFFFFF, 0, 0, 0, w, h)
    stream = struct.pack('<4s4sIHHIIIIIIII4H', b'vids', b'MJPG', *numbers)
    form = struct.pack('<IiiHH4sIiiII', 40, w, h, 1, 24, b'MJPG', w * h * 3, 0, 0, 0, 0)
    streams = b'strl' + riff_chunk(b'strh', stream) + riff_chunk(b'strf', form)
    header = b'hdrl' + riff_chunk(b'avih', main) + riff_chunk(b'LIST', streams)
    index = []
    position = 4
    for frame in frames:
        index.append(struct.pack('<4sIII', b'00dc', 0x10, position, len(frame) - 8))
        position += len(frame)
    lists = riff_chunk(b'LIST', header) + riff_chunk(b'LIST', b'movi' + b''.join(frames))
    path.write_bytes(riff_chunk(b'RIFF', b'AVI ' + lists + riff_chunk(b'idx1', b''.join(index))))
    return path


GREYS = [(20 * i,) * 3 for i in range(12)]


def frame_numbers(frames):
    """Which of the GREYS the frames are."""
    return [round(float(frame.float().mean()) / 20) for frame in frames]


def test_of_a_video_the_middle_frame_of_each_segment_is_read(tmp_path):
    path = video(tmp_path / 'a.avi', GREYS)
    frames = media.read_video(path, 4, train=False)
    assert frames.shape == (4, 3, 32, 64)
    assert frames.dtype == torch.uint8
    assert frame_numbers(frames) == [1, 4, 7, 10]


def test_in_training_any_frame_of_each_segment_is_read(tmp_path):
    path = video(tmp_path / 'a.avi', GREYS)
    firsts = set()
    for seed in range(20):
        torch.manual_seed(seed)
        numbers = frame_numbers(media.read_video(path, 4, train=True))
        assert [number // 3 for number in numbers] == [0, 1, 2, 3]
        firsts.add(numbers[0])
    assert firsts == {0, 1, 2}


def test_of_a_short_video_some_frames_are_read_twice(tmp_path):
    path = video(tmp_path / 'a.avi', GREYS[:2])
    assert frame_numbers(media.read_video(path, 4, train=False)) == [0, 0, 1, 1]


@pytest.mark.parametrize('resize, has_border', [('squash', False), ('pad', True), ('crop', False)])
def test_frames_are_made_square_and_augmented_alike(tmp_path, resize, has_border):
    path = video(tmp_path / 'a.avi', ['black'] * 5)
    x = media.load(path, CLIP, resize)
    assert x.shape == (4, 3, 32, 32)
    assert x.dtype == torch.float32
    assert bool((x[:, :, 0] > 0.9).all()) == has_border
    assert (x[:, :, 16] < -0.9).all()
    torch.manual_seed(0)
    red = video(tmp_path / 'b.avi', ['red'] * 5)
    augmented = media.load(red, CLIP, resize, train=True)
    assert augmented.shape == (4, 3, 32, 32)
    assert all(frame.equal(augmented[0]) for frame in augmented)


@pytest.mark.parametrize('content', [b'', b'nothing' * 100, None])
def test_broken_videos_are_named(tmp_path, content):
    path = tmp_path / 'a.mp4'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadData) as error:
        media.load(path, CLIP)
    assert str(path) in str(error.value)
    assert 'not a readable video' in str(error.value)


# ---- sound and video through the scripts ---------------------------------------------------------


@pytest.fixture(scope='module')
def whisper(tmp_path_factory):
    """A folder with a tiny Whisper for clips of two seconds."""
    folder = tmp_path_factory.mktemp('whisper')
    config = transformers.WhisperConfig(
        vocab_size=9,
        d_model=32,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_source_positions=100,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    transformers.WhisperModel(config).save_pretrained(folder)
    return folder


def write_data(folder, medium, make, broken=()):
    """Writes a data set of 8, 3 and 4 files, which make(path, number) writes, except for the broken
    ones (split, number). Returns the folder."""
    folder.mkdir(exist_ok=True)
    ending = 'wav' if medium == 'audio' else 'avi'
    for split, n in dict(train=8, val=3, test=4).items():
        lines = []
        for i in range(n):
            file = f'{split}{i}.{ending}'
            if (split, i) in broken:
                (folder / file).write_bytes(b'broken')
            else:
                make(folder / file, i)
            captions = [f'A thing {i}.', f'Thing {i}.']
            lines.append(json.dumps({medium: file, 'caption': captions}))
        (folder / f'{split}.jsonl').write_text('\n'.join(lines))
    return folder


def tones(path, i):
    tone(path, hz=200 + 100 * i)


def coloured_video(path, i):
    video(path, [(30 * i, 90, 20 * t) for t in range(5)])


def results_of(folder):
    """The examples in the results of eval_caption.py."""
    return json.loads((folder / 'eval_test.json').read_text())['rows']


TINY = dict(
    connector='qpmapper',
    adapter_dim=32,
    mapper_heads=4,
    n_queries=2,
    batch_size=4,
    max_iters=3,
    eval_interval=3,
    n_samples=1,
    num_workers=0,
    device='cpu',
    dtype='float32',
)
SHORT = ['--num_beams=1', '--max_new_tokens=5', '--device=cpu', '--dtype=float32']


@pytest.fixture
def train(tmp_path, llm, run):
    """train(data, encoder, ...): train.py on them, into tmp_path/run."""

    def train(data, encoder, fails=False, **changes):
        folders = dict(out_dir=tmp_path / 'run', cache_dir=tmp_path / 'cache')
        config = TINY | dict(llm=llm, encoder=encoder, dataset=data) | folders | changes
        return run('train.py', *flags(**config), fails=fails)

    return train


@pytest.mark.slow
@pytest.mark.parametrize('cache_features', [False, True])
def test_sound_through_training_evaluation_and_sampling(
    tmp_path, run, train, whisper, cache_features
):
    data = write_data(tmp_path / 'data', 'audio', tones)
    train(data, whisper, cache_features=cache_features, cache_views=2)
    out_dir = f'--out_dir={tmp_path / "run"}'
    run('eval_caption.py', out_dir, *SHORT)
    files = [example['audio'] for example in results_of(tmp_path / 'run')]
    assert files == [str(data / f'test{i}.wav') for i in range(4)]
    page = (tmp_path / 'run/eval_test.html').read_text()
    assert page.count('<audio controls src="data:audio/ogg;base64,') == 4
    output = tmp_path / 'captions.jsonl'
    run('sample.py', out_dir, f'--input={data}', f'--output={output}', *SHORT)
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert len([line['audio'] for line in lines]) == 15


@pytest.mark.slow
@pytest.mark.parametrize(
    'changes',
    [
        dict(video_frames=2),
        dict(video_frames=2, video_tokens='mean', cache_features=True),
    ],
)
def test_video_through_training_evaluation_and_sampling(tmp_path, run, train, encoder, changes):
    data = write_data(tmp_path / 'data', 'video', coloured_video)
    train(data, encoder, connector='linear', **changes)
    out_dir = f'--out_dir={tmp_path / "run"}'
    run('eval_caption.py', out_dir, *SHORT)
    page = (tmp_path / 'run/eval_test.html').read_text()
    assert page.count('<img src="data:image/jpeg;base64,') == 4
    show = tmp_path / 'attention.png'
    run('sample.py', out_dir, f'--input={data / "test0.avi"}', f'--show={show}', *SHORT)
    assert Image.open(show).width > 300


def test_files_of_another_medium_than_the_encoder_takes_are_refused(
    tmp_path, train, encoder, whisper
):
    sounds = write_data(tmp_path / 'sounds', 'audio', tones)
    clips = write_data(tmp_path / 'clips', 'video', coloured_video)
    assert 'has audio files' in train(sounds, encoder, fails=True)
    assert '--video_frames' in train(clips, encoder, fails=True)
    assert 'takes audio files' in train(clips, whisper, fails=True)


BROKEN = [('train', 2), ('val', 0), ('test', 1)]


@pytest.mark.slow
@pytest.mark.parametrize('cache_features', [False, True])
def test_broken_files_end_a_run_unless_they_are_skipped(
    tmp_path, run, train, whisper, cache_features
):
    data = write_data(tmp_path / 'data', 'audio', tones, broken=BROKEN)
    error = train(data, whisper, fails=True, cache_features=cache_features)
    assert 'train2.wav' in error or 'val0.wav' in error
    assert '--bad_rows=skip' in error
    skip = dict(cache_features=cache_features, bad_rows='skip')
    skipped = tmp_path / 'skipped'
    output = train(data, whisper, out_dir=skipped, batch_size=8, **skip)
    for words in ('left out', 'train2.wav', 'val0.wav'):
        assert words in output
    # an evaluation goes by what the training did, unless it is told otherwise
    out_dir = f'--out_dir={skipped}'
    assert 'test1.wav' in run('eval_caption.py', out_dir, *SHORT, '--bad_rows=error', fails=True)
    assert 'test1.wav' in run('eval_caption.py', out_dir, *SHORT)
    files = [example['audio'][-9:] for example in results_of(skipped)]
    assert files == ['test0.wav', 'test2.wav', 'test3.wav']
    run('sample.py', out_dir, f'--input={data}', '--bad_rows=skip', *SHORT)
    # and without a single readable file nothing can be trained
    for file in data.glob('train*.wav'):
        file.write_bytes(b'broken')
    none = train(data, whisper, fails=True, out_dir=tmp_path / 'none', **skip)
    assert 'none of the files can be read' in none


def test_a_misspelt_bad_rows_is_refused_before_anything_is_loaded(run, tmp_path):
    expected = "expected one of '', 'error', 'skip'"
    for command in (['sample.py', f'--input={tmp_path}'], ['eval_caption.py'], ['eval_vqa.py']):
        error = run(*command, '--out_dir=nowhere', '--bad_rows=Skip', fails=True)
        assert expected in error
