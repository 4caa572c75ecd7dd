"""The command `pixelpath evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from pixelpath.commands.options import SamplingWithoutSteps, device_named
from pixelpath.errors import UserError
from pixelpath.runs.measuring import evaluate as runs_evaluate
from pixelpath.runs.measuring.evaluate import Judges
from pixelpath.runs.opened import open_run
from pixelpath.runs.prepare import read_data_of
from pixelpath.runs.starting.files import open_start
from pixelpath.sampling.sampler import Sampling

AS_TRAINED, JUDGES = SamplingWithoutSteps(), Judges()


def evaluate(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")],
    data: Path | None = None,
    count: int | None = None,
    first_seed: int = 0,
    steps: Annotated[str, tyro.conf.arg(metavar="INT[,INT ...]")] = "",
    how: Annotated[SamplingWithoutSteps, tyro.conf.arg(name="")] = AS_TRAINED,
    judges: Annotated[Judges, tyro.conf.arg(name="")] = JUDGES,
    batch_size: int = 64,
    checkpoint: Path | None = None,
    device: str | None = None,
) -> None:
    """Measure how close samples are to real images: of one run in full, of several runs or steps as distance over evaluations.

    One run at one number of steps: distances, precision and recall in several features, and the held-out loss per noise level.
    Otherwise: the Frechet distance alone, drawn over the network evaluations (NFE) an image, a curve per run, in every run's
    report; with --start a second curve, from that start.

    Args:
        runs: Folders of stage-two runs, all on the same images.
        data: Images to compare with, brought to the size of the first run's. Default: the first run's own data.
        count: How many samples. Default: as many as training images, at most 50,000; for curves as many as held-out ones.
        first_seed: Seed of the first sample.
        steps: Steps of the sampler, for example 1,2,4,8,16,32 for a curve. Default: the recipe's.
        how: How to sample. What is not given is as the run's recipe says.
        judges: In which features images are compared.
        batch_size: Images at a time. It changes speed and memory, not the images.
        checkpoint: A folder of RUN/checkpoints other than the latest.
        device: cpu, cuda, mps. Default: the best one here.
    """
    numbers = numbers_of(steps)
    several = len(runs) > 1 or len(numbers) > 1
    _check(runs, count, first_seed, checkpoint, how.start)
    chosen = Sampling().over(how)
    ways = [replace(chosen, steps=number) for number in numbers] or [chosen]
    if several and how.start is not None:
        ways = [replace(way, start=None) for way in ways] + ways
    opened = [open_run(run, checkpoint, device_named(device)) for run in runs]
    runs_evaluate.check_runs(opened, in_full=not several)
    if how.start is not None:
        open_start(how.start, opened[0])  # a start that does not fit is better said now, too
    content = read_data_of(opened[0], data)
    if several:
        runs_evaluate.evaluate_curves(opened, content, ways, judges, count, first_seed, batch_size)
    else:
        runs_evaluate.evaluate(opened[0], content, ways[0], judges, count, first_seed, batch_size)


def numbers_of(steps: str) -> list[int]:
    """The numbers of steps in words like "1,2,4", rising, each once; UserError if they are anything but numbers from 1 on."""
    words = [word.strip() for word in steps.split(",")] if steps else []
    if not all(word.isascii() and word.isdecimal() and len(word) < 10 and int(word) >= 1 for word in words):
        raise UserError(f"`steps` takes numbers from 1 on with commas between them, as in 1,2,4,8, got {steps[:40]}.", "steps")
    return sorted({int(word) for word in words})


def _check(runs: Sequence[Path], count: int | None, first_seed: int, checkpoint: Path | None, start: Path | None) -> None:
    if not runs:
        raise UserError("There is no run to evaluate: name the folder that pixelpath train wrote.", setting="runs")
    if count is not None and count < 1:
        raise UserError(f"`count` must be at least 1, got {count}.", setting="count")
    if first_seed < 0:
        raise UserError(f"`first_seed` must be at least 0, got {first_seed}.", setting="first_seed")
    for name, path in (("start", start), ("checkpoint", checkpoint)):
        if path is not None and len(runs) > 1:
            raise UserError(f"`{name}` {path} belongs to one run, and {len(runs)} are named: omit it, or name one.", name)
