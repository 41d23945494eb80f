"""
Files -> what an encoder takes: pictures by Pillow, sound by soundfile and torchaudio, video by decord; with the papers' augmentation in training.

`load(path, encoder.preprocessing, ...)` is all that the other files need. What is random is drawn from torch's generator.
"""
import wheels  # noqa: F401  (first: mends torchvision and torchaudio on CPU-only torch)
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torchaudio.compliance import kaldi
from torchaudio.functional import resample
from torchaudio.transforms import FrequencyMasking, TimeMasking
from torchvision.transforms import v2

from rows import BadData

ENDINGS = dict(image=('.png', '.jpg', '.jpeg', '.webp', '.gif', '.bmp', '.tif', '.tiff'), audio=('.wav', '.flac', '.ogg', '.mp3', '.opus', '.aiff'),
               video=('.mp4', '.webm', '.avi', '.mkv', '.mov', '.m4v', '.mpg', '.mpeg', '.flv', '.wmv'))
AUDIOSET_MEAN, AUDIOSET_STD = -4.2677393, 4.5689974                     # of a log mel spectrogram


def load(path, preprocessing, resize='squash', train=False):
    """The file as an encoder takes it, `preprocessing.shape`; train: augmented. Raises BadData for a file that cannot be read."""
    if preprocessing.medium == 'audio':
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
    """PIL, or frames (T, 3, H, W) of bytes -> normalised (3, S, S) or (T, 3, S, S). resize: 'squash' to a square (as the papers), 'crop' its
    centre, or 'pad' with white. train: the papers' augmentation, random resized crop, flip and RandAugment, the same for all frames."""
    size, how = preprocessing.shape[-1], getattr(v2.InterpolationMode, preprocessing.interpolation.upper())
    fit = dict(squash=[], pad=[v2.Lambda(pad_to_square)], crop=[v2.Resize(size, how), v2.CenterCrop(size)])[resize]
    augment = [v2.RandomResizedCrop(size, scale=(0.5, 1.0), interpolation=how), v2.RandomHorizontalFlip(),
               v2.RandAugment(2, 7, fill=255)] if train else [v2.Resize((size, size), how)]
    return v2.Compose([*fit, *augment, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(preprocessing.mean, preprocessing.std)])


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
