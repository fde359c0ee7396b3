"""The examples of the README and of the docstrings run as they stand."""

import doctest
import re

import pytest
import torch
from torch import nn

import antipgd
from project import ROOT


def batches():
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 10, generator=generator), torch.randn(8, 1, generator=generator)) for _ in range(3)]


def take_step(model, optimizer, x, y):
    optimizer.zero_grad()
    nn.functional.mse_loss(model(x), y).backward()
    optimizer.step()


def train(model, optimizer):
    for x, y in batches():
        take_step(model, optimizer, x, y)


def evaluate(model):
    for x, y in batches():
        nn.functional.mse_loss(model(x), y)


def surroundings():
    """What the examples suppose to be there."""
    model = nn.Linear(10, 1)
    given = {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1), "batches": batches()}
    return {"torch": torch, **vars(antipgd), "train": train, "evaluate": evaluate, "take_step": take_step, **given}


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL))
def test_python_in_the_readme(block, capsys):
    exec(compile(block, "README.md", "exec"), {})
    assert float(capsys.readouterr().out) > 0


EXAMPLES = [name for name in antipgd.__all__ if ">>>" in (getattr(antipgd, name).__doc__ or "")]


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_in_docstrings(name):
    found = doctest.DocTestFinder(recurse=False).find(getattr(antipgd, name), name, globs=surroundings())
    runner = doctest.DocTestRunner(verbose=False)
    assert all(runner.run(each).failed == 0 for each in found) and runner.tries > 1


def test_there_are_examples():
    assert {"AntiPGD", "NoiseSchedule"} <= set(EXAMPLES)
