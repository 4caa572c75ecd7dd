"""The command `pixelpath report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from pixelpath.errors import MissingError
from pixelpath.log import say
from pixelpath.runs.cost_card import cost_card
from pixelpath.runs.folder import fitted_run
from pixelpath.runs.measuring.report import write_report
from pixelpath.runs.opened import open_run
from pixelpath.runs.sharing.bundled import located


def report(run: Annotated[Path, tyro.conf.Positional], price_per_hour: float | None = None) -> None:
    """Write the report of a run again: RUN/report.html, from what the run's folder holds.

    Args:
        run: Folder of a run, or of a fit: its newest run.
        price_per_hour: Say too what the run has cost, at this price for an hour of its device.
    """
    run = fitted_run(located(run))
    if run.is_dir() and not (run / "recipe.json").exists():
        sentence = f"{run} holds no run (no recipe.json): name the folder that pixelpath train wrote."
        raise MissingError(sentence, setting="run")
    if price_per_hour is not None:
        for sentence in cost_card(open_run(run)).sentences(price_per_hour):
            say(sentence)
    say(f"Report: {write_report(run)}")
