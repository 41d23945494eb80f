"""
Emoji as eight artists drew them: captioned pictures, where each held-out picture is new, but what
it shows was seen in training in other hands.

`build_emoji(folder, downloads)` makes the data set from packages of npm: train.jsonl, val.jsonl,
test.jsonl, test_composition.jsonl, their images, and ATTRIBUTION.txt. A line of the JSONL files is

    {"image": "images/noto/tiger.png", "caption": ["tiger"], "category": "animal",
     "id": "noto/tiger"}

Of 45% of the names, one artist's drawing is held out. Some drawings of other artists are
near-copies of it, and are left out of the data set, so that none of them is in training.

Beside these things there are people, each a combination of a gender, a role and a skin tone. One
combination in ten is in test_composition.jsonl only, in nobody's hands in training, where its role
was seen with its gender and with its skin tone.
"""

import hashlib
import io
import itertools
import json
import multiprocessing
import os
import signal
import tarfile
from collections import Counter
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops
from tqdm import tqdm

from nanopalm.demo_data import PACKAGES, fetch, find_package, write_file, write_splits
from nanopalm.progress import BAR

# ---- artists -------------------------------------------------------------------------------------

# in the order in which they take turns with a drawing that is held out
ARTISTS = (
    'noto',
    'twemoji',
    'emojione',
    'fluent-emoji',
    'openmoji',
    'noto-v1',
    'emojione-v1',
    'fluent-emoji-flat',
)
MIN_ARTISTS = 5
PIXELS = 200
# they draw what the artists have of a name at the same time, so more than artists would wait
MAX_PROCESSES = 8
# side of a picture, of the longer side of what is drawn in it
MARGIN = 1.08


@dataclass(frozen=True)
class IconSet:
    """What one artist has drawn: the files of a package."""

    # icons.json
    icons: dict
    # metadata.json: {category: names}
    categories: dict
    # info.json: author and license
    info: dict

    def find(self, name):
        """Returns the name under which there is a drawing of `name`: the name itself or what it is
        an alias of; None where there is no such drawing. An alias that turns or mirrors its parent
        is another drawing, and is not used."""
        aliases = self.icons.get('aliases', {})
        while name in aliases:
            if set(aliases[name]) != {'parent'}:
                return None
            name = aliases[name]['parent']
        return name if name in self.icons['icons'] else None

    def svg(self, name):
        """Returns a drawing as a square SVG, itself in the middle."""
        icon = self.icons['icons'][name]
        left, top = self.measure(icon, 'left', 0), self.measure(icon, 'top', 0)
        # 16 is what the format takes where neither the icon nor the set says it
        width, height = self.measure(icon, 'width', 16), self.measure(icon, 'height', 16)
        side = max(width, height)
        left -= (side - width) / 2
        top -= (side - height) / 2
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left} {top} {side} {side}">{icon["body"]}</svg>'
        )

    def measure(self, icon, key, default):
        return icon.get(key, self.icons.get(key, default))


def read_icon_set(path):
    """Returns the IconSet in a package of npm, a .tgz file."""
    with tarfile.open(path) as archive:

        def read(name):
            return json.load(archive.extractfile(f'package/{name}'))

        metadata = read('metadata.json')
        return IconSet(read('icons.json'), metadata.get('categories', {}), read('info.json'))


