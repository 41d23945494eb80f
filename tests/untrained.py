"""
Runs that look as if train.py had written them, without training: tests of what is done with a run
need a checkpoint whose texts depend on the image, not a good one.
"""

import json

import torch
from conftest import configured, flags

from nanopalm.checkpoint import build, save_adapter

SMALL = {'adapter_dim': 32, 'mapper_heads': 4, 'n_queries': 4}
# of the scripts, in every test
CPU = {'device': 'cpu', 'dtype': 'float32'}


def write_run(out_dir, seed=0, which='best', **hyperparameters):
    """Writes a checkpoint and config.json into out_dir. The adapter is random, far from what a
    training starts with, so that images matter. Returns out_dir."""
    config = configured(*flags(**SMALL, **hyperparameters))
    torch.manual_seed(0)
    model, _ = build(config, 'cpu', 'float32')
    randomise(model, seed)
    out_dir.mkdir(parents=True, exist_ok=True)
    save_adapter(out_dir / f'{which}.safetensors', model.trained(), config)
    (out_dir / 'config.json').write_text(json.dumps(config))
    return out_dir


def randomise(model, seed=0):
    """Replaces all that is trained in a model by normal noise."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.trained().values():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def write_questions(pictures, path):
    """Writes a data set of two questions about every one of conftest's pictures, of different
    lengths and types, and returns its path."""
    lines = []
    for split in ('train', 'val', 'test'):
        for line in (pictures / f'{split}.jsonl').read_text().splitlines():
            row = json.loads(line)
            # 'A red circle.'
            _, colour, shape = row['caption'][0].strip('.').split()
            image = str(pictures / row['image'])
            lines.append(
                {
                    'image': image,
                    'question': 'what color?',
                    'answers': [colour] * 9 + [shape],
                    'answer_type': 'other',
                    'question_type': 'what',
                    'split': split,
                }
            )
            lines.append(
                {
                    'image': image,
                    'question': f'is there a {shape} in the picture?',
                    'answers': ['yes'] * 10,
                    'answer_type': 'yes/no',
                    'question_type': 'is',
                    'split': split,
                }
            )
    path.write_text('\n'.join(map(json.dumps, lines)))
    return path
