"""The repository's address: one place holds it, one command changes it wherever it is repeated."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from project import PROJECT, ROOT
from set_repository import address


def everything(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def change(folder, url):
    command = [sys.executable, "-B", str(folder / "tools" / "set_repository.py"), url]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_all_files_agree():
    assert PROJECT["urls"]["Repository"] == address()
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["repository-code"] == address()
    assert address() in (ROOT / "README.md").read_text()


def test_one_command_changes_it_everywhere_and_nothing_else(working_copy):
    before = everything(working_copy)
    new = "https://git.example.org/group/another-book"
    assert change(working_copy, new).returncode == 0
    after = everything(working_copy)
    assert after == {path: data.replace(address().encode(), new.encode()) for path, data in before.items()}
    assert {Path("_config.yml"), Path("pyproject.toml"), Path("README.md"), Path("CITATION.cff")} <= {
        path for path in before if before[path] != after[path]
    }
    for path in (working_copy / "book").glob("*.ipynb"):
        json.loads(path.read_text())
        assert f"git+{new}@v" in path.read_text()

    assert change(working_copy, address()).returncode == 0
    assert everything(working_copy) == before


def test_a_longer_address_with_the_same_beginning_stays(working_copy):
    other = f"{address()}-notes"
    readme = working_copy / "README.md"
    readme.write_text(readme.read_text() + other)
    assert change(working_copy, "https://example.org/a/b").returncode == 0
    assert readme.read_text().endswith(other)


@pytest.mark.parametrize(
    "url",
    ["", "example.org/a/b", "http://example.org/a/b", "git@example.org:a/b", "https://example.org", "https://example.org/a",
     "https://example.org/a/b.git", "https://example.org/a/b/", "https://example.org/a/b c", 'https://example.org/a/"b'],
)  # fmt: skip
def test_what_is_no_address_is_refused(working_copy, url):
    before = everything(working_copy)
    told = change(working_copy, url)
    assert told.returncode == 1 and re.search("https address", told.stderr)
    assert everything(working_copy) == before
