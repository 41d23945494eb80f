"""
Muon, in the precision of the training and with three iterations. torch's multiplies in bfloat16
always: limited to AVX2, which has no instructions for it, a CPU took 15 seconds for the matrices of
the demo, and 0.4 in float32; and it takes five iterations.
"""

import torch

# (a, b, c) of three polynomials a x + b x^3 + c x^5. One after the other they bring singular values
# in 0.01..1 to 0.08..1.92, to 0.29..1.71, to 0.73..1.27: as near to 1 as one of degree 5 can (Amsel
# et al., 2025, arXiv 2505.16932). Muon's own, which is the same five times, leads to 0.68..1.13.
POLYNOMIALS = (
    (8.0934, -23.6204, 17.4462),
    (3.6366, -2.7219, 0.5365),
    (2.6613, -1.9772, 0.4526),
)
# what is above 1 by an error of rounding must not run away
HEADROOM = 1.02


class Muon(torch.optim.Optimizer):
    """Nesterov's momentum, whose step for each matrix is made orthogonal: all of its directions are
    moved by as much, also those in which the gradient is small (Jordan et al., 2024,
    kellerjordan.github.io/posts/muon).

    params: matrices. dtype: that of the matrix products, torch.float32 or torch.bfloat16."""

    def __init__(self, params, lr, momentum=0.95, weight_decay=0.0, dtype=torch.float32):
        defaults = dict(lr=lr, momentum=momentum, weight_decay=weight_decay)
        super().__init__(params, defaults)
        self.dtype = dtype

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            # matrices of one shape are made orthogonal together
            by_shape = {}
            for p in group['params']:
                if p.grad is not None:
                    by_shape.setdefault(p.shape, []).append(p)
            for matrices in by_shape.values():
                self.move(matrices, group)

    def move(self, matrices, group):
        directions = []
        for p in matrices:
            state = self.state[p]
            if not state:
                state['momentum'] = torch.zeros_like(p)
            state['momentum'].lerp_(p.grad, 1 - group['momentum'])
            directions.append(p.grad.lerp(state['momentum'], group['momentum']))
        steps = orthogonal(torch.stack(directions).to(self.dtype))
        rows, columns = matrices[0].shape
        # the entries of a tall matrix of orthogonal columns are smaller
        rate = group['lr'] * max(1, rows / columns) ** 0.5
        for p, step in zip(matrices, steps):
            p.mul_(1 - group['lr'] * group['weight_decay'])
            p.add_(step, alpha=-rate)


def orthogonal(x):
    """Returns matrices like x (M, rows, columns) with the same singular vectors, whose singular
    values are about 1: between 0.7 and 1.3, but for those below a hundredth of the norm."""
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    norm = x.norm(dim=(1, 2), keepdim=True)
    x = x / (HEADROOM * norm).clamp(min=1e-7)
    for a, b, c in POLYNOMIALS:
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if tall else x
