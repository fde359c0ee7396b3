"""The images: against torchvision's own transforms and readers, and with everything that can be wrong with files."""

import errno
import io
import os
import shutil
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chi2_contingency, chisquare
from torchvision import datasets
from torchvision.transforms import Normalize, RandomCrop
from torchvision.transforms import functional as F

from antipgd.vision import data, files
from antipgd.vision.data import MEAN, STD, DataError, Images, Moves, load, moved, normalised

CIFAR = "airplane automobile bird cat deer dog frog horse ship truck".split()
MADE_UP = [f"class {c}" for c in range(10)]


def picture(seed):
    """(32, 32, 3), bytes."""
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)


def folder_of_images(folder, suffix=".png", classes=MADE_UP, per_class=2):
    """train/CLASS/FILE and test/CLASS/FILE; the picture of image i of class c in split s is picture((s, c, i))."""
    for s, split in enumerate(data.SPLITS):
        for c, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for i in range(per_class):
                Image.fromarray(picture((s, c, i))).save(folder / split / name / f"{i}{suffix}")
    return folder


@pytest.fixture
def folder(tmp_path):
    return folder_of_images(tmp_path / "pictures")


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def pixels_of(seeds):
    return torch.stack([torch.from_numpy(picture(seed)).permute(2, 0, 1) for seed in seeds])


# What the network sees


def test_crops_and_mirror_images_have_the_law_of_torchvision():
    n = 81 * 2 * 60
    moves = Moves.drawn(n, torch.Generator().manual_seed(0))
    ours = torch.bincount(18 * moves.rows + 2 * moves.columns + moves.flip, minlength=162)
    assert len(ours) == 162 and chisquare(ours).pvalue > 0.01
    with torch.random.fork_rng():
        torch.manual_seed(0)
        bordered = torch.zeros(3, 40, 40)
        drawn = [(*RandomCrop.get_params(bordered, (32, 32))[:2], torch.rand(1) < 0.5) for _ in range(n)]
    theirs = torch.bincount(torch.tensor([18 * row + 2 * column + flip for row, column, flip in drawn]), minlength=162)
    assert chi2_contingency(np.stack([ours, theirs])).pvalue > 0.01


def test_each_crop_and_mirror_image_is_that_of_torchvision():
    rows, columns, flip = torch.cartesian_prod(torch.arange(9), torch.arange(9), torch.arange(2)).unbind(1)
    pixels = pixels_of(range(162))
    found = moved(pixels, Moves(rows, columns, flip.bool()))
    assert found.dtype == torch.uint8
    for i in range(162):
        bordered = F.pad(Image.fromarray(picture(i)), 4)
        expected = F.crop(bordered, rows[i].item(), columns[i].item(), 32, 32)
        expected = F.hflip(expected) if flip[i] else expected
        assert torch.equal(found[i], F.pil_to_tensor(expected))


def test_normalisation_is_that_of_torchvision():
    pixels = pixels_of(range(5))
    expected = torch.stack([Normalize(MEAN, STD)(F.to_tensor(Image.fromarray(picture(i)))) for i in range(5)])
    torch.testing.assert_close(normalised(pixels), expected, rtol=1e-6, atol=1e-6)


# A folder of images


def test_a_folder_of_png_files_gives_their_bytes_and_labels(folder, cache):
    images = load(folder, cache)
    assert images.name == "images of pictures"
    for s, split in enumerate((images.train, images.test)):
        seeds = [(s, c, i) for c in range(10) for i in range(2)]
        assert torch.equal(split.pixels, pixels_of(seeds))
        assert split.labels.tolist() == [c for _, c, _ in seeds]


def test_the_name_says_that_jpeg_files_are_a_re_encoding(tmp_path, cache):
    folder = folder_of_images(tmp_path / "pictures", ".jpg", CIFAR, per_class=1)
    images = load(folder, cache)
    assert images.name == "CIFAR-10 (JPEG re-encoding)"
    with Image.open(folder / "test" / "bird" / "0.jpg") as image:
        assert torch.equal(images.test.pixels[2], F.pil_to_tensor(image))


def test_png_files_of_cifar10s_classes_are_cifar10(tmp_path, cache):
    assert load(folder_of_images(tmp_path / "any", classes=CIFAR, per_class=1), cache).name == "CIFAR-10"


def decodings(monkeypatch):
    """A list that gets an entry each time that a folder is decoded."""
    calls, original = [], data.decoded

    def counted(folder):
        calls.append(folder)
        return original(folder)

    monkeypatch.setattr(data, "decoded", counted)
    return calls


