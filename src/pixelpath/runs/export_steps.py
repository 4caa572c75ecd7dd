"""A run of any number of steps as a folder: two networks, a table of the sampler, and a loop that runs with numpy."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from pixelpath.randomness import Streams, normal, seed_of
from pixelpath.runs.export_diffusers import ways_of
from pixelpath.runs.generate import Origin, balanced, generate
from pixelpath.runs.opened import OpenRun
from pixelpath.sampling.sampler import Sampling

SEEDS = range(4)  # of the images that folder and run must agree on


@dataclass(frozen=True)
class Steps:
    """How a run is sampled, and the same as a table."""

    sampling: Sampling
    walk: Walk


def steps_of(run: OpenRun, guidance: float | None) -> Steps:
    """As the run is sampled by default, with another guidance scale if one is given."""
    usual, tuned = ways_of(run, guidance)
    sampling = usual if tuned is None else tuned.over(usual)
    assert sampling.sampler is not None
    assert sampling.guidance is not None
    assert sampling.guidance_interval is not None
    low, high = (limit * run.noise.shift for limit in sampling.guidance_interval)
    return Steps(sampling, walk_of(sampling.sampler, sampling.schedule(run.noise), sampling.guidance, (low, high)))


def export_steps(run: OpenRun, format: Format = ONNX, guidance: float | None = None, out: Path | None = None) -> Path:
    """Write a run as a folder: denoiser, decode, walk.json, and sample.py, which makes images with numpy and onnxruntime alone.

    Of the format of torch.export it needs numpy and torch. `guidance` is fixed in walk.json; None: as the recipe says. The folder
    takes its name only after it makes the images of the run. Raises UserError for a run of stage one, other conditions than
    classes, a normaliser with a curve, and a folder that is there.
    """
    if format is ONNX:
        check_packages()
    folder = run.path / f"steps-{format.suffix[1:]}" if out is None else out
    if folder.exists():
        raise UserError(f"{folder} is there already: choose another `out`, nothing is overwritten.", setting="out")
    steps = steps_of(run, guidance)
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
    (folder / "walk.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def about_of(run: OpenRun, steps: Steps) -> dict[str, Any]:
    """What walk.json holds: the table, and what the images are."""
    assert steps.sampling.sampler is not None
    about = {"recipe": run.recipe.name, "step": run.step, "shape": run.shape, "dtype": run.normaliser.dtype}
    words = {"classes": run.classes, "alpha": run.metadata.alpha, "sampler": steps.sampling.sampler.value}
    return {**about, **words, **steps.walk.to_json()}


def compare(folder: Path, run: OpenRun, steps: Steps) -> Agreement:
    """How the images that sample.py makes with a folder agree with the run's own; UserError if they do not."""
    labels = balanced(SEEDS, len(run.classes))
    streams = Streams([seed_of(seed) for seed in SEEDS])
    noises = [normal(streams, run.shape).numpy() for _ in range(steps.walk.noises)]
    parts = sample_alone.load(folder)
    made = torch.from_numpy(sample_alone.sample(parts, noises, labels.numpy() if run.classes else None))
    estimate = torch.cat(list(generate(run.denoiser, Origin(run.noise), steps.sampling, SEEDS, labels)))
    found = agreement(made, estimate, run.normaliser, unmeasured_in(run.metadata, run.shape))
    if not found.holds:
        raise UserError(
            f"The exported folder was not kept: its images differ from the run's by {found.excess:.1e} in model range, beyond "
            f"rounding, and may by {TOLERANCE:g}; choose another `format`, and report this with your versions."
        )
    return found


def _parent_made(folder: Path) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder
