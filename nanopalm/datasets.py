"""
Data sets -> examples: the user's own JSONL files, and official files as their authors publish them
(`--dataset=NAME --data_dir=FOLDER`).

To add a data set, write a function here with `@dataset(...)` above it (`gqa` is a short one) and a
config file in config/data. The function reads the official files and returns a list of examples
(nanopalm/examples.py says what an example is). Everything else is done for it: `load_examples`
looks whether the images exist and reports files that are missing or wrong, `prepare.py NAME`
downloads the sources, and eval_vqa.py scores answers by the rule.
"""

import csv
import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nanopalm.errors import how_to_make
from nanopalm.examples import BadData, bullet_list, medium_of, path_of
from nanopalm.jsonl import SPLITS, read_jsonl, split_examples

MEDIA_IN_WORDS = {'image': 'images', 'audio': 'audio files', 'video': 'videos'}

# what reading an official file raises if it has another form than expected
WRONG_FORM = (ValueError, KeyError, TypeError, AttributeError, csv.Error)


# ---- examples of any data set --------------------------------------------------------------------


def load_examples(config, split):
    """Returns the examples of a split, a list that is not empty.

    `dataset` of the config is a name in DATASETS, a folder with train.jsonl, val.jsonl and
    test.jsonl, or one .jsonl file, which is split here. `train_rows` and `seed` choose a part of
    the training split. Raises BadData, which names the file and what is wrong with it."""
    name = config['dataset']
    path = Path(name)
    # a folder may have more files to evaluate on, such as test_composition.jsonl
    is_file_of_folder = name not in DATASETS and (path / f'{split}.jsonl').is_file()
    if split not in SPLITS and not is_file_of_folder:
        raise BadData(
            f"split={split!r}: expected 'train', 'val' or 'test', or the name of another file "
            f'NAME.jsonl in the folder of the data set'
        )
    if name in DATASETS:
        examples = load_official(config, split)
    elif path.is_dir():
        examples = read_jsonl(path / f'{split}.jsonl', config['bad_rows'])
        check_split(examples, path, split)
    elif path.is_file():
        examples = split_examples(read_jsonl(path, config['bad_rows']), path)[split]
    elif how_to_make(name):
        raise BadData(f'dataset={name!r}: there is no such folder{how_to_make(name)}')
    else:
        raise BadData(
            f'dataset={name!r}: expected one of {", ".join(map(repr, DATASETS))}, or a folder with '
            f'train.jsonl, val.jsonl and test.jsonl, or a .jsonl file; `python prepare.py` lists '
            f'the data that it makes'
        )
    if split == 'train' and config['train_rows']:
        examples = draw_examples(examples, config['train_rows'], config['seed'])
    if not examples:
        raise BadData(f'dataset={name!r}: split {split!r} has no examples')
    return examples


def check_split(examples, folder, split):
    """Raises BadData where a line in a split's own file says that it is of another split."""
    others = {example['split'] for example in examples if 'split' in example} - {split}
    if split in SPLITS and others:
        raise BadData(
            f'{folder / split}.jsonl: there are lines with split={min(others)!r}; expected '
            f'{split!r} or no such key, or one file for all splits, given as '
            f'--dataset={folder / "NAME.jsonl"}'
        )


def draw_examples(examples, train_rows, seed):
    """Returns a part of the examples in their order, drawn by the seed. train_rows: a fraction up
    to 1, or a number of examples; a larger one draws the same examples and more."""
    if train_rows < 0:
        raise BadData(
            f'train_rows={train_rows}: expected 0 for all, a fraction up to 1, or a number of '
            f'examples'
        )
    count = int(train_rows)
    if train_rows <= 1:
        count = round(train_rows * len(examples))
    order = np.random.default_rng(seed).permutation(len(examples))
    return [examples[index] for index in sorted(order[:count])]


def load_official(config, split):
    """Returns the examples of a data set in DATASETS. This is where all of them report their
    errors."""
    name = config['dataset']
    entry = DATASETS[name]
    data_dir = DataDir(config['data_dir'])
    options = {option: config[option] for option in entry.options if option in config}
    try:
        examples = entry.read(data_dir, split, **options)
    except FileNotFoundError as error:
        message = f'{error}: no such file or folder. It is part of {entry.origin}'
        if entry.sources:
            message += f'; `python prepare.py {name}` fetches it or says how to get it'
        raise BadData(f'{message}; the hyperparameter data_dir says where it is') from error
    except WRONG_FORM as error:
        reason = f'{type(error).__name__}: {error}'
        raise BadData(f'{data_dir.last_read}: not the file of {entry.origin} ({reason})') from error
    return with_existing_files(examples, config, split)


