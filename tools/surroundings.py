"""What of the caller's shell and settings reaches the chapters: nothing that changes what they show."""

import atexit
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

CHANGING = ("MPLBACKEND", "PYTHONSTARTUP", "PYTHONWARNINGS", "PYTHONOPTIMIZE", "TQDM_")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def of_a_kernel(variables=os.environ):
    """The environment variables for kernels, made from the caller's: a dictionary.

    Without what chooses another backend of matplotlib (figures would go nowhere), runs code of the user's own or changes
    warnings; with matplotlib's own settings, one thread (the sums of several differ in their last digits), no progress
    bars (the times they print differ from run to run), and an empty profile of IPython, deleted when this process ends.
    """
    kept = {name: value for name, value in variables.items() if not name.startswith(CHANGING)}
    profile = tempfile.mkdtemp(prefix="ipython-")
    atexit.register(shutil.rmtree, profile, ignore_errors=True)
    matplotlib = Path(importlib.util.find_spec("matplotlib").origin).parent  # not imported: it would read the settings
    own = matplotlib / "mpl-data" / "matplotlibrc"
    return {**kept, **ONE_THREAD, "MATPLOTLIBRC": str(own), "IPYTHONDIR": profile, "TQDM_DISABLE": "1"}
