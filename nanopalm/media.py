"""
Loads files as the encoders take them: images with Pillow, sound with soundfile and torchaudio,
video with decord; in training with the papers' augmentation.

`load(path, encoder.preprocessing)` is the entry point. Everything random is drawn from torch's
global generator, which the callers seed.
"""

import math

import nanopalm.wheels  # noqa: F401

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torchaudio.compliance import kaldi
from torchaudio.functional import resample
from torchaudio.transforms import FrequencyMasking, TimeMasking
from torchvision.transforms import v2

from nanopalm.examples import BadData

# Feature caches on disk are valid for one version. Raise it in every commit after which `load`
# returns something else for a file than before.
MEDIA_VERSION = 1

ENDINGS = dict(
    image=('.png', '.jpg', '.jpeg', '.webp', '.gif', '.bmp', '.tif', '.tiff'),
    audio=('.wav', '.flac', '.ogg', '.mp3', '.opus', '.aiff'),
    video=(
        '.mp4',
        '.webm',
        '.avi',
        '.mkv',
        '.mov',
        '.m4v',
        '.mpg',
        '.mpeg',
        '.flv',
        '.wmv',
    ),
)

# of the log mel spectrograms of AudioSet
AUDIOSET_MEAN = -4.2677393
AUDIOSET_STD = 4.5689974


def load(path, preprocessing, resize='squash', train=False):
    """Returns a file as an encoder takes it, a float tensor of `preprocessing.shape`.

    resize: how an image or a frame is made square, see `image_transform`. train: with augmentation.
    Raises BadData for a file that cannot be read."""
    if preprocessing.medium == 'audio':
        # the caller may be within autocast, but a spectrogram is computed in float32
        with torch.autocast('cpu', enabled=False):
            return spectrogram(path, preprocessing, train)
    if preprocessing.medium == 'image':
        image = read_image(path)
    else:
        image = read_video(path, preprocessing.shape[0], train)
    return image_transform(preprocessing, resize, train)(image)


# ---- images --------------------------------------------------------------------------------------


def read_image(path):
    """Returns an image file as a PIL image in RGB, upright, with white for what is transparent. Of
    an animation it is the first frame. Raises BadData for a file that is not a complete image."""
    try:
        with Image.open(path) as image:
            image.load()
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith('I'):
                # 16 bits a pixel, which convert() would clip to 255
                eight_bits = (np.asarray(image) / 257).round().astype(np.uint8)
                image = Image.fromarray(eight_bits)
            if image.mode in ('RGBA', 'LA', 'PA') or 'transparency' in image.info:
                image = image.convert('RGBA')
                white = Image.new('RGBA', image.size, 'white')
                image = Image.alpha_composite(white, image)
            return image.convert('RGB')
    except Exception as error:
        # Pillow's decoders raise exceptions of all kinds
        raise BadData(f'{path}: not a readable picture ({error})') from error


def image_transform(preprocessing, resize, train):
    """Returns a function that makes of a PIL image, or of frames (T, 3, H, W) in bytes, what an
    encoder takes: normalised (3, S, S) or (T, 3, S, S).

    resize: 'squash' makes a square of the image, as the papers do; 'pad' adds white borders first;
    'crop' cuts out the centre. Where the encoder has a crop_pct below 1, 'squash' then enlarges the
    square to S / crop_pct and cuts S out of its centre, as DePALM does (224 -> 248 -> 224), in
    training and in evaluation. 'squash_whole' leaves that out.

    train: the papers' augmentation, which is a random resized crop, a horizontal flip and
    RandAugment, the same for all frames of a video."""
    size = preprocessing.shape[-1]
    interpolation = getattr(v2.InterpolationMode, preprocessing.interpolation.upper())
    steps = []
    if resize == 'pad':
        steps.append(v2.Lambda(pad_to_square))
    if resize == 'crop':
        steps.append(v2.Resize(size, interpolation))
        steps.append(v2.CenterCrop(size))
    if train:
        steps.append(v2.RandomResizedCrop(size, scale=(0.5, 1.0), interpolation=interpolation))
        steps.append(v2.RandomHorizontalFlip())
        steps.append(rand_augment(preprocessing.medium, resize))
    else:
        steps.append(v2.Resize((size, size), interpolation))
    if resize == 'squash' and preprocessing.crop_pct < 1:
        enlarged = int(size / preprocessing.crop_pct)
        steps.append(v2.Resize((enlarged, enlarged), interpolation))
        steps.append(v2.CenterCrop(size))
    steps.append(v2.ToImage())
    steps.append(v2.ToDtype(torch.float32, scale=True))
    steps.append(v2.Normalize(preprocessing.mean, preprocessing.std))
    return v2.Compose(steps)


