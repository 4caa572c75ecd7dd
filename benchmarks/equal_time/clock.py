"""The time that training may take: of the process on a CPU, of the wall on a GPU. Only what runs inside `running()` counts."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from pixelpath.trainer.ema import ramped
from pixelpath.trainer.loop import Step, train
from pixelpath.types import Batch, Losses, Objective, Views

ENDLESS = 10**9  # steps


class Clock:
    """Counts the seconds of training up to a limit, as process time in one thread, or as wall time of a CUDA device."""

    def __init__(self, seconds: float, device: torch.device) -> None:
        self.seconds, self.device, self.spent = seconds, device, 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """While open, time counts."""
        began = self._now()
        try:
            yield
        finally:
            self.spent += self._now() - began

    @property
    def share(self) -> float:
        """The share of the time that is used, in [0, 1]."""
        return min(1.0, self.spent / self.seconds)

    def steps(self, number: int) -> int:
        """How many steps the whole time has room for, judged by those before step `number`."""
        return max(number, round((number - 1) / self.share)) if self.share > 0 else ENDLESS

    def _now(self) -> float:
        if self.device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()


@dataclass(frozen=True)
class Spent:
    """What training took: `seconds` of process time (CPU) or wall time (CUDA), peak memory of the process or device in MB."""

    steps: int
    images: int
    seconds: float
    peak_mb: float
    parameters: int


def train_for(
    clock: Clock,
    student: nn.Module,
    ema: nn.Module,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    schedule: Callable[[int, int], float],
    batches: Iterator[Batch] | Iterator[Views],
    *,
    ema_decay: float,
    seed: int,
    clip: float | Callable[[int], float | None] | None,
    precision: torch.dtype,
    accumulate: int = 1,
    watch: Callable[[int], None] = lambda number: None,
) -> Spent:
    """Train by pixelpath's loop until the time is up; `schedule` and the objective's progress follow the share of time used.

    `watch` is called with the number of every step once it is taken; its own time does not count.
    """

    def by_time(student: nn.Module, ema: nn.Module, batch: Batch | Views, progress: float) -> Losses:
        return objective(student, ema, batch, clock.share)

    steps = train(
        student,
        ema,
        by_time,
        optimizer,
        lambda number, _: schedule(number, clock.steps(number)),
        batches,
        first=0,
        steps=ENDLESS,
        ema_decay=ramped(ema_decay),
        seed=seed,
        clip=clip,
        precision=precision,
        accumulate=accumulate,
    )
    images, step = 0, None
    while clock.share < 1:
        with clock.running():
            step = next(steps)
        images += step.images
        watch(step.number)
    assert isinstance(step, Step)
    return Spent(step.number, images, clock.spent, peak_mb(clock.device), sum(each.numel() for each in student.parameters()))


def peak_mb(device: torch.device) -> float:
    """The most memory that the device, or on a CPU the process, held so far, in MB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
