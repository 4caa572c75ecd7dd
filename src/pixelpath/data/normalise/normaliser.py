"""The one place that knows value ranges: between *native* values, as stored, and the *model range*.

In model range every channel has about mean 0 and std 0.5, the data std that the noise levels are made for. *Unit
range* is [0, 1] from the lowest to the highest value that an integer dtype can hold; floats have none. *Nodata* is the native
value that means "not measured".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Shaped
from torch import Tensor

from pixelpath.data import dtypes
from pixelpath.data.normalise import atoms, curves
from pixelpath.data.normalise.atoms import Ceiling, Hurdle
from pixelpath.data.normalise.curves import Identity, Normalisation, Transform, lowest_of
from pixelpath.data.normalise.fitting import ChannelRange, Constants, fitted
from pixelpath.data.normalise.propose import propose
from pixelpath.data.normalise.statistics import ChannelStatistics
from pixelpath.data.sources import Source
from pixelpath.errors import UserError
from pixelpath.types import Images


@dataclass(frozen=True, eq=False)
class Normaliser:
    """model = (T(native) - mean) / (2 std) per channel, and back; T is the channel's transform, `dtype` the native dtype.

    The mean and std are those of the transformed values, the gaps of hurdles and ceilings included. Normalisers are equal if
    they do the same, whatever their `ranges`. Raises UserError unless there is one positive std per mean, one transform
    for all channels or one each, a hurdle (or None) for each channel or none at all, ceilings likewise, a dtype of
    `dtypes.NAMES`, and a nodata value that the dtype can hold.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: str = "uint8"
    transforms: tuple[Transform, ...] = (Identity(),)
    hurdles: tuple[Hurdle | None, ...] = ()
    ceilings: tuple[Ceiling | None, ...] = ()
    nodata: float | None = None
    ranges: tuple[ChannelRange, ...] = field(default=())
    """What was measured of every channel, to show images by."""

    def __post_init__(self) -> None:
        channels = len(self.mean)
        if channels != len(self.std) or not self.mean or not all(value > 0 for value in self.std):
            raise UserError(f"A normaliser needs one mean and one positive std per channel, got {self.mean}, {self.std}.")
        dtypes.checked(np.dtype(self.dtype), "A normaliser")
        ends = len(self.hurdles), len(self.ceilings)
        if len(self.transforms) not in (1, channels) or not {0, channels} >= set(ends):
            raise UserError(
                f"A normaliser of {channels} channels needs one transform for all or one each, and a hurdle and a ceiling (or "
                f"none) for each, got {len(self.transforms)} transforms, {ends[0]} hurdles and {ends[1]} ceilings."
            )
        if all(each == self.transforms[0] for each in self.transforms):
            object.__setattr__(self, "transforms", self.transforms[:1])
        if all(hurdle is None for hurdle in self.hurdles):
            object.__setattr__(self, "hurdles", ())
        if all(ceiling is None for ceiling in self.ceilings):
            object.__setattr__(self, "ceilings", ())
        object.__setattr__(self, "nodata", _held(self.nodata, self.dtype))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Normaliser) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    @property
    def affine(self) -> bool:
        """Whether mean and std say everything: there is no transform, hurdle or ceiling."""
        return self.straight and not self.hurdles and not self.ceilings

    @property
    def straight(self) -> bool:
        """Whether there is no transform, though there may be hurdles and ceilings."""
        return self.transforms == (Identity(),)

    @property
    def has_unit_range(self) -> bool:
        """Whether there is a unit range: of integer dtypes without transform."""
        return self._integer and self.straight

    @property
    def wide(self) -> bool:
        """Whether it is worked out in float64, and so on the CPU where a device has none."""
        return self.dtype in dtypes.BEYOND_FLOAT32 or not self.affine

    @property
    def lowest(self) -> int | None:
        """The lowest value that the native dtype can hold; None for floats."""
        return self._limits[0] if self._limits else None

    @property
    def highest(self) -> int | None:
        """The highest value that the native dtype can hold; None for floats."""
        return self._limits[1] if self._limits else None

    @property
    def shown(self) -> list[tuple[float, float]] | None:
        """Per channel the values to show images between (0.5 % and 99.5 % of the data); None if they were not measured."""
        return [(each.low, each.high) for each in self.ranges] or None

    def valid(self, native: Shaped[Tensor, "batch channel row column"]) -> Bool[Tensor, "batch channel row column"] | None:
        """Where native images are not nodata; None if there is no nodata value."""
        if self.nodata is None:
            return None
        values = native if native.is_floating_point() else native.to(torch.int64)
        return ~values.isnan() if math.isnan(self.nodata) else values != self.nodata

    def encode(self, native: Shaped[Tensor, "batch channel row column"]) -> Images:
        """Native images to float32 model range; nodata becomes 0, the channel's mean.

        A value between an atom and the next value is taken for the latter. Raises UserError if the number of channels is
        another, or for values beyond an atom or outside the domain of a transform.
        """
        self._check_channels(native)
        valid = self.valid(native)
        if not self.wide:
            mean, std = _columns(torch.float32, native.device, self.mean, self.std)
            images = (native.to(torch.float32) - mean).div_(2 * std)
        else:
            values = _home(native).to(torch.float64)
            if valid is not None:
                values = torch.where(valid.to(values.device), values, _columns(values.dtype, values.device, self._fill())[0])
            self._check_domain(values)
            images = self._forward(values).to(torch.float32).to(native.device)
        return images if valid is None else torch.where(valid, images, torch.zeros((), device=images.device))

    def decode(self, images: Images) -> Shaped[Tensor, "batch channel row column"]:
        """Model range to the native dtype: integers are rounded and held inside the dtype's own limits, floats left as they are.

        decode(encode(x)) is x for measured integers of the range that was fitted; for floats its error is below 1e-6 of the
        larger of |x|, |mean| and std (behind a transform, of its scale). Nothing becomes nodata: a value that would takes
        the next one nearer to 0. Where the device has no float64 and it is needed, the result lies on the CPU.
        """
        self._check_channels(images)
        native = self._restore(images)
        if self._integer:
            native = native.round_().clamp_(self.lowest, self.highest)
        elif not self.affine:  # an exponential may leave them
            largest = float(np.finfo(self.dtype).max)
            native = native.clamp(-largest, largest)
        if self._integer and self.nodata is not None:
            native = torch.where(native == self.nodata, dtypes.nearest(self.nodata, self.dtype), native)
        native = native.to(dtypes.in_torch(self.dtype))
        if self._integer or self.nodata is None or math.isnan(self.nodata):
            return native
        return torch.where(native == self.nodata, dtypes.nearest(self.nodata, self.dtype), native)

    def unit(self, images: Images) -> Images:
        """Model range to unit range; UserError for float data and behind a transform, where there is none."""
        lowest, highest = self._range()
        return (self._restore(images) - lowest).div_(highest - lowest).to(images.dtype)

    def from_unit(self, images: Images) -> Images:
        """Unit range to model range; UserError for float data and behind a transform, where there is none."""
        lowest, highest = self._range()
        if not self.affine:
            return self._forward(_home(images).to(torch.float64) * (highest - lowest) + lowest).to(images)
        mean, std = _columns(images.dtype, images.device, self.mean, self.std)
        return (images * (highest - lowest) + (lowest - mean)).div_(2 * std).to(images.dtype)

    @classmethod
    def fit(
        cls,
        source: Source,
        workers: int | None = 0,
        how: Normalisation | tuple[Normalisation, ...] = Normalisation(),  # noqa: B008 (frozen)
        nodata: float | None = None,
        counted: tuple[ChannelStatistics, ...] | None = None,
    ) -> Normaliser:
        """Everything measured on the images, in float64 and constant memory: in one pass over them, or in two.

        Their statistics need no pass if they are `counted` already.

        `how` is one normalisation for all channels, or one each (as `propose` finds them for the kind auto).
        Two are needed where constants are to be chosen on the data (see `Normalisation`) of more than 16 bits: the first pass
        then chooses them on 65536 values per channel besides 0. A channel of one constant value takes std 1, and of integers
        no channel takes less than one step at its mean, so that nothing is divided by zero or blown up. Raises UserError
        for an empty source, for an image with NaN or infinity, naming it, for a channel without a measured value, for values
        outside the domain of a logarithm, and for integers that would not come back exactly. The kind
        imagenet measures nothing, and takes 8-bit RGB alone.
        """
        nodata = _held(nodata, source.dtype.name)
        hows = (how,) if isinstance(how, Normalisation) else how
        if hows[0].kind == "imagenet":
            return _published(source, nodata)
        if hows[0].kind == "auto":
            hows = propose(source, workers, nodata, hows[0]).each
        constants = fitted(source, workers, hows, nodata, counted)
        mean, std, through, hurdles, ceilings, ranges = (tuple(row) for row in zip(*map(_row, constants), strict=True))
        normaliser = cls(mean, std, source.dtype.name, through, hurdles, ceilings, nodata, ranges)
        if normaliser._integer:
            normaliser._check_exact(constants)
        return normaliser

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, for a JSON file, of all that is not as usual; floats survive it exactly."""
        found: dict[str, Any] = {"mean": list(self.mean), "std": list(self.std), "dtype": self.dtype}
        if not self.affine:
            found["transforms"] = [curves.to_json(each) for each in self.transforms]
        if self.hurdles:
            found["hurdles"] = [hurdle and asdict(hurdle) for hurdle in self.hurdles]
        if self.ceilings:
            found["ceilings"] = [ceiling and asdict(ceiling) for ceiling in self.ceilings]
        if self.nodata is not None:
            found["nodata"] = "nan" if math.isnan(self.nodata) else self.nodata
        if self.ranges:
            found["ranges"] = [asdict(each) for each in self.ranges]
        return found

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Normaliser:
        """The normaliser of `to_json`; UserError for missing or unknown keys."""
        needed, known = {"mean", "std", "dtype"}, set(cls.__dataclass_fields__)
        if not needed <= set(values) <= known:
            raise UserError(f"A normaliser is made of mean, std and dtype, got {', '.join(sorted(values)) or 'nothing'}.")
        return cls(
            tuple(map(float, values["mean"])),
            tuple(map(float, values["std"])),
            str(values["dtype"]),
            tuple(curves.from_json(each) for each in values.get("transforms", [])) or (Identity(),),
            tuple(None if each is None else Hurdle(**each) for each in values.get("hurdles", [])),
            tuple(None if each is None else Ceiling(**each) for each in values.get("ceilings", [])),
            None if values.get("nodata") is None else float(values["nodata"]),
            tuple(ChannelRange(**each) for each in values.get("ranges", [])),
        )

    @property
    def _integer(self) -> bool:
        return self._limits is not None

    @property
    def _limits(self) -> tuple[int, int] | None:
        return dtypes.limits(self.dtype)

    def _values(self) -> tuple[Any, ...]:
        nodata = "nan" if self.nodata is not None and math.isnan(self.nodata) else self.nodata  # which is not equal to itself
        return self.mean, self.std, self.dtype, self.transforms, self.hurdles, self.ceilings, nodata

    def _check_channels(self, images: Tensor) -> None:
        if images.shape[1] != len(self.mean):
            raise UserError(f"This normaliser knows {len(self.mean)} channels but the images have {images.shape[1]}.")

    def _range(self) -> tuple[int, int]:
        if self.lowest is None or self.highest is None:
            raise UserError(
                f"Images of dtype {self.dtype} have no unit range: only integer dtypes have a lowest and highest value."
            )
        if not self.straight:
            raise UserError("Images that were normalised by a curve have no unit range: only affine ones have.")
        return self.lowest, self.highest

    def _each(self) -> tuple[Transform, ...]:
        return curves.spread(self.transforms, len(self.mean))

    def _floors(self) -> tuple[float, ...]:
        """The lowest values (of integers) that each channel's transform and hurdle take."""
        hurdles = self.hurdles or (None,) * len(self.mean)
        domains = (math.floor(bound) + 1 if math.isfinite(bound) else bound for bound in map(lowest_of, self._each()))
        return tuple(domain if hurdle is None else hurdle.value for domain, hurdle in zip(domains, hurdles, strict=True))

    def _tops(self) -> tuple[float, ...]:
        """The highest values that each channel's ceiling takes."""
        return tuple(math.inf if end is None else end.value for end in self.ceilings or (None,) * len(self.mean))

    def _fill(self) -> tuple[float, ...]:
        """A value of each channel that all its functions accept, to stand in for nodata."""
        return tuple(0.0 if hurdle is None else hurdle.value for hurdle in self.hurdles or (None,) * len(self.mean))

    def _check_domain(self, values: Float64[Tensor, "batch channel row column"]) -> None:
        for channel, (transform, top) in enumerate(zip(self._each(), self._tops(), strict=True)):
            hurdle = self.hurdles[channel] if self.hurdles else None
            bound = lowest_of(transform)
            if not values.numel() or (hurdle is None and math.isinf(bound) and math.isinf(top)):
                continue
            found, most = (float(end) for end in values[:, channel].aminmax())
            if found <= bound or (hurdle is not None and found < hurdle.value):
                least = f"at least {hurdle.value:g}" if hurdle is not None else f"above {bound:g}"
            elif most > top:
                found, least = most, f"at most {top:g}"
            else:
                continue
            raise UserError(
                f"An image holds {found:g} in channel {channel} (the first is 0), where all training images are {least}: "
                f"leave it out, or train with another `data.normaliser.kind`, like asinh.",
                "data.normaliser.kind",
            )

    def _forward(self, values: Float64[Tensor, "batch channel row column"]) -> Float64[Tensor, "batch channel row column"]:
        mean, std = _columns(values.dtype, values.device, self.mean, self.std)
        if not self.hurdles and not self.ceilings:
            return (self._through(values) - mean) / (2 * std)
        atom, above, gap, _ = self._ends(values.device, -1)
        top, below, rise, _ = self._ends(values.device, 1)
        images = (self._through(values.clamp(above, below)) - mean) / (2 * std)
        return images - gap * (values <= atom) + rise * (values >= top)

    def _restore(self, images: Images) -> Tensor:
        """Model range to native values, not rounded, in the width that they are worked out in."""
        images = _home(images).to(torch.float64) if self.wide else images.to(torch.float32)
        mean, std = _columns(images.dtype, images.device, self.mean, self.std)
        native = images * (2 * std) + mean
        if self.affine:
            return native
        native = self._through(native, back=True)
        if not self.hurdles and not self.ceilings:
            return native
        atom, above, _, low = self._ends(images.device, -1)
        top, below, _, high = self._ends(images.device, 1)
        return torch.where(images < low, atom, torch.where(images > high, top, native.clamp(above, below)))

    def _through(self, values: Tensor, back: bool = False) -> Tensor:
        functions = [each.inverse if back else each for each in self.transforms]
        if len(functions) == 1:
            return functions[0](values)
        return torch.stack([function(channel) for function, channel in zip(functions, values.unbind(1), strict=True)], 1)

    def _ends(self, device: torch.device, side: int) -> tuple[Tensor, ...]:
        """`atoms.places` of this side as columns."""
        ends = (self.hurdles if side < 0 else self.ceilings) or (None,) * len(self.mean)
        rows = atoms.places(ends, self._each(), self.mean, self.std, side)
        return _columns(torch.float64, device, *zip(*rows, strict=True))

    def _check_exact(self, constants: tuple[Constants, ...]) -> None:
        """UserError if the extremes of some channel, its knots or their neighbours do not come back."""
        for channel, found in enumerate(constants):
            knots = found.transform.values if isinstance(found.transform, curves.Quantile) else ()
            points = {step + round(value) for value in (found.range.lowest, found.range.highest, *knots) for step in (-1, 0, 1)}
            least = max(found.range.lowest, self._floors()[channel])
            inside = sorted(value for value in points if least <= value <= (self.highest or 0) and value != self.nodata)
            if found.hurdle is not None:
                inside = [value for value in inside if value == found.hurdle.value or value >= found.hurdle.above]
            if found.ceiling is not None:
                inside = [value for value in inside if value == found.ceiling.value or value <= found.ceiling.below]
            values = torch.tensor(inside, dtype=torch.float64)
            again = self.decode(self._forward(values.expand(1, len(self.mean), 1, -1)).float())[0, channel, 0].double()
            if not torch.equal(again, values):
                lost = float(values[again != values][0])
                raise UserError(
                    f"Channel {channel} (the first is 0) spans {found.range.lowest:.0f} to {found.range.highest:.0f}, so many "
                    f"values that float32 model range cannot tell them apart ({lost:.0f} would not come back): choose another "
                    f"`data.normaliser.kind`, or convert the images to float32.",
                    "data.normaliser.kind",
                )


