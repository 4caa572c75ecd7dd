"""How long a folder of JPEG files takes to open for a run, the first time and the second, against decoding each of them once.

    python -m benchmarks.opening --count 5000 --pixels 256 --workers 2

*Opening* is all that a run does with its images before its first step: it lists the files, reads headers, fits the normaliser,
checks the held-out images, and takes the digests. No image is kept in memory, as few large data sets fit. A second opening finds
all of this in the index. *Decoding* is the same files through the same decoder, one thread; the goal for the first opening is 1.3
times decoding over workers. On a machine that others use, the processor's time tells more than the clock's.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from pixelpath import recipes
from pixelpath.data.formats import pictures
from pixelpath.data.settings import DataSettings
from pixelpath.runs.index import Index
from pixelpath.runs.prepare import read_data


def main(count: int = 5000, pixels: int = 256, workers: int = 2, folder: Path | None = None) -> None:
    """Measure openings of generated photographs.

    Args:
        count: Number of files.
        pixels: Rows and columns of each.
        workers: Decoding threads.
        folder: Where to keep the files for another time. Default: a folder that is removed.
    """
    with tempfile.TemporaryDirectory() as temporary:
        root = folder or Path(temporary)
        images, runs = root / f"{count}-of-{pixels}", Path(temporary) / "runs"
        if not images.exists():
            generate(images, count, pixels)
        for line in measured(images, runs, workers):
            sys.stdout.write(line + "\n")


def measured(images: Path, runs: Path, workers: int) -> list[str]:
    """Seconds of the clock and of the processor, line by line, and the ratios."""
    settings = DataSettings(images, workers=workers, cache_bytes=0)  # as of images that do not fit into memory
    recipe = replace(recipes.cpu_32_diffusion(), data=settings, patch=4)
    halves = sorted(images.iterdir())
    decoding = timed(lambda: decode(halves[::2]))
    first = timed(lambda: read_data(recipe, index=Index(runs, settings)))
    decoding = [one + other for one, other in zip(decoding, timed(lambda: decode(halves[1::2])), strict=True)]
    second = timed(lambda: read_data(recipe, index=Index(runs, settings)))
    rows = {"decoding, 1 thread": decoding, f"first opening, {workers} threads": first, "second opening": second}
    lines = [f"{name:<28} {clock:8.2f} s of the clock, {cpu:8.2f} s of processors" for name, (clock, cpu) in rows.items()]
    ratio = f"first opening / (decoding / {workers}): {workers * first[0] / decoding[0]:.2f} by the clock"
    return [*lines, f"{ratio}; processor time of both: {first[1] / decoding[1]:.2f}"]


def timed(work: Callable[[], object]) -> list[float]:
    """Seconds of the clock and of all processors."""
    began = time.perf_counter(), time.process_time()
    work()
    return [time.perf_counter() - began[0], time.process_time() - began[1]]


def decode(files: list[Path]) -> None:
    """Every file's pixels."""
    for file in files:
        pictures.pixels(file, "RGB")


def generate(folder: Path, count: int, pixels: int) -> None:
    """Smooth colours under a little grain, which take about as long to decode as photographs."""
    random = np.random.default_rng(0)
    grain = random.normal(scale=6, size=(8, pixels, pixels, 3)).astype(np.float32)
    folder.mkdir(parents=True)
    for index in range(count):
        small = Image.fromarray(random.integers(40, 216, (8, 8, 3), np.uint8))
        smooth = np.asarray(small.resize((pixels, pixels), Image.Resampling.BICUBIC), np.float32)
        picture = (smooth + np.roll(grain[index % 8], index, 0)).clip(0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{index:07d}.jpg", quality=90)


if __name__ == "__main__":
    tyro.cli(main)
