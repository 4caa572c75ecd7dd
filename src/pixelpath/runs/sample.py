"""The command `pixelpath sample`: images from a trained run, one per seed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from jaxtyping import Bool, Shaped
from torch import Tensor, nn

from pixelpath.runs import conditions as asking
from pixelpath.reports.display import BY_RULE, Display, grid
from pixelpath.runs.folder import write_json
from pixelpath.reports.pictures import save_png
from pixelpath.runs.prepare import choose_device, say
from pixelpath.data.metadata import Format
from pixelpath.data.opening import open_source
from pixelpath.data.formats.writers import nodata_in, write_samples, written_as
from pixelpath.models.denoiser import Denoiser
from pixelpath.runs.generate import SAMPLERS, Plan, default_sampler, generate, steps_below
from pixelpath.runs.opened import OpenRun, open_run
from pixelpath.runs.starts import open_start
from pixelpath.starts.warm import WarmStart, check_count
from pixelpath.training.journal import peak_memory
from pixelpath.types import Conditioning, classes_of

SamplerName = Literal["heun", "euler", "heun_stochastic", "euler_ancestral", "dpmpp_2m", "consistency"]
MOST_STEPS = 100_000
USUAL = 36  # images, unless told otherwise
SHOWN = 144  # images of the grid, at most


@dataclass(frozen=True)
class How:
    """How to sample; what is not given is as the run's recipe says. ValueError for numbers that cannot be."""

    steps: Annotated[int | None, tyro.conf.Suppress, tyro.conf.Fixed] = None  # each command has --steps of its own kind
    """Steps of the sampler; as the recipe says if not given."""
    sampler: SamplerName | None = None
    """Heun and churn evaluate the network twice a step, the others once. If not given: renoise for a one-step run, else heun."""
    sigmas: tuple[float, ...] | None = None
    """Sigmas (for 64 pixels) to visit between the highest level and 0, instead of --steps."""
    guidance: float | None = None
    """Scale of guidance; 1 is none. As the recipe says if not given."""
    guidance_interval: tuple[float, float] | None = None
    """Guide only between these two sigmas (for 64 pixels). As the recipe says if not given."""
    guide_with: Path | None = None
    """Guide against another, weaker run (autoguidance) instead of the same model without label."""
    start: Path | None = None
    """Begin at a start that `pixelpath start fit RUN` wrote, at its level, instead of at noise alone."""
    batch_size: int = 64
    """Images at a time; changes speed and memory, not the images."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.sigmas is not None:
            raise ValueError("--steps and --sigmas both say which levels are visited: give one of them.")
        if self.steps is not None and not 1 <= self.steps <= MOST_STEPS:
            raise ValueError(f"--steps must be from 1 to {MOST_STEPS:,}, got {self.steps}.")
        if self.guidance is not None and not math.isfinite(self.guidance):
            raise ValueError(f"--guidance must be a finite number, got {self.guidance}: 1 is no guidance.")

    def sampler_for(self, run: OpenRun) -> str:
        """The name of the sampler: the one chosen, else the one that suits what the run trained."""
        return self.sampler or default_sampler(run.recipe)

    def plan(self, run: OpenRun, device: torch.device) -> Plan:
        """These choices completed by the run's recipe; ValueError if guidance has no reference, or one that does not fit."""
        chosen = run.recipe.sampling
        reference = None if self.guide_with is None else reference_of(run, self.guide_with, device)
        guidance = chosen.guidance if self.guidance is None else self.guidance
        if reference is None and not run.denoiser.backbone.conditional:
            if self.guidance not in (None, 1.0):
                raise ValueError(
                    f"{run.path} is unconditional, so --guidance needs a weaker run to guide with: add --guide-with RUN."
                )
            guidance = 1.0
        guidance_interval = chosen.guidance_interval if self.guidance_interval is None else self.guidance_interval
        warm = None if self.start is None else open_start(self.start, run)
        steps = self.steps_for(run, warm)
        return Plan(run.noise, steps, guidance, guidance_interval, SAMPLERS[self.sampler_for(run)], reference, self.sigmas, warm)

    def steps_for(self, run: OpenRun, warm: WarmStart | None) -> int:
        """The steps given; else the recipe's, of which only those below the level of a start are needed."""
        if self.sigmas is not None:
            return len(self.sigmas) + 1
        if self.steps is not None:
            return self.steps
        usual = run.recipe.sampling.steps
        return usual if warm is None else steps_below(run.noise, usual, warm.sigma)


AS_TRAINED = How()


@dataclass(frozen=True)
class Made:
    """Native images on the CPU, what they cost, and every setting that made them."""

    images: Shaped[Tensor, "batch channel row column"]
    seconds: float
    nfe: float
    settings: dict[str, Any]


def sample(
    run: Annotated[Path, tyro.conf.Positional],
    count: int | None = None,
    first_seed: int = 0,
    classes: tuple[str, ...] = (),
    conditions: Path | None = None,
    cond_image: Path | None = None,
    steps: int | None = None,
    how: Annotated[How, tyro.conf.arg(name="")] = AS_TRAINED,
    checkpoint: Path | None = None,
    out: Path | None = None,
    format: Format | None = None,
    coordinates: bool = False,
    fill_nodata: Path | None = None,
    display: Display = BY_RULE,
    device: str | None = None,
) -> None:
    """Make images with a trained run: files as the data's own, a grid to look at, and samples.json with every setting.

    Args:
        run: Folder of a stage-two run.
        count: How many images; if not given as many as --conditions or --cond-image ask for, else 36.
        first_seed: Seed of the first image; the others follow. An image is a function of its seed, its class and the settings.
        classes: Names (or numbers) of classes, taken in turn; all of them if none is given.
        conditions: Table (.csv or .npy) with the columns the run was trained with, a line per image; lines are taken in turn.
        beside: Images (masks, maps) to put beside, as the run was trained with, taken in turn.
        steps: Steps of the sampler; as the recipe says if not given (1 for a one-step run; below a start, its share of them).
        how: How to sample.
        checkpoint: A folder of RUN/checkpoints other than the latest.
        out: New or empty folder; RUN/samples/1, 2, ... if not given.
        format: Kind of files; as the training images if not given (DICOM as TIFF), or as near as their dtype and channels allow.
        coordinates: Give samples the coordinates of the training images' rows and columns (NetCDF, HDF5, Zarr).
        fill_nodata: Image or array whose pixels other than 0 become "not measured" in every sample.
        display: How the grid shows images.
        device: cpu, cuda, mps; chosen by itself if not given.
    """
    if (count is not None and count < 1) or first_seed < 0:
        raise ValueError(f"--count must be at least 1 and --first-seed at least 0, got {count} and {first_seed}.")
    chosen = choose_device(device)
    opened = open_run(run, checkpoint, chosen)
    folder = free_folder(run / "samples", out)
    kind = written_as(opened.metadata, np.dtype(opened.normaliser.dtype), opened.shape[0], format)  # better said before sampling
    holes = None if fill_nodata is None else _holes(opened, fill_nodata)
    count = count or asking.lines_in(conditions, cond_image) or USUAL
    seeds = range(first_seed, first_seed + count)
    how = how if steps is None else replace(how, steps=steps)
    made = make(opened, seeds, asking.condition(opened, seeds, classes, conditions, cond_image), how, chosen)
    images = made.images.numpy()
    if holes is not None:
        images[:, :, holes] = nodata_in(opened.metadata, images.dtype)
    written = write_samples(folder, images, opened.metadata, first_seed, format, coordinates=coordinates)
    shown = grid(images[:SHOWN], min(12, count), metadata=opened.metadata, display=display, seen=opened.normaliser.shown)
    save_png(folder / "grid.png", shown)
    files = {"format": kind, "units": opened.metadata.units, "files": [written[0].name, written[-1].name]}
    write_json(folder / "samples.json", {**made.settings, **files})
    speed = f"{count / made.seconds:.1f} images/s, {made.nfe:g} network evaluations an image"
    say(f"{count} images in {folder}: {speed}, peak memory {peak_memory(chosen) / 2**30:.2f} GiB.")


