"""A run that is asked to stop saves first, at the end of its step."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import torch

from pixelpath import processes

EVERY = 10  # steps after which several processes ask each other, which waits for the slowest


class Interruption:
    """While open, the first SIGTERM or Ctrl-C asks the run to save and stop; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.signalled = False  # whether this process has been asked to stop
        self._before: dict[int, Any] = {}
        self._calls = 0

    def asked(self) -> bool:
        """Whether any process of the run has been asked to stop; every process must call it at the same step.

        Several processes exchange this at every tenth call, and hear of it then.
        """
        self._calls += 1
        if processes.count() == 1:
            return self.signalled
        if self._calls % EVERY:
            return False
        return bool(processes.add(torch.tensor(float(self.signalled))))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signalled and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signalled = True

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
