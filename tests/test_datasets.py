"""
Data sets -> examples: choosing a data set, and the official files in miniature.
`pytest tests/test_datasets.py`
"""

import csv
import json
import shutil

import pytest
from conftest import ROOT

from configurator import hyperparameters, run_config_file, script_scope
from nanopalm import datasets
from nanopalm.datasets import DATASETS, Source, load_examples
from nanopalm.examples import BadData
from nanopalm.scores import RULES, default_rule

DEFAULTS = dict(data_dir='', restval=False, bad_rows='error', train_rows=0.0, seed=0)


def load(dataset, split='train', **hyperparameters):
    return load_examples({**DEFAULTS, 'dataset': str(dataset), **hyperparameters}, split)


def error_of(dataset, split='train', **hyperparameters):
    """Returns the message of the error that loading gives."""
    with pytest.raises(BadData) as error:
        load(dataset, split, **hyperparameters)
    return str(error.value)


def touch(folder, *names):
    """Makes empty files: whether an image exists matters here, not what it holds."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


# ---- choosing a data set -------------------------------------------------------------------------


def test_a_folder_has_a_file_for_each_split(pictures):
    examples = {split: load(pictures, split) for split in ('train', 'val', 'test')}
    assert [len(examples[split]) for split in ('train', 'val', 'test')] == [16, 4, 4]
    assert examples['train'][1] == {
        'image': str(pictures / 'images/1.png'),
        'caption': ['A green circle.', 'A picture of a green circle.'],
        'id': 1,
    }


@pytest.fixture
def one_file(tmp_path):
    """A JSONL file with three training examples, one of val and none of test."""
    touch(tmp_path, 'a.png')
    lines = []
    for split in ('train', 'val', 'train', 'train'):
        lines.append(json.dumps({'image': 'a.png', 'caption': split, 'split': split}))
    path = tmp_path / 'examples.jsonl'
    path.write_text('\n'.join(lines))
    return path


def test_a_file_of_one_split_has_no_lines_of_another(tmp_path):
    (tmp_path / 'a.png').touch()
    line = {'image': 'a.png', 'caption': 'A cat.', 'split': 'test'}
    (tmp_path / 'train.jsonl').write_text(json.dumps(line))
    assert "train.jsonl: there are lines with split='test'" in error_of(tmp_path)
    # a further file may say what it likes
    shutil.copy(tmp_path / 'train.jsonl', tmp_path / 'hard.jsonl')
    assert len(load(tmp_path, 'hard')) == 1


def test_one_file_has_all_splits(one_file):
    assert [example['caption'] for example in load(one_file)] == [['train']] * 3
    assert [example['caption'] for example in load(one_file, 'val')] == [['val']]
    assert "split 'test' has no examples" in error_of(one_file, 'test')


def test_a_data_set_that_does_not_exist(tmp_path):
    message = error_of(tmp_path / 'nowhere')
    for name in DATASETS:
        assert repr(name) in message
    assert str(tmp_path / 'train.jsonl') in error_of(tmp_path)
    assert "split='training'" in error_of(tmp_path, 'training')


def test_a_data_set_without_examples(tmp_path):
    (tmp_path / 'train.jsonl').write_text('')
    assert "split 'train' has no examples" in error_of(tmp_path)
    (tmp_path / 'train.jsonl').write_text('{"image": "missing.png", "caption": "x"}')
    assert "split 'train' has no examples" in error_of(tmp_path, bad_rows='skip')


def test_train_rows_draws_a_part_of_the_training_examples(pictures):
    examples = load(pictures)
    half = load(pictures, train_rows=0.5)
    five = load(pictures, train_rows=5)
    assert len(half) == 8
    assert len(five) == 5
    for part in (half, five):
        # their order is kept
        assert part == [example for example in examples if example in part]
    # more examples include fewer
    assert all(example in half for example in five)


def test_train_rows_is_drawn_by_the_seed(pictures):
    half = load(pictures, train_rows=0.5)
    assert load(pictures, train_rows=0.5) == half
    assert load(pictures, train_rows=0.5, seed=1) != half


def test_train_rows_may_ask_for_all_or_for_none(pictures):
    examples = load(pictures)
    assert load(pictures, train_rows=1.0) == examples
    assert load(pictures, train_rows=100) == examples
    assert 'no examples' in error_of(pictures, train_rows=1e-9)


def test_train_rows_leaves_the_other_splits_alone(pictures):
    assert load(pictures, 'val', train_rows=0.5) == load(pictures, 'val')


@pytest.mark.parametrize('train_rows', [-0.5, -3])
def test_negative_train_rows(pictures, train_rows):
    assert f'train_rows={train_rows}: expected' in error_of(pictures, train_rows=train_rows)


# ---- the registry --------------------------------------------------------------------------------


def test_a_data_set_is_added_by_one_function(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, 'DATASETS', dict(DATASETS))

    @datasets.dataset('flickr8k', origin='Flickr8k (flickr.org)', folder='data/flickr8k')
    def flickr8k(data_dir, split):
        examples = []
        for image in data_dir.read_json(f'{split}.json'):
            path = data_dir.path('images', image['file'])
            examples.append({'image': path, 'caption': image['captions'], 'id': image['file']})
        return examples

    settings = dict(data_dir=str(tmp_path))
    message = error_of('flickr8k', **settings)
    assert f'{tmp_path}/train.json: no such file or folder. It is part of Flickr8k' in message
    assert 'data_dir' in message

    write_json(tmp_path / 'train.json', [{'file': 'a.jpg', 'captions': ['A dog.']}])
    assert f'1 of 1 images of split {"train"!r} do not exist' in error_of('flickr8k', **settings)

    touch(tmp_path / 'images', 'a.jpg')
    (example,) = load('flickr8k', **settings)
    assert example['caption'] == ['A dog.']

    write_json(tmp_path / 'train.json', [{'filename': 'a.jpg'}])
    message = error_of('flickr8k', **settings)
    assert (
        f"{tmp_path}/train.json: not the file of Flickr8k (flickr.org) (KeyError: 'file')"
        in message
    )


def test_every_data_set_is_described():
    for name, entry in DATASETS.items():
        assert entry.read.__name__ == name
        assert entry.read.__doc__
        assert entry.origin
        assert entry.folder.startswith('data/')


def test_every_source_has_one_way_to_get_it():
    for entry in DATASETS.values():
        assert entry.sources
        for source in entry.sources:
            assert isinstance(source, Source)
            assert bool(source.url) != bool(source.by_hand)
            assert source.url.startswith('http') or not source.url
            assert ' ' not in source.url
            # names are written out, not left as patterns
            assert '{' not in source.url + ''.join(source.files)


def test_the_first_file_that_is_missing_is_one_of_the_sources(tmp_path):
    for name, entry in DATASETS.items():
        files = []
        for source in entry.sources:
            files += source.files
        for split in ('train', 'val', 'test'):
            message = error_of(name, split, data_dir=str(tmp_path))
            path, _, rest = message.partition(': no such file or folder. It is part of ')
            assert path.removeprefix(f'{tmp_path}/') in files
            assert rest.startswith(entry.origin)
            assert f'prepare.py {name}' in rest


def test_config_files_look_where_prepare_puts_the_files():
    defaults = hyperparameters(script_scope(ROOT / 'train.py'))
    names = set()
    for path in (ROOT / 'config').rglob('*.py'):
        config = {**defaults, **run_config_file(str(path), defaults)}
        if config['dataset'] in DATASETS:
            names.add(config['dataset'])
            assert config['data_dir'] == DATASETS[config['dataset']].folder, path
    # their config files use the split of the papers
    assert names == set(DATASETS) - {'vqav2', 'msrvtt'}


def test_answers_are_scored_by_the_rule_of_their_data_set():
    rules = {name: entry.rule for name, entry in DATASETS.items() if entry.rule}
    assert rules == {
        'vqav2': 'vqa',
        'vqav2_karpathy': 'vqa',
        'okvqa': 'vqa',
        'textvqa': 'textvqa',
        'aokvqa': 'aokvqa',
        'gqa': 'exact',
        'msrvtt_qa': 'exact',
        'msvd_qa': 'exact',
    }
    for name, rule in rules.items():
        assert rule in RULES
        assert default_rule(name, [{'answers': ['yes']}]) == rule


# ---- COCO ----------------------------------------------------------------------------------------


def test_coco_in_karpathys_split(coco):
    train = load('coco', data_dir=str(coco))
    assert train == [
        {
            'image': str(coco / 'train2014/COCO_train2014_000000000000.jpg'),
            'caption': ['A picture of number 0.', 'Number 0'],
            'id': 100,
        }
    ]
    assert [example['id'] for example in load('coco', 'val', data_dir=str(coco))] == [102]
    assert [example['id'] for example in load('coco', 'test', data_dir=str(coco))] == [103]


def test_restval_images_of_coco_train_if_wanted(coco):
    train = load('coco', data_dir=str(coco), restval=True)
    assert [example['id'] for example in train] == [100, 101]
    val = load('coco', 'val', data_dir=str(coco))
    assert load('coco', 'val', data_dir=str(coco), restval=True) == val


def test_coco_without_its_annotations(tmp_path):
    message = error_of('coco', data_dir=str(tmp_path / 'nowhere'))
    assert f'{tmp_path}/nowhere/dataset_coco.json: no such file' in message
    assert 'data_dir' in message


def test_coco_without_its_images(coco):
    image = coco / 'val2014/COCO_val2014_000000000002.jpg'
    image.unlink()
    assert load('coco', data_dir=str(coco))
    message = error_of('coco', 'val', data_dir=str(coco))
    assert '1 of 1 images' in message
    assert str(image) in message


@pytest.mark.parametrize('content', ['{"images": [{"split": "train"}]}', '{"images": '])
def test_coco_with_another_file_under_the_name_of_its_annotations(coco, content):
    (coco / 'dataset_coco.json').write_text(content)
    assert f'{coco}/dataset_coco.json: not the file of Karpathy' in error_of(
        'coco', data_dir=str(coco)
    )


# ---- questions about images, in miniature --------------------------------------------------------


def make_vqav2(folder):
    """VQAv2's and Karpathy's files of four images, two of them in Karpathy's restval and test."""
    karpathy_splits = {
        'train2014': {0: 'train', 1: 'train'},
        'val2014': {10: 'restval', 11: 'test'},
    }
    images = []
    for part, splits in karpathy_splits.items():
        questions = []
        annotations = []
        for image_id, split in splits.items():
            filename = f'COCO_{part}_{image_id:012d}.jpg'
            touch(folder / part, filename)
            images.append(
                {
                    'filepath': part,
                    'filename': filename,
                    'cocoid': image_id,
                    'split': split,
                    'sentences': [{'raw': 'x'}],
                }
            )
            question_id = image_id * 1000
            questions.append(
                {
                    'image_id': image_id,
                    'question': f'What is {image_id}?',
                    'question_id': question_id,
                }
            )
            answers = []
            for annotator in range(1, 11):
                answers.append(
                    {
                        'answer': str(image_id),
                        'answer_confidence': 'yes',
                        'answer_id': annotator,
                    }
                )
            annotations.append(
                {
                    'question_type': 'what is',
                    'multiple_choice_answer': str(image_id),
                    'image_id': image_id,
                    'question_id': question_id,
                    'answer_type': 'number',
                    'answers': answers,
                }
            )
        write_json(folder / f'v2_OpenEnded_mscoco_{part}_questions.json', {'questions': questions})
        write_json(folder / f'v2_mscoco_{part}_annotations.json', {'annotations': annotations})
    write_json(folder / 'dataset_coco.json', {'images': images})


