"""What was found once in the pictures of a folder, kept beside the runs that use them, so that the next one decodes none of it.

A *listing* is the names, sizes and times of change of all files of a side, as a digest: as long as it is the same, so are the
headers, the constants of the normaliser and the digests of values that were found. Only a change that leaves size and time as
they were goes unnoticed. Of small folders nothing is kept: reading them takes no longer.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pixelpath.atomic import read_json, sealed, write_json
from pixelpath.data.digest import Digests
from pixelpath.data.formats import pictures
from pixelpath.data.formats.pictures import Header
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.data.settings import DataSettings
from pixelpath.data.sources import Folder, Premultiplied, Remembered, Source, Subset, decoders
from pixelpath.errors import UserError
from pixelpath.log import say
from pixelpath.runs.folder import ELSEWHERE, by_main

FOLDER = ".data-index"
VERSION = 1  # of what is kept, which changes with the meaning of any of it
LEAST = 2**24  # bytes of files, below which nothing is kept
UNUSED = (*ELSEWHERE, "conditions", "cond_image", "units")  # settings that change neither headers nor values


class Findings(NamedTuple):
    """What is known of both sides; the normaliser is None unless it was fitted to these very images."""

    normaliser: Normaliser | None
    digests: dict[str, Digests]


@dataclass
class Index:
    """The index of one opening: `headers` reads a side's files, then `find` and `keep` know which images they are.

    `folder` holds the runs; the index is a hidden folder in it. All processes of a run must call it together; the main one reads
    and writes.
    """

    folder: Path
    settings: DataSettings
    listings: list[str | None] = field(default_factory=list)

    def headers(self, root: Path, names: Sequence[str]) -> tuple[list[Header | None], list[str]]:
        """As `pictures.headers`, read only where the listing is not known."""
        listing, kinds, packed = by_main(self._headers)(root, names)
        self.listings.append(listing)
        known = [*(Header(mode, (rows, columns)) for mode, rows, columns in kinds), None]
        found = [known[kind] for kind in np.frombuffer(zlib.decompress(base64.b64decode(packed)), "<i4").tolist()]
        return found, [name for name, header in zip(names, found, strict=True) if header is None]

    def find(self, sides: Sequence[Source]) -> Findings | None:
        """What is known of both sides, whose headers were read; None if nothing is."""
        return by_main(self._find)(sides)

    def keep(self, sides: Sequence[Source], findings: Findings) -> None:
        """Keep what was found in them, if files alone tell which images they are."""
        key = self._key(sides)
        if key is not None:
            normaliser = findings.normaliser
            about = {"normaliser": None if normaliser is None else normaliser.to_json(), "digests": findings.digests}
            by_main(self._write)(f"images-{key}.json", about)

    def _headers(self, root: Path, names: Sequence[str]) -> tuple[str | None, list[list[Any]], str]:
        listing, size = _listing(root, names)
        listing = _digest([VERSION, listing, self.settings.channels, self.settings.skip_broken])
        known = self._read(f"headers-{listing}.json") if size >= LEAST else None
        if known is not None:
            return listing, known["kinds"], known["which"]
        with decoders(self.settings.workers) as pool:
            found, _ = pictures.headers(root, names, self.settings.skip_broken, self.settings.channels, pool)
        order: dict[Header | None, int] = {None: -1}
        which = np.array([order.setdefault(header, len(order) - 1) for header in found], "<i4")
        kinds = [[header.mode, *header.size] for header in order if header is not None]
        packed = base64.b64encode(zlib.compress(which.tobytes())).decode("ascii")
        if size >= LEAST:
            self._write(f"headers-{listing}.json", {"kinds": kinds, "which": packed})
        return listing if size >= LEAST else None, kinds, packed

    def _find(self, sides: Sequence[Source]) -> Findings | None:
        key = self._key(sides)
        known = None if key is None else self._read(f"images-{key}.json")
        if known is None:
            return None
        normaliser = known["normaliser"]
        return Findings(None if normaliser is None else Normaliser.from_json(normaliser), known["digests"])

    def _key(self, sides: Sequence[Source]) -> str | None:
        """Which images these are and how they are read; None if that cannot be told by files alone, or nothing is kept."""
        if not self.listings or None in self.listings or not all(map(_is_folder, sides)):
            return None
        settings = {name: value for name, value in asdict(self.settings).items() if name not in UNUSED}
        return _digest([VERSION, self.listings, settings])

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            return read_json(self.folder / FOLDER / name)
        except (OSError, ValueError):  # not there, or damaged: as if it was never kept
            return None

    def _write(self, name: str, content: dict[str, Any]) -> bool:
        try:
            (self.folder / FOLDER).mkdir(parents=True, exist_ok=True)
            write_json(self.folder / FOLDER / name, sealed(content))
        except OSError as error:
            say(f"{self.folder / FOLDER} cannot be written ({error.strerror}), so the images are read again the next time.")
        return True


def _listing(root: Path, names: Sequence[str]) -> tuple[str, int]:
    """The digest of the listing, and the bytes of all files."""
    digest, total, folder = hashlib.blake2b(digest_size=16), 0, str(root)
    for name in names:
        try:
            status = os.stat(os.path.join(folder, name))  # a Path for every file would take longer than its status
        except OSError as error:
            raise UserError(f"{root / name} cannot be read ({error.strerror}): make it readable, or leave it out.") from error
        digest.update(f"{name}\n{status.st_size}\n{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
        total += status.st_size
    return digest.hexdigest(), total


def _is_folder(source: Source) -> bool:
    """Whether every image is a picture file of its own."""
    while isinstance(source, Subset | Premultiplied | Remembered):
        source = source.source
    return isinstance(source, Folder)


def _digest(content: Any) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()