def _row(found: Constants) -> tuple[float, float, Transform, Hurdle | None, Ceiling | None, ChannelRange]:
    return found.mean, found.std, found.transform, found.hurdle, found.ceiling, found.range


def _held(nodata: float | None, dtype: str) -> float | None:
    """Nodata as the dtype holds it; UserError if it cannot."""
    if nodata is None:
        return None
    held = dtypes.held(nodata, dtype)
    if held is None or math.isinf(held):
        raise UserError(
            f'No {dtype} value is {nodata}, so it cannot mean "not measured": give another `data.nodata`, or none.',
            "data.nodata",
        )
    return held


def _home(images: Tensor) -> Tensor:
    """The images where there is float64: on the CPU instead of a device without it."""
    return images.cpu() if images.device.type == "mps" else images


@lru_cache(maxsize=64)
def _columns(dtype: torch.dtype, device: torch.device, *rows: tuple[float, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(row, dtype=dtype, device=device).reshape(1, -1, 1, 1) for row in rows)


IMAGENET = Normaliser((0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255))
"""The constants of the published ImageNet models: (rgb / 255 - mean) / (2 std) of 8-bit RGB (Lei et al. 2025, arXiv
2510.12586).
"""


def _published(source: Source, nodata: float | None) -> Normaliser:
    """The constants of the published models; UserError for images that are not 8-bit RGB."""
    if (source.shape[0], source.dtype.name) != (3, "uint8"):
        raise UserError(
            f"`data.normaliser.kind` imagenet is for 8-bit RGB, and these images have {source.shape[0]} channels of "
            f"{source.dtype.name}: set `data.channels` to 3, or choose another kind.",
            "data.normaliser.kind",
        )
    return replace(IMAGENET, nodata=nodata)