def fetch_icon_sets(downloads):
    """Returns {artist: IconSet} of all artists whose packages can be had. Raises ConnectionError,
    which says what to do, where these are fewer than MIN_ARTISTS."""
    icon_sets = {}
    missing = []
    error = ''
    for artist in ARTISTS:
        name = f'iconify-json-{artist}'
        path = find_package(name, downloads)
        # where one cannot be fetched, the others are not tried
        if path is None and not error:
            try:
                path = fetch(name, downloads)
            except ConnectionError as failure:
                error = str(failure)
        if path is None:
            missing.append(f'{PACKAGES[name].npm}@{PACKAGES[name].version}')
        else:
            icon_sets[artist] = read_icon_set(path)
    if missing:
        error += (
            f'\n  Emoji of {len(icon_sets)} artists are there, {MIN_ARTISTS} of {len(ARTISTS)} are '
            f'needed. All that are missing: {" ".join(missing)}'
        )
    if len(icon_sets) < MIN_ARTISTS:
        raise ConnectionError(error)
    if missing:
        print(
            f'{error}\n  These will do, but expect other numbers than those in docs/.',
            flush=True,
        )
    return icon_sets


# ---- what is drawn -------------------------------------------------------------------------------

# names -> the category of an example; each group of the packages has a rest
CATEGORIES = {
    'Animals Nature': 'animal',
    'Food Drink': 'food',
    'Travel Places': 'place',
    'Objects': 'thing',
}
SMALLER_CATEGORIES = {
    'plant': """blossom bouquet cactus cherry-blossom deciduous-tree evergreen-tree fallen-leaf
        four-leaf-clover herb hibiscus leaf-fluttering-in-wind maple-leaf mushroom palm-tree rose
        rosette seedling shamrock sheaf-of-rice sunflower tulip white-flower wilted-flower""",
    'vehicle': """aerial-tramway airplane airplane-arrival airplane-departure ambulance
        articulated-lorry automobile bicycle bullet-train bus canoe delivery-truck ferry fire-engine
        helicopter high-speed-train kick-scooter light-rail locomotive metro minibus monorail
        motor-boat motor-scooter motorcycle mountain-cableway mountain-railway oncoming-automobile
        oncoming-bus oncoming-police-car oncoming-taxi passenger-ship police-car racing-car
        railway-car rocket sailboat satellite ship small-airplane speedboat sport-utility-vehicle
        station suspension-railway taxi tractor train tram tram-car trolleybus""",
    'sky': """cloud cloud-with-lightning cloud-with-lightning-and-rain cloud-with-rain
        cloud-with-snow comet crescent-moon cyclone droplet fire first-quarter-moon
        first-quarter-moon-face fog full-moon full-moon-face globe-showing-americas
        globe-showing-asia-australia globe-showing-europe-africa glowing-star last-quarter-moon
        last-quarter-moon-face milky-way new-moon new-moon-face rainbow shooting-star snowflake
        snowman snowman-without-snow star sun sun-behind-cloud sun-behind-large-cloud
        sun-behind-rain-cloud sun-behind-small-cloud sun-with-face tornado waning-crescent-moon
        waning-gibbous-moon water-wave waxing-crescent-moon waxing-gibbous-moon wind-face""",
    'clock': """alarm-clock hourglass-done hourglass-not-done mantelpiece-clock stopwatch
        timer-clock watch one-oclock two-oclock three-oclock four-oclock five-oclock six-oclock
        seven-oclock eight-oclock nine-oclock ten-oclock eleven-oclock twelve-oclock one-thirty
        two-thirty three-thirty four-thirty five-thirty six-thirty seven-thirty eight-thirty
        nine-thirty ten-thirty eleven-thirty twelve-thirty""",
    'thing': """anchor barber-pole bellhop-bell bus-stop carousel-horse closed-umbrella construction
        fuel-pump globe-with-meridians high-voltage horizontal-traffic-light map-of-japan moai
        oil-drum police-car-light railway-track seat stop-sign thermometer umbrella
        umbrella-on-ground umbrella-with-rain-drops vertical-traffic-light world-map""",
}


def smaller_categories():
    """Returns {name: category} of the names in SMALLER_CATEGORIES."""
    category_of = {}
    for category, names in SMALLER_CATEGORIES.items():
        category_of.update(dict.fromkeys(names.split(), category))
    return category_of


