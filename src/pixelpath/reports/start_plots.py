"""The pictures of a start: its divergence from the noised data at every noise level, its tails, and its samples.

*Cross*, *excess* and *direct* are the three estimates of a certificate (evaluation/certificate.py). A quantile is *certified*
where at least 20 held-out images lie beyond it. *Points* are images [count, 1, 1, values] of two or more values. They are drawn
by their first two values, as places in a plane.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pixelpath.evaluation.certificate import Certificate
from pixelpath.evaluation.tails import LEAST, HeldOut, within_reach
from pixelpath.reports.display import GAP, PERCENTILES, WIDEST, Native, grid
from pixelpath.reports.pictures import (
    BLUE,
    MARKS,
    ORANGE,
    RED,
    blank,
    by_level,
    colours,
    logarithmic,
    plain_numbers,
    rendered,
    styled,
)
from pixelpath.types import Images

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DEPTH = 100  # a certificate is drawn down to the budget by this
SIDE_BY_SIDE, PLACES = 12, 600  # images and points that are shown of each kind
RAW = 200_000  # bytes of images in a picture of four rows, unless that leaves fewer than 3 columns
DRAWN = 300  # quantiles that are drawn
CONFIDENCE = 0.95
LETTERS, ROOM, APART = 15, 30, 4  # pixels: of a name, of its line, and of the space between images
WIDE = 8  # times the median: a greatest value beyond is drawn on logarithmic axes
KINDS = (
    "Held-out images, noised",
    "Start samples",
    "Estimates of the noised images",
    "Estimates of the start samples",
)


def certificate_plot(certificates: Mapping[str, Certificate | None], chosen: str, sigma: float, budget: float) -> Figure:
    """The divergence of every candidate that has one against sigma, both logarithmic, with the budget and the chosen sigma.

    `certificates` are those of the candidates by name, None without a density; `budget` is in nats. A line of cross estimates
    lies inside a band from a standard error below it to its limit, and one from excess to direct. Estimates of 0 or less
    are noise and leave a gap. Red crosses are those that a few images decide.
    """
    figure = blank(4.6)
    axes = figure.add_subplot()
    positive = [row for each in certificates.values() if each is not None for row in each.rows if row.cross > 0]
    least = budget / DEPTH
    for number, (name, certificate) in enumerate(certificates.items()):
        if certificate is not None:
            _draw_certificate(axes, certificate, number, name, least, strong=name == chosen)
    few = [row for row in positive if row.dominated and row.cross >= least]
    if few:
        sigmas, numbers = [row.sigma for row in few], [row.cross for row in few]
        axes.plot(sigmas, numbers, "x", color=RED, markersize=5, zorder=4, label="decided by a few images")
    drawn = [row.sigma for row in positive if row.cross >= least]
    left, right = min([*drawn, sigma / 1.3]) / 1.15, max([*drawn, sigma * 1.3]) * 1.15
    greatest = max([row.limit for row in positive] + [10 * budget]) * 1.3
    by_level(axes)
    logarithmic(axes, np.array([least, greatest]))
    plain_numbers(axes.xaxis, right / left)
    axes.set(xlim=(left, right), ylim=(least, greatest), ylabel="divergence from the noised data, nats")
    axes.axhline(budget, color="black", linestyle=":", linewidth=1.1)
    axes.axvline(sigma, color="black", linestyle="--", linewidth=1.1)
    named: dict[str, Any] = {"textcoords": "offset points", "fontsize": 9}
    axes.annotate(f"budget {budget:g} nats", (1, budget), (-2, 4), xycoords=axes.get_yaxis_transform(), ha="right", **named)
    near = math.log(sigma / left) < 0.3 * math.log(right / left)  # there is no room for a name at the left of the line
    offset, side = ((4, -12), "left") if near else ((-4, 6), "right")
    words, across = f"start at sigma {sigma:.3g}", axes.get_xaxis_transform()
    axes.annotate(words, (sigma, 1 if near else 0), offset, xycoords=across, ha=side, **named)
    if not positive:
        axes.text(0.5, 0.6, "no candidate has a divergence", transform=axes.transAxes, ha="center", fontsize=9)
    return styled(figure, columns=4)


def tails_plot(drawn: Images, held_out_noised: HeldOut, name: str) -> Figure:
    """Radii of start samples against those of held-out images noised to the same sigma, quantile by quantile.

    Radii are about the held-out median image. Axes are logarithmic if the greatest is far from the median.
    """
    figure = blank(5.2)
    axes = figure.add_subplot()
    rows = [each.detach().cpu().double().flatten(1) for each in (held_out_noised, drawn)]
    centre = rows[0].median(0).values
    truth, samples = (np.sort((each - centre).norm(dim=1).numpy()) for each in rows)
    ranks = _ranks(len(samples))
    across = np.quantile(truth, (ranks - 0.5) / len(samples), method="hazen")
    interval = np.array([between(truth, len(samples), rank) for rank in ranks.tolist()]).T
    low, high, wide = _ends(truth, samples)
    band = np.where(np.isfinite(interval), interval, [[low], [high]])
    axes.fill_between(across, *band, color="#d1d5db", linewidth=0, label=f"{100 * CONFIDENCE:g} % of samples of the same density")
    axes.plot([low, high], [low, high], color="black", linewidth=1, linestyle="--", label="equal")
    axes.plot(across, samples[ranks - 1], ".-", color=BLUE, markersize=4, linewidth=1, label=f"start {name}")
    axes.set(xlim=(low, high), ylim=(low, high))
    if wide:
        axes.set(xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            plain_numbers(axis, high / low)
    axes.set(xlabel="radius of held-out images, noised (model range)", ylabel="radius of start samples")
    _mark_certified(axes, truth, samples)
    return styled(figure)


def neighbours_plot(distances: Mapping[str, Float[Tensor, "_"]]) -> Figure:
    """For every name, the share of images whose nearest training image is no further away.

    The axis of distances is logarithmic if the greatest is far from the median.
    """
    figure = blank(3.4)
    axes = figure.add_subplot()
    sets = {name: np.sort(each.detach().cpu().double().numpy()) for name, each in distances.items() if len(each)}
    for number, (name, values) in enumerate(sets.items()):
        shares, colour = 100 * np.arange(len(values) + 1) / len(values), colours()[number % len(colours())]
        axes.step(np.concatenate([values[:1], values]), shares, where="post", color=colour, linewidth=1.5, label=name)
    every = np.concatenate([*sets.values(), np.zeros(0)])
    if every.size and every.max() > WIDE * np.median(every) and every.min() > 0:
        axes.set_xscale("log")
        plain_numbers(axes.xaxis, every.max() / every.min())
    axes.set(ylim=(0, 101), xlabel="distance to the nearest training image (model range)", ylabel="images, %")
    return styled(figure, columns=4)


def side_by_side(
    noised: Images,
    drawn: Images,
    estimates_of_noised: Images,
    estimates_of_drawn: Images,
    decode: Callable[[Images], Native],
) -> Image.Image:
    """Noised held-out images, start samples, and the denoiser's estimates of each, native by `decode`, in four labelled rows.

    Of noisy images, at most three channels are shown. Their display range is even about 0 and reaches to the extreme percentiles
    of the held-out images. Estimates are shown as `display.grid` shows native images. Points are drawn as places instead.
    """
    kinds = (noised, drawn, estimates_of_noised, estimates_of_drawn)
    count = min(shown(tuple(noised.shape[1:])), *map(len, kinds))
    kinds = tuple(each[:count].detach().cpu() for each in kinds)
    estimates = [decode(each) for each in kinds[2:]]
    if _are_points(noised):
        return _places([*kinds[:2], *(torch.as_tensor(each) for each in estimates)])
    visible = 3 if noised.shape[1] in (3, 4) else 1
    end = max(abs(value) for value in _percentiles(kinds[0][:, :visible])) or 1.0
    noisy = grid(torch.cat(kinds[:2])[:, :visible], count, (-end, end))
    clean = grid(torch.cat([torch.as_tensor(each) for each in estimates]), count)
    return _labelled([*_rows(noisy, count), *_rows(clean, count)])


def shown(shape: tuple[int, ...]) -> int:
    """How many images [channel, row, column] of each kind `side_by_side` shows: up to 12, fewer large ones, or 600 points."""
    channels, height, width = shape
    if channels == height == 1 and width > 1:
        return PLACES
    return max(3, min(SIDE_BY_SIDE, RAW // (4 * height * width * min(channels, 3)), WIDEST // (width + GAP)))


def _draw_certificate(axes: Axes, certificate: Certificate, number: int, name: str, least: float, *, strong: bool) -> None:
    """The line of a certificate, of the colour and mark of this number, and its bands; strong for the chosen candidate."""
    rows = [asdict(row) for row in certificate.rows]
    keys = ("sigma", "cross", "cross_error", "limit", "excess", "direct")
    sigma, cross, error, limit, excess, direct = (np.array([row[key] for row in rows], np.float64) for key in keys)
    cross = np.where(cross > 0, cross, np.nan)
    colour, floor, alpha = colours()[number % len(colours())], least / 10, 0.14 if strong else 0.06
    axes.fill_between(sigma, np.maximum(excess, floor), np.maximum(direct, floor), color=colour, alpha=alpha, linewidth=0)
    axes.fill_between(sigma, np.maximum(cross - error, floor), limit, color=colour, alpha=0.3, linewidth=0)
    (line,) = axes.plot(sigma, cross, f"{MARKS[number % len(MARKS)]}-", color=colour, markersize=4.5)
    line.set(markevery=(number % 4, 4), linewidth=2.2 if strong else 1.2, zorder=3 if strong else 2)
    line.set_label(f"{name} (chosen)" if strong else name)


def _ends(truth: np.ndarray, samples: np.ndarray) -> tuple[float, float, bool]:
    """Where axes of sorted radii begin and end, and whether they are logarithmic; those leave out the smallest hundredth."""
    high = max(truth[-1], samples[-1])
    lowest = min(np.quantile(each, 0.01) for each in (truth, samples))
    if high > WIDE * np.median(truth) and lowest > 0:
        return lowest / 1.1, high * 1.1, True
    low = min(truth[0], samples[0])
    margin = 0.03 * (high - low) or 1.0
    return low - margin, high + margin, False


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


def _mark_certified(axes: Axes, truth: np.ndarray, samples: np.ndarray) -> None:
    """Rings and names of the certified quantiles, on the side of the curve where neither it nor the line `equal` is."""
    reached = [each for each in within_reach(len(truth)) if _beyond(each, len(truth)) >= LEAST]
    places = [tuple(float(each[-1 - _beyond(probability, len(each))]) for each in (truth, samples)) for probability in reached]
    for number, (probability, (across, up)) in enumerate(zip(reached, places, strict=True)):
        label = "certified quantile" if number == 0 else None
        axes.plot([across], [up], "o", color=RED, markersize=9, fillstyle="none", markeredgewidth=1.4, zorder=4, label=label)
        offset, side = ((-8, 4), "right") if up >= across else ((8, -10), "left")
        axes.annotate(f"{probability:g}", (across, up), offset, textcoords="offset points", ha=side, fontsize=9, color=RED)


def _beyond(probability: float, count: int) -> int:
    """How many of so many values lie beyond their quantile, the ceil(p n)-th smallest."""
    return math.floor(round((1 - probability) * count, 6))


def _are_points(images: Images) -> bool:
    return images.shape[1] == images.shape[2] == 1 and images.shape[3] > 1


def _percentiles(values: Tensor) -> list[float]:
    return np.percentile(values.double().numpy(), PERCENTILES).tolist()


def _rows(picture: Image.Image, count: int) -> list[Image.Image]:
    """The two rows of a grid of twice `count` images, with white between these, made smaller where wider than WIDEST."""
    width, height = (picture.width + GAP) // count, (picture.height + GAP) // 2
    rows = [Image.new("RGB", ((width + APART) * count - APART - GAP, height - GAP), "white") for _ in range(2)]
    for down, row in enumerate(rows):
        for across in range(count):
            left, top = across * width, down * height
            row.paste(picture.crop((left, top, left + width - GAP, top + height - GAP)), (left + across * APART, 0))
    smaller = min(1, (WIDEST + APART * count) / rows[0].width)
    size = round(rows[0].width * smaller), max(1, round(rows[0].height * smaller))
    return rows if smaller == 1 else [row.resize(size, Image.Resampling.LANCZOS) for row in rows]


def _labelled(rows: Sequence[Image.Image]) -> Image.Image:
    """Rows of images below one another, each under its name."""
    from matplotlib.font_manager import findfont

    font = ImageFont.truetype(findfont("DejaVu Sans"), LETTERS)
    width = max(*(row.width for row in rows), *(math.ceil(font.getlength(name)) for name in KINDS))
    canvas = Image.new("RGB", (width, sum(row.height + ROOM for row in rows)), "white")
    top = 0
    for name, row in zip(KINDS, rows, strict=True):
        ImageDraw.Draw(canvas).text((0, top + (ROOM - LETTERS) // 2), name, fill="black", font=font)
        canvas.paste(row, (0, top + ROOM))
        top += row.height + ROOM
    return canvas


def _places(kinds: Sequence[Tensor]) -> Image.Image:
    """Points in four planes, the noisy ones to one scale and their estimates to another, each about the held-out ones."""
    figure = blank(7.6)
    for number, (axes, name) in enumerate(zip(figure.subplots(2, 2).flat, KINDS, strict=True)):
        first, second = (kinds[number].flatten(1)[:, place].double().numpy() for place in (0, 1))
        limits = [_around(kinds[number - number % 2].flatten(1)[:, place]) for place in (0, 1)]
        inside = (first >= limits[0][0]) & (first <= limits[0][1]) & (second >= limits[1][0]) & (second <= limits[1][1])
        beyond = f" ({len(inside) - inside.sum():,} of {len(inside):,} further out)" if not inside.all() else ""
        axes.plot(first, second, "o", color=(BLUE, ORANGE)[number % 2], markersize=2.5, alpha=0.5, markeredgewidth=0)
        axes.set(xlim=limits[0], ylim=limits[1], xlabel="first value", ylabel="second value")
        axes.set_title(name + beyond, loc="left", fontsize=9)
    return rendered(styled(figure))


def _around(values: Tensor) -> tuple[float, float]:
    """From percentile to percentile, and a tenth beyond."""
    low, high = _percentiles(values)
    margin = 0.1 * (high - low) or 1.0
    return low - margin, high + margin
