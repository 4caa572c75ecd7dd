"""A run as a pipeline of diffusers: a folder that `DiffusionPipeline.from_pretrained` opens where pixelpath is not installed."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from pixelpath.atomic import whole_path
from pixelpath.data.unmeasured import left_out
from pixelpath.errors import UserError
from pixelpath.interop.diffusers_folder import check_diffusers, made_by, open_pipeline, write_diffusers
from pixelpath.log import say
from pixelpath.runs.generate import Origin, balanced, generate
from pixelpath.runs.opened import OpenRun
from pixelpath.runs.sample import completed
from pixelpath.runs.sharing.export_conditions import examples_of
from pixelpath.runs.tuned import with_tuning
from pixelpath.sampling.sampler import Sampling

SEEDS = range(2)  # of the images that folder and run must agree on
APART = 1e-5  # of values in units of the data's std, besides the step that rounding may take


def save_diffusers(run: OpenRun, folder: Path, guidance: float | None = None) -> Path:
    """Write a run as a pipeline of diffusers into a new folder, which then makes the images of the run.

    `guidance` is the default of the pipeline; None: as the recipe says. Raises UserError for a run of stage one, one that is
    guided by another run, and for a folder that is there.
    """
    check_diffusers()
    denoiser = run.denoiser
    if folder.exists():
        raise UserError(f"{folder} is there already: choose another `out`, nothing is overwritten.", setting="out")
    sampling, tuned = ways_of(run, guidance)
    settings = {
        "normaliser": run.normaliser.to_json(),
        "metadata": run.metadata.to_json(),
        "noise": asdict(run.noise),
        "sampling": plain(sampling),
        "tuned": None if tuned is None else plain(tuned),
        "id2label": {str(number): name for number, name in enumerate(run.classes)},
        "conditions": run.conditions.to_json(),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_path(folder) as partial:
        write_diffusers(partial, denoiser, settings, card(run))
        apart = _apart(partial, run, sampling if tuned is None else tuned.over(sampling))
        if not apart <= APART:
            raise UserError(f"The folder was not kept: its images differ from the run's by {apart:.1e} std; report this.")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    say(f"{folder} ({size:.1f} MB): DiffusionPipeline.from_pretrained('{folder}', trust_remote_code=True)")
    say(f"Opened by diffusers, it makes the images of the run: on {len(SEEDS)} seeds at most {apart:.1e} std apart.")
    return folder


def ways_of(run: OpenRun, guidance: float | None) -> tuple[Sampling, Sampling | None]:
    """How the run is sampled where steps are chosen, and how it was tuned to be where they are not, if it was.

    Raises UserError where the run is guided by another one. A fitted start is left out, which is said.
    """
    usual, _ = completed(run, replace(run.recipe.usual_sampling, guidance=guidance))
    check_unguided(run, usual)
    tuned = with_tuning(run, Sampling(guidance=guidance))
    if usual.start is not None or tuned.start is not None:
        say("A fitted start is exported in the formats onnx and torch of diffusion runs alone: images begin at pure noise here.")
        usual, tuned = plainly(run, guidance), Sampling()
    return usual, None if tuned.sampler is None else replace(tuned, guidance=None)


def plainly(run: OpenRun, guidance: float | None) -> Sampling:
    """How the run is sampled by its recipe from pure noise."""
    return completed(run, replace(run.recipe.usual_sampling, start=None, guidance=guidance))[0]


def check_unguided(run: OpenRun, sampling: Sampling) -> None:
    """UserError where a run is guided by another one."""
    if sampling.guide_with is not None:
        raise UserError(f"{run.path} is guided by {sampling.guide_with}, which an export cannot hold: omit `guide_with`.")


def plain(sampling: Sampling) -> dict[str, Any]:
    """What is chosen, JSON-ready: the sampler by name, infinity as a word."""
    found = {name: value for name, value in vars(sampling).items() if value is not None}
    lists = {name: [_number(each) for each in value] for name, value in found.items() if isinstance(value, tuple)}
    return found | lists | ({} if sampling.sampler is None else {"sampler": sampling.sampler.value})


def _number(value: float) -> float | str:
    return str(value) if math.isinf(value) else value


def _apart(folder: Path, run: OpenRun, sampling: Sampling) -> float:
    """The largest difference of a pipeline's images from the run's, in std of the data, that rounding does not explain."""
    examples = examples_of(run, SEEDS, balanced(SEEDS, len(run.classes)))
    asked = {"class_labels": examples.labels, "numbers": examples.numbers or None, "cond_image": examples.cond_image}
    made = torch.from_numpy(made_by(open_pipeline(folder), SEEDS, **asked)).double()
    images = torch.cat(list(generate(run.denoiser, Origin(run.noise), sampling, SEEDS, examples.condition)))
    own = left_out(run.normaliser.decode(images), run.metadata).double()
    step = 0.0 if run.normaliser.lowest is None else 1.0
    std = torch.tensor(run.normaliser.std).double()[:, None, None]
    differ = ((made - own).abs() - step).clamp_min(0) / (1 if not run.normaliser.straight else std)
    return float(torch.where(made.isnan() & own.isnan(), 0.0, differ).max())


def card(run: OpenRun) -> str:
    """The README of the folder."""
    shape = " x ".join(map(str, run.shape))
    classes = f" in {len(run.classes)} classes" if run.classes else ""
    label = f"class_labels={run.classes[0]!r}, " if run.classes else ""
    numbers = {column.name: column.words[0] if column.words else round(column.mean, 3) for column in run.conditions.columns}
    label += f"numbers={numbers!r}, " if numbers else ""
    label += 'cond_image=numpy.load("condition.npy"), ' if run.conditions.other else ""
    return f"""---
library_name: diffusers
pipeline_tag: unconditional-image-generation
tags: [pixelpath]
---

# {run.path.name}

Images of {shape} ({run.normaliser.dtype}){classes}, by pixelpath ({run.recipe.name}, step {run.step}).

```python
{"import numpy" + chr(10) if run.conditions.other else ""}import torch
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("path of this folder", trust_remote_code=True)
images = pipeline({label}batch_size=4, generator=torch.Generator().manual_seed(0)).images
```

`seeds=range(4)` instead of a generator gives the images that pixelpath makes of these seeds.
"""