def categories_of(icon_sets):
    """Returns {name: category} of what the artists have drawn of the groups in CATEGORIES, without
    skin tones. Where artists disagree, the first counts."""
    category_of = {}
    smaller = smaller_categories()
    for icon_set in icon_sets.values():
        for group, names in icon_set.categories.items():
            # 'Animals & Nature' or 'Animals Nature'
            category = CATEGORIES.get(group.replace(' & ', ' '))
            for name in names:
                if 'skin-tone' not in name and name not in category_of:
                    category_of[name] = smaller.get(name, category) if category else ''
    return {name: category for name, category in category_of.items() if category}


def select_names(icon_sets):
    """Returns ({name: the artists who drew it}, {name: category}) of the names that all artists but
    one drew at least, in alphabetical order. Of two names of the same drawings, the one by which
    the most artists call it is taken."""
    category_of = categories_of(icon_sets)
    calls = Counter()
    for icon_set in icon_sets.values():
        calls.update(list(icon_set.icons['icons']))
    artists_of = {}
    taken = set()
    for name in sorted(category_of, key=lambda name: (-calls[name], name)):
        drawings = []
        for artist, icon_set in icon_sets.items():
            drawing = icon_set.find(name)
            if drawing is not None:
                drawings.append((artist, drawing))
        if len(drawings) < len(icon_sets) - 1 or not taken.isdisjoint(drawings):
            continue
        taken.update(drawings)
        artists_of[name] = [artist for artist, _ in drawings]
    return dict(sorted(artists_of.items())), category_of


# ---- people --------------------------------------------------------------------------------------

# The two Emoji One have no such people. Other roles are left out because a hat, a helmet or a coat
# hides the gender or the skin in some drawings: an astronaut, a detective, a guard.
GENDERS = ('man', 'woman')
ROLES = (
    'artist',
    'construction-worker',
    'cook',
    'factory-worker',
    'farmer',
    'firefighter',
    'health-worker',
    'judge',
    'mechanic',
    'office-worker',
    'pilot',
    'police-officer',
    'scientist',
    'singer',
    'student',
    'teacher',
    'technologist',
)
# '' is the yellow of emoji
TONES = ('', 'light', 'medium-light', 'medium', 'medium-dark', 'dark')


@dataclass(frozen=True)
class Person:
    """A combination of a gender, a role and a skin tone."""

    gender: str
    role: str
    tone: str

    @property
    def name(self):
        """The name by which most artists call the person: 'woman-cook-dark-skin-tone'."""
        name = f'{self.gender}-{self.role}'
        return f'{name}-{self.tone}-skin-tone' if self.tone else name

    @property
    def caption(self):
        """'woman cook with dark skin', or 'woman cook' of a yellow one."""
        text = f'{self.gender} {self.role.replace("-", " ")}'
        return f'{text} with {self.tone} skin' if self.tone else text

    @property
    def pairs(self):
        """The parts of the combination, each of which must be seen in training."""
        return [(self.role, self.gender), (self.role, self.tone)]

    def find_in(self, icon_set):
        """Returns the name of an artist's drawing of the person; None where there is none."""
        # both Fluent Emoji write 'woman-cook-dark'
        return icon_set.find(self.name) or icon_set.find(self.name.removesuffix('-skin-tone'))


def select_people(icon_sets):
    """Returns {person: {artist: name of the drawing}} of the people whom somebody drew."""
    drawings_of = {}
    for person in itertools.starmap(Person, itertools.product(GENDERS, ROLES, TONES)):
        drawings = {}
        for artist, icon_set in icon_sets.items():
            drawing = person.find_in(icon_set)
            if drawing is not None:
                drawings[artist] = drawing
        if drawings:
            drawings_of[person] = drawings
    return drawings_of


# ---- captions ------------------------------------------------------------------------------------

