"""The linear classifier, and tools/linear_limit.py from end to end on a tiny encoder."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, flags

from nanopalm.probe import fit_discriminant, share_within


def test_classes_that_a_line_divides_are_told_apart():
    torch.manual_seed(0)
    labels = torch.arange(300) % 3
    centres = torch.tensor([[0.0, 0, 9], [0, 3, 9], [3, 0, 9]])
    features = centres[labels] + 0.3 * torch.randn(300, 3)
    classify = fit_discriminant(features[:200], labels[:200], 3, shrinkage=0.1)
    assert share_within(classify(features[200:]), labels[200:], 1) == 1


def test_a_direction_in_which_all_classes_vary_does_not_count():
    torch.manual_seed(0)
    labels = torch.arange(400) % 2
    noise = torch.randn(400, 2) * torch.tensor([0.1, 20.0])
    features = torch.stack([labels.float(), torch.zeros(400)], dim=1) + noise
    classify = fit_discriminant(features[:200], labels[:200], 2, shrinkage=1e-4)
    assert share_within(classify(features[200:]), labels[200:], 1) == 1


def test_share_within_counts_the_highest_logits():
    logits = torch.tensor([[3.0, 2, 1], [1, 2, 3]])
    labels = torch.tensor([1, 2])
    assert share_within(logits, labels, 1) == 0.5
    assert share_within(logits, labels, 2) == 1
    # more than there are; a label of no class
    assert share_within(logits, torch.tensor([0, -1]), 5) == 0.5


@pytest.fixture
def limit(pictures, encoder, llm, tmp_path):
    """limit(name=value, ...) runs the script, and returns (exit status, all that it printed)."""

    def limit(**changes):
        options = dict(
            dataset=pictures,
            encoder=encoder,
            llm=llm,
            cache_dir=tmp_path / 'cache',
            device='cpu',
            dtype='float32',
        )
        done = subprocess.run(
            [sys.executable, '-m', 'tools.linear_limit', *flags(**options | changes)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout + done.stderr

    return limit


LIMIT = r'linear limit: [\d.]+% exact, [\d.]+% within five, of \d+ names'


@pytest.mark.slow
@pytest.mark.parametrize('pool_patches', [0, 2])
def test_the_limit_of_a_data_set_is_printed(pool_patches, limit):
    status, printed = limit(pool_patches=pool_patches)
    assert status == 0 and re.search(LIMIT, printed), printed


@pytest.mark.slow
def test_files_of_several_lines_and_files_that_cannot_be_read(limit, pictures, tmp_path):
    folder = shutil.copytree(pictures, tmp_path / 'data')
    lines = (folder / 'train.jsonl').read_text().splitlines()
    (folder / 'train.jsonl').write_text('\n'.join([*lines, lines[0]]))
    broken = Path(folder, json.loads(lines[1])['image'])
    broken.write_bytes(b'no picture')
    status, printed = limit(dataset=folder, bad_rows='skip')
    assert status == 0 and re.search(LIMIT, printed), printed


@pytest.mark.slow
def test_what_has_no_captions_or_no_features_is_refused(limit, encoder, pictures, tmp_path):
    line = {'image': str(pictures / 'images/0.png'), 'question': 'what?', 'answers': 'a'}
    for split in ('train', 'val', 'test'):
        (tmp_path / f'{split}.jsonl').write_text(json.dumps(line))
    for mistake, words in (
        (dict(encoder=None), 'encoder=None: expected one'),
        (dict(encoder=f'{encoder},{encoder}'), 'expected one'),
        (dict(dataset=tmp_path), 'has questions, expected captions'),
    ):
        status, printed = limit(**mistake)
        assert status == 1 and words in printed
        assert 'Traceback' not in printed
