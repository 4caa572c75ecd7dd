"""The command `pixelpath tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from pixelpath.commands.options import device_named
from pixelpath.runs.opened import open_run
from pixelpath.runs.prepare import read_data_of
from pixelpath.runs.starting.files import open_start
from pixelpath.runs.tune import Tune, check_can_tune, tune_run

USUAL = Tune()


def tune(
    run: Annotated[Path, tyro.conf.Positional],
    choices: Annotated[Tune, tyro.conf.arg(name="")] = USUAL,
    data: Path | None = None,
    checkpoint: Path | None = None,
    device: str | None = None,
) -> None:
    """Find how to sample a run in the fewest network evaluations (NFE); `pixelpath sample RUN` then follows it.

    Adds the result to RUN/sampling.json and writes the page RUN/tuning.html. A model of small digits takes minutes.

    Args:
        run: Folder of a diffusion run.
        choices: What to tune for, and by how many samples.
        data: Images to compare with, brought to the size of the run's. Default: the run's own data.
        checkpoint: A folder of RUN/checkpoints other than the latest.
        device: cpu, cuda, mps. Default: the best one here.
    """
    opened = open_run(run, checkpoint, device_named(device))
    check_can_tune(opened)
    if choices.start is not None:
        open_start(choices.start, opened)  # a start that does not fit is better said now
    tune_run(opened, read_data_of(opened, data), choices)
