"""
Progress bars.
"""
import sys

# progress bars say how long it will yet take; into a file or a pipe they write a line a minute at most
BAR = dict(dynamic_ncols=True, mininterval=0.5 if sys.stderr.isatty() else 60, delay=0 if sys.stderr.isatty() else 10)
