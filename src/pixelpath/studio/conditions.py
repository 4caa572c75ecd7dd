"""What the studio's images are asked for beside their class: numbers, and condition images.

A *condition image* has an id: own-PLACE for one of the run's own data, given-NUMBER for one of a file from the user's disk.
"""

from __future__ import annotations

import csv
import itertools
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from jaxtyping import Shaped

from pixelpath.data.metadata import Metadata
from pixelpath.data.sources import Source
from pixelpath.errors import MissingError, UserError
from pixelpath.reports.display import Display, Shown, show
from pixelpath.runs.opened import OpenRun
from pixelpath.runs.prepare import read_data_of
from pixelpath.runs.sample_conditions import cond_images

SHOWN = 24  # condition images of the run's own data that the page offers
MOST = 100  # condition images of one file
OWN, GIVEN = "own-", "given-"


@dataclass(frozen=True, eq=False)
class CondImage:
    """A condition image in the dtype that the run was trained with."""

    id: str
    name: str
    native: Shaped[np.ndarray, "channel row column"]

    def about(self) -> dict[str, str]:
        """What the page needs to know of it."""
        return {"id": self.id, "name": self.name}


class Files(TypedDict, total=False):
    """Files to sample from, by the arguments of `Run.sample`."""

    conditions: Path
    cond_image: Path


class CondImages:
    """The condition images of one run, by their ids."""

    def __init__(self) -> None:
        self._given: dict[str, CondImage] = {}
        self._source: Source | None = None
        self._lock, self._numbers = threading.Lock(), itertools.count(1)

    def own(self, run: OpenRun) -> list[CondImage]:
        """The first ones of the run's held-out images, of its training images if none are held out; raises as `read_data_of`."""
        return [self._own(run, place) for place in range(min(SHOWN, len(self._data(run))))]

    def of_seed(self, run: OpenRun, seed: int) -> str:
        """The id of that which an image of this seed is made with if none is chosen."""
        return f"{OWN}{seed % len(self._data(run))}"

    def take(self, run: OpenRun, name: str, content: bytes) -> list[CondImage]:
        """Those of a file from the user's disk; UserError if it is no file of condition images of this run."""
        _check_asks(run)
        with tempfile.TemporaryDirectory() as folder, _called(folder):
            path = Path(folder) / Path(name).name
            path.write_bytes(content)
            source = cond_images(run, path)
            if not 1 <= len(source) <= MOST:
                raise UserError(f"{path} holds {len(source):,} images: give a file of 1 to {MOST}.", "cond_image")
            natives = [np.array(source[place]) for place in range(len(source))]
            assert run.conditions.cond_image is not None
            run.conditions.cond_image.encode(torch.from_numpy(np.stack(natives)), lambda place: f"{place + 1} of {path}")
        found = [CondImage(f"{GIVEN}{next(self._numbers)}", path.stem, native) for native in natives]
        self._given.update({each.id: each for each in found})
        return found

    def find(self, run: OpenRun, id: str) -> CondImage:
        """The condition image; MissingError if there is none."""
        if id in self._given:
            return self._given[id]
        place = id.removeprefix(OWN)
        if run.conditions.other and id.startswith(OWN) and place.isdecimal() and int(place) < len(self._data(run)):
            return self._own(run, int(place))
        raise MissingError(f"There is no condition image {id} any more: choose another one.", "cond_image")

    def _own(self, run: OpenRun, place: int) -> CondImage:
        source = self._data(run)
        return CondImage(f"{OWN}{place}", source.name(place), np.array(source[place]))

    def _data(self, run: OpenRun) -> Source:
        _check_asks(run)
        with self._lock:
            if self._source is None:
                data = read_data_of(run, None)
                side = data.given_held_out if len(data.held_out) else data.given
                assert side is not None
                self._source = side.cond_image
            assert self._source is not None
            return self._source


def shown(run: OpenRun, image: CondImage) -> Shown:
    """How a condition image looks: the classes of a mask in colours, others between the ends of the training data."""
    asks, upright = run.conditions.cond_image, Metadata(south_up=run.metadata.south_up)
    assert asks is not None
    if asks.normaliser is not None:
        return show(image.native[None], upright, seen=asks.normaliser.shown)
    return show(image.native[None], upright, Display(range=(0, max(1, asks.classes - 1)), colours="sequential"))


@contextmanager
def as_files(rows: Sequence[Mapping[str, str]], images: Sequence[CondImage]) -> Iterator[Files]:
    """Numbers, by column, and condition images as files to sample from, while they are needed: arguments of `Run.sample`.

    What is missing is not among them. A UserError inside names the files without their folder.
    """
    with tempfile.TemporaryDirectory() as folder, _called(folder):
        files: Files = {}
        if rows:
            files["conditions"] = table = Path(folder) / "numbers.csv"
            with table.open("w", newline="", encoding="utf-8") as file:
                lines = [(f"asked {place}", *row.values()) for place, row in enumerate(rows, 1)]
                csv.writer(file).writerows([("name", *rows[0]), *lines])
        if images:
            files["cond_image"] = stack = Path(folder) / "condition images.npy"
            np.save(stack, np.stack([each.native for each in images]))
        yield files


@contextmanager
def _called(folder: str) -> Iterator[None]:
    """Errors inside name files without this folder."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace(f"{folder}/", "").replace(f"{folder}\\", ""), error.setting) from error


def _check_asks(run: OpenRun) -> None:
    if not run.conditions.other:
        raise UserError(f"{run.path} was trained without condition images: choose none.", "cond_image")