@pytest.fixture
def vqav2(tmp_path):
    make_vqav2(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    'name, split, ids',
    [
        ('vqav2', 'train', [0, 1000]),
        ('vqav2', 'val', [10000, 11000]),
        ('vqav2', 'test', [10000, 11000]),
        ('vqav2_karpathy', 'train', [0, 1000, 10000]),
        ('vqav2_karpathy', 'test', [11000]),
    ],
)
def test_the_two_splits_of_vqav2(vqav2, name, split, ids):
    examples = load(name, split, data_dir=str(vqav2))
    assert [example['id'] for example in examples] == ids


def test_a_question_of_vqav2_has_all_ten_answers_and_its_types(vqav2):
    assert load('vqav2', data_dir=str(vqav2))[1] == {
        'image': str(vqav2 / 'train2014/COCO_train2014_000000000001.jpg'),
        'question': 'What is 1?',
        'answers': ['1'] * 10,
        'id': 1000,
        'question_type': 'what is',
        'answer_type': 'number',
    }


def test_a_missing_file_of_vqav2_is_named(vqav2):
    (vqav2 / 'v2_mscoco_val2014_annotations.json').unlink()
    message = error_of('vqav2', 'val', data_dir=str(vqav2))
    assert 'v2_mscoco_val2014_annotations.json: no such file' in message


