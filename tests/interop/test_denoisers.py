"""Every adapter gives the exact denoiser of Gaussian data N(m, s^2) from a network that predicts exactly, in its own terms.

The expected value is D(noisy, sigma) = (s^2 noisy + sigma^2 m) / (s^2 + sigma^2). The networks here know data and schedule only
through the joint normal law of (x, e) given what they see: E[x | a x + b e] and E[e | a x + b e], by linear regression.
"""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from pixelpath.errors import UserError
from pixelpath.interop.denoisers import (
    ForeignDenoiser,
    Network,
    Timestep,
    epsilon,
    from_diffusers,
    from_edm,
    from_flow_matching,
    from_k_diffusion,
    from_variance_preserving,
    interpolated,
    nearest,
    sample,
    velocity,
)
from pixelpath.noise import NoiseRange
from pixelpath.runs.starting.fit_start import fit_start
from pixelpath.sampling.samplers import heun
from pixelpath.types import Images, Labels

MEAN, DEVIATION = 0.3, 0.7
ABAR = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)  # the schedule of Ho et al. 2020, in float32 as diffusers has it
SIGMAS = ((1 - ABAR.double()) / ABAR.double()).sqrt()


def exact(noisy: Images, sigma: Tensor, mean: float | Tensor = MEAN, std: float = DEVIATION) -> Images:
    sigma = sigma.to(noisy).reshape(-1, 1, 1, 1)
    return (std**2 * noisy + sigma**2 * mean) / (std**2 + sigma**2)


def regressed(seen: Images, a: Tensor, b: Tensor, mean: float | Tensor = MEAN) -> tuple[Images, Images]:
    """E[x | seen] and E[e | seen] for seen = a x + b e, x ~ N(mean, s^2)."""
    a, b = (each.to(seen).reshape(-1, 1, 1, 1) for each in (a, b))
    innovation = (seen - a * mean) / (a**2 * DEVIATION**2 + b**2)
    return mean + a * DEVIATION**2 * innovation, b * innovation


def preserving(predicts: str, abar: Tensor = ABAR, mean: float | Tensor = MEAN) -> Network:
    """A network of discrete time; between whole timesteps its ln sigma is linear in the timestep."""

    def network(seen: Images, level: Tensor, labels: Labels | None) -> Images:
        steps = ((1 - abar.double()) / abar.double()).sqrt().log()
        sigma = torch.from_numpy(numpy.exp(numpy.interp(level.double().numpy(), numpy.arange(len(steps)), steps.numpy())))
        a = torch.cos(torch.atan(sigma))
        b = torch.sin(torch.atan(sigma))
        image, noise = regressed(seen, a, b, mean if labels is None else labels.double().reshape(-1, 1, 1, 1))
        answers = {"epsilon": noise, "sample": image}
        if predicts in answers:
            return answers[predicts]
        return a.to(seen).reshape(-1, 1, 1, 1) * noise - b.to(seen).reshape(-1, 1, 1, 1) * image

    return network


def edm(noisy: Images, sigma: Tensor, class_labels: Tensor | None) -> Images:
    return exact(noisy, sigma)


def path(data_at: int) -> Network:
    """The velocity dx_t/dt of straight paths at time t, by the law of (x, e)."""

    def network(seen: Images, time: Tensor, labels: Labels | None) -> Images:
        if data_at == 0:
            image, noise = regressed(seen, 1 - time, time)
            return noise - image
        image, noise = regressed(seen, time, 1 - time)
        return image - noise

    return network


KINDS: dict[str, Callable[..., ForeignDenoiser]] = {
    "epsilon": lambda **more: from_variance_preserving(preserving("epsilon"), ABAR, epsilon, **more),
    "velocity": lambda **more: from_variance_preserving(preserving("velocity"), ABAR, velocity, **more),
    "sample": lambda **more: from_variance_preserving(preserving("sample"), ABAR, sample, **more),
    "edm": lambda **more: from_edm(edm, **more),
    "k-diffusion": lambda **more: from_k_diffusion(lambda noisy, sigma: exact(noisy, sigma), **more),
    "flow, data at 0": lambda **more: from_flow_matching(path(0), 0, **more),
    "flow, data at 1": lambda **more: from_flow_matching(path(1), 1, **more),
}
each_kind = pytest.mark.parametrize("adapt", KINDS.values(), ids=KINDS.keys())