def with_existing_files(examples, config, split):
    """Returns the examples if the image, sound or video of each exists. With bad_rows='skip',
    returns those of which it does, and lists the others."""
    files = dict.fromkeys(map(path_of, examples))
    missing = [file for file in files if not os.path.isfile(file)]
    if not missing:
        return examples
    where = f'dataset {config["dataset"]!r} in {config["data_dir"]}'
    media = MEDIA_IN_WORDS[medium_of(examples[0])]
    count = f'{len(missing)} of {len(files)} {media} of split {split!r}'
    if config['bad_rows'] != 'skip':
        raise BadData(
            f'{where}: {count} do not exist, the first is {missing[0]}; --bad_rows=skip goes on '
            f'without them'
        )
    print(f'{where}: left out {count}, which do not exist{bullet_list(missing)}')
    missing = set(missing)
    return [example for example in examples if path_of(example) not in missing]


# ---- the registry of official data sets ----------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """Files or folders of a data set, as paths in its data_dir, and where they come from: the URL
    of an archive or file that has them, or instructions for files to be fetched by hand."""

    files: list
    url: str = ''
    by_hand: str = ''


@dataclass(frozen=True)
class Dataset:
    """An entry of DATASETS.

    read: the function (data_dir, split, **options) -> examples; data_dir is a DataDir.
    origin: whose files they are, for error messages.
    folder: the data_dir of its config file, where `prepare.py` puts the files.
    rule: the rule in nanopalm/scores.py that scores answers, '' for captions.
    sources: the Sources of its files.
    options: hyperparameters that the function takes by name, each with a default."""

    read: Callable
    origin: str
    folder: str
    rule: str = ''
    sources: tuple = ()
    options: tuple = ()


DATASETS = {}


def dataset(name, **fields):
    """Returns a decorator that enters a function into DATASETS, with the fields of Dataset."""

    def register(function):
        DATASETS[name] = Dataset(function, **fields)
        return function

    return register


class DataDir:
    """The folder of a data set's official files. It remembers which file was read last, so that an
    error in what the file holds can name it."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.last_read = self.folder

    def path(self, *parts):
        """Returns the path of a file in the folder, as a string."""
        return str(self.folder.joinpath(*parts))

    def has(self, name):
        """Returns whether there is a file or folder of this name."""
        return (self.folder / name).exists()

    def find(self, pattern):
        """Returns the sorted paths, relative to the folder, of the files that match a pattern."""
        return [path.relative_to(self.folder) for path in sorted(self.folder.glob(pattern))]

    def read_text(self, name):
        """Returns the text of a file. Raises FileNotFoundError with its path."""
        path = self.folder / name
        if not path.is_file():
            raise FileNotFoundError(path)
        self.last_read = path
        return path.read_text(encoding='utf-8')

    def read_json(self, name):
        """Returns what a JSON file holds."""
        return json.loads(self.read_text(name))

    def read_json_lines(self, name):
        """Returns the JSON object of each line."""
        return [json.loads(line) for line in self.read_text(name).split('\n') if line]

    def read_csv(self, name):
        """Returns the lines of a CSV file with a header, each as {column: text}."""
        return list(csv.DictReader(io.StringIO(self.read_text(name))))


# ---- captions of images --------------------------------------------------------------------------

# its https has another host's certificate
COCO = 'http://images.cocodataset.org/zips/'
COCO_IMAGES = [
    Source(['train2014'], url=f'{COCO}train2014.zip'),
    Source(['val2014'], url=f'{COCO}val2014.zip'),
]
KARPATHY = "Karpathy's caption_datasets.zip"
KARPATHY_SPLIT = [
    Source(
        ['dataset_coco.json'],
        url='https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip',
    ),
]


