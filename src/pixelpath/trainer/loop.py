"""How a run proceeds: a generator that takes one step of training after another and knows no files.

A step's *index* counts from 0 (batches), its *number* from 1 (schedules). Its *progress*, index / steps, is what objectives get.
A step whose loss or gradient is not finite is *skipped*: it leaves student, EMA and optimizer as they were.

The host never waits for the device inside a step: whether a step is skipped is decided on the device, and what it was is read
when the next one is under way.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pixelpath import processes
from pixelpath.errors import UserError
from pixelpath.randomness import seed_of
from pixelpath.trainer import shard
from pixelpath.trainer.ema import unwrapped, update
from pixelpath.trainer.optimizer import step_unless
from pixelpath.transfer import to_host
from pixelpath.types import Batch, Losses, Objective, Views

PATIENCE = 10  # skipped steps in a row that end a run
ADVICE = "Lower `optimizer.lr`, limit the gradient's norm (`optimizer.clip`), or choose float32 or bfloat16 as `precision`."
_GLOBAL = 1  # keeps the seeds of torch's global generators apart from those of images, seed_of(run seed, index, position)


@dataclass(frozen=True)
class Outcome:
    """What the device says of a step; see `Step`."""

    losses: dict[str, float]
    gradient_norm: float
    skipped: bool = False
    streak: int = 0


@dataclass(frozen=True, eq=False)
class Step:
    """What one step was.

    `images` counts those of all processes, and `seconds` run from asking for the batch to when the step before is over, which is
    how long a step takes. What is read of the `outcome` waits for the step: `losses` are means over processes and micro-batches;
    "loss" is the total. `gradient_norm` is that before clipping. `streak` counts the skipped steps in a row up to this one.
    """

    number: int
    lr: float
    images: int
    seconds: float
    read: Callable[[], Outcome]

    @cached_property
    def outcome(self) -> Outcome:
        """All that the device says, once it is there."""
        return self.read()

    @property
    def losses(self) -> dict[str, float]:
        return self.outcome.losses

    @property
    def gradient_norm(self) -> float:
        return self.outcome.gradient_norm

    @property
    def skipped(self) -> bool:
        return self.outcome.skipped

    @property
    def streak(self) -> int:
        return self.outcome.streak


class Diverged(UserError):  # noqa: N818 (the word for it)
    """Training went wrong at `step`, and `why`. Code that knows the run's files sets `checkpoint`, which the sentence names."""

    def __init__(self, step: Step, why: str, checkpoint: Path | None = None, advice: str = ADVICE) -> None:
        super().__init__(why, setting="optimizer.lr")
        self.args = step, why, checkpoint, advice
        self.step, self.why, self.checkpoint, self.advice = step, why, checkpoint, advice

    def __str__(self) -> str:
        last = f"the last good checkpoint is {self.checkpoint}" if self.checkpoint else "no checkpoint had been written"
        return f"Training stopped at step {self.step.number}: {self.why}; {last}. {self.advice}"


def distribute(student: nn.Module) -> nn.Module:
    """The student, its gradients averaged over the run's processes (wrapped in DistributedDataParallel if there are several).

    Every process then holds the weights and buffers of the main one, so make the EMA afterwards. One that is sharded is returned
    as it is.
    """
    if processes.count() == 1 or shard.is_sharded(student):
        return student
    device = next(student.parameters()).device
    ids = [device] if device.type == "cuda" else None
    with warnings.catch_warnings():  # torch 2.13 has another name for it, which older versions do not know
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return DistributedDataParallel(student, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True)


def loss_scaler(precision: torch.dtype, device: torch.device) -> torch.amp.GradScaler | None:
    """The scaler that keeps float16 gradients from vanishing; other precisions need none."""
    return torch.amp.GradScaler(device.type) if precision == torch.float16 else None


