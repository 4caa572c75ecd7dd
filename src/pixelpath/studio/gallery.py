"""The images of one run that the studio shows: those on disk, and those made since it was opened.

An *item* is one image with an id, what stands below it, and *how* it was made, JSON-ready. *Favourites* are kept as files in
RUN/favourites, so that they are there the next time; those of a bundled model in NAME-favourites in the working directory.
"""

from __future__ import annotations

import json
import math
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from pixelpath.atomic import read_json, whole, write_json
from pixelpath.data.alpha import premultiply, unpremultiply
from pixelpath.data.metadata import Metadata
from pixelpath.data.opening import open_source
from pixelpath.errors import MissingError, UserError
from pixelpath.runs import api
from pixelpath.runs.edit_inputs import GivenImages, given_images
from pixelpath.runs.folder import samples_of_fit
from pixelpath.runs.run import Run
from pixelpath.runs.sample import Samples
from pixelpath.runs.sharing.bundled import beside
from pixelpath.studio.conditions import GIVEN, CondImages
from pixelpath.trainer import checkpoint

FAVOURITES = "favourites"
SHOWN, HELD = 1000, 2**28  # images of the newest folder of samples, at most, and their bytes
EACH = ("png", "tiff", "geotiff")  # formats with a file for each image


@dataclass(frozen=True, eq=False)
class Item:
    """One image: in the run's own units, and `straight`, as files hold it (the same but for premultiplied colours)."""

    id: str
    native: Shaped[np.ndarray, "channel row column"]
    straight: Shaped[np.ndarray, "channel row column"]
    name: str
    how: dict[str, Any]
    favourite: bool = False

    @property
    def given(self) -> GivenImages:
        """The item as an image to be edited."""
        return GivenImages(self.native[None], self.straight[None])

    def about(self) -> dict[str, Any]:
        """What the page needs to know of it."""
        return {"id": self.id, "name": self.name, "how": self.how, "favourite": self.favourite}


