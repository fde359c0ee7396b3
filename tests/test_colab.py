"""A rehearsal of Colab: each notebook alone in an empty folder, in an environment that has torch and lacks the module.

A local repository with the working tree, under the tag that the notebooks name, stands in for the published one. `make test`
rehearses the chapters that find something in the installed module in ways of their own; `make rehearsal` all of them, minutes.
"""

import asyncio
import importlib.util
import os
import shutil
import subprocess
import sys

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from project import PROJECT, ROOT, copy_tree

import set_repository
from compare import same
from notebooks import BOOK, listed, merged

# What Colab has besides, and chapters use; and the two that a chapter tells its reader to install.
BROUGHT = ("ipykernel", "pip", "scikit-learn", "sympy", "torchvision", "accelerate", "transformers")
BROUGHT += ("lightning", "pytorch-optimizer")
# What builds the module: pip would fetch it for each notebook anew, and the rehearsal needs no network otherwise.
BUILD, NOT_APART = "hatchling", {"PIP_NO_BUILD_ISOLATION": "0"}  # as pip says it in a variable: no
ADDRESS = "https://git.example.org/group/book"
# The interactive figure; the stored results and the network; the table of the paper's statements.
SPECIAL = ("intro", "resnet", "coverage")
REHEARSED = listed() if os.environ.get("ANTIPGD_REHEARSE") == "all" else SPECIAL
VERSIONS = "import matplotlib, numpy, torch\nprint(torch.__version__, numpy.__version__, matplotlib.__version__)"


@pytest.fixture(scope="module")
def colab(tmp_path_factory):
    """The interpreter of a new environment: what the module needs, in the lock's versions, without the module."""
    folder = tmp_path_factory.mktemp("colab")
    uv = os.path.join(os.path.dirname(sys.executable), "uv")
    python = folder / "environment" / "bin" / "python"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder / "environment"], check=True)
    install = [uv, "pip", "install", "--quiet", "--python", python, "--constraint", ROOT / "requirements.lock"]
    install += [*PROJECT["dependencies"], *BROUGHT, BUILD]
    if subprocess.run([*install, "--offline"], check=False).returncode:  # out of what made this environment, if that is kept
        subprocess.run(install, check=True)
    yield python
    shutil.rmtree(folder / "environment")  # gigabytes


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The working tree as it would be published, and variables that make git find it at the address of its own."""
    folder = copy_tree(tmp_path_factory.mktemp("published") / "work")
    subprocess.run([sys.executable, folder / "tools" / "set_repository.py", ADDRESS], check=True)
    git = ["git", "-C", folder, "-c", "user.name=author", "-c", "user.email=author@example.org"]
    for command in ("init --quiet", "add --all", "commit --quiet --message tree", f"tag v{PROJECT['version']}"):
        subprocess.run([*git, *command.split()], check=True)
    bare = folder.with_name("bare.git")
    subprocess.run(["git", "clone", "--quiet", "--bare", folder, bare], check=True)
    instead = f"url.{bare.as_uri()}.insteadOf"
    return folder, {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": instead, "GIT_CONFIG_VALUE_0": ADDRESS}


def rehearse(notebook, python, folder, variables):
    """Execute the notebook with this interpreter in this folder, as Colab would."""

    class Kernel(AsyncKernelManager):
        @property
        def kernel_spec(self):
            return KernelSpec(argv=[str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"])

    ours = ("PYTHONPATH", "VIRTUAL_ENV", "ANTIPGD_SCALE")
    away = {name: value for name, value in os.environ.items() if name not in ours}
    client = NotebookClient(notebook, kernel_manager_class=Kernel, resources={"metadata": {"path": str(folder)}})
    asyncio.run(client.async_execute(env={**away, **NOT_APART, **variables}))


def texts(cell):
    """What a code cell puts out, without pictures: a list of texts by their kind."""
    return [
        {"stream": output.text}
        if output.output_type == "stream"
        else {kind: text for kind, text in output.data.items() if not kind.startswith("image/")}
        for output in merged(cell.outputs)
    ]


def agree(stored, found):
    """Whether two lists of texts by their kind say the same."""
    return [texts.keys() for texts in stored] == [texts.keys() for texts in found] and all(
        same(texts[kind], others[kind]) for texts, others in zip(stored, found) for kind in texts
    )


@pytest.mark.parametrize("name", REHEARSED)
def test_the_notebook_runs_in_colab_and_says_the_same(name, colab, published, tmp_path):
    versions = subprocess.run([colab, "-c", VERSIONS], check=True, stdout=subprocess.PIPE, text=True).stdout
    folder, variables = published
    stored = nbformat.read(folder / "book" / f"{name}.ipynb", as_version=4)
    notebook = nbformat.from_dict(stored)
    where = "import sys, antipgd\nprint(sys.prefix)\nprint(antipgd.__file__)"
    notebook.cells += [nbformat.v4.new_code_cell(VERSIONS), nbformat.v4.new_code_cell(where)]
    rehearse(notebook, colab, tmp_path, variables)

    *cells, after, place = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert texts(after) == [{"stream": versions}]  # Colab's own libraries stay as they are
    environment = colab.parents[1]
    prefix, file = texts(place)[0]["stream"].split()
    assert prefix == str(environment) and file.startswith(f"{environment}{os.sep}")
    for cell, committed in zip(cells, [cell for cell in stored.cells if cell.cell_type == "code"]):
        if "nbval-ignore-output" not in cell.metadata.get("tags", []):
            assert agree(texts(committed), texts(cell)), cell.source


@pytest.mark.parametrize("address, told", [("https://github.com/OWNER/a-book", "not published yet"), (ADDRESS, "")])
def test_without_an_address_the_first_cell_says_what_to_do_and_does_not_ask_pip(address, told, monkeypatch):
    code = nbformat.read(BOOK / "intro.ipynb", as_version=4).cells
    first = next(cell.source for cell in code if cell.cell_type == "code")
    asked = []
    monkeypatch.setattr(subprocess, "check_call", asked.append)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    try:
        exec(first.replace(set_repository.address(), address), {})
    except AssertionError as error:
        assert told and told in str(error) and "pip install ." in str(error) and not asked
    else:
        assert not told and asked[0][1:4] == ["-m", "pip", "install"]
        assert asked[0][-1] == f"git+{address}@v{PROJECT['version']}"