def train(
    student: nn.Module,
    ema: nn.Module,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    schedule: Callable[[int, int], float],
    batches: Iterator[Batch] | Iterator[Views],
    *,
    first: int,
    steps: int,
    ema_decay: float | Callable[[int], float],
    seed: int,
    clip: float | Callable[[int], float | None] | None = None,
    precision: torch.dtype = torch.float32,
    accumulate: int = 1,
    scaler: torch.amp.GradScaler | None = None,
) -> Iterator[Step]:
    """Take the steps of indices first, ..., steps - 1, and yield each one after its update.

    `batches` begin with the batch of index `first`. `schedule(number, steps)` is the factor of the learning rate; `ema_decay` and
    `clip` (largest norm of the gradient) may be functions of the step's number. Each process's batch is split into `accumulate`
    equal micro-batches, whose gradients are averaged. So the images of an objective must not meet: a Representation has `parts`
    instead. The forward pass is autocast to `precision`; float16 needs a `scaler`. torch's global generators are seeded by (seed,
    index, process), so that dropout is a function of the step. No step waits for the device, unless the optimizer is none of
    `trainer.optimizer`; a step is yielded once the one before it is over.

    Raises Diverged after ten skipped steps in a row, when the next step is under way, or if the last step is skipped, and
    ValueError for arguments that do not go together or if the batches end.
    """
    _check(student, precision, scaler)
    before, reader = None, _Reader()
    for index in range(first, steps):
        started = time.perf_counter()
        number, batch = index + 1, _next(batches, index)
        lr = _set_lr(optimizer, schedule(number, steps))
        buffers = [buffer.clone() for buffer in student.buffers()]
        torch.manual_seed(seed_of(seed, index, processes.rank(), _GLOBAL))
        losses = _backward(student, ema, objective, split(batch, accumulate), index / steps, precision, scaler)
        norm = _norm(student, optimizer, scaler)
        names, values = _measured(losses, norm)
        skipped = values[-2:].isfinite().all().logical_not()
        _restore(student, buffers, skipped)
        _clip(student, norm, clip(number) if callable(clip) else clip)
        step_unless(skipped, optimizer)
        update(ema, student, ema_decay(number) if callable(ema_decay) else ema_decay, skipped)
        read = reader.later(names, values, _updated(scaler, norm))
        _check_goes_on(before, last=False)
        before = Step(number, lr, len(batch.images) * processes.count(), time.perf_counter() - started, read)
        yield before
    _check_goes_on(before, last=True)


class _Reader:
    """What steps were, read in their order."""

    def __init__(self) -> None:
        self.streak = 0

    def later(self, names: list[str], values: Tensor, scale: Tensor) -> Callable[[], Outcome]:
        """From mean losses, gradient norm and the scale of the loss after the step (0: none) to what the step was."""
        found = to_host(torch.cat([values, scale]))

        def read() -> Outcome:
            *losses, norm, factor = found()
            means = dict(zip(names, losses, strict=True))
            skipped = not math.isfinite(means["loss"] + norm)
            # a gradient that overflows float16 halves the scale of the loss: no failure while that can still be halved
            searching = math.isfinite(means["loss"]) and factor > 1
            self.streak = self.streak + 1 if skipped and not searching else 0
            return Outcome(means, norm, skipped, self.streak)

        return read


def _updated(scaler: torch.amp.GradScaler | None, norm: Tensor) -> Tensor:
    """The scale [1] that the scaler has after this step; 0 without one."""
    if scaler is None:
        return torch.zeros_like(norm)[None]
    scaler.update()
    return scaler.scale(torch.ones_like(norm))[None]


def _check_goes_on(step: Step | None, *, last: bool) -> None:
    """Diverged if a step was the last of too many that failed."""
    if step is not None and (step.streak == PATIENCE or (step.streak and last)):
        what = f"loss {step.losses['loss']:g}, gradient norm {step.gradient_norm:g}"
        raise Diverged(step, f"{step.streak} steps in a row had a loss or gradient that was not finite ({what})")


