"""How far apart two sets of images are, measured on their features.

*Frechet distance*: between Gaussians of equal mean and covariance. *Kernel distance*: squared maximum mean discrepancy.
*Precision*: the share of generated images among the real ones; *recall*: the share of real images among the generated ones.
*Density* and *coverage* are their kin that single outliers do not spoil. Features that are not finite are an error everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pixelpath.errors import UserError
from pixelpath.evaluation import statistics
from pixelpath.evaluation.statistics import Moments, Statistics
from pixelpath.randomness import Streams, permutation, seed_of
from pixelpath.sampling.checks import check_finite

CHUNK = 2**24  # pairwise distances held at a time
JUDGED = 10_000  # images of a set, at most, whose neighbours are looked for
FAR = 1e6  # stds from 0, beyond which kernel distances lose their digits


def frechet(first: Statistics | Moments, second: Statistics | Moments) -> float:
    """The squared Frechet distance |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^(1/2) C2 C1^(1/2))^(1/2)) of two Gaussians.

    Dowson and Landau 1982; on Inception features it is the FID of Heusel et al. 2017 (arXiv 1706.08500). The trace of the
    root is the sum of the roots of the eigenvalues of a symmetric matrix, so no matrix root that could turn complex is taken.
    Raises UserError if the features differ in width or a set has fewer than two images.
    """
    if first.mean.shape != second.mean.shape:
        raise UserError(
            f"A Frechet distance needs features of one width, got {len(first.mean)} and {len(second.mean)}: "
            "use one extractor for both."
        )
    spread, directions = torch.linalg.eigh(first.covariance)
    root = directions * spread.clamp(min=0).sqrt()  # C1 = root root^T: root^T C2 root is C1^(1/2) C2 C1^(1/2) but for a rotation
    shared = torch.linalg.eigvalsh(root.T @ second.covariance @ root).clamp(min=0).sqrt().sum()
    return _frechet(first.mean - second.mean, first.covariance.trace() + second.covariance.trace(), shared)


def frechet_of_rows(first: Float[Tensor, "first feature"], second: Float[Tensor, "second feature"]) -> float:
    """The same distance of two sets of features, quick where there are fewer images than features.

    With centred rows A_i, C_i = A_i^T A_i / (n_i - 1), and the trace of the root is the sum of the singular values of
    A_1 A_2^T, divided by the root of (n_1 - 1)(n_2 - 1). Raises UserError for fewer than two images in a set.
    """
    if len(first) < 2 or len(second) < 2:
        raise UserError(f"A Frechet distance needs at least 2 images of each set, got {len(first)} and {len(second)}.")
    rows = [_rows(each) for each in (first, second)]
    centred = [(each - each.mean(0)) / (len(each) - 1) ** 0.5 for each in rows]
    spread = centred[0].square().sum() + centred[1].square().sum()
    return _frechet(rows[0].mean(0) - rows[1].mean(0), spread, torch.linalg.svdvals(centred[0] @ centred[1].T).sum())


def frechet_of_sets(first: Tensor | Moments | Statistics, second: Tensor | Moments | Statistics) -> float:
    """The same distance of two sets, each features [image, feature] or what is known of such, in the quickest way.

    Of fewer rows A = (x - mean) / (n - 1)^(1/2) than features and a covariance C, the trace of the root is the sum of the roots
    of the eigenvalues of A C A^T. Raises UserError as `frechet`.
    """
    if not isinstance(first, Tensor):
        if not isinstance(second, Tensor):
            return frechet(first, second)
        first, second = second, first
    width = first.shape[1]
    if len(first) >= width or (width,) != (second.shape[1:] if isinstance(second, Tensor) else second.mean.shape):
        many = statistics.of(second) if isinstance(second, Tensor) else second
        return frechet(statistics.of(first), many)
    if isinstance(second, Tensor):
        return frechet_of_rows(first, second)
    if len(first) < 2:
        raise UserError(f"A Frechet distance needs at least 2 images, got {len(first)}.")
    rows = _rows(first)
    centred = (rows - rows.mean(0)) / (len(rows) - 1) ** 0.5
    shared = torch.linalg.eigvalsh(centred @ second.covariance @ centred.T).clamp(min=0).sqrt().sum()
    return _frechet(rows.mean(0) - second.mean, centred.square().sum() + second.covariance.trace(), shared)


def _frechet(between: Float[Tensor, "feature"], spread: Tensor, shared: Tensor) -> float:
    """|m1 - m2|^2 + tr(C1 + C2) - 2 tr of the root, which rounding may take below 0."""
    return max(0.0, float(between.square().sum() + spread - 2 * shared))


@dataclass(frozen=True)
class KernelDistance:
    """The mean and std of the kernel distance over `subsets` random subsets of `size` images from each set."""

    mean: float
    std: float
    subsets: int
    size: int


def kernel(
    first: Float[Tensor, "first feature"],
    second: Float[Tensor, "second feature"],
    subsets: int = 100,
    size: int = 1000,
    seed: int = 2020,
) -> KernelDistance:
    """The unbiased squared maximum mean discrepancy under the kernel (x.y / width + 1)^3.

    Binkowski et al. 2018 (arXiv 1801.01401): over `subsets` subsets of `size` images (at most as many as the smaller set has)
    drawn without replacement, the same ones as torch-fidelity draws for these counts and this seed. Its expectation does not
    depend on the counts, so it needs no floor; it can be negative. Raises UserError for fewer than two images.
    """
    size = min(size, len(first), len(second))
    if size < 2 or subsets < 1:
        raise UserError(
            f"A kernel distance needs at least 2 images of each set and 1 subset, got {size} and {subsets}: evaluate more."
        )
    rows, drawn = [_rows(each) for each in (first, second)], np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        chosen = [each[torch.from_numpy(drawn.choice(len(each), size, replace=False))] for each in rows]
        values.append(_discrepancy(chosen[0], chosen[1]))
    found = torch.stack(values)
    return KernelDistance(float(found.mean()), float(found.std(correction=0)), subsets, size)


def rounded(first: Float[Tensor, "first feature"], second: Float[Tensor, "second feature"]) -> float | None:
    """How many of their own stds the features lie from 0, where that is so far that a kernel distance loses its digits."""
    rows = torch.cat([first, second]).double()
    spread = float(rows.std(0).max())
    far = float(rows.mean(0).abs().max()) / spread if spread > 0 else 0.0
    return far if far > FAR else None


def _discrepancy(first: Float[Tensor, "size feature"], second: Float[Tensor, "size feature"]) -> Float[Tensor, ""]:
    size, width = first.shape

    def similarity(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / width + 1) ** 3

    within = sum(values.sum() - values.diagonal().sum() for values in (similarity(first, first), similarity(second, second)))
    return torch.as_tensor(within / (size * (size - 1)) - 2 * similarity(first, second).mean())


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision and recall, each in [0, 1], the number of neighbours that made the manifolds, and how many images were drawn."""

    precision: float
    recall: float
    neighbours: int
    real: int
    generated: int


