"""Emoji on tiny packages that are made here: which names are drawn, what they are called, and that
no near-copy of a held-out drawing and no held-out combination is in training."""

import dataclasses
import hashlib
import io
import json
import tarfile
from collections import Counter

import pytest
from PIL import Image, ImageChops
from test_demo_data import read_splits

from nanopalm import demo_data, emoji
from nanopalm.datasets import load_examples
from nanopalm.emoji import (
    ARTISTS,
    GENDERS,
    PHRASES,
    ROLES,
    TONES,
    IconSet,
    Person,
    build_emoji,
    caption_of,
    choose_artists,
    hold_out,
    hold_out_people,
    select_people,
    split_people,
)

SHAPES = ('tiger', 'cherries', 'bus', 'castle', 'ant', 'rose', 'drum', 'comet', 'owl')
STYLES = dict(zip(ARTISTS, range(len(ARTISTS))))
PEOPLE = [Person(gender, role, tone) for gender in GENDERS for role in ROLES for tone in TONES]


def drawing(name, style):
    """Returns a shape as SVG, of another pattern in each style."""
    bars = ''
    for i in range(6):
        # a pattern of bits that name and style choose
        digest = hashlib.sha256(f'{name} {style} {i}'.encode()).digest()
        for j in range(6):
            if digest[j] % 2:
                bars += f'<rect x="{2 * j}" y="{2 * i}" width="2" height="2" fill="#333"/>'
    return f'<rect x="-1" y="-1" width="1" height="1" fill="#a00"/>{bars}'


def names_of(people, artist):
    """Returns what an artist calls people, as in the real packages."""
    if artist.startswith('emojione'):
        return []
    names = [person.name for person in people]
    if artist.startswith('fluent'):
        names = [name.removesuffix('-skin-tone') for name in names]
    return names


def write_package(path, artist, styles=STYLES, names=SHAPES, people=(), aliases=None):
    """Writes a package of npm with the drawings of an artist."""
    names = [*names, *names_of(people, artist)]
    icons = {name: {'body': drawing(name, styles[artist])} for name in names}
    icons['tiger-dark-skin-tone'] = {'body': '<g/>'}
    icons['grinning'] = {'body': '<g/>'}
    files = {
        'icons.json': {
            'prefix': artist,
            'icons': icons,
            'aliases': aliases or {},
            'width': 12,
            'height': 12,
        },
        'metadata.json': {
            'categories': {
                'Animals & Nature': ['tiger', 'tiger-dark-skin-tone', 'ant', 'rose', 'owl'],
                'Food Drink': ['cherries'],
                'Travel & Places': ['bus', 'castle', 'comet'],
                'Smileys & Emotion': ['grinning'],
                'Objects': ['drum', 'grinning'],
            }
        },
        'info.json': {
            'name': f'Emoji of {artist}',
            'author': {'name': 'Somebody', 'url': 'https://example.org'},
            'license': {'title': 'CC BY 4.0', 'url': 'https://example.org/by'},
        },
    }
    if artist == 'fluent-emoji':
        del files['metadata.json']['categories']
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, 'w:gz') as archive:
        for name, content in files.items():
            data = json.dumps(content).encode()
            member = tarfile.TarInfo(f'package/{name}')
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """downloads(artists, ...) -> a folder with the packages of these artists. There is no npm."""
    monkeypatch.setenv('PATH', '')
    # nor one that could be fetched
    monkeypatch.setattr(demo_data, 'find_npm', lambda downloads: ['npm'])

    def downloads(artists=ARTISTS, **content):
        folder = tmp_path / 'downloads'
        for artist in artists:
            name = f'iconify-json-{artist}'
            package = demo_data.PACKAGES[name]
            path = folder / f'{name}-{package.version}.tgz'
            write_package(path, artist, **content)
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            package = dataclasses.replace(package, sha256=sha256)
            monkeypatch.setitem(demo_data.PACKAGES, name, package)
        return folder

    return downloads


def ids_of(splits):
    return {split: {example['id'] for example in examples} for split, examples in splits.items()}


# ---- the data set --------------------------------------------------------------------------------


