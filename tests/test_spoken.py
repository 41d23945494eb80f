"""The spoken names of things without a network: what is held out, the files of the data set, and
what a wheel of another platform leads to."""

import sys
import zipfile
from collections import Counter

import numpy as np
import pytest
import soundfile
from test_demo_data import read_splits

from nanopalm import spoken
from nanopalm.jsonl import SPLITS

NAMES = 'animal\ta dove\nanimal\ta tiger\nfood\tcherries\n'


# ---- names and voices ----------------------------------------------------------------------------


def test_every_name_is_listed_once_with_its_category():
    lines = spoken.NAMES_FILE.read_text(encoding='utf-8').splitlines()
    category_of = spoken.read_names(spoken.NAMES_FILE)
    assert len(lines) == len(category_of) == 588
    assert category_of['a tiger'] == 'animal'
    # a name is also the name of a file
    assert not any('/' in name for name in category_of)


def test_no_two_voices_have_the_same_accent_and_vocal_tract():
    names = {voice.name for voice in spoken.VOICES.values()}
    assert len(names) == len(spoken.VOICES) == 8


# ---- what is held out ----------------------------------------------------------------------------


def test_at_most_one_voice_of_a_name_is_held_out_and_the_voices_take_turns():
    names = spoken.read_names(spoken.NAMES_FILE)
    held_out = spoken.hold_out(names, list(spoken.VOICES), spoken.N_TEST, spoken.N_VAL)
    splits = Counter(split for split, _ in held_out.values())
    assert splits == dict(test=250, val=64)
    per_voice = Counter(voice for _, voice in held_out.values())
    assert set(per_voice) == set(spoken.VOICES)
    assert max(per_voice.values()) - min(per_voice.values()) <= 1


def test_the_same_clips_are_held_out_on_every_machine():
    held_out = spoken.hold_out(['cherries', 'a tiger', 'a dove'], ['one', 'two'], 1, 1)
    assert held_out == {'a dove': ('test', 'one'), 'a tiger': ('val', 'two')}


# ---- the data set --------------------------------------------------------------------------------


class StandIn:
    """A synthesizer whose clips are silent and last a second."""

    rate = 22050

    def __init__(self, wheel, folder):
        self.voices = []

    def set_voice(self, voice):
        self.voices.append(voice)

    def speak(self, text):
        return np.zeros(self.rate, np.int16)

    def close(self):
        assert self.voices == list(spoken.VOICES.values())


def test_a_held_out_clip_is_new_and_its_name_was_heard_in_the_other_voices(tmp_path, monkeypatch):
    names = tmp_path / 'names.tsv'
    names.write_text(NAMES)
    monkeypatch.setattr(spoken, 'NAMES_FILE', names)
    monkeypatch.setattr(spoken, 'N_TEST', 2)
    monkeypatch.setattr(spoken, 'N_VAL', 1)
    monkeypatch.setattr(spoken, 'fetch', lambda name, downloads: downloads / name)
    monkeypatch.setattr(spoken, 'Synthesizer', StandIn)
    summary = spoken.build_spoken_names(tmp_path, tmp_path)
    assert summary == '3 names, 8 voices, 21 train, 1 val, 2 test clips'
    splits = read_splits(tmp_path)
    assert {split: len(splits[split]) for split in SPLITS} == dict(train=21, val=1, test=2)
    heard = {example['id'] for example in splits['train']}
    for example in splits['val'] + splits['test']:
        voice, name = example['id'].split('/')
        assert example['caption'] == [name]
        assert example['audio'] == f'sounds/{voice}/{name}.flac'
        others = {f'{other}/{name}' for other in spoken.VOICES if other != voice}
        assert others <= heard
        assert example['id'] not in heard
    samples, rate = soundfile.read(tmp_path / splits['test'][0]['audio'])
    assert (len(samples), rate) == (22050, 22050)


def test_a_name_is_written_with_its_category(tmp_path):
    path = tmp_path / 'names.tsv'
    path.write_text(NAMES)
    expected = {'a dove': 'animal', 'a tiger': 'animal', 'cherries': 'food'}
    assert spoken.read_names(path) == expected


def test_a_wheel_of_another_platform_is_named(tmp_path):
    wheel = tmp_path / 'espeakng_loader-0.2.4-py3-none-any.whl'
    library = spoken.LIBRARIES.get(sys.platform, 'libespeak-ng.so')
    with zipfile.ZipFile(wheel, 'w') as archive:
        archive.writestr(f'espeakng_loader/{library}', b'of another platform')
    with pytest.raises(ConnectionError, match='cannot be loaded on this machine') as error:
        spoken.Synthesizer(wheel, tmp_path / 'unpacked')
    assert str(wheel) in str(error.value)
