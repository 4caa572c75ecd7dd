"""A representation is the encoder's CLS token of scaled images, and its projection; every parameter learns from it."""

import torch

from pixelpath.models.preconditioning import XPrediction
from pixelpath.models.representation import Representation
from pixelpath.networks.encoder import Encoder
from pixelpath.networks.projector import Projector


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