# names that are not what one would say
PHRASES = {
    'airplane-arrival': 'landing airplane',
    'airplane-departure': 'departing airplane',
    'baguette-bread': 'baguette',
    'ballot-box-with-ballot': 'ballot box',
    'bell-with-slash': 'crossed-out bell',
    'building-construction': 'construction site',
    'camping': 'camp site',
    'chart-decreasing': 'falling chart',
    'chart-increasing': 'rising chart',
    'chart-increasing-with-yen': 'rising chart with yen sign',
    'cheese-wedge': 'wedge of cheese',
    'construction': 'construction barrier',
    'cooking': 'fried egg in pan',
    'deciduous-tree': 'leafy tree',
    'dvd': 'DVD',
    'e-mail': 'e-mail',
    'ferris-wheel': 'Ferris wheel',
    'first-quarter-moon-face': 'first quarter moon with face',
    'foggy': 'foggy bridge',
    'fork-and-knife-with-plate': 'plate with fork and knife',
    'four-leaf-clover': 'four-leaf clover',
    'front-facing-baby-chick': 'front-facing baby chick',
    'full-moon-face': 'full moon with face',
    'gem-stone': 'gemstone',
    'globe-showing-americas': 'globe showing Americas',
    'globe-showing-asia-australia': 'globe showing Asia and Australia',
    'globe-showing-europe-africa': 'globe showing Europe and Africa',
    'headphone': 'headphones',
    'high-heeled-shoe': 'high-heeled shoe',
    'high-speed-train': 'high-speed train',
    'high-voltage': 'lightning bolt',
    'honeybee': 'honey bee',
    'hot-beverage': 'hot drink',
    'hourglass-done': 'empty hourglass',
    'hourglass-not-done': 'running hourglass',
    'kaaba': 'Kaaba',
    'lady-beetle': 'ladybug',
    'last-quarter-moon-face': 'last quarter moon with face',
    'leaf-fluttering-in-wind': 'leaves in wind',
    'level-slider': 'slider',
    'light-rail': 'light rail train',
    'link': 'chain link',
    'linked-paperclips': 'two linked paperclips',
    'locked': 'closed lock',
    'locked-with-key': 'closed lock with key',
    'locked-with-pen': 'closed lock with pen',
    'mans-shoe': "man's shoe",
    'map-of-japan': 'map of Japan',
    'metro': 'metro train',
    'milky-way': 'Milky Way',
    'mount-fuji': 'Mount Fuji',
    'new-moon-face': 'new moon with face',
    'night-with-stars': 'city at night with stars',
    'page-facing-up': 'page of text',
    'page-with-curl': 'curled page',
    'poultry-leg': 'chicken leg',
    'rescue-workers-helmet': "rescue worker's helmet",
    'rolled-up-newspaper': 'rolled-up newspaper',
    'shallow-pan-of-food': 'pan of food',
    'snow-capped-mountain': 'snow-capped mountain',
    'speaker-high-volume': 'speaker at high volume',
    'speaker-low-volume': 'speaker at low volume',
    'speaker-medium-volume': 'speaker at medium volume',
    'station': 'train station',
    'statue-of-liberty': 'Statue of Liberty',
    't-shirt': 'T-shirt',
    'tear-off-calendar': 'tear-off calendar',
    'tokyo-tower': 'Tokyo Tower',
    'two-hump-camel': 'two-humped camel',
    'umbrella-with-rain-drops': 'umbrella in rain',
    'unlocked': 'open lock',
    'water-wave': 'wave',
    'wind-face': 'cloud that blows',
    'womans-boot': "woman's boot",
    'womans-clothes': "woman's blouse",
    'womans-hat': "woman's hat",
    'womans-sandal': "woman's sandal",
}
# words of names that are written with a capital
CAPITALS = {'japanese': 'Japanese', 'shinto': 'Shinto'}