def make_okvqa(folder):
    """OK-VQA's files have the form of VQAv2's, but its annotators have a raw_answer each, and the
    lemma of it as answer."""
    make_vqav2(folder)
    for path in folder.glob('v2_*'):
        path.rename(folder / path.name.removeprefix('v2_'))
    for path in folder.glob('mscoco_*_annotations.json'):
        file = json.loads(path.read_text())
        for annotation in file['annotations']:
            for answer in annotation['answers']:
                answer['raw_answer'] = answer['answer']
                answer['answer'] = 'lemma'
        write_json(path, file)
    return {
        'image': 'train2014/COCO_train2014_000000000000.jpg',
        'question': 'What is 0?',
        'answers': ['0'] * 10,
        'id': 0,
        'question_type': 'what is',
        'answer_type': 'number',
    }


def make_aokvqa(folder):
    answers = ['ride'] * 5 + ['taxi'] * 5
    for part, image_id in (('train', 299207), ('val', 461751)):
        touch(folder / f'{part}2017', f'{image_id:012d}.jpg')
        question = {
            'split': part,
            'image_id': image_id,
            'question_id': f'22MexN{part}',
            'question': 'What is the man by the bags awaiting?',
            'choices': ['skateboarder', 'train', 'cab'],
            'correct_choice_idx': 2,
            'direct_answers': answers,
            'difficult_direct_answer': False,
            'rationales': ['A cab is near.'],
        }
        write_json(folder / f'aokvqa_v1p0_{part}.json', [question])
    return {
        'image': 'train2017/000000299207.jpg',
        'id': '22MexNtrain',
        'question': 'What is the man by the bags awaiting?',
        'answers': answers,
        'difficult_direct_answer': False,
    }


def make_textvqa(folder):
    answers = ['nokia'] * 9 + ['toshiba']
    images = [('train', '0054c91397f2fe05', 0), ('val', 'b', 1)]
    for part, image_id, question_id in images:
        touch(folder / 'train_images', f'{image_id}.jpg')
        question = {
            'question': 'what is the brand of phone?',
            'image_id': image_id,
            'image_classes': ['Phone'],
            'flickr_original_url': '',
            'image_width': 8,
            'image_height': 8,
            'answers': answers,
            'question_tokens': ['what'],
            'question_id': question_id,
            'set_name': part,
        }
        file = {'dataset_type': part, 'dataset_name': 'textvqa', 'data': [question]}
        write_json(folder / f'TextVQA_0.5.1_{part}.json', file)
    return {
        'image': 'train_images/0054c91397f2fe05.jpg',
        'question': 'what is the brand of phone?',
        'answers': answers,
        'id': 0,
    }


def make_textcaps(folder):
    captions = ['A sign says stop.', 'A stop sign.']
    for part, image_id in (('train', 'a'), ('val', 'b')):
        touch(folder / 'train_images', f'{image_id}.jpg')
        entries = []
        for caption_id, caption in enumerate(captions):
            entries.append(
                {
                    'caption_str': caption,
                    'caption_id': caption_id,
                    'image_id': image_id,
                    'image_path': f'train/{image_id}.jpg',
                    'reference_strs': captions,
                    'set_name': part,
                }
            )
        file = {'dataset_name': 'textcaps', 'data': entries}
        write_json(folder / f'TextCaps_0.1_{part}.json', file)
    return {'image': 'train_images/a.jpg', 'caption': captions, 'id': 'a'}


