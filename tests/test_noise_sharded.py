"""Sharded training: the noise is that of the whole tensor, however it is cut, or it is refused."""

import copy
import re
import warnings

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.optim import SGD, AdamW

from antipgd.curvature import expected_sharpness, hessian_trace
from antipgd.noise import AntiPGD
from antipgd.strength import sigma_for
from project import in_processes

pytestmark = pytest.mark.filterwarnings("error")
STEPS, RANKS, EVEN = 4, (2, 4), 8  # torch's tensor parallel layers need an even cut


def network(hidden=7):
    """Seven and three do not divide by the number of processes, so that the shards are of different sizes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, hidden), nn.Tanh(), nn.Linear(hidden, 3)).double()


def train(model, optimizer, steps, rank=0, ranks=1):
    """Each process has its part of the batch, and all parts are of one size."""
    for n in steps:
        generator = torch.Generator().manual_seed(n)
        x, y = (torch.randn(8, size, dtype=torch.float64, generator=generator) for size in (5, 3))
        optimizer.zero_grad()
        (model(x.chunk(ranks)[rank]) - y.chunk(ranks)[rank]).square().mean().backward()
        optimizer.step()


def optimizer_with_noise(model, cls):
    optimizer = cls(model.parameters(), lr=0.05)
    return optimizer, AntiPGD(optimizer, 0.1, seed=3)


def whole(tensor):
    return tensor.full_tensor().detach().clone() if hasattr(tensor, "full_tensor") else tensor.detach().clone()


def everything(model, optimizer, noise):
    weights, xi = [whole(p) for p in model.parameters()], [whole(optimizer.state[p]["xi"]) for p in model.parameters()]
    before = [copy.deepcopy(p.detach()) for p in model.parameters()]
    with noise.at_z():
        z = [whole(p) for p in model.parameters()]
    after = [p.detach() for p in model.parameters()]
    returned = all(torch.equal(local(a), local(b)) for a, b in zip(before, after))
    return {"w": weights, "xi": xi, "z": z, "returned": returned}


def local(tensor):
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def shard(model, mesh):
    for layer in (model[0], model[2]):
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def fsdp2(rank, ranks, folder, cls):
    model = shard(network(), init_device_mesh("cpu", (ranks,)))
    optimizer, noise = optimizer_with_noise(model, cls)
    train(model, optimizer, range(STEPS), rank, ranks)
    result = everything(model, optimizer, noise)
    state = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer)))
    dcp.save(state, checkpoint_id=f"{folder}/dcp-{cls.__name__}-{ranks}")
    train(model, optimizer, range(STEPS, 2 * STEPS), rank, ranks)
    return {**result, "later": [whole(p) for p in model.parameters()]}


def hsdp(rank, ranks, folder):
    model = shard(network(), init_device_mesh("cpu", (2, ranks // 2), mesh_dim_names=("replicate", "shard")))
    optimizer, noise = optimizer_with_noise(model, SGD)
    train(model, optimizer, range(STEPS), rank, ranks)
    return everything(model, optimizer, noise)


def gathered(rank, ranks, folder):
    """What is evaluated, and what said, where the outermost module keeps the weights that it gathered to be evaluated."""
    model = fully_shard(nn.Linear(5, 3).double(), mesh=init_device_mesh("cpu", (ranks,)))
    optimizer, noise = optimizer_with_noise(model, SGD)
    train(model, optimizer, range(STEPS), rank, ranks)
    x = torch.ones(2, 5, dtype=torch.float64)

    def evaluated():
        with torch.no_grad():
            return model(x)

    seen, said, refused = {"w": evaluated()}, [], []
    for inside in (False, True):  # gathered before the block begins, and in it
        if inside:
            model.reshard()
        try:
            with noise.at_z():
                seen["z"] = evaluated()
        except RuntimeError as error:
            said.append(str(error))
    model.reshard()
    seen["w again"] = evaluated()
    try:
        noise.detach()
    except RuntimeError as error:
        said.append(str(error))
    model.reshard()
    batches = [(x, torch.zeros(2, 3, dtype=torch.float64))]
    for measure, more in ((hessian_trace, {}), (expected_sharpness, {"sigma": 0.1}), (sigma_for, {"rise": 0.1})):
        try:
            measure(model, nn.functional.mse_loss, batches, **more)
        except ValueError as error:
            refused.append(str(error))
    return {**seen, "said": said, "refused": refused, "everything": everything(model, optimizer, noise), "x": x}


def tensor_parallel(rank, ranks, folder):
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
    model = parallelize_module(network(EVEN), init_device_mesh("cpu", (ranks,)), plan)
    optimizer, noise = optimizer_with_noise(model, SGD)
    train(model, optimizer, range(STEPS))
    return everything(model, optimizer, noise)


def refused(rank, ranks, folder):
    """What each of these says, and whether it left the groups alone."""
    said = {}
    for name, make in {
        "FSDP1": lambda: SGD(FullyShardedDataParallel(network(), device_id=torch.device("cpu")).parameters(), lr=0.1),
        "FSDP1, original parameters": lambda: SGD(
            FullyShardedDataParallel(network(), device_id=torch.device("cpu"), use_orig_params=True).parameters(), lr=0.1
        ),
        "ZeRO": lambda: ZeroRedundancyOptimizer(network().parameters(), optimizer_class=SGD, lr=0.1),
        "ZeRO, inside": lambda: KEPT.append(ZeroRedundancyOptimizer(network().parameters(), SGD, lr=0.1)) or KEPT[-1].optim,
    }.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, on FSDP1 being on its way out
            optimizer = make()
        try:
            AntiPGD(optimizer, 0.1)
            said[name] = None, False
        except TypeError as error:
            said[name] = str(error), "sigma" not in optimizer.param_groups[0]
    return said


KEPT = []


def process(rank, ranks, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store{ranks}", rank=rank, world_size=ranks)
    results = {"fsdp2 SGD": fsdp2(rank, ranks, folder, SGD), "fsdp2 AdamW": fsdp2(rank, ranks, folder, AdamW)}
    if ranks == 4:
        results["hsdp"] = hsdp(rank, ranks, folder)
    else:
        results["tensor parallel"] = tensor_parallel(rank, ranks, folder)
        results["refused"] = refused(rank, ranks, folder)
        results["gathered"] = gathered(rank, ranks, folder)
    torch.save(results, f"{folder}/{ranks}-{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def runs(folder):
    """What each process of two and of four has seen: {(number of processes, rank): results}."""
    for ranks in RANKS:
        in_processes(ranks, process, ranks, str(folder))
    return {(n, rank): torch.load(folder / f"{n}-{rank}.pt") for n in RANKS for rank in range(n)}


def alone(cls, **size):
    model = network(**size)
    optimizer, noise = optimizer_with_noise(model, cls)
    train(model, optimizer, range(STEPS))
    result = everything(model, optimizer, noise)
    train(model, optimizer, range(STEPS, 2 * STEPS))
    return {**result, "later": [whole(p) for p in model.parameters()]}


@pytest.mark.parametrize(
    "scenario, ranks, cls",
    [
        ("fsdp2 SGD", 2, SGD),
        ("fsdp2 SGD", 4, SGD),
        ("fsdp2 AdamW", 2, AdamW),
        ("fsdp2 AdamW", 4, AdamW),
        ("hsdp", 4, SGD),
        ("tensor parallel", 2, SGD),
    ],
)
def test_the_run_does_not_depend_on_how_the_weights_are_cut(runs, scenario, ranks, cls):
    expected = alone(cls, hidden=EVEN) if scenario == "tensor parallel" else alone(cls)
    for rank in range(ranks):
        got = runs[ranks, rank][scenario]
        assert got["returned"]
        assert all(torch.equal(a, b) for a, b in zip(got["xi"], expected["xi"]))  # to the last bit
        for name in ("w", "z"):
            torch.testing.assert_close(got[name], expected[name], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("cls", [SGD, AdamW])
def test_a_checkpoint_of_many_processes_is_read_by_one(runs, folder, ranks, cls):
    model = network()
    optimizer, _ = optimizer_with_noise(model, cls)
    optimizer.param_groups[0]["sigma"] = 0.7  # the checkpoint's wins
    state = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own: one process reads alone
        dcp.load(state, checkpoint_id=folder / f"dcp-{cls.__name__}-{ranks}")
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    train(model, optimizer, range(STEPS, 2 * STEPS))
    expected = runs[ranks, 0][f"fsdp2 {cls.__name__}"]["later"]
    torch.testing.assert_close([whole(p) for p in model.parameters()], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "name, message",
    [
        ("FSDP1", "FullyShardedDataParallel.*fully_shard"),
        ("FSDP1, original parameters", "FullyShardedDataParallel.*fully_shard"),
        ("ZeRO", "ZeroRedundancyOptimizer keeps a part.*fully_shard"),
        ("ZeRO, inside", "ZeroRedundancyOptimizer keeps a part.*fully_shard"),
    ],
)
def test_shards_that_do_not_know_their_place_are_refused(runs, name, message):
    for rank in range(2):
        said, untouched = runs[2, rank]["refused"][name]
        assert said and re.search(message, said) and untouched


def test_weights_that_fsdp2_has_gathered_are_not_left_behind(runs):
    """A loss at z behind one at w is the loss at z, or it is refused before or after the block; the weights are back."""
    for rank in range(2):
        found = runs[2, rank]["gathered"]
        w, z = (found["x"] @ weight.T + bias for weight, bias in (found["everything"]["w"], found["everything"]["z"]))
        torch.testing.assert_close([found["w"], found["z"], found["w again"]], [w, z, w])
        assert not torch.allclose(w, z)
        assert len(found["said"]) == 3 and all("model.reshard()" in words for words in found["said"])


def test_what_is_measured_around_the_weights_refuses_shards(runs):
    refused = runs[2, 0]["gathered"]["refused"]
    assert len(refused) == 3 and all("The model is sharded" in words for words in refused)
