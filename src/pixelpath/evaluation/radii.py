"""Radii of samples against those of held-out images, quantile by quantile, and where chance would leave them.

A *radius* is the distance of an image from the held-out median image. A quantile is *certified* where at least 20 held-out images
lie beyond it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pixelpath.evaluation.tails import LEAST, HeldOut, within_reach
from pixelpath.types import Images

MOST = 300  # quantiles that are told
CONFIDENCE = 0.95


def radius_quantiles(drawn: Images, held_out_noised: HeldOut) -> dict[str, list[Any]]:
    """Radii of start samples (up) and of held-out images noised to the same sigma (across), quantile by quantile, JSON-ready.

    Radii are about the held-out median image. Of samples of the same density 95 % would lie from `low` to `high`, which are None
    where no held-out image lies so far. `certified` are [probability, across, up] of the quantiles that can be judged.
    """
    rows = [each.detach().cpu().double().flatten(1) for each in (held_out_noised, drawn)]
    centre = rows[0].median(0).values
    truth, samples = (np.sort((each - centre).norm(dim=1).numpy()) for each in rows)
    ranks = _ranks(len(samples))
    ends = np.array([between(truth, len(samples), rank) for rank in ranks.tolist()]).T
    low, high = ([value if math.isfinite(value) else None for value in side] for side in ends.tolist())
    reached = [each for each in within_reach(len(truth)) if _beyond(each, len(truth)) >= LEAST]
    return {
        "across": np.quantile(truth, (ranks - 0.5) / len(samples), method="hazen").tolist(),
        "up": samples[ranks - 1].tolist(),
        "low": low,
        "high": high,
        "certified": [[each, *(float(side[-1 - _beyond(each, len(side))]) for side in (truth, samples))] for each in reached],
    }


def between(truth: np.ndarray, count: int, rank: int) -> tuple[float, float]:
    """Where the rank-th smallest of `count` samples of the density of `truth` (sorted) falls with a probability of 95 %.

    The number of true values below it is beta-binomial, BetaBinomial(n, rank, count - rank + 1) for n true ones, whatever the
    density. That gives the ranks of the true values around it. The ends are infinite where no true value is far enough.
    """
    from scipy.special import betaln, gammaln

    total, below = len(truth), np.arange(len(truth) + 1)
    logarithms = betaln(below + rank, total - below + count - rank + 1) - betaln(rank, count - rank + 1)
    logarithms += gammaln(total + 1) - gammaln(below + 1) - gammaln(total - below + 1)
    so_far = np.exp(logarithms).cumsum()
    first = int(np.searchsorted(so_far, (1 - CONFIDENCE) / 2, side="right"))
    last = int(np.searchsorted(so_far, (1 + CONFIDENCE) / 2)) + 1
    return float(truth[first - 1]) if first else -math.inf, float(truth[last - 1]) if last <= total else math.inf


def _ranks(count: int) -> np.ndarray:
    """Rising ranks from 1 to `count`: all, or of many those at both ends, and fewer and fewer towards the middle."""
    if count <= MOST:
        return np.arange(1, count + 1)
    below = np.geomspace(1, count // 2, MOST // 2).round().astype(np.int64)
    return np.unique(np.concatenate([below, count + 1 - below]))


def _beyond(probability: float, count: int) -> int:
    """How many of so many values lie beyond their quantile, the ceil(p n)-th smallest."""
    return math.floor(round((1 - probability) * count, 6))