def test_the_second_time_the_images_come_from_the_cache(folder, cache, monkeypatch):
    calls = decodings(monkeypatch)
    first, second = load(folder, cache), load(folder, cache)
    assert len(calls) == 1
    assert first.train.fingerprint == second.train.fingerprint != second.test.fingerprint
    assert first.name == second.name


def whole(path):
    return path.read_bytes()


def cut_off(path):
    return path.read_bytes()[:-100]


def changed(path):
    content = bytearray(path.read_bytes())
    content[-500] ^= 1
    return bytes(content)


def foreign(path):
    return b"something else\n" * 50


@pytest.mark.parametrize(("damage", "decoded"), [(whole, 1), (cut_off, 2), (changed, 2), (foreign, 2)])
def test_a_damaged_cache_is_made_anew(folder, cache, monkeypatch, damage, decoded):
    calls = decodings(monkeypatch)
    before = load(folder, cache)
    (path,) = cache.glob("*.pt")
    path.write_bytes(damage(path))
    after = load(folder, cache)
    assert len(calls) == decoded
    assert torch.equal(before.train.pixels, after.train.pixels)
    files.read(path)  # and the cache is whole again


def test_a_changed_folder_is_decoded_anew(folder, cache):
    before = load(folder, cache)
    path = folder / "train" / "class 3" / "1.png"
    Image.fromarray(picture(99)).save(path)
    os.utime(path, ns=(1, 1))  # whatever the clock's resolution
    after = load(folder, cache)
    differing = (before.train.pixels != after.train.pixels).flatten(1).any(1).nonzero().flatten()
    assert differing.tolist() == [7]


# What can be wrong with it


def test_a_folder_that_is_not_there(tmp_path, cache):
    with pytest.raises(DataError, match="There are no folders .*nowhere/train.* 'cifar10', 'synthetic', or a folder"):
        load(tmp_path / "nowhere", cache)


@pytest.mark.parametrize("count", [0, 9, 11])
def test_a_wrong_number_of_classes(tmp_path, cache, count):
    folder = folder_of_images(tmp_path, classes=[f"c{c:02}" for c in range(count)], per_class=1)
    for split in data.SPLITS:
        (folder / split).mkdir(exist_ok=True)
    with pytest.raises(DataError, match=f"train has {count} classes, and the network tells 10 apart"):
        load(folder, cache)


def test_other_classes_in_the_test_images(folder, cache):
    (folder / "test" / "class 9").rename(folder / "test" / "klass 9")
    with pytest.raises(DataError, match="class 9 in train, and .*klass 9 in test"):
        load(folder, cache)


def test_a_class_without_images(folder, cache):
    shutil.rmtree(folder / "test" / "class 4")
    (folder / "test" / "class 4").mkdir()
    with pytest.raises(DataError, match="test has a class without images.*class 4"):
        load(folder, cache)


def test_images_of_another_size(folder, cache):
    path = folder / "train" / "class 5" / "0.png"
    Image.fromarray(picture(0)[:31]).save(path)
    with pytest.raises(DataError, match=r"class 5/0.png has the shape \(31, 32, 3\); images of 32 x 32"):
        load(folder, cache)


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_an_image_that_is_cut_off_anywhere_is_found_or_whole(tmp_path, format):
    buffer = io.BytesIO()
    Image.fromarray(picture(0)).save(buffer, format)
    content, path, refused = buffer.getvalue(), tmp_path / "image", 0
    path.write_bytes(content)
    whole = data.decoded_image(datasets.folder.default_loader, path)
    lengths = [*range(0, len(content), 60), *range(len(content) - 20, len(content))]
    for length in lengths:
        path.write_bytes(content[:length])
        try:
            pixels = data.decoded_image(datasets.folder.default_loader, path)
        except DataError as error:
            assert "is no image, or is cut off" in str(error) and str(path) in str(error)
            refused += 1
        else:
            assert np.array_equal(pixels, whole)
    assert refused > len(lengths) / 2


def test_nothing_is_cached_of_a_folder_that_cannot_be_read(folder, cache):
    (folder / "train" / "class 0" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="Unpack the images anew"):
        load(folder, cache)
    assert not cache.exists()


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_under_the_cache(folder, cache, monkeypatch):
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left.*0.123 MB in .*cache. Make room, or set ANTIPGD_CACHE") as caught:
        load(folder, cache)
    assert caught.value.errno == errno.ENOSPC and str(cache) in caught.value.filename
    assert not list(cache.iterdir())