def split(batch: Batch | Views, parts: int) -> list[Batch | Views]:
    """`parts` equal micro-batches in order, with the whole batch's own seed. UserError unless `parts` divides the batch."""
    if parts < 1 or len(batch.images) % parts:
        raise UserError(
            f"A process's batch of {len(batch.images)} images cannot be split into {parts} equal micro-batches: choose a "
            "`batch_size` that is a multiple of processes times `accumulate`.",
            setting="batch_size",
        )
    size = len(batch.images) // parts
    return [batch[start : start + size] for start in range(0, len(batch.images), size)]


def _check(student: nn.Module, precision: torch.dtype, scaler: torch.amp.GradScaler | None) -> None:
    if (precision == torch.float16) != (scaler is not None):
        raise ValueError("float16 needs a loss scaler and other precisions none: pass loss_scaler(precision, device).")
    if processes.count() > 1 and not (isinstance(student, DistributedDataParallel) or shard.is_sharded(student)):
        raise ValueError("Several processes train one student only if their gradients are averaged: pass distribute(student).")
    if scaler is not None and shard.is_sharded(student):
        raise ValueError("A sharded student cannot be trained in float16: choose bfloat16 or float32.")


def _next(batches: Iterator[Batch] | Iterator[Views], index: int) -> Batch | Views:
    batch = next(batches, None)
    if batch is None:
        raise ValueError(f"The batches ended before the step of index {index}: pass an endless iterator, or ask for fewer steps.")
    return batch


def _set_lr(optimizer: torch.optim.Optimizer, factor: float) -> float:
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor  # initial_lr: torch's name for lr before a schedule
    return optimizer.param_groups[0]["lr"]


def _autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[object]:
    return nullcontext() if precision == torch.float32 else torch.autocast(device.type, precision)


def _exchange(student: nn.Module, last: bool) -> AbstractContextManager[object]:
    return nullcontext() if last or not isinstance(student, DistributedDataParallel) else student.no_sync()


def _backward(
    student: nn.Module,
    ema: nn.Module,
    objective: Objective,
    parts: list[Batch | Views],
    progress: float,
    precision: torch.dtype,
    scaler: torch.amp.GradScaler | None,
) -> list[Losses]:
    """Leave the mean gradient of all parts in the student. Processes exchange it once, with the last part."""
    if not student.training:
        student.train()
    student.zero_grad()
    losses = []
    for position, part in enumerate(parts):
        with _exchange(student, position == len(parts) - 1):
            with _autocast(part.images.device, precision):
                losses.append(objective(student, ema, part, progress))
            total = losses[-1].total / len(parts)
            (total if scaler is None else scaler.scale(total)).backward()
    return losses


def _norm(student: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None) -> Tensor:
    """The Euclidean norm of the whole gradient, in its true scale."""
    if scaler is not None:
        scaler.unscale_(optimizer)
    gradients = [parameter.grad for parameter in student.parameters() if parameter.grad is not None]
    return shard.total_norm(gradients)


def _measured(losses: list[Losses], norm: Tensor) -> tuple[list[str], Tensor]:
    """The names of the losses, and their means over micro-batches and processes, then the norm; equal on all processes."""
    named = [{**each.parts, "loss": each.total} for each in losses]
    rows = [torch.stack([value.detach().to(norm) for value in row.values()]) for row in named]
    return list(named[0]), processes.mean(torch.cat([torch.stack(rows).mean(0), norm[None]]))


def _clip(student: nn.Module, norm: Tensor, largest: float | None) -> None:
    if largest is not None:
        shard.clip(list(student.parameters()), largest, norm)


def _restore(student: nn.Module, buffers: list[Tensor], skipped: Tensor) -> None:
    """Undo what the forward passes of a skipped step changed in running statistics."""
    for buffer, before in zip(unwrapped(student).buffers(), buffers, strict=True):
        buffer.copy_(torch.where(skipped, before, buffer))