def noisy_at(sigma: Tensor, dtype: torch.dtype = torch.float64) -> Images:
    """Noised data, one image per sigma."""
    drawn = torch.randn(len(sigma), 2, 4, 4, dtype=torch.float64)
    return (MEAN + (DEVIATION**2 + sigma.double().reshape(-1, 1, 1, 1) ** 2).sqrt() * drawn).to(dtype)


@each_kind
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_exact_denoiser(adapt: Callable[..., ForeignDenoiser], dtype: torch.dtype, tolerance: float) -> None:
    """Over the learned range, both ends and levels between timesteps included, for one sigma an image and one for all.

    A network that predicts noise leaves the image as a difference: in float32 to the rounding of the noisy image, no better.
    """
    denoise = adapt()
    low, high = denoise.noise.sigma_min, denoise.noise.sigma_max
    sigma = torch.logspace(math.log10(low), math.log10(high), 23, dtype=torch.float64).clamp(low, high)
    noisy = noisy_at(sigma, dtype)
    estimate, expected = denoise(noisy, sigma), exact(noisy.double(), sigma)
    assert estimate.dtype == dtype
    assert bool(((estimate - expected).abs() < tolerance + 4 * torch.finfo(dtype).eps * noisy.abs()).all())
    assert torch.allclose(denoise(noisy, sigma[11]), exact(noisy.double(), sigma[11]).to(dtype), atol=4 * tolerance, rtol=1e-5)


@each_kind
def test_range_of_the_network(adapt: Callable[..., ForeignDenoiser]) -> None:
    """ours = 2 its - 1, as [-1, 1] from [0, 1]: mean and deviation of the data, and all sigmas, move with it."""
    denoise, plain = adapt(scale=2.0, shift=-1.0), adapt()
    assert denoise.noise.sigma_min == pytest.approx(2 * plain.noise.sigma_min, rel=1e-12)
    assert denoise.noise.sigma_max == pytest.approx(2 * plain.noise.sigma_max, rel=1e-12)
    sigma = torch.logspace(-1, 2, 7, dtype=torch.float64)
    noisy = 2 * noisy_at(sigma / 2) - 1
    expected = exact(noisy, sigma, 2 * MEAN - 1, 2 * DEVIATION)
    assert torch.allclose(denoise(noisy, sigma), expected, atol=1e-9, rtol=0)
    with pytest.raises(ValueError, match="scale > 0, got -2"):
        adapt(scale=-2.0)


@each_kind
def test_a_sampler_reaches_the_data(adapt: Callable[..., ForeignDenoiser]) -> None:
    """The flow of a Gaussian keeps (x - m) / sqrt(s^2 + sigma^2); from a lower start, on the adapter's own levels."""
    denoise = adapt()
    x = noisy_at(torch.full((3,), 2.0))
    images = heun(denoise, x, denoise.noise.sigmas(80, start=2.0))
    expected = MEAN + (x - MEAN) * DEVIATION / math.hypot(DEVIATION, 2.0)
    assert torch.allclose(images, expected, atol=2e-3)


@each_kind
@pytest.mark.parametrize("factor", [0.999, 1.001])
def test_sigma_outside_the_learned_range(adapt: Callable[..., ForeignDenoiser], factor: float) -> None:
    denoise = adapt(scale=2.0)
    end = denoise.noise.sigma_min if factor < 1 else denoise.noise.sigma_max
    levels = torch.tensor([1.0, end, end * factor], dtype=torch.float64)
    with pytest.raises(ValueError, match=rf"Sigma {end * factor:g} lies outside .*noise\.sigmas"):
        denoise(noisy_at(levels), levels)
    for wrong in (0.0, math.nan):
        with pytest.raises(ValueError, match="lies outside"):
            denoise(noisy_at(torch.ones(1)), torch.tensor(wrong))
    denoise(noisy_at(torch.ones(1)), torch.tensor(end, dtype=torch.float32))


def test_learned_range_of_a_schedule() -> None:
    """Ho et al. 2020: abar_0 = 1 - 1e-4 and abar_999 = 4.0358e-5, so sigma runs from 0.01 to 157.4."""
    learned = KINDS["epsilon"]().noise
    assert learned.sigma_min == pytest.approx(math.sqrt(1e-4 / (1 - 1e-4)), rel=1e-3)
    assert learned.sigma_max == pytest.approx(157.4, rel=1e-3)


