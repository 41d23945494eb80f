"""Tools beside the training: `python -m tools.bench` and others."""
