"""What images can be asked for besides their class: numbers, categories and tags from a table, and condition images.

A *table* has a line per image: a .csv file whose first column (or the one called name, file or file_name) names the images, or an
array [image, number] in the order of the images. A *number* is standardised; a *category* is one of several words; *tags* are any
of several words, separated by |. *Condition images* are masks or maps of the same rows and columns, found by the images' names.
"""

from __future__ import annotations

import csv
import difflib
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

from pixelpath.data import sources
from pixelpath.data.formats import arrays
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.data.sources import Source
from pixelpath.errors import MissingError, UserError
from pixelpath.types import Condition

NAMES = ("name", "file", "file_name", "filename", "image", "id")
TAG = "|"
FARTHEST = 1e6  # in units of the std, from the mean: a number beyond is a mistake, which would blow the network up
MOST_CLASSES = 32  # single-channel integers below this are the numbers of classes in a mask


@dataclass(frozen=True)
class Column:
    """What one column of a table means: a number with its mean and std, or the words that occur in it."""

    name: str
    kind: Literal["number", "category", "tags"]
    mean: float = 0.0
    std: float = 1.0
    words: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """How many numbers of the vector it makes."""
        return 1 if self.kind == "number" else len(self.words)

    def encode(self, entries: Sequence[str], where: Sequence[str]) -> Float[np.ndarray, "image width"]:
        """The entries, and where they stand, as rows of the vector; UserError naming the first one that cannot be."""
        rows = np.zeros((len(entries), self.width), np.float32)
        for place, entry in enumerate(entries):
            if self.kind == "number":
                rows[place, 0] = self._standardised(entry, f"{where[place]}, column {self.name}")
                continue
            for word in entry.split(TAG) if self.kind == "tags" else [entry]:
                if word == "" and self.kind == "tags":
                    continue
                if word not in self.words:
                    near = difflib.get_close_matches(word, self.words, 3, 0.4) or list(self.words[:10])
                    raise UserError(
                        f"{where[place]}, column {self.name}: {word or 'an empty entry'} is not among the words that "
                        f"training saw: choose from {', '.join(near)}."
                    )
                rows[place, self.words.index(word)] = 1.0
        return rows

    def _standardised(self, entry: str, where: str) -> float:
        value = _number(entry, where)
        standardised = (value - self.mean) / self.std
        if not abs(standardised) <= FARTHEST:
            raise UserError(
                f"{where}: {entry} is {abs(standardised):.0e} std from the mean of training, {self.mean:g}: correct it."
            )
        return standardised


@dataclass(frozen=True, eq=False)
class Table:
    """The entries of a table as words, column by column; `names` of images, or None if they are in order."""

    path: Path
    names: tuple[str, ...] | None
    columns: Mapping[str, Sequence[str]]
    lines: tuple[int, ...] = ()
    """Where in a text file they stand; of an array, nothing."""

    def where(self, line: int) -> str:
        """How to name a line in a sentence."""
        return f"{self.path}, line {self.lines[line]}" if self.lines else f"{self.path}, row {line} (the first is 0)"

    @property
    def count(self) -> int:
        """How many lines it has."""
        return len(next(iter(self.columns.values())))


@dataclass(frozen=True)
class CondImageEncoding:
    """How condition images come into model range: by class (`classes` channels of -0.5 and 0.5), or by a normaliser."""

    channels: int
    classes: int = 0
    normaliser: Normaliser | None = None

    @property
    def width(self) -> int:
        """How many channels the model is given."""
        return self.classes or self.channels

    def encode(
        self, native: Shaped[Tensor, "batch channel row column"], called: Callable[[int], str] = str
    ) -> Float[Tensor, "batch other row column"]:
        """Native condition images in model range; UserError for a class that training did not see, saying what it is `called`."""
        if not self.classes:
            assert self.normaliser is not None
            return self.normaliser.encode(native)
        numbers = native[:, 0].long()
        strange = ((numbers >= self.classes) | (numbers < 0)).nonzero()
        if len(strange):
            mask, row, column = strange[0].tolist()
            raise UserError(
                f"The condition image {called(mask)} holds the class {int(numbers[mask, row, column])} but training saw those "
                f"below {self.classes}: correct it, or train with it."
            )
        return functional.one_hot(numbers, self.classes).movedim(-1, 1).float() - 0.5