@dataset(
    'coco',
    origin=KARPATHY,
    folder='data/coco',
    sources=KARPATHY_SPLIT + COCO_IMAGES,
    options=['restval'],
)
def coco(data_dir, split, restval=False):
    """Returns the captions of COCO in Karpathy's split. Expected: dataset_coco.json and the image
    folders train2014/ and val2014/.

    restval: whether the 30,504 images that Karpathy calls so train too (113,287 images, as in
    eP-ALM) or not (82,783, as in DePALM)."""
    splits = [split]
    if split == 'train' and restval:
        splits.append('restval')
    examples = []
    for image in data_dir.read_json('dataset_coco.json')['images']:
        if image['split'] not in splits:
            continue
        examples.append(
            {
                'image': data_dir.path(image['filepath'], image['filename']),
                'caption': [sentence['raw'].strip() for sentence in image['sentences']],
                'id': image['cocoid'],
            }
        )
    return examples


CC3M_PAGE = 'ai.google.com/research/ConceptualCaptions/download'
CC3M_TSV = {'train': 'Train_GCC-training.tsv', 'val': 'Validation_GCC-1.1.0-Validation.tsv'}
CC3M_BY_HAND = (
    f'img2dataset (a Python package) gets the images that are left, from the two tsv files of the '
    f'page https://{CC3M_PAGE} with a first line "caption<tab>url". Put its tar shards '
    f'(--output_format=webdataset) into shards/train and shards/val, and run this again: it '
    f'unpacks them. Or put the tsv files here, and what --output_format=files writes into '
    f'images/train and images/val'
)


@dataset(
    'cc3m',
    origin=f'Conceptual Captions ({CC3M_PAGE})',
    folder='data/cc3m',
    sources=[Source(['images/train', 'images/val'], by_hand=CC3M_BY_HAND)],
)
def cc3m(data_dir, split):
    """Returns the captions of Conceptual Captions 3M, one of each image. 'test' is 'val': the test
    captions are secret.

    Expected: images/{train,val}/, in one of two forms. Unpacked tar shards (`python prepare.py
    cc3m` unpacks them) have a captions.jsonl in each of their folders. Otherwise the captions are
    those of the official tsv files, and the image of line n, counted from 0 without a header, is
    n // 10000 as 5 digits / n as 9 digits .jpg, as in images/train/00001/000010002.jpg: the names
    that img2dataset's `files` output gives."""
    part = 'train' if split == 'train' else 'val'
    folder = f'images/{part}'
    if not data_dir.has(folder):
        raise FileNotFoundError(data_dir.path(folder))
    for archive in data_dir.find(f'shards/{part}/*.tar'):
        if not data_dir.has(f'{folder}/{archive.stem}'):
            raise BadData(
                f'{data_dir.path(archive)} is not unpacked: `python prepare.py cc3m` does it, or '
                f'remove it to do without it'
            )
    shards = data_dir.find(f'{folder}/*/captions.jsonl')
    examples = []
    for shard in shards:
        for line in data_dir.read_json_lines(shard):
            examples.append(
                {
                    'image': data_dir.path(shard.parent, line['image']),
                    'caption': [line['caption']],
                    'id': Path(line['image']).stem,
                }
            )
    if shards:
        return examples
    for number, caption in enumerate(cc3m_captions(data_dir.read_text(CC3M_TSV[part]))):
        name = f'{number:09d}'
        image = data_dir.path(folder, f'{number // 10000:05d}', f'{name}.jpg')
        examples.append({'image': image, 'caption': [caption], 'id': name})
    return examples


def cc3m_captions(text):
    """Returns the captions of 'caption<TAB>url' lines, in order. Quotation marks are part of a
    caption. A header is left out. Raises ValueError for a line of another form."""
    captions = []
    for number, line in enumerate(text.split('\n'), 1):
        columns = line.rstrip('\r').split('\t')
        is_header = number == 1 and columns == ['caption', 'url']
        if columns == [''] or is_header:
            continue
        if len(columns) != 2 or not columns[0].strip():
            raise ValueError(f'line {number} is {line[:60]!r}, expected a caption, a tab, a URL')
        captions.append(columns[0].strip())
    return captions


TEXTVQA = 'https://dl.fbaipublicfiles.com/textvqa/'
TEXTVQA_IMAGES = [Source(['train_images'], url=f'{TEXTVQA}images/train_val_images.zip')]
TEXTCAPS_TEXTS = [
    Source(['TextCaps_0.1_train.json'], url=f'{TEXTVQA}data/textcaps/TextCaps_0.1_train.json'),
    Source(['TextCaps_0.1_val.json'], url=f'{TEXTVQA}data/textcaps/TextCaps_0.1_val.json'),
]


