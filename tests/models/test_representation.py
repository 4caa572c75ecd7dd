"""A representation is the encoder's CLS token of scaled images, and its projection; every parameter learns from it."""

import pytest
import torch

from pixelpath.models.preconditioning import XPrediction
from pixelpath.models.representation import Representation
from pixelpath.networks.encoder import Encoder
from pixelpath.networks.projector import Projector
from pixelpath.objectives.contrast import info_nce


def build() -> Representation:
    encoder = Encoder(2, 8, 4, patch=4, width=12, depth=2, heads=2)
    return Representation(encoder, Projector(12, hidden=10, out=6), XPrediction(0.4))


NOISY = torch.randn(3, 2, 8, 4, generator=torch.Generator().manual_seed(1))
SIGMA = torch.tensor([0.02, 0.7, 30.0])


def test_features_are_the_normed_cls_token() -> None:
    model = build()
    scaled = NOISY / (SIGMA**2 + 0.16).sqrt().view(3, 1, 1, 1)
    tokens = model.encoder(scaled, 250 * SIGMA.log()).tokens
    assert torch.allclose(model.features(NOISY, SIGMA), tokens[:, 0], atol=1e-4)
    features = model.eval()(NOISY, SIGMA)
    assert torch.equal(features.cls, model.features(NOISY, SIGMA))
    assert torch.equal(features.projection, model.projector(features.cls))


def test_one_sigma_for_all_is_one_for_each() -> None:
    model = build()
    assert torch.equal(model.features(NOISY, torch.tensor(0.7)), model.features(NOISY, torch.full((3,), 0.7)))


def test_without_projection_the_norms_count_nothing() -> None:
    model = build()
    features = model(NOISY, SIGMA, project=False)
    assert features.projection.shape == (3, 0)
    norm = model.projector[1]
    assert norm.get_buffer("num_batches_tracked").item() == 0
    model(NOISY, SIGMA)
    assert norm.get_buffer("num_batches_tracked").item() == 1


def test_every_parameter_receives_a_finite_gradient() -> None:
    model = build()
    model(NOISY, SIGMA).projection.sin().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert float(parameter.grad.abs().max()) > 0, name


def loss_and_gradient(model: Representation, parts: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Of a loss for which images meet, in the norms of the projector and in the loss; and how many numbers it kept."""
    model.parts, kept = parts, 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    model.zero_grad()
    source = torch.Generator().manual_seed(2)
    first, second = (torch.randn(12, 2, 8, 4, generator=source) for _ in range(2))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        queries, targets = (model(images, SIGMA[0]).projection for images in (first, second))
        loss = info_nce(queries, targets, 0.2).mean()
    loss.backward()
    gradients = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    return loss.detach(), torch.cat(gradients), kept


@pytest.mark.parametrize("parts", [2, 4, 12])
def test_parts_give_the_gradient_of_the_whole_batch_and_keep_less(parts: int) -> None:
    model = build()
    loss, gradient, kept = loss_and_gradient(model, 1)
    other, cached, fewer = loss_and_gradient(model, parts)
    torch.testing.assert_close(other, loss)
    torch.testing.assert_close(cached, gradient, rtol=1e-4, atol=2e-5)
    assert fewer < kept / 4
