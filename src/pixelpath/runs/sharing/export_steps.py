"""A run of any number of steps as a folder: two networks, a table of the sampler, and a loop that runs with numpy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from pixelpath.atomic import whole_path
from pixelpath.data.unmeasured import unmeasured_in
from pixelpath.errors import UserError
from pixelpath.interop import sample_alone
from pixelpath.interop.generator import (
    ONNX,
    TOLERANCE,
    Agreement,
    Decoding,
    Estimator,
    Format,
    agreement,
    check_packages,
    graphs_of,
)
from pixelpath.interop.walk import Walk, walk_of
from pixelpath.log import progress, say
from pixelpath.randomness import Streams, normal, seed_of, uniform
from pixelpath.runs.generate import Origin, balanced, generate
from pixelpath.runs.opened import OpenRun
from pixelpath.runs.sample import completed
from pixelpath.runs.sharing.export_conditions import examples_of
from pixelpath.runs.sharing.export_diffusers import check_unguided, plainly
from pixelpath.sampling.sampler import Sampling
from pixelpath.starts.gaussian import MomentGaussian
from pixelpath.starts.mixture import ConvolvedMixture
from pixelpath.starts.start import Saved
from pixelpath.starts.warm import WarmStart

ONLY = "only Gaussians and mixtures of them are, and only in the formats onnx and torch of diffusion runs"
SEEDS = range(4)  # of the images that folder and run must agree on


@dataclass(frozen=True)
class Steps:
    """How a run is sampled, from what, and the same as a table."""

    sampling: Sampling
    origin: Origin
    walk: Walk


def is_plain(warm: WarmStart) -> bool:
    """Whether a start is Gaussians, which numpy draws."""
    return isinstance(warm.start, MomentGaussian | ConvolvedMixture)


def steps_of(
    run: OpenRun, guidance: float | None, start: Path | None = None, exportable: Callable[[WarmStart], bool] = is_plain
) -> Steps:
    """As the run is sampled by default, with another guidance scale or a fitted start if one is given.

    A tuned start is taken if it is exportable, and otherwise left out, which is said. Raises UserError for a given one that is
    not.
    """
    sampling, origin = completed(run, Sampling(guidance=guidance, start=start))
    if origin.warm is not None and not exportable(origin.warm):
        if start is not None:
            raise UserError(f"{start} is not exported: {ONLY}. Give such a one, or none.", "start")
        say(f"The start {sampling.start} is not exported: {ONLY}. Images begin at pure noise there.")
        sampling, origin = plainly(run, guidance), Origin(run.noise)
    check_unguided(run, sampling)
    assert sampling.sampler is not None
    assert sampling.guidance is not None
    assert sampling.guidance_interval is not None
    low, high = (limit * run.noise.shift for limit in sampling.guidance_interval)
    std, sigmas = None if origin.warm is None else 1.0, origin.schedule(sampling)
    return Steps(sampling, origin, walk_of(sampling.sampler, sigmas, sampling.guidance, (low, high), std))


def export_steps(
    run: OpenRun,
    format: Format = ONNX,
    guidance: float | None = None,
    out: Path | None = None,
    start: Path | None = None,
) -> Path:
    """Write a run as a folder: denoiser, decode, walk.json, and sample.py, which makes images with numpy and onnxruntime alone.

    Of the format of torch.export it needs numpy and torch. `guidance` is fixed in walk.json; None: as the recipe says. The folder
    takes its name only after it makes the images of the run. Raises UserError for a run of stage one, a normaliser with a curve
    (of images or of condition images), a start that is no Gaussian and no mixture of these, and a folder that is there.
    """
    if format is ONNX:
        check_packages()
    folder = run.path / f"steps-{format.suffix[1:]}" if out is None else out
    if folder.exists():
        raise UserError(f"{folder} is there already: choose another `out`, nothing is overwritten.", setting="out")
    steps = steps_of(run, guidance, start)
    with progress("export", 3) as advance, whole_path(_parent_made(folder)) as partial:
        partial.mkdir()
        write_networks(run, steps, format, partial)
        shutil.copyfile(Path(sample_alone.__file__), partial / "sample.py")
        advance(2)
        found = compare(partial, run, steps)
        advance(1)
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    say(f"{folder} ({size:.1f} MB): python {folder / 'sample.py'} --count 8 --out images.npy")
    say(
        f"Run by numpy, it makes the images of the run: on {len(SEEDS)} seeds {found.equal:.2%} of the values are equal, the "
        f"others at most {found.apart:.3g} apart; rounding explains all but {found.excess:.1e} in model range."
    )
    return folder


def write_networks(run: OpenRun, steps: Steps, format: Format, folder: Path) -> None:
    """Write denoiser, decode and walk.json into a folder."""
    about = about_of(run, steps)
    graphs = graphs_of(Estimator(run.denoiser), Decoding(run.normaliser, unmeasured_in(run.metadata, run.shape)))
    for name, graph in graphs.items():
        with (folder / f"{name}{format.suffix}").open("wb") as file:
            format.write(graph, file, {key: json.dumps(value) for key, value in about.items() if key not in vars(steps.walk)})
    if steps.origin.warm is not None:
        _, tensors = cast(Saved, steps.origin.warm.start).state()
        arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
        np.savez(folder / "start.npz", **arrays)
    (folder / "walk.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def about_of(run: OpenRun, steps: Steps) -> dict[str, Any]:
    """What walk.json holds: the table, what the images are, their conditions, and the start."""
    assert steps.sampling.sampler is not None
    about = {"recipe": run.recipe.name, "step": run.step, "shape": run.shape, "dtype": run.normaliser.dtype}
    words = {"classes": run.classes, "alpha": run.metadata.alpha, "sampler": steps.sampling.sampler.value}
    asks = run.conditions.to_json() | {"cond_image": _cond_image_of(run)}
    return {**about, **words, "conditions": asks, "start": _start_of(steps), **steps.walk.to_json()}


def _cond_image_of(run: OpenRun) -> dict[str, Any] | None:
    """How condition images are encoded: as classes, or by mean and std; UserError for another way."""
    asks = run.conditions.cond_image
    if asks is None:
        return None
    if asks.normaliser is not None and (asks.normaliser.wide or asks.normaliser.nodata is not None):
        raise UserError(
            "Only condition images that are masks, or have an affine normaliser without nodata, can be exported as ONNX or by "
            "torch.export: choose --format diffusers."
        )
    moments = {} if asks.normaliser is None else {"mean": asks.normaliser.mean, "std": asks.normaliser.std}
    return {"channels": asks.channels, "classes": asks.classes, **moments}


def _start_of(steps: Steps) -> dict[str, Any] | None:
    """The sigma of the start, how many classes it has, and the sizes of the normal draws that it takes."""
    if steps.origin.warm is None:
        return None
    start = steps.origin.warm.start
    if isinstance(start, MomentGaussian):
        draws = [start.spread.shape[1], start.mean.shape[1]]
    else:
        assert isinstance(start, ConvolvedMixture)
        width, held = start.basis.shape
        draws = [held, width] if held < width else [held]
    return {"family": start.family, "sigma": steps.origin.warm.sigma, "classes": start.num_classes, "draws": draws}


def compare(folder: Path, run: OpenRun, steps: Steps) -> Agreement:
    """How the images that sample.py makes with a folder agree with the run's own; UserError if they do not."""
    examples = examples_of(run, SEEDS, balanced(SEEDS, len(run.classes)))
    labels = None if examples.labels is None else np.array(examples.labels)
    streams, parts = Streams([seed_of(seed) for seed in SEEDS]), sample_alone.load(folder)
    noises = [_first(parts[0], streams, run, labels)]
    noises += [normal(streams, run.shape).numpy() for _ in range(1, steps.walk.noises)]
    made = torch.from_numpy(sample_alone.sample(parts, noises, labels, examples.numbers, examples.cond_image))
    estimate = torch.cat(list(generate(run.denoiser, steps.origin, steps.sampling, SEEDS, examples.condition)))
    found = agreement(made, estimate, run.normaliser, unmeasured_in(run.metadata, run.shape))
    if not found.holds:
        raise UserError(
            f"The exported folder was not kept: its images differ from the run's by {found.excess:.1e} in model range, beyond "
            f"rounding, and may by {TOLERANCE:g}; choose another `format`, and report this with your versions."
        )
    return found


def _first(walk: dict[str, Any], streams: Streams, run: OpenRun, labels: np.ndarray | None) -> np.ndarray:
    """The first noises of streams, or draws of the start, as the run itself draws them."""
    if walk["start"] is None:
        return normal(streams, run.shape).numpy()
    chosen = uniform(streams, (1,), torch.float64)[:, 0].numpy()
    draws = [normal(streams, (size,)).double().numpy() for size in walk["start"]["draws"]]
    return sample_alone.begin(walk, labels, chosen, draws)


def _parent_made(folder: Path) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder
