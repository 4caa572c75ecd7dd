"""The command `pixelpath fit`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from pixelpath.commands.options import device_named
from pixelpath.data.settings import DataSettings
from pixelpath.log import say
from pixelpath.runs.digits import located, located_aside
from pixelpath.runs.fitting import fit as runs
from pixelpath.runs.fitting.planning import HOUR, Budget


def fit(
    path: Annotated[Path, tyro.conf.Positional],
    budget: Annotated[Budget, tyro.conf.arg(name="")] = HOUR,
    data: DataSettings = DataSettings(),  # noqa: B008 (frozen)
    out: Path | None = None,
    device: str | None = None,
    plan: bool = False,
) -> None:
    """From a folder and a budget of time to samples: audit, plan, train, tune, sample, evaluate, report.

    The same command again goes on where it was stopped; with more minutes it goes on from where it was.

    Args:
        path: Images, as `train --data` takes them: a folder of images, a file of arrays, FILE::VARIABLE; or digits, which come
            with scikit-learn.
        budget: How long it may take, and what it is for.
        data: How the data are read; what is not given is chosen by the data.
        out: Folder of everything that it makes. Default: runs/NAME.
        device: cpu, cuda, cuda:1, mps. Default: the best one here.
        plan: Only say the plan: train nothing, and write nothing.
    """
    folder, chosen = runs.folder_of(path) if out is None else out, device_named(device)
    if not plan:
        runs.fit(replace(data, path=located(path, folder)), folder, budget, chosen)
        return
    with located_aside(path, folder) as images:
        for line in runs.plan_fit(replace(data, path=images), folder, budget, chosen):
            say(line)
