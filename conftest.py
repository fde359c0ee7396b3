"""How the chapters are tested: executed again at the quick scale, and their outputs compared up to rounding.

It stands at the root because it holds for tests/ and book/ alike.
"""

import os

from nbval.plugin import IPyNbCell

from compare import Output
from surroundings import of_a_kernel

if "PYTEST_XDIST_WORKER" not in os.environ:  # the processes that run the tests inherit it
    settled = of_a_kernel({**os.environ, "ANTIPGD_SCALE": "quick"})  # at what the committed notebooks were made with
    os.environ.clear()
    os.environ.update(settled)

# nbval compares strings exactly after this step, in which it would replace patterns.
IPyNbCell.sanitize = lambda self, value: Output(value) if isinstance(value, str) else value
