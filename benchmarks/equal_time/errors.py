"""The error of a denoiser at every noise level: where two trained networks differ, told more exactly than by any distance."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.equal_time.classifier import some
from benchmarks.equal_time.jobs import DataSet
from benchmarks.equal_time.systems import AT_ONCE
from benchmarks.equal_time.unets import EDM
from pixelpath.errors import UserError
from pixelpath.evaluation.held_out import held_out_loss
from pixelpath.randomness import seed_of
from pixelpath.runs.folder import holds_run
from pixelpath.runs.opened import open_run
from pixelpath.types import ConditionalDenoise

SIGMAS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 12.0)  # shifted


def estimate_of(folder: Path, data: DataSet, other: object) -> ConditionalDenoise:
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


def errors(estimate: ConditionalDenoise, data: DataSet, count: int) -> list[float]:
    """The mean squared error per value at each of SIGMAS, of `count` held-out images."""
    images, labels = some(data.data, "held_out", count)
    normaliser, seeds = data.data.normaliser, [seed_of(index) for index in range(len(images))]
    known = labels if data.data.classes else None
    clean, valid = normaliser.encode(images), normaliser.valid(images)
    return [row.loss for row in held_out_loss(estimate, clean, known, SIGMAS, seeds, AT_ONCE, valid=valid)]
