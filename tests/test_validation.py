"""
nanopalm/validation.py: the best checkpoint may be chosen by CIDEr or by accuracy.
"""

import json
import math
import shutil

import pytest
from conftest import flags
from tiny_runs import assert_same_checkpoints, facts, kill_and_resume, metrics

from nanopalm.examples import BadData
from nanopalm.validation import examples_to_score, is_better, score_texts

SCORED = dict(max_iters=40, eval_interval=10, learning_rate=2e-2, connector='linear', n_samples=0)


@pytest.fixture
def questions(pictures, tmp_path):
    """A file with a question about each of the pictures."""
    lines = []
    for split in ('train', 'val', 'test'):
        for line in (pictures / f'{split}.jsonl').read_text().splitlines():
            example = json.loads(line)
            # 'A red circle.'
            colour = example['caption'][0].split()[1]
            asked = dict(question='what?', answers=[colour], split=split)
            lines.append(json.dumps(asked | dict(image=str(pictures / example['image']))))
    path = tmp_path / 'questions.jsonl'
    path.write_text('\n'.join(lines))
    return path


def best_of(scores):
    """Returns the entry with the highest score, the last of those that are alike."""
    return max(scores, key=lambda entry: (entry[1], entry[0]))


# ---- the functions -------------------------------------------------------------------------------


def test_nothing_is_scored_where_the_loss_decides():
    assert examples_to_score([dict(caption=['A cat.'])], dict(eval_metric='loss')) == []


@pytest.mark.parametrize('metric', ['CIDEr', 'exact'])
def test_captions_of_one_image_are_scored_as_one_example(metric):
    examples = [
        dict(image='a', caption=['A cat.']),
        dict(image='a', caption=['One cat.']),
        dict(image='b', caption=['A dog.']),
    ]
    config = dict(eval_metric=metric, eval_metric_rows=10, dataset='pets')
    scored = examples_to_score(examples, config)
    assert [example['caption'] for example in scored] == [['A cat.', 'One cat.'], ['A dog.']]


def test_so_many_examples_are_scored_spread_over_the_split():
    examples = [dict(image=str(i), question='?', answers=['yes']) for i in range(10)]
    config = dict(eval_metric='accuracy', eval_metric_rows=2, dataset='pets')
    scored = examples_to_score(examples, config)
    assert [example['image'] for example in scored] == ['0', '5']


@pytest.mark.parametrize(
    'metric, example, words',
    [
        ('CIDEr', dict(question='?', answers=['yes']), 'without a caption'),
        ('exact', dict(question='?', answers=['yes']), 'without a caption'),
        ('accuracy', dict(caption=['A cat.']), 'without a question'),
    ],
)
def test_examples_that_a_metric_cannot_score_are_refused(metric, example, words):
    config = dict(eval_metric=metric, eval_metric_rows=2, dataset='pets')
    with pytest.raises(BadData, match=words):
        examples_to_score([example], config)


def test_examples_whose_files_cannot_be_read_are_not_scored():
    config = dict(eval_metric='accuracy', dataset='pets')
    examples = [dict(question='?', answers=[answer]) for answer in ('yes', 'no', 'no')]
    assert score_texts(examples, ['yes', None, 'yes'], config) == 50
    with pytest.raises(BadData, match='none of the files'):
        score_texts(examples, [None, None, None], config)


def test_exact_is_the_share_of_captions_that_equal_a_reference():
    config = dict(eval_metric='exact', dataset='pets')
    references = (['a cat', 'a kitten'], ['a dog'], ['an owl'], ['a bee'])
    examples = [dict(caption=captions) for captions in references]
    # the last one's file could not be read
    texts = ['A kitten.', 'a dog barks', 'owl', None]
    assert score_texts(examples, texts, config) == pytest.approx(200 / 3)


def test_a_loss_is_better_if_lower_and_a_score_if_no_lower():
    assert is_better(1.0, math.inf, 'loss')
    assert not is_better(1.0, 1.0, 'loss')
    assert is_better(0.0, -math.inf, 'CIDEr')
    # of checkpoints that score alike, the one trained longer is preferred
    assert is_better(50.0, 50.0, 'accuracy')
    assert not is_better(49.0, 50.0, 'accuracy')


