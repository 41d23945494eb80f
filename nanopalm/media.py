"""
Files -> what an encoder takes: pictures by Pillow, sound by soundfile and torchaudio, video by decord; with the papers' augmentation in training.

`load(path, encoder.preprocessing, ...)` is all that the other files need. What is random is drawn from torch's generator.
"""
import math

import nanopalm.wheels  # noqa: F401  (first: mends torchvision and torchaudio on CPU-only torch)

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torchaudio.compliance import kaldi
from torchaudio.functional import resample
from torchaudio.transforms import FrequencyMasking, TimeMasking
from torchvision.transforms import v2

from nanopalm.examples import BadData

ENDINGS = dict(image=('.png', '.jpg', '.jpeg', '.webp', '.gif', '.bmp', '.tif', '.tiff'), audio=('.wav', '.flac', '.ogg', '.mp3', '.opus', '.aiff'),
               video=('.mp4', '.webm', '.avi', '.mkv', '.mov', '.m4v', '.mpg', '.mpeg', '.flv', '.wmv'))
AUDIOSET_MEAN, AUDIOSET_STD = -4.2677393, 4.5689974                     # of a log mel spectrogram


def load(path, preprocessing, resize='squash', train=False):
    """The file as an encoder takes it, `preprocessing.shape`; train: augmented. Raises BadData for a file that cannot be read."""
    if preprocessing.medium == 'audio':
        # a caller may be within autocast, but a spectrogram is made in float32
        with torch.autocast('cpu', enabled=False):
            return spectrogram(path, preprocessing, train)
    picture = read_image(path) if preprocessing.medium == 'image' else read_video(path, preprocessing.shape[0], train)
    return image_transform(preprocessing, resize, train)(picture)


# ---- pictures -------------------------------------------------------------------------------------------------------

def read_image(path):
    """RGB, transparent parts on white. Raises BadData for a file that is no whole picture."""
    try:
        with Image.open(path) as image:
            image.load()
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith('I'):                              # 16 bits: convert() would clip them
                image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
            if image.mode in ('RGBA', 'LA', 'PA') or 'transparency' in image.info:
                image = image.convert('RGBA')
                return Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image).convert('RGB')
            return image.convert('RGB')
    except Exception as e:                                              # Pillow's decoders raise all kinds
        raise BadData(f'{path}: not a readable picture ({e})') from e


def image_transform(preprocessing, resize, train):
    """Returns a function: PIL picture, or frames (T, 3, H, W) of bytes -> normalised (3, S, S) or
    (T, 3, S, S).

    resize: 'squash' to a square, as the papers; 'pad' it with white; 'crop' its centre. Where the
    encoder has a crop_pct below 1, 'squash' then enlarges the square to S / crop_pct and cuts S
    out of its centre, as DePALM does (224 -> 248 -> 224), in training and in evaluation;
    'squash_whole' leaves that out. train: the papers' augmentation, a random resized crop, a flip
    and RandAugment, the same for all frames of a video.
    """
    size = preprocessing.shape[-1]
    how = getattr(v2.InterpolationMode, preprocessing.interpolation.upper())
    steps = []
    if resize == 'pad':
        steps.append(v2.Lambda(pad_to_square))
    if resize == 'crop':
        steps += [v2.Resize(size, how), v2.CenterCrop(size)]
    if train:
        # both papers: their own ten operations for pictures, torchvision's defaults for videos
        # into a picture that was padded with white comes more white, else the papers' grey
        fill = 255 if resize == 'pad' else 128
        operations = v2.RandAugment() if preprocessing.medium == 'video' else PictureRandAugment(fill)
        steps += [v2.RandomResizedCrop(size, scale=(0.5, 1.0), interpolation=how),
                  v2.RandomHorizontalFlip(), operations]
    else:
        steps.append(v2.Resize((size, size), how))
    if resize == 'squash' and preprocessing.crop_pct < 1:
        enlarged = int(size / preprocessing.crop_pct)
        steps += [v2.Resize((enlarged, enlarged), how), v2.CenterCrop(size)]
    steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
              v2.Normalize(preprocessing.mean, preprocessing.std)]
    return v2.Compose(steps)


