"""Tests of nanopalm/muon.py."""

import pytest
import torch

from nanopalm.muon import Muon, orthogonal

SHAPES = [(6, 4), (4, 6), (5, 5), (6, 4)]


def moved_by(make_optimizer):
    """Returns matrices after three steps of an optimizer from the same start."""
    torch.manual_seed(0)
    matrices = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    optimizer = make_optimizer(matrices)
    for _ in range(3):
        for p in matrices:
            p.grad = torch.randn_like(p)
        optimizer.step()
    return [p.detach() for p in matrices]


@pytest.mark.parametrize(
    'dtype, tolerance', [(torch.bfloat16, 2e-3), (torch.float32, 1e-2)], ids=['bf16', 'fp32']
)
def test_matrices_move_as_by_the_muon_of_torch(dtype, tolerance):
    """torch's multiplies in bfloat16, so that in float32 the two differ by its rounding."""
    hyperparameters = dict(lr=0.1, weight_decay=0.3)
    ours = moved_by(lambda p: Muon(p, dtype=dtype, **hyperparameters))
    expected = moved_by(lambda p: torch.optim.Muon(p, **hyperparameters))
    start = moved_by(lambda p: torch.optim.SGD(p, lr=0.0))
    for a, b, c in zip(ours, expected, start):
        assert (a - b).abs().max() < tolerance
        assert (b - c).abs().max() > 0.1


def test_the_singular_values_of_a_step_are_about_1_and_its_singular_vectors_stay():
    torch.manual_seed(0)
    x = torch.randn(3, 8, 20)
    y = orthogonal(x)
    values = torch.linalg.svdvals(y)
    assert 0.6 < values.min() and values.max() < 1.3
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    middle = u.mT @ y @ v.mT
    off_diagonal = middle - torch.diag_embed(middle.diagonal(dim1=1, dim2=2))
    assert off_diagonal.abs().max() < 1e-4


def test_every_other_step_goes_on_in_the_direction_of_the_one_before():
    torch.manual_seed(0)
    gradients = torch.randn(4, 6, 20)
    moves = {}
    for every in (1, 2):
        p = torch.nn.Parameter(torch.zeros(6, 20))
        optimizer = Muon([p], lr=1.0, every=every)
        moves[every] = []
        for gradient in gradients:
            before = p.detach().clone()
            p.grad = gradient
            optimizer.step()
            moves[every].append(p.detach() - before)
    # what is not due is added to the momentum, so the third step is the same
    for a, b in ((0, 0), (1, 0), (2, 2), (3, 2)):
        torch.testing.assert_close(moves[2][a], moves[1][b])
    assert (moves[1][1] - moves[1][0]).abs().max() > 0.1


def test_a_checkpoint_of_an_older_version_which_counts_no_steps_goes_on():
    def after_two_steps(forgets):
        torch.manual_seed(0)
        p = torch.nn.Parameter(torch.zeros(4, 6))
        optimizer = Muon([p], lr=0.1)
        for _ in range(2):
            p.grad = torch.randn(4, 6)
            optimizer.step()
            if forgets:
                del optimizer.state[p]['steps']
        return p.detach()

    assert torch.equal(after_two_steps(forgets=True), after_two_steps(forgets=False))


def test_a_matrix_without_a_gradient_stays_and_a_gradient_of_zero_does_no_harm():
    first, second = (torch.nn.Parameter(torch.ones(3, 2)) for _ in range(2))
    optimizer = Muon([first, second], lr=0.1)
    first.grad = torch.zeros(3, 2)
    optimizer.step()
    assert torch.equal(first, torch.ones(3, 2)) and torch.equal(second, torch.ones(3, 2))