def make_gqa(folder):
    for part, image_id in (('train', '2354786'), ('val', '2354786'), ('testdev', 'n1')):
        touch(folder / 'images', f'{image_id}.jpg')
        question = {
            'semantic': [],
            'entailed': [],
            'equivalent': [],
            'question': 'Is the sky dark?',
            'imageId': image_id,
            'isBalanced': True,
            'groups': {},
            'answer': 'yes',
            'semanticStr': '',
            'annotations': {},
            'types': {'detailed': 'verify', 'semantic': 'attr', 'structural': 'verify'},
            'fullAnswer': 'Yes, the sky is dark.',
        }
        write_json(folder / f'{part}_balanced_questions.json', {f'0{part}': question})
    return {
        'image': 'images/2354786.jpg',
        'question': 'Is the sky dark?',
        'answers': ['yes'],
        'id': '0train',
        'question_type': 'verify',
    }


IMAGE_SETS = {
    'okvqa': make_okvqa,
    'aokvqa': make_aokvqa,
    'textvqa': make_textvqa,
    'textcaps': make_textcaps,
    'gqa': make_gqa,
}


@pytest.mark.parametrize('name', IMAGE_SETS)
def test_official_files_about_images(name, tmp_path):
    first = IMAGE_SETS[name](tmp_path)
    examples = {
        split: load(name, split, data_dir=str(tmp_path)) for split in ('train', 'val', 'test')
    }
    assert examples['train'][0] == {**first, 'image': str(tmp_path / first['image'])}
    assert len(examples['train']) == (2 if name == 'okvqa' else 1)
    train_ids = {example['id'] for example in examples['train']}
    for split in ('val', 'test'):
        assert examples[split]
        assert not train_ids & {example['id'] for example in examples[split]}


@pytest.mark.parametrize('name', IMAGE_SETS)
def test_a_missing_image_and_a_wrong_file_are_named(name, tmp_path):
    first = IMAGE_SETS[name](tmp_path)
    (tmp_path / first['image']).unlink()
    assert str(tmp_path / first['image']) in error_of(name, data_dir=str(tmp_path))
    for path in tmp_path.glob('*train*.json'):
        path.write_text('[{"a": 1}]')
    message = error_of(name, data_dir=str(tmp_path))
    assert f'.json: not the file of {DATASETS[name].origin}' in message


# ---- sounds and videos, in miniature -------------------------------------------------------------


def make_audiocaps(folder):
    """Clips by the name of the video and by the id of a caption, in several formats."""
    header = ('audiocap_id', 'youtube_id', 'start_time', 'caption')
    train = [
        (91139, 'r1nicOVtvkQ', 130, 'A woman talks nearby as water pours'),
        (58146, '-0mG4S5Hlhk', 30, 'Constant rattling, noise and\n"birds"'),
    ]
    val = [
        (97151, 'rqfQRErjfk8', 170, 'A crowd cheers'),
        (97152, 'rqfQRErjfk8', 170, 'Applause'),
    ]
    test = [
        (103549, '7fmOlUlwoNg', 20, 'Rattling'),
        (103548, '7fmOlUlwoNg', 20, 'A helicopter'),
    ]
    for split, lines in (('train', train), ('val', val), ('test', test)):
        with open(folder / f'{split}.csv', 'w', newline='') as file:
            csv.writer(file).writerows([header, *lines])
    touch(folder / 'audio/train', 'r1nicOVtvkQ_130.wav', '58146.flac', '58146.json')
    touch(folder / 'audio/val', 'rqfQRErjfk8_170.wav', '97152.ogg')
    touch(folder / 'audio/test', '103548.wav')
    return {
        'train': [
            {
                'audio': 'audio/train/r1nicOVtvkQ_130.wav',
                'caption': ['A woman talks nearby as water pours'],
                'id': 'r1nicOVtvkQ_130',
            },
            {
                'audio': 'audio/train/58146.flac',
                # without the commas and quotation marks of the file
                'caption': ['Constant rattling noise and\nbirds'],
                'id': '-0mG4S5Hlhk_30',
            },
        ],
        'val': [
            {
                'audio': 'audio/val/rqfQRErjfk8_170.wav',
                'caption': ['A crowd cheers', 'Applause'],
                'id': 'rqfQRErjfk8_170',
            }
        ],
        'test': [
            {
                'audio': 'audio/test/103548.wav',
                'caption': ['Rattling', 'A helicopter'],
                'id': '7fmOlUlwoNg_20',
            }
        ],
    }


