"""Two processes that train one network on CPUs, against one process with the same batches."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from vision_runs import batch_and_weights, norm

from antipgd.vision import files

SCRIPT = Path(__file__).with_name("vision_runs.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What one and two processes have left."""
    folder = tmp_path_factory.mktemp("ranks")
    subprocess.run([sys.executable, SCRIPT, "ranks", folder], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return folder


def states(folder, name):
    """Of the single process, and of the two ranks."""
    ranks = [files.read(folder / name / "together" / f"rank {rank}.pt") for rank in (0, 1)]
    return files.read(folder / name / "alone" / "rank alone.pt"), *ranks


def largest_difference(a, b):
    """Between the tensors of two dictionaries, in units of their size."""
    pairs = [(a[name].double(), b[name].double()) for name in a]
    return max(float((x - y).norm() / (x.norm() + 1e-6)) for x, y in pairs)


def momenta(state):
    return {i: each["momentum_buffer"] for i, each in state["optimizer"]["state"].items()}


@pytest.mark.parametrize("name", ["noise", "fewer images than ranks", "sam"])
def test_two_ranks_do_what_one_process_does(folder, name):
    alone, first, second = states(folder, name)
    assert largest_difference(first["model"], second["model"]) == 0
    assert largest_difference(alone["model"], first["model"]) < 1e-10
    assert largest_difference(momenta(alone), momenta(first)) < 1e-10
    assert first["history"] == second["history"]
    assert len(alone["history"]) == len(first["history"])
    for expected, found in zip(alone["history"], first["history"]):
        assert expected.keys() == found.keys()
        for key in expected:
            assert found[key] == pytest.approx(expected[key], rel=1e-6), key


def test_the_noise_is_the_same_on_all_ranks_and_that_of_one_process(folder):
    alone, first, second = (state["optimizer"]["state"] for state in states(folder, "noise"))
    for i in alone:
        assert torch.equal(alone[i]["xi"], first[i]["xi"]) and torch.equal(alone[i]["xi"], second[i]["xi"])
        assert alone[i]["xi"].any()


def test_the_statistics_of_batchnorm_are_those_of_one_process(folder):
    alone, first, _ = (state["model"] for state in states(folder, "noise"))
    for name in alone:
        if "running" in name:
            torch.testing.assert_close(first[name], alone[name], rtol=1e-10, atol=1e-10)
        if "num_batches" in name:
            assert first[name] == alone[name] == 3 * (2 + 2 + 1)  # three epochs of batches of 15, 15 and 10


def test_shared_batchnorm_is_batchnorm_of_the_whole_batch(folder):
    found = [files.read(folder / "batchnorm" / f"rank {rank}.pt") for rank in (0, 1)]
    x, weights = batch_and_weights()
    x.requires_grad_()
    layer = norm()
    (layer(x) * weights).sum().backward()
    expected = {"out": layer(x).detach(), "x": x.grad, "eval": layer.eval()(x).detach()}
    for rank, state in enumerate(found):
        for name, whole in expected.items():
            torch.testing.assert_close(state[name], whole[rank::2], rtol=1e-4, atol=1e-5)
        for mine, theirs in zip(state["buffers"], layer.buffers(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    for name in ("weight", "bias"):  # each rank has the part of its images; DistributedDataParallel adds them up
        torch.testing.assert_close(found[0][name] + found[1][name], getattr(layer, name).grad, rtol=1e-4, atol=1e-4)


def test_alone_each_rank_has_statistics_of_its_own(folder):
    assert all(files.read(folder / "batchnorm" / f"rank {rank}.pt")["alone"] for rank in (0, 1))


def test_the_others_wait_for_what_the_first_rank_downloads(folder):
    assert sorted(path.name for path in (folder / "waiting").iterdir()) == ["done 0", "done 1", "left"]


def test_all_ranks_stop_where_one_is_asked_to(folder):
    assert [files.read(folder / "stopping" / f"rank {rank}.pt")["flags"] for rank in (0, 1)] == 2 * [[False, True, True]]
