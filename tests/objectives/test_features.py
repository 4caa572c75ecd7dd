"""Feature losses: nothing where estimate and image agree, the closed form where they do not, gradients for the estimate alone."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pixelpath.models.preconditioning import XPrediction
from pixelpath.models.representation import Representation
from pixelpath.networks.encoder import Encoder
from pixelpath.networks.projector import Projector
from pixelpath.objectives.contrast import info_nce
from pixelpath.objectives.features import ContrastiveFeatures, FeatureLoss, LayerFeatures, NoFeatures

SIGMA = torch.tensor(0.3)


@pytest.fixture
def frozen() -> Representation:
    encoder = Encoder(1, 8, 8, patch=4, width=12, depth=3, heads=2)
    return Representation(encoder, Projector(12, 16, 5), XPrediction()).requires_grad_(False).eval()


def images(count: int = 5) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 1, 8, 8, requires_grad=True), torch.randn(count, 1, 8, 8)


def blocks(frozen: Representation, seen: Tensor) -> list[Tensor]:
    """The outputs of the encoder's blocks for images scaled as at SIGMA."""
    coordinate = (250 * SIGMA.log()).expand(len(seen))
    return frozen.encoder(seen / (SIGMA**2 + 0.25).sqrt(), coordinate).blocks


def test_contrastive_features_are_the_contrastive_loss(frozen: Representation) -> None:
    estimate, clean = images()
    expected = info_nce(frozen(estimate, SIGMA).projection, frozen(clean, SIGMA).projection, 0.2)
    torch.testing.assert_close(ContrastiveFeatures(0.2, 1.5)(frozen, estimate, clean, SIGMA), 1.5 * expected)
    assert ContrastiveFeatures().temperature == 0.1


@pytest.mark.parametrize(("chosen", "numbers"), [((), [0, 1, 2]), ((1,), [1]), ((0, -1), [0, 2])])
def test_layer_features_in_closed_form(frozen: Representation, chosen: tuple[int, ...], numbers: list[int]) -> None:
    """|u - v|^2 = 2 - 2 cosine for tokens of length 1."""
    estimate, clean = images()
    ours, theirs = blocks(frozen, estimate), blocks(frozen, clean)
    similar = torch.stack([functional.cosine_similarity(ours[n], theirs[n], dim=2).mean(1) for n in numbers]).mean(0)
    torch.testing.assert_close(LayerFeatures(chosen, 3.0)(frozen, estimate, clean, SIGMA), 3 * (2 - 2 * similar))


def test_layer_features_of_equal_images_are_none(frozen: Representation) -> None:
    _, clean = images()
    assert LayerFeatures()(frozen, clean, clean, SIGMA).tolist() == pytest.approx([0] * 5, abs=1e-6)


@pytest.mark.parametrize("features", [ContrastiveFeatures(), LayerFeatures()])
def test_the_gradient_goes_to_the_estimate_alone(frozen: Representation, features: FeatureLoss) -> None:
    estimate, clean = images()
    clean.requires_grad_(True)
    features(frozen, estimate, clean, SIGMA).sum().backward()
    assert estimate.grad is not None
    assert float(estimate.grad.abs().min()) > 0
    assert clean.grad is None


def test_no_features_are_zero_and_need_no_encoder() -> None:
    assert NoFeatures()(None, *images(), SIGMA).tolist() == [0.0] * 5


@pytest.mark.parametrize("block", [3, -4])
def test_a_block_that_does_not_exist(frozen: Representation, block: int) -> None:
    with pytest.raises(ValueError, match=r"has blocks 0 to 2, not \[-?\d\]"):
        LayerFeatures((0, block))(frozen, *images(), SIGMA)


@pytest.mark.parametrize("features", [ContrastiveFeatures(), LayerFeatures()])
def test_an_encoder_is_needed(features: FeatureLoss) -> None:
    with pytest.raises(ValueError, match="needs the encoder of a finished stage one"):
        features(None, *images(), SIGMA)
