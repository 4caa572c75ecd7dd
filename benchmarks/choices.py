"""Which choices make better small models: weightings, preconditionings and starting points, on the digits, several seeds each.

    python -m benchmarks.choices --out choices --study weights --seeds 0 1

A *variant* is a recipe and the steps of stage one before it (0: from scratch). Every variant is a run of its own below --out,
taken up where it stopped; its numbers are Frechet distances in pixels (native range 0 .. 1) of unguided samples, as many as
there are training images and in their classes' shares, and the share of 200 guided samples that a classifier of real digits
reads as intended. The table, mean and spread over seeds, is printed and written to choices.json.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from benchmarks.digits import JUDGED, Reader
from benchmarks.training import train
from pixelpath.evaluation.features import Pixels
from pixelpath.models.preconditioning import EDMPreconditioning, XPrediction
from pixelpath.noise import EDMWeight, FlatWeight, GridLogNormal, GridWeight, LogNormal, LogUniform
from pixelpath.objectives.denoising import Denoising
from pixelpath.recipes.digits import digits_diffusion, digits_encoder
from pixelpath.recipes.recipe import Recipe
from pixelpath.runs.digits import write_digits
from pixelpath.runs.measuring import evaluate
from pixelpath.runs.opened import open_run
from pixelpath.runs.prepare import read_data
from pixelpath.runs.sample import sample
from pixelpath.runs.sample_conditions import choose_labels
from pixelpath.sampling.sampler import Sampling
from pixelpath.trainer.journal import lines

Study = Literal["weights", "stages"]
Variant = tuple[Recipe, int]


def weights(steps: int) -> dict[str, Variant]:
    """Three weightings, under the network's two possible meanings."""
    row = replace(digits_diffusion(), steps=steps)
    noise = row.noise
    objectives = {
        "edm weight": Denoising(noise, LogNormal(1.3, 1.2), EDMWeight(limit=100.0)),
        "grid weight": Denoising(noise, GridLogNormal(0.9, 1.6), GridWeight()),
        "flat in log sigma": Denoising(noise, LogUniform(noise.sigma_min, noise.sigma_max), FlatWeight()),
    }
    preconditioning = {"EDM": EDMPreconditioning(), "x-prediction": XPrediction()}
    return {
        f"{weight}, {meaning}": (replace(row, objective=objective, preconditioning=scaling), 0)
        for meaning, scaling in preconditioning.items()
        for weight, objective in objectives.items()
    }


def stages(steps: int) -> dict[str, Variant]:
    """Stage one before stage two, against more of stage two: compare at equal seconds."""
    row = digits_diffusion()
    return {
        "stage one, then diffusion": (replace(row, steps=steps), steps // 2),
        "from scratch, as many diffusion steps": (replace(row, steps=steps), 0),
        "from scratch, as many seconds": (replace(row, steps=steps * 3 // 2), 0),
    }


STUDIES: dict[str, Callable[[int], dict[str, Variant]]] = {"weights": weights, "stages": stages}


def main(out: Path, study: Study, seeds: tuple[int, ...] = (0, 1), steps: int = 800, threads: int = 1) -> None:
    """Run every variant of a study with every seed and tabulate them."""
    torch.set_num_threads(threads)
    digits = out / "digits.npz"
    if not digits.exists():
        write_digits(digits)
    rows = []
    for name, variant in STUDIES[study](steps).items():
        found = [
            run(out / f"{study}-{name.replace(', ', '-').replace(' ', '-')}-{seed}", digits, variant, seed) for seed in seeds
        ]
        rows.append({"variant": name, **{key: [each[key] for each in found] for key in found[0]}})
        sys.stdout.write(line(rows[-1]) + "\n")
        sys.stdout.flush()
    text = json.dumps({"study": study, "steps": steps, "seeds": seeds, "threads": threads, "rows": rows}, indent=2)
    (out / f"{study}.json").write_text(text, encoding="utf-8")


def run(folder: Path, digits: Path, variant: Variant, seed: int) -> dict[str, float]:
    """Train one variant with one seed, and measure it."""
    recipe, before = variant
    encoder = None
    if before:
        encoder = folder / "encoder"
        train(replace(digits_encoder(), steps=before, seed=seed), encoder, digits)
    train(replace(recipe, seed=seed), folder / "diffusion", digits, encoder=encoder)
    opened = open_run(folder / "diffusion")
    data = read_data(opened.recipe, None, opened.normaliser)
    judged = range(JUDGED)
    labels = choose_labels(opened, judged, ())
    guided = sample(opened, judged, labels)
    recognised = Reader(data).recognised(guided, labels.numpy())
    many = range(len(data.training))
    plain = sample(opened, many, data.like_training(many), Sampling(guidance=1.0))
    spent = sum(seconds_of(run) for run in folder.iterdir() if run.is_dir())
    pixels = evaluate.measure(opened, data, plain, [Pixels()])["distances"][0]
    return {
        "frechet": pixels["frechet"],
        "frechet_of_few": pixels["frechet_of_few"],
        "floor_of_few": pixels["frechet_floor_of_few"],
        "recognised": recognised,
        "seconds": spent,
    }


def seconds_of(run: Path) -> float:
    """The training seconds of a run, from the last line of its journal that tells them."""
    return next(row["seconds"] for row in reversed(lines(run)) if "seconds" in row)


def line(row: dict[str, Any]) -> str:
    """A row of the table: mean and spread over seeds."""
    words = [f"{row['variant']:<40}"]
    for key in ("frechet", "frechet_of_few", "floor_of_few", "recognised", "seconds"):
        values = row[key]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        words.append(f"{key} {statistics.mean(values):.4g} +- {spread:.2g}")
    return "  ".join(words)


if __name__ == "__main__":
    tyro.cli(main)
