"""Addresses of object stores as paths: s3://bucket/folder is opened as a folder on the disk is, through fsspec.

The *scheme* of an address is what stands before the colon. Its *driver* is the package by which fsspec reaches it.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Generator
from pathlib import Path
from typing import Any

from pixelpath.errors import UserError

DRIVERS = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "az": "adlfs",
    "http": "aiohttp",
    "https": "aiohttp",
    "hf": "huggingface_hub",
    "memory": "",
}
"""By scheme, the package that reaches it; fsspec itself comes with torch."""

_ADDRESS = re.compile(rf"(file|{'|'.join(DRIVERS)}):/+(.*)", re.DOTALL)


class Address(type(Path())):  # pyright: ignore[reportGeneralTypeIssues, reportUntypedBaseClass]
    """A path below s3:, gs:, az:, https:, hf: or memory:, which names, joins and reads as other paths do, and never writes.

    Credentials are those that the driver finds in the environment. Raises UserError naming the driver that is not installed, or
    what the store says if it cannot be reached.
    """

    def __str__(self) -> str:
        return super().__str__().replace(os.sep, "/").replace(":/", "://", 1)

    def absolute(self) -> Address:
        """Itself."""
        return self

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Kind and size alone. Raises FileNotFoundError."""
        system, place = self._reached()
        try:
            about = system.info(place)
        except FileNotFoundError:
            raise FileNotFoundError(f"{self} does not exist") from None
        except Exception as error:
            raise self._unreached(error) from error
        mode = stat.S_IFDIR if about["type"] == "directory" else stat.S_IFREG
        return os.stat_result((mode, 0, 0, 1, 0, 0, about.get("size") or 0, 0, 0, 0))

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Whether anything is there."""
        return self._mode() != 0

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Whether it is an object."""
        return stat.S_ISREG(self._mode())

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether objects lie below it."""
        return stat.S_ISDIR(self._mode())

    def is_symlink(self) -> bool:
        """Object stores have no links."""
        return False

    def iterdir(self) -> Generator[Address]:
        """What lies directly below."""
        system, place = self._reached()
        try:
            names = system.ls(place, detail=False)
        except Exception as error:
            raise self._unreached(error) from error
        return (self / name.rstrip("/").rpartition("/")[2] for name in names if name.rstrip("/") != place.rstrip("/"))

    def below(self, name: str) -> list[Address]:
        """Every object of this name, however deep below."""
        system, place = self._reached()
        return [self / found.removeprefix(place).lstrip("/") for found in system.find(place) if found.endswith(f"/{name}")]

    def open(self, mode: str = "rb", **options: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """An object as a seekable file, read ahead in blocks; bytes alone."""
        if mode != "rb":
            raise ValueError(f"{self} can only be opened to read bytes.")
        system, place = self._reached()
        return system.open(place, "rb")

    def part(self, offset: int, size: int) -> io.BytesIO:
        """Some bytes of an object, by one request."""
        system, place = self._reached()
        return io.BytesIO(system.cat_file(place, start=offset, end=offset + size))

    def _mode(self) -> int:
        try:
            return self.stat().st_mode
        except FileNotFoundError:
            return 0

    def _reached(self) -> tuple[Any, str]:
        """The file system, which fsspec keeps for the next call, and the place within it."""
        import fsspec

        scheme = str(self).partition(":")[0]
        try:
            return fsspec.url_to_fs(str(self))
        except ImportError as error:
            raise UserError(f"{self} needs the package {DRIVERS[scheme]}: run pip install {DRIVERS[scheme]}.") from error
        except Exception as error:
            raise self._unreached(error) from error

    def _unreached(self, error: Exception) -> UserError:
        said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        return UserError(f"{self} cannot be reached ({said}): check the address, the network and your credentials.")


def addressed(path: Path) -> Path:
    """The path as an Address if it begins with a scheme, file:/folder without its scheme, and any other path as it is."""
    found = None if isinstance(path, Address) else _ADDRESS.fullmatch(path.as_posix())
    if found is None:
        return path
    return Path(f"/{found[2]}") if found[1] == "file" else Address(f"{found[1]}:/{found[2]}")
