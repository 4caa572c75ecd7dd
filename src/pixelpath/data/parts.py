"""Where the training images are, and where the data's own held-out images are, by what folders, files and arrays are called.

A *place* is a folder, a file, or a variable of a store (FILE::VARIABLE). A *part* is one side of data that come with a split of
their own. It is known by a word in its name, in any case: train, Training, val2017, x_test, held-out. Two names are parts of the
same data if they agree in all but that word.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pixelpath.data import folders
from pixelpath.data.addresses import Address, addressed
from pixelpath.data.formats import arrays, parquet, pictures, variables
from pixelpath.errors import MissingError, UserError

TRAIN = ("train", "training", "trainval")
HELD_OUT = ("val", "valid", "validation", "dev", "eval", "evaluation", "test", "testing", "heldout", "holdout")  # the first wins
NEVER_CLASSES = ("val", "validation", "test", "testing", "heldout", "holdout")  # without a training part these are no classes
WORD = re.compile(
    r"(?<![^\W\d_])"  # no letter before it
    r"(train(?:ing|val)?|val(?:id(?:ation)?)?|dev|eval(?:uation)?|test(?:ing)?|h[eo]ld[-_ ]?out)"
    r"(?:set|data)?(?![^\W\d_])",
    re.IGNORECASE,
)
STORES = (*variables.HDF5, *variables.NETCDF, *variables.ZARR)
KINDS = {
    "pictures": pictures.IMAGES,
    "arrays": arrays.ARRAYS,
    "stores": STORES,
    "DICOM files": (".dcm", ".dicom", ".ima"),
    "NIfTI files": (".nii", ".nii.gz"),
    "parquet files": (".parquet",),
    "tar shards": (".tar",),
}
SUFFIXES = tuple(suffix for suffixes in KINDS.values() for suffix in suffixes)
SHARDS = (".parquet", ".tar")
ACCEPTED = "a folder of images, or a .npy, .npz, TIFF, HDF5, Zarr, NetCDF, DICOM, NIfTI, parquet or tar file"


@dataclass(frozen=True)
class Place:
    """A folder or file, with a variable of a store, a part of a .npz file, or some of the files of a folder."""

    path: Path
    variable: str | None = None
    part: str | None = None
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        of = f" ({self.names[0]}{', ...' if len(self.names) > 1 else ''})" if self.names else ""
        return f"{self.path}::{self.variable or self.part}" if self.variable or self.part else f"{self.path}{of}"

    @property
    def is_one(self) -> bool:
        """Whether it is one file to the user, as a Zarr store is too."""
        return self.path.is_file() or self.path.suffix.lower() == ".zarr"


class Parts(NamedTuple):
    """The training part and the held-out part, None where there is none; without either the whole place is to be split."""

    training: Place | None = None
    held_out: Place | None = None


class _Named(NamedTuple):
    """What a name says: the word of its part as in TRAIN or HELD_OUT, and the rest of it."""

    name: str
    word: str
    rest: str


def parts(path: Path) -> tuple[Place, Place | None]:
    """Where the training images are, and where the data's own held-out images are if it has any.

    Raises MissingError for nothing there, UserError for a held-out part without a training part, and where several would do.
    """
    place = _place(path)
    found = _parts(place)
    if found.training is None and found.held_out is not None:
        raise UserError(
            f"{path} holds a part {found.held_out} but no training part: name the training images as `data.path` and that part "
            "as `data.held_out`, or rename it if it is a class.",
            "data.path",
        )
    return found.training or place, found.held_out


def held_out_place(path: Path) -> Place:
    """Where the held-out images are: the held-out part of the path, else all of it."""
    place = _place(path)
    found = _parts(place)
    return found.held_out or found.training or place


def check_unmixed(folder: Path, names: Iterable[str]) -> None:
    """UserError if training and held-out parts lie together in a folder that is opened whole: both would be trained on."""
    below: dict[str, dict[str, None]] = {}
    for name in names:
        inner = name
        while inner:
            outer, _, own = inner.rpartition("/")
            siblings = below.setdefault(outer, {})
            if own in siblings:
                break
            siblings[own], inner = None, outer
    for outer, siblings in below.items():
        if pair := _pair(folder / outer, list(siblings)):
            raise UserError(
                f"{folder / outer} holds the parts {pair[0][0]} and {pair[1][0]}, which would be trained on together: give one "
                "as `data.path` and the other as `data.held_out`, or sort the files into folders train and test.",
                "data.path",
            )


def _place(path: Path) -> Place:
    """A path as given, split into the file and the variable within it; an error if nothing that can be read is there."""
    text, path = str(addressed(path)), addressed(path)
    if "::" not in text:
        _check_there(path)
        return Place(path)
    file, _, variable = text.partition("::")
    if not file:
        raise UserError(f"{text} names no file before the two colons: write FILE::VARIABLE.")
    if not variable:
        raise UserError(f"{text} names no variable after the two colons: write {file}::VARIABLE, or {file} alone.")
    if not file.lower().endswith(STORES):
        raise UserError(f"{text} names a variable, which only stores have ({', '.join(STORES)}): give {file} alone.")
    of = addressed(Path(file))
    _check_there(of)
    return Place(of, variable)


def _check_there(path: Path) -> None:
    """MissingError for nothing at all; UserError for pipes and devices, from which reading would never end."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        why = "" if isinstance(error, FileNotFoundError) else f" or cannot be reached ({error.strerror})"
        raise MissingError(f"{path} does not exist{why}: give {ACCEPTED}.") from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise UserError(f"{path} is neither a file nor a folder: give {ACCEPTED}.")


