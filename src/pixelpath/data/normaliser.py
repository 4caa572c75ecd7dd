"""The one place that knows value ranges: between *native* values, as stored, and the *model range*.

In model range every channel has about mean 0 and deviation 0.5, the data deviation that the noise levels are made for. *Unit
range* is [0, 1] from the lowest to the highest value that an integer dtype can hold; floats have none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from pixelpath.data.files import decoders
from pixelpath.data.sources import Source, gather
from pixelpath.types import Images

CHUNK_BYTES = 4 * 2**20  # how much is measured at once: large enough for numpy, small against any memory


@dataclass(frozen=True)
class Normaliser:
    """model = (native - mean) / (2 deviation) per channel, and back; `dtype` is the native dtype's name.

    Raises ValueError unless there is one positive deviation per mean and the dtype is an 8/16-bit integer or a float.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    dtype: str = "uint8"

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.deviation) or not self.mean or not all(value > 0 for value in self.deviation):
            raise ValueError(
                f"A normaliser needs one mean and one positive deviation per channel, got {self.mean}, {self.deviation}."
            )
        kind = np.dtype(self.dtype)
        if kind.kind not in "iuf" or (kind.kind in "iu" and kind.itemsize > 2):
            raise ValueError(
                f"A normaliser cannot keep {self.dtype} exactly: convert the images to at most 16 bits or to float32."
            )

    @property
    def _integer(self) -> bool:
        return np.dtype(self.dtype).kind in "iu"

    @property
    def lowest(self) -> int | None:
        """The lowest value that the native dtype can hold; None for floats."""
        return int(np.iinfo(self.dtype).min) if self._integer else None

    @property
    def highest(self) -> int | None:
        """The highest value that the native dtype can hold; None for floats."""
        return int(np.iinfo(self.dtype).max) if self._integer else None

    def encode(self, native: Shaped[Tensor, "batch channel row column"]) -> Images:
        """Native images to float32 model range; ValueError if the number of channels is another."""
        self._check(native)
        mean, deviation = self._constants(native)
        return (native.to(mean.dtype) - mean).div_(2 * deviation).to(torch.float32)

    def decode(self, images: Images) -> Shaped[Tensor, "batch channel row column"]:
        """Model range to the native dtype: integers are rounded and held inside the dtype's own limits, floats left as they are.

        decode(encode(x)) is x for integers; for floats its error is below 1e-6 of the larger of |x|, |mean| and deviation.
        """
        self._check(images)
        native = self._restore(images)
        if self._integer:
            native = native.round_().clamp_(self.lowest, self.highest)
        return native.to(_torch_dtype(self.dtype))

    def unit(self, images: Images) -> Images:
        """Model range to unit range; ValueError for float data, which has none."""
        lowest, highest = self._range()
        return (self._restore(images) - lowest).div_(highest - lowest)

    def from_unit(self, images: Images) -> Images:
        """Unit range to model range; ValueError for float data, which has none."""
        lowest, highest = self._range()
        mean, deviation = self._constants(images)
        return (images * (highest - lowest) + (lowest - mean)).div_(2 * deviation).to(images.dtype)

    def limits(self) -> tuple[Float[Tensor, "channel"], Float[Tensor, "channel"]] | None:
        """The (lowest, highest) values of each channel in model range that the native dtype can hold; None for floats."""
        if not self._integer:
            return None
        lowest, highest = self._range()
        mean, deviation = torch.tensor(self.mean, dtype=torch.float64), torch.tensor(self.deviation, dtype=torch.float64)
        return ((lowest - mean) / (2 * deviation)).float(), ((highest - mean) / (2 * deviation)).float()

    @classmethod
    def fit(cls, source: Source, workers: int | None = 0) -> Normaliser:
        """The mean and deviation (over images and pixels) of each channel, measured in one pass and in float64.

        A channel of one constant value takes deviation 1, and of integers no channel takes less than one step of 1, so that
        nothing is divided by zero or blown up. Raises ValueError for an empty source, and for an image with NaN or infinity,
        naming it.
        """
        if len(source) == 0:
            raise ValueError("There are no images to measure the mean and deviation of: give at least one.")
        moments = _Moments(source.shape[0])
        for first, images in _chunks(source, workers):
            if images.dtype.kind == "f" and not np.isfinite(images).all():
                odd = first + int(np.flatnonzero(~np.isfinite(images).all((1, 2, 3)))[0])
                raise ValueError(f"Image {source.name(odd)} holds NaN or infinity: replace such values or leave the image out.")
            moments.add(images)
        deviation = moments.deviation()
        if source.dtype.kind in "iu":
            deviation = np.maximum(deviation, 1.0)
        return cls(tuple(moments.mean.tolist()), tuple(deviation.tolist()), source.dtype.name)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, for a JSON file; floats survive it exactly."""
        return {"mean": list(self.mean), "deviation": list(self.deviation), "dtype": self.dtype}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Normaliser:
        """The normaliser of `to_json`; ValueError for missing or unknown keys."""
        if set(values) != {"mean", "deviation", "dtype"}:
            raise ValueError(f"A normaliser is made of mean, deviation and dtype, got {', '.join(sorted(values)) or 'nothing'}.")
        return cls(tuple(map(float, values["mean"])), tuple(map(float, values["deviation"])), str(values["dtype"]))

    def _check(self, images: Tensor) -> None:
        if images.shape[1] != len(self.mean):
            raise ValueError(f"This normaliser knows {len(self.mean)} channels but the images have {images.shape[1]}.")

    def _range(self) -> tuple[int, int]:
        if self.lowest is None or self.highest is None:
            raise ValueError(
                f"Images of dtype {self.dtype} have no unit range: only integer dtypes have a lowest and highest value."
            )
        return self.lowest, self.highest

    def _constants(self, images: Tensor) -> tuple[Tensor, Tensor]:
        wide = self.dtype == "float64" and images.device.type != "mps"
        return _columns(self.mean, self.deviation, torch.float64 if wide else torch.float32, images.device)

    def _restore(self, images: Tensor) -> Tensor:
        mean, deviation = self._constants(images)
        return images.to(mean.dtype) * (2 * deviation) + mean


IMAGENET = Normaliser((0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255))
"""The constants of the published ImageNet models: (rgb / 255 - mean) / (2 deviation) of 8-bit RGB (Lei et al. 2025, arXiv
2510.12586).
"""


class _Moments:
    """Mean and deviation of each channel of a stream (Chan, Golub and LeVeque 1979: merging the sums of squares of two sets)."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.mean = np.zeros(channels)
        self.squares = np.zeros(channels)
        self.lowest = np.full(channels, np.inf)
        self.highest = np.full(channels, -np.inf)

    def add(self, images: Shaped[np.ndarray, "count channel row column"]) -> None:
        axes = (0, 2, 3)
        values = images.astype(np.float64)
        count = values.size // values.shape[1]
        mean = values.mean(axes)
        values -= mean[:, None, None]
        total, step = self.count + count, mean - self.mean
        self.squares += np.square(values, out=values).sum(axes) + step**2 * (self.count * count / total)
        self.mean += step * (count / total)
        self.count = total
        self.lowest = np.minimum(self.lowest, images.min(axes))
        self.highest = np.maximum(self.highest, images.max(axes))

    def deviation(self) -> np.ndarray:
        return np.where(self.lowest == self.highest, 1.0, np.sqrt(self.squares / self.count))


def _chunks(source: Source, workers: int | None) -> Iterator[tuple[int, np.ndarray]]:
    size = max(1, CHUNK_BYTES // (int(np.prod(source.shape)) * source.dtype.itemsize))
    with decoders(workers) as pool:
        for first in range(0, len(source), size):
            yield first, gather(source, range(first, min(first + size, len(source))), pool)


@lru_cache(maxsize=16)
def _columns(
    mean: tuple[float, ...], deviation: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    return (
        torch.tensor(mean, dtype=dtype, device=device).reshape(1, -1, 1, 1),
        torch.tensor(deviation, dtype=dtype, device=device).reshape(1, -1, 1, 1),
    )


def _torch_dtype(name: str) -> torch.dtype:
    return torch.from_numpy(np.empty(0, name)).dtype