@dataset(
    'textcaps',
    origin='TextCaps (textvqa.org)',
    folder='data/textvqa',
    sources=TEXTCAPS_TEXTS + TEXTVQA_IMAGES,
)
def textcaps(data_dir, split):
    """Returns the captions of TextCaps. 'test' is 'val': the test captions are secret. Expected:
    TextCaps_0.1_{train,val}.json, and the images of both in train_images/."""
    part = 'train' if split == 'train' else 'val'
    examples = {}
    # the file has an entry for each caption, with all captions of its image
    for entry in data_dir.read_json(f'TextCaps_0.1_{part}.json')['data']:
        image_id = entry['image_id']
        examples[image_id] = {
            'image': data_dir.path('train_images', f'{image_id}.jpg'),
            'caption': entry['reference_strs'],
            'id': image_id,
        }
    return list(examples.values())


# ---- questions about images ----------------------------------------------------------------------

VQAV2 = 'https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa/v2_'
VQAV2_TEXTS = [
    Source(
        ['v2_OpenEnded_mscoco_train2014_questions.json'],
        url=f'{VQAV2}Questions_Train_mscoco.zip',
    ),
    Source(
        ['v2_mscoco_train2014_annotations.json'],
        url=f'{VQAV2}Annotations_Train_mscoco.zip',
    ),
    Source(
        ['v2_OpenEnded_mscoco_val2014_questions.json'],
        url=f'{VQAV2}Questions_Val_mscoco.zip',
    ),
    Source(
        ['v2_mscoco_val2014_annotations.json'],
        url=f'{VQAV2}Annotations_Val_mscoco.zip',
    ),
]


@dataset(
    'vqav2',
    origin='VQAv2 (visualqa.org)',
    folder='data/coco',
    rule='vqa',
    sources=VQAV2_TEXTS + COCO_IMAGES,
)
def vqav2(data_dir, split):
    """Returns the questions of VQAv2 in its own split. 'test' is 'val': the test answers are
    secret. Expected: v2_OpenEnded_mscoco_{train,val}2014_questions.json,
    v2_mscoco_{train,val}2014_annotations.json and the image folders of COCO."""
    folder = 'train2014' if split == 'train' else 'val2014'
    return coco_questions(data_dir, 'v2_', folder)


@dataset(
    'vqav2_karpathy',
    origin=f'VQAv2 (visualqa.org), in the split of {KARPATHY}',
    folder='data/coco',
    rule='vqa',
    sources=VQAV2_TEXTS + KARPATHY_SPLIT + COCO_IMAGES,
)
def vqav2_karpathy(data_dir, split):
    """Returns the questions of VQAv2 in Karpathy's split of COCO, as both papers do: his restval
    images train too. Expected: the files of `vqav2`, and dataset_coco.json."""
    splits = [split]
    if split == 'train':
        splits.append('restval')
    image_ids = set()
    for image in data_dir.read_json('dataset_coco.json')['images']:
        if image['split'] in splits:
            image_ids.add(image['cocoid'])
    examples = []
    for folder in ('train2014', 'val2014'):
        examples += coco_questions(data_dir, 'v2_', folder, image_ids=image_ids)
    return examples


OKVQA = 'https://okvqa.allenai.org/static/data/'
OKVQA_TEXTS = [
    Source(
        ['OpenEnded_mscoco_train2014_questions.json'],
        url=f'{OKVQA}OpenEnded_mscoco_train2014_questions.json.zip',
    ),
    Source(
        ['mscoco_train2014_annotations.json'],
        url=f'{OKVQA}mscoco_train2014_annotations.json.zip',
    ),
    Source(
        ['OpenEnded_mscoco_val2014_questions.json'],
        url=f'{OKVQA}OpenEnded_mscoco_val2014_questions.json.zip',
    ),
    Source(
        ['mscoco_val2014_annotations.json'],
        url=f'{OKVQA}mscoco_val2014_annotations.json.zip',
    ),
]


@dataset(
    'okvqa',
    origin='OK-VQA (okvqa.allenai.org)',
    folder='data/coco',
    rule='vqa',
    sources=OKVQA_TEXTS + COCO_IMAGES,
)
def okvqa(data_dir, split):
    """Returns the questions of OK-VQA. 'test' is 'val'. Expected:
    OpenEnded_mscoco_{train,val}2014_questions.json, mscoco_{train,val}2014_annotations.json and
    the image folders of COCO. The answers are what the annotators wrote (`raw_answer`), as in
    DePALM, not its lemmas (`answer`)."""
    folder = 'train2014' if split == 'train' else 'val2014'
    return coco_questions(data_dir, '', folder, answer_key='raw_answer')


