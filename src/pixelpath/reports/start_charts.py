"""The curves of a start: its divergence from the noised data by noise level, its tails, its distances to training images.

*Cross*, *excess* and *direct* are the three estimates of a certificate (evaluation/certificate.py). A quantile is *certified*
where at least 20 held-out images lie beyond it. A *candidate* is one of the starts that were compared, as search.json records it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pixelpath.evaluation.radii import CONFIDENCE
from pixelpath.reports.charts import COLOURS, Curve, Frame, chart
from pixelpath.reports.measured import BY_LEVEL

Candidate = Mapping[str, Any]

NATS, BUDGET = "divergence from the noised data, nats", "budget, dashed"
DEPTH = 100  # a certificate is drawn down to the budget by this
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
