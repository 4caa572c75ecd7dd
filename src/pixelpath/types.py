"""The seams of the library, as types.

Images are clean and in model range (about mean 0 and std 0.5 per channel). A noisy image is `images + sigma * noise`; sigma is
the std of that noise. Everything above this module speaks in these words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pixelpath.transfer import to_device

Images = Float[Tensor, "batch channel row column"]
Sigmas = Float[Tensor, "batch"] | Float[Tensor, ""]
Labels = Int[Tensor, "batch"]

Denoise = Callable[[Images, Sigmas], Images]
"""The seam: noisy images and their sigma in, the estimate of the clean images out. The condition is bound before."""

Whole = TypeVar("Whole", "Condition", "Batch", "Views")


def _part(whole: Whole, part: slice | Tensor) -> Whole:
    """Every field of some images of a batch; `seed` belongs to the whole step. New fields need no change here."""
    own: dict[str, Any] = {each.name: vars(whole)[each.name] for each in fields(whole) if each.name != "seed"}
    return replace(whole, **{name: None if value is None else value[part] for name, value in own.items()})


@dataclass(frozen=True)
class Condition:
    """What every image of a batch is generated from: its class, and optionally numbers and images (masks, maps).

    `vector` has about mean 0 and std 1 per number (categories and tags are 0 or 1). `cond_image` is in model range and has the
    images' rows and columns. `condition[part]` is that of some of the images.
    """

    labels: Labels
    vector: Float[Tensor, "batch number"] | None = None
    cond_image: Float[Tensor, "batch other row column"] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, part: slice | Tensor) -> Condition:
        return _part(self, part)

    def to(self, device: torch.device | str) -> Condition:
        """The same on another device."""
        to = torch.device(device)
        vector, cond_image = (None if each is None else to_device(each, to) for each in (self.vector, self.cond_image))
        return Condition(to_device(self.labels, to), vector, cond_image)


Conditioning = Labels | Condition
"""Classes alone, or a whole condition."""

LabelledDenoise = Callable[[Images, Sigmas, Labels | None], Images]
"""A denoiser that takes the labels with the images; None: no class."""

ConditionalDenoise = Callable[[Images, Sigmas, Conditioning | None], Images]
"""A denoiser that takes the condition with the images; None: unconditional."""


def classes_of(condition: Conditioning) -> Labels:
    """The classes alone."""
    return condition.labels if isinstance(condition, Condition) else condition


Noise = Callable[[], Images]
"""Fresh standard normal images, each drawn from its own image's stream."""


@dataclass(frozen=True)
class Batch:
    """One process's share of a step's images; `batch[part]` is a micro-batch.

    Classes in `labels` lie in [0, num_classes], where num_classes says "no class". `seeds` hold one 63-bit seed per image, a
    function of (run seed, step, position in the global batch); `seed` is the same on every process. All randomness of a step
    comes from them. `valid` is False where a pixel has no value: it is 0 in `images` and counts in no loss. None: all have one.
    `index` says which image of the data each one is, as a batch may hold an image twice; None: no image occurs twice. `windows`
    are two views of each image that are cut already, for self-supervision.
    """

    images: Images
    labels: Conditioning
    seeds: tuple[int, ...]
    seed: int
    valid: Bool[Tensor, "batch channel row column"] | None = None
    index: Int[Tensor, "batch"] | None = None
    windows: Float[Tensor, "batch view channel row column"] | None = None

    def __getitem__(self, part: slice) -> Batch:
        return _part(self, part)

    def where_valid(self, estimate: Images) -> Images:
        """The estimate where pixels are valid, the image itself elsewhere: no loss and no gradient comes from there."""
        return estimate if self.valid is None else torch.where(self.valid, estimate, self.images.to(estimate))

    def valid_share(self) -> Float[Tensor, "batch"] | float:
        """The share of every image's values that are valid, at least that of one value."""
        if self.valid is None:
            return 1.0
        return self.valid.float().mean((1, 2, 3)).clamp_min(1 / self.valid[0].numel())


@dataclass(frozen=True)
class Views:
    """A batch for self-supervision: the clean crop and two strong augmentations of each image; `views[part]` is a micro-batch."""

    images: Images
    first: Images
    second: Images
    seeds: tuple[int, ...]
    seed: int
    index: Int[Tensor, "batch"] | None = None

    def __getitem__(self, part: slice) -> Views:
        return _part(self, part)


@dataclass(frozen=True)
class Losses:
    """What an objective returns: the scalar to minimise, and named scalars worth logging (detached)."""

    total: Float[Tensor, ""]
    parts: dict[str, Tensor] = field(default_factory=dict)


Objective = Callable[[nn.Module, nn.Module, Batch | Views, float], Losses]
"""(student, ema, batch, progress) -> Losses; progress is the share of the run that lies behind, step / steps in [0, 1]."""
