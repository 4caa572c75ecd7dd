"""Whether a network remembers its training images: its loss on them against its loss on held-out ones, sigma by sigma.

The *gap* at a sigma is the share by which the loss on training images is lower.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pixelpath.errors import UserError
from pixelpath.evaluation.held_out import HeldOutRow

CERTAIN = 3.0  # standard errors beyond which a gap is not chance, at any of about ten sigmas
NOTABLE = 0.05  # gap from which on more steps are advised against
RISEN = 1.02  # times its minimum: a held-out loss has clearly risen, as its noise is the same at every step


@dataclass(frozen=True)
class GapRow:
    """The losses at one sigma with their standard errors, gap = 1 - training / held out, and the gap over its error."""

    sigma: float
    training: float
    training_error: float
    held_out: float
    held_out_error: float
    gap: float
    gap_error: float
    z: float


def gaps(training: Sequence[HeldOutRow], held_out: Sequence[HeldOutRow]) -> list[GapRow]:
    """The gap at every sigma; UserError unless both were measured at the same ones.

    Its standard error is that of a ratio of independent means: (training / held out) sqrt(e_t^2 / t^2 + e_h^2 / h^2).
    """
    if [row.sigma for row in training] != [row.sigma for row in held_out]:
        raise UserError("Training and held-out losses were measured at different sigmas: measure both at the same ones.")
    return [_gap(ours, theirs) for ours, theirs in zip(training, held_out, strict=True)]


def best_step(steps: Sequence[float], losses: Sequence[float]) -> int | None:
    """The step at which the held-out loss was lowest, if it has clearly risen since then; else None."""
    if len(losses) < 3:
        return None
    values = np.asarray(losses, np.float64)
    lowest = int(values.argmin())
    last = values[max(lowest + 1, len(values) - 3) :]  # up to three, so that one high by chance does not count
    return int(steps[lowest]) if len(last) and last.min() > RISEN * values[lowest] and values[lowest] >= 0 else None


def advice(rows: Sequence[GapRow], best: int | None) -> str:
    """Whether to train on, in one sentence."""
    certain = [row for row in rows if row.z > CERTAIN]
    worst = max(certain, key=lambda row: row.gap, default=None)
    if worst is not None and worst.gap >= NOTABLE:
        sigmas = sorted(row.sigma for row in certain)
        where = f"At sigma {sigmas[0]:.3g}" if len(sigmas) == 1 else f"Between sigma {sigmas[0]:.3g} and {sigmas[-1]:.3g}"
        found = f"{where} the loss on training images is lower by up to {worst.gap:.0%} ({worst.z:.1f} standard errors)"
        instead = "stop about here" if best is None else f"take the checkpoint nearest to step {best:,}"
        return f"{found}: more steps at this size will memorise; {instead}, or train on more images or with --dropout 0.1."
    if best is not None:
        return f"The held-out loss was lowest at step {best:,} and has risen since: take the checkpoint nearest to it."
    if worst is not None:
        return f"The loss on training images is lower by up to {worst.gap:.1%}, which is little: no need to stop."
    return "No sign of memorising: the loss on training images is not lower than on held-out ones."


def _gap(training: HeldOutRow, held_out: HeldOutRow) -> GapRow:
    t, h = training.loss, held_out.loss
    if h <= 0:
        return GapRow(training.sigma, t, training.standard_error, h, held_out.standard_error, 0.0, 0.0, 0.0)
    error = math.hypot(training.standard_error / h, held_out.standard_error * t / h**2)
    gap = 1 - t / h
    z = gap / error if error > 0 else 0.0
    return GapRow(training.sigma, t, training.standard_error, h, held_out.standard_error, gap, error, z)