def caption_of(name):
    """Returns the caption of a drawing: 'ear of corn' of 'ear-of-corn', "tiger's face" of
    'tiger-face', 'clock at half past ten' of 'ten-thirty'. Articles, which say nothing of the
    picture, would be a token in five."""
    if name in PHRASES:
        return PHRASES[name]
    if name.endswith('-oclock'):
        return f"clock at {name.removesuffix('-oclock')} o'clock"
    if name.endswith('-thirty'):
        return f'clock at half past {name.removesuffix("-thirty")}'
    words = [CAPITALS.get(word, word) for word in name.split('-')]
    if words[-1] in ('face', 'nose') and len(words) == 2:
        words[0] += "'s"
    return ' '.join(words)


# ---- what is held out ----------------------------------------------------------------------------

# of 588 names, one drawing each of 200 is for the test and of 64 for validation
TEST_SHARE = 200 / 588
VAL_SHARE = 64 / 588

# Two styles of the same drawings: at the same size, the median of their correlations is 0.94.
# Between any two other artists it is 0.26 to 0.56, also between the two versions of Noto (0.48) and
# of Emoji One (0.43), which were drawn anew.
SAME_DRAWINGS = {'fluent-emoji', 'fluent-emoji-flat'}
# A drawing is a near-copy of another one if their correlation is above this, as for up to 7% of the
# drawings of two other artists.
NEAR_COPY = 0.9
# the pixels in a row of a drawing that is compared
THUMBNAIL = 24

# of the combinations of people
COMPOSITION_SHARE = 0.1
# how many artists' drawings of a combination there are: few in training, to keep it short
TRAIN_DRAWINGS = 2
TEST_DRAWINGS = 4


def hold_out(artists_of, seed=0):
    """Returns {name: (split, artist)} of the drawings that are for validation and test, one of a
    name at most. Names are drawn by a hash, so alike on every machine; the artists take turns."""
    n_test = max(1, round(TEST_SHARE * len(artists_of)))
    n_val = max(1, round(VAL_SHARE * len(artists_of)))
    held_out = {}
    # how many drawings of each artist are held out
    counts = Counter()
    names = sorted(artists_of, key=lambda name: hash_of(name, seed))
    for i, name in enumerate(names[: n_test + n_val]):
        # the artist whose turn it is, of those who drew this
        artist = min(artists_of[name], key=lambda artist: counts[artist])
        counts[artist] += 1
        held_out[name] = ('test' if i < n_test else 'val', artist)
    return held_out


def hash_of(name, seed):
    """Returns a hash by which names are put in an order, another one for each seed."""
    return hashlib.sha256(f'{seed} {name}'.encode()).hexdigest()


def hold_out_people(people, seed=0):
    """Returns the people who are in no other split than test_composition, drawn by a hash; tones,
    roles and genders take turns. Each pair of theirs is also one of somebody who is in training,
    and so each gender, role and tone is."""
    in_training = Counter()
    for person in people:
        in_training.update(person.pairs)
    n_test = round(COMPOSITION_SHARE * len(people))
    held_out = []
    # how many people of each tone, role and gender are held out
    counts = Counter()

    def turn_of(person):
        parts = (counts[person.tone], counts[person.role], counts[person.gender])
        return parts, hash_of(person.name, seed)

    candidates = set(people)
    while len(held_out) < n_test and candidates:
        person = min(candidates, key=turn_of)
        candidates.remove(person)
        if all(in_training[pair] > 1 for pair in person.pairs):
            in_training.subtract(person.pairs)
            counts.update((person.tone, person.role, person.gender))
            held_out.append(person)
    return held_out


def split_people(artists_of, seed=0):
    """Returns {person: ('train' or 'test_composition', the artists whose drawings are in it)}.

    No drawing of a combination that is held out is in training, whoever drew it. So nothing is left
    out as a near-copy: what is most similar in training differs in gender, role or skin tone."""
    held_out = set(hold_out_people(artists_of, seed))
    counts = dict(train=Counter(), test_composition=Counter())
    split_of = {}
    # not in the order of genders, roles and tones, or an artist might draw the same tones always
    for person in sorted(artists_of, key=lambda person: hash_of(person.name, seed)):
        if person in held_out:
            split, limit = 'test_composition', TEST_DRAWINGS
        else:
            split, limit = 'train', TRAIN_DRAWINGS
        split_of[person] = (split, choose_artists(artists_of[person], counts[split], limit))
    return split_of