def test_levels_without_any_image_are_left_out() -> None:
    zero = torch.cat([ABAR[:500], torch.zeros(1)])
    denoise = from_variance_preserving(preserving("velocity", zero[:500]), zero, velocity)
    assert denoise.noise.sigma_max == pytest.approx(float(SIGMAS[499]), rel=1e-9)
    noisy, sigma = noisy_at(SIGMAS[499:500]), SIGMAS[499]
    assert torch.allclose(denoise(noisy, sigma), exact(noisy, sigma), atol=1e-9)


@pytest.mark.parametrize("timestep", [interpolated, nearest])
@pytest.mark.parametrize("number", [0, 1, 437, 999])
def test_whole_timesteps(timestep: Timestep, number: int) -> None:
    condition: list[Tensor] = []

    def watched(seen: Images, level: Tensor, labels: Labels | None) -> Images:
        condition.append(level)
        return preserving("epsilon")(seen, level, labels)

    denoise = from_variance_preserving(watched, ABAR, epsilon, timestep)
    noisy = noisy_at(SIGMAS[number : number + 1])
    assert torch.allclose(denoise(noisy, SIGMAS[number]), exact(noisy, SIGMAS[number]), atol=1e-9, rtol=0)
    assert condition[0].tolist() == pytest.approx([number], abs=1e-6)
    assert condition[0].is_floating_point() == (timestep is interpolated)


def test_timesteps_between() -> None:
    table = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    value = torch.tensor([-1.0, -0.6, -0.4, 0.0, 0.5, 1.5, 2.0], dtype=torch.float64)
    assert interpolated(table, value).tolist() == pytest.approx([0.0, 0.4, 0.6, 1.0, 1.25, 1.75, 2.0], rel=1e-12)
    assert nearest(table, value).tolist() == [0, 0, 1, 1, 1, 2, 2]


def test_the_nearest_timestep_answers_for_the_sigma_asked() -> None:
    """noisy - sigma e with e of timestep 500, and the image it sees scaled by its own sigma: not exact, and written down here."""
    sigma = (0.6 * SIGMAS[500].log() + 0.4 * SIGMAS[501].log()).exp()
    noisy = noisy_at(sigma.reshape(1))
    seen = noisy / (1 + sigma**2).sqrt()
    noise = preserving("epsilon")(seen, torch.tensor([500]), None)
    denoise = from_variance_preserving(preserving("epsilon"), ABAR, epsilon, nearest)
    assert torch.allclose(denoise(noisy, sigma), noisy - sigma * noise, atol=1e-12)
    assert not torch.allclose(denoise(noisy, sigma), exact(noisy, sigma), atol=1e-5)


@pytest.mark.parametrize("data_at", [0, 1])
def test_time_of_a_path(data_at: int) -> None:
    """sigma = 3 is a quarter data, three quarters noise."""
    condition: list[float] = []

    def watched(seen: Images, time: Tensor, labels: Labels | None) -> Images:
        condition.extend(time.tolist())
        return path(data_at)(seen, time, labels)

    denoise = from_flow_matching(watched, data_at)
    denoise(noisy_at(torch.tensor([3.0, 3.0])), torch.tensor(3.0))
    assert condition == pytest.approx([0.25 if data_at else 0.75] * 2)


def test_labels_reach_the_network() -> None:
    """Data of class k have mean k: the estimate goes there when the noise is large."""
    denoise = from_variance_preserving(preserving("velocity"), ABAR, velocity)
    labels, sigma = torch.tensor([0, 2, 5]), torch.tensor(2.5, dtype=torch.float64)
    noisy = noisy_at(torch.full((3,), 2.5))
    expected = exact(noisy, sigma, labels.double().reshape(-1, 1, 1, 1))
    assert torch.allclose(denoise(noisy, sigma, labels), expected, atol=1e-9)
    assert torch.allclose(denoise.bind(labels)(noisy, sigma), expected, atol=1e-9)
    assert torch.allclose(denoise.bind(None)(noisy, sigma), exact(noisy, sigma), atol=1e-9)


