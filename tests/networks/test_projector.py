"""The projector of stage one, in one process: three linear layers with torch's batch normalisation between."""

import torch
from torch import nn

from pixelpath.networks.projector import Projector, SynchronisedNorm


def test_alone_it_is_batch_normalisation() -> None:
    ours, theirs = SynchronisedNorm(5), nn.BatchNorm1d(5)
    features = 3 * torch.randn(8, 5) + 1
    assert torch.equal(ours(features), theirs(features))
    for name, buffer in theirs.named_buffers():
        assert torch.equal(ours.get_buffer(name), buffer)
    assert torch.equal(ours.eval()(features), theirs.eval()(features))


@torch.no_grad()
def test_half_precision_is_normalised_in_float32() -> None:
    features = (100 + 0.5 * torch.randn(64, 5)).bfloat16()
    normed = SynchronisedNorm(5)(features)
    assert normed.dtype == torch.bfloat16
    exact = nn.BatchNorm1d(5).double()(features.double())
    assert float((normed.double() - exact).abs().max()) < 0.02


def test_shape_and_parameters() -> None:
    projector = Projector(6, hidden=10, out=4)
    projection = projector(torch.randn(3, 6))
    assert projection.shape == (3, 4)
    assert [name for name, _ in projector.named_parameters() if "bias" in name] == ["1.bias", "4.bias"]
    projection.square().sum().backward()
    assert all(parameter.grad is not None and torch.isfinite(parameter.grad).all() for parameter in projector.parameters())