def test_names_become_captioned_pictures_that_train_py_reads(downloads, tmp_path):
    folder = tmp_path / 'emoji'
    summary = build_emoji(folder, downloads())
    assert summary.startswith('9 names, 8 artists')
    splits = read_splits(folder)
    captions = set()
    for examples in splits.values():
        for example in examples:
            captions.update(example['caption'])
    assert captions == set(map(caption_of, SHAPES))
    config = dict(dataset=str(folder), bad_rows='error', train_rows=0, seed=0)
    for split in splits:
        examples = load_examples(config, split)
        assert len(examples) == len(splits[split])
        for example in examples:
            assert_fills_its_picture(Image.open(example['image']))
    categories = {}
    for example in splits['train']:
        categories[example['caption'][0]] = example['category']
    assert categories['rose'] == 'plant' and categories['bus'] == 'vehicle'
    assert categories['castle'] == 'place' and categories['drum'] == 'thing'


def assert_fills_its_picture(image):
    """Asserts that a picture is a square on white, and its drawing in the middle as large as the
    margin leaves it."""
    width, height = image.size
    assert width == height
    left, top, right, bottom = ImageChops.invert(image.convert('RGB')).getbbox()
    assert width == round(emoji.MARGIN * max(right - left, bottom - top))
    # within a pixel that is half on one side
    assert abs(left - (width - right)) <= 1
    assert abs(top - (height - bottom)) <= 1


def test_one_drawing_of_a_name_is_held_out_and_the_others_are_in_training(downloads, tmp_path):
    build_emoji(tmp_path / 'emoji', downloads())
    ids = ids_of(read_splits(tmp_path / 'emoji'))
    assert len(ids['test']) == 3 and len(ids['val']) == 1
    held_out = [id_.split('/') for id_ in ids['test'] | ids['val']]
    names = [name for _, name in held_out]
    assert len(set(names)) == len(names)
    for artist, name in held_out:
        others = set(ARTISTS) - {artist}
        if artist.startswith('fluent'):
            # the other style of the same drawing is in no split
            others -= emoji.SAME_DRAWINGS
        assert {other for other in others if f'{other}/{name}' in ids['train']} == others
    assert not ids['train'] & ids['test'] and not ids['train'] & ids['val']


def test_what_another_artist_has_copied_is_not_in_training(downloads, tmp_path):
    # two artists draw as others do
    styles = STYLES | {'twemoji': STYLES['noto'], 'emojione-v1': STYLES['noto']}
    build_emoji(tmp_path / 'emoji', downloads(styles=styles))
    ids = ids_of(read_splits(tmp_path / 'emoji'))
    alike = ('noto', 'twemoji', 'emojione-v1')
    checked = 0
    for id_ in ids['test'] | ids['val']:
        artist, name = id_.split('/')
        if artist in alike:
            checked += 1
            assert not ids['train'] & {f'{other}/{name}' for other in alike}
    assert checked


def test_a_drawing_that_has_an_alias_is_taken_once_and_a_mirrored_one_not_at_all():
    aliases = {'big-cat': {'parent': 'tiger'}, 'retiger': {'parent': 'tiger', 'hFlip': True}}
    icon_set = IconSet({'icons': {'tiger': {'body': ''}}, 'aliases': aliases}, {}, {})
    assert icon_set.find('big-cat') == icon_set.find('tiger') == 'tiger'
    assert icon_set.find('retiger') is None and icon_set.find('lion') is None
    icon_sets = {}
    for artist in ARTISTS:
        name = 'tiger' if artist != 'emojione' else 'big-cat'
        other = 'tiger' if name == 'big-cat' else 'big-cat'
        categories = {'Animals & Nature': [name]}
        icons = {'icons': {name: {'body': ''}}, 'aliases': {other: {'parent': name}}}
        icon_sets[artist] = IconSet(icons, categories, {})
    artists_of, _ = emoji.select_names(icon_sets)
    assert artists_of == {'tiger': list(ARTISTS)}


def test_a_drawing_that_is_not_square_stands_in_the_middle_of_one():
    icons = {'icons': {'bus': {'body': '<g/>', 'width': 30, 'left': 2}}, 'height': 10}
    assert 'viewBox="2.0 -10.0 30 30"' in IconSet(icons, {}, {}).svg('bus')