def choose_artists(artists, counts, limit):
    """Returns the artists whose turn it is, so many as `limit` says at most, and counts them: those
    with the fewest drawings so far. Of two styles of the same drawings one is chosen."""
    chosen = []
    for artist in sorted(artists, key=lambda artist: counts[artist]):
        if artist in SAME_DRAWINGS and not SAME_DRAWINGS.isdisjoint(chosen):
            continue
        chosen.append(artist)
        if len(chosen) == limit:
            break
    counts.update(chosen)
    return chosen


def are_near_copies(artist, thumbnail, other_artist, other_thumbnail):
    """Whether the drawings of one name by two artists are too similar to stand on both sides of a
    split."""
    if {artist, other_artist} == SAME_DRAWINGS:
        return True
    return float(thumbnail @ other_thumbnail) > NEAR_COPY


def make_thumbnail(png):
    """Returns a drawing cut to what is not white and scaled to a fixed size, as a vector of mean 0
    and length 1: the product of two is their correlation."""
    image = Image.open(io.BytesIO(png)).convert('RGB')
    small = image.crop(drawn_box(image)).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    vector = np.asarray(small, dtype=np.float32).ravel()
    vector -= vector.mean()
    # a drawing in one colour has no correlation with any other
    return vector / max(float(np.linalg.norm(vector)), 1e-6)


# ---- the data set --------------------------------------------------------------------------------


def build_emoji(folder, downloads):
    """Writes the emoji of all artists. Returns a summary."""
    icon_sets = fetch_icon_sets(downloads)
    splits = dict(train=[], val=[], test=[], test_composition=[])
    # most of the time goes into drawing
    with multiprocessing.Pool(min(os.cpu_count(), MAX_PROCESSES), ignore_interrupts) as pool:
        n_names, near_copies = add_things(folder, icon_sets, pool, splits)
        n_people, n_held_out = add_people(folder, icon_sets, pool, splits)
    (folder / 'ATTRIBUTION.txt').write_text(attribution(icon_sets), encoding='utf-8')
    return (
        f'{n_names} names, {len(icon_sets)} artists, {write_splits(folder, splits)} pictures; left '
        f'out: {len(near_copies)} near-copies of held-out ones; test_composition: of {n_people} '
        f'combinations of gender, role and skin tone {n_held_out} are in it only'
    )


def add_things(folder, icon_sets, pool, splits):
    """Writes the pictures of what is not a person, and adds their examples to {split: examples}.
    Returns (the number of names, the ids of near-copies of held-out pictures, left out)."""
    artists_of, category_of = select_names(icon_sets)
    held_out = hold_out(artists_of)
    near_copies = []
    drawings = [(artist, name) for name in artists_of for artist in artists_of[name]]
    drawn = draw_all(pool, icon_sets, drawings)
    for name in tqdm(artists_of, desc='drawing', unit='names', **BAR):
        pngs = {artist: next(drawn) for artist in artists_of[name]}
        split_of = dict.fromkeys(pngs, 'train')
        if name in held_out:
            split, artist = held_out[name]
            split_of[artist] = split
            for copy in near_copies_of(artist, pngs):
                del split_of[copy]
                near_copies.append(f'{copy}/{name}')
        for artist, split in split_of.items():
            example = {
                'image': write_picture(folder, artist, name, pngs[artist]),
                'caption': [caption_of(name)],
                'category': category_of[name],
                'id': f'{artist}/{name}',
            }
            splits[split].append(example)
    return len(artists_of), near_copies


