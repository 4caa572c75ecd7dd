"""The dtypes that native values may have: the one table of them, and what each can hold.

*Native* values are those of the user's files or arrays, never scaled.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch

from pixelpath.errors import UserError

NAMES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64")
BEYOND_FLOAT32 = ("uint32", "int32", "float64")  # these have values that float32 does not hold exactly


def checked(dtype: np.dtype, what: object, setting: str | None = None) -> np.dtype:
    """The dtype in the machine's own byte order; UserError saying that `what` has it if it is not in the table."""
    native = dtype.newbyteorder("=")
    if native.name not in NAMES:
        raise UserError(f"{what} has dtype {dtype}: convert it to one of {', '.join(NAMES)}.", setting)
    return native


def limits(dtype: np.dtype | str) -> tuple[int, int] | None:
    """The lowest and the highest value of an integer dtype; None for floats."""
    if np.dtype(dtype).kind not in "iu":
        return None
    ends = np.iinfo(dtype)
    return int(ends.min), int(ends.max)


def held(value: float, dtype: np.dtype | str) -> float | None:
    """The value as the dtype stores it (floats rounded); None if it cannot: beyond its range, or a fraction among integers."""
    ends = limits(dtype)
    if ends is not None:
        return float(value) if math.isfinite(value) and value == int(value) and ends[0] <= value <= ends[1] else None
    with np.errstate(over="ignore"):
        found = float(np.dtype(dtype).type(value))
    return None if math.isinf(found) and not math.isinf(value) else found


def nearest(value: float, dtype: str) -> float:
    """The dtype's value next to one, nearer to 0 (above it for 0)."""
    if np.dtype(dtype).kind in "iu":
        return value - math.copysign(1, value) if value else 1.0
    kind = np.dtype(dtype).type
    return float(np.nextafter(kind(value), kind(0 if value else 1)))


@cache  # torch.compile calls it once, not in its graph
def in_torch(dtype: str) -> torch.dtype:
    """The dtype of PyTorch that has this name in numpy."""
    return torch.from_numpy(np.empty(0, dtype)).dtype
