"""The figures as the pages carry them: WebP with 256 colours, a third of what the notebooks' PNGs weigh.

Every picture keeps all its points. A colour is off by at most 32 of 255, at few points along edges, and on average by
less than one.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = 256


def small(picture):
    """The picture with few colours: those that cover all of its own, each then the mean of what it stands for."""
    picture = flat(picture)
    chosen = picture.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    group, points = np.asarray(chosen).ravel(), np.asarray(picture).reshape(-1, 3)
    size = np.maximum(np.bincount(group, minlength=COLOURS), 1)
    means = np.stack([np.bincount(group, points[:, i], COLOURS) / size for i in range(3)], axis=1)
    chosen.putpalette(means.round().astype(np.uint8).tobytes())
    return chosen.convert("RGB")


def flat(picture):
    """The picture on white, where it lets something through."""
    ground = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(ground, picture.convert("RGBA")).convert("RGB")


def convert(folder, work):
    """Put a .webp in place of each .png of the folder, made once and kept in the folder work.

    The pictures' names are made from their content, so one that is there is the right one; those that another version of
    this file made lie elsewhere.
    """
    kept = work / hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    kept.mkdir(parents=True, exist_ok=True)

    def one(png):
        made = kept / f"{png.stem}.webp"
        if not made.exists():
            half = made.with_suffix(".part")
            small(Image.open(png)).save(half, "WEBP", lossless=True, method=4)
            half.replace(made)
        png.with_suffix(".webp").write_bytes(made.read_bytes())
        png.unlink()

    with ThreadPoolExecutor(2) as both:
        list(both.map(one, sorted(folder.glob("*.png"))))
