"""Trackers: programs that show the numbers and previews of a run while it trains, beside the run's own metrics.jsonl.

A tracker is a guest. What it raises once it is open is said once and ends the tracking, never the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from pixelpath.errors import UserError
from pixelpath.log import say

TrackerName = Literal["tensorboard", "wandb", "trackio"]


@runtime_checkable
class Tracker(Protocol):
    """What is used of a tracker."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Show named numbers of a step."""
        ...

    def picture(self, step: int, path: Path) -> None:
        """Show a picture of a step, a file."""
        ...

    def close(self) -> None:
        """End the tracking; what was given is shown."""
        ...


class Guarded:
    """A tracker whose failures are said once, after which it is given nothing more."""

    def __init__(self, tracker: Tracker, name: str) -> None:
        self._tracker, self._name, self._lost = tracker, name, False

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._call(lambda: self._tracker.numbers(step, values))

    def picture(self, step: int, path: Path) -> None:
        self._call(lambda: self._tracker.picture(step, path))

    def close(self) -> None:
        self._call(self._tracker.close)

    def _call(self, act: Callable[[], None]) -> None:
        if self._lost:
            return
        try:
            act()
        except Exception as error:
            self._lost = True
            why = " ".join(str(error).split()) or type(error).__name__
            say(f"Tracking by {self._name} failed ({why}) and ends here; the run goes on, and metrics.jsonl has all numbers.")


class TensorBoard:
    """Events in RUN/tensorboard: `tensorboard --logdir RUN`."""

    def __init__(self, run: Path, first: int, settings: Mapping[str, Any]) -> None:
        summaries = _imported("torch.utils.tensorboard", "tensorboard", "tensorboard")
        self._writer = summaries.SummaryWriter(str(run / "tensorboard"), purge_step=first + 1)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, path: Path) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as picture:
            self._writer.add_image("preview", np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """A run of Weights & Biases of the name of the folder; the same run goes on when training is taken up again.

    WANDB_PROJECT and WANDB_MODE, as all settings of its own, hold; the project is pixelpath otherwise.
    """

    def __init__(self, run: Path, first: int, settings: Mapping[str, Any]) -> None:
        import os

        self._wandb = _imported("wandb", "wandb", "wandb")
        project = os.environ.get("WANDB_PROJECT", "pixelpath")
        place = {"dir": str(run), "id": _identity(run), "resume": "allow"}
        self._run = self._wandb.init(project=project, name=run.name, config=dict(settings), **place)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step}, step=step)

    def picture(self, step: int, path: Path) -> None:
        self._run.log({"preview": self._wandb.Image(str(path))}, step=step)

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """A run of trackio, on this machine: `trackio show --project pixelpath`."""

    def __init__(self, run: Path, first: int, settings: Mapping[str, Any]) -> None:
        self._trackio = _imported("trackio", "trackio", "trackio")
        self._run = self._trackio.init(project="pixelpath", name=_identity(run), config=dict(settings), resume="allow")

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def picture(self, step: int, path: Path) -> None:
        self._run.log({"preview": self._trackio.Image(str(path))}, step=step)

    def close(self) -> None:
        self._run.finish()


TRACKERS: dict[TrackerName, Callable[[Path, int, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": Trackio,
}


def open_tracker(name: TrackerName, run: Path, first: int, settings: Mapping[str, Any]) -> Tracker:
    """A tracker of a run that goes on from step `first`; `settings` are those of its recipe.

    Raises UserError if it is not installed, or cannot begin: before a run has taken a step, that is a mistake to mend.
    """
    try:
        return Guarded(TRACKERS[name](run, first, settings), name)
    except UserError:
        raise
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"`track` is {name}, which cannot begin ({why}): mend that, or omit `track`.", "track") from error


def _identity(run: Path) -> str:
    """A name for a run that its folder always has: that of the folder, and a number by its whole path."""
    import zlib

    return f"{run.name}-{zlib.crc32(str(run.absolute()).encode()):08x}"


def _imported(module: str, package: str, name: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(
            f"`track` is {name}, and {package} is not installed: pip install 'pixelpath[track]' (TensorBoard) or pip install "
            f"{package}, or omit `track`.",
            setting="track",
        ) from error
