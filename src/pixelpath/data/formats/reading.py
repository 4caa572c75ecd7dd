"""What the readers of other people's formats share: mistakes told in one sentence, and values rescaled.

A *reason* is what a library says of a file that it cannot read. *Stored* values are those in a file; *rescaled* ones are slope *
stored + intercept, as the file says: HU for CT.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Shaped

from pixelpath.data.dtypes import limits
from pixelpath.errors import MissingError, UserError

Scale = tuple[float, float]
"""Slope and intercept."""

UNSCALED: Scale = (1.0, 0.0)


class Packed(NamedTuple):
    """A picture within another file: its bytes as an open file, which whoever opened it closes, and what it is called."""

    file: BinaryIO
    where: str

    def __str__(self) -> str:
        return self.where

    def begun(self) -> AbstractContextManager[Any]:
        """The open file at its first byte."""
        self.file.seek(0)
        return nullcontext(self.file)


def check_exists(path: Path, wanted: str) -> None:
    """MissingError if there is no such file, with what to give instead; UserError for pipes and the like."""
    check_regular(path)
    if not path.is_file():
        raise MissingError(f"{path} does not exist: give {wanted}.")


def check_room(path: Path, needed: int, what: str) -> None:
    """UserError if so many bytes, which a packed file unpacks to, are more than the memory that is free."""
    meminfo = Path("/proc/meminfo")
    free = 1024 * int(meminfo.read_text("ascii").split("MemAvailable:")[1].split()[0]) if meminfo.exists() else needed
    if needed > free:
        raise UserError(
            f"{path} holds {what} packed, which takes {needed / 2**30:.1f} GiB of memory unpacked and {free / 2**30:.1f} GiB are "
            "free: write it unpacked, which is read from the disk."
        )


def check_regular(path: Path) -> None:
    """UserError for pipes, devices and the like, from which reading would never end; what is missing is not asked here."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError(f"{path} is no regular file: replace it with one, or leave it out.")


def leads_out(name: str) -> bool:
    """Whether the name of an archive's member, as a path of any system, leads out of the archive."""
    ways = PurePosixPath(name), PureWindowsPath(name)
    return any(way.is_absolute() or way.drive or ".." in way.parts for way in ways)


def needs(module: str, extra: str, what: Path | Packed | str) -> ModuleType:
    """The module of an optional package; UserError naming the extra that brings it if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise UserError(f"{what} needs the package {package} ({error}): run pip install 'pixelpath[{extra}]'.") from error


class BrokenFileError(UserError):
    """A file, or an image in one, that is damaged: it cannot be decoded."""


@contextmanager
def leaving_out(broken: list[str] | None, name: str) -> Iterator[None]:
    """A block in which a damaged file adds its name to those left out, instead of stopping; None: it stops."""
    try:
        yield
    except BrokenFileError:
        if broken is None:
            raise
        broken.append(name)


@contextmanager
def reading(
    path: Path | Packed, what: str, remedy: str = "copy it again, or leave it out", setting: str | None = None
) -> Iterator[None]:
    """Turns whatever a reader raises (on a damaged file that may be anything) into a BrokenFileError: which file, `what`, why.

    `what` completes "the file cannot be read": "as a DICOM file", "at image 3".
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        sentence = f"{f'{path} cannot be read {what}'.rstrip()} ({reason(error, path)}): {remedy}."
        raise BrokenFileError(sentence, setting) from error


def reason(error: Exception, path: Path | Packed | str) -> str:
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
    lowest, highest = limits(dtype) or (0, 0)
    if values.size and not (lowest <= values.min() and values.max() <= highest):
        raise UserError(
            f"{path} holds the value {values.min() if values.min() < lowest else values.max()}, which its header rules out "
            f"({dtype}): write it with as many bits stored as it uses."
        )
    return np.ascontiguousarray(values, dtype=dtype)