@dataclass(frozen=True)
class Conditions:
    """What a run can be asked for besides classes: the columns of its table, and its condition images."""

    columns: tuple[Column, ...] = ()
    cond_image: CondImageEncoding | None = None

    @property
    def numbers(self) -> int:
        """The length of the vector."""
        return sum(column.width for column in self.columns)

    @property
    def other(self) -> int:
        """The channels of the condition images."""
        return 0 if self.cond_image is None else self.cond_image.width

    def vectors(self, table: Table, lines: Sequence[int]) -> Float[np.ndarray, "image number"]:
        """These lines of a table as vectors; UserError if it lacks the columns of training."""
        missing = [column.name for column in self.columns if column.name not in table.columns]
        if missing:
            raise UserError(f"{table.path} has no column {', '.join(missing)}, which the run was trained with: add it.")
        where = [table.where(line) for line in lines]
        parts = [column.encode([table.columns[column.name][line] for line in lines], where) for column in self.columns]
        return np.concatenate(parts, axis=1)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, for a JSON file."""
        cond_image = None
        if self.cond_image is not None:
            normaliser = None if self.cond_image.normaliser is None else self.cond_image.normaliser.to_json()
            cond_image = {"channels": self.cond_image.channels, "classes": self.cond_image.classes, "normaliser": normaliser}
        return {"columns": [asdict(column) | {"words": list(column.words)} for column in self.columns], "cond_image": cond_image}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Conditions:
        """The conditions of `to_json`."""
        columns = tuple(Column(**{**column, "words": tuple(column["words"])}) for column in values["columns"])
        cond_image = values["cond_image"]
        if cond_image is None:
            return cls(columns)
        normaliser = None if cond_image["normaliser"] is None else Normaliser.from_json(cond_image["normaliser"])
        return cls(columns, CondImageEncoding(cond_image["channels"], cond_image["classes"], normaliser))


@dataclass(frozen=True, eq=False)
class ConditionData:
    """The conditions of the images of one source, in their order: vectors, and condition images."""

    conditions: Conditions
    vectors: Float[np.ndarray, "image number"] | None = None
    cond_image: Source | None = None

    def first(self, count: int) -> ConditionData:
        """The conditions of the first images."""
        vectors = None if self.vectors is None else self.vectors[:count]
        return ConditionData(
            self.conditions, vectors, None if self.cond_image is None else sources.subset(self.cond_image, range(count))
        )

    def condition(self, indices: Sequence[int] | Int[np.ndarray, "batch"], labels: Int[Tensor, "batch"]) -> Condition:
        """The condition of the images with these numbers, on the CPU."""
        vector = None if self.vectors is None else torch.from_numpy(self.vectors[np.asarray(indices)])
        cond_image = None
        if self.cond_image is not None:
            assert self.conditions.cond_image is not None
            other, native = self.cond_image, torch.from_numpy(sources.gather(self.cond_image, indices))
            cond_image = self.conditions.cond_image.encode(native, lambda place: other.name(int(indices[place])))
        return Condition(labels, vector, cond_image)


def read_table(path: Path, part: Sequence[str] = (), columns: tuple[str, ...] | None = ()) -> Table:
    """A table; of a .npz file the array of the part (train, test ...). UserError for what is none.

    With `columns` (None: any) the first column may be one of these; then no column names the images.
    """
    if not os.path.isfile(path):  # unlike its counterpart in pathlib, it answers for names that are too long
        raise MissingError(f"{path} does not exist or is no file: give a table of conditions (.csv, .npy or .npz).")
    if path.suffix.lower() in arrays.ARRAYS:
        return _table_of_array(path, part)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            numbered = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a table ({error}): write it as comma-separated text in UTF-8.") from error
    lines, rows = tuple(line for line, _ in numbered), [row for _, row in numbered]
    unnamed = bool(rows) and (columns is None or rows[0][0].strip() in columns or (bool(columns) and len(rows[0]) == 1))
    if len(rows) < 2 or (len(rows[0]) < 2 and not unnamed):
        raise UserError(f"{path} holds no table: write a line of column names, then a line per image, its name first.")
    head = [name.strip() for name in rows[0]]
    if len(set(head)) < len(head):
        raise UserError(f"{path} names a column twice ({', '.join(head)}): give every column its own name.")
    odd = next(((line, len(row)) for line, row in numbered if len(row) != len(head)), None)
    if odd is not None:
        raise UserError(f"{path}, line {odd[0]} has {odd[1]} entries but the first line {len(head)}: correct it.")
    key = next((name for name in NAMES if name in head), head[0])
    entries = {name: [row[place].strip() for row in rows[1:]] for place, name in enumerate(head)}
    if unnamed:
        return Table(path, None, entries, lines[1:])
    names = tuple(entries.pop(key))
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise UserError(f"{path} has two lines for {twice}: keep one.")
    return Table(path, names, entries, lines[1:])


def lines_of(table: Table, source: Source, part: Sequence[str] = ()) -> list[int]:
    """The line of every image of a source; UserError naming the first image that has none."""
    if table.names is None:
        called = (_called(source.name(index), ()) for index in range(len(source)))
        numbers = [next((word for word in words if word.isdecimal()), None) for words in called]
        wrong = next((index for index, number in enumerate(numbers) if number is None or int(number) >= table.count), None)
        if wrong is not None:
            raise UserError(
                f"{table.path} has {table.count} rows in the order of an array, and none for {source.name(wrong)}: give a row "
                "for every image of the array, or a .csv file that names the images."
            )
        return [int(number) for number in numbers if number is not None]
    lines = {name: line for line, name in enumerate(table.names)}
    found = []
    for index in range(len(source)):
        line = next((lines[word] for word in _called(source.name(index), part) if word in lines), None)
        if line is None:
            raise UserError(f"{table.path} has no line for the image {source.name(index)}: add one, or leave the image out.")
        found.append(line)
    return found


def fit_columns(table: Table, lines: Sequence[int]) -> tuple[Column, ...]:
    """What the columns mean, by the entries of training images: numbers if all are, tags if any has a |, else categories.

    UserError for an empty entry, and for numbers that are not finite or too large.
    """
    found = []
    for name, entries in table.columns.items():
        words = [entries[line] for line in lines]
        numbers = [value for value in map(_float, words) if value is not None]
        if len(numbers) == len(words):
            values = np.array(numbers)
            if not np.isfinite(values).all():
                odd = int(np.flatnonzero(~np.isfinite(values))[0])
                raise UserError(f"{table.path}, column {name} holds {words[odd]}: give finite numbers.")
            with np.errstate(over="ignore", invalid="ignore"):
                mean, std = float(values.mean()), float(values.std())
            if not math.isfinite(std):
                most = words[int(np.abs(values).argmax())]
                raise UserError(f"{table.path}, column {name} holds {most}, too large to be standardised: use other units.")
            found.append(Column(name, "number", mean, std or 1.0))
        elif any(TAG in word for word in words):
            tags = sorted({tag for word in words for tag in word.split(TAG) if tag})
            found.append(Column(name, "tags", words=tuple(tags)))
        else:
            if "" in words:
                raise UserError(f"{table.path}, column {name} has an empty entry: fill it, or leave the column out.")
            found.append(Column(name, "category", words=tuple(sorted(set(words)))))
    return tuple(found)


def fit_cond_image(source: Source) -> CondImageEncoding:
    """How condition images come into model range: as classes of a mask if they are single-channel integers below 32,
    else by a normaliser.
    """
    channels = source.shape[0]
    if channels == 1 and source.dtype.kind in "iu":
        ends = [(int(image.min()), int(image.max())) for image in map(source.__getitem__, range(len(source)))]
        lowest, highest = min(low for low, _ in ends), max(high for _, high in ends)
        if lowest >= 0 and highest < MOST_CLASSES:
            return CondImageEncoding(channels, highest + 1)
    return CondImageEncoding(channels, normaliser=Normaliser.fit(source))


def cond_images_of(source: Source, other: Source, where: Path) -> Source:
    """The condition images of a source, in its order, found by name among those of `other`; UserError if one is missing."""
    known = {other.name(index): index for index in range(len(other))}
    stems = {name.rsplit(".", 1)[0]: index for name, index in known.items()}
    found = []
    for index in range(len(source)):
        name = source.name(index)
        number = known.get(name, stems.get(name.rsplit(".", 1)[0]))
        if number is None:
            raise UserError(f"{where} holds no condition image for {name}: give it an image of that name.", "data.cond_image")
        found.append(number)
    if other.shape[1:] != source.shape[1:]:
        sizes = ["x".join(map(str, each.shape[1:])) for each in (other, source)]
        raise UserError(
            f"The condition images in {where} are {sizes[0]} pixels but the images {sizes[1]}: give both one size.",
            "data.cond_image",
        )
    return sources.subset(other, found)


def _table_of_array(path: Path, part: Sequence[str]) -> Table:
    names = [name for name in part if path.suffix.lower() == ".npz" and name in arrays.array_parts(path)]
    values = arrays.read_arrays(path, names[0] if names else None).images
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or values.dtype.kind not in "iuf" or 0 in values.shape:
        raise UserError(f"{path} has shape {values.shape} and dtype {values.dtype}: give numbers as [image, number].")
    columns = {str(place): [repr(value) for value in values[:, place].tolist()] for place in range(values.shape[1])}
    return Table(path, None, columns)


def _called(name: str, part: Sequence[str]) -> Iterator[str]:
    """What an image may be called in a table: by part and path, by path, by file, with and without its ending."""
    image = name.split("@")[0]
    for word in (name, image, image.split(":")[0]):
        yield from (f"{side}/{word}" for side in part)
        yield word
        yield word.rsplit(".", 1)[0]
    yield image.rsplit("/", 1)[-1]
    yield image.rsplit("/", 1)[-1].rsplit(".", 1)[0]


def _float(entry: str) -> float | None:
    try:
        return float(entry)
    except ValueError:
        return None


def _number(entry: str, where: str) -> float:
    value = _float(entry)
    if value is None or not math.isfinite(value):
        raise UserError(f"{where}: {entry or 'an empty entry'} is no finite number: correct it.")
    return value
