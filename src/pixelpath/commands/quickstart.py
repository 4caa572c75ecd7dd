"""The command `pixelpath quickstart`."""

from __future__ import annotations

from pathlib import Path

from pixelpath.commands.options import device_named
from pixelpath.runs import quickstart as runs


def quickstart(out: Path = Path("runs/quickstart"), device: str | None = None, speed_up: int = 1) -> None:
    """Train on 8x8 digits: stage one, diffusion, one step; fit a start; sample, evaluate, report; the same command again goes on.

    Args:
        out: Folder of everything that it makes.
        device: cpu, cuda, mps. Default: the best one here.
        speed_up: Divide the steps of all three runs by this, to see the machinery run rather than good digits.
    """
    runs.quickstart(out, device_named(device), speed_up)
