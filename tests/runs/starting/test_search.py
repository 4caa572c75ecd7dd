"""The choice of start and level, with exact denoisers of known laws."""

import itertools
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from pixelpath.errors import UserError
from pixelpath.evaluation.tails import TailQuantile, TailReport, tail_gate
from pixelpath.noise import NoiseRange
from pixelpath.randomness import Streams
from pixelpath.runs.generate import steps_below
from pixelpath.runs.starting.choice import Search
from pixelpath.runs.starting.families import FAMILIES, Known, levels_of, usual
from pixelpath.runs.starting.search import find_start
from pixelpath.starts.gaussian import fit_gaussian
from pixelpath.starts.mixture import ConvolvedMixture, fit_mixture
from pixelpath.starts.start import Density
from pixelpath.starts.student import fit_student

RANGE = NoiseRange(0.01, 20.0)


def clusters(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points of two values about four centres, with the number of the centre."""
    source = torch.Generator().manual_seed(seed)
    centres = torch.tensor([[1.0, 0.0], [0.0, 0.8], [-1.0, -0.2], [0.2, -0.6]])
    chosen = torch.randint(4, (count,), generator=source)
    return (centres[chosen] + 0.1 * torch.randn(count, 2, generator=source)).view(-1, 1, 1, 2), chosen


def denoiser_of(density: Density):
    return lambda noisy, sigma, labels: density.denoise(noisy, sigma, labels)


@pytest.fixture(scope="module")
def known() -> Known:
    (training, own), (held_out, other) = clusters(1200), clusters(2000, seed=1)
    return Known(training, held_out, own, other, 4)


@pytest.fixture(scope="module")
def true(known: Known) -> Density:
    return fit_mixture(known.training, known.training_labels, 4, components=1, coordinates=2)


def without_classes(known: Known) -> Known:
    return replace(known, training_labels=None, held_out_labels=None, num_classes=0)


@pytest.fixture(scope="module")
def search(known: Known, true: Density) -> Search:
    return find_start(denoiser_of(true), RANGE, without_classes(known), points=500)


def test_the_mixture_begins_lower_than_the_gaussian_and_is_chosen(search: Search) -> None:
    by_name = {candidate.name: candidate for candidate in search.candidates}
    assert search.chosen is by_name["mixture"]
    assert by_name["moment"].sigma is not None
    assert search.warm.sigma < by_name["moment"].sigma / 3
    assert search.bound is not None
    assert search.bound.limit <= search.budget
    assert search.bound.sigma == search.warm.sigma
    assert (search.certifying, search.tries) == (1000, 1)
    assert f"at most {search.bound.limit:.3g} nats from the noised data with 95% confidence" in search.sentence()
    assert search.cold is not None
    assert search.cold > 2 * search.warm.sigma
    assert search.verdict().startswith("No start pays here: the density mixture keeps to 0.02 nats down to ")  # it is the data
    moment = replace(search, chosen=by_name["moment"], warm=replace(search.warm, sigma=by_name["moment"].sigma))
    assert moment.pays == (search.cold >= 2 * moment.warm.sigma)
    assert replace(search, cold=None, bound=None).verdict().startswith("Noise alone keeps to 0.02 nats from no sigma.")


def test_the_divergence_at_the_gaussians_level_is_below_its_limit_by_sampling_too(search: Search, true: Density) -> None:
    found = next(candidate for candidate in search.candidates if candidate.name == "moment")
    assert found.sigma is not None
    assert isinstance(found.start, Density)
    noisy = true.sample(Streams(range(20_000)), found.sigma).double()
    apart = true.log_prob(noisy, found.sigma) - found.start.log_prob(noisy, found.sigma)
    error = float(apart.std()) / len(apart) ** 0.5
    row = found.divergence()
    assert row is not None
    assert 0.005 < float(apart.mean()) < row.limit + 3 * error
    assert row.limit <= 0.02


def test_a_smaller_budget_begins_higher(known: Known, true: Density) -> None:
    only = {"moment": FAMILIES["moment"]}
    levels = [
        find_start(denoiser_of(true), RANGE, without_classes(known), only, budget, points=500).warm.sigma
        for budget in (0.02, 0.005, 0.001)
    ]
    assert levels == sorted(levels)
    assert levels[0] < 0.85 * levels[1] < 0.72 * levels[2]


def test_classes_give_laws_of_their_own(known: Known, true: Density) -> None:
    """The components are the classes here, so one Gaussian a class is exact at every level, and comes before a mixture."""
    found = find_start(denoiser_of(true), RANGE, known, points=500)
    assert found.chosen.name == "moment-by-class"
    assert found.warm.sigma == pytest.approx(levels_of(known, RANGE)[-1])
    named = {candidate.name for candidate in found.candidates}
    assert named == set(usual(known)) == {"moment", "mixture", "moment-by-class", "mixture-by-class"}


def test_a_level_of_ones_own_asks_no_budget(known: Known, true: Density) -> None:
    families = {name: FAMILIES[name] for name in ("moment", "symlog")}
    found = find_start(denoiser_of(true), RANGE, without_classes(known), {"symlog": families["symlog"]}, sigma=3.0, points=500)
    assert found.warm.sigma == 3.0
    assert found.chosen.divergence() is None
    assert "by hand" in found.sentence()
    with pytest.raises(ValueError, match="no density"):
        find_start(denoiser_of(true), RANGE, without_classes(known), {"symlog": families["symlog"]}, points=500)


def test_the_same_seed_is_the_same_choice(search: Search, known: Known, true: Density) -> None:
    again = find_start(denoiser_of(true), RANGE, without_classes(known), points=500)
    assert again.warm.sigma == search.warm.sigma
    assert [each.certificate for each in again.candidates] == [each.certificate for each in search.candidates]


def test_heavy_tails_bring_the_families_that_have_them_and_leave_the_gaussian_out() -> None:
    source = torch.Generator().manual_seed(0)

    def drawn(count: int) -> Tensor:
        chi = torch.randn(count, 3, generator=source).square().mean(1, keepdim=True)
        return (0.5 * torch.randn(count, 2, generator=source) / chi.sqrt()).view(-1, 1, 1, 2)

    known = Known(drawn(10_000), drawn(10_000))
    assert set(usual(known)) == {"student", "pareto-tail"}
    true = fit_student(known.training, freedom=3.0)
    found = find_start(denoiser_of(true), RANGE, known, {name: FAMILIES[name] for name in ("moment", "student")}, points=1500)
    assert found.chosen.name == "student"
    assert "tails are heavy" in found.left_out["moment"]


def test_what_no_law_reaches_names_who_comes_closest(known: Known, true: Density) -> None:
    with pytest.raises(ValueError, match=r"No start keeps to a budget of 1e-12 nats.* moment at sigma .* a budget of"):
        find_start(denoiser_of(true), RANGE, without_classes(known), {"moment": FAMILIES["moment"]}, 1e-12, points=300)


def test_images_of_another_scale_are_refused(known: Known, true: Density) -> None:
    wide = replace(without_classes(known), training=known.training * 4, held_out=known.held_out * 4)
    with pytest.raises(ValueError, match="not in the range that the denoiser knows"):
        find_start(denoiser_of(true), RANGE, wide, points=300)


def test_a_family_that_cannot_be_fitted_is_named_and_left_out(known: Known, true: Density) -> None:
    def broken(known: Known, noise: NoiseRange, seed: int) -> Density:
        raise ValueError("too few")

    found = find_start(
        denoiser_of(true), RANGE, without_classes(known), {"broken": broken, "moment": FAMILIES["moment"]}, points=300
    )
    assert found.left_out == {"broken": "too few"}
    assert found.chosen.name == "moment"


@pytest.mark.parametrize(("budget", "sigma", "message"), [(0.0, None, "nats above 0"), (None, 50.0, "lies outside")])
def test_wrong_choices(known: Known, true: Density, budget: float | None, sigma: float | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_start(denoiser_of(true), RANGE, known, None, budget, sigma)


def test_sets_that_do_not_go_together() -> None:
    points, labels = clusters(30)
    with pytest.raises(ValueError, match="images of one shape"):
        Known(points, points.transpose(2, 3))
    with pytest.raises(ValueError, match="at least 20 of each"):
        Known(points, points[:19])
    with pytest.raises(ValueError, match="labels of training and held-out"):
        Known(points, points, labels, None, 4)


def test_levels_cover_the_range_in_even_ratios(known: Known) -> None:
    levels = levels_of(known, RANGE)
    ratios = [above / below for above, below in itertools.pairwise(levels)]
    assert levels[0] == 20.0
    assert levels[-1] == pytest.approx(max(0.01, 0.02 * float(known.training.std())))
    assert max(ratios) == pytest.approx(min(ratios))
    assert 1.1 < ratios[0] <= 1.15


def test_steps_below_a_level_are_those_of_the_grid() -> None:
    levels = RANGE.sigmas(32)
    assert steps_below(RANGE.sigmas(32), float(levels[12]) * 1.001) == 20
    assert steps_below(RANGE.sigmas(32), float(levels[12]) * 0.999) == 19
    assert steps_below(RANGE.sigmas(32), 20.0) == 32
    assert steps_below(RANGE.sigmas(4), 0.0101) == 1


def test_a_start_hardly_below_noise_alone_is_not_praised(known: Known, true: Density) -> None:
    """At sigma 18.4 of 20 noise alone is as good."""
    found = find_start(denoiser_of(true), RANGE, without_classes(known), {"moment": FAMILIES["moment"]}, sigma=18.4, points=300)
    assert not found.pays
    assert found.verdict().startswith("No start pays here: noise with the variance of the data keeps to 0.02 nats from sigma ")


@pytest.mark.parametrize(("spread", "reason"), [((0.5, 0.5), "noise with the variance"), ((0.9, 0.1), "It needs no network")])
def test_a_start_on_gaussian_data_is_not_praised(spread: tuple[float, float], reason: str) -> None:
    """A round Gaussian is noise itself; of any other the density is the data, and no network is needed."""
    source = torch.Generator().manual_seed(0)
    training, held_out = (torch.tensor(spread) * torch.randn(2000, 1, 1, 2, generator=source) for _ in range(2))
    true = fit_gaussian(training)
    for sigma in (None, 0.053):
        found = find_start(denoiser_of(true), RANGE, Known(training, held_out), sigma=sigma, points=300)
        assert not found.pays
        assert found.verdict().startswith("No start pays here: ")
        assert reason in found.verdict()


def test_a_mixture_of_too_many_components_is_tried_smaller(known: Known) -> None:
    """Copies of few points make a component collapse; half as many do not."""
    few = Known(known.training[:60].repeat(20, 1, 1, 1), known.held_out)
    start = FAMILIES["mixture"](few, RANGE, 0)
    assert isinstance(start, ConvolvedMixture)
    assert 1 <= len(start.shares) <= 30
    with patch("pixelpath.runs.starting.families.fit_mixture", side_effect=collapsing) as tried:
        FAMILIES["mixture"](without_classes(known), RANGE, 0)
    assert [call.args[3] for call in tried.call_args_list] == [30, 15, 7]


def collapsing(images: Tensor, labels: None, classes: int, components: int, coordinates: int, seed: int) -> Density:
    if components > 10:
        raise UserError("Component 3 collapsed")
    return fit_gaussian(images)


def test_each_look_up_the_levels_takes_fresh_noise_and_is_counted(known: Known, true: Density) -> None:
    """Two looks are rejected and the third one passes, two levels higher."""
    seeds, gate = [], tail_gate

    def rejecting(*given: Any, seed: int, **more: Any) -> TailReport:
        seeds.append(seed)
        report = gate(*given, seed=seed, **more)
        return report if len(seeds) > 2 else replace(report, quantiles=tuple(map(wrong, report.quantiles)))

    def wrong(quantile: TailQuantile) -> TailQuantile:
        return replace(quantile, error=-0.5, interval=(-0.6, -0.4), exceedances=20)

    only = {"moment": FAMILIES["moment"]}
    plain = find_start(denoiser_of(true), RANGE, without_classes(known), only, points=300)
    with patch("pixelpath.runs.starting.search.tail_gate", side_effect=rejecting):
        found = find_start(denoiser_of(true), RANGE, without_classes(known), only, points=300)
    assert len(set(seeds)) == len(seeds) == found.chosen.looks == 3
    levels = levels_of(known, RANGE)
    assert levels.index(plain.warm.sigma) - levels.index(found.warm.sigma) == 2


def test_every_image_that_the_denoiser_is_asked_about_is_counted(known: Known, true: Density) -> None:
    asked: list[int] = []

    def denoise(noisy: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        asked.append(len(noisy))
        return true.denoise(noisy, sigma, labels)

    found = find_start(denoise, RANGE, without_classes(known), {"moment": FAMILIES["moment"]}, points=300)
    assert found.nfe == sum(asked) > 300 * 20


def test_a_denoiser_under_a_wrong_schedule_is_refused(known: Known, true: Density) -> None:
    def other(noisy: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        return true.denoise(noisy, 1.5 * sigma, labels)

    with pytest.raises(UserError, match=r"takes sigma for another noise|not in the range"):
        find_start(other, RANGE, without_classes(known), {"moment": FAMILIES["moment"]}, points=300)


def test_held_out_images_sorted_by_class_are_judged_by_all_classes(known: Known, true: Density) -> None:
    """Sets on disk are often sorted: energies and their classes must stand for all images, whatever their order."""
    order = known.held_out_labels.argsort() if known.held_out_labels is not None else None
    assert order is not None
    assert known.held_out_labels is not None
    ordered = replace(known, held_out=known.held_out[order], held_out_labels=known.held_out_labels[order])
    only = {"moment-by-class": FAMILIES["moment-by-class"]}
    warm = find_start(denoiser_of(true), RANGE, ordered, only, sigma=1.0, points=300).warm
    assert warm.labels is not None
    shares = warm.labels[:500].bincount(minlength=4) / 500
    torch.testing.assert_close(shares, known.held_out_labels.bincount(minlength=4) / 2000, atol=0.08, rtol=0)
    count = len(warm.labels)
    labels = warm.labels_for(2 * count)
    assert labels is not None
    assert torch.equal(labels, warm.labels.repeat(2))
