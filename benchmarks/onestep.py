"""Which choices make better one-step models: every lever alone against the default, several seeds each.

    python -m benchmarks.onestep --out onestep --seeds 0 1 2 --steps 800
    python -m benchmarks.onestep --out onestep-32 --data crawl_tiles_rgba_32x32.npz --seeds 0 --steps 800

A *variant* is a recipe and what is trained before it: steps of stage one, and of diffusion. Its runs lie below --out, and what
was measured of one stays beside it, so that the same command goes on where it stopped; several may share a folder if each has
other --names or --seeds. Distances are Frechet distances in pixels (native range 0 .. 1) of one- and two-step samples, as many
as there are training images (at most 2,048), in their classes' shares; *recognised* is the share that a classifier of real
digits reads as intended. The table, mean and spread over seeds, is printed and written to onestep.json.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks.choices import seconds_of
from benchmarks.digits import Reader
from benchmarks.training import train
from pixelpath import recipes
from pixelpath.data import sources
from pixelpath.evaluation.distances import frechet_of_rows
from pixelpath.models.preconditioning import EDMPreconditioning, XPrediction
from pixelpath.noise import LogNormal
from pixelpath.objectives.consistency import Consistency
from pixelpath.objectives.features import ContrastiveFeatures
from pixelpath.objectives.pairs import StagedGap
from pixelpath.recipes import sizes
from pixelpath.recipes.changes import as_published
from pixelpath.recipes.recipe import Recipe
from pixelpath.runs.digits import write_digits
from pixelpath.runs.folder import divergences
from pixelpath.runs.measuring.comparison import extractors
from pixelpath.runs.opened import open_run
from pixelpath.runs.prepare import read_data
from pixelpath.runs.sample import sample
from pixelpath.sampling.sampler import Sampler, Sampling
from pixelpath.trainer import checkpoint
from pixelpath.trainer.loop import Diverged
from pixelpath.trainer.optimizer import AdamW, Cosine
from pixelpath.types import classes_of

MOST = 2048
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Variant:
    """A recipe, and how many steps of stage one (0: from scratch) and of diffusion (0: none) come before it."""

    recipe: Recipe
    encoder: int
    diffusion: int = 0


@dataclass(frozen=True)
class Base:
    """The rows that a study varies: stage one, diffusion, one step, of `steps` steps; stage one takes half as many."""

    encoder: Recipe
    diffusion: Recipe
    onestep: Recipe
    steps: int

    @property
    def before(self) -> int:
        """Steps of stage one."""
        return self.steps // 2


def digits(steps: int) -> Base:
    """The rows of the digits."""
    return Base(recipes.digits_encoder(), recipes.digits_diffusion(), replace(recipes.digits_onestep(), steps=steps), steps)


def small_32(steps: int) -> Base:
    """The rows for 32 x 32 pixels, in the nano size with 16 patches: minutes instead of hours on one core."""
    encoder, diffusion, onestep = (
        replace(row, size=sizes.NANO, patch=8, position_init=0.0, batch_size=128, schedule=Cosine(warmup=steps // 10))
        for row in (recipes.small_32_encoder(), recipes.small_32_diffusion(), recipes.small_32_onestep())
    )
    encoder = replace(encoder, optimizer=replace(encoder.optimizer, lr=1e-3), schedule=Cosine(warmup=steps // 20))
    diffusion = replace(diffusion, optimizer=replace(diffusion.optimizer, lr=2e-3), ema_decay=0.999)
    onestep = replace(onestep, steps=steps, optimizer=recipes.digits_onestep().optimizer, ema_decay=0.999)
    return Base(encoder, diffusion, onestep, steps)


def variants(base: Base) -> dict[str, Variant]:
    """The default, and one change each."""
    row, before = base.onestep, base.before
    objective, lr = row.objective, row.optimizer.lr
    assert isinstance(objective, Consistency)
    assert isinstance(objective.draw, LogNormal)
    steepness = objective.gap.steepness
    paper = as_published(row)

    def but(**changes: Any) -> Variant:
        return Variant(replace(row, objective=replace(objective, **changes)), before)

    return {
        "default": Variant(row, before),
        "published, at a learning rate of 1e-3": Variant(replace(paper, optimizer=replace(paper.optimizer, lr=1e-3)), before),
        "preconditioning: EDM": Variant(replace(row, preconditioning=EDMPreconditioning()), before),
        "preconditioning: x-prediction": Variant(replace(row, preconditioning=XPrediction()), before),
        "optimizer: AdamW": Variant(replace(row, optimizer=AdamW(min(lr, 2e-3), (0.9, 0.99), 0.01, clip=1.0)), before),
        "features: contrastive": but(features=ContrastiveFeatures()),
        "gap: denoising first": but(gap=StagedGap(stages=8, first=0, steepness=steepness)),
        "draws: higher levels": but(draw=replace(objective.draw, p_mean=objective.draw.p_mean + 0.5)),
        "from scratch": Variant(row, 0),
        "from scratch, as many seconds": Variant(replace(row, steps=base.steps * 4 // 3), 0),
        "from diffusion": Variant(replace(row, steps=base.steps // 2), before, base.steps // 2),
        "diffusion, 32 steps": Variant(replace(base.diffusion, steps=base.steps * 4 // 3), before),
    }


def main(
    out: Path,
    data: Path | None = None,
    names: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (0, 1, 2),
    steps: int = 800,
    threads: int = 1,
) -> None:
    """Run variants (all if none is named) with every seed and tabulate what there is below --out; the digits without --data."""
    torch.set_num_threads(threads)
    base = digits(steps) if data is None else small_32(steps)
    if data is None:
        data = out / "digits.npz"
        if not data.exists():
            write_digits(data)
    table = variants(base)
    unknown = [name for name in names if name not in table]
    if unknown:
        raise ValueError(f"There is no variant {unknown[0]}: choose from {', '.join(table)}.")
    for seed in seeds:
        for name in names or table:
            run(out, base, data, name, table[name], seed)
    found = [summary for name in table if (summary := collected(out, name))]
    for row in found:
        sys.stdout.write(line(row) + "\n")
    about = {"steps": steps, "threads": threads, "rows": found}
    (out / "onestep.json").write_text(json.dumps(about, indent=2), encoding="utf-8")


def folder_of(out: Path, name: str, seed: int) -> Path:
    """Where a variant's run of one seed lies."""
    return out / f"{name.replace(': ', '-').replace(', ', '-').replace(' ', '-')}-{seed}"