def make_msrvtt(folder):
    """As in MSRVTT.zip, with the first and the last video of each split."""
    split_ends = {
        'train': ('video0', 'video6512'),
        'val': ('video6513', 'video7009'),
        'test': ('video7010', 'video9999'),
    }
    expected = {'train': [], 'val': [], 'test': []}
    annotations = []
    for phrase in ('a man in', 'someone sings in'):
        for videos in split_ends.values():
            for video in videos:
                annotations.append(
                    {'image_id': video, 'caption': f'{phrase} {video}', 'id': len(annotations)}
                )
    for split, videos in split_ends.items():
        for video in videos:
            touch(folder / 'MSRVTT/videos/all', f'{video}.mp4')
            expected[split].append(
                {
                    'video': f'MSRVTT/videos/all/{video}.mp4',
                    'caption': [f'a man in {video}', f'someone sings in {video}'],
                    'id': video,
                }
            )
    images = [{'id': annotation['image_id']} for annotation in annotations]
    file = {
        'info': {'year': '2016'},
        'images': images,
        'type': 'captions',
        'licenses': '',
        'annotations': annotations,
    }
    write_json(folder / 'MSRVTT/annotation/MSR_VTT.json', file)
    return expected


def make_msrvtt_challenge(folder):
    """The files of the challenge. Here video1 is in val, so the key `split` decides, not the
    number."""
    files = {
        'train_val': [('video0', 'train'), ('video1', 'validate')],
        'test': [('video7010', 'test')],
    }
    for name, video_splits in files.items():
        videos = []
        sentences = []
        for index, (video, split) in enumerate(video_splits):
            touch(folder / 'MSRVTT/videos/all', f'{video}.mp4')
            videos.append(
                {
                    'category': 9,
                    'url': 'https://www.youtube.com/watch?v=9lZi22qLlEo',
                    'video_id': video,
                    'id': index,
                    'split': split,
                    'start time': 1.5,
                }
            )
        for number in range(2):
            for video, _ in video_splits:
                sentences.append(
                    {'caption': f'a car {number}', 'video_id': video, 'sen_id': number}
                )
        file = {
            'info': {'contributor': 'Microsoft MSM group', 'version': '1.0'},
            'videos': videos,
            'sentences': sentences,
        }
        write_json(folder / f'{name}_videodatainfo.json', file)
    expected = {}
    for split, video in (('train', 'video0'), ('val', 'video1'), ('test', 'video7010')):
        expected[split] = [
            {
                'video': f'MSRVTT/videos/all/{video}.mp4',
                'caption': ['a car 0', 'a car 1'],
                'id': video,
            }
        ]
    return expected


def make_video_questions(folder, videos, **keys):
    """Two questions about one video of each split. videos: their paths, by number from 1."""
    expected = {}
    for number, split in enumerate(('train', 'val', 'test'), 1):
        path = folder / videos[number]
        touch(path.parent, path.name)
        file = []
        expected[split] = []
        for index, (question, answer) in enumerate(
            [('what is a man doing?', 'talk'), ('who sings?', 'boy')]
        ):
            question_id = 10 * number + index
            file.append(
                {
                    'answer': answer,
                    'id': question_id,
                    'question': question,
                    'video_id': number,
                    **keys,
                }
            )
            expected[split].append(
                {
                    'video': videos[number],
                    'question': question,
                    'answers': [answer],
                    'id': question_id,
                }
            )
        write_json(folder / f'{split}_qa.json', file)
    return expected


def make_msrvtt_qa(folder):
    videos = {number: f'MSRVTT/videos/all/video{number}.mp4' for number in (1, 2, 3)}
    return make_video_questions(folder, videos, category_id=14)


