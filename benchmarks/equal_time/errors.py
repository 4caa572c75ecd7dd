"""The error of a denoiser at every noise level: where two trained networks differ, told more exactly than by any distance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.equal_time.classifier import some
from benchmarks.equal_time.jobs import DataSet
from benchmarks.equal_time.systems import AT_ONCE
from benchmarks.equal_time.unets import EDM
from pixelpath.errors import UserError
from pixelpath.randomness import Streams, normal, seed_of
from pixelpath.runs.folder import holds_run
from pixelpath.runs.opened import open_run

SIGMAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 12.0)  # shifted
Estimate = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def estimate_of(folder: Path, data: DataSet, other: object) -> Estimate:
    """The denoiser of a job, or of a run of pixelpath; `other` is the system of a job whose network is none of pixelpath."""
    run = folder / "run" if holds_run(folder / "run") else folder
    if holds_run(run):
        return open_run(run, device=torch.device("cpu")).denoiser
    if not isinstance(other, EDM):
        raise UserError(
            f"{folder} is no run, and only the UNets under EDM estimate clean images: choose edm-small or edm-large.",
            setting="system",
        )
    return other.restored(data.data, folder)


@torch.no_grad()
def errors(estimate: Estimate, data: DataSet, count: int) -> list[float]:
    """The mean squared error per value at each of SIGMAS, of `count` held-out images, each under one noise of its own."""
    images, labels = some(data.data, "held_out", count)
    clean = data.data.normaliser.encode(images)
    noise = normal(Streams([seed_of(index) for index in range(len(clean))]), clean.shape[1:])
    found = []
    for sigma in SIGMAS:
        total = 0.0
        for part in range(0, len(clean), AT_ONCE):
            own = slice(part, part + AT_ONCE)
            given = labels[own] if data.data.classes else None
            estimated = estimate(clean[own] + sigma * noise[own], torch.full((len(clean[own]),), sigma), given)
            total += float((estimated.float() - clean[own]).square().sum())
        found.append(total / clean.numel())
    return found