def add_people(folder, icon_sets, pool, splits):
    """Writes the pictures of people, and adds their examples to {split: examples}. Returns (the
    number of combinations, how many of them are held out)."""
    drawings_of = select_people(icon_sets)
    split_of = split_people(drawings_of)
    n_held_out = 0
    drawings = []
    for person, (_, artists) in split_of.items():
        drawings += [(artist, drawings_of[person][artist]) for artist in artists]
    drawn = draw_all(pool, icon_sets, drawings)
    for person, (split, artists) in tqdm(split_of.items(), desc='drawing', unit='people', **BAR):
        n_held_out += split == 'test_composition'
        for artist in artists:
            example = {
                'image': write_picture(folder, artist, person.name, next(drawn)),
                'caption': [person.caption],
                'category': 'person',
                'id': f'{artist}/{person.name}',
            }
            splits[split].append(example)
    return len(split_of), n_held_out


def write_picture(folder, artist, name, png):
    """Writes a PNG file. Returns its path, relative to the folder."""
    path = f'images/{artist}/{name}.png'
    write_file(folder / path, png)
    return path


def near_copies_of(held_out_artist, pngs):
    """Returns the artists whose drawings are near-copies of the held-out artist's. pngs: {artist:
    drawing of the same name}."""
    thumbnails = {artist: make_thumbnail(png) for artist, png in pngs.items()}
    held_out = thumbnails.pop(held_out_artist)
    copies = []
    for artist, thumbnail in thumbnails.items():
        if are_near_copies(held_out_artist, held_out, artist, thumbnail):
            copies.append(artist)
    return copies


def ignore_interrupts():
    """Leaves Ctrl-C to the main process, which ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def draw_all(pool, icon_sets, drawings):
    """Returns an iterator over the PNG files of drawings, in their order; a pool of processes goes
    on with those behind. drawings: (artist, name) of each."""
    svgs = []
    for artist, name in drawings:
        icon_set = icon_sets[artist]
        svgs.append(icon_set.svg(icon_set.find(name)))
    # some take ten times as long as others
    return pool.imap(draw, svgs, chunksize=4)


def draw(svg):
    """Returns a PNG file of an SVG on white, which its drawing fills."""
    import resvg_py

    png = resvg_py.svg_to_bytes(
        svg_string=svg,
        width=PIXELS,
        background='#ffffff',
        skip_system_fonts=True,
    )
    return crop_to_drawing(bytes(png))


def crop_to_drawing(png):
    """Returns a PNG file without its white borders, but for a margin that makes it a square: some
    artists leave much around a drawing, others nothing."""
    image = Image.open(io.BytesIO(png)).convert('RGB')
    left, top, right, bottom = drawn_box(image)
    side = round(MARGIN * max(right - left, bottom - top))
    square = Image.new('RGB', (side, side), 'white')
    corner = ((side - left - right) // 2, (side - top - bottom) // 2)
    square.paste(image, corner)
    file = io.BytesIO()
    square.save(file, 'png')
    return file.getvalue()


def drawn_box(image):
    """Returns (left, top, right, bottom) of what is not white."""
    white = Image.new('RGB', image.size, 'white')
    return ImageChops.difference(image, white).getbbox() or (0, 0, *image.size)


def attribution(icon_sets):
    """Returns who drew the emoji and under which licences, as their packages say."""
    lines = ['The images in this folder were drawn from packages of npm. Their authors:', '']
    for artist, icon_set in icon_sets.items():
        author = icon_set.info['author']
        license = icon_set.info['license']
        lines += [
            f'images/{artist}: {icon_set.info["name"]} by {author["name"]}, {author.get("url")}',
            f'    license: {license["title"]}, {license.get("url")}',
            f'    package: @iconify-json/{artist}',
            '',
        ]
    lines.append('They were rasterised on white, and not changed otherwise.')
    return '\n'.join(lines) + '\n'