def make_msvd_qa(folder):
    names = ['-4wsuPCjDBc_5_15', '-7KMZQEsJW4_205_208', '-8y1Q0rA3n8_108_115']
    videos = {}
    lines = []
    for number, name in enumerate(names, 1):
        videos[number] = f'YouTubeClips/{name}.avi'
        lines.append(f'{name} vid{number}\n')
    (folder / 'youtube_mapping.txt').write_text(''.join(lines))
    return make_video_questions(folder, videos)


MAKERS = {
    'audiocaps': make_audiocaps,
    'msrvtt': make_msrvtt,
    'msrvtt_challenge': make_msrvtt_challenge,
    'msrvtt_qa': make_msrvtt_qa,
    'msvd_qa': make_msvd_qa,
}


class Miniature:
    """The official files of a data set in miniature, and what is to be read from them."""

    def __init__(self, form, folder):
        self.folder = folder
        self.name = form.removesuffix('_challenge')
        self.medium = 'audio' if self.name == 'audiocaps' else 'video'
        self.examples = {}
        for split, examples in MAKERS[form](folder).items():
            self.examples[split] = [
                {**example, self.medium: str(folder / example[self.medium])} for example in examples
            ]
        self.files = {example[self.medium] for example in self.examples['train']}

    def load(self, split='train', **hyperparameters):
        return load(self.name, split, data_dir=str(self.folder), **hyperparameters)

    def error(self, **hyperparameters):
        return error_of(self.name, data_dir=str(self.folder), **hyperparameters)


@pytest.fixture(params=MAKERS)
def miniature(request, tmp_path):
    return Miniature(request.param, tmp_path)


def test_official_files_of_sounds_and_videos(miniature, capsys):
    for split, examples in miniature.examples.items():
        assert miniature.load(split) == examples
    assert not capsys.readouterr().out


def test_a_missing_sound_or_video_is_an_error_or_left_out(miniature, tmp_path, capsys):
    first = miniature.examples['train'][0]
    path = first[miniature.medium]
    (tmp_path / path).unlink()
    media = 'audio files' if miniature.medium == 'audio' else 'videos'
    count = f'1 of {len(miniature.files)} {media}'
    message = miniature.error()
    assert count in message
    assert path in message
    assert '--bad_rows=skip' in message

    rest = [example for example in miniature.examples['train'] if example[miniature.medium] != path]
    if rest:
        assert miniature.load(bad_rows='skip') == rest
    else:
        assert 'no examples' in miniature.error(bad_rows='skip')
    printed = capsys.readouterr().out
    assert f'left out {count}' in printed
    assert path in printed


def test_another_file_under_an_official_name_is_an_error(miniature, tmp_path):
    contents = ['<!DOCTYPE html>\n<p>not found']
    if miniature.medium == 'video':
        contents += ['[{"a": 1}]\n\n', '{"annotations": [{"id": 1}]}']
    for content in contents:
        for path in [*tmp_path.glob('train*'), *tmp_path.glob('MSRVTT/annotation/*')]:
            path.write_text(content)
        assert 'not the file of' in miniature.error()


def test_the_papers_split_of_msrvtt_trains_on_val_and_validates_on_test(tmp_path):
    make_msrvtt(tmp_path)
    official = {
        split: load('msrvtt', split, data_dir=str(tmp_path)) for split in ('train', 'val', 'test')
    }
    papers = {
        split: load('msrvtt_7k', split, data_dir=str(tmp_path))
        for split in ('train', 'val', 'test')
    }
    assert papers['train'] == official['train'] + official['val']
    assert papers['val'] == papers['test'] == official['test']


@pytest.mark.parametrize(
    'name, file, owner',
    [
        ('audiocaps', 'train.csv', 'AudioCaps'),
        ('msrvtt', 'MSR_VTT.json', 'MSR-VTT'),
        ('msrvtt_qa', 'train_qa.json', 'MSRVTT-QA'),
        ('msvd_qa', 'youtube_mapping.txt', 'MSVD-QA'),
    ],
)
def test_a_missing_file_says_what_it_is_part_of(name, file, owner, tmp_path):
    message = error_of(name, data_dir=str(tmp_path))
    assert f'{file}: no such file or folder. It is part of {owner} (' in message