@dataclass(frozen=True)
class DensityCoverage:
    """Density, about 1 and at least 0, coverage in [0, 1], and the number of neighbours that made the manifold."""

    density: float
    coverage: float
    neighbours: int


def precision_recall(
    real: Float[Tensor, "real feature"],
    generated: Float[Tensor, "generated feature"],
    neighbours: int = 3,
    most: int = JUDGED,
    seed: int = 0,
) -> PrecisionRecall:
    """The improved precision and recall of Kynkaanniemi et al. 2019 (arXiv 1904.06991).

    The manifold of a set is the union of balls around its features, each reaching to its k-th nearest neighbour in the set;
    precision is the share of generated features inside the real manifold, recall the converse. Both depend on the counts. Of
    larger sets `most` images are drawn at random. Raises UserError if a set has no more images than `neighbours`.
    """
    return manifolds(real, generated, neighbours, None, most, seed)[0]


def density_coverage(
    real: Float[Tensor, "real feature"],
    generated: Float[Tensor, "generated feature"],
    neighbours: int = 5,
    most: int = JUDGED,
    seed: int = 0,
) -> DensityCoverage:
    """Density and coverage of Naeem et al. 2020 (arXiv 2002.09797), of the same images as `precision_recall`.

    With the balls of the real manifold, density is how many of them hold a generated feature, in the mean over these, divided
    by k; coverage is the share of balls that hold any. Raises UserError if a set has no more images than `neighbours`.
    """
    found = manifolds(real, generated, neighbours, neighbours, most, seed)[1]
    assert found is not None
    return found


