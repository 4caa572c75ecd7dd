"""Feature extractors: from native images to the vectors that distances are measured between.

*Native* images are the user's own values [batch, channel, row, column] in their own dtype, as files and samples hold them. A
feature extractor states its `name`, the `hash` of its weights and how it resizes, as distances can only be compared with these.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional

from pixelpath.errors import UserError
from pixelpath.sampling.checks import check_finite

Native = Shaped[Tensor, "batch channel row column"]
FeatureVectors = Float[Tensor, "batch feature"]
Batches = Iterable[Shaped[Tensor, "_ channel row column"]]
WIDEST = 4096  # values of an image, at most, that are features in pixels
LONG = (torch.int32, torch.uint32, torch.float64)  # dtypes that hold more digits than float32


@runtime_checkable
class FeatureExtractor(Protocol):
    """Native images [batch, channel, row, column] in, features [batch, feature] out."""

    @property
    def name(self) -> str:
        """What the report calls these features."""
        ...

    @property
    def hash(self) -> str:
        """The first 16 hexadecimal digits of the sha256 of the weights."""
        ...

    @property
    def resize(self) -> str:
        """How images are brought to the extractor's own size."""
        ...

    def __call__(self, images: Native) -> FeatureVectors:
        """The features of native images."""
        ...


def hash_of(weights: Mapping[str, Tensor]) -> str:
    """The first 16 hexadecimal digits of the sha256 of named tensors: names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def stream(extractor: FeatureExtractor, batches: Batches, device: torch.device | str = "cpu") -> Iterable[FeatureVectors]:
    """The features of batches of native images, one batch at a time, on the CPU; the extractor works on `device`.

    float32, or float64 where the extractor gives that. UserError for a feature that is not finite.
    """
    for images in batches:
        with torch.no_grad():
            found = extractor(images.to(device)).cpu()
        check_finite(found, f"features '{extractor.name}'", "look for NaN in the images, or in the weights of the extractor")
        yield found if found.dtype == torch.float64 else found.float()


def extract(extractor: FeatureExtractor, batches: Batches, device: torch.device | str = "cpu") -> Float[Tensor, "images feature"]:
    """The features of all batches as one tensor [images, feature] on the CPU, as `stream` gives them; UserError for no batch."""
    parts = list(stream(extractor, batches, device))
    if not parts:
        raise UserError(f"There are no images to extract the features '{extractor.name}' from: give at least one batch.")
    return torch.cat(parts)


def fewer(shape: tuple[int, int, int]) -> tuple[int, int] | None:
    """Rows and columns after halving, as often as needed, images that have more than WIDEST values; None for smaller ones."""
    values = math.prod(shape)
    if values <= WIDEST:
        return None
    block = 2 ** math.ceil(math.log2(values / WIDEST) / 2)
    return math.ceil(shape[1] / block), math.ceil(shape[2] / block)


@dataclass(frozen=True)
class Pixels:
    """The pixels themselves, row after row: (value - lowest) / (highest - lowest), which maps the native range to [0, 1].

    With a `size` (rows, columns) they are means of blocks of pixels, because the covariance of all pixels of a large image does
    not fit in memory. Raises UserError unless lowest < highest.
    """

    lowest: float = 0.0
    highest: float = 255.0
    size: tuple[int, int] | None = None
    name: str = "pixels"

    def __post_init__(self) -> None:
        if not self.lowest < self.highest:
            raise UserError(
                f"Pixel features need lowest < highest, got {self.lowest} and {self.highest}: give the range of the data."
            )

    @property
    def hash(self) -> str:
        """The hash of the two limits: there are no other weights."""
        return hash_of({"limits": torch.tensor([self.lowest, self.highest], dtype=torch.float64)})

    @property
    def resize(self) -> str:
        """How the images are made smaller, if they are."""
        return "none" if self.size is None else f"means of blocks, to {self.size[0]}x{self.size[1]}"

    def __call__(self, images: Native) -> FeatureVectors:
        """Features [batch, channel * row * column]; float64 for dtypes that float32 would round."""
        values = images.cpu().double() if images.dtype in LONG else images.float()
        if self.size is not None:
            values = functional.adaptive_avg_pool2d(values.cpu(), self.size)  # MPS has none for sizes that do not divide
        return (values - self.lowest).flatten(1) / (self.highest - self.lowest)


@dataclass(frozen=True)
class EncoderFeatures:
    """The CLS features of clean images by the stage-one encoder of a run.

    `features(images, sigma)` are the encoder's features [batch, feature] of images in model range, `encode` brings native
    images there (the Normaliser's), `sigma` is the lowest noise level, and no noise is added, so that distances are a function
    of the images. `hash` is `hash_of` the encoder's weights.
    """

    features: Callable[[Tensor, Tensor], Tensor]
    encode: Callable[[Tensor], Tensor]
    sigma: float
    hash: str
    name: str = "encoder"
    resize: str = "none"

    def __call__(self, images: Native) -> FeatureVectors:
        """Features [batch, width of the encoder]."""
        encoded = self.encode(images)
        return self.features(encoded, encoded.new_tensor(self.sigma)).float()


def eight_bit(images: Native, value_range: tuple[float, float] | None, features: str) -> Shaped[Tensor, "batch 3 row column"]:
    """Native images as RGB of 8 bits, as networks for photographs take them: one channel is repeated to three.

    uint8 stays as it is. Other dtypes need the values that mean black and white: round(255 (x - black) / (white - black)),
    what lies outside is limited. Raises UserError without these, and for another number of channels; `features` is named.
    """
    if images.shape[1] not in (1, 3):
        raise UserError(
            f"Features '{features}' need images of 1 or 3 channels, got {images.shape[1]}: "
            "use the features of your own encoder, or pixels, for this data."
        )
    if images.dtype != torch.uint8:
        if value_range is None:
            raise UserError(
                f"Features '{features}' need 8-bit images, got {images.dtype}: say which values are black and white with "
                "`value_range`, or use the features of your own encoder, or pixels.",
                setting="value_range",
            )
        black, white = value_range
        values = (images.cpu().double() - black) / (white - black)
        images = (values * 255).round().clamp(0, 255).to(torch.uint8).to(images.device)
    return images.expand(-1, 3, -1, -1).contiguous()