def make(run: OpenRun, seeds: Sequence[int], labels: Conditioning, how: How, device: torch.device) -> Made:
    """One image per seed and what is asked of it."""
    plan, denoiser = how.plan(run, device), run.denoiser
    ratio = None if plan.warm is None else _checked(run, plan.warm, device)
    with counted(denoiser, *([plan.reference] if plan.reference else [])) as calls:
        began = time.perf_counter()
        parts = generate(denoiser, run.shape, seeds, labels, plan, how.batch_size)
        images = torch.cat([run.normaliser.decode(part) for part in parts])
        seconds = time.perf_counter() - began
    nfe = sum(calls) / len(seeds)
    settings = {
        "run": str(run.path),
        "recipe": run.recipe.name,
        "checkpoint": run.checkpoint.name,
        "step": run.step,
        "seeds": [seeds[0], seeds[-1]],
        "labels": classes_of(labels).tolist() if run.classes else None,
        "classes": list(run.classes),
        "sampler": how.sampler_for(run),
        "steps": plan.steps,
        "sigmas": plan.sigmas.tolist(),
        "guidance": plan.guidance,
        "guidance_interval": [str(limit) if math.isinf(limit) else limit for limit in plan.guidance_interval],
        "guide_with": None if how.guide_with is None else str(how.guide_with),
        "start": None if how.start is None else str(how.start),
        "start_sigma": None if plan.warm is None else plan.warm.sigma,
        "start_residual_ratio": ratio,
        "nfe": nfe,
        "batch_size": how.batch_size,
        "shape": list(run.shape),
        "dtype": run.normaliser.dtype,
        "device": str(device),
        "pixelpath": version("pixelpath"),
    }
    return Made(images, seconds, nfe, settings)


def _holes(run: OpenRun, path: Path) -> Bool[np.ndarray, "row column"]:
    """Where samples are to be "not measured"; ValueError for a run whose data know no such value, or a mask of another size."""
    if nodata_in(run.metadata, np.dtype(run.normaliser.dtype)) is None:
        raise ValueError(f"The images of {run.path} have no value that means not measured: leave --fill-nodata away.")
    mask = open_source(path)
    if mask.shape[1:] != run.shape[1:]:
        sizes = ["x".join(map(str, shape[1:])) for shape in (mask.shape, run.shape)]
        raise ValueError(f"{path} is {sizes[0]} pixels but samples are {sizes[1]}: give a mask of that size.")
    return np.asarray(mask.get(0).any(0))


def _checked(run: OpenRun, warm: WarmStart, device: torch.device) -> float | None:
    """The residual energy of start samples over the expected one, None if that is not known; ValueError if they disagree."""
    if warm.expected is None:
        return None
    return warm.check(run.denoiser, check_count(math.prod(run.shape)), device)


def reference_of(run: OpenRun, path: Path, device: torch.device) -> Denoiser:
    """The denoiser of another run as the reference of guidance; ValueError unless it knows the same kind of images."""
    other = open_run(path, device=device)
    if (other.shape, other.normaliser) != (run.shape, run.normaliser):
        raise ValueError(
            f"{path} was trained on other images than {run.path}, so it cannot guide it: give a run on the same data."
        )
    if other.classes and other.classes != run.classes:
        raise ValueError(
            f"{path} knows other classes than {run.path}, so it cannot guide it: give a run on the same classes, or on none."
        )
    return other.denoiser


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


def free_folder(among: Path, out: Path | None) -> Path:
    """`out`, or the next number in the folder `among`; ValueError if `out` is anything but a new or an empty folder."""
    if out is None:
        taken = [int(path.name) for path in among.glob("*") if path.name.isdecimal()]
        return among / str(max(taken, default=0) + 1)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already and not an empty folder: choose another --out, nothing is overwritten.")
    return out