def test_names_are_held_out_alike_everywhere_and_the_artists_take_turns():
    artists_of = {f'name-{i}': list(ARTISTS) for i in range(588)}
    held_out = hold_out(artists_of)
    assert held_out == hold_out(dict(reversed(artists_of.items())))
    assert held_out != hold_out(artists_of, seed=1)
    splits = [split for split, _ in held_out.values()]
    assert splits.count('test') == 200 and splits.count('val') == 64
    artists = [artist for _, artist in held_out.values()]
    assert {artists.count(artist) for artist in ARTISTS} == {33}


def test_authors_and_licences_are_written(downloads, tmp_path):
    build_emoji(tmp_path / 'emoji', downloads())
    text = (tmp_path / 'emoji/ATTRIBUTION.txt').read_text()
    assert text.count('Emoji of ') == 8
    assert 'by Somebody, https://example.org' in text and 'license: CC BY 4.0' in text


# ---- people --------------------------------------------------------------------------------------


def read_composition(folder):
    lines = (folder / 'test_composition.jsonl').read_text(encoding='utf-8').splitlines()
    return [json.loads(line) for line in lines]


def captions_of(examples):
    return {example['caption'][0] for example in examples}


@pytest.mark.parametrize(
    'person, name, caption',
    [
        (Person('woman', 'cook', ''), 'woman-cook', 'woman cook'),
        (
            Person('man', 'police-officer', 'medium-dark'),
            'man-police-officer-medium-dark-skin-tone',
            'man police officer with medium-dark skin',
        ),
    ],
)
def test_a_person_has_a_name_and_a_caption(person, name, caption):
    assert person.name == name and person.caption == caption


def test_a_person_is_found_under_what_the_artist_calls_it():
    dark = Person('woman', 'cook', 'dark')
    medium = Person('man', 'cook', 'medium')
    icons = {
        'noto': {'icons': {'woman-cook-dark-skin-tone': {}, 'woman-cook': {}}},
        # 'man-cook-medium-dark' is another one
        'fluent-emoji': {'icons': {'woman-cook-dark': {}, 'man-cook-medium-dark': {}}},
        'openmoji': {
            'icons': {'cook-7': {}},
            'aliases': {'man-cook-medium-skin-tone': {'parent': 'cook-7'}},
        },
        'emojione': {'icons': {}},
    }
    icon_sets = {artist: IconSet(content, {}, {}) for artist, content in icons.items()}
    found = select_people(icon_sets)
    assert found[dark] == {'noto': 'woman-cook-dark-skin-tone', 'fluent-emoji': 'woman-cook-dark'}
    assert found[medium] == {'openmoji': 'cook-7'}
    assert found[Person('woman', 'cook', '')] == {'noto': 'woman-cook'}
    assert found[Person('man', 'cook', 'medium-dark')] == {'fluent-emoji': 'man-cook-medium-dark'}
    assert len(found) == 4


def test_a_combination_in_ten_is_held_out_and_its_pairs_are_in_training():
    held_out = hold_out_people(PEOPLE)
    assert len(held_out) == len(set(held_out)) == 20
    assert set(held_out) == set(hold_out_people(PEOPLE[::-1]))
    assert set(held_out) != set(hold_out_people(PEOPLE, seed=1))
    for part in ('gender', 'role', 'tone'):
        parts = {getattr(person, part) for person in set(PEOPLE) - set(held_out)}
        assert parts == {getattr(person, part) for person in PEOPLE}
    # and they take turns
    assert set(Counter(person.tone for person in held_out).values()) == {3, 4}
    assert set(Counter(person.role for person in held_out).values()) == {1, 2}
    assert min(Counter(person.gender for person in held_out).values()) >= 8


def test_a_combination_is_not_held_out_if_a_pair_of_it_would_not_be_in_training(monkeypatch):
    monkeypatch.setattr(emoji, 'COMPOSITION_SHARE', 1.0)
    # one tone of a role is drawn of a man only
    people = [person for person in PEOPLE if person != Person('woman', 'judge', 'dark')]
    held_out = hold_out_people(people)
    assert held_out and Person('man', 'judge', 'dark') not in held_out
    pairs = set()
    for person in set(people) - set(held_out):
        pairs.update(person.pairs)
    assert len(pairs) == len(ROLES) * (len(GENDERS) + len(TONES))