def coco_questions(data_dir, prefix, folder, answer_key='answer', image_ids=None):
    """Returns the questions about the images in one of COCO's folders, from files in the form of
    VQAv2. prefix: what the file names begin with. answer_key: the key of an annotator's answer.
    image_ids: the images that are wanted, None for all."""
    questions = {}
    questions_file = data_dir.read_json(f'{prefix}OpenEnded_mscoco_{folder}_questions.json')
    for question in questions_file['questions']:
        questions[question['question_id']] = question['question']
    examples = []
    annotations_file = data_dir.read_json(f'{prefix}mscoco_{folder}_annotations.json')
    for annotation in annotations_file['annotations']:
        image_id = annotation['image_id']
        if image_ids is not None and image_id not in image_ids:
            continue
        examples.append(
            {
                'image': data_dir.path(folder, f'COCO_{folder}_{image_id:012d}.jpg'),
                'question': questions[annotation['question_id']],
                'answers': [answer[answer_key] for answer in annotation['answers']],
                'id': annotation['question_id'],
                'question_type': annotation['question_type'],
                'answer_type': annotation['answer_type'],
            }
        )
    return examples


AOKVQA_TEXTS = [
    Source(
        ['aokvqa_v1p0_train.json', 'aokvqa_v1p0_val.json'],
        url='https://prior-datasets.s3.us-east-2.amazonaws.com/aokvqa/aokvqa_v1p0.tar.gz',
    ),
]
COCO_2017_IMAGES = [
    Source(['train2017'], url=f'{COCO}train2017.zip'),
    Source(['val2017'], url=f'{COCO}val2017.zip'),
]


@dataset(
    'aokvqa',
    origin='A-OKVQA (allenai.org/project/a-okvqa)',
    folder='data/coco',
    rule='aokvqa',
    sources=AOKVQA_TEXTS + COCO_2017_IMAGES,
)
def aokvqa(data_dir, split):
    """Returns the questions of A-OKVQA with their direct answers. 'test' is 'val': the test answers
    are secret. Expected: aokvqa_v1p0_{train,val}.json and COCO's train2017/ and val2017/.
    Questions with difficult_direct_answer train too, as in DePALM; the official score leaves them
    out."""
    part = 'train' if split == 'train' else 'val'
    examples = []
    for question in data_dir.read_json(f'aokvqa_v1p0_{part}.json'):
        image_id = question['image_id']
        examples.append(
            {
                'image': data_dir.path(f'{part}2017', f'{image_id:012d}.jpg'),
                'question': question['question'],
                'answers': question['direct_answers'],
                'id': question['question_id'],
                'difficult_direct_answer': question['difficult_direct_answer'],
            }
        )
    return examples


TEXTVQA_TEXTS = [
    Source(['TextVQA_0.5.1_train.json'], url=f'{TEXTVQA}data/TextVQA_0.5.1_train.json'),
    Source(['TextVQA_0.5.1_val.json'], url=f'{TEXTVQA}data/TextVQA_0.5.1_val.json'),
]


@dataset(
    'textvqa',
    origin='TextVQA (textvqa.org)',
    folder='data/textvqa',
    rule='textvqa',
    sources=TEXTVQA_TEXTS + TEXTVQA_IMAGES,
)
def textvqa(data_dir, split):
    """Returns the questions of TextVQA. 'test' is 'val': the test answers are secret. Expected:
    TextVQA_0.5.1_{train,val}.json, and the images of both in train_images/."""
    part = 'train' if split == 'train' else 'val'
    examples = []
    for question in data_dir.read_json(f'TextVQA_0.5.1_{part}.json')['data']:
        examples.append(
            {
                'image': data_dir.path('train_images', f'{question["image_id"]}.jpg'),
                'question': question['question'],
                'answers': question['answers'],
                'id': question['question_id'],
            }
        )
    return examples


GQA = 'https://downloads.cs.stanford.edu/nlp/data/gqa/'
GQA_QUESTIONS = {
    'train': 'train_balanced_questions.json',
    'val': 'val_balanced_questions.json',
    'test': 'testdev_balanced_questions.json',
}


