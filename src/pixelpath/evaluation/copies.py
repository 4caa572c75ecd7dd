"""Whether samples are copies: how near they come to training images, compared with images that training did not see.

A *view* of an image is the image, or its mirror image where training mirrored images. The *pool* holds training and held-out
images. To a generator that copies nothing, chance decides which of them training saw. A *hit* of a pool image is a sample whose
nearest image in the pool it is; images equally near share it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pixelpath.errors import UserError
from pixelpath.sampling.checks import check_finite

Rows = Float[Tensor, "rows feature"]
Views = Float[Tensor, "view others feature"]
Sets = Sequence[Float[Tensor, "_ _ feature"]]

CHUNK = 2**24  # pairwise distances held at a time
SAME = 1e-10  # of squared lengths: squared distances that differ by less are equal
SHARE = 0.01  # of the held-out images: the nearest to training images
PROBABILITIES = (0.01, 0.1, 0.5)
CERTAIN = 3.0  # standard errors
TELLING = 0.05  # standard error of the share of nearer samples, above which it tells nothing


@dataclass(frozen=True, eq=False)
class Neighbours:
    """For every row the number of the nearest image of a set, which of its views is nearest, and their distance."""

    index: Int[Tensor, "rows"]
    view: Int[Tensor, "rows"]
    distance: Float[Tensor, "rows"]


@dataclass(frozen=True)
class Closeness:
    """How many samples are suspiciously near to training images; errors are standard errors if nothing was copied.

    `closer` is the share of samples that would be nearer to a training image than to any of equally many held-out ones. It is
    1/2 without copying, (1 + c)/2 for a share c of copies. `below` is the share of samples as near to a training image as the
    nearest hundredth of held-out images, `below_expected` what it is without copying.
    """

    closer: float
    closer_error: float
    below: float
    below_error: float
    below_expected: float

    @property
    def copying(self) -> bool:
        """Whether more samples are near to training images than by chance, by a twentieth of them or more."""
        excess = self.closer - 0.5
        return excess > max(0.025, CERTAIN * self.closer_error)

    @property
    def near_copies(self) -> bool:
        """Whether more samples than by chance are as near to a training image as the nearest hundredth of held-out ones."""
        return self.below - self.below_expected > CERTAIN * self.below_error

    @property
    def telling(self) -> bool:
        """Whether there are enough images to tell: copying is certain, or the error of `closer` at most a twentieth."""
        return self.copying or self.closer_error <= TELLING

    def held_out_needed(self, held_out: int) -> int:
        """About how many held-out images, instead of so many, would be telling: the error falls with the root of their number."""
        return math.ceil(held_out * max(1.0, self.closer_error / TELLING) ** 2)


def search(rows: Rows, sets: Sets) -> tuple[list[Neighbours], Float[Tensor, "pool"]]:
    """The nearest neighbours of every row in each of the sets, and the hits of every image of all sets, in this order.

    Distances are Euclidean, to the nearest view; computed in float64 on the CPU. Raises UserError for an empty set or no rows.
    """
    if len(rows) == 0 or not sets or not all(views.shape[1] for views in sets):
        raise UserError("Neighbours need at least one sample, and one image in every set: evaluate or hold out more.")
    for each in (rows, *(views.flatten(0, 1) for views in sets)):
        check_finite(each, "features", "look for NaN in the images, or in the weights of the extractor")
    centre = sets[0].double().mean((0, 1))  # distances do not change, and lose no digits to a large mean
    moved = [views.double() - centre for views in sets]
    lengths = [views.square().sum(2) for views in moved]
    hits = torch.zeros(sum(views.shape[1] for views in sets), dtype=torch.float64)
    parts: list[list[Neighbours]] = []
    for part in rows.split(max(1, CHUNK // sum(views.shape[0] * views.shape[1] for views in sets))):
        moving = part.double() - centre
        squared = [_squared(moving, views, length) for views, length in zip(moved, lengths, strict=True)]
        parts.append([_nearest(moving, views, table) for views, table in zip(moved, squared, strict=True)])
        pooled = torch.cat([table.amin(0) for table in squared], 1)
        near = pooled <= pooled.amin(1, keepdim=True) + SAME * moving.square().sum(1, keepdim=True)
        hits += (near / near.sum(1, keepdim=True)).sum(0)
    return [_joined(found) for found in zip(*parts, strict=True)], hits


def closeness(samples: Float[Tensor, "sample"], held_out: Float[Tensor, "held_out"], hits: Float[Tensor, "pool"]) -> Closeness:
    """Copying, by the distances of samples and held-out images to the nearest training image, and by the hits of the pool.

    With n training images, m held-out ones and the share s of hits that training images have, the share of copies is c = (s -
    p)/(1 - p), p = n/(n + m), for other samples hit a training image with probability p; closer = (1 + c)/2, the same as s
    where m = n. Its error is that of labels "seen" dealt out at random: the sum of the hits h of m of the n + m images has the
    variance m n / ((n + m)(n + m - 1)) sum (h - mean)^2. If k of m held-out images are within the limit, the chance of a sample
    that is like them is Beta(k, m + 1 - k).
    """
    pool, m = len(hits), len(held_out)
    n = pool - m
    p, share = n / pool, float(hits[:n].sum() / hits.sum())
    spread = float((hits - hits.mean()).square().sum()) * m * n / (pool * (pool - 1))
    limit = held_out.sort().values[max(1, math.floor(SHARE * (m + 1))) - 1]
    k = int((held_out <= limit).sum())
    expected, chance = k / (m + 1), k * (m + 1 - k) / ((m + 1) * (m + 2))  # the mean of U and of U (1 - U), U the Beta variable
    return Closeness(
        closer=0.5 + 0.5 * (share - p) / (1 - p),
        closer_error=0.5 * math.sqrt(spread) / float(hits.sum()) / (1 - p),
        below=float((samples <= limit).double().mean()),
        below_error=math.sqrt(chance / (m + 1) + chance / len(samples)),
        below_expected=expected,
    )


def suspects(training: Neighbours, held_out: Neighbours | None, count: int) -> list[int]:
    """The rows nearest to training images, relative to their distance from held-out ones if there are any; nearest first."""
    ratio = training.distance
    if held_out is not None:
        equal = (training.distance == 0) & (held_out.distance == 0)
        ratio = torch.where(equal, 1.0, training.distance / held_out.distance.clamp(min=1e-300))
    return ratio.argsort(stable=True)[:count].tolist()


def quantiles(distances: Float[Tensor, "rows"]) -> dict[str, float]:
    """The smallest distance, and the quantiles of probability .01, .1 and .5."""
    found = torch.quantile(distances.double(), torch.tensor(PROBABILITIES, dtype=torch.float64)).tolist()
    return dict(zip(("least", "hundredth", "tenth", "median"), [float(distances.min()), *found], strict=True))


def _squared(rows: Rows, views: Views, lengths: Float[Tensor, "view others"]) -> Float[Tensor, "view rows others"]:
    own = rows.square().sum(1, keepdim=True)
    return torch.stack([(own + length - 2 * rows @ view.T).clamp(min=0) for view, length in zip(views, lengths, strict=True)])


def _nearest(rows: Rows, views: Views, squared: Float[Tensor, "view rows others"]) -> Neighbours:
    over, view = squared.min(0)
    index = over.argmin(1)
    chosen = view.gather(1, index[:, None]).squeeze(1)
    return Neighbours(index, chosen, (rows - views[chosen, index]).norm(dim=1))  # the table holds rounding errors


def _joined(parts: Sequence[Neighbours]) -> Neighbours:
    return Neighbours(*(torch.cat([vars(part)[name] for part in parts]) for name in ("index", "view", "distance")))