def test_artists_take_turns_and_two_styles_of_a_drawing_are_one():
    counts = Counter()
    artists = ('noto', 'fluent-emoji', 'fluent-emoji-flat')
    assert choose_artists(artists, counts, 2) == ['noto', 'fluent-emoji']
    assert choose_artists(artists, counts, 2) == ['fluent-emoji-flat', 'noto']
    assert choose_artists(artists, counts, 1) == ['fluent-emoji']
    assert counts == Counter({'noto': 2, 'fluent-emoji': 2, 'fluent-emoji-flat': 1})
    assert choose_artists(artists, counts, 3) == ['fluent-emoji-flat', 'noto']


def test_all_artists_of_people_draw_all_tones_genders_and_roles_of_the_training():
    artists = [artist for artist in ARTISTS if not artist.startswith('emojione')]
    split_of = split_people(dict.fromkeys(PEOPLE, artists))
    counts = dict(train=Counter(), test_composition=Counter())
    parts = set()
    for person, (split, chosen) in split_of.items():
        counts[split].update(chosen)
        if split == 'train':
            for artist in chosen:
                parts |= {(artist, person.tone), (artist, person.gender), (artist, person.role)}
    assert len(parts) == 6 * (len(TONES) + len(GENDERS) + len(ROLES))
    assert counts['train'].total() == 2 * 184 and counts['test_composition'].total() == 4 * 20
    for split in counts:
        # of the two styles of Fluent Emoji's drawings one at a time is taken
        assert max(counts[split].values()) <= 2 * min(counts[split].values())


def test_no_drawing_of_a_held_out_combination_is_in_training(downloads, tmp_path):
    folder = tmp_path / 'emoji'
    people = [person for person in PEOPLE if person.role in ('cook', 'judge', 'pilot')]
    summary = build_emoji(folder, downloads(names=SHAPES[:3], people=people))
    assert summary.endswith('of 36 combinations of gender, role and skin tone 4 are in it only')
    splits = read_splits(folder)
    composition = read_composition(folder)
    train = [example for example in splits['train'] if example['category'] == 'person']
    held_out = captions_of(composition)
    assert captions_of(train) | held_out == {person.caption for person in people}
    for examples in (train, splits['val'], splits['test']):
        assert not captions_of(examples) & held_out
    for examples, drawings in ((train, 2), (composition, 4)):
        assert {example['category'] for example in examples} == {'person'}
        counts = Counter(example['caption'][0] for example in examples)
        assert set(counts.values()) == {drawings}
    for example in train + composition:
        assert (folder / example['image']).is_file()


# ---- captions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'name, caption',
    [
        ('tiger', 'tiger'),
        ('tiger-face', "tiger's face"),
        ('pig-nose', "pig's nose"),
        ('full-moon-face', 'full moon with face'),
        ('cooked-rice', 'cooked rice'),
        ('ear-of-corn', 'ear of corn'),
        ('wind-face', 'cloud that blows'),
        ('japanese-castle', 'Japanese castle'),
        ('eight-oclock', "clock at eight o'clock"),
        ('ten-thirty', 'clock at half past ten'),
        ('womans-hat', "woman's hat"),
    ],
)
def test_a_name_becomes_plain_english(name, caption):
    assert caption_of(name) == caption


def test_no_caption_has_an_article():
    for caption in PHRASES.values():
        assert not {'a', 'an', 'the'} & set(caption.lower().split())


# ---- without npm ---------------------------------------------------------------------------------


def test_five_artists_will_do(downloads, tmp_path, capsys):
    summary = build_emoji(tmp_path / 'emoji', downloads(ARTISTS[:5]))
    assert '5 artists' in summary
    out = capsys.readouterr().out
    assert 'could not fetch iconify-json-noto-v1: npm is not installed' in out
    assert 'Emoji of 5 artists are there' in out and 'These will do' in out


def test_with_four_artists_it_says_what_to_fetch_and_where_to_put_it(downloads, tmp_path):
    folder = downloads(ARTISTS[:4])
    with pytest.raises(ConnectionError) as error:
        build_emoji(tmp_path / 'emoji', folder)
    message = str(error.value)
    assert 'Emoji of 4 artists are there, 5 of 8 are needed' in message
    assert 'npm pack' in message and '@iconify-json/openmoji@1.2.29' in message
    # all that are missing are named
    assert message.count('@iconify-json/') == 5
    assert f'put it into {folder}' in message
