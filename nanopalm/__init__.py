"""The plumbing of nanoPALM: what a user runs but hardly ever edits."""

import os

# A thread of torch that has done its share looks again and again whether the others have. By
# default it does so 300,000 times: where another process needs the processor, too, a training then
# takes three times as long (docs/7-performance.md). GNU's OpenMP reads this when torch is imported,
# which is after this package.
if not os.environ.keys() & {'GOMP_SPINCOUNT', 'OMP_WAIT_POLICY'}:
    os.environ['GOMP_SPINCOUNT'] = '1000'
