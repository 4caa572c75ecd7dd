"""How good a fit of the digits is: read by a classifier of real digits, and by distance, in several ways of sampling.

    pixelpath fit digits --minutes 4.5
    python -m benchmarks.digits runs/digits --out digits.json

A *reading* is what a support vector machine that learned the real digits says of samples. Distances are Frechet distances in
pixels (native range 0 .. 1) of unguided samples, as many as there are training images, or as many as held-out ones (`few`),
whose own distance is the floor; `guided` is that of as many with the way's guidance. Their classes have the shares of the
training images. A distilled run samples as its teacher does with guidance, and in one step from noise alone. A *warm* way
begins at the newest start of the diffusion run.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from sklearn.svm import SVC

from pixelpath.data import sources
from pixelpath.evaluation.features import Pixels
from pixelpath.reports.display import grid
from pixelpath.reports.pictures import save_png
from pixelpath.runs.measuring.evaluate import measure
from pixelpath.runs.opened import OpenRun, open_run
from pixelpath.runs.prepare import PreparedData, read_data_of
from pixelpath.runs.sample import Samples, sample
from pixelpath.runs.sample_conditions import choose_labels
from pixelpath.runs.tune import newest_start
from pixelpath.sampling.sampler import Sampler, Sampling

JUDGED = 200  # samples that the classifier reads
SHOWN = 120  # of them that are drawn


class Reader:
    """A classifier (support vectors) of the real digits of training; `accuracy` is its share right among held-out ones."""

    def __init__(self, data: PreparedData) -> None:
        training, held_out = (_rows(sources.gather(side, range(len(side)))) for side in (data.training, data.held_out))
        self.classifier = SVC(gamma="scale", C=10.0).fit(training, sources.labels(data.training))
        self.accuracy = float(self.classifier.score(held_out, sources.labels(data.held_out)))

    def recognised(self, made: Samples, intended: np.ndarray) -> float:
        """The share of samples that it reads as the digit intended."""
        return float((self.classifier.predict(_rows(made.images)) == intended).mean())


def main(fit: Annotated[Path, tyro.conf.Positional], out: Path | None = None, pictures: Path | None = None) -> None:
    """Measure the diffusion run of a fit, and its one-step run if there is one.

    Args:
        fit: Folder of a fit of the digits, or any folder with runs called diffusion and onestep.
        out: JSON file to write the numbers to.
        pictures: Folder to draw some of the samples that were read into.
    """
    run = open_run(fit / "diffusion")
    data = read_data_of(run, None)
    reader, start = Reader(data), newest_start(run.path)
    usual = run.recipe.usual_sampling
    ways = {"diffusion": (run, Sampling(steps=usual.count, sampler=usual.sampler, guidance=usual.guidance))}
    if start is not None:
        ways["diffusion, warm"] = (run, Sampling(nfe=usual.count // 2, sampler=Sampler.DPMPP_2M, start=start))
    if (fit / "onestep").exists():
        one = open_run(fit / "onestep")
        several = () if one.recipe.is_distilled else (2,)
        ways |= {f"one-step, {steps} NFE": (one, Sampling(steps=steps, guidance=1.0)) for steps in (1, *several)}
        if start is not None and several:
            ways["one-step, warm, 1 NFE"] = (one, Sampling(steps=1, guidance=1.0, start=start))
    found: dict[str, Any] = {"classifier": reader.accuracy, "ways": {}}
    for name, (own, way) in ways.items():
        picture = None if pictures is None else pictures / f"{name.replace(', ', '-').replace(' ', '-')}.png"
        found["ways"][name] = judged(own, data, reader, way, picture)
        sys.stdout.write(f"{name}: {json.dumps(found['ways'][name])}\n")
        sys.stdout.flush()
    if out is not None:
        out.write_text(json.dumps(found, indent=2), encoding="utf-8")


def judged(run: OpenRun, data: PreparedData, reader: Reader, way: Sampling, picture: Path | None) -> dict[str, float]:
    """What the reader says of some samples with the way's guidance, and the distances of as many as training images."""
    labels = choose_labels(run, range(JUDGED), ())
    read = sample(run, range(JUDGED), labels, way)
    if picture is not None:
        picture.parent.mkdir(parents=True, exist_ok=True)
        save_png(picture, grid(read.images[:SHOWN], columns=20))
    seeds = range(len(data.training))
    asked, found = data.like_training(seeds), {}
    for guidance in {1.0, way.guidance}:
        made = sample(run, seeds, asked, replace(way, guidance=guidance))
        found[guidance] = measure(run, data, made, [Pixels()], losses=0)["distances"][0] | {"nfe": made.nfe}
    pixels = found[1.0]
    return {
        "recognised": reader.recognised(read, labels.numpy()),
        "nfe": pixels["nfe"],
        "frechet": pixels["frechet"],
        "frechet_guided": found[way.guidance]["frechet"],
        "frechet_of_few": pixels["frechet_of_few"],
        "floor_of_few": pixels["frechet_floor_of_few"],
        "few": pixels["few"],
    }


def _rows(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) / 255.0


if __name__ == "__main__":
    tyro.cli(main)
