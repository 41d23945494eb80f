"""
What a linear classifier names from the frozen encoder's features alone: the limit beside which a
captioner's exact matches are to be read.

    python -m tools.linear_limit config/demo.py

It takes the config files and hyperparameters of train.py. Each caption of the training split is a
class. The features are the encoder's CLS tokens, or the mean of a CNN's patches, and with
`pool_patches` the pooled patches side by side with it. They are read from the feature cache of the
training, or written into it first. How strongly the classifier is regularised is chosen on the
validation split.
"""

import functools
import sys
from pathlib import Path

import torch

from configurator import configure, script_scope
from encoders import make_encoder
from nanopalm.cache import feature_cache
from nanopalm.checkpoint import pick_device_and_dtype
from nanopalm.datasets import load_examples
from nanopalm.errors import explain_errors
from nanopalm.examples import merge_captions
from nanopalm.jsonl import SPLITS
from nanopalm.probe import fit_discriminant, share_within

# the covariance of the features is mixed with so much of a constant on its diagonal
SHRINKAGES = (0.03, 0.1, 0.3, 1.0, 3.0)


def main(argv):
    config = configure(script_scope(Path(__file__).parent.with_name('train.py')), argv)
    explain_errors()
    features, captions = read_features(config)
    classes = {caption: i for i, caption in enumerate(sorted(set(captions['train'])))}
    # what is not in training is of no class, and never named
    labels = {}
    for split in SPLITS:
        labels[split] = torch.tensor([classes.get(caption, -1) for caption in captions[split]])
    best = None
    for shrinkage in SHRINKAGES:
        classify = fit_discriminant(features['train'], labels['train'], len(classes), shrinkage)
        score = share_within(classify(features['val']), labels['val'], 1)
        if best is None or score > best[0]:
            best = (score, classify)
    logits = best[1](features['test'])
    exact = 100 * share_within(logits, labels['test'], 1)
    five = 100 * share_within(logits, labels['test'], 5)
    print(
        f'linear limit: {exact:.1f}% exact, {five:.1f}% within five, of {len(classes)} names '
        f'(validation {100 * best[0]:.1f}% exact)'
    )


def read_features(config):
    """Returns ({split: features (files, D)}, {split: the first caption of each file}), without the
    files that could not be read. Raises ValueError for a blind run, several encoders, questions."""
    if not config['encoder'] or ',' in config['encoder']:
        raise ValueError(
            f'encoder={config["encoder"]}: expected one, whose features are classified'
        )
    device, dtype = pick_device_and_dtype(config['device'], config['dtype'], config['llm'])
    # as in train.py, whose cache this reads
    autocast = functools.partial(
        torch.autocast,
        device.split(':')[0],
        dtype=getattr(torch, dtype),
        enabled=dtype != 'float32',
    )
    encoder = make_encoder(config, config['source_layers']).to(device).eval()
    features = {}
    captions = {}
    for split in SPLITS:
        examples = load_examples(config, split)
        if 'caption' not in examples[0]:
            raise ValueError(f'dataset={config["dataset"]!r} has questions, expected captions')
        # one for each file, as the cache has them
        examples = merge_captions(examples)
        cache = feature_cache(examples, encoder, config, split, device, autocast)
        # of the plain view, the last layer
        n_tokens = cache.shape[3] if config['pool_patches'] else 1
        tokens = cache[:, 0, -1, :n_tokens].astype('float32')  # (files, 1+N, D)
        rows = torch.from_numpy(tokens).flatten(1)
        # NaN is what the cache has of a file that could not be read
        readable = (~rows.isnan().any(1)).nonzero().flatten()
        features[split] = rows[readable]
        captions[split] = [examples[i]['caption'][0] for i in readable.tolist()]
    return features, captions


if __name__ == '__main__':
    main(sys.argv[1:])
