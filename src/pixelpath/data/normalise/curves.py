"""Curves that bring values of any distribution closer to a bell, before they are centred and scaled.

A *transform* is a rising, invertible function of one native value, worked out in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from pixelpath.errors import UserError

Values = Float64[Tensor, "..."]
Kind = Literal["affine", "window", "log1p", "signed-log", "asinh", "quantile", "auto", "imagenet"]


@dataclass(frozen=True)
class Normalisation:
    """How native values come into model range: the curve they go through before they are centred and scaled.

    Raises UserError for a scale or window that does not go with the kind, or is not positive or rising.
    """

    kind: Kind = "affine"
    """Curve that values go through first: affine (none), window (straight inside, a logarithm outside), log1p, signed-log,
    asinh, quantile (to a normal distribution), or auto (chosen on the data). imagenet is affine with the constants of the
    published ImageNet models, for 8-bit RGB.
    """
    scale: float | None = None
    """Scale of log1p, signed-log and asinh, in the units of the data, above 0: they are about straight below it. Without it,
    the median size of the values other than 0.
    """
    window: tuple[float, float] | None = None
    """Lowest and highest value, in the units of the data, between which the window is straight. Without it, the 0.5 % and
    99.5 % quantiles of the data.
    """
    per_channel: bool = True
    """Give every channel its own curve, mean and std; if not, all channels share one."""
    hurdle: bool | None = None
    """Keep the lowest value apart by a gap if at least 5 % of a channel have it (rain's zero), and the highest of alpha too.
    Without it, this is done with log1p and for alpha only.
    """

    def __post_init__(self) -> None:
        if self.scale is not None and self.kind not in ("log1p", "signed-log", "asinh"):
            raise UserError(
                f"A scale goes with log1p, signed-log and asinh, not with {self.kind}: leave `data.normaliser.scale` away.",
                "data.normaliser.scale",
            )
        if self.scale is not None:
            _check_scale(self.scale)
        if self.window is not None and self.kind != "window":
            raise UserError(
                f"A window goes with `data.normaliser.kind` window, not with {self.kind}: leave `data.normaliser.window` away.",
                "data.normaliser.window",
            )
        if self.window is not None:
            Window(*self.window)
        if self.hurdle and self.kind == "window":
            raise UserError(
                "A hurdle does not go with a window: leave `data.normaliser.hurdle` away, or choose another kind.",
                "data.normaliser.hurdle",
            )


@dataclass(frozen=True)
class Identity:
    """x."""

    def __call__(self, values: Values) -> Values:
        return values

    def inverse(self, images: Values) -> Values:
        """The values that the transform was given."""
        return images


@dataclass(frozen=True)
class Window:
    """u = (x - centre) / half from low to high, and sign(u) (1 + ln |u|) outside, where |u| > 1.

    The usual window of medical images clips, and what is clipped (metal, padding) can never come back; a logarithm keeps it in
    order, with the same slope at the joints, and still leaves nearly all of the range to the window. Raises UserError unless
    low < high.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise UserError(
                f"A window must rise, got {self.low:g} to {self.high:g}: give `data.normaliser.window` a low and a high value.",
                "data.normaliser.window",
            )

    @property
    def _centre(self) -> float:
        return self.low / 2 + self.high / 2

    @property
    def _half(self) -> float:
        return self.high / 2 - self.low / 2

    def __call__(self, values: Values) -> Values:
        inside = (values - self._centre) / self._half
        return torch.where(inside.abs() <= 1, inside, inside.sign() * (1 + inside.abs().clamp_min(1).log()))

    def inverse(self, images: Values) -> Values:
        """The values that the transform was given."""
        size = images.abs()
        inside = torch.where(size <= 1, images, images.sign() * (size - 1).clamp_min(0).exp())
        return inside * self._half + self._centre


@dataclass(frozen=True)
class Log1p:
    """ln(1 + x / scale), for values above -scale: about x / scale for small values, a logarithm for large ones."""

    scale: float

    def __post_init__(self) -> None:
        _check_scale(self.scale)

    def __call__(self, values: Values) -> Values:
        return (values / self.scale).log1p()

    def inverse(self, images: Values) -> Values:
        """The values that the transform was given."""
        return images.expm1() * self.scale


@dataclass(frozen=True)
class SignedLog:
    """sign(x) ln(1 + |x| / scale)."""

    scale: float

    def __post_init__(self) -> None:
        _check_scale(self.scale)

    def __call__(self, values: Values) -> Values:
        return values.sign() * (values.abs() / self.scale).log1p()

    def inverse(self, images: Values) -> Values:
        """The values that the transform was given."""
        return images.sign() * images.abs().expm1() * self.scale


@dataclass(frozen=True)
class Asinh:
    """asinh(x / scale): as a signed logarithm far out, but smooth at 0."""

    scale: float

    def __post_init__(self) -> None:
        _check_scale(self.scale)

    def __call__(self, values: Values) -> Values:
        return (values / self.scale).asinh()

    def inverse(self, images: Values) -> Values:
        """The values that the transform was given."""
        return images.sinh() * self.scale


@dataclass(frozen=True)
class Quantile:
    """Straight lines from knot to knot, from quantiles of the data to those of a standard normal; the outermost go on for ever.

    Raises UserError unless there are as many values as scores, two or more, and both rise strictly.
    """

    values: tuple[float, ...]
    scores: tuple[float, ...]

    def __post_init__(self) -> None:
        rise = all(row[at] < row[at + 1] for row in (self.values, self.scores) for at in range(len(row) - 1))
        if len(self.values) != len(self.scores) or len(self.values) < 2 or not rise:
            raise UserError("A quantile transform needs two or more knots whose values and scores rise: fit it to the data.")

    def __call__(self, values: Values) -> Values:
        return _polyline(values, self.values, self.scores)

    def inverse(self, images: Values) -> Values:
        """The values that the transform was given."""
        return _polyline(images, self.scores, self.values)


Transform = Identity | Window | Log1p | SignedLog | Asinh | Quantile

TRANSFORMS: dict[str, type[Transform]] = {
    "affine": Identity,
    "window": Window,
    "log1p": Log1p,
    "signed-log": SignedLog,
    "asinh": Asinh,
    "quantile": Quantile,
}


def lowest_of(transform: Transform) -> float:
    """The value that all values must be greater than for the transform to be defined."""
    return -transform.scale if isinstance(transform, Log1p) else -math.inf


def spread(transforms: tuple[Transform, ...], channels: int) -> tuple[Transform, ...]:
    """One transform for each channel."""
    return transforms * channels if len(transforms) == 1 else transforms


def to_json(transform: Transform) -> dict[str, Any]:
    """A plain dictionary with the transform's kind, for a JSON file."""
    kind = next(name for name, each in TRANSFORMS.items() if isinstance(transform, each))
    return {"kind": kind, **{name: list(each) if isinstance(each, tuple) else each for name, each in asdict(transform).items()}}


def from_json(values: Mapping[str, Any]) -> Transform:
    """The transform of `to_json`; UserError for an unknown kind, or constants of another."""
    kind = TRANSFORMS.get(values.get("kind", ""))
    if kind is None:
        raise UserError(f"There is no transform {values.get('kind')!r}: it must be one of {', '.join(TRANSFORMS)}.")
    constants: dict[str, Any] = {
        name: tuple(each) if isinstance(each, list) else each for name, each in values.items() if name != "kind"
    }
    if set(constants) != set(kind.__dataclass_fields__):
        needed = ", ".join(kind.__dataclass_fields__) or "nothing"
        raise UserError(f"The transform {values['kind']} is made of {needed}, got {', '.join(sorted(constants)) or 'nothing'}.")
    return kind(**constants)


def _check_scale(scale: float) -> None:
    if not 0 < scale < math.inf:
        raise UserError(
            f"The scale of a logarithm must be positive and finite, got {scale}: change `data.normaliser.scale`.",
            "data.normaliser.scale",
        )


def _polyline(values: Values, here: tuple[float, ...], there: tuple[float, ...]) -> Values:
    starts, ends, slopes = _knots(here, there, values.device)
    left = torch.bucketize(values.contiguous(), starts[1:-1], right=True)
    return torch.addcmul(ends[left], values - starts[left], slopes[left])


@lru_cache(maxsize=256)
def _knots(here: tuple[float, ...], there: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    starts, ends = (torch.tensor(values, dtype=torch.float64, device=device) for values in (here, there))
    return starts, ends, ends.diff() / starts.diff()
