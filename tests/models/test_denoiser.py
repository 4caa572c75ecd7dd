"""A denoiser is its backbone under scalings, for labels or none."""

import pytest
import torch
from torch import nn

from pixelpath.models.denoiser import Denoiser
from pixelpath.models.preconditioning import EDMPreconditioning, XPrediction, noise_coordinate
from pixelpath.networks.backbone import Backbone
from pixelpath.networks.decoder import Decoder
from pixelpath.networks.encoder import Encoder
from pixelpath.types import Condition


@pytest.fixture
def backbone() -> Backbone:
    encoder = Encoder(2, 8, 4, patch=4, width=12, depth=2, heads=2)
    backbone = Backbone(encoder, Decoder(encoder, width=16, depth=2, heads=4), num_classes=3)
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.2)
    return backbone.requires_grad_(False)


NOISY = torch.randn(3, 2, 8, 4, generator=torch.Generator().manual_seed(1))
SIGMA = torch.tensor([0.02, 0.7, 30.0])
LABELS = torch.tensor([0, 2, 1])


def test_clean_is_the_backbone_of_scaled_images(backbone: Backbone) -> None:
    scaled = NOISY / (SIGMA**2 + 0.25).sqrt().view(3, 1, 1, 1)
    expected = backbone(scaled, 250 * SIGMA.log(), LABELS)
    assert torch.allclose(Denoiser(backbone, XPrediction())(NOISY, SIGMA, LABELS), expected, atol=1e-4)


def test_preconditioned_is_a_sum(backbone: Backbone) -> None:
    denoiser = Denoiser(backbone, EDMPreconditioning())
    norm = (SIGMA**2 + 0.25).sqrt().view(3, 1, 1, 1)
    raw = backbone(NOISY / norm, noise_coordinate(SIGMA), LABELS)
    expected = 0.25 / norm**2 * NOISY + 0.5 * SIGMA.view(3, 1, 1, 1) / norm * raw
    assert torch.allclose(denoiser(NOISY, SIGMA, LABELS), expected, atol=1e-5)
    at_boundary = Denoiser(backbone, EDMPreconditioning(boundary=0.02))(NOISY, torch.tensor(0.02), LABELS)
    assert torch.equal(at_boundary, NOISY)


def test_no_class_can_be_said_in_three_ways(backbone: Backbone) -> None:
    denoiser = Denoiser(backbone, XPrediction())
    none = denoiser(NOISY, SIGMA)
    assert torch.equal(denoiser(NOISY, SIGMA, torch.full((3,), 3)), none)
    assert torch.equal(denoiser(NOISY, SIGMA, LABELS, drop=torch.ones(3, dtype=torch.bool)), none)
    some = denoiser(NOISY, SIGMA, LABELS, drop=torch.tensor([False, True, False]))
    assert torch.equal(some, denoiser(NOISY, SIGMA, torch.tensor([0, 3, 1])))
    assert not torch.allclose(denoiser(NOISY, SIGMA, LABELS), none)


def test_one_sigma_for_all_is_one_for_each(backbone: Backbone) -> None:
    denoiser = Denoiser(backbone, XPrediction())
    one = denoiser(NOISY, torch.tensor(0.7, dtype=torch.float64), LABELS)
    assert torch.equal(one, denoiser(NOISY, torch.full((3,), 0.7), LABELS))
    assert one.dtype == torch.float32


def test_bind(backbone: Backbone) -> None:
    denoiser = Denoiser(backbone, XPrediction())
    assert torch.equal(denoiser.bind(LABELS)(NOISY, SIGMA), denoiser(NOISY, SIGMA, LABELS))
    assert torch.equal(denoiser.bind(None)(NOISY, SIGMA), denoiser(NOISY, SIGMA))


@pytest.mark.parametrize("preconditioning", [XPrediction(), EDMPreconditioning()])
def test_finite_without_noise(backbone: Backbone, preconditioning: XPrediction | EDMPreconditioning) -> None:
    assert torch.isfinite(Denoiser(backbone, preconditioning)(NOISY, torch.tensor(0.0), LABELS)).all()


def test_dropped_conditions_are_no_conditions() -> None:
    encoder = Encoder(2, 8, 4, patch=4, width=12, depth=2, heads=2)
    backbone = Backbone(encoder, Decoder(encoder, width=16, depth=2, heads=4), num_classes=3, numbers=2, cond_image=1)
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.2)
    denoiser = Denoiser(backbone.requires_grad_(False), XPrediction())
    condition = Condition(LABELS, torch.randn(3, 2), torch.randn(3, 1, 8, 4))
    dropped = denoiser(NOISY, SIGMA, condition, drop=torch.ones(3, dtype=torch.bool))
    torch.testing.assert_close(dropped, denoiser(NOISY, SIGMA))
    assert (denoiser(NOISY, SIGMA, condition) - dropped).abs().amax((1, 2, 3)).min() > 1e-4
    torch.testing.assert_close(denoiser(NOISY[1:2], SIGMA[1:2], condition[1:2]), denoiser(NOISY, SIGMA, condition)[1:2])