class PictureRandAugment:
    """The RandAugment of both papers for pictures (ALBEF's and BLIP's): two operations, each drawn
    from ten and then applied with probability one half; all have strength 7 of 10. fill: the grey
    of what comes into the picture from outside, 128 in the papers."""
    OPERATIONS = ('identity', 'autocontrast', 'equalize', 'brightness', 'sharpness',
                  'shear_x', 'shear_y', 'translate_x', 'translate_y', 'rotate')

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
        """Returns a PIL picture after the operation of this name, to either side by chance."""
        functional = v2.functional
        enhanced = 0.1 + 1.8 * self.strength                            # 1 = as it was
        side = 1 if torch.rand(()) < 0.5 else -1
        if name == 'identity':
            return image
        if name == 'autocontrast':
            return functional.autocontrast(image)
        if name == 'equalize':
            return functional.equalize(image)
        if name == 'brightness':
            return functional.adjust_brightness(image, enhanced)
        if name == 'sharpness':
            return functional.adjust_sharpness(image, enhanced)
        angle = 0.0
        translate = [0, 0]
        shear = [0.0, 0.0]
        # the middle of the first pixel, from where OpenCV counts, with which the papers do it
        center = [0.5, 0.5]
        axis = 1 if name.endswith('_y') else 0
        if name == 'rotate':
            angle = 30 * self.strength * side
            center = [image.width / 2 + 0.5, image.height / 2 + 0.5]
        elif name.startswith('translate'):
            translate[axis] = round(10 * self.strength) * side           # pixels
        else:
            shear[axis] = math.degrees(math.atan(0.3 * self.strength)) * side
        return functional.affine(image, angle, translate, 1.0, shear,
                                 v2.InterpolationMode.BILINEAR, fill=self.fill, center=center)


def pad_to_square(image):
    """White borders on the short side."""
    H, W = v2.functional.get_size(image)
    side = max(H, W)
    top, left = (side - H) // 2, (side - W) // 2
    return v2.functional.pad(image, [left, top, side - W - left, side - H - top], fill=255)


# ---- sound ----------------------------------------------------------------------------------------------------------

def read_audio(path, rate):
    """One channel (samples,) at this rate. Raises BadData for a file that is no sound, or has less than a tenth of a second of it."""
    import soundfile
    try:
        wave, own_rate = soundfile.read(path, dtype='float32', always_2d=True)          # (samples, channels)
    except Exception as e:
        raise BadData(f'{path}: not a readable sound ({e})') from e
    if len(wave) < own_rate / 10:
        raise BadData(f'{path}: too short, {len(wave) / own_rate:.3f} seconds; a tenth of one is the least')
    if not np.isfinite(wave).all():
        raise BadData(f'{path}: not a readable sound (some samples are no numbers)')
    return resample(torch.from_numpy(wave.mean(1)), own_rate, rate)


def spectrogram(path, preprocessing, train):
    """A log mel spectrogram: by the extractor that the encoder brings, or AudioSet's for AST and AudioMAE, (frames, bands) at 10 ms, in
    training with the papers' SpecAugment. Of a clip that is too long its beginning; train: any part."""
    extractor = preprocessing.extractor
    if extractor:
        rate = extractor.sampling_rate
        wave = crop(read_audio(path, rate), preprocessing.seconds * rate, train)
        return torch.from_numpy(extractor(wave.numpy(), sampling_rate=rate, return_tensors='np').input_features[0]).float()
    frames, bands = preprocessing.shape
    wave = crop(read_audio(path, 16000), frames * 160 + 240, train)     # windows of 400 samples
    mel = kaldi.fbank((wave - wave.mean())[None], htk_compat=True, sample_frequency=16000, window_type='hanning', num_mel_bins=bands, dither=0.0)
    mel = F.pad(mel, (0, 0, 0, frames - len(mel)))                      # (frames, bands)
    if train:
        mel = TimeMasking(96)(FrequencyMasking(24)(mel.T[None]))[0].T
    return (mel - AUDIOSET_MEAN) / (2 * AUDIOSET_STD)


def crop(wave, n, train):
    """At most n samples: the first, or in training any."""
    start = int(torch.randint(max(1, len(wave) - n + 1), ())) if train else 0
    return wave[start:start + n]


# ---- video ----------------------------------------------------------------------------------------------------------

def read_video(path, n, train):
    """n frames (n, 3, H, W) of bytes, one from each of n equal segments: its middle one, or in training any. A clip of fewer frames has
    some twice. Raises BadData for a file that is no video."""
    import decord
    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        where = torch.rand(n) if train else torch.full((n,), 0.5)
        index = ((torch.arange(n) + where) * len(reader) / n).long().clamp(max=len(reader) - 1)
        return torch.from_numpy(reader.get_batch(index.tolist()).asnumpy()).permute(0, 3, 1, 2)
    except Exception as e:
        raise BadData(f'{path}: not a readable video ({str(e).splitlines()[-1] if str(e) else "no frames"})') from e
