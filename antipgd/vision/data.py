"""The images: CIFAR-10, a folder of image files, or a synthetic set, decoded once into one tensor of bytes."""

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import pad
from tqdm import tqdm

from antipgd.noise import keyed_seed
from antipgd.vision import files

CLASSES = 10
SIDE = 32  # pixels
SHIFT = 4  # pixels by which a crop may move
# Mean and standard deviation of the red, green and blue of CIFAR-10's training images, between 0 and 1.
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CACHE = Path(os.environ.get("ANTIPGD_CACHE", Path.home() / ".cache" / "antipgd"))
SPLITS = ("train", "test")


class DataError(RuntimeError):
    """Images that are missing, cut off or not what was expected; the message says which, and the way out."""


@dataclass(frozen=True)
class Images:
    """pixels: (N, 3, 32, 32), bytes. labels: (N,), int64."""

    pixels: torch.Tensor
    labels: torch.Tensor

    def __len__(self):
        return len(self.labels)

    def to(self, device):
        return Images(self.pixels.to(device), self.labels.to(device))

    def first(self, n, skip=0):
        """After ``skip`` / 10 of each class, the next n / 10 of each. Raises DataError where a class has fewer."""
        if n % CLASSES or skip % CLASSES or n < 1:
            raise DataError(f"{n} images cannot be shared among {CLASSES} classes: give a multiple of {CLASSES}.")
        if skip + n > self.balanced:
            raise DataError(f"{skip + n} images were asked for, as many of each class, and there are {self.balanced}.")
        rank = torch.stack([(self.labels == c).cumsum(0) for c in range(CLASSES)])
        rank = rank.gather(0, self.labels.unsqueeze(0))[0] - 1
        kept = (rank >= skip // CLASSES) & (rank < (skip + n) // CLASSES)
        return Images(self.pixels[kept], self.labels[kept])

    @property
    def balanced(self):
        """How many images there are with as many of each class."""
        return CLASSES * torch.bincount(self.labels, minlength=CLASSES).min().item()

    @cached_property
    def fingerprint(self):
        """Of the bytes and labels, in their order; computed once, since each checkpoint has it."""
        data = self.pixels.permute(0, 2, 3, 1).cpu().contiguous().numpy(), self.labels.cpu().numpy()
        return hashlib.sha256(b"".join(array.tobytes() for array in data)).hexdigest()[:16]


@dataclass(frozen=True)
class Dataset:
    """name: what stands beside every result that comes from these images."""

    name: str
    train: Images
    test: Images


def load(source, cache=CACHE):
    """The images of a source, a ``Dataset`` on the CPU.

    source: "cifar10", which torchvision downloads into the cache; "synthetic"; or the path of a folder with
    ``train/CLASS/FILE`` and ``test/CLASS/FILE``, ten classes of images of 32 x 32 pixels (torchvision's ImageFolder).
    cache: a folder for the download and the decoded bytes, by default ``~/.cache/antipgd`` or ANTIPGD_CACHE.

    Raises DataError for what cannot be downloaded or read, and OSError with the cache's path where that is full.
    """
    if source == "synthetic":
        return synthetic()
    cache = Path(cache)
    path = cache / f"{key(source)}.pt"
    try:
        content = files.read(path)
    except files.FileError:  # not there yet, or damaged: made anew from the source
        content = downloaded(cache) if source == "cifar10" else decoded(Path(source))
        try:
            files.write(path, content)
        except OSError as error:
            size = sum(content[split]["pixels"].numel() for split in SPLITS) / 1e6
            raise OSError(
                error.errno,
                f"{error.strerror}: the decoded images take {size:.3g} MB in {cache}. Make room, or set ANTIPGD_CACHE "
                "to another folder",
                str(path),
            ) from error
    train, test = (Images(content[split]["pixels"], content[split]["labels"]) for split in SPLITS)
    return Dataset(content["name"], train, test)


def key(source):
    """The name of the decoded bytes in the cache. A folder's depends on all its files' names, sizes and times."""
    if source == "cifar10":
        return "cifar10"
    folder = Path(source)
    if not (folder / "train").is_dir() or not (folder / "test").is_dir():
        raise DataError(
            f"There are no folders {folder / 'train'} and {folder / 'test'}. The source of the images is 'cifar10', "
            "'synthetic', or a folder with train/CLASS/FILE and test/CLASS/FILE."
        )
    entries = sorted((str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns) for p in folder.glob("*/*/*"))
    return f"folder-{hashlib.sha256(repr(entries).encode()).hexdigest()[:16]}"


def downloaded(cache):
    """CIFAR-10 by torchvision, which compares checksums."""
    datasets = torchvision_datasets()
    try:
        splits = [datasets.CIFAR10(cache, train=split == "train", download=True) for split in SPLITS]
    except OSError as error:
        raise DataError(
            f"CIFAR-10 could not be downloaded into {cache}: {error}. Put cifar-10-python.tar.gz there by hand, or give "
            "a folder of images as the source: --data FOLDER, with train/CLASS/FILE and test/CLASS/FILE."
        ) from error
    except RuntimeError as error:
        raise DataError(
            f"The download of CIFAR-10 in {cache} is cut off or damaged: {error}. Delete cifar-10-python.tar.gz and "
            "cifar-10-batches-py there, and call again."
        ) from error
    arrays = {split: (each.data, each.targets) for split, each in zip(SPLITS, splits)}
    return {"name": "CIFAR-10", **{split: as_bytes(*pair) for split, pair in arrays.items()}}


def decoded(folder):
    """The images of a folder, whose name says that they are a re-encoding where their files are JPEG."""
    check_classes(folder)
    return {"name": folder_name(folder), **{split: decoded_split(folder / split) for split in SPLITS}}


def check_classes(folder):
    """A label is a class's place among the names, so they have to be the same names."""
    train, test = (class_names(folder / split) for split in SPLITS)
    if len(train) != CLASSES:
        raise DataError(f"{folder / 'train'} has {len(train)} classes, and the network tells {CLASSES} apart.")
    if train != test:
        raise DataError(f"The classes in {folder} are {', '.join(train)} in train, and {', '.join(test)} in test.")


def class_names(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def folder_name(folder):
    lossy = any(path.suffix.lower() in {".jpg", ".jpeg"} for path in folder.glob("*/*/*"))
    cifar = class_names(folder / "train") == "airplane automobile bird cat deer dog frog horse ship truck".split()
    return ("CIFAR-10" if cifar else f"images of {folder.name}") + (" (JPEG re-encoding)" if lossy else "")


def decoded_split(folder):
    try:
        images = torchvision_datasets().ImageFolder(folder)
    except FileNotFoundError as error:
        raise DataError(f"{folder} has a class without images: {error}") from error
    pixels = np.empty((len(images), SIDE, SIDE, 3), np.uint8)
    for i, (path, _) in enumerate(tqdm(images.samples, desc=f"decode {folder.name}", unit="image", leave=False)):
        pixels[i] = decoded_image(images.loader, path)
    return as_bytes(pixels, images.targets)


def decoded_image(loader, path):
    try:
        pixels = np.asarray(loader(path))
    except OSError as error:
        raise DataError(f"{path} is no image, or is cut off: {error}. Unpack the images anew.") from error
    if pixels.shape != (SIDE, SIDE, 3):
        raise DataError(f"{path} has the shape {pixels.shape}; images of {SIDE} x {SIDE} pixels are expected.")
    return pixels


def as_bytes(pixels, labels):
    """(N, 32, 32, 3) and a list -> tensors; in memory the colours of a pixel stay together, as the network wants them."""
    return {"pixels": torch.from_numpy(pixels).permute(0, 3, 1, 2), "labels": torch.tensor(labels)}


def torchvision_datasets():
    try:
        from torchvision import datasets
    except ImportError:
        raise DataError("Reading images needs torchvision: pip install torchvision.") from None
    return datasets


def synthetic(train=1000, test=500, seed=0):
    """Images of no real thing: stripes, in a direction of their class, with noise. For tests, and quick to learn."""

    def split(n, number):
        generator = torch.Generator().manual_seed(keyed_seed(seed, number))
        labels = torch.arange(n) % CLASSES
        angle = torch.pi * labels.double().view(-1, 1, 1) / CLASSES
        rows, columns = torch.meshgrid(*2 * [torch.arange(SIDE, dtype=torch.float64)], indexing="ij")
        phase = 2 * torch.pi * torch.rand(n, 1, 1, generator=generator, dtype=torch.float64)
        stripes = torch.sin((rows * angle.sin() + columns * angle.cos()) * torch.pi / 4 + phase)
        noise = torch.randn(n, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
        pixels = 128 + 40 * stripes.unsqueeze(1) + 40 * noise
        return Images(pixels.clamp(0, 255).to(torch.uint8).contiguous(memory_format=torch.channels_last), labels)

    return Dataset("synthetic stripes", split(train, 0), split(test, 1))


# --- What the network sees ----------------------------------------------------------------------------------------


def layout(device):
    """How the four dimensions lie in memory: on GPUs the colours, or channels, of a pixel together, which is faster.

    On CPUs it gains a twentieth, and torch 2.14's convolutions with 4 channels crash with it.
    """
    return torch.channels_last if torch.device(device).type == "cuda" else torch.contiguous_format


def normalised(pixels):
    """Bytes (N, 3, 32, 32) -> float32 with mean 0 and variance 1 over CIFAR-10's training images."""
    mean, std = (torch.tensor(values, device=pixels.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return ((pixels.float() / 255 - mean) / std).contiguous(memory_format=layout(pixels.device))


@dataclass(frozen=True)
class Moves:
    """rows, columns: (N,), where the crop begins, 0 to 8. flip: (N,), whether it is mirrored."""

    rows: torch.Tensor
    columns: torch.Tensor
    flip: torch.Tensor

    @classmethod
    def drawn(cls, n, generator):
        """Independent for each image, as torchvision's RandomCrop(32, padding=4) and RandomHorizontalFlip draw them."""
        rows, columns = torch.randint(0, 2 * SHIFT + 1, (2, n), generator=generator)
        return cls(rows, columns, torch.rand(n, generator=generator) < 0.5)

    def to(self, device):
        return Moves(self.rows.to(device), self.columns.to(device), self.flip.to(device))

    def __getitem__(self, index):
        return Moves(self.rows[index], self.columns[index], self.flip[index])


def moved(pixels, moves):
    """Each image (N, 3, 32, 32) with a black border of 4 pixels, cropped to 32 x 32 again, and mirrored or not."""
    n, places = torch.arange(len(pixels), device=pixels.device), torch.arange(SIDE, device=pixels.device)
    columns = torch.where(moves.flip.unsqueeze(1), places.flip(0), places) + moves.columns.unsqueeze(1)
    rows = places + moves.rows.unsqueeze(1)
    bordered = pad(pixels, (SHIFT,) * 4).permute(0, 2, 3, 1)
    return bordered[n.view(-1, 1, 1), rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)