def test_a_mapping_of_msvd_in_another_order_is_an_error(tmp_path):
    make_msvd_qa(tmp_path)
    (tmp_path / 'youtube_mapping.txt').write_text('vid1 -4wsuPCjDBc_5_15\n')
    message = error_of('msvd_qa', data_dir=str(tmp_path))
    assert 'youtube_mapping.txt: not the file of' in message


# ---- CC3M ----------------------------------------------------------------------------------------


def make_cc3m_by_tsv(folder, header=''):
    """The official tsv files, and images as img2dataset's `files` output names them; that of the
    second line of train is missing."""
    lines = [
        'a "quoted" dog , on grass\thttp://a.example/1',
        'gone\thttp://a.example/2',
        'a cat\thttp://a.example/3',
    ]
    (folder / 'Train_GCC-training.tsv').write_text(header + '\n'.join(lines) + '\n')
    (folder / 'Validation_GCC-1.1.0-Validation.tsv').write_text('a boat\thttp://a.example/4\n')
    touch(folder / 'images/train/00000', '000000000.jpg', '000000002.jpg', '000000002.txt')
    touch(folder / 'images/val/00000', '000000000.jpg')


@pytest.mark.parametrize('header', ['', 'caption\turl\n'])
def test_cc3m_by_its_official_tsv(tmp_path, header, capsys):
    make_cc3m_by_tsv(tmp_path, header)
    examples = load('cc3m', data_dir=str(tmp_path), bad_rows='skip')
    folder = tmp_path / 'images/train/00000'
    assert examples == [
        {
            'image': str(folder / '000000000.jpg'),
            'caption': ['a "quoted" dog , on grass'],
            'id': '000000000',
        },
        {'image': str(folder / '000000002.jpg'), 'caption': ['a cat'], 'id': '000000002'},
    ]
    assert 'left out 1 of 3 images' in capsys.readouterr().out
    assert '000000001.jpg' in error_of('cc3m', data_dir=str(tmp_path))
    for split in ('val', 'test'):
        (example,) = load('cc3m', split, data_dir=str(tmp_path))
        assert example['caption'] == ['a boat']


def test_the_ten_thousandth_image_of_cc3m_is_in_the_next_folder(tmp_path):
    lines = [f'number {i}\thttp://a.example/{i}' for i in range(10_003)]
    (tmp_path / 'Train_GCC-training.tsv').write_text('\n'.join(lines))
    touch(tmp_path / 'images/train/00001', '000010002.jpg')
    (example,) = load('cc3m', data_dir=str(tmp_path), bad_rows='skip')
    assert example['caption'] == ['number 10002']
    assert example['id'] == '000010002'


def test_a_wrong_line_of_cc3m_is_named(tmp_path):
    make_cc3m_by_tsv(tmp_path)
    path = tmp_path / 'Train_GCC-training.tsv'
    path.write_text('a dog\thttp://a.example/1\nno address\n')
    message = error_of('cc3m', data_dir=str(tmp_path))
    assert str(path) in message
    assert "line 2 is 'no address', expected a caption, a tab, a URL" in message


def test_cc3m_says_what_is_missing(tmp_path):
    message = error_of('cc3m', data_dir=str(tmp_path))
    assert f'{tmp_path}/images/train: no such file or folder' in message
    assert 'prepare.py cc3m' in message
    touch(tmp_path / 'images/train/00000', '000000000.jpg')
    assert 'Train_GCC-training.tsv: no such file' in error_of('cc3m', data_dir=str(tmp_path))


def test_cc3m_by_its_unpacked_shards(tmp_path):
    """Those that nanopalm/download.py writes; see also test_download.py."""
    folder = tmp_path / 'images/train/00000'
    touch(folder, '000000007.png')
    (folder / 'captions.jsonl').write_text('{"image": "000000007.png", "caption": "a dog"}\n')
    assert load('cc3m', data_dir=str(tmp_path)) == [
        {'image': str(folder / '000000007.png'), 'caption': ['a dog'], 'id': '000000007'}
    ]
    (folder / 'captions.jsonl').write_text('{"image": "000000007.png"}\n')
    message = error_of('cc3m', data_dir=str(tmp_path))
    assert f'{folder}/captions.jsonl: not the file of Conceptual Captions' in message
