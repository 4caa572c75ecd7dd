"""Images that occur twice, or nearly, within a set and across its split.

The *difference* of two images a and b, each less its own mean, is sqrt(mean |a - b|^2 / ((var a + var b) / 2)): 0 for copies,
about 1.4 for unrelated images, whatever their brightness. Signatures (see `survey`) find neighbours by it, and pixels confirm
them. The difference of an image of one value to any other is inf.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from pixelpath.log import followed

NEAR = 0.15  # difference below which images are nearly the same, a correlation of 0.989
CHUNK = 2**23  # differences held at a time
CLOSE = (200, 100, 20)  # images are close by if they are at most such a part of all images apart in order
LEAST, TIMES = 0.2, 3.0  # order matters if this share of the nearest is close by, and so many times chance

Signatures = Float[np.ndarray, "image channel block columns"]
View = Callable[[np.ndarray], np.ndarray]

AS_IS: dict[str, View] = {"as it is": lambda planes: planes}
MIRRORED: dict[str, View] = {
    "mirrored left to right": lambda planes: planes[..., ::-1],
    "mirrored top to bottom": lambda planes: planes[..., ::-1, :],
    "turned by half": lambda planes: planes[..., ::-1, ::-1],
}
TURNED: dict[str, View] = {
    "turned left": lambda planes: np.rot90(planes, 1, (-2, -1)),
    "turned right": lambda planes: np.rot90(planes, -1, (-2, -1)),
    "mirrored at the falling diagonal": lambda planes: planes.swapaxes(-2, -1),
    "mirrored at the rising diagonal": lambda planes: np.rot90(planes, 2, (-2, -1)).swapaxes(-2, -1),
}


@dataclass(frozen=True, eq=False)
class Nearest:
    """For every image the number of the nearest other, the view in which it is nearest, and their difference (inf: none)."""

    index: Int[np.ndarray, "image"]
    view: tuple[str, ...]
    difference: Float[np.ndarray, "image"]


@dataclass(frozen=True)
class Pair:
    """The view `view` of image `first` is nearly image `second`."""

    first: int
    second: int
    view: str
    difference: float


def groups_of(digests: Shaped[np.ndarray, "image"], left_out: Bool[np.ndarray, "image"]) -> list[list[int]]:
    """The groups of two or more images with equal hashes, the largest first; `left_out` are in none."""
    found: dict[bytes, list[int]] = {}
    for number in np.flatnonzero(~left_out):
        found.setdefault(bytes(digests[number]), []).append(int(number))
    return sorted((group for group in found.values() if len(group) > 1), key=lambda group: (-len(group), group[0]))


def shared(
    ours: Shaped[np.ndarray, "image"], theirs: Shaped[np.ndarray, "other"], left_out: Bool[np.ndarray, "image"]
) -> list[tuple[int, int]]:
    """Every image of ours that is among theirs, with its first copy there; `left_out` are not looked for."""
    places: dict[bytes, int] = {}
    for number, digest in enumerate(theirs):
        places.setdefault(bytes(digest), number)
    return [(int(n), places[bytes(ours[n])]) for n in np.flatnonzero(~left_out) if bytes(ours[n]) in places]


def views_of(rows: int, columns: int, turned: bool) -> dict[str, View]:
    """The image as it is, or with its mirror images and, where it is square, its turned ones."""
    if not turned:
        return AS_IS
    return AS_IS | MIRRORED | (TURNED if rows == columns else {})


def nearest(
    images: Signatures, among: Float[np.ndarray, "other channel block columns"] | None = None, views: dict[str, View] = AS_IS
) -> Nearest:
    """The nearest of `among` (None: of the other images), by signatures."""
    others = images if among is None else among
    rows = np.ascontiguousarray(others.reshape(len(others), -1), np.float32)
    lengths = np.square(rows).sum(1)
    names = np.array(list(views))
    index, view, best = np.zeros(len(images), np.int64), np.zeros(len(images), np.int64), np.full(len(images), np.inf)
    step = max(1, CHUNK // max(1, len(rows)))
    places = [(number, look, first) for number, look in enumerate(views.values()) for first in range(0, len(images), step)]
    for number, look, first in followed(places, "nearest images", len(places)):
        part = np.ascontiguousarray(look(images[first : first + step])).reshape(-1, rows.shape[1]).astype(np.float32)
        table = _table(part, rows, lengths)
        if among is None:
            table[np.arange(len(part)), first + np.arange(len(part))] = np.inf
        place = table.argmin(1)
        value = table[np.arange(len(part)), place]
        better = np.flatnonzero(value < best[first : first + step])
        index[first + better], view[first + better], best[first + better] = place[better], number, value[better]
    return Nearest(index, tuple(names[view].tolist()), np.sqrt(np.maximum(best, 0)))


def difference(
    first: Shaped[np.ndarray, "channel row column"],
    second: Shaped[np.ndarray, "channel row column"],
    scale: Float[np.ndarray, "channel"],
) -> float:
    """The difference of two native images by their pixels, channels in units of `scale`; NaN counts as the mean."""
    a, b = (_centred(image) / scale[:, None, None] for image in (first, second))
    both = (np.square(a).mean() + np.square(b).mean()) / 2
    return float(np.sqrt(np.square(a - b).mean() / both)) if both > 0 else float("inf")


def confirmed(
    found: Nearest,
    read: Callable[[int], np.ndarray],
    other: Callable[[int], np.ndarray],
    scale: Float[np.ndarray, "channel"],
    most: int,
    *,
    within: bool,
) -> list[Pair]:
    """Of the `most` nearest pairs by signatures, those nearer than NEAR by signatures and by pixels; nearest first.

    `read` and `other` give the native images of both sides, and `scale` is the std of each channel. `within` one set a pair is
    named once.
    """
    views = AS_IS | MIRRORED | TURNED
    pairs, seen = [], set()
    order = np.argsort(found.difference, kind="stable")
    near = order[found.difference[order] < NEAR]
    for first in followed(near, "near pairs", len(near)):
        if len(seen) >= most:
            break
        second = int(found.index[first])
        key = (min(int(first), second), max(int(first), second)) if within else (int(first), second)
        if key in seen:
            continue
        seen.add(key)
        view = found.view[first]
        apart = difference(views[view](read(int(first))), other(second), scale)
        if apart < NEAR:
            pairs.append(Pair(int(first), second, view, apart))
    return sorted(pairs, key=lambda pair: pair.difference)


@dataclass(frozen=True)
class Order:
    """The share of the images whose nearest is at most `width` places away in order, and what it would be by chance."""

    width: int
    share: float
    chance: float

    @property
    def matters(self) -> bool:
        """Whether images close by in order are alike, as in a series in time."""
        return self.share > LEAST and self.share > TIMES * self.chance


def in_order(found: Nearest, places: Int[np.ndarray, "image"], labels: Int[np.ndarray, "image"]) -> Order:
    """Whether the nearest are close by in order, and whether another image of the same class would be, by chance."""
    near = np.flatnonzero(np.isfinite(found.difference))
    if len(near) == 0:
        return Order(0, 0.0, 0.0)
    stand_in, numbers = found.index[near].copy(), np.random.default_rng(0)
    for label in np.unique(labels[stand_in]):
        here, same = labels[stand_in] == label, np.flatnonzero(labels == label)
        stand_in[here] = same[numbers.integers(len(same), size=int(here.sum()))]
    orders = []
    for part in CLOSE:
        width = max(2, len(places) // part)
        shares = [float((np.abs(places[other] - places[near]) <= width).mean()) for other in (found.index[near], stand_in)]
        orders.append(Order(width, *shares))
    return max(orders, key=lambda order: (order.matters, order.share / max(order.chance, 1 / len(near))))


def chosen_runs(count: int, most: int, length: int = 50) -> Int[np.ndarray, "chosen"]:
    """At most `most` of the numbers below `count`: all, or evenly spread runs of neighbours, so that order shows."""
    if count <= most:
        return np.arange(count)
    firsts = np.linspace(0, count - length, most // length).round().astype(np.int64)
    return np.unique((firsts[:, None] + np.arange(length)).reshape(-1))


def _centred(image: np.ndarray) -> np.ndarray:
    planes = image.astype(np.float64)
    planes = np.where(np.isfinite(planes), planes, np.nan)
    with np.errstate(invalid="ignore"):
        counts = np.isfinite(planes).sum((1, 2), keepdims=True)
        means = np.nansum(planes, (1, 2), keepdims=True) / np.maximum(counts, 1)
    return np.nan_to_num(planes - means, nan=0.0)


def _table(rows: np.ndarray, others: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Squared differences of all pairs; inf where one of the two is of one value throughout."""
    own = np.square(rows).sum(1)[:, None]
    both = (own + lengths) / 2
    table = np.divide(own + lengths - 2 * (rows @ others.T), both, out=np.full(both.shape, np.inf, np.float32), where=both > 0)
    table[(own <= 0).ravel()] = np.inf
    table[:, lengths <= 0] = np.inf
    return table