def _parts(place: Place) -> Parts:
    path = place.path
    if place.variable is not None:
        return Parts()
    if path.suffix.lower() == ".npz" and path.is_file():
        words = arrays.array_parts(path)
        held_out = next((Place(path, part=word) for word in HELD_OUT if word in words), None)
        training = next((Place(path, part=word) for word in TRAIN if word in words), None)
        return Parts(training, held_out) if training else Parts()
    if path.is_dir() and path.suffix.lower() != ".zarr":
        return _parts_of_folder(path)
    return Parts()


def _parts_of_folder(path: Path) -> Parts:
    saved = None if isinstance(path, Address) else parquet.saved_splits(path)
    if saved:
        named = {each.word: Place(saved[each.name]) for each in map(_named, saved) if each is not None}
        training, held_out = (next((named[word] for word in side if word in named), None) for side in (TRAIN, HELD_OUT))
        return Parts(training or (None if held_out else Place(next(iter(saved.values())))), held_out)
    entries = folders.visible(path)
    below = [entry.name for entry in entries if folders.is_folder(entry) and not folders.is_store(entry)]
    files = [entry.name for entry in entries if folders.has(entry.name, SUFFIXES) and entry.name not in below]
    for names in (below, files):
        if pair := _pair(path, names):
            return Parts(_of(path, pair[0]), _of(path, pair[1]))
    if below == ["data"] and not files:
        return _parts_of_folder(path / "data")
    plain = [each for each in map(_named, (*below, *files)) if each is not None and each.rest in PLAIN]
    alone = [each for each in plain if each.word in NEVER_CLASSES and each.name.endswith((*below, *SHARDS))]
    if alone:
        first = min((each.word for each in alone), key=HELD_OUT.index)
        return Parts(None, _of(path, tuple(each.name for each in alone if each.word == first)))
    train = [each.name for each in plain if each.word in TRAIN and (each.name in files or below == [each.name])]
    return Parts(Place(path / train[0])) if len(train) == 1 and train[0].endswith((*below, *arrays.ARRAYS)) else Parts()


def _of(folder: Path, names: tuple[str, ...]) -> Place:
    return Place(folder / names[0]) if len(names) == 1 else Place(folder, names=names)


def _pair(where: Path, names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """The names of the training part and of the first held-out part that agree in all else; None if there are no two such.

    Pictures are parts only if every one is. UserError if several pairs would do and none consists of the words alone.
    """
    sides: dict[str, dict[str, tuple[str, ...]]] = {}
    for each in filter(None, map(_named, names)):
        words = sides.setdefault(each.rest, {})
        words[each.word] = (*words.get(each.word, ()), each.name)
    pairs = {
        rest: (next(words[word] for word in TRAIN if word in words), next(words[word] for word in HELD_OUT if word in words))
        for rest, words in sides.items()
        if not (words.keys().isdisjoint(TRAIN) or words.keys().isdisjoint(HELD_OUT))
    }
    plain = [rest for rest in pairs if rest in PLAIN]
    chosen = plain if len(plain) == 1 else list(pairs)
    if len(chosen) > 1:
        told = " or ".join(" and ".join(side[0] for side in pairs[rest]) for rest in chosen[:2])
        raise UserError(
            f"{where} may be split as {told}: name one of them as `data.path` and the other as `data.held_out`.", "data.path"
        )
    if not chosen:
        return None
    drawn = [name for name in names if name.lower().endswith(pictures.IMAGES)]
    if pairs[chosen[0]][0][0] in drawn and sum(map(len, sides[chosen[0]].values())) < len(drawn):
        return None
    training, held_out = pairs[chosen[0]]
    return training, held_out


def _named(name: str) -> _Named | None:
    """What a name says of a part; None if it says nothing, or both sides."""
    found = list(WORD.finditer(name))
    if len(found) != 1:
        return None
    rest = (name[: found[0].start()] + name[found[0].end() :]).lower()
    return _Named(name, re.sub(r"[-_ ]", "", found[0][1].lower()), _letters(rest) if rest.endswith(SUFFIXES) else rest)


def _letters(rest: str) -> str:
    """A file's name without the numbers of a shard, like -00000-of-00004, and without dots and the like."""
    return re.sub(r"[\W\d_]+(of)?(?=[\W\d_])|[\W\d_]", "", rest)


PLAIN = ("", *map(_letters, SUFFIXES))  # what is left of the names of parts that are called by the words alone