def pad_to_square(image):
    """Returns an image, or frames, with white borders along the longer sides."""
    H, W = v2.functional.get_size(image)
    side = max(H, W)
    top = (side - H) // 2
    left = (side - W) // 2
    borders = [left, top, side - W - left, side - H - top]
    return v2.functional.pad(image, borders, fill=255)


def rand_augment(medium, resize):
    """Returns the RandAugment of both papers: ten operations of their own for images, torchvision's
    defaults for videos."""
    if medium == 'video':
        return v2.RandAugment()
    # what enters an image that was padded with white is white too; else it is the papers' grey
    return ImageRandAugment(fill=255 if resize == 'pad' else 128)


class ImageRandAugment:
    """The RandAugment of both papers for images (ALBEF's and BLIP's): two operations, each drawn
    from ten and then applied with probability one half; all have strength 7 of 10.

    fill: the grey of what enters the image from outside, 128 in the papers."""

    OPERATIONS = (
        'identity',
        'autocontrast',
        'equalize',
        'brightness',
        'sharpness',
        'shear_x',
        'shear_y',
        'translate_x',
        'translate_y',
        'rotate',
    )

    def __init__(self, fill=128, n_operations=2, strength=0.7, probability=0.5):
        self.fill = [fill] * 3
        self.n_operations = n_operations
        self.strength = strength
        self.probability = probability

    def __call__(self, image):
        for _ in range(self.n_operations):
            name = self.OPERATIONS[int(torch.randint(len(self.OPERATIONS), ()))]
            if torch.rand(()) < self.probability:
                image = self.apply(image, name)
        return image

    def apply(self, image, name):
        """Returns a PIL image after the operation of this name. Whether it is moved to one side or
        to the other is drawn here."""
        # drawn for every operation, so that the draws that follow do not depend on the name
        side = 1 if torch.rand(()) < 0.5 else -1
        # 1 leaves an image as it is
        factor = 0.1 + 1.8 * self.strength
        if name == 'identity':
            return image
        if name == 'autocontrast':
            return v2.functional.autocontrast(image)
        if name == 'equalize':
            return v2.functional.equalize(image)
        if name == 'brightness':
            return v2.functional.adjust_brightness(image, factor)
        if name == 'sharpness':
            return v2.functional.adjust_sharpness(image, factor)
        return self.move(image, name, side)

    def move(self, image, name, side):
        """Returns a PIL image that is sheared, translated or rotated to one side (1 or -1)."""
        angle = 0.0
        translate = [0, 0]
        shear = [0.0, 0.0]
        # the papers use OpenCV, which counts from the middle of the first pixel
        center = [0.5, 0.5]
        axis = 1 if name.endswith('_y') else 0
        if name == 'rotate':
            angle = 30 * self.strength * side
            center = [image.width / 2 + 0.5, image.height / 2 + 0.5]
        elif name.startswith('translate'):
            # pixels
            translate[axis] = round(10 * self.strength) * side
        else:
            shear[axis] = math.degrees(math.atan(0.3 * self.strength)) * side
        return v2.functional.affine(
            image,
            angle=angle,
            translate=translate,
            scale=1.0,
            shear=shear,
            interpolation=v2.InterpolationMode.BILINEAR,
            fill=self.fill,
            center=center,
        )


