"""The command `pixelpath sample`: images from a trained run, one per seed."""

from __future__ import annotations

import difflib
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from jaxtyping import Shaped
from torch import Tensor, nn

from pixelpath.commands.pictures import grid, save_images, save_png
from pixelpath.commands.prepare import choose_device, say
from pixelpath.recipes.generate import SAMPLERS, Plan, balanced, generate
from pixelpath.recipes.run import Run, open_run
from pixelpath.training.journal import peak_memory
from pixelpath.types import Labels

SamplerName = Literal["heun", "euler", "churn", "ancestral", "multistep"]


@dataclass(frozen=True)
class How:
    """How to sample; what is not given is as the run's recipe says."""

    steps: int | None = None
    """Steps of the sampler."""
    sampler: SamplerName = "heun"
    """Heun and churn evaluate the network twice a step, the others once."""
    scale: float | None = None
    """Scale of guidance; 1 is none."""
    between: tuple[float, float] | None = None
    """Guide only between these two sigmas (for 64 pixels)."""
    guide_with: Path | None = None
    """Guide against another, weaker run (autoguidance) instead of the same model without label."""
    batch_size: int = 64
    """Images at a time; changes speed and memory, not the images."""

    def plan(self, run: Run, device: torch.device) -> Plan:
        """These choices completed by the run's recipe; ValueError if guidance has no reference."""
        chosen = run.recipe.sampling
        reference = None if self.guide_with is None else open_run(self.guide_with, device=device).denoiser
        if reference is None and not run.classes:
            if self.scale not in (None, 1, 1.0):
                raise ValueError(f"{run.path} is unconditional, so --scale needs a weaker run to guide with: add --guide-with RUN.")
            scale = 1.0
        else:
            scale = chosen.scale if self.scale is None else self.scale
        between = chosen.between if self.between is None else self.between
        return Plan(run.noise, self.steps or chosen.steps, scale, between, SAMPLERS[self.sampler], reference)


@dataclass(frozen=True)
class Made:
    """Native images on the CPU, what they cost, and every setting that made them."""

    images: Shaped[Tensor, "batch channel row column"]
    seconds: float
    evaluations: float
    settings: dict[str, Any]


def sample(
    run: Annotated[Path, tyro.conf.Positional],
    count: int = 36,
    first_seed: int = 0,
    classes: tuple[str, ...] = (),
    how: Annotated[How, tyro.conf.arg(name="")] = How(),  # noqa: B008 (frozen, so sharing it is safe)
    checkpoint: Path | None = None,
    out: Path | None = None,
    npy: bool = False,
    device: str | None = None,
) -> None:
    """Make images with a trained run: files, a grid, and samples.json with every setting.

    Args:
        run: Folder of a stage-two run.
        count: How many images.
        first_seed: Seed of the first image; the others follow. An image is a function of its seed, its class and the settings.
        classes: Names (or numbers) of classes, taken in turn; all of them if none is given.
        how: How to sample.
        checkpoint: A folder of RUN/checkpoints other than the latest.
        out: New or empty folder; RUN/samples/1, 2, ... if not given.
        npy: Write one .npy array in the native range instead of PNG files.
        device: cpu, cuda, mps; chosen by itself if not given.
    """
    chosen = choose_device(device)
    opened = open_run(run, checkpoint, chosen)
    folder = _folder(run, out)
    labels = choose_labels(opened, range(first_seed, first_seed + count), classes)
    made = make(opened, range(first_seed, first_seed + count), labels, how, chosen)
    folder.mkdir(parents=True, exist_ok=True)
    if npy:
        np.save(folder / "samples.npy", made.images.numpy())
    else:
        save_images(folder, made.images, first_seed, range(first_seed, first_seed + count))
    if made.images.shape[1] <= 4:
        save_png(folder / "grid.png", grid(made.images[:144], columns=min(12, count)))
    (folder / "samples.json").write_text(json.dumps(made.settings, indent=2), encoding="utf-8")
    speed = f"{count / made.seconds:.1f} images/s, {made.evaluations:g} network evaluations an image"
    say(f"{count} images in {folder}: {speed}, peak memory {peak_memory(chosen) / 2**30:.2f} GiB.")


def make(run: Run, seeds: Sequence[int], labels: Labels, how: How, device: torch.device) -> Made:
    """One image per seed and label."""
    if not seeds:
        raise ValueError("No images asked for: --count must be at least 1.")
    plan = how.plan(run, device)
    with counted(run.denoiser, *([plan.reference] if plan.reference else [])) as calls:
        began = time.perf_counter()
        images = torch.cat(list(generate(run.denoiser, run.shape, seeds, labels, plan, how.batch_size)))
        seconds = time.perf_counter() - began
    settings = {
        "run": str(run.path),
        "checkpoint": run.checkpoint.name,
        "seeds": [seeds[0], seeds[-1]],
        "labels": labels.tolist(),
        "classes": list(run.classes),
        "sampler": how.sampler,
        "steps": plan.steps,
        "levels": plan.noise.steps(plan.steps).tolist(),
        "scale": plan.scale,
        "between": [str(limit) if math.isinf(limit) else limit for limit in plan.between],
        "guide_with": None if how.guide_with is None else str(how.guide_with),
        "evaluations_per_image": sum(calls) / len(seeds),
        "device": str(device),
    }
    return Made(run.normaliser.decode(images), seconds, sum(calls) / len(seeds), settings)


@contextmanager
def counted(*denoisers: nn.Module) -> Iterator[list[int]]:
    """While open, the list grows by the number of images of every evaluation of these networks."""
    calls: list[int] = []
    hooks = [denoiser.register_forward_hook(lambda module, given, out: calls.append(len(out))) for denoiser in denoisers]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def choose_labels(run: Run, seeds: Sequence[int], classes: tuple[str, ...]) -> Labels:
    """The labels of the seeds: the chosen classes in turn, or all of them by seed; ValueError for a class the run does not know."""
    if not classes:
        return balanced(seeds, len(run.classes))
    if not run.classes:
        raise ValueError(f"{run.path} is unconditional and knows no classes: leave --classes away.")
    numbers = [_number(run, name) for name in classes]
    return torch.tensor([numbers[index % len(numbers)] for index in range(len(seeds))])


def _number(run: Run, name: str) -> int:
    if name in run.classes:
        return run.classes.index(name)
    if name.isdigit() and int(name) < len(run.classes):
        return int(name)
    near = difflib.get_close_matches(name, run.classes, 3, 0.4) or list(run.classes[:10])
    raise ValueError(f"{run.path} has no class {name}: choose from {', '.join(near)}, or a number below {len(run.classes)}.")


def _folder(run: Path, out: Path | None) -> Path:
    if out is None:
        taken = [int(path.name) for path in (run / "samples").glob("*") if path.name.isdigit()]
        return run / "samples" / str(max(taken, default=0) + 1)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already and not an empty folder: choose another --out, nothing is overwritten.")
    return out
