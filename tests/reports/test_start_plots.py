"""Pictures of a start: what is drawn is what was measured, noise is not drawn, and every shape of image has its picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from pixelpath.evaluation.certificate import Certificate, Divergence
from pixelpath.evaluation.tails import compare_tails
from pixelpath.reports.pictures import BLUE, GREEN, ORANGE, rendered
from pixelpath.reports.start_plots import (
    LETTERS,
    ROOM,
    between,
    certificate_plot,
    neighbours_plot,
    shown,
    side_by_side,
    tails_plot,
)

LEVELS = [80 * 0.8**place for place in range(30)]  # down to 0.12


def axes_of(plot: Figure) -> Axes:
    (axes,) = plot.axes
    return axes


def divergence(sigma: float, value: float, top: float = 0.1) -> Divergence:
    return Divergence(sigma, 1.2 * value, 0.7 * value, value, 0.01, 0.02, 0.05 * abs(value), top, 1.08 * abs(value))


def certificate(factor: float) -> Certificate:
    """A divergence of factor sigma^-6, which keeps to a budget from (factor / budget)^(1/6) up."""
    return Certificate(tuple(divergence(sigma, factor * sigma**-6) for sigma in LEVELS))


def compared(**found: Certificate) -> Figure:
    """The first is chosen, at the sigma where it keeps to the budget."""
    chosen = next(iter(found))
    return certificate_plot(found, chosen, found[chosen].sigma_for(0.05) or 1.0, 0.05)


def lines(axes: Axes) -> dict[str, np.ndarray]:
    """The lines of a plot by their labels, each [2, point]."""
    return {str(line.get_label()): np.asarray(line.get_xydata(), np.float64).T for line in axes.get_lines()}


def straight(axes: Axes) -> list[list[float]]:
    """The places of the lines across the whole plot, in the order they were drawn."""
    return [sorted({*drawn.ravel().tolist()} - {0, 1}) for drawn in lines(axes).values() if drawn.shape[1] == 2]


def test_certificate_shows_cross_estimates_budget_and_level() -> None:
    axes = axes_of(compared(mixture=certificate(0.3), moment=certificate(2.0)))
    drawn = lines(axes)
    assert np.allclose(drawn["mixture (chosen)"], np.stack([LEVELS, 0.3 * np.array(LEVELS) ** -6.0]), rtol=1e-12)
    assert np.allclose(drawn["moment"][1], 2.0 * np.array(LEVELS) ** -6.0, rtol=1e-12)
    (budget,), (sigma,) = straight(axes)
    assert budget == 0.05
    assert sigma == min(level for level in LEVELS if 1.08 * 0.3 * level**-6 <= 0.05)
    assert {text.get_text() for text in axes.texts} == {"budget 0.05 nats", f"start at sigma {sigma:.3g}"}
    low, high = axes.get_ylim()
    assert low == pytest.approx(0.0005)
    assert high > 2 * LEVELS[-1] ** -6
    assert axes.get_xlim()[1] < 80  # levels where all is far below the budget are left out


def test_bands_hold_the_errors_and_the_other_estimates() -> None:
    axes = axes_of(compared(a=certificate(0.3)))
    faint, strong = (np.asarray(band.get_paths()[0].vertices) for band in axes.collections)
    for vertices, (lowest, highest) in ((faint, (0.7, 1.2)), (strong, (0.95, 1.08))):
        at_last = vertices[np.isclose(vertices[:, 0], LEVELS[-1])][:, 1] / (0.3 * LEVELS[-1] ** -6)
        assert (at_last.min(), at_last.max()) == pytest.approx((lowest, highest))


def test_noise_and_few_images() -> None:
    """Estimates of 0 and less leave a gap; those that few images decide are crossed out, but not where nothing is drawn."""
    rows = list(certificate(0.3).rows)
    rows[3], rows[4], rows[25] = divergence(LEVELS[3], -1e-5), divergence(LEVELS[4], 0.0, 0.9), divergence(LEVELS[25], 3.0, 0.9)
    found = compared(a=Certificate(tuple(rows)))
    axes = axes_of(found)
    assert np.flatnonzero(np.isnan(lines(axes)["a (chosen)"][1])).tolist() == [3, 4]
    assert lines(axes)["decided by a few images"].tolist() == [[LEVELS[25]], [3.0]]
    assert rendered(found).size == (1440, 736)


@pytest.mark.parametrize("sigma", [80.0, 5.0, LEVELS[-1]])
@pytest.mark.parametrize("value", [None, -1e-3, 1e5])
def test_certificates_without_anything_to_draw(sigma: float, value: float | None) -> None:
    """No density, only noise, and laws far beyond the budget: budget and level are there, inside the axes."""
    certificate = None if value is None else Certificate(tuple(divergence(level, value) for level in LEVELS))
    axes = axes_of(certificate_plot({"samples": certificate}, "samples", sigma, 0.05))
    assert axes.get_xlim()[0] < sigma < axes.get_xlim()[1]
    assert axes.get_ylim()[0] < 0.05 < axes.get_ylim()[1]
    assert any("no candidate" in text.get_text() for text in axes.texts) == (value is None or value < 0)


def test_samples_of_the_same_law_fall_between() -> None:
    """In 2,000 repetitions each rank is inside 95 times in 100, for any law; ends beyond all values are infinite."""
    chance = np.random.default_rng(0)
    truth, samples = (np.sort(chance.standard_cauchy((2000, count)), axis=1) for count in (60, 40))
    for rank in (1, 20, 38):
        low, high = np.array([between(row, 40, rank) for row in truth]).T
        inside = (low <= samples[:, rank - 1]) & (samples[:, rank - 1] < high)
        assert 0.94 < inside.mean() < 0.985  # ranks are whole, so that it is at least 0.95 and somewhat more
    assert between(np.array([1.0]), 1, 1) == (-np.inf, np.inf)
    assert between(np.arange(100.0), 100, 100)[1] == np.inf
    assert between(np.arange(100.0), 100, 1)[0] == -np.inf


def test_interval_against_the_hypergeometric_law() -> None:
    """At least a true values lie below the j-th sample if fewer than j samples are among the a + j - 1 least of all."""
    from scipy.stats import hypergeom

    total, count, rank = 83, 57, 50
    low, high = between(np.arange(1.0, total + 1), count, rank)  # the k-th value is k
    below = [1 - hypergeom.cdf(rank - 1, total + count, count, number + rank) for number in range(total + 1)]  # P(K <= number)
    assert low == sum(share <= 0.025 for share in below)
    assert high == next(number for number, share in enumerate(below) if share >= 0.975) + 1


@pytest.mark.parametrize("density", ["gaussian", "cauchy"])
def test_tails_are_quantiles_of_both(density: str) -> None:
    """Of equally many images the order statistics, about the held-out median; heavy tails on logarithmic axes."""
    source = torch.Generator().manual_seed(3)
    truth, drawn = (torch.randn(250, 1, 1, 2, generator=source) for _ in range(2))
    if density == "cauchy":
        truth, drawn = truth / truth[..., :1].abs(), drawn / drawn[..., :1].abs()
    axes = axes_of(tails_plot(drawn + 0.3, truth, "moment"))
    across, up = lines(axes)["start moment"]
    centre = truth.double().flatten(1).median(0).values
    expected = [(each.double().flatten(1) - centre).norm(dim=1).sort().values.numpy() for each in (truth, drawn + 0.3)]
    assert np.allclose([across, up], expected, rtol=1e-6)
    assert axes.get_xscale() == axes.get_yscale() == ("log" if density == "cauchy" else "linear")
    low, high = axes.get_xlim()
    assert (low, high) == axes.get_ylim()
    assert high > max(across.max(), up.max())


def test_marked_quantiles_are_those_that_the_gate_judges() -> None:
    source = torch.Generator().manual_seed(3)
    truth, drawn = (torch.randn(count, 1, 1, 2, generator=source) for count in (2100, 900))
    axes = axes_of(tails_plot(drawn, truth, "moment"))
    judged = [each for each in compare_tails(drawn, truth).quantiles if each.certified and each.what == "radius"]
    assert [each.probability for each in judged] == [0.99]
    assert np.allclose(lines(axes)["certified quantile"].ravel(), [judged[0].held_out, judged[0].samples], rtol=1e-9)
    assert [text.get_text() for text in axes.texts] == ["0.99"]


def test_few_images_have_tails_too() -> None:
    """Two images, and images all alike: nothing is certified and nothing fails."""
    assert rendered(tails_plot(torch.randn(3, 1, 2, 2), torch.randn(2, 1, 2, 2), "a")).size == (1440, 832)
    assert rendered(tails_plot(torch.zeros(3, 1, 2, 2), torch.zeros(9, 1, 2, 2), "a")).size == (1440, 832)


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 6, 4), (3, 4, 6), (4, 8, 8), (7, 5, 9), (3, 130, 140), (1, 1, 1), (1, 4, 1)])
@pytest.mark.parametrize("count", [1, 30])
def test_four_rows_of_images(shape: tuple[int, int, int], count: int) -> None:
    source = torch.Generator().manual_seed(0)
    first, second, third, fourth = (torch.randn(count, *shape, generator=source) for _ in range(4))
    picture = side_by_side(first, second, third, fourth, lambda images: images.mul(50).add(128).clamp(0, 255).byte())
    across = min(count, shown(shape))
    assert 3 <= shown(shape) <= 12
    assert picture.mode == "RGB"
    assert picture.width <= 1000 + 4 * 12
    height = picture.height // 4 - ROOM
    assert picture.height == 4 * (height + ROOM)
    assert height / shape[1] == pytest.approx((picture.width / across) / shape[2], rel=0.15) or picture.width < 300
    assert all(
        (np.asarray(picture.crop((0, top, 200, top + ROOM))) == 0).any() for top in range(0, picture.height, height + ROOM)
    )


def test_noisy_rows_share_a_range_about_zero() -> None:
    """Held-out values reach from -2 to 2, so 0 is the middle grey, 1 three quarters, and a start that is too wide is cut off."""
    truth = torch.linspace(-2, 2, 64).view(1, 1, 8, 8)
    end = float(np.percentile(truth.numpy(), 99.5))
    levels = torch.tensor([-9.0, 0.0, end / 2, 9.0]).view(1, 1, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
    picture = side_by_side(truth, levels, truth, levels, lambda images: (10 * images + 100).byte())
    side = picture.height // 4 - ROOM
    top = side + 2 * ROOM
    pixels = np.asarray(picture)
    cells = [pixels[top + side * y // 4, side * x // 4, 0] for y in (1, 3) for x in (1, 3)]
    assert cells == [0, 128, 191, 255]


def test_names_are_readable() -> None:
    image = torch.zeros(1, 1, 2, 2)
    picture = side_by_side(image, image, image, image, lambda images: images.byte())
    dark = np.asarray(picture.convert("L"))[:ROOM] < 128
    assert LETTERS / 2 < np.ptp(np.flatnonzero(dark.any(1))) < ROOM - 6


@pytest.mark.parametrize("values", [2, 5])
def test_points_are_places(values: int) -> None:
    points = torch.randn(700, 1, 1, values)
    picture = side_by_side(points, points * 3, points, points, lambda images: images * 10)
    assert shown((1, 1, values)) == 600
    pixels = {tuple(pixel) for pixel in np.asarray(picture).reshape(-1, 3)[::7].tolist()}
    assert picture.width == 1440
    assert len(pixels) > 50  # marks that lie over one another


def test_neighbours_are_distribution_functions() -> None:
    sets = {
        "held-out images": torch.tensor([3.0, 1.0, 2.0, 4.0]),
        "warm samples": torch.tensor([2.0]),
        "cold samples": torch.zeros(0),
    }
    axes = axes_of(neighbours_plot(sets))
    drawn = lines(axes)
    assert list(drawn) == ["held-out images", "warm samples"]
    assert drawn["held-out images"].tolist() == [[1, 1, 2, 3, 4], [0, 25, 50, 75, 100]]
    assert drawn["warm samples"].tolist() == [[2, 2], [0, 100]]
    assert axes.get_xscale() == "linear"


def test_neighbours_of_heavy_tails_and_of_nothing() -> None:
    axes = axes_of(neighbours_plot({"a": torch.logspace(-1, 3, 50)}))
    assert axes.get_xscale() == "log"
    picture = rendered(neighbours_plot({name: torch.rand(9) for name in "abc"}))
    assert all(has_colour(picture, colour) for colour in (BLUE, ORANGE, GREEN))
    assert rendered(neighbours_plot({})).size == picture.size


def has_colour(picture: Image.Image, colour: str) -> bool:
    wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return bool((np.asarray(picture) == wanted).all(-1).any())
