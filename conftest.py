"""How the chapters are tested: executed again at the quick scale, and their outputs compared up to rounding.

It stands at the root because it holds for tests/ and book/ alike.
"""

import os

from nbval.plugin import IPyNbCell

from compare import Output

os.environ["ANTIPGD_SCALE"] = "quick"  # what the committed notebooks were made with
os.environ["OMP_NUM_THREADS"] = "1"  # sums of several threads differ in their last digits

# nbval compares strings exactly after this step, in which it would replace patterns.
IPyNbCell.sanitize = lambda self, value: Output(value) if isinstance(value, str) else value
