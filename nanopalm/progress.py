"""
The options of all progress bars: `tqdm(examples, **BAR)`.
"""

import sys

if sys.stderr.isatty():
    BAR = dict(dynamic_ncols=True, mininterval=0.5, delay=0)
else:
    # into a file or a pipe: nothing in the first ten seconds, then a line a minute at most
    BAR = dict(dynamic_ncols=True, mininterval=60, delay=10)
