"""How a run proceeds: a generator that takes one step of training after another and knows no files.

A step's *index* counts from 0 (batches), its *number* from 1 (schedules). Its *progress*, index / steps, is what objectives get.
A step whose loss or gradient is not finite is *skipped*: it leaves student, EMA and optimizer as they were.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pixelpath import processes
from pixelpath.errors import UserError
from pixelpath.randomness import seed_of
from pixelpath.trainer import shard
from pixelpath.trainer.ema import unwrapped, update
from pixelpath.types import Batch, Losses, Objective, Views

PATIENCE = 10  # skipped steps in a row that end a run
ADVICE = "Lower `optimizer.lr`, limit the gradient's norm (`optimizer.clip`), or choose float32 or bfloat16 as `precision`."
_GLOBAL = 1  # keeps the seeds of torch's global generators apart from those of images, seed_of(run seed, index, position)


@dataclass(frozen=True)
class Step:
    """What one step was.

    `losses` are means over processes and micro-batches; "loss" is the total. `gradient_norm` is that before clipping, `images`
    counts those of all processes, and `seconds` run from asking for the batch to the update. `streak` counts the skipped steps
    in a row up to this one.
    """

    number: int
    losses: dict[str, float]
    gradient_norm: float
    lr: float
    skipped: bool
    images: int
    seconds: float
    streak: int = 0


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
    return DistributedDataParallel(student, device_ids=[device] if device.type == "cuda" else None, broadcast_buffers=False)


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
    index, process), so that dropout is a function of the step. A step waits for the device once.

    Raises Diverged after ten skipped steps in a row, or if the last step is skipped, and ValueError for arguments that do not go
    together or if the batches end.
    """
    _check(student, precision, scaler)
    failures = 0
    for index in range(first, steps):
        started = time.perf_counter()
        number, batch = index + 1, _next(batches, index)
        lr = _set_lr(optimizer, schedule(number, steps))
        before = [buffer.clone() for buffer in student.buffers()]
        torch.manual_seed(seed_of(seed, index, processes.rank(), _GLOBAL))
        losses = _backward(student, ema, objective, split(batch, accumulate), index / steps, precision, scaler)
        norm = _norm(student, optimizer, scaler)
        means, gradient_norm = _measure(losses, norm)
        skipped = not math.isfinite(means["loss"] + gradient_norm)
        if skipped:
            _restore(student, before)
        else:
            _clip(student, norm, clip(number) if callable(clip) else clip)
            optimizer.step()
            update(ema, student, ema_decay(number) if callable(ema_decay) else ema_decay)
        if scaler is not None:
            scaler.update()
        # a gradient that overflows float16 halves the scale of the loss: no failure while that can still be halved
        searching = scaler is not None and math.isfinite(means["loss"]) and scaler.get_scale() > 1
        failures = failures + 1 if skipped and not searching else 0
        images = len(batch.images) * processes.count()
        step = Step(number, means, gradient_norm, lr, skipped, images, time.perf_counter() - started, failures)
        yield step
        if failures == PATIENCE or (failures and number == steps):
            what = f"loss {means['loss']:g}, gradient norm {gradient_norm:g}"
            raise Diverged(step, f"{failures} steps in a row had a loss or gradient that was not finite ({what})")


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


def _measure(losses: list[Losses], norm: Tensor) -> tuple[dict[str, float], float]:
    """Mean losses over micro-batches and processes, and the norm, in one transfer from the device; equal on all processes."""
    named = [{**each.parts, "loss": each.total} for each in losses]
    rows = [torch.stack([value.detach().to(norm) for value in row.values()]) for row in named]
    values = processes.mean(torch.cat([torch.stack(rows).mean(0), norm[None]])).tolist()
    return dict(zip(named[0], values[:-1], strict=True)), values[-1]


def _clip(student: nn.Module, norm: Tensor, largest: float | None) -> None:
    if largest is not None:
        shard.clip(list(student.parameters()), largest, norm)


def _restore(student: nn.Module, buffers: list[Tensor]) -> None:
    """Undo what the forward passes of a skipped step changed in running statistics."""
    for buffer, before in zip(unwrapped(student).buffers(), buffers, strict=True):
        buffer.copy_(before)
