"""The tangent loss is the consistency loss without a gap: closed forms, and the limit of the other's gradient."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.func import jacrev
from torch.fx import GraphModule

from pixelpath.models.denoiser import Denoiser
from pixelpath.models.preconditioning import EDMPreconditioning, XPrediction
from pixelpath.models.representation import Representation
from pixelpath.networks.backbone import Backbone
from pixelpath.networks.decoder import Decoder
from pixelpath.networks.encoder import Encoder
from pixelpath.networks.projector import Projector
from pixelpath.noise import LogNormal, NoiseRange, expand
from pixelpath.objectives.consistency import Consistency, Pairs
from pixelpath.objectives.features import ContrastiveFeatures
from pixelpath.objectives.pairs import InverseGap, RelativeGap, StagedGap
from pixelpath.objectives.tangent import Tangent
from pixelpath.randomness import seed_of
from pixelpath.types import Batch, classes_of

NOISE = NoiseRange(0.02, 20.0, shift=0.5)
NONE = torch.zeros(2, dtype=torch.bool)
UNSHIFTED = torch.tensor([4.0, 1.0])  # shifted 2 and 0.5


class Formula(nn.Module):
    """Estimates a noisy^2 sigma, through dropout; remembers its calls."""

    def __init__(self, value: float = 0.2, dropout: float = 0.0) -> None:
        super().__init__()
        self.value, self.dropout = nn.Parameter(torch.tensor(value)), nn.Dropout(dropout)
        self.calls: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def forward(self, noisy: Tensor, sigma: Tensor, labels: Tensor, drop: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            self.calls.append((noisy, sigma, labels, drop))
        return self.dropout(self.value * noisy**2 * sigma.reshape(-1, 1, 1, 1))


def batch(count: int, images: float = 0.3) -> Batch:
    seeds = tuple(seed_of(3, 17, position) for position in range(count))
    return Batch(torch.full((count, 1, 4, 4), images), torch.arange(count) % 10, seeds, seed_of(3, 17))


def small(dropout: float = 0.0) -> Denoiser:
    encoder = Encoder(1, 4, 4, patch=2, width=8, depth=2, heads=2)
    denoiser = Denoiser(Backbone(encoder, Decoder(encoder, 8, 2, 2, dropout), 10), EDMPreconditioning(boundary=0.01))
    for parameter in denoiser.parameters():
        nn.init.normal_(parameter, std=0.2)
    return denoiser


def gradient(loss: Tensor, module: nn.Module) -> Tensor:
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(module.parameters()))])


@pytest.mark.parametrize(("weight", "weights"), [(InverseGap(), (0.5, 2.0)), (RelativeGap(), (1.0, 1.0))])
def test_loss_and_gradient_in_closed_form(weight: InverseGap | RelativeGap, weights: tuple[float, float]) -> None:
    """D = a y^2 t along y = x + t e has the tangent t dD/dt = a t (y^2 + 2 y t e), which the gradient takes for a constant."""
    student = Formula(0.2)
    noise = torch.stack([torch.full((1, 4, 4), 1.5), torch.full((1, 4, 4), -0.7)])
    loss, features = Tangent(NOISE, weight=weight, softening=3.0).terms(student, batch(2), noise, UNSHIFTED, NONE)
    expected, slope = [], 0.0
    for high, unit, factor in zip((2.0, 0.5), (1.5, -0.7), weights, strict=True):
        noisy = 0.3 + high * unit
        tangent = 0.2 * high * (noisy**2 + 2 * noisy * high * unit)
        root = math.sqrt(16 * tangent**2 + 9)
        expected.append(factor * 16 * tangent**2 / root)
        slope += factor * 2 * 16 * noisy**2 * high * tangent / root
    assert loss.tolist() == pytest.approx(expected, rel=1e-4)
    assert features.tolist() == [0, 0]
    assert gradient(loss.sum(), student).item() == pytest.approx(slope, rel=1e-4)


def test_tangent_of_a_denoiser_is_the_whole_derivative_along_ln_sigma() -> None:
    """Against reverse mode, which shares no formula with the derivative forward."""
    denoiser, data = small().double(), batch(2)
    data = replace(data, images=data.images.double())
    noise, sigma = torch.randn(2, 1, 4, 4, dtype=torch.float64), UNSHIFTED.double()

    def along(logarithm: Tensor) -> Tensor:
        level = logarithm.exp()
        return denoiser(data.images + level[:, None, None, None] * noise, level, data.labels, NONE)

    whole = jacrev(along)((sigma * 0.5).log())
    assert isinstance(whole, Tensor)
    expected = torch.stack([whole[0, ..., 0], whole[1, ..., 1]]).float()
    estimate, tangent = Tangent(NOISE).estimates(denoiser, data, noise, sigma, NONE)
    torch.testing.assert_close(tangent, expected, rtol=1e-4, atol=1e-5)
    assert estimate.requires_grad
    assert not tangent.requires_grad


@pytest.mark.parametrize("weight", [InverseGap(), RelativeGap()])
@pytest.mark.parametrize("softening", [2.0, 1e4])
def test_consistency_tends_to_it_as_the_gap_closes(weight: InverseGap | RelativeGap, softening: float) -> None:
    """A gap of share q and a softening q c: 1/q times the gradient, but for a share that halves with q."""
    denoiser, noise = small().double(), torch.randn(2, 1, 4, 4, dtype=torch.float64)
    data, sigma = batch(2), torch.tensor([2.2, 1.7], dtype=torch.float64)
    data = replace(data, images=data.images.double())
    limit, _ = Tangent(NOISE, weight=weight, softening=softening).terms(denoiser, data, noise, sigma, NONE)
    expected = gradient(limit.sum(), denoiser)
    misses = []
    for power in (13, 14):
        share = 2.0**-power
        gap = StagedGap(total=1, stages=1, first=power, widening=0.0)
        drawn = Pairs(noise, sigma, gap(sigma, NOISE, 0), NONE)
        pair, _ = Consistency(NOISE, gap, weight=weight, softening=share * softening).terms(denoiser, denoiser, data, drawn)
        misses.append(float((share * gradient(pair.sum(), denoiser) - expected).norm() / expected.norm()))
    assert misses[0] < 2e-2  # many waves of the noise token fit into a small gap
    assert misses[1] < 1e-2
    assert misses[0] / misses[1] == pytest.approx(2, rel=0.1)


def test_nothing_to_learn_from_a_constant_estimate() -> None:
    """Why the scalings must have a boundary: without one, this is a perfect student."""
    student = nn.Module()
    student.forward = lambda noisy, sigma, labels, drop: torch.zeros_like(noisy)
    loss, _ = Tangent(NOISE).terms(student, batch(2), torch.randn(2, 1, 4, 4), UNSHIFTED, NONE)
    assert loss.tolist() == [0, 0]


def test_warm_up_begins_as_denoising_and_ends_as_the_tangent() -> None:
    student, noise = Formula(), torch.ones(2, 1, 4, 4)
    objective = Tangent(NOISE, softening=1e6, warmup=0.25, total=80)
    assert [objective.pull(step) for step in (0, 5, 20, 70)] == [0, 0.25, 1, 1]
    slopes = []
    for pull in (0.0, 1.0, 0.25):
        loss, _ = objective.terms(student, batch(2), noise, UNSHIFTED, NONE, pull)
        slopes.append(gradient(loss.sum(), student).item())
    denoising = 0.0
    for high in (2.0, 0.5):
        square = (0.3 + high) ** 2 * high
        denoising += 2 / high * 16 * square * (0.2 * square - 0.3) / 1e6
    assert slopes[0] == pytest.approx(denoising, rel=1e-4)
    assert slopes[2] == pytest.approx(0.75 * slopes[0] + 0.25 * slopes[1], rel=1e-4)
    assert Tangent(NOISE, warmup=0.0).pull(0) == 1
    with pytest.raises(ValueError, match="does not know the length of its run"):
        Tangent(NOISE).pull(0)


def test_what_a_step_draws() -> None:
    student, data = Formula(), batch(300)
    losses = Tangent(NOISE, LogNormal(-0.4, 0.5), label_dropout=0.25, total=70)(student, student, data, 35)
    noisy, sigma, labels, drop = student.calls[0]
    noise = (noisy - data.images) / expand(sigma, noisy)
    assert float(noise.detach().std()) == pytest.approx(1, abs=3 / (2 * noise.numel()) ** 0.5)
    assert float((sigma / 0.5).log().mean()) == pytest.approx(-0.4, abs=4 * 0.5 / 300**0.5)
    assert float(drop.float().mean()) == pytest.approx(0.25, abs=3 * (0.1875 / 300) ** 0.5)
    assert torch.equal(labels, classes_of(data.labels))
    terms = Tangent(NOISE).terms(student, data, noise.detach(), sigma / 0.5, drop)
    assert losses.total.item() == pytest.approx(terms[0].mean().item(), rel=1e-3)
    assert set(losses.parts) == {"tangent"}


def test_estimate_and_tangent_have_one_mask() -> None:
    student, noise = Formula(dropout=0.5).train(), torch.ones(2, 1, 4, 4)
    estimate, tangent = Tangent(NOISE).estimates(student, batch(2), noise, UNSHIFTED, NONE)
    assert 0.2 < float((estimate == 0).float().mean()) < 0.8
    assert torch.equal(estimate == 0, tangent == 0)
    torch.manual_seed(77)
    assert torch.equal(Tangent(NOISE).estimates(student, batch(2), noise, UNSHIFTED, NONE)[0], estimate)


def test_a_compiled_student_stays_compiled() -> None:
    """A derivative forward through compiled code would send every later call back to the plain module."""
    runs: list[int] = []

    def backend(graph: GraphModule, examples: list[Tensor]) -> Callable[..., object]:
        def run(*inputs: Tensor) -> object:
            runs.append(len(examples))
            return graph(*inputs)

        return run

    torch.compiler.reset()
    student = Formula()
    compiled, noise = cast(nn.Module, torch.compile(student, backend=backend)), torch.ones(2, 1, 4, 4)
    plain, _ = Tangent(NOISE).terms(student, batch(2), noise, UNSHIFTED, NONE)
    for _ in range(3):
        loss, _ = Tangent(NOISE).terms(compiled, batch(2), noise, UNSHIFTED, NONE)
        assert loss.tolist() == pytest.approx(plain.tolist(), rel=1e-5)
    assert len(runs) == 3


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_every_parameter_of_a_denoiser_learns(precision: torch.dtype, checkpointing: bool) -> None:
    denoiser, guide = small(0.5).train(), Representation(small().backbone.encoder, Projector(8, 16, 4), XPrediction())
    denoiser.backbone.checkpoint_activations(checkpointing)
    open_objective = Tangent(NOISE, features=ContrastiveFeatures(), total=100)
    assert open_objective.needs_encoder
    assert not Tangent(NOISE).needs_encoder
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        data = replace(batch(12), images=torch.randn(12, 1, 4, 4))
        losses = open_objective.through(guide)(denoiser, denoiser, data, 30)
    losses.total.backward()
    assert losses.total.dtype == torch.float32
    both = losses.parts["tangent"] + losses.parts["features"]
    assert losses.total.item() == pytest.approx(both.item(), rel=1e-5)
    assert losses.parts["features"].item() > 0
    for name, parameter in denoiser.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
        assert float(parameter.grad.abs().max()) > 0, name
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in guide.parameters())
    with pytest.raises(ValueError, match="needs the encoder of a finished stage one"):
        open_objective(denoiser, denoiser, batch(4), 3)


def test_settings() -> None:
    objective = Tangent(NOISE)
    assert (objective.draw, objective.weight, objective.label_dropout) == (LogNormal(-0.4, 1.6), InverseGap(), 0.1)
    assert (objective.softening, objective.warmup, objective.total) == (1.0, 0.3, 0)
    with pytest.raises(ValueError, match="softening of the tangent loss must be above 0"):
        Tangent(NOISE, softening=0.0)
    with pytest.raises(ValueError, match="warm-up is a share of the run"):
        Tangent(NOISE, warmup=1.5)
