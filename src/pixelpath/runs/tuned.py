"""How a run was tuned to be sampled: RUN/sampling.json, which `pixelpath tune` writes and sampling reads.

The file is a list of results, the newest last. A result has a *table* for each guidance, and a table one chosen *row* for each
number of network evaluations (NFE); one row of a table is its default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pixelpath.atomic import read_json
from pixelpath.errors import UserError
from pixelpath.log import say
from pixelpath.runs.opened import OpenRun
from pixelpath.sampling.sampler import Sampler, Sampling

FILE = "sampling.json"
OWN = ("steps", "sampler", "sigmas", "sigma_max", "rho", "start", "guide_with", "guidance_interval")
"""Choices that a tuned row was not tuned for, or would contradict."""


def with_tuning(run: OpenRun, chosen: Sampling) -> Sampling:
    """The choices completed by the row that the run was tuned to: that of `nfe`, or the default one if no length is chosen.

    The table is that of the nearest guidance. The choices as they are where the run was not tuned at this checkpoint or for this
    number, and where more than guidance and nfe is chosen. Raises UserError if the file cannot be read.
    """
    if any(vars(chosen)[name] is not None for name in OWN):
        return chosen
    result = _newest(run)
    if result is None:
        return chosen
    usual = run.recipe.usual_sampling
    guidance = usual.guidance if chosen.guidance is None else chosen.guidance
    assert guidance is not None
    try:
        table = min(result["tables"], key=lambda each: abs(each["guidance"] - guidance))
        rows = [row for row in table["chosen"] if (row["default"] if chosen.nfe is None else row["nfe"] == chosen.nfe)]
        if rows:
            return replace(chosen, nfe=None).over(sampling_of(rows[0], run.path))
        known = ", ".join(str(row["nfe"]) for row in table["chosen"])
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(run, error) from error
    say(f"{run.path} was tuned for {known} network evaluations, not for {chosen.nfe}: sampled as an untuned run.")
    return chosen


def sampling_of(row: Mapping[str, Any], run: Path) -> Sampling:
    """The way to sample that a row holds, without its guidance; `start` is a path inside the run's folder."""
    start = None if row["start"] is None else run / row["start"]
    return Sampling(sampler=Sampler(row["sampler"]), sigmas=tuple(row["sigmas"]), sigma_max=row["sigma_max"], start=start)


def _newest(run: OpenRun) -> Mapping[str, Any] | None:
    """The newest result of the run's checkpoint."""
    file = run.path / FILE
    if not file.is_file():
        return None
    try:
        return next((each for each in reversed(read_json(file)) if each["checkpoint"] == run.checkpoint.name), None)
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(run, error) from error


def _broken(run: OpenRun, error: Exception) -> UserError:
    return UserError(f"{run.path / FILE} cannot be used ({error}): remove it, then run `pixelpath tune {run.path}` again.")