def test_labels_of_edm_are_one_hot() -> None:
    given: list[Tensor | None] = []

    def watched(noisy: Images, sigma: Tensor, class_labels: Tensor | None) -> Images:
        given.append(class_labels)
        return exact(noisy, sigma)

    denoise, noisy = from_edm(watched, num_classes=3), noisy_at(torch.ones(3))
    denoise(noisy, torch.tensor(1.0), torch.tensor([1, 3, 2]))
    denoise(noisy, torch.tensor(1.0))
    assert given[0] is not None
    assert given[0].tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert given[0].dtype == torch.float32
    assert given[1] is None
    for labels in ([0, 4, 1], [0, -1, 1]):
        with pytest.raises(UserError, match=r"Labels must lie in 0\.\.3, "):
            denoise(noisy, torch.tensor(1.0), torch.tensor(labels))
    with pytest.raises(UserError, match="was told of no classes"):
        from_edm(watched)(noisy, torch.tensor(1.0), torch.tensor([0, 0, 0]))
    with pytest.raises(ValueError, match="bind them before"):
        KINDS["k-diffusion"]()(noisy, torch.tensor(1.0), torch.tensor([0, 1, 2]))


def test_levels_in_the_range_given() -> None:
    learned = from_edm(edm, NoiseRange(0.01, 40.0, shift=0.5), scale=3.0).noise
    assert (learned.sigma_min, learned.sigma_max, learned.shift) == pytest.approx((0.015, 60.0, 1.0))


@pytest.mark.parametrize("more", [{}, {"alphas_cumprod": ABAR}, {"prediction": epsilon}])
def test_a_variance_preserving_network_needs_its_scaling(more: dict) -> None:
    with pytest.raises(ValueError, match=r"give the alphas_cumprod .* and its prediction \(epsilon, velocity or sample\)"):
        from_variance_preserving(preserving("epsilon"), **more)


@pytest.mark.parametrize("data_at", [None, 2])
def test_a_flow_matching_network_needs_its_direction(data_at: int | None) -> None:
    with pytest.raises(ValueError, match=f"got data_at={data_at}: give data_at=0 if clean images are at time 0"):
        from_flow_matching(path(0), data_at)


@pytest.mark.parametrize(
    "wrong", [ABAR.flip(0), ABAR[:1], torch.zeros(3), torch.tensor([1.0, 0.5]), torch.tensor([0.9, 0.5, 0.5]), -ABAR]
)
def test_schedules_that_are_none(wrong: Tensor) -> None:
    with pytest.raises(ValueError, match=r"must fall strictly inside \(0, 1\)"):
        from_variance_preserving(preserving("epsilon"), wrong, epsilon)


@each_kind
def test_sigma_and_labels_must_fit_the_images(adapt: Callable[..., ForeignDenoiser]) -> None:
    noisy = noisy_at(torch.ones(3))
    with pytest.raises(ValueError, match=r"3 noisy images need sigma \[\] or \[3\] and labels \[3\], got sigma \[2\]\."):
        adapt()(noisy, torch.ones(2))
    with pytest.raises(ValueError, match=r"got sigma \[\] and labels \[4\]"):
        adapt()(noisy, torch.tensor(1.0), torch.zeros(4, dtype=torch.int64))


class Answer:
    """An output object, as libraries return them."""

    def __init__(self, sample: Tensor) -> None:
        self.sample = sample


@pytest.mark.parametrize(
    "wrapped",
    [tuple, Answer, lambda each: {"logvar": each, "sample": each}, lambda each: {"other": each}, lambda each: [each, 0]],
    ids=["tuple", "object", "dictionary with sample", "dictionary", "list"],
)
def test_predictions_in_tuples_objects_and_dictionaries(wrapped: Callable[[Any], Any]) -> None:
    given = wrapped if wrapped is not tuple else lambda each: (each, None)
    noisy, sigma = noisy_at(torch.ones(2)), torch.tensor(1.0)
    network = preserving("epsilon")
    found = from_variance_preserving(lambda seen, level, labels: given(network(seen, level, labels)), ABAR, epsilon)
    torch.testing.assert_close(found(noisy, sigma), exact(noisy, sigma))
    torch.testing.assert_close(
        from_k_diffusion(lambda noisy, sigma: given(exact(noisy, sigma)))(noisy, sigma), exact(noisy, sigma)
    )


