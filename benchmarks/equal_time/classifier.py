"""The features that samples are compared in: those of a small convolutional classifier, trained once for each data set.

It knows no system and no sample. Data without classes get sixteen: the quartile of an image's mean by that of its std, both in
model range.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from pixelpath.atomic import whole
from pixelpath.data.sources import evenly, gather
from pixelpath.data.sources import labels as labels_of
from pixelpath.evaluation.features import Native, hash_of
from pixelpath.runs.prepare import PreparedData

STEPS, BATCH, WIDTH, LR = 1500, 64, 64, 3e-3
MOST = 10_000  # real images that statistics are made of
TOTAL = 100.0  # variance of the features of training images, over all dimensions


class Network(nn.Module):
    """Three pairs of convolutions, the last two of stride 2, the mean over pixels, and a linear layer to the classes."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inside, outside, stride in ((channels, 32, 1), (32, 64, 2), (64, 128, 2)):
            layers += [nn.Conv2d(inside, outside, 3, stride, 1), nn.GroupNorm(8, outside), nn.SiLU()]
        self.body = nn.Sequential(*layers)
        self.narrow, self.head = nn.Linear(128, WIDTH), nn.Linear(WIDTH, classes)

    def features(self, images: Tensor) -> Float[Tensor, "batch feature"]:
        """What comes before the last layer."""
        return functional.silu(self.narrow(self.body(images).mean((2, 3))))

    def forward(self, images: Tensor) -> Float[Tensor, "batch class"]:
        """Logits."""
        return self.head(self.features(images))


@dataclass(frozen=True, eq=False)
class Classifier:
    """A trained network as a feature extractor of native images; `accuracy` is that on held-out images.

    Features are scaled so that those of training images have a variance of 100 over all dimensions: a Frechet distance is in
    per cent of it.
    """

    network: Network
    data: PreparedData
    accuracy: float
    scale: float
    name: str = "classifier"
    resize: str = "none"

    @property
    def hash(self) -> str:
        """The hash of the weights."""
        return hash_of(self.network.state_dict())

    def __call__(self, images: Native) -> Float[Tensor, "batch feature"]:
        """Scaled features."""
        return self.network.features(self.data.normaliser.encode(images)) * self.scale

    @torch.no_grad()
    def read(self, images: Native) -> Int[Tensor, "batch"]:
        """The class of every image."""
        return torch.cat([self.network(self.data.normaliser.encode(part)).argmax(1) for part in images.split(256)])


def classifier(data: PreparedData, file: Path, steps: int = STEPS) -> Classifier:
    """The classifier in the file, trained and written there if it is missing."""
    quartiles = _quartiles(data)
    network = Network(data.shape[0], len(data.classes) or 16)
    if file.exists():
        kept = torch.load(file, weights_only=True)
        network.load_state_dict(kept["weights"])
        return Classifier(network.eval(), data, kept["accuracy"], kept["scale"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Network(data.shape[0], len(data.classes) or 16)
        _train(network, data, quartiles, steps)
    network.eval().requires_grad_(False)
    plain = Classifier(network, data, 0.0, 1.0)
    held, asked = some(data, "held_out", MOST)
    accuracy = float((plain.read(held) == _classes(data, held, asked, quartiles)).float().mean())
    seen = torch.cat([plain(part) for part in some(data, "training", MOST)[0].split(256)])
    scale = float((TOTAL / seen.var(0).sum()).sqrt())
    with whole(file) as opened:
        torch.save({"weights": network.state_dict(), "accuracy": accuracy, "scale": scale}, opened)
    return Classifier(network, data, accuracy, scale)


def some(data: PreparedData, side: str, most: int) -> tuple[Native, Int[Tensor, "image"]]:
    """At most so many images of the "training" or "held_out" side, evenly chosen, and their labels."""
    source = {"training": data.training, "held_out": data.held_out}[side]
    chosen = evenly(len(source), most)
    return torch.from_numpy(gather(source, chosen)), torch.from_numpy(labels_of(source)[chosen])


def _train(network: Network, data: PreparedData, quartiles: Tensor, steps: int) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), LR, weight_decay=0.05)
    pace = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)
    draws, numbers = np.random.RandomState(0), labels_of(data.training)
    for _ in range(steps):
        chosen = draws.randint(0, len(numbers), BATCH)
        native = torch.from_numpy(gather(data.training, chosen))
        wanted = _classes(data, native, torch.from_numpy(numbers[chosen]), quartiles)
        down, across = draws.randint(0, 5, 2)
        images = functional.pad(data.normaliser.encode(native), (2, 2, 2, 2), mode="replicate")
        images = images[:, :, down : down + data.shape[1], across : across + data.shape[2]]
        optimizer.zero_grad()
        functional.cross_entropy(network(images), wanted, label_smoothing=0.05).backward()
        optimizer.step()
        pace.step()


def _amounts(data: PreparedData, native: Native) -> Float[Tensor, "2 image"]:
    encoded = data.normaliser.encode(native).flatten(1)
    return torch.stack([encoded.mean(1), encoded.std(1)])


def _quartiles(data: PreparedData) -> Float[Tensor, "2 limit"]:
    amounts = _amounts(data, some(data, "training", 2000)[0])
    return torch.quantile(amounts, torch.tensor([0.25, 0.5, 0.75]), dim=1).T.contiguous()


def _classes(data: PreparedData, native: Native, labels: Int[Tensor, "image"], quartiles: Tensor) -> Int[Tensor, "image"]:
    if data.classes:
        return labels
    places = torch.searchsorted(quartiles, _amounts(data, native).contiguous())
    return places[0] * 4 + places[1]