class Gallery:
    """The items of the run in a folder, by their ids, which begin with the run's number."""

    def __init__(self, path: Path, number: int) -> None:
        self.path, self.number = path, number
        self.items: dict[str, Item] = {}
        self.cond_images = CondImages()
        self._run: Run | None = None
        self._lock, self._next, self._read = threading.RLock(), 0, False

    @property
    def run(self) -> Run:
        """The run at its newest checkpoint; raises as `load`."""
        with self._lock:
            newest = checkpoint.latest(self.path)
            if self._run is None or (newest is not None and newest != self._run.checkpoint):
                self._run = api.load(self.path)
            return self._run

    @property
    def metadata(self) -> Metadata:
        """That of the straight images."""
        metadata = self.run.metadata
        return replace(metadata, alpha="straight") if metadata.alpha == "premultiplied" else metadata

    @property
    def seen(self) -> list[tuple[float, float]] | None:
        """The display range of every channel: that of the training data, else that of the first items, so that all look alike."""
        if self.run.normaliser.shown or not self.items:
            return self.run.normaliser.shown
        values = np.stack([item.straight for item in list(self.items.values())[:64]]).astype(np.float64)
        ends = [np.nanpercentile(values[:, channel], (0.5, 99.5)).tolist() for channel in range(values.shape[1])]
        return [(low, high if high > low else low + 1.0) for low, high in ends]

    def read(self) -> list[Item]:
        """All items, favourites first; those on disk are read once."""
        with self._lock:
            if not self._read:
                self._read = True
                for item in (*self._favourites(), *self._samples()):
                    self.items[item.id] = item
            return sorted(self.items.values(), key=lambda item: not item.favourite)

    def item(self, id: str) -> Item:
        """The item; MissingError if there is none."""
        if id not in self.items:
            raise MissingError(f"There is no image {id} any more: load the page again.", "id")
        return self.items[id]

    def add(self, made: Samples, hows: Sequence[dict[str, Any]]) -> list[Item]:
        """The images that were just made as items."""
        straight, metadata = made.to_write()
        straight = unpremultiply(straight) if metadata.alpha == "premultiplied" else straight
        rows = zip(made.images, straight, made.labels, hows, strict=True)
        with self._lock:
            found = [Item(self._id(), native, own, name.replace("\n", ", "), how) for native, own, name, how in rows]
            self.items.update({item.id: item for item in found})
        return found

    def take(self, name: str, content: bytes) -> list[Item]:
        """The images of a file from the user's disk, to be edited; raises as `given_images`."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(name).name
            path.write_bytes(content)
            try:
                given = given_images(self.run, path)
            except UserError as error:
                raise UserError(str(error).replace(str(path), path.name), error.setting) from error
            how, stem = {"kind": "given", "class": None}, path.stem
            rows = zip(given.native, given.straight, strict=True)
            with self._lock:
                found = [Item(self._id(), native.copy(), own.copy(), stem, dict(how)) for native, own in rows]
                self.items.update({item.id: item for item in found})
        return found

    def favour(self, id: str, on: bool) -> Item:
        """Keep an item as a file among the favourites, or no longer."""
        with self._lock:
            item, folder = replace(self.item(id), favourite=on), beside(self.path, FAVOURITES)
            stem = str(item.how.get("kept") or _free(folder))
            if on:
                folder.mkdir(exist_ok=True)
                item.how["kept"] = stem
                with whole(folder / f"{stem}.npy") as file:
                    np.save(file, np.stack([item.native, item.straight]))
                write_json(folder / f"{stem}.json", {"name": item.name, "how": item.how})
            else:
                item.how.pop("kept", None)
                for suffix in (".json", ".npy"):
                    (folder / f"{stem}{suffix}").unlink(missing_ok=True)
            self.items[id] = item
            return item

    def _favourites(self) -> list[Item]:
        found = []
        for file in sorted(beside(self.path, FAVOURITES).glob("*.json")):
            try:
                about, images = read_json(file), np.load(file.with_suffix(".npy"), allow_pickle=False)
                how = about["how"]
                if str(how.get("cond_image", "")).startswith(GIVEN):  # of a file that was given to an earlier page
                    del how["cond_image"]
                found.append(Item(self._id(), images[0], images[1], about["name"], how, True))
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise UserError(f"{file} cannot be read ({error}): remove it, or bring it back from a copy.") from error
        return found

    def _samples(self) -> list[Item]:
        """The newest folder of samples, of the run or of the fit that it belongs to; none if its files cannot be read here."""
        folders = filter(None, (beside(self.path, "samples"), samples_of_fit(self.path)))
        made = sorted((file for each in folders for file in each.glob("*/samples.json")), key=lambda file: file.stat().st_mtime)
        if not made:
            return []
        try:
            settings = json.loads(made[-1].read_text(encoding="utf-8"))
            native, straight = self._arrays(made[-1].parent, settings)
        except (OSError, ValueError, KeyError):
            return []
        labels, first = settings["labels"] or [None] * len(native), settings["seeds"][0]
        found = []
        for place, (image, own, label) in enumerate(zip(native, straight, labels, strict=False)):
            named = None if label is None else settings["classes"][label]
            how = {"kind": "sample", "seed": first + place, "class": named, "guidance": settings["guidance"], "nfe": None}
            if settings["conditions"]:
                how["numbers"] = {name: str(values[place]) for name, values in settings["conditions"].items()}
            word = "" if named is None else f", class {named}" if named.isdecimal() else f", {named}"
            found.append(Item(self._id(), image, own, f"seed {first + place}{word}", how))
        return found

    def _arrays(self, folder: Path, settings: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        first, last = settings["seeds"]
        shown = max(1, min(SHOWN, HELD // (math.prod(self.run.shape) * np.dtype(self.run.normaliser.dtype).itemsize)))
        if settings["format"] in EACH:
            suffix = Path(settings["files"][0]).suffix
            files = [folder / f"{seed:06d}{suffix}" for seed in range(first, last + 1)][:shown]
            straight = np.stack([open_source(file, channels=self._channels())[0] for file in files])
        else:
            source = open_source(folder / settings["files"][0])
            straight = np.stack([source[place] for place in range(min(shown, len(source)))])
        if straight.shape[1:] != self.run.shape or straight.dtype.name != self.run.normaliser.dtype:
            raise ValueError(f"{folder} holds other images than the run makes")
        return premultiply(straight) if self.run.metadata.alpha == "premultiplied" else straight, straight

    def _channels(self) -> Any:
        return self.run.shape[0] if self.run.metadata.photographs and self.run.shape[0] in (1, 3, 4) else None

    def _id(self) -> str:
        self._next += 1
        return f"{self.number}-{self._next}"


def _free(folder: Path) -> str:
    taken = [int(file.stem) for file in folder.glob("*.json") if file.stem.isdecimal()]
    return f"{max(taken, default=0) + 1:06d}"