# ---- sound ---------------------------------------------------------------------------------------


def read_audio(path, rate):
    """Returns a sound file as one channel (samples,) at this sampling rate. Raises BadData for a
    file that is not a sound, or is shorter than a tenth of a second."""
    import soundfile

    try:
        # (samples, channels)
        wave, own_rate = soundfile.read(path, dtype='float32', always_2d=True)
    except Exception as error:
        raise BadData(f'{path}: not a readable sound ({error})') from error
    if len(wave) < own_rate / 10:
        raise BadData(
            f'{path}: too short, {len(wave) / own_rate:.3f} seconds; expected at least 0.1 seconds'
        )
    if not np.isfinite(wave).all():
        raise BadData(f'{path}: not a readable sound (some samples are not finite numbers)')
    return resample(torch.from_numpy(wave.mean(1)), own_rate, rate)


def spectrogram(path, preprocessing, train):
    """Returns the log mel spectrogram of a sound file: that of the encoder's own extractor, or
    where it has none, AudioSet's, for AST and AudioMAE. Of a clip that is too long it is the
    beginning; in training, any part."""
    if preprocessing.extractor:
        return extracted_spectrogram(path, preprocessing, train)
    return audioset_spectrogram(path, preprocessing.shape, train)


def extracted_spectrogram(path, preprocessing, train):
    extractor = preprocessing.extractor
    rate = extractor.sampling_rate
    wave = crop(read_audio(path, rate), preprocessing.seconds * rate, train)
    features = extractor(wave.numpy(), sampling_rate=rate, return_tensors='np')
    return torch.from_numpy(features.input_features[0]).float()


def audioset_spectrogram(path, shape, train):
    """Returns a spectrogram (frames, bands) with a frame every 10 ms, in training with the papers'
    SpecAugment."""
    frames, bands = shape
    # a frame is a window of 400 samples, 160 after the one before
    wave = crop(read_audio(path, 16000), frames * 160 + 240, train)
    mel = kaldi.fbank(
        (wave - wave.mean())[None],
        htk_compat=True,
        sample_frequency=16000,
        window_type='hanning',
        num_mel_bins=bands,
        dither=0.0,
    )
    mel = F.pad(mel, (0, 0, 0, frames - len(mel)))
    if train:
        # (1, bands, frames)
        mel = FrequencyMasking(24)(mel.T[None])
        mel = TimeMasking(96)(mel)
        mel = mel[0].T
    return (mel - AUDIOSET_MEAN) / (2 * AUDIOSET_STD)


def crop(wave, n, train):
    """Returns at most n samples of a wave: the first ones, or in training any."""
    start = 0
    if train:
        start = int(torch.randint(max(1, len(wave) - n + 1), ()))
    return wave[start : start + n]


# ---- video ---------------------------------------------------------------------------------------


def read_video(path, n, train):
    """Returns n frames (n, 3, H, W) of a video file in bytes, one from each of n equal segments:
    the middle one, or in training any. A clip with fewer frames has some of them twice. Raises
    BadData for a file that is not a video."""
    import decord

    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        position = torch.rand(n) if train else torch.full((n,), 0.5)
        index = ((torch.arange(n) + position) * len(reader) / n).long()
        index = index.clamp(max=len(reader) - 1)
        frames = reader.get_batch(index.tolist()).asnumpy()
    except Exception as error:
        # decord's messages hold a stack of C++ calls, then the reason
        reason = str(error).splitlines()[-1] if str(error) else 'no frames'
        raise BadData(f'{path}: not a readable video ({reason})') from error
    # from (n, H, W, 3)
    return torch.from_numpy(frames).permute(0, 3, 1, 2)
