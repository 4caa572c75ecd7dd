"""The command `pixelpath start fit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from pixelpath.commands.options import device_named
from pixelpath.runs.opened import open_run
from pixelpath.runs.prepare import read_data_of
from pixelpath.runs.sample import free_folder
from pixelpath.runs.starting.fit_start import Fit, check_can_start, fit_run_start

USUAL = Fit()


def start(
    action: Annotated[Literal["fit"], tyro.conf.Positional],
    run: Annotated[Path, tyro.conf.Positional],
    fit: Annotated[Fit, tyro.conf.arg(name="")] = USUAL,
    data: Path | None = None,
    checkpoint: Path | None = None,
    out: Path | None = None,
    device: str | None = None,
) -> None:
    """Fit a start for sampling a run in fewer steps: choose its density and sigma by held-out images, and report how good it is.

    Then: pixelpath sample RUN --start START --steps N.

    Args:
        action: What to do: fit.
        run: Folder of a stage-two run.
        fit: What the start is chosen from and by.
        data: Images to fit it to, brought to the size of the run's. Default: the run's own data.
        checkpoint: A folder of RUN/checkpoints other than the latest.
        out: New or empty folder. Default: RUN/starts/1, 2, ...
        device: cpu, cuda, mps. Default: the best one here.
    """
    opened = open_run(run, checkpoint, device_named(device))
    check_can_start(opened, fit)
    folder = free_folder(opened.path / "starts", out)
    fit_run_start(opened, read_data_of(opened, data), folder, fit)
