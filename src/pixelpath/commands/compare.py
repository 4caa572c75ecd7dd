"""The command `pixelpath compare`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from pixelpath.commands.options import device_named
from pixelpath.data.settings import DataSettings
from pixelpath.log import say
from pixelpath.runs.measuring import compare as runs
from pixelpath.runs.measuring.compare_features import Comparing, Weights
from pixelpath.runs.measuring.compare_sets import Reading
from pixelpath.runs.sample import new_folder, numbered
from pixelpath.sampling.sampler import Sampling

AS_TRAINED, WEIGHTS = Sampling(), Weights()


def compare(
    images: Annotated[Path, tyro.conf.Positional],
    reference: Annotated[Path, tyro.conf.Positional],
    held_out: Path | None = None,
    features: Annotated[str, tyro.conf.arg(metavar="NAME[,NAME ...]")] = "",
    measures: Annotated[str, tyro.conf.arg(metavar="NAME[,NAME ...]")] = "",
    weights: Annotated[Weights, tyro.conf.arg(name="")] = WEIGHTS,
    data: DataSettings = DataSettings(),  # noqa: B008 (frozen)
    count: int | None = None,
    first_seed: int = 0,
    how: Annotated[Sampling, tyro.conf.arg(name="")] = AS_TRAINED,
    batch_size: int = 64,
    out: Path | None = None,
    device: str | None = None,
) -> None:
    """Compare images with a reference: folders, arrays, .npz files of statistics (mu, sigma), and runs, in any mix.

    Frechet and kernel distance, precision, recall, density and coverage in pixels, and in features of your own encoder, Inception
    (FID, sFID, Inception Score) and DINOv2 (FD-DINOv2) where their weights are on this machine; copies, spectra, histograms.

    Args:
        images: The images to judge: a folder, a file as `train --data` takes it, a .npz of statistics, or a run to sample.
        reference: What they are compared with, likewise.
        held_out: Images like the reference that the generator did not see, to tell copies from likeness.
        features: Any of pixels, encoder, inception, dinov2. Default: pixels, and those whose weights are here.
        measures: Any of frechet, kernel, precision, score, copies, values. Default: all that the two sets allow.
        weights: Where weights are, and what is black and white.
        data: How files are read, both sets alike; the same options as of `train`.
        count: How many samples of a run. Default: as many as the other set has images; of two runs 10,000 each.
        first_seed: Seed of the first sample.
        how: How to sample a run. What is not given is as the run's recipe says.
        batch_size: Samples at a time. It changes speed and memory, not the images.
        out: New or empty folder for comparison.json, report.html and pictures. Default: compare/IMAGES-REFERENCE, numbered.
        device: cpu, cuda, mps. Default: the best one here.
    """
    names = "-".join(Path(str(path).partition("::")[0]).resolve().name for path in (images, reference))
    folder = numbered(Path("compare") / names) if out is None else new_folder(out)
    chosen = Comparing(_words(features), _words(measures), weights)
    sampling = None if how == AS_TRAINED else how
    reading = Reading(replace(data, path=None), sampling, count, first_seed, batch_size, device_named(device))
    found = runs.compare(images, reference, held_out, chosen, reading)
    for line in str(found).splitlines():
        say(line)
    say(f"All numbers with their protocols: {folder / 'comparison.json'}, {found.write(folder)}.")


def _words(listed: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in listed.split(",")) if listed else ()
