"""What the readers of other people's formats share: mistakes told in one sentence, and values rescaled.

A *reason* is what a library says of a file that it cannot read. *Stored* values are those in a file; *rescaled* ones are slope *
stored + intercept, as the file says: HU for CT.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
from jaxtyping import Shaped

Scale = tuple[float, float]
"""Slope and intercept."""

UNSCALED: Scale = (1.0, 0.0)


class UnreadableError(ValueError):
    """A file whose images cannot be read, told in one sentence."""


def check_exists(path: Path, wanted: str) -> None:
    """FileNotFoundError if there is no such file, with what to give instead."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: give {wanted}.")


def leads_out(name: str) -> bool:
    """Whether the name of an archive's member, as a path of any system, leads out of the archive."""
    ways = PurePosixPath(name), PureWindowsPath(name)
    return any(way.is_absolute() or way.drive or ".." in way.parts for way in ways)


@contextmanager
def reading(path: Path, kind: str, remedy: str = "copy it again, or leave it out") -> Iterator[None]:
    """Whatever a reader raises, and it may be anything on a damaged file, as one ValueError that names the file and its kind."""
    try:
        yield
    except UnreadableError:
        raise
    except Exception as error:
        raise ValueError(f"{path} cannot be read as {kind} ({reason(error, path)}): {remedy}.") from error


def reason(error: Exception, path: Path | str) -> str:
    """What an exception says, on one line, without the path of the file and the representations of Python's objects."""
    said = str(error).replace(str(path), "the file").replace(". Use force=True to force reading", "")  # advice for programmers
    return " ".join(re.sub(r" ?<[^>]*>", "", said).split()).rstrip(".") or type(error).__name__


def rescaled(
    stored: Shaped[np.ndarray, "channel row column"], scale: Scale, dtype: np.dtype, path: Path
) -> Shaped[np.ndarray, "channel row column"]:
    """slope * stored + intercept as a fresh array: integers exactly, floats computed in float64."""
    if scale == UNSCALED and stored.dtype.newbyteorder("=") == dtype:
        return np.array(stored, dtype, order="C")
    if dtype.kind == "f":
        return np.ascontiguousarray(stored.astype(np.float64) * scale[0] + scale[1], dtype=dtype)
    values = stored.astype(np.int64) * int(scale[0]) + int(scale[1])
    limits = np.iinfo(dtype)
    if values.size and not (limits.min <= values.min() and values.max() <= limits.max):
        raise ValueError(
            f"{path} holds the value {values.min() if values.min() < limits.min else values.max()}, which its header rules out "
            f"({dtype}): write it with as many bits stored as it uses."
        )
    return np.ascontiguousarray(values, dtype=dtype)
