"""The feature loss: the contrastive loss of projections, with gradients for the estimate alone."""

import pytest
import torch
from torch import Tensor

from pixelpath.models.preconditioning import XPrediction
from pixelpath.models.representation import Representation
from pixelpath.networks.encoder import Encoder
from pixelpath.networks.projector import Projector
from pixelpath.objectives.contrast import info_nce
from pixelpath.objectives.features import ContrastiveFeatures, NoFeatures
from pixelpath.types import Batch

SIGMA = torch.tensor(0.3)


@pytest.fixture
def frozen() -> Representation:
    encoder = Encoder(1, 8, 8, patch=4, width=12, depth=3, heads=2)
    return Representation(encoder, Projector(12, 16, 5), XPrediction()).requires_grad_(False).eval()


def images(count: int = 5) -> tuple[Tensor, Batch]:
    """Estimates, and the batch of clean images, in which the last is the first again."""
    index = torch.arange(count) % (count - 1)
    clean = torch.randn(count, 1, 8, 8)[index]
    return torch.randn(count, 1, 8, 8, requires_grad=True), Batch(clean, index, tuple(range(count)), 0, index=index)


def test_contrastive_features_are_the_contrastive_loss(frozen: Representation) -> None:
    estimate, clean = images()
    expected = info_nce(frozen(estimate, SIGMA).projection, frozen(clean.images, SIGMA).projection, 0.2, clean.index)
    torch.testing.assert_close(ContrastiveFeatures(0.2, 1.5)(frozen, estimate, clean, SIGMA), 1.5 * expected)
    assert ContrastiveFeatures().temperature == 0.1


def test_the_gradient_goes_to_the_estimate_alone(frozen: Representation) -> None:
    estimate, clean = images()
    clean.images.requires_grad_(True)
    ContrastiveFeatures()(frozen, estimate, clean, SIGMA).sum().backward()
    assert estimate.grad is not None
    assert float(estimate.grad.abs().min()) > 0
    assert clean.images.grad is None


def test_no_features_are_zero_and_need_no_encoder() -> None:
    assert NoFeatures()(None, *images(), SIGMA).tolist() == [0.0] * 5


def test_an_encoder_is_needed() -> None:
    with pytest.raises(ValueError, match="through"):
        ContrastiveFeatures()(None, *images(), SIGMA)
