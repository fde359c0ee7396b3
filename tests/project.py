"""What the tests know of the project: where it lies, what pyproject.toml says, how to copy it and how to test within it."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


IGNORED = [".git", *(ROOT / ".gitignore").read_text(encoding="utf-8").replace("/", "").split()]


def copy_tree(folder):
    """Copy the working tree into the folder without what git ignores; it works in a downloaded tree without git, too."""
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*IGNORED))
    return folder


def pytest_in(folder, *arguments, **variables):
    """What pytest prints that is started there from a shell of its own, with these environment variables besides.

    The shell is not one of this run's own processes, whose surroundings are settled already, and knows no options of it.
    """
    shell = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_XDIST", "PYTEST_ADDOPTS"))}
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", *map(str, arguments)]
    run = subprocess.run(command, cwd=folder, env={**shell, **variables}, check=False, stdout=subprocess.PIPE, text=True)
    return run.stdout


def in_processes(number, function, *arguments):
    """Call ``function(rank, *arguments)`` in as many processes at once. Raises what one of them raises.

    One process imports torch, and the others are forks of it: spawned, each would take seconds to begin.
    """
    import torch.multiprocessing  # here, as most that needs this file does without torch

    forks = torch.multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["torch.distributed.fsdp", "torch.distributed.checkpoint", "antipgd"])
    torch.multiprocessing.start_processes(function, arguments, number, start_method="forkserver")
