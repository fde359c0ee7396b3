"""Speed of the ResNet18's training, beside a plain loop, with and without noise, and for whole epochs.

    python benchmarks/vision.py                # a small network as the trainer runs it by default, on a CPU in a minute
    python benchmarks/vision.py --width 64 --turns 3 --compiled --precision bfloat16    # the paper's network on a CPU that
                                                                                        # computes in bfloat16, minutes
    python benchmarks/vision.py --width 64 --batches 128 1024 7500 --store    # the paper's, on a GPU, and stored

plain loop: torchvision's transforms on one PIL image after the other, a DataLoader, float32, nothing compiled. Both
sides train the same network on the same images with crops and mirror images, in turn, in one process; the best of the
turns is kept. An epoch is 50,000 images, timed on as many as two batches have and scaled up.
"""

import argparse
import time
from dataclasses import replace
from functools import partial

import torch
from bench import best_in_turn, report
from PIL import Image
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from antipgd import results
from antipgd.vision.data import MEAN, STD, Images, synthetic
from antipgd.vision.settings import PRESETS
from antipgd.vision.steps import Batches, Totals, network, optimizer_and_noise, set_noise, step
from antipgd.vision.train import Machine

EPOCH = 50_000
TURNS = 5


class OnDisk(Dataset):
    """Images as a plain loop has them: PIL images, transformed one by one."""

    def __init__(self, images):
        self.images = [Image.fromarray(pixels) for pixels in images.pixels.permute(0, 2, 3, 1).numpy()]
        self.labels = images.labels.tolist()
        crop = transforms.RandomCrop(32, padding=4)
        self.transform = transforms.Compose(
            [crop, transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        )

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.transform(self.images[i]), self.labels[i]


def plain_loop(settings, images, device):
    """One pass over the images, as one would write it."""
    model = network(settings, device)
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.lr, momentum=settings.momentum)
    loader = DataLoader(OnDisk(images), settings.batch_size, shuffle=True)

    def go():
        for inputs, labels in loader:
            optimizer.zero_grad()
            cross_entropy(model(inputs.to(device)), labels.to(device)).backward()
            optimizer.step()
        wait(device)

    return go


def ours(settings, images, machine, sigma=0.0):
    """One pass over the images by the trainer's own steps."""
    device = machine.device
    noisy = {"gd": "antipgd", "sgd": "antisgd"}[settings.method]
    settings = replace(settings, method=noisy, sigma=sigma)
    model, images = network(settings, device), images.to(device)
    optimizer, _ = optimizer_and_noise(settings, model)
    set_noise(settings, optimizer, 0)
    forward = torch.compile(model) if machine.compiled else model
    bfloat16 = machine.precision == "bfloat16"
    precision = partial(torch.autocast, device, torch.bfloat16, enabled=bfloat16)

    def go():
        batches, totals = Batches(settings, images, 0), Totals.zero(device)
        for i in range(len(batches)):
            parts = partial(batches.parts, i, settings.micro_batch)
            step(settings, forward, optimizer, parts, batches.count(i), totals, precision)
        wait(device)

    return go


def wait(device):
    if device == "cuda":
        torch.cuda.synchronize()


def repeated(n):
    """As many synthetic images: what is in them does not matter for the time."""
    images = synthetic(train=1000).train
    index = torch.arange(n) % len(images)
    return Images(images.pixels[index], images.labels[index])


def measure(settings, machine, turns, clock):
    """Report one batch size. Returns the best seconds of each side for one pass over two batches, by name."""
    images = repeated(2 * settings.batch_size)
    sides = {
        "plain loop": plain_loop(settings, images, machine.device),
        "ours without noise": ours(settings, images, machine),
        "ours": ours(settings, images, machine, sigma=0.01),
    }
    best = dict(zip(sides, best_in_turn(*sides.values(), turns=turns, clock=clock)))
    name = f"ResNet18, width {settings.width}, batch {settings.batch_size}"
    report(f"{name}: plain loop / ours", best["plain loop"] / best["ours"], best["plain loop"], best["ours"])
    report(f"{name}: ours / ours without noise", best["ours"] / best["ours without noise"], *list(best.values())[:0:-1])
    print(f"{name}: {len(images) / best['ours']:.0f} images/s, {best['ours'] * EPOCH / len(images):.1f} s per epoch")
    return best


def settings_for(batch, width):
    """Small batches as SGD takes them, large ones as gradient descent."""
    small = {"method": "sgd", "small_batch": batch} if batch <= 1024 else {"method": "gd", "large_batch": batch}
    return replace(PRESETS["fig2"], width=width, augment=True, **small)


def store(width, machine, found):
    """``book/results/resnet-speed.json``: seconds per pass over two batches, (batch sizes, sides)."""
    values = torch.tensor([list(best.values()) for best in found.values()], dtype=torch.float64)
    how = {"compiled": machine.compiled, "precision": machine.precision}
    configuration = {"width": width, "sides": list(next(iter(found.values()))), **how}
    origin = results.provenance("", torch.get_num_threads(), values.sum().item())
    if machine.device == "cuda":
        origin["device"] = torch.cuda.get_device_name()
    stored = results.Result("resnet-speed", configuration, [0], torch.tensor(list(found)), {"seconds": values}, origin)
    print(results.save(stored))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--batches", type=int, nargs="+", default=[128])
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--compiled", action="store_true", default=Machine().compiled)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default=Machine().precision)
    parser.add_argument("--store", action="store_true")
    arguments = parser.parse_args()
    machine = Machine(compiled=arguments.compiled, precision=arguments.precision)
    on_gpu = machine.device == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    settings = {batch: settings_for(batch, arguments.width) for batch in arguments.batches}
    found = {batch: measure(each, machine, arguments.turns, clock) for batch, each in settings.items()}
    if arguments.store:
        store(arguments.width, machine, found)


if __name__ == "__main__":
    main()
