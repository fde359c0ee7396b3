"""One environment, described in three files, and the words for what can be wrong with it."""

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from check_environment import LOCK, locked, python_trouble
from project import PROJECT, ROOT

REQUIRED = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["book"]]


@pytest.mark.parametrize("requirement", [Requirement(text) for text in REQUIRED], ids=str)
def test_the_lock_holds_what_the_project_asks_for(requirement):
    if requirement.marker is None or requirement.marker.evaluate():
        assert requirement.specifier.contains(locked()[requirement.name.lower()])


def test_what_is_installed_is_what_the_lock_says():
    assert {name: version(name) for name in locked()} == locked()


def test_the_lock_holds_versions_and_no_addresses():
    for line in Path(LOCK).read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[a-z0-9-]+==[\w.+]+( ; .+)?", line), line


def test_conda_installs_the_lock():
    channels_and_packages = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = channels_and_packages["dependencies"]
    assert pip == {"pip": ["-r requirements.lock", "-e ."]}
    python = next(entry for entry in conda if entry.startswith("python="))
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(python.removeprefix("python="))
    assert {"pip", "git", "make"} <= set(conda)


def test_jupyter_book_is_the_first_one():
    program = Path(sys.executable).with_name("jupyter-book")
    told = subprocess.run([program, "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout
    assert re.search(r"Jupyter Book\s*: 1\.", told), told


def check_environment(*arguments, **variables):
    command = [sys.executable, str(ROOT / "tools" / "check_environment.py"), *arguments]
    return subprocess.run(command, env={**os.environ, **variables}, stderr=subprocess.PIPE, text=True)


def test_this_environment_is_sound():
    told = check_environment()
    assert told.returncode == 0, told.stderr


def test_a_torchvision_that_does_not_fit_is_explained(tmp_path):
    # What a torchvision says that was compiled for another torch.
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    told = check_environment(PYTHONPATH=str(tmp_path))
    assert told.returncode == 1
    assert "operator torchvision::nms does not exist" in told.stderr
    assert "Cause: " in told.stderr
    pair = locked()
    assert f"--no-deps torch=={pair['torch']} torchvision=={pair['torchvision']}" in told.stderr


def test_an_old_python_is_told_before_anything_is_made():
    assert "needs 3.11" in python_trouble((3, 10), True)
    assert "PYTHON=" in python_trouble((3, 9), True)
    assert "python3-venv" in python_trouble((3, 12), False)
    assert python_trouble((3, 11), True) is None
    assert check_environment("python").returncode == 0
