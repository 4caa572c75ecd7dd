"""From seeds to images: each image belongs to its seed, and guidance is one of two denoisers."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from benchmarks.controls import Naive
from torch import Tensor

from pixelpath.errors import UserError
from pixelpath.models.denoiser import Denoiser
from pixelpath.noise import NoiseRange
from pixelpath.objectives.consistency import Consistency
from pixelpath.randomness import Streams, normal, seed_of
from pixelpath.recipes.build import denoiser_of
from pixelpath.recipes.digits import digits_diffusion
from pixelpath.recipes.sizes import Blocks, Size
from pixelpath.runs.generate import Origin, balanced, generate, in_shares, steps_below
from pixelpath.sampling.sampler import Sampler, Sampling
from pixelpath.starts.gaussian import fit_gaussian
from pixelpath.starts.warm import WarmStart

SHAPE = (1, 8, 8)
NOISE = NoiseRange(0.02, 10.0, 0.5)


@pytest.fixture
def denoiser() -> Denoiser:
    """A denoiser of three classes that has learned nothing but answers to everything."""
    model = denoiser_of(replace(digits_diffusion(), size=Size(Blocks(1, 16, 2), Blocks(1, 16, 2))), SHAPE, 3)
    torch.nn.init.normal_(model.backbone.decoder.out.weight, std=0.1)
    for block in model.backbone.decoder.blocks:
        torch.nn.init.normal_(block.get_parameter("modulation.1.weight"), std=0.3)
    return model.eval()


Plan = tuple[Origin, Sampling]


def plan(
    steps: int | None = None,
    guidance: float = 1.0,
    interval: tuple[float, float] = (0.0, math.inf),
    sampler: Sampler = Sampler.HEUN,
    sigmas: tuple[float, ...] | None = None,
    warm: WarmStart | None = None,
    reference: Denoiser | None = None,
    sigma_max: float | None = None,
    rho: float | None = None,
) -> Plan:
    chosen = Sampling(steps, guidance, interval, sampler=sampler, sigmas=sigmas, sigma_max=sigma_max, rho=rho)
    return Origin(NOISE, warm, reference), chosen


def schedule(chosen: Plan) -> list[float]:
    return chosen[0].schedule(chosen[1]).tolist()


def images(denoiser: Denoiser, seeds: list[int], labels: list[int], chosen: Plan, batch_size: int = 64) -> Tensor:
    return torch.cat(list(generate(denoiser, *chosen, seeds, torch.tensor(labels), batch_size)))


@pytest.mark.parametrize("sampler", Sampler)
def test_an_image_belongs_to_its_seed_at_any_batch_size(sampler: Sampler, denoiser: Denoiser) -> None:
    chosen = plan(4, 2.0, sampler=sampler)
    seeds, labels = [7, 3, 7, 11, 0], [0, 1, 0, 2, 2]
    whole = images(denoiser, seeds, labels, chosen)
    for size in (1, 2, 3):
        torch.testing.assert_close(images(denoiser, seeds, labels, chosen, size), whole, rtol=0, atol=3e-5)
    torch.testing.assert_close(whole[0], whole[2], rtol=0, atol=3e-5)
    assert (whole[0] - whole[1]).abs().max() > 0.01
    torch.testing.assert_close(images(denoiser, [11], [2], chosen)[0], whole[3], rtol=0, atol=1e-5)


def test_one_step_is_the_estimate_at_the_highest_level(denoiser: Denoiser) -> None:
    made = images(denoiser, [5], [1], plan(1, sampler=Sampler("euler")))
    noise = normal(Streams([seed_of(5)]), SHAPE)
    noise *= math.hypot(5.0, 0.5)  # 10 times the shift, and the data's own variance
    expected = denoiser(noise, torch.tensor(5.0), torch.tensor([1]))
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-6)


def test_guidance_is_the_line_through_two_estimates(denoiser: Denoiser) -> None:
    """One step of Euler's method is linear in the estimate, so the guided image lies on the line through the other two."""

    def made(guidance: float) -> Tensor:
        return images(denoiser, [1, 2], [0, 2], plan(1, guidance, sampler=Sampler("euler")))

    plain = made(1.0)
    without = images(denoiser, [1, 2], [3, 3], plan(1, sampler=Sampler("euler")))  # 3: no class
    torch.testing.assert_close(made(0.0), without, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(made(2.5), without + 2.5 * (plain - without), rtol=1e-4, atol=1e-5)
    assert (plain - without).abs().max() > 1e-3


def test_the_interval_of_guidance_is_in_unshifted_levels(denoiser: Denoiser) -> None:
    def made(guidance: float, guidance_interval: tuple[float, float]) -> Tensor:
        return images(denoiser, [1], [0], plan(1, guidance, guidance_interval, Sampler("euler")))

    plain, guided = made(1.0, (0.0, math.inf)), made(2.0, (0.0, math.inf))
    assert torch.equal(made(2.0, (9.9, 10.1)), guided)  # the one level is 10, or 5 shifted
    assert torch.equal(made(2.0, (4.9, 5.1)), plain)


def test_a_weaker_model_is_the_reference_of_autoguidance(denoiser: Denoiser) -> None:
    weaker = denoiser_of(replace(digits_diffusion(), size=Size(Blocks(1, 16, 2), Blocks(1, 16, 2))), SHAPE, 0).eval()
    torch.nn.init.normal_(weaker.backbone.decoder.out.weight, std=0.1)
    euler = Sampler("euler")
    guided = images(denoiser, [4], [2], plan(1, 3.0, sampler=euler, reference=weaker))
    ours = images(denoiser, [4], [2], plan(1, sampler=euler))
    theirs = images(weaker, [4], [0], plan(1, sampler=euler))
    torch.testing.assert_close(guided, theirs + 3 * (ours - theirs), rtol=1e-4, atol=1e-5)
    unconditional = images(weaker, [4], [0], plan(1, 3.0, sampler=euler))  # nothing to guide with: plain
    assert torch.equal(unconditional, theirs)


def test_balanced_labels_take_classes_in_turn() -> None:
    assert balanced(range(2, 9), 3).tolist() == [2, 0, 1, 2, 0, 1, 2]
    assert balanced([5, 6], 0).tolist() == [0, 0]


@pytest.mark.parametrize("first", [0, 77, 2**40])
def test_labels_in_shares_have_them_in_any_row_of_seeds(first: int) -> None:
    shares = np.array([0.5, 0.0, 0.3, 0.2])
    for count in (10, 100, 1000):
        counts = np.bincount(in_shares(range(first, first + count), shares), minlength=4)
        assert counts == pytest.approx(count * shares, abs=2.5)
        assert counts[1] == 0
    assert in_shares(range(first, first + 9), np.ones(1)).tolist() == [0] * 9


def test_a_batch_of_nothing_is_refused(denoiser: Denoiser) -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        images(denoiser, [1], [0], plan(1), 0)


def test_renoising_visits_its_own_levels() -> None:
    assert schedule(plan(3, sampler=Sampler("consistency"))) == NOISE.consistency_sigmas(3).tolist()
    assert schedule(plan(3)) == NOISE.sigmas(3).tolist()
    assert schedule(plan(sigmas=(1.0, 0.3))) == [5.0, 1.0, 0.3, 0.0]
    assert schedule(plan(sigmas=())) == [5.0, 0.0]


@pytest.mark.parametrize("sampler", Sampler)
def test_a_cold_start_begins_where_it_is_told(sampler: Sampler) -> None:
    """The grid is built anew below the first sigma, which is in model range; rho 1 divides it evenly."""
    assert schedule(plan(sampler=sampler, sigma_max=2.0, sigmas=(0.3,))) == [2.0, 0.3, 0.0]
    even = schedule(plan(3, sampler=sampler, sigma_max=2.0, rho=1.0))
    places = (0, 1 / 3, 2 / 3) if sampler is Sampler.CONSISTENCY else (0, 1 / 2, 1)
    assert even == pytest.approx([*(2.0 - place * 1.99 for place in places), 0.0])


@pytest.mark.parametrize("sigma_max", [0.01, 5.1, 80.0])
def test_a_cold_start_outside_the_range_is_refused(sigma_max: float) -> None:
    with pytest.raises(UserError, match=r"0\.01 to 5") as caught:
        schedule(plan(3, sigma_max=sigma_max))
    assert caught.value.setting == "sigma_max"


@pytest.mark.parametrize("sigmas", [(5.0,), (0.5, 0.5), (0.25, 0.5), (0.5, 0.0099)])
def test_levels_to_visit_lie_inside_the_range(sigmas: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"must fall from below 5 to 0\.01 or above"):
        schedule(plan(sigmas=sigmas))


def test_levels_to_visit_may_end_at_the_lowest() -> None:
    assert schedule(plan(sigmas=(0.5, 0.01))) == [5.0, 0.5, 0.01, 0.0]


def test_a_consistency_model_is_renoised() -> None:
    diffusion = digits_diffusion()
    assert diffusion.usual_sampling.sampler is Sampler.DPMPP_2M
    assert replace(diffusion, objective=Consistency(NOISE)).usual_sampling.sampler is Sampler.CONSISTENCY


def test_a_consistency_model_is_given_noise_alone(denoiser: Denoiser) -> None:
    made = images(denoiser, [5], [1], plan(1, sampler=Sampler.CONSISTENCY))
    noise = normal(Streams([seed_of(5)]), SHAPE)
    torch.testing.assert_close(made, denoiser(5.0 * noise, torch.tensor(5.0), torch.tensor([1])), rtol=1e-5, atol=1e-6)


# warm: from a fitted start


def karras(count: int, highest: float, lowest: float) -> list[float]:
    """The levels of Karras et al. 2022, eq. 5, with rho 7."""
    top, bottom = highest ** (1 / 7), lowest ** (1 / 7)
    return [(top + place / (count - 1) * (bottom - top)) ** 7 for place in range(count)]


def test_levels_are_built_anew_below_a_start() -> None:
    """Shifted levels of the range run from 5 to 0.01; those below a start at 1.2 are a grid of their own, not a piece of that."""
    warm = WarmStart(Naive(SHAPE), 1.2)
    assert schedule(plan(4, warm=warm)) == pytest.approx([*karras(4, 1.2, 0.01), 0.0])
    assert schedule(plan(1, warm=warm)) == pytest.approx([1.2, 0.0])
    visits = schedule(plan(3, sampler=Sampler("consistency"), warm=warm))
    assert visits == pytest.approx([*karras(4, 1.2, 0.01)[:-1], 0.0])
    named = plan(sigmas=(0.5, 0.15), warm=warm)
    assert schedule(named) == [1.2, 0.5, 0.15, 0.0]


@pytest.mark.parametrize("sampler", Sampler)
@pytest.mark.parametrize("sigma", [5.01, 60.0, 0.01, 0.009])
def test_a_start_outside_the_range_is_refused(sampler: Sampler, sigma: float) -> None:
    with pytest.raises(ValueError, match=r"Sampling cannot start at sigma .*: this range runs from 0\.01 to 5"):
        schedule(plan(4, sampler=sampler, warm=WarmStart(Naive(SHAPE), sigma)))


def test_named_levels_do_not_lead_out_of_the_range() -> None:
    with pytest.raises(ValueError, match="choose a start inside that range"):
        schedule(plan(sigmas=(1.0,), warm=WarmStart(Naive(SHAPE), 5.5)))
    with pytest.raises(ValueError, match=r"must fall from below 0\.009 to 0\.01 or above"):
        schedule(plan(sigmas=(0.005,), warm=WarmStart(Naive(SHAPE), 0.009)))


def test_named_levels_lie_below_the_start() -> None:
    with pytest.raises(ValueError, match=r"must fall from below 1\.2 to 0\.01 or above, got \(1\.25,"):
        schedule(plan(sigmas=(1.25, 0.5), warm=WarmStart(Naive(SHAPE), 1.2)))


class NoisedNoise(Naive):
    """Noise of the data's variance, 0.5^2, with noise of std sigma on it."""

    def sample(self, streams: Streams, sigma: float, labels: Tensor | None = None) -> Tensor:
        return super().sample(streams, math.hypot(sigma, 0.5), labels)


@pytest.mark.parametrize("sampler", Sampler)
def test_noise_as_a_start_is_the_cold_image(sampler: Sampler, denoiser: Denoiser) -> None:
    density = (Naive if sampler is Sampler.CONSISTENCY else NoisedNoise)(SHAPE)
    cold = plan(3, 2.0, sampler=sampler, sigma_max=2.0)
    warm = plan(3, 2.0, sampler=sampler, warm=WarmStart(density, 2.0))
    assert schedule(warm) == schedule(cold)
    assert torch.equal(images(denoiser, [3, 8], [0, 2], warm), images(denoiser, [3, 8], [0, 2], cold))


@pytest.mark.parametrize("sampler", Sampler)
def test_a_warm_image_belongs_to_its_seed_and_label_at_any_batch_size(sampler: Sampler, denoiser: Denoiser) -> None:
    clean = torch.randn(90, *SHAPE, generator=torch.Generator().manual_seed(4)) + (torch.arange(90) % 3)[:, None, None, None]
    density = fit_gaussian(clean, torch.arange(90) % 3, 3)
    chosen = plan(3, 2.0, sampler=sampler, warm=WarmStart(density, 1.0))
    seeds, labels = [7, 3, 7, 11, 0], [0, 1, 0, 2, 2]
    whole = images(denoiser, seeds, labels, chosen)
    for size in (1, 2, 3):
        torch.testing.assert_close(images(denoiser, seeds, labels, chosen, size), whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(whole[0], whole[2], rtol=0, atol=1e-5)
    first = chosen[0].first(Streams([seed_of(7)]), SHAPE, 1.0, torch.tensor([0]))
    drawn = density.sample(Streams([seed_of(7)]), 1.0, torch.tensor([0]))
    assert torch.equal(first, drawn)


def test_one_step_from_a_start_is_the_estimate_of_its_draw(denoiser: Denoiser) -> None:
    density = fit_gaussian(torch.randn(50, *SHAPE, generator=torch.Generator().manual_seed(4)))
    made = images(denoiser, [5], [1], plan(1, sampler=Sampler("euler"), warm=WarmStart(density, 0.8)))
    drawn = density.sample(Streams([seed_of(5)]), 0.8)
    torch.testing.assert_close(made, denoiser(drawn, torch.tensor(0.8), torch.tensor([1])), rtol=1e-5, atol=1e-6)


def test_a_start_of_other_images_is_refused(denoiser: Denoiser) -> None:
    with pytest.raises(ValueError, match=r"makes images of shape \[1, 4, 4\] and the denoiser takes \[1, 8, 8\]"):
        images(denoiser, [5], [1], plan(1, warm=WarmStart(Naive((1, 4, 4)), 0.8)))


@pytest.mark.parametrize("steps", [1, 8, 32])
def test_the_share_of_steps_below_a_start(steps: int) -> None:
    """As many as the cold grid has levels below the start; at least one, and all of them from above its highest level."""
    levels = karras(steps, 5.0, 0.01) if steps > 1 else [5.0]
    for sigma in (0.02, 0.3, 2.0, 4.99):
        assert steps_below(NOISE.sigmas(steps), sigma) == max(1, sum(level < sigma for level in levels))
    assert steps_below(NOISE.sigmas(steps), 5.1) == steps


@pytest.mark.parametrize("sampler", Sampler)
def test_every_step_of_every_batch_is_counted_once_and_while_it_is_taken(denoiser: Denoiser, sampler: Sampler) -> None:
    counted, estimates = [], []
    denoiser.register_forward_hook(lambda module, given, out: estimates.append(sum(counted)))
    origin, sampling = Origin(NOISE), Sampling(4, 1.0, (0.0, math.inf), sampler=sampler)
    list(generate(denoiser, origin, sampling, range(5), balanced(range(5), 3), 2, counted.append))
    assert sum(counted) == 3 * 4  # 5 images in batches of 2, of 4 steps each
    assert estimates == sorted(estimates)
    assert set(estimates) == set(range(12))  # some evaluation saw each number of steps done
