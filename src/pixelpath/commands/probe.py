"""The command `pixelpath probe`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from pixelpath.commands.options import device_named
from pixelpath.runs.measuring import probe as runs
from pixelpath.runs.opened import open_run
from pixelpath.runs.prepare import read_data_of
from pixelpath.runs.sharing.bundled import check_writable


def probe(
    run: Annotated[Path, tyro.conf.Positional],
    data: Path | None = None,
    limit: int = 10_000,
    sigmas: tuple[float, ...] = (),
    checkpoint: Path | None = None,
    device: str | None = None,
) -> None:
    """Measure what the encoder of a run (of either stage) has learned: k-NN and linear accuracy at several noise levels.

    Args:
        run: Folder of a run.
        data: Images with classes, brought to the run's size. Default: the run's own data.
        sigmas: Noise levels in model range, above 0. Default: six, from the lowest of the run to ten times the data's spread.
        limit: At most so many training and so many held-out images.
        checkpoint: A folder of RUN/checkpoints other than the latest.
        device: cpu, cuda, mps. Default: the best one here.
    """
    opened = open_run(run, checkpoint, device_named(device))
    check_writable(opened.path)
    runs.probe(opened, read_data_of(opened, data), limit, sigmas)
