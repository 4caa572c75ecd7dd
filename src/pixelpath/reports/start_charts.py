"""The curves of a start: its divergence from the noised data by noise level, its tails, its distances to training images.

*Cross*, *excess* and *direct* are the three estimates of a certificate (evaluation/certificate.py). A quantile is *certified*
where at least 20 held-out images lie beyond it. A *candidate* is one of the starts that were compared, as search.json records it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from pixelpath.evaluation.tails import LEAST, HeldOut, within_reach
from pixelpath.reports.charts import COLOURS, Curve, Frame, chart
from pixelpath.reports.measured import BY_LEVEL
from pixelpath.types import Images

Candidate = Mapping[str, Any]

NATS, BUDGET = "divergence from the noised data, nats", "budget, dashed"
DEPTH = 100  # a certificate is drawn down to the budget by this
DRAWN = 300  # quantiles that are drawn
CONFIDENCE = 0.95
APART = 1.5  # ratio of the ends from which on axes of tails are logarithmic
WIDE = 8  # times the median: a greatest distance beyond is drawn on a logarithmic axis


def certificate_chart(candidates: Sequence[Candidate], chosen: str, sigma: float, budget: float) -> str:
    """The divergence of every candidate that has one against sigma, both logarithmic, with the budget and the chosen sigma."""
    curves = certificate_curves(candidates, chosen, sigma, budget)
    found = any(curve.name != BUDGET for curve in curves)
    return chart(NATS, curves, {"start at sigma": [sigma]}, BY_LEVEL) if found else ""


def certificate_curves(candidates: Sequence[Candidate], chosen: str, sigma: float, budget: float) -> list[Curve]:
    """A curve of cross estimates for each candidate, in a band from a standard error below it to its limit; and the budget.

    The chosen one has a second band, grey, from excess to direct. Estimates below a hundredth of the budget (nats), and those of
    0 or less, which are noise, are left out. Those that a few images decide are dots.
    """
    least, curves, few, drawn = budget / DEPTH, [], [], [sigma]
    for place, candidate in enumerate(candidates):
        rows = [row for row in reversed(candidate["certificate"] or ()) if row["cross"] >= least]
        if not rows:
            continue
        rows.sort(key=lambda row: row["sigma"])
        sigmas, cross, error, limit, excess, direct = (
            np.array([row[key] for row in rows], np.float64)
            for key in ("sigma", "cross", "cross_error", "limit", "excess", "direct")
        )
        drawn += [sigmas[0], sigmas[-1]]
        few += [(row["sigma"], row["cross"]) for row in rows if row["dominated"]]
        name = candidate["name"]
        if name == chosen:
            wide = np.maximum(excess, least), np.maximum(direct, least)
            curves.append(Curve("from its low to its high estimate", sigmas, wide[1], "grey", exact=True, dashed=True, band=wide))
        colour = COLOURS[place % (len(COLOURS) - 1)]  # grey is that of the second band
        band = np.maximum(cross - error, least), limit
        curves.append(Curve(f"{name} (chosen)" if name == chosen else name, sigmas, cross, colour, exact=True, band=band))
    if few:
        places, heights = np.array(sorted(few)).T
        curves.append(Curve("decided by a few images", places, heights, "ink", exact=True, loose=True))
    ends = np.array([min(drawn) / 1.05, max(drawn) * 1.05])
    return [*curves, Curve(BUDGET, ends, np.full(2, budget), "ink", exact=True, dashed=True)]


def quantiles(drawn: Images, held_out_noised: HeldOut) -> dict[str, list[Any]]:
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


def tails_chart(found: Mapping[str, list[Any]], name: str) -> str:
    """The radii of a start's samples against those of held-out images; axes are logarithmic where the radii differ enough."""
    across, up = (np.array(found[key], np.float64) for key in ("across", "up"))
    every = np.concatenate([across, up])
    low = np.array([every.min() if each is None else each for each in found["low"]], np.float64)
    high = np.array([every.max() if each is None else each for each in found["high"]], np.float64)
    expected = f"equal, and where {100 * CONFIDENCE:g} % of samples of the same density lie"
    curves = [
        Curve(expected, across, across, "grey", exact=True, dashed=True, band=(low, high)),
        Curve(f"start {name}", across, up, COLOURS[0], exact=True),
    ]
    if found["certified"]:
        _, places, heights = np.array(sorted(found["certified"])).T
        shares = ", ".join(f"{each[0]:g}" for each in sorted(found["certified"]))
        curves.append(Curve(f"quantiles that can be judged: {shares}", places, heights, COLOURS[1], exact=True, loose=True))
    raised = every.min() > 0 and every.max() >= APART * every.min()
    along = "radius of held-out images, noised (model range)"
    return chart("radius of start samples (model range)", curves, frame=Frame(along, raised=bool(raised)))


def nearest_shares(distances: Float[Tensor, "image"]) -> list[float]:
    """The distances to the nearest training image that 0, 1, ... 100 % of the images keep to."""
    return np.percentile(distances.detach().cpu().double().numpy(), np.arange(101)).tolist()


def neighbours_chart(found: Mapping[str, Mapping[str, Any]]) -> str:
    """For every set of images, the share whose nearest training image is no further away."""
    sets = {name: np.array(each["shares"], np.float64) for name, each in found.items() if "shares" in each}
    curves = [
        Curve(name, values, np.linspace(0, 100, len(values)), COLOURS[place % 5])
        for place, (name, values) in enumerate(sets.items())
    ]
    every = np.concatenate([*sets.values(), np.zeros(0)])
    raised = every.size > 0 and every.min() > 0 and every.max() > WIDE * np.median(every)
    frame = Frame("distance to the nearest training image (model range)", raised=bool(raised), from_zero=True)
    return chart("images no further away, %", curves, frame=frame)


def _ranks(count: int) -> np.ndarray:
    """Rising ranks from 1 to `count`: all, or of many those at both ends, and fewer and fewer towards the middle."""
    if count <= DRAWN:
        return np.arange(1, count + 1)
    below = np.geomspace(1, count // 2, DRAWN // 2).round().astype(np.int64)
    return np.unique(np.concatenate([below, count + 1 - below]))


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


def _beyond(probability: float, count: int) -> int:
    """How many of so many values lie beyond their quantile, the ceil(p n)-th smallest."""
    return math.floor(round((1 - probability) * count, 6))
