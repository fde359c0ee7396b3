"""Several processes that train one network: the algorithm stays that of one process with the same batches."""

import contextlib
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Ranks:
    """This process among ``number`` of them."""

    rank: int
    number: int
    device: str

    @property
    def first(self):
        return self.rank == 0

    def wrapped(self, model):
        """The model, with gradients averaged over the ranks and BatchNorm over the images of all."""
        if self.number == 1:
            return model
        if self.device == "cpu":
            share_statistics(model)
        else:
            nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return DistributedDataParallel(model)

    @contextlib.contextmanager
    def first_alone(self):
        """The others enter the block when the first rank has left it: they read what it has downloaded."""
        if not self.first:
            dist.barrier()
        yield
        if self.first and self.number > 1:
            dist.barrier()

    def any(self, flag):
        """Whether the flag is true on any rank."""
        if self.number == 1:
            return flag
        flag = torch.tensor(int(flag), device=self.device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

    def means(self, totals):
        """Mean loss and accuracy of the images in an epoch's batches, over all ranks."""
        sums = torch.stack([totals.loss, totals.correct, torch.full_like(totals.loss, totals.images)])
        if self.number > 1:
            dist.all_reduce(sums)
        loss, correct, images = sums.tolist()
        return {"batch_loss": loss / images, "batch_accuracy": correct / images}


@contextlib.contextmanager
def ranks(device):
    """The process group that torchrun has prepared, for the block; a single rank without torchrun."""
    if "RANK" not in os.environ:
        yield Ranks(0, 1, device)
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()


class Total(torch.autograd.Function):
    """The sum over all ranks. What depends on it does so on all ranks: its gradient is such a sum as well."""

    @staticmethod
    def forward(ctx, x):
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient):
        return Total.forward(ctx, gradient)


class SharedBatchNorm(nn.BatchNorm2d):
    """BatchNorm with the statistics of all ranks, on CPUs, for which torch's SyncBatchNorm is not made."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        count = Total.apply(torch.tensor(float(x.numel() // x.shape[1])))
        mean = Total.apply(x.sum((0, 2, 3))) / count
        centred = x - mean.view(1, -1, 1, 1)
        var = Total.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        return centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


def share_statistics(model):
    """Make every BatchNorm of the model one that shares its statistics; parameters and buffers stay the same objects."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm


@contextlib.contextmanager
def alone(model):
    """Inside the block each rank's BatchNorm has statistics of its own, so that none waits for another."""
    shared = [(module, type(module)) for module in model.modules() if type(module) in (SharedBatchNorm, nn.SyncBatchNorm)]
    try:
        for module, _ in shared:
            module.__class__ = nn.BatchNorm2d
        yield
    finally:
        for module, kind in shared:
            module.__class__ = kind
