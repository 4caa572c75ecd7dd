"""Sigmas learned for a denoiser and a number of steps: a sampler over them ends where a fine trajectory from the same noise ends.

That is the aim of LD3 (Tong et al. 2024, arXiv 2405.15506). Here it is a nonlinear least-squares problem in the few gaps between
the sigmas, solved by the method of Gauss and Newton with differences for derivatives, so that any sampler and denoiser will do.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import least_squares
from torch import Tensor

from pixelpath.sampling.samplers import SigmaSchedule, checked
from pixelpath.types import Images

ROUNDS = 5  # of Gauss and Newton
DIFFERENCE = 0.02  # of a logarithm of a gap: float32 images tell smaller ones badly
NARROWEST = 0.01  # share of the way from the first sigma to the lowest that a gap is taken to have at first, at least
REACH = 6.0  # furthest that a logarithm of a gap goes from 0

Gaps = Float[np.ndarray, "gap"]
"""Logarithms of the gaps between the logarithms of sigmas, less that of the first gap."""


def learned_sigmas(
    draw: Callable[[SigmaSchedule], Images], fine: Images, sigmas: SigmaSchedule, lowest: float, rounds: int = ROUNDS
) -> Float[Tensor, "sigmas"]:
    """Sigmas of as many steps, from the same first one to 0, whose images are nearest to `fine` in the mean square.

    `draw(sigmas)` makes images over sigmas, always from the same noise at the first one; `fine` are those of many steps. The
    result falls strictly and stays above `lowest` until it ends in 0. Costs about `rounds` x steps calls of `draw`. Raises
    UserError unless `sigmas` fall strictly.
    """
    levels = checked(sigmas)[:-1]
    first, count = float(levels[0]), len(levels)
    if count < 2:
        return checked(sigmas)
    target = fine.double().cpu()

    def schedule(gaps: Gaps) -> SigmaSchedule:
        shares = np.exp(np.concatenate([[0.0], gaps]))
        below = np.cumsum(shares)[:-1] / shares.sum() * np.log(first / lowest)
        return torch.from_numpy(np.concatenate([[first], first * np.exp(-below), [0.0]]))

    def residual(gaps: Gaps) -> Float[np.ndarray, "value"]:
        apart = draw(schedule(gaps)).double().cpu() - target
        return apart.flatten().numpy() / np.sqrt(apart.numel())

    def slopes(gaps: Gaps) -> Float[np.ndarray, "value gap"]:
        here = residual(gaps)
        return np.stack([(residual(gaps + step) - here) / DIFFERENCE for step in DIFFERENCE * np.eye(len(gaps))], 1)

    widths = -np.diff(np.log(np.append(levels.numpy(), lowest)))
    widths = np.maximum(widths, NARROWEST * widths.sum())
    start = np.clip(np.log(widths[1:] / widths[0]), -REACH, REACH)
    found = least_squares(residual, start, slopes, (-REACH, REACH), max_nfev=rounds)  # pyright: ignore[reportArgumentType]
    return schedule(found.x)
