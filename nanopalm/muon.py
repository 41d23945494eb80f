"""
Muon, as torch.optim has it, in the precision of the training. torch's multiplies in bfloat16
always: limited to AVX2, which has no instructions for it, a CPU took 15 seconds for the matrices of
the demo, and 0.4 in float32.
"""

import torch

# of the polynomial a x + b x^3 + c x^5, which pulls singular values towards 1
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Nesterov's momentum, whose step for each matrix is made orthogonal: all of its directions are
    moved by as much, also those in which the gradient is small (Jordan et al., 2024,
    kellerjordan.github.io/posts/muon).

    params: matrices. dtype: that of the matrix products, torch.float32 or torch.bfloat16. every:
    how many steps go in one direction before it is made anew, which takes most of the time; with
    this momentum it turns slowly."""

    def __init__(self, params, lr, momentum=0.95, weight_decay=0.0, dtype=torch.float32, every=1):
        defaults = dict(lr=lr, momentum=momentum, weight_decay=weight_decay)
        super().__init__(params, defaults)
        self.dtype = dtype
        self.every = every

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            params = [p for p in group['params'] if p.grad is not None]
            # matrices of one shape are made orthogonal together
            due = {}
            for p in params:
                state = self.state[p]
                if not state:
                    state['momentum'] = torch.zeros_like(p)
                # a checkpoint of an older version has none
                state.setdefault('steps', 0)
                state['momentum'].lerp_(p.grad, 1 - group['momentum'])
                if state['steps'] % self.every == 0:
                    due.setdefault(p.shape, []).append(p)
            for matrices in due.values():
                self.turn(matrices, group['momentum'])
            for p in params:
                self.move(p, group)

    def turn(self, matrices, momentum):
        """Makes the directions in which matrices of one shape, (rows, columns) each, move from now
        on: Nesterov's momentum, made orthogonal."""
        ahead = [p.grad.lerp(self.state[p]['momentum'], momentum) for p in matrices]
        directions = orthogonal(torch.stack(ahead).to(self.dtype))
        for p, direction in zip(matrices, directions):
            self.state[p]['direction'] = direction

    def move(self, p, group):
        state = self.state[p]
        rows, columns = p.shape
        # the entries of a tall matrix of orthogonal columns are smaller
        rate = group['lr'] * max(1, rows / columns) ** 0.5
        p.mul_(1 - group['lr'] * group['weight_decay'])
        p.add_(state['direction'], alpha=-rate)
        state['steps'] += 1
        if state['steps'] % self.every == 0:
            # the next step makes another one, so a checkpoint need not hold it
            del state['direction']


def orthogonal(x):
    """Returns matrices like x (M, rows, columns) with the same singular vectors, whose singular
    values are about 1: between 0.7 and 1.2 but for tiny ones."""
    a, b, c = COEFFICIENTS
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if tall else x
