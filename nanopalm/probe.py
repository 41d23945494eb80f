"""
A linear classifier of features: linear discriminant analysis, which is solved and not trained, and
takes a second for thousands of examples of hundreds of classes.
"""

import torch


def fit_discriminant(features, labels, n_classes, shrinkage):
    """Returns a function: features (M, D) -> logits (M, n_classes), linear in the features.

    features (N, D); labels (N,), each class occurs. All classes are taken to be equally frequent,
    and normally distributed with the same covariance, that of the examples around the means of
    their classes. shrinkage: so much of its mean diagonal is added to its diagonal."""
    mean = features.mean(0)
    scale = features.std()
    x = (features - mean) / scale
    counts = torch.bincount(labels, minlength=n_classes)
    # (n_classes, D)
    means = torch.zeros(n_classes, x.shape[1]).index_add_(0, labels, x) / counts[:, None]
    around = x - means[labels]
    covariance = around.T @ around / len(x)
    covariance += shrinkage * covariance.diagonal().mean() * torch.eye(len(covariance))
    # (D, n_classes)
    weight = torch.linalg.solve(covariance, means.T)
    bias = -(means.T * weight).sum(0) / 2

    def classify(features):
        return (features - mean) / scale @ weight + bias

    return classify


def share_within(logits, labels, k):
    """Returns the share, 0 to 1, of labels (M,) among the k highest logits (M, n_classes)."""
    highest = logits.topk(min(k, logits.shape[1])).indices
    return float((highest == labels[:, None]).any(1).float().mean())