def manifolds(
    real: Float[Tensor, "real feature"],
    generated: Float[Tensor, "generated feature"],
    neighbours: int = 3,
    dense: int | None = 5,
    most: int = JUDGED,
    seed: int = 0,
) -> tuple[PrecisionRecall, DensityCoverage | None]:
    """`precision_recall` by so many neighbours and `density_coverage` by `dense` of them, of one pass over all distances.

    Of the latter None where `dense` is. Raises UserError if a set has no more images than either number of neighbours.
    """
    counts = [neighbours] if dense is None else [neighbours, dense]
    what = "Precision and recall" if dense is None else "Density and coverage"
    real, generated = _judged(real, generated, max(counts), what, most, seed)
    reach, own = _radii(real, counts), _radii(generated, [neighbours])[0]
    within = 0  # generated features inside the real manifold
    recalled, held = torch.zeros(len(real), dtype=torch.bool), torch.zeros(len(real), dtype=torch.float64)
    for part, radii in zip(_chunks(generated, len(real)), _chunks(own, len(real)), strict=True):
        apart = torch.cdist(part, real)
        within += int((apart <= reach[0]).any(1).sum())
        recalled |= (apart <= radii[:, None]).any(0)
        held += (apart <= reach[-1]).sum(0)
    shares = within / len(generated), float(recalled.double().mean())
    found = PrecisionRecall(*shares, neighbours, len(real), len(generated))
    if dense is None:
        return found, None
    return found, DensityCoverage(float(held.sum() / len(generated) / dense), float((held > 0).double().mean()), dense)


def _judged(real: Tensor, generated: Tensor, neighbours: int, what: str, most: int, seed: int) -> tuple[Tensor, Tensor]:
    """Both sets, at most so many of each, drawn at random; less the real mean, as distances lose digits to a large one."""
    if min(len(real), len(generated)) <= neighbours:
        raise UserError(
            f"{what} with {neighbours} neighbours need more than {neighbours} images of each set, "
            f"got {len(real)} real and {len(generated)} generated: evaluate more samples."
        )
    sets = [_rows(drawn(each, most, seed_of(seed, side))) for side, each in enumerate((real, generated))]
    centre = sets[0].mean(0)
    return sets[0] - centre, sets[1] - centre


def drawn(rows: Float[Tensor, "rows feature"], most: int, seed: int) -> Float[Tensor, "_ feature"]:
    """At most so many of the rows, drawn at random and in their order."""
    return rows if len(rows) <= most else rows[permutation(Streams([seed]), len(rows))[:most].sort().values]


def _rows(features: Float[Tensor, "rows feature"]) -> Float[Tensor, "rows feature"]:
    """The features on the CPU in float64; UserError if one is not finite."""
    rows = features.detach().cpu().double()
    check_finite(rows, "features", "look for NaN in the images, or in the weights of the extractor")
    return rows


def nearest(rows: Float[Tensor, "rows feature"], others: Float[Tensor, "others feature"]) -> Float[Tensor, "rows"]:
    """The Euclidean distance of every row to the nearest of the others."""
    return torch.cat([torch.cdist(part, others).amin(1) for part in _chunks(rows, len(others))])


def nearest_shares(distances: Float[Tensor, "rows"]) -> list[float]:
    """The distances to the nearest of the others that 0, 1, ... 100 % of the rows keep to."""
    return np.percentile(distances.detach().cpu().double().numpy(), np.arange(101)).tolist()


def _chunks(rows: Tensor, others: int) -> tuple[Tensor, ...]:
    return rows.split(max(1, CHUNK // others))


def _radii(rows: Float[Tensor, "count feature"], neighbours: Sequence[int]) -> Float[Tensor, "k count"]:
    """The distance of each row to its k-th nearest neighbour, for every k; the nearest of all is the row itself."""
    found = []
    for part in _chunks(rows, len(rows)):
        nearest_of = torch.cdist(part, rows).topk(max(neighbours) + 1, largest=False).values
        found.append(nearest_of[:, list(neighbours)].T)
    return torch.cat(found, 1)


@dataclass(frozen=True)
class Floor:
    """The Frechet distance of real images from other real images, with the counts of the two sets."""

    distance: float
    first_count: int
    second_count: int


def real_floor(
    real: Float[Tensor, "real feature"],
    count: int,
    held_out: Float[Tensor, "held_out feature"] | None = None,
    seed: int = 0,
) -> Floor:
    """The Frechet distance that perfect samples would have: `count` real images against other real ones.

    A Frechet distance of finite sets is too large, by about a constant times 1/count_1 + 1/count_2 (Chong and Forsyth 2020,
    arXiv 1911.07023), so compare it with a floor of the same counts. With `held_out` features (which training did not see),
    `count` of these are compared with all of `real`; otherwise `count` of `real` with the rest of it. No more than all of
    `held_out`, or half of `real`, can be drawn: the counts used are returned, to be stated with the number.
    """
    order = permutation(Streams([seed]), len(real if held_out is None else held_out))
    if held_out is None:
        count = min(count, len(real) // 2)
        drawn, rest = real[order[:count]], real[order[count:]]
    else:
        drawn, rest = held_out[order[:count]], real
    return Floor(frechet_of_sets(drawn, rest), len(drawn), len(rest))