@dataset(
    'gqa',
    origin='GQA (cs.stanford.edu/people/dorarad/gqa)',
    folder='data/gqa',
    rule='exact',
    sources=[
        Source(list(GQA_QUESTIONS.values()), url=f'{GQA}questions1.2.zip'),
        Source(['images'], url=f'{GQA}images.zip'),
    ],
)
def gqa(data_dir, split):
    """Returns the balanced questions of GQA. 'test' is 'testdev'. Expected:
    {train,val,testdev}_balanced_questions.json, and the images in images/."""
    examples = []
    for question_id, question in data_dir.read_json(GQA_QUESTIONS[split]).items():
        examples.append(
            {
                'image': data_dir.path('images', f'{question["imageId"]}.jpg'),
                'question': question['question'],
                'answers': [question['answer']],
                'id': question_id,
                'question_type': question['types']['structural'],
            }
        )
    return examples


# ---- captions of sounds --------------------------------------------------------------------------

AUDIOCAPS = 'https://raw.githubusercontent.com/cdjkim/audiocaps/master/dataset/'
AUDIOCAPS_BY_HAND = (
    'clips of YouTube: aac-datasets or audiocaps-download (Python packages) get those that are '
    'left; name them {youtube_id}_{start_time}.wav'
)


@dataset(
    'audiocaps',
    origin='AudioCaps (github.com/cdjkim/audiocaps)',
    folder='data/audiocaps',
    sources=[
        Source(['train.csv'], url=f'{AUDIOCAPS}train.csv'),
        Source(['val.csv'], url=f'{AUDIOCAPS}val.csv'),
        Source(['test.csv'], url=f'{AUDIOCAPS}test.csv'),
        Source(['audio/train', 'audio/val', 'audio/test'], by_hand=AUDIOCAPS_BY_HAND),
    ],
)
def audiocaps(data_dir, split):
    """Returns the captions of AudioCaps. Expected: {train,val,test}.csv, and the clips of a split
    in audio/{split}/, each as {youtube_id}_{start_time}.wav (or .flac, .ogg, .mp3) or by the
    audiocap_id of one of its captions, as 91139.wav: the names that the packages aac-datasets and
    audiocaps-download give. `,` and `"` are removed from the captions, those to train on and the
    references of val and test, as DePALM did."""
    clips = {}
    for path in data_dir.find(f'audio/{split}/*.*'):
        if path.suffix in ('.wav', '.flac', '.ogg', '.mp3'):
            clips[path.stem] = data_dir.path(path)
    captions = {}
    files = {}
    for line in data_dir.read_csv(f'{split}.csv'):
        name = f'{line["youtube_id"]}_{line["start_time"]}'
        caption = line['caption'].replace(',', '').replace('"', '').strip()
        captions.setdefault(name, []).append(caption)
        for stem in (name, line['audiocap_id']):
            if stem in clips:
                files.setdefault(name, clips[stem])
    examples = []
    for name in captions:
        file = files.get(name, data_dir.path('audio', split, f'{name}.wav'))
        examples.append({'audio': file, 'caption': captions[name], 'id': name})
    return examples


# ---- captions of videos and questions about them -------------------------------------------------

MSRVTT = 'MSR-VTT (MSRVTT.zip of github.com/m-bain/frozen-in-time)'
MSRVTT_ZIP = 'https://www.robots.ox.ac.uk/~maxbain/frozen-in-time/data/MSRVTT.zip'
MSRVTT_VIDEOS = 'MSRVTT/videos/all'
MSRVTT_CAPTIONS = 'MSRVTT/annotation/MSR_VTT.json'
# the numbers of the videos in the official split: 6,513, 497 and 2,990 of them
MSRVTT_NUMBERS = {'train': range(6513), 'val': range(6513, 7010), 'test': range(7010, 10000)}


