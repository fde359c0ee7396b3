"""Say what is wrong with an environment, and the way out, before something else fails with a riddle.

python tools/check_environment.py python   # the interpreter, before anything is made (any Python 3 runs this)
python tools/check_environment.py          # the installed libraries
"""

import importlib
import importlib.util
import os
import sys

OLDEST = (3, 11)
LOCK = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "requirements.lock")


def python_trouble(version, has_ensurepip):
    """What is wrong with an interpreter of this version (major, minor), and the way out; None where nothing is."""
    if version < OLDEST:
        return (
            "This is Python %d.%d; the book needs %d.%d or newer.\n" % (version + OLDEST)
            + "Way out: name a newer one, for example: make book PYTHON=python3.11"
        )
    if not has_ensurepip:
        return (
            "This Python cannot make virtual environments: it lacks the module ensurepip.\n"
            "Way out, on Debian and Ubuntu: apt-get install python3-venv"
        )
    return None


def locked():
    """The versions that the lock holds for this Python and platform: a dictionary from names to versions."""
    from packaging.requirements import Requirement

    with open(LOCK, encoding="utf-8") as lines:
        requirements = [Requirement(line.strip()) for line in lines if not line.startswith("#")]
    here = [found for found in requirements if found.marker is None or found.marker.evaluate()]
    return {found.name: next(iter(found.specifier)).version for found in here}


def pair_trouble():
    """What is wrong with the installed torch and torchvision, and the way out; None where both import."""
    try:
        importlib.import_module("torch")
        importlib.import_module("torchvision")
    except Exception as error:  # pairs that do not match fail as ImportError, OSError, RuntimeError, AttributeError
        pair = " ".join("%s==%s" % (name, locked()[name]) for name in ("torch", "torchvision"))
        return (
            "torch and torchvision cannot be imported together: %s: %s\n" % (type(error).__name__, error)
            + "Cause: each torchvision is compiled for one torch, and these two do not fit, or one is broken.\n"
            + "Way out: %s -m pip install --force-reinstall --no-deps %s" % (sys.executable, pair)
        )
    return None


def main():
    if sys.argv[1:] == ["python"]:
        sys.exit(python_trouble(sys.version_info[:2], importlib.util.find_spec("ensurepip") is not None))
    importlib.import_module("matplotlib.font_manager")  # builds its cache now, not with a message in a chapter
    sys.exit(pair_trouble())


if __name__ == "__main__":
    main()
