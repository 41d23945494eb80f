"""Config files of train.py, and the released runs of the papers (papers.py)."""
