"""The flow against the closed form of what it is fitted to, against its own Jacobian, and against the moment law it begins at."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from tests.starts.densities import gaussian_log_density, integral, is_a_function_of_its_seed, mean_and_covariance, score_gap
from torch import Tensor

from pixelpath.randomness import Streams
from pixelpath.starts.files import load, restore, save
from pixelpath.starts.flow import Flow, Layers, Whitening, fit_flow
from pixelpath.starts.gaussian import fit_gaussian
from pixelpath.starts.start import Density, Saved

CORNERS = torch.tensor([[-0.6, -0.5], [-0.4, 0.5], [0.6, -0.5], [0.4, 0.5]])
NARROW = 0.05  # deviation of every mode


def modes(count: int, seed: int, at: Tensor = CORNERS) -> tuple[Tensor, Tensor]:
    """Images of two values from the modes, and the numbers of these."""
    source = torch.Generator().manual_seed(seed)
    which = torch.randint(len(at), (count,), generator=source)
    return (at[which] + NARROW * torch.randn(count, 2, generator=source)).reshape(-1, 1, 1, 2), which


def truth(images: Tensor, sigma: float) -> Tensor:
    """ln of the density of the noised modes."""
    covariance = (NARROW**2 + sigma**2) * np.eye(2)
    rows = images.flatten(1).numpy()
    logs = [gaussian_log_density(rows, corner.numpy(), covariance) for corner in CORNERS]
    return torch.from_numpy(logsumexp(logs, axis=0) - np.log(len(CORNERS)))


def noised(images: Tensor, sigma: float) -> Tensor:
    source = torch.Generator().manual_seed(99)
    return images.double() + sigma * torch.randn(images.shape, generator=source, dtype=torch.float64)


@pytest.fixture(scope="module")
def plane() -> Flow:
    """A flow of four modes."""
    return fit_flow(modes(2000, 1)[0], levels=(0.1, 2.0), steps=250)


@pytest.fixture(scope="module")
def by_class() -> Flow:
    """The two left modes are class 0, the right ones, of three times as many images, class 2; barely fitted."""
    left, right = (modes(count, seed, at)[0] for count, seed, at in ((100, 2, CORNERS[:2]), (300, 3, CORNERS[2:])))
    return fit_flow(
        torch.cat([left, right]), torch.tensor([0, 2]).repeat_interleave(torch.tensor([100, 300])), 3, levels=(0.2, 2), steps=30
    )


@pytest.mark.parametrize("sigma", [0.1, 0.4])
def test_the_flow_comes_near_the_true_density_of_several_modes_at_every_level(plane: Flow, sigma: float) -> None:
    images, _ = modes(2000, 1)
    held_out = noised(modes(2000, 7)[0], sigma)
    true = float(truth(held_out, sigma).mean())
    moment = float(fit_gaussian(images).log_prob(held_out, sigma).mean())
    found = float(plane.log_prob(held_out, sigma).mean())
    assert moment < found < true
    assert true - found < 0.2 * (true - moment)


@pytest.mark.parametrize(("sigma", "reach"), [(0.1, 1.5), (0.7, 5.0), (2.0, 12.0)])
def test_the_density_integrates_to_1(plane: Flow, sigma: float, reach: float) -> None:
    assert integral(plane, sigma, reach, points=201) == pytest.approx(1, abs=1e-3)


def test_samples_have_the_moments_and_the_entropy_of_the_density(plane: Flow) -> None:
    sigma, count = 0.15, 4000
    axis = torch.linspace(-2, 2, 201, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    logs = plane.log_prob(grid.reshape(-1, 1, 1, 2), sigma)
    weight = logs.exp() * float(axis[1] - axis[0]) ** 2
    mean = weight @ grid
    covariance = (weight[:, None] * (grid - mean)).T @ (grid - mean)
    found_mean, found_covariance = mean_and_covariance(plane, sigma, count)
    assert found_mean.tolist() == pytest.approx(mean.tolist(), abs=0.03)
    assert found_covariance.flatten().tolist() == pytest.approx(covariance.flatten().tolist(), abs=0.015)
    own = plane.log_prob(plane.sample(Streams(range(count)), sigma).double(), sigma)
    assert abs(float(own.mean() - weight @ logs)) < 4 * float(own.std()) / count**0.5


@pytest.mark.parametrize("bins", [(0, 0), (0, 6), (6, 6, 0)])
def test_layers_invert_and_count_their_jacobian(bins: tuple[int, ...]) -> None:
    layers = Layers(5, 2, 16, bins).double()
    for value in layers.parameters():
        torch.nn.init.normal_(value, std=0.4)
    rows, context, say = (torch.randn(3, size, dtype=torch.float64) for size in (5, 2, 5))
    say = say.sigmoid()
    inverse = layers.inverse(rows, context, say)
    moved = inverse
    for layer in layers.layers:
        moved, _ = layer(moved, context, say)
    torch.testing.assert_close(moved, rows, rtol=1e-9, atol=1e-9)
    slopes = torch.autograd.functional.jacobian(lambda each: layers.inverse(each, context, say).sum(0), rows).transpose(0, 1)
    expected = gaussian_log_density(rows.numpy(), np.zeros(5), np.eye(5)) - torch.linalg.slogdet(slopes).logabsdet.numpy()
    assert layers.log_prob(inverse, context, say).tolist() == pytest.approx(expected.tolist(), abs=1e-8)


def test_whitening_is_undone_by_colour_and_gives_unit_covariance() -> None:
    rot90, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))
    variance = torch.tensor([[0.0, 0.1, 1.0, 4.0]], dtype=torch.float64)
    moments = Whitening(torch.randn(1, 4, dtype=torch.float64), rot90[None], variance)
    sigma = torch.full((4,), 0.3, dtype=torch.float64)
    roots = moments.mean + rot90.T * (variance + 0.09).sqrt().T  # rows whose scatter is the noised covariance
    white = moments.whiten(roots, 0, sigma)
    torch.testing.assert_close(white.T @ white, torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(moments.colour(white, 0, sigma), roots)
    isotropic = Whitening(moments.mean, rot90[None], torch.full_like(variance, 0.09))
    assert isotropic.gain(0, sigma).flatten().tolist() == pytest.approx([0.5**1.5] * 16)


@pytest.mark.parametrize("count", [400, 20])
def test_a_flow_that_has_not_learned_is_the_moment_law(count: int) -> None:
    """Of each class and of all, in the full form and in the low-rank one, which few images get."""
    images = torch.randn(count, 1, 2, 3, dtype=torch.float64) * torch.tensor([0.1, 0.5, 1.0])
    labels = torch.arange(count) % 3 % 2
    flow, moment = fit_flow(images, labels, 2, levels=(0.1, 3.0), steps=1, lr=1e-12), fit_gaussian(images, labels, 2)
    for chosen in (labels, None):
        expected = moment.log_prob(images, 0.4, chosen)
        torch.testing.assert_close(flow.log_prob(images, 0.4, chosen), expected, rtol=1e-8, atol=1e-8)
        found = flow.denoise(images, torch.tensor(0.4), chosen)
        torch.testing.assert_close(found, moment.denoise(images, torch.tensor(0.4), chosen), rtol=1e-7, atol=1e-7)
    assert mean_and_covariance(flow, 0.4, 3000)[1].diag().tolist() == pytest.approx(
        mean_and_covariance(moment, 0.4, 3000)[1].diag().tolist(), rel=0.12
    )


def test_the_denoiser_follows_the_density_whatever_the_caller_records(plane: Flow) -> None:
    assert isinstance(plane, Density)
    noisy = torch.tensor([[0.0, 0.0], [0.5, -0.4], [-2.0, 1.0], [30.0, -40.0]], dtype=torch.float64).reshape(-1, 1, 1, 2)
    sigma = torch.tensor([0.2, 0.5, 0.2, 1.0], dtype=torch.float64)
    assert score_gap(plane, noisy, sigma) < 1e-10
    found = plane.denoise(noisy, sigma)
    assert not found.requires_grad
    with torch.no_grad():
        assert torch.equal(plane.denoise(noisy, sigma), found)
    with torch.inference_mode():
        assert torch.equal(plane.denoise(noisy.clone(), sigma), found)
    step = 1e-5
    for value in range(2):
        aside = torch.zeros(2, dtype=torch.float64).index_fill(0, torch.tensor(value), step)
        rise = plane.log_prob(noisy + aside, 0.2) - plane.log_prob(noisy - aside, 0.2)
        expected = noisy[:3].flatten(1)[:, value] + 0.04 * rise[:3] / (2 * step)
        one_level = plane.denoise(noisy, torch.tensor(0.2, dtype=torch.float64)).flatten(1)[:3, value]
        assert one_level.tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert torch.equal(plane.denoise(noisy, torch.tensor(0.0)), noisy)


def test_without_a_class_the_law_is_that_of_the_classes_by_their_shares(by_class: Flow) -> None:
    points = torch.randn(6, 1, 1, 2, dtype=torch.float64)
    given = [by_class.log_prob(points, 0.3, torch.full((6,), label)).exp() for label in (0, 2)]
    mixed = by_class.log_prob(points, 0.3)
    assert mixed.exp().tolist() == pytest.approx((0.25 * given[0] + 0.75 * given[1]).tolist(), rel=1e-9)
    assert torch.equal(by_class.log_prob(points, 0.3, torch.full((6,), 3)), mixed)
    assert integral(by_class, 0.3, 3.0, labels=2, points=201) == pytest.approx(1, abs=1e-3)
    for label, side in ((0, -0.5), (2, 0.5)):
        drawn = by_class.sample(Streams(range(500)), 0.2, torch.full((500,), label))
        assert float(drawn[..., 0].mean()) == pytest.approx(side, abs=0.1)
    with pytest.raises(ValueError, match="not fitted to images of class 1"):
        by_class.sample(Streams([0]), 0.3, torch.tensor([1]))


def test_a_sample_depends_on_its_own_generator_and_label_alone(plane: Flow, by_class: Flow) -> None:
    assert is_a_function_of_its_seed(plane, 0.3)
    assert is_a_function_of_its_seed(by_class, 0.3, torch.tensor([0, 2, 3, 2, 0, 3]))


def test_a_flow_comes_back_from_its_folder_bit_for_bit(by_class: Flow, tmp_path: Path) -> None:
    assert isinstance(by_class, Saved)
    save(by_class, tmp_path)
    state = torch.random.get_rng_state()
    again = load(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert isinstance(again, Flow)
    (metadata, tensors), (facts_again, tensors_again) = by_class.state(), again.state()
    assert facts_again == metadata
    assert all(torch.equal(tensors_again[name], value) for name, value in tensors.items())
    points = modes(5, 4)[0]
    assert torch.equal(again.sample(Streams(range(9)), 0.5), by_class.sample(Streams(range(9)), 0.5))
    assert torch.equal(again.log_prob(points, 0.5), by_class.log_prob(points, 0.5))
    assert torch.equal(again.denoise(points, torch.tensor(0.5)), by_class.denoise(points, torch.tensor(0.5)))
    with pytest.raises(ValueError, match="weights of this flow are not those of its layers"):
        restore(metadata | {"hidden": 32}, tensors)


def test_a_fit_is_a_function_of_its_seed_and_leaves_the_global_random_state() -> None:
    images, _ = modes(60, 5)

    def fitted(seed: int) -> dict[str, Tensor]:
        return fit_flow(images, levels=(0.1, 1.0), steps=5, seed=seed).state()[1]

    state = torch.random.get_rng_state()
    first = fitted(3)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(1)
    again, other = fitted(3), fitted(4)
    assert all(torch.equal(again[name], value) for name, value in first.items())
    assert not all(torch.equal(other[name], value) for name, value in first.items())


def test_one_value_and_many_values_can_be_fitted() -> None:
    for count, values in ((50, 1), (40, 256)):
        flow = fit_flow(torch.randn(count, 1, 1, values), levels=(0.5, 1.0), steps=2)
        drawn = flow.sample(Streams(range(2)), 0.5)
        assert drawn.shape == (2, 1, 1, values)
        assert bool(flow.log_prob(drawn, 0.5).isfinite().all())


def test_what_a_flow_refuses(plane: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    images, _ = modes(30, 6)
    for sigma in (0.0, 0.09, 2.1):
        with pytest.raises(ValueError, match=r"fitted to levels from 0\.1 to 2, got sigma .*: ask for a level between"):
            plane.log_prob(images, sigma)
    with pytest.raises(ValueError, match=r"fitted to levels from 0\.1 to 2"):
        plane.sample(Streams([0]), 3.0)
    plane.log_prob(images, float(torch.tensor(0.1) * (1 - 2e-7)))
    with pytest.raises(ValueError, match="at most 256 values, got 257: fit the low-rank Gaussian"):
        fit_flow(torch.randn(30, 1, 1, 257), levels=(0.1, 1.0))
    with pytest.raises(ValueError, match=r"needs levels 0 < lowest < highest, .* got levels 1\.0 and 0\.5"):
        fit_flow(images, levels=(1.0, 0.5))
    with pytest.raises(ValueError, match="all alike"):
        fit_flow(torch.ones(30, 1, 1, 2), levels=(0.1, 1.0))
    with pytest.raises(ValueError, match=r"diverged at step \d+ of 50 .*: lower lr"):
        fit_flow(images, levels=(0.1, 1.0), steps=50, lr=1e30)
    monkeypatch.setitem(sys.modules, "zuko.nn", None)
    with pytest.raises(ValueError, match=r"needs the package zuko, .* pip install 'pixelpath\[flows\]'"):
        fit_flow(images, levels=(0.1, 1.0))
    with pytest.raises(ValueError, match="needs the package zuko"):
        restore(*plane.state())
