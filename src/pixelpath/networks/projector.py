"""The projector of stage one: three linear layers that map CLS features to the space of the contrastive loss."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from pixelpath import processes


class SynchronisedNorm(nn.BatchNorm1d):
    """Batch normalisation (Ioffe & Szegedy 2015) whose statistics cover the batches of all processes, in float32."""

    def forward(self, input: Float[Tensor, "batch width"]) -> Float[Tensor, "batch width"]:
        features = input.float()
        if not self.training or processes.count() == 1:
            return super().forward(features).to(input.dtype)
        rows = len(features) * processes.count()
        mean = processes.add(features.sum(0)) / rows
        variance = processes.add(((features - mean) ** 2).sum(0)) / rows
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        momentum = self.momentum or 0.1
        self.running_mean.lerp_(mean.detach(), momentum)
        self.running_var.lerp_(variance.detach() * rows / (rows - 1), momentum)
        self.num_batches_tracked.add_(1)
        normed = (features - mean) * (variance + self.eps).rsqrt()
        return (normed * self.weight + self.bias).to(input.dtype)


class Projector(nn.Sequential):
    """[batch, width] to [batch, out]: linear, norm, ReLU, linear, norm, ReLU, linear, without biases (EPG, arXiv 2510.12586)."""

    def __init__(self, width: int, hidden: int = 4096, out: int = 256) -> None:
        super().__init__(
            nn.Linear(width, hidden, bias=False),
            SynchronisedNorm(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden, bias=False),
            SynchronisedNorm(hidden),
            nn.ReLU(),
            nn.Linear(hidden, out, bias=False),
        )
