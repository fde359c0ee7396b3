"""What the tests know of the project: where it lies, what pyproject.toml says, and how to copy it."""

import shutil
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


IGNORED = [".git", *(ROOT / ".gitignore").read_text(encoding="utf-8").replace("/", "").split()]


def copy_tree(folder):
    """Copy the working tree into the folder without what git ignores; it works in a downloaded tree without git, too."""
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*IGNORED))
    return folder