@pytest.mark.parametrize("nothing", [None, (), {}, "text", Answer])
def test_answers_without_a_tensor(nothing: Any) -> None:
    with pytest.raises(UserError, match="returns no tensor, nor a tuple, object or dictionary with one"):
        from_k_diffusion(lambda noisy, sigma: nothing)(noisy_at(torch.ones(2)), torch.tensor(1.0))


def test_labels_that_a_network_does_not_know() -> None:
    """By its configuration where it has one, else as its table of labels says."""
    noisy, sigma, table = noisy_at(torch.ones(2)), torch.tensor(1.0), nn.Embedding(3, 1)
    looked_up = from_variance_preserving(lambda seen, level, labels: seen * 0 * table(labels).sum(), ABAR, epsilon)
    with pytest.raises(UserError, match=r"knows not all of the labels \[0, 3\]"):
        looked_up(noisy, sigma, torch.tensor([0, 3]))
    for config, highest in ({"num_class_embeds": 3}, 2), ({"num_embeds_ada_norm": 3}, 3):
        network = Called("epsilon")
        network.config = config  # pyright: ignore[reportArgumentType]
        denoise = from_diffusers(network, scheduler(prediction_type="epsilon"))
        assert denoise(noisy, sigma, torch.tensor([0, highest])).shape == noisy.shape
        for wrong in (-1, highest + 1):
            with pytest.raises(UserError, match=rf"Labels must lie in 0\.\.{highest}, got \[0, {wrong}\]"):
                denoise(noisy, sigma, torch.tensor([0, wrong]))


def test_a_learned_variance_is_left_out() -> None:
    class Doubled(Called):
        def forward(self, *given: Any, **named: Any) -> tuple[Images]:
            (found,) = super().forward(*given, **named)
            return (torch.cat([found, 9 * found], 1),)

    network, noisy, sigma = Doubled("epsilon"), noisy_at(torch.ones(2)), torch.tensor(1.0)
    network.config = {"in_channels": 2, "out_channels": 4}  # pyright: ignore[reportArgumentType]
    denoise = from_diffusers(network, scheduler(prediction_type="epsilon"))
    torch.testing.assert_close(denoise(noisy, sigma), exact(noisy, sigma))


@pytest.mark.parametrize("other", ["scaled", "cosine", "swapped time"])
def test_a_wrong_schedule_is_caught_before_a_start_is_fitted(other: str) -> None:
    """The network was trained with the linear schedule of 1,000 steps, or with data at time 0."""
    betas = torch.linspace(1e-4**0.5, 0.012**0.5, 1000) ** 2
    share = torch.arange(1, 1001) / 1000
    schedules = {"scaled": torch.cumprod(1 - betas, 0), "cosine": torch.cos(share * 0.995 * math.pi / 2) ** 2}
    if other in schedules:
        denoise = from_variance_preserving(preserving("epsilon"), schedules[other], epsilon)
    else:
        denoise = from_flow_matching(path(0), 1)
    source = torch.Generator().manual_seed(0)
    training, held_out = (MEAN + DEVIATION * torch.randn(400, 2, 4, 4, generator=source) for _ in range(2))
    with pytest.raises(UserError, match=r"takes sigma for another noise|not in the range"):
        fit_start(denoise, denoise.noise, training, held_out, points=64)


Broken = Callable[[Images], Tensor]
BUILD: list[Callable[[Broken], ForeignDenoiser]] = [
    lambda broken: from_variance_preserving(lambda seen, level, labels: broken(seen), ABAR, epsilon),
    lambda broken: from_edm(lambda noisy, sigma, labels: broken(noisy)),
    lambda broken: from_k_diffusion(lambda noisy, sigma: broken(noisy)),
    lambda broken: from_flow_matching(lambda seen, time, labels: broken(seen), 0),
]


@pytest.mark.parametrize("build", BUILD)
def test_answers_that_are_none(build: Callable[[Broken], ForeignDenoiser]) -> None:
    noisy, sigma = noisy_at(torch.ones(2)), torch.tensor(1.0)
    with pytest.raises(ValueError, match=r"answers images \[2, 2, 4, 4\] with \[2, 4, 4, 4\].*such as a variance"):
        build(lambda seen: torch.cat([seen, seen], 1))(noisy, sigma)
    for wrong in (math.nan, math.inf):
        with pytest.raises(ValueError, match="its sigma 1 is not finite: run it in float32"):
            build(lambda seen, wrong=wrong: seen.index_fill(3, torch.tensor([2]), wrong))(noisy, sigma)