def test_torchvision_that_is_not_installed(folder, cache, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchvision", None)
    with pytest.raises(DataError, match="pip install torchvision"):
        load(folder, cache)


# The download


class FakeCifar10:
    """In place of torchvision's: twenty images, or an error."""

    error = None

    def __init__(self, root, train, download):
        assert download
        if self.error:
            raise self.error
        self.data = np.stack([picture((train, i)) for i in range(20)])
        self.targets = [i % 10 for i in range(20)]


@pytest.fixture
def cifar10(monkeypatch):
    monkeypatch.setattr(datasets, "CIFAR10", FakeCifar10)
    return monkeypatch


def test_cifar10_is_downloaded_once(cifar10, cache):
    first = load("cifar10", cache)
    assert first.name == "CIFAR-10"
    assert torch.equal(first.train.pixels, pixels_of([(True, i) for i in range(20)]))
    assert torch.equal(first.test.pixels, pixels_of([(False, i) for i in range(20)]))
    cifar10.setattr(FakeCifar10, "error", AssertionError("a second download"))
    assert load("cifar10", cache).train.fingerprint == first.train.fingerprint


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (URLError("no network"), "could not be downloaded into .*no network.*Put cifar-10-python.tar.gz there"),
        (RuntimeError("File not found or corrupted."), "cut off or damaged: .*Delete cifar-10-python.tar.gz"),
    ],
)
def test_a_download_that_fails(cifar10, cache, error, message):
    cifar10.setattr(FakeCifar10, "error", error)
    with pytest.raises(DataError, match=message):
        load("cifar10", cache)
    cifar10.setattr(FakeCifar10, "error", None)
    assert len(load("cifar10", cache).train) == 20


# Choosing images


def numbered(labels):
    """Images whose pixels all hold their number."""
    labels = torch.tensor(labels)
    return Images(torch.arange(len(labels)).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 32, 32), labels)


def numbers(images):
    return images.pixels[:, 0, 0, 0].tolist()


def test_the_first_images_are_the_first_of_each_class_in_their_order():
    images = numbered([0, 0, 0, *range(9, 0, -1), *range(10), 5])
    assert images.balanced == 20
    assert numbers(images.first(10)) == [0, *range(3, 12)]
    assert numbers(images.first(10, skip=10)) == [1, *range(13, 22)]
    assert sorted(numbers(images.first(20))) == sorted(numbers(images.first(10)) + numbers(images.first(10, skip=10)))
    assert images.first(10).labels.tolist() == [0, *range(9, 0, -1)]


@pytest.mark.parametrize(
    ("n", "skip", "message"),
    [
        (15, 0, "15 images cannot be shared among 10 classes"),
        (10, 5, "cannot be shared"),
        (0, 0, "cannot be shared"),
        (-10, 0, "cannot be shared"),
        (30, 0, "30 images were asked for, as many of each class, and there are 20"),
        (20, 10, "30 images were asked for"),
    ],
)
def test_images_that_are_not_there(n, skip, message):
    images = numbered([c for c in range(10) for _ in range(2 + (c == 0))])
    with pytest.raises(DataError, match=message):
        images.first(n, skip)


def test_the_fingerprint_knows_bytes_labels_and_order():
    images = numbered(list(range(10)))
    other = images.pixels.clone()
    other[3, 1, 4, 1] += 1
    turned = torch.arange(9, -1, -1)
    prints = {
        images.fingerprint,
        Images(other, images.labels).fingerprint,
        Images(images.pixels, images.labels.flip(0)).fingerprint,
        Images(images.pixels[turned], images.labels[turned]).fingerprint,
    }
    assert len(prints) == 4
    assert Images(images.pixels.contiguous(memory_format=torch.channels_last), images.labels).fingerprint in prints


def test_the_synthetic_images_are_the_same_each_time_and_can_be_told_apart():
    first, second = load("synthetic"), load("synthetic")
    assert first.train.fingerprint == second.train.fingerprint != first.test.fingerprint
    assert len(first.train) == first.train.balanced == 1000 and len(first.test) == 500
    flat = first.train.pixels.float().mean(1)
    power = torch.fft.fft2(flat - flat.mean((1, 2), keepdim=True)).abs()  # stripes of any phase
    centres = torch.stack([power[first.train.labels == c].mean(0) for c in range(10)])
    nearest = torch.cdist(power.flatten(1), centres.flatten(1)).argmin(1)
    assert (nearest == first.train.labels).float().mean() > 0.9
