"""A run while it trains, from its files alone: where it stands, how long it takes, its curves, previews and alarms."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pixelpath.errors import MissingError
from pixelpath.reports.charts import training_charts
from pixelpath.reports.page import document_of, duration
from pixelpath.runs.folder import LOCK
from pixelpath.trainer.journal import lines

ALARMS = 20  # the newest, at most
RECENT = 20  # lines of measurements by which speed is measured
ALIVE = 900  # seconds since the last sign of training up to which a locked run is taken to train

Rows = Sequence[Mapping[str, Any]]


def watched(run: Path) -> dict[str, Any]:
    """What the page shows of the run's training, JSON-ready; `charts` are HTML."""
    recipe, rows = document_of(run / "recipe.json") or {}, lines(run)
    step, steps = (rows[-1]["step"] if rows else 0), recipe.get("steps") or 0
    quiet = time.time() - (run / "metrics.jsonl").stat().st_mtime if rows else None
    training = (run / LOCK).exists() and step < steps and (quiet is None or quiet < ALIVE)
    return {
        "step": step,
        "steps": steps,
        "training": training,
        "facts": _facts(recipe, rows, step, steps, training, quiet),
        "alarms": _alarms(rows),
        "previews": [{"step": number, "name": file.name} for number, file in _previews(run)],
        "charts": training_charts(rows) if rows else "",
    }


def preview(run: Path, name: str) -> Path:
    """The file of a preview of the run; MissingError if there is none of that name."""
    found = next((file for _, file in _previews(run) if file.name == name), None)
    if found is None:
        raise MissingError(f"{run} has no preview {name}: load the page again.", "name")
    return found


def seconds_left(rows: Rows, steps: int) -> float | None:
    """How long the rest of `steps` takes at the speed of the newest lines; None where that is not known."""
    timed = [(row["step"], row["seconds"]) for row in rows if row.get("seconds") is not None][-RECENT:]
    if len(timed) < 2 or timed[-1][0] <= timed[0][0] or timed[-1][1] <= timed[0][1]:
        return None
    (first, began), (last, now) = timed[0], timed[-1]
    return (steps - last) * (now - began) / (last - first)


def _facts(recipe: Any, rows: Rows, step: int, steps: int, training: bool, quiet: float | None) -> dict[str, str]:
    """Names and values, in words."""
    found = {"recipe": str(recipe.get("name", "unknown")), "step": f"{step:,} of {steps:,}"}
    left = seconds_left(rows, steps)
    if training and left is not None:
        found["time left"] = duration(left)
    elif step < steps:
        found["state"] = "training" if training else "not training now"
    else:
        found["state"] = "finished"
    for key, name in (("loss", "loss"), ("held_out_loss", "held-out loss"), ("images_per_second", "images per second")):
        value = next((row[key] for row in reversed(rows) if isinstance(row.get(key), int | float)), None)
        found |= {} if value is None else {name: f"{value:,.4g}"}
    spent = next((row["seconds"] for row in reversed(rows) if row.get("seconds") is not None), None)
    found |= {} if spent is None else {"training time": duration(spent)}
    return found | ({"last sign of life": f"{duration(quiet)} ago"} if training and quiet is not None else {})


def _alarms(rows: Rows) -> list[dict[str, Any]]:
    """The newest alarms, each once, at the first step that it was raised."""
    first: dict[str, int] = {}
    for row in rows:
        for alarm in row.get("alarms") or ():
            first.setdefault(alarm, row["step"])
    return [{"step": step, "what": what} for what, step in list(first.items())[-ALARMS:]]


def _previews(run: Path) -> list[tuple[int, Path]]:
    found = [(path.stem.removeprefix("step-"), path) for path in (run / "previews").glob("step-*.png")]
    return sorted((int(number), path) for number, path in found if number.isdecimal())
