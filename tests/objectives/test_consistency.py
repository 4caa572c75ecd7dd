"""The consistency loss is the weighted distance of the estimates of a pair, under one mask, with a gradient on one side only."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pixelpath.errors import UserError
from pixelpath.models.denoiser import Denoiser
from pixelpath.models.preconditioning import EDMPreconditioning, XPrediction
from pixelpath.models.representation import Representation
from pixelpath.networks.backbone import Backbone
from pixelpath.networks.decoder import Decoder
from pixelpath.networks.encoder import Encoder
from pixelpath.networks.projector import Projector
from pixelpath.noise import LogNormal, NoiseRange, expand
from pixelpath.objectives.consistency import Consistency, Pairs, alike
from pixelpath.objectives.features import ContrastiveFeatures
from pixelpath.objectives.pairs import StagedGap
from pixelpath.randomness import seed_of
from pixelpath.types import Batch

NOISE = NoiseRange(0.02, 20.0, shift=0.5)
GAP = StagedGap()


class Watched(nn.Module):
    """Estimates `value` times sigma everywhere, through dropout; remembers its calls."""

    def __init__(self, value: float = 0.2, dropout: float = 0.0) -> None:
        super().__init__()
        self.value, self.dropout = nn.Parameter(torch.tensor(value)), nn.Dropout(dropout)
        self.calls: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self.graphs: list[bool] = []
        self.masks: list[Tensor] = []

    def forward(self, noisy: Tensor, sigma: Tensor, labels: Tensor, drop: Tensor) -> Tensor:
        self.calls.append((noisy, sigma, labels, drop))
        estimate = self.dropout(self.value * expand(sigma, noisy) * torch.ones_like(noisy))
        self.graphs.append(estimate.requires_grad)
        self.masks.append(estimate == 0)
        return estimate


def batch(first: int, last: int, images: float = 0.3) -> Batch:
    seeds = tuple(seed_of(3, 17, position) for position in range(first, last))
    count = last - first
    return Batch(torch.full((count, 1, 4, 4), images), torch.arange(count) % 10, seeds, seed_of(3, 17))


def pairs(sigma: list[float], lower: list[float]) -> Pairs:
    count = len(sigma)
    return Pairs(torch.zeros(count, 1, 4, 4), torch.tensor(sigma), torch.tensor(lower), torch.zeros(count, dtype=torch.bool))


def test_loss_and_gradient_in_closed_form() -> None:
    """Estimates v t and v r at 16 pixels: S = 16 v^2 (t - r)^2, shifted; to the gradient target and root are constants."""
    student, value = Watched(0.2), 0.2
    objective = Consistency(NOISE, GAP, softening=0.5)
    loss, _ = objective.terms(student, student, batch(0, 2), pairs([4.0, 1.0], [1.0, 0.4]))
    expected, slope = [], 0.0
    for high, low in ((2.0, 0.5), (0.5, 0.2)):
        error = 16 * value**2 * (high - low) ** 2
        root = math.sqrt(error + 0.25)
        expected.append(error / root / (high - low))
        slope += 2 * 16 * value * (high - low) * high / root / (high - low)
    assert loss.tolist() == pytest.approx(expected, rel=1e-5)
    loss.sum().backward()
    assert student.value.grad is not None
    assert student.value.grad.item() == pytest.approx(slope, rel=1e-5)
    assert student.graphs == [True, False]


def test_weight_and_default_softening() -> None:
    student = Watched(0.2)
    loss, features = Consistency(NOISE, GAP).terms(student, student, batch(0, 1), pairs([4.0], [1.0]))
    error = 16 * 0.04 * 1.5**2
    assert loss.item() == pytest.approx(1 / 1.5 * error / math.sqrt(error + 0.06**2), rel=1e-5)
    assert features.item() == 0


def test_targets_at_the_lowest_level_and_without_a_teacher() -> None:
    student, data = Watched(0.2), batch(0, 2)
    drawn = replace(pairs([4.0, 4.0], [0.02, 1.0]), noise=torch.full((2, 1, 4, 4), 10.0))
    objective = Consistency(NOISE, GAP)
    _, target = objective.estimates(student, student, data, drawn)
    assert target[0].unique().tolist() == pytest.approx([0.3 + 10 * 0.01])
    assert target[1].unique().tolist() == pytest.approx([0.2 * 0.5])
    noisier, cleaner = student.calls[0][0], student.calls[1][0]
    assert noisier.unique().tolist() == pytest.approx([0.3 + 10 * 2])
    assert cleaner.unique().tolist() == pytest.approx([0.3 + 10 * 0.01, 0.3 + 10 * 0.5])
    assert torch.equal(objective.estimates(student, None, data, drawn)[1], data.images)
    assert len(student.calls) == 3


def test_a_stage_zero_is_denoising_in_one_pass() -> None:
    student = Watched()
    objective = Consistency(NOISE, StagedGap(stages=2, first=0))
    losses = objective(student, student, batch(0, 5), 9 / 20)
    assert len(student.calls) == 1
    sigma = student.calls[0][1]
    error = 16 * (0.2 * sigma.detach() - 0.3) ** 2
    assert losses.total.item() == pytest.approx(float((error / (error + 0.0036).sqrt() / (sigma - 0.01)).mean()), rel=1e-4)
    objective(student, student, batch(0, 5), 10 / 20)
    assert len(student.calls) == 3


def test_one_noise_two_levels() -> None:
    student, data = Watched(), batch(0, 300)
    objective = Consistency(NOISE, GAP, LogNormal(-0.4, 0.5), label_dropout=0.25)
    losses = objective(student, student, data, 0.5)
    (noisier, high, labels, drop), (cleaner, low, labels_below, drop_below) = student.calls
    first, second = ((noisy - data.images) / expand(sigma, noisy) for noisy, sigma in ((noisier, high), (cleaner, low)))
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)
    assert float(first.std()) == pytest.approx(1, abs=3 / (2 * first.numel()) ** 0.5)
    assert torch.equal(low / 0.5, objective.gap(high / 0.5, NOISE, 0.5))
    assert torch.equal(labels, labels_below)
    assert torch.equal(drop, drop_below)
    assert float((high / 0.5).log().mean()) == pytest.approx(-0.4, abs=4 * 0.5 / 300**0.5)
    assert float(drop.float().mean()) == pytest.approx(0.25, abs=3 * (0.1875 / 300) ** 0.5)
    assert losses.total.item() == pytest.approx(losses.parts["consistency"].item())
    assert set(losses.parts) == {"consistency"}


def test_an_image_is_treated_alike_in_any_batch() -> None:
    ten, three = Watched(), Watched()
    objective = Consistency(NOISE, GAP)
    objective(ten, ten, batch(0, 10), 0.3)
    objective(three, three, batch(6, 9), 0.3)
    for whole, part in zip(ten.calls, three.calls, strict=True):
        assert torch.equal(whole[0][7], part[0][1])
        assert torch.equal(whole[1][7], part[1][1])


def test_both_passes_have_one_mask_and_other_images_another() -> None:
    student = Watched(dropout=0.5).train()
    objective = Consistency(NOISE, GAP)
    objective(student, student, batch(0, 5), 0.3)
    torch.manual_seed(77)
    objective(student, student, batch(0, 5), 0.3)
    objective(student, student, batch(5, 10), 0.3)
    first, second, again, _, other, _ = student.masks
    assert 0.2 < float(first.float().mean()) < 0.8
    assert torch.equal(first, second)
    assert torch.equal(first, again)  # whatever the state of torch's generator
    assert not torch.equal(first, other)


DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else []), *(["mps"] if torch.backends.mps.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_masks_are_alike_on_every_device(device: str, precision: torch.dtype) -> None:
    drop, ones = nn.Dropout(0.5), torch.ones(1000, device=device, dtype=precision)
    call = alike(drop, 5)
    with torch.no_grad():
        first = call(ones)
    assert torch.equal(first, call(ones))
    assert not torch.equal(first, alike(drop, 6)(ones))
    assert not torch.equal(first, drop(ones))


def small(dropout: float = 0.0) -> Denoiser:
    encoder = Encoder(1, 4, 4, patch=2, width=8, depth=2, heads=2)
    denoiser = Denoiser(Backbone(encoder, Decoder(encoder, 8, 2, 2, dropout), 10), EDMPreconditioning(boundary=0.01))
    for parameter in denoiser.parameters():
        nn.init.normal_(parameter, std=0.2)
    return denoiser


def frozen() -> Representation:
    return Representation(Encoder(1, 4, 4, patch=2, width=8, depth=2, heads=2), Projector(8, 16, 4), XPrediction())


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_every_parameter_of_a_denoiser_learns(precision: torch.dtype) -> None:
    """Also under autocast, whose cache must not hand the pass with gradients the weights of the one without."""
    denoiser, guide = small(0.5).train(), frozen()
    objective = Consistency(NOISE, GAP, features=ContrastiveFeatures()).through(guide)
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        losses = objective(denoiser, denoiser, replace(batch(0, 12), images=torch.randn(12, 1, 4, 4)), 0.4)
    losses.total.backward()
    assert losses.total.dtype == torch.float32
    for name, parameter in denoiser.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
        assert float(parameter.grad.abs().max()) > 0, name
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in guide.parameters())


def test_the_target_under_edm_preconditioning_is_the_noisy_image_anyway() -> None:
    denoiser, data = small(), batch(0, 3)
    drawn = replace(pairs([4.0] * 3, [0.02] * 3), noise=torch.randn(3, 1, 4, 4))
    _, target = Consistency(NOISE, GAP).estimates(denoiser, denoiser, data, drawn)
    lowest = torch.full((3,), 0.01)
    torch.testing.assert_close(denoiser(target, lowest, data.labels), target, rtol=1e-5, atol=1e-6)


def test_features_are_seen_by_a_frozen_encoder_that_belongs_to_no_one() -> None:
    denoiser, guide = small(), frozen().train()
    keys = set(denoiser.state_dict())
    objective = Consistency(NOISE, GAP, features=ContrastiveFeatures(weight=2.0))
    assert objective.needs_encoder
    assert not Consistency(NOISE).needs_encoder
    bound = objective.through(guide)
    assert not guide.training
    buffers = {name: value.clone() for name, value in guide.named_buffers()}
    losses = bound(denoiser, denoiser, batch(0, 4), 0.04)
    assert set(denoiser.state_dict()) == keys
    assert all(torch.equal(value, buffers[name]) for name, value in guide.named_buffers())
    both = losses.parts["consistency"] + losses.parts["features"]
    assert losses.total.item() == pytest.approx(both.item(), rel=1e-5)
    assert losses.parts["features"].item() > 0
    with pytest.raises(ValueError, match="through"):
        objective(denoiser, denoiser, batch(0, 4), 0.04)


@pytest.mark.parametrize(("setting", "value"), [("softening", 0.0), ("softening", math.inf), ("label_dropout", 1.1)])
def test_impossible_settings(setting: str, value: float) -> None:
    with pytest.raises(UserError) as caught:
        replace(Consistency(NOISE), **{setting: value})
    assert caught.value.setting == f"objective.{setting}"


def test_published_settings() -> None:
    objective = Consistency(NOISE)
    assert (objective.draw, objective.softening) == (LogNormal(-0.4, 1.6), 0.06)
    assert objective.gap == StagedGap(7, 1, 2.0, 8.0, 1.0)
    assert (objective.label_dropout, objective.needs_encoder) == (0.1, False)