def run(out: Path, base: Base, data: Path, name: str, variant: Variant, seed: int) -> None:
    """Train one variant with one seed and measure it, unless that is done."""
    folder = folder_of(out, name, seed)
    if (folder / "measured.json").exists():
        return
    encoder = start = None
    if variant.encoder:
        encoder = out / f"encoder-{seed}"
        train(replace(base.encoder, steps=variant.encoder, seed=seed), encoder, data)
    if variant.diffusion:
        start = out / f"diffusion-{variant.diffusion}-{seed}"
        train(replace(base.diffusion, steps=variant.diffusion, seed=seed), start, data, encoder=encoder)
    recipe = replace(variant.recipe, seed=seed)
    try:
        train(recipe, folder, data, encoder=None if start and not recipe.needs_encoder else encoder, init_from=start)
        found = measured(folder)
    except Diverged:
        found = {"one": math.nan, "two": math.nan, "recognised": math.nan, "near": 0.0, "falls": 2.0}
    (folder / "measured.json").write_text(json.dumps({"variant": name, "seed": seed} | found), encoding="utf-8")


def measured(folder: Path) -> dict[str, float]:
    """The distances of a run, and how its training went; a diffusion model is sampled in 32 steps of Heun's method instead."""
    opened = open_run(folder)
    data = read_data(opened.recipe, None, opened.normaliser)
    pixels = extractors(opened, data, None)[0]
    count = min(MOST, len(data.training))
    native = sources.gather(data.training, [index * len(data.training) // count for index in range(count)])
    real = pixels(torch.from_numpy(native))
    seeds, one_step = range(count), opened.recipe.is_one_step
    condition = data.like_training(seeds)
    found: dict[str, float] = {}
    highest = opened.noise.sigma_max * opened.noise.shift
    ways = {"one": Sampling(steps=32, guidance=1.0, sampler=Sampler.HEUN, sigma_max=highest)}
    if one_step:
        ways = {"one": Sampling(steps=1, guidance=1.0), "two": Sampling(steps=2, guidance=1.0)}
    for name, way in ways.items():
        made = sample(opened, seeds, condition, way)
        found[name] = frechet_of_rows(pixels(made.native), real)
        if name == "one" and data.shape == (1, 8, 8):
            found["recognised"] = Reader(data).recognised(made, classes_of(condition).numpy())
    latest = checkpoint.latest(folder)
    assert latest is not None
    near = float(checkpoint.read_state(latest).near) if one_step else 1.0
    return found | {"seconds": seconds_of(folder), "near": near, "falls": float(len(divergences(folder)))}


def collected(out: Path, name: str) -> dict[str, Any]:
    """What was measured of all seeds of a variant; empty if nothing was."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(out.glob("*/measured.json"))]
    own = [row for row in found if row["variant"] == name]
    keys = [key for key in own[0] if key != "variant"] if own else []
    return {"variant": name, **{key: [row.get(key) for row in own] for key in keys}} if own else {}


def line(row: dict[str, Any]) -> str:
    """A row of the table: mean and spread over seeds."""
    words = [f"{row['variant']:<32}"]
    for key in ("one", "two", "recognised", "seconds", "near", "falls"):
        values = [value for value in row.get(key, []) if value is not None and math.isfinite(value)]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        words.append(f"{key} {statistics.mean(values):.4g} +- {spread:.2g}" if values else f"{key} -")
    return "  ".join([*words, f"({len(row['seed'])} seeds)"])


if __name__ == "__main__":
    tyro.cli(main)