# ---- trainings -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_best_checkpoint_is_best_by_its_cider_which_eval_caption_confirms(train, run, tiny):
    out_dir = tiny['out_dir']
    text = train(**SCORED, eval_metric='CIDEr', eval_metric_rows=3, eval_metric_beams=2)
    scores = metrics(out_dir, 'CIDEr')
    assert [step for step, _ in scores] == [0, 10, 20, 30, 40]
    assert [step for step, _ in metrics(out_dir, 'val_loss')] == [0, 10, 20, 30, 40]
    assert len({score for _, score in scores}) > 1
    step, score = best_of(scores)
    assert facts(out_dir)['iter'] == step
    assert facts(out_dir)['CIDEr'] == score
    assert f'best validation CIDEr {score:.4f}' in text
    assert f'CIDEr {score:.2f} (best)' in text

    options = dict(out_dir=out_dir, device='cpu', dtype='float32', split='val')
    run('eval_caption.py', *flags(max_rows=3, num_beams=2, **options))
    result = json.loads((out_dir / 'eval_val.json').read_text())
    assert result['scores']['CIDEr'] == pytest.approx(score, abs=1e-4)


def test_the_best_checkpoint_is_best_by_its_accuracy(train, tiny, questions):
    out_dir = tiny['out_dir']
    train(**SCORED | dict(max_iters=20), dataset=questions, eval_metric='accuracy')
    scores = metrics(out_dir, 'accuracy')
    assert [step for step, _ in scores] == [0, 10, 20]
    assert len({score for _, score in scores}) > 1
    step, score = best_of(scores)
    assert facts(out_dir)['iter'] == step
    assert facts(out_dir)['accuracy'] == score


@pytest.mark.slow
def test_a_score_is_of_all_captions_of_a_picture(train, pictures, tmp_path):
    """With a row for each caption, as in eP-ALM's COCO, it is the same as with one row."""
    scores = {}
    for name in ('together', 'apart'):
        folder = shutil.copytree(pictures, tmp_path / name)
        if name == 'apart':
            split_validation_captions(folder / 'val.jsonl')
        out_dir = tmp_path / f'out_{name}'
        options = SCORED | dict(max_iters=10)
        train(**options, dataset=folder, eval_metric='CIDEr', out_dir=out_dir)
        scores[name] = metrics(out_dir, 'CIDEr')
    assert scores['together'] == scores['apart']


def split_validation_captions(path):
    lines = []
    for line in path.read_text().splitlines():
        example = json.loads(line)
        for caption in example['caption']:
            lines.append(json.dumps(example | dict(caption=caption)))
    path.write_text('\n'.join(lines))


@pytest.mark.slow
def test_a_run_chosen_by_its_score_resumes_bit_exactly(run, tiny, tmp_path):
    """It was killed right after its best evaluation, or before: `best` is in resume.pt."""
    tiny |= SCORED | dict(eval_metric='CIDEr', mapper_dropout=0.3)
    whole = tmp_path / 'whole'
    pieces = tmp_path / 'pieces'
    run('train.py', *flags(**tiny | dict(out_dir=whole)))
    arguments = flags(**tiny | dict(out_dir=pieces))
    assert kill_and_resume(pieces, arguments, kills=2, folder=tmp_path)
    for key in ('loss', 'val_loss', 'CIDEr'):
        assert metrics(pieces, key) == metrics(whole, key)
    assert_same_checkpoints(pieces, whole)


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'wrong, words',
    [
        (dict(eval_metric='SPICE'), "expected one of 'loss', 'CIDEr', 'exact', 'accuracy'"),
        (dict(eval_metric='accuracy'), 'without a question'),
        (dict(eval_metric_rows=1), 'eval_metric_rows=1: expected 2 or more'),
        (dict(eval_metric_beams=0), 'eval_metric_beams=0: expected 1 or more'),
    ],
    ids=str,
)
def test_a_score_that_cannot_be_computed_is_refused(train, wrong, words):
    assert words in train(fails=True, **wrong)


def test_answers_have_no_cider(train, questions):
    assert 'without a caption' in train(fails=True, dataset=questions, eval_metric='CIDEr')
