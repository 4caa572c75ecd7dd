"""Checkpoints written beside training: the run is copied at its step, and a thread writes the copy."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn

from pixelpath.trainer.checkpoint import State, capture, write


class Writer:
    """Writes one checkpoint at a time; what went wrong with it is raised by the next call. As a context, it waits at the end."""

    def __init__(self) -> None:
        self._last: Future[Path] | None = None

    def save(
        self,
        run: Path,
        state: State,
        models: tuple[nn.Module, nn.Module],
        optimizer: torch.optim.Optimizer,
        extras: Mapping[str, Mapping[str, Any]],
        keep: int,
    ) -> None:
        """Copy the run (its student and EMA are the `models`) once the checkpoint before is written, and begin to write the copy.

        Raises as `capture` for this one, and as `write` for the one before.
        """
        self.wait()
        now = capture(state, *models, optimizer)
        pool = ThreadPoolExecutor(1, "checkpoint")
        self._last = pool.submit(write, run, now, extras, keep)
        pool.shutdown(wait=False)  # the thread ends with its checkpoint

    def check(self) -> None:
        """Raise what went wrong with a checkpoint; does not wait."""
        if self._last is not None and self._last.done():
            self.wait()

    def wait(self) -> None:
        """Wait until nothing is being written; raise what went wrong."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.wait()
