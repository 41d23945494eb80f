"""The linear classifier, and tools/linear_limit.py from end to end on a tiny encoder."""

import re
import subprocess
import sys

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


@pytest.mark.slow
@pytest.mark.parametrize('pool_patches', [0, 2])
def test_the_limit_of_a_data_set_is_printed(pool_patches, pictures, encoder, llm, tmp_path):
    options = flags(
        pool_patches=pool_patches,
        dataset=pictures,
        encoder=encoder,
        llm=llm,
        cache_dir=tmp_path,
        device='cpu',
        dtype='float32',
    )
    done = subprocess.run(
        [sys.executable, '-m', 'tools.linear_limit', *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert re.match(
        r'(caching .*\n)*linear limit: [\d.]+% exact, [\d.]+% within five, of \d+ names',
        done.stdout,
    ), done.stderr