@dataset(
    'msrvtt',
    origin=MSRVTT,
    folder='data/msrvtt',
    sources=[Source([MSRVTT_VIDEOS, MSRVTT_CAPTIONS], url=MSRVTT_ZIP)],
)
def msrvtt(data_dir, split):
    """Returns the captions of MSR-VTT in the official split. Expected, as in MSRVTT.zip:
    MSRVTT/videos/all/video0.mp4 ... and MSRVTT/annotation/MSR_VTT.json.

    That file does not tell the split, which goes by the numbers of the videos. The challenge's own
    files take precedence where they exist: train_val_videodatainfo.json and
    test_videodatainfo.json, whose videos have a key `split`."""
    challenge_name = 'test' if split == 'test' else 'train_val'
    challenge_file = f'{challenge_name}_videodatainfo.json'
    if data_dir.has(challenge_file):
        file = data_dir.read_json(challenge_file)
        challenge_split = 'validate' if split == 'val' else split
        names = {video['video_id'] for video in file['videos'] if video['split'] == challenge_split}
        sentences = file['sentences']
        name_key = 'video_id'
    else:
        names = {f'video{number}' for number in MSRVTT_NUMBERS[split]}
        sentences = data_dir.read_json(MSRVTT_CAPTIONS)['annotations']
        name_key = 'image_id'
    captions = {}
    for sentence in sentences:
        name = sentence[name_key]
        if name in names:
            captions.setdefault(name, []).append(sentence['caption'].strip())
    examples = []
    for name in captions:
        video = data_dir.path(MSRVTT_VIDEOS, f'{name}.mp4')
        examples.append({'video': video, 'caption': captions[name], 'id': name})
    return examples


@dataset(
    'msrvtt_7k',
    origin=MSRVTT,
    folder='data/msrvtt',
    sources=[Source([MSRVTT_VIDEOS, MSRVTT_CAPTIONS], url=MSRVTT_ZIP)],
)
def msrvtt_7k(data_dir, split):
    """Returns the captions of MSR-VTT in the split of both papers: 'train' is the official train
    and val, 7,010 videos, and 'val' is the official test, as 'test' is, so a checkpoint chosen by
    validation has seen the test. The files are those of `msrvtt`."""
    if split != 'train':
        return msrvtt(data_dir, 'test')
    return msrvtt(data_dir, 'train') + msrvtt(data_dir, 'val')


VIDEO_QA = 'github.com/xudejing/video-question-answering'
QA_FILES = ['train_qa.json', 'val_qa.json', 'test_qa.json']
MSRVTT_QA_BY_HAND = 'MSRVTT-QA, from the page https://data.mendeley.com/datasets/bvxhs33bw6'
MSVD_QA_BY_HAND = 'MSVD-QA, from the page https://data.mendeley.com/datasets/h5j7cpwnvn'
MSVD_VIDEOS = 'https://www.cs.utexas.edu/users/ml/clamp/videoDescription/YouTubeClips.tar'


@dataset(
    'msrvtt_qa',
    origin=f'MSRVTT-QA ({VIDEO_QA})',
    folder='data/msrvtt',
    rule='exact',
    sources=[
        Source([MSRVTT_VIDEOS], url=MSRVTT_ZIP),
        Source(QA_FILES, by_hand=MSRVTT_QA_BY_HAND),
    ],
)
def msrvtt_qa(data_dir, split):
    """Returns the questions of MSRVTT-QA. Expected: {train,val,test}_qa.json, and the videos of
    MSR-VTT in MSRVTT/videos/all/."""
    examples = []
    for question in data_dir.read_json(f'{split}_qa.json'):
        video = data_dir.path(MSRVTT_VIDEOS, f'video{question["video_id"]}.mp4')
        examples.append(video_question(video, question))
    return examples


@dataset(
    'msvd_qa',
    origin=f'MSVD-QA ({VIDEO_QA})',
    folder='data/msvd',
    rule='exact',
    sources=[
        Source(['YouTubeClips'], url=MSVD_VIDEOS),
        Source([*QA_FILES, 'youtube_mapping.txt'], by_hand=MSVD_QA_BY_HAND),
    ],
)
def msvd_qa(data_dir, split):
    """Returns the questions of MSVD-QA. Expected: {train,val,test}_qa.json, youtube_mapping.txt
    with lines such as '-4wsuPCjDBc_5_15 vid1', and the videos of MSVD in YouTubeClips/."""
    names = {}
    for line in data_dir.read_text('youtube_mapping.txt').splitlines():
        name, number = line.split()
        names[int(number.removeprefix('vid'))] = name
    examples = []
    for question in data_dir.read_json(f'{split}_qa.json'):
        video = data_dir.path('YouTubeClips', f'{names[question["video_id"]]}.avi')
        examples.append(video_question(video, question))
    return examples


def video_question(video, question):
    """Returns the example of a question in the form of MSRVTT-QA and MSVD-QA."""
    return {
        'video': video,
        'question': question['question'],
        'answers': [question['answer']],
        'id': question['id'],
    }