class Module(nn.Module):
    """A denoiser with weights, that notes the dtype of what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.tensor(0.5)), []

    def forward(self, noisy: Images, sigma: Tensor) -> Images:
        self.seen.append((noisy.dtype, sigma.dtype))
        return self.weight * noisy


def test_a_module_gets_images_in_its_dtype() -> None:
    module = Module().bfloat16()
    estimate = from_k_diffusion(module)(noisy_at(torch.ones(2)), torch.tensor(1.0))
    assert module.seen == [(torch.bfloat16, torch.float64)]
    assert estimate.dtype == torch.float64
    from_k_diffusion(module)(noisy_at(torch.ones(2), torch.bfloat16), torch.tensor(1.0))
    assert module.seen[1] == (torch.bfloat16, torch.float32)
    with pytest.raises(ValueError, match="Images are on cpu and the network is on meta"):
        from_k_diffusion(Module().to("meta"))(noisy_at(torch.ones(2)), torch.tensor(1.0))


class Called(nn.Module):
    """A network called as diffusers calls UNet2DModel."""

    def __init__(self, predicts: str) -> None:
        super().__init__()
        self.network = preserving(predicts)

    def forward(self, seen: Images, level: Tensor, class_labels: Tensor | None = None, return_dict: bool = True) -> tuple[Images]:
        assert not return_dict
        return (self.network(seen, level, class_labels),)


def scheduler(**config: str) -> SimpleNamespace:
    return SimpleNamespace(alphas_cumprod=ABAR, config=SimpleNamespace(**config))


@pytest.mark.parametrize(("name", "predicts"), [("epsilon", "epsilon"), ("v_prediction", "velocity"), ("sample", "sample")])
def test_predictions_by_the_names_of_diffusers(name: str, predicts: str) -> None:
    denoise = from_diffusers(Called(predicts), scheduler(prediction_type=name))
    sigma = torch.tensor([0.03, 1.7], dtype=torch.float64)
    noisy, labels = noisy_at(sigma), torch.tensor([4, 1])
    assert torch.allclose(denoise(noisy, sigma), exact(noisy, sigma), atol=1e-9)
    assert torch.allclose(denoise(noisy, sigma, labels), exact(noisy, sigma, labels.double().reshape(-1, 1, 1, 1)), atol=1e-9)


def test_schedulers_without_scaling() -> None:
    for wrong in (scheduler(), SimpleNamespace(config=SimpleNamespace(prediction_type="epsilon")), SimpleNamespace()):
        with pytest.raises(ValueError, match=r"SimpleNamespace does not hold alphas_cumprod and config\.prediction_type"):
            from_diffusers(Called("epsilon"), wrong)
    with pytest.raises(ValueError, match="prediction_type 'flow' of SimpleNamespace is none of epsilon, v_prediction, sample"):
        from_diffusers(Called("epsilon"), scheduler(prediction_type="flow"))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_network_of_diffusers(prediction: str) -> None:
    """At a whole timestep the estimate is the one that DDIM's own step shows, from the same network with labels."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'pixelpath[bench]'")
    network = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        num_class_embeds=3,
    ).eval()
    trained = diffusers.DDPMScheduler(prediction_type=prediction, clip_sample=False)
    walked = diffusers.DDIMScheduler.from_config(trained.config)
    walked.set_timesteps(1000)
    denoise, labels = from_diffusers(network, trained, nearest), torch.tensor([2, 0])
    assert (denoise.noise.sigma_min, denoise.noise.sigma_max) == pytest.approx((float(SIGMAS[0]), float(SIGMAS[-1])), rel=1e-5)
    preserved = torch.randn(2, 1, 8, 8)
    for number in (0, 350, 999):
        a = trained.alphas_cumprod[number].sqrt()
        with torch.no_grad():
            answer = network(preserved, number, class_labels=labels).sample
            shown = walked.step(answer, number, preserved).pred_original_sample
            estimate = denoise(preserved / a, SIGMAS[number], labels)
            between = from_diffusers(network, trained)(preserved / a, SIGMAS[number], labels)
        assert torch.allclose(estimate, shown, rtol=1e-4, atol=1e-4 * float(shown.abs().max()))
        assert torch.allclose(between, shown, rtol=1e-4, atol=1e-4 * float(shown.abs().max()))
