"""What images can be asked for besides their class: numbers, categories and tags from a table, and condition images.

A *number* of a table is standardised; a *category* is one of several words; *tags* are any of several words, separated by |.
*Condition images* are masks or maps of the same rows and columns, found by the images' names.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional

from pixelpath.data import sources
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.data.sources import Source
from pixelpath.data.tables import Table, float_of
from pixelpath.errors import UserError
from pixelpath.types import Condition

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

    def decode(self, rows: Float[np.ndarray, "image width"]) -> list[float] | list[str]:
        """The entries that rows of the vector stand for; numbers to as many decimals as float32 keeps of them."""
        if self.kind == "number":
            steps = [self.std * max(1.0, abs(row)) * 2.0**-23 for row in rows[:, 0].tolist()]
            values = zip(rows[:, 0].tolist(), steps, strict=True)
            return [round(self.mean + self.std * row, -math.ceil(math.log10(step))) for row, step in values]
        chosen = [[word for word, on in zip(self.words, row, strict=True) if on > 0.5] for row in rows.tolist()]
        return [TAG.join(words) for words in chosen]

    def _standardised(self, entry: str, where: str) -> float:
        value = _number(entry, where)
        standardised = (value - self.mean) / self.std
        if not abs(standardised) <= FARTHEST:
            raise UserError(
                f"{where}: {entry} is {abs(standardised):.0e} std from the mean of training, {self.mean:g}: correct it."
            )
        return standardised


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

    def entries(self, vectors: Float[np.ndarray, "image number"]) -> dict[str, list[float] | list[str]]:
        """What vectors stand for, column by column."""
        ends = np.cumsum([column.width for column in self.columns])
        return {
            column.name: column.decode(vectors[:, end - column.width : end])
            for column, end in zip(self.columns, ends, strict=True)
        }

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

    def of(self, indices: Sequence[int] | Int[np.ndarray, "count"]) -> ConditionData:
        """The conditions of the images with these numbers, in this order."""
        vectors = None if self.vectors is None else self.vectors[np.asarray(indices)]
        return ConditionData(
            self.conditions, vectors, None if self.cond_image is None else sources.subset(self.cond_image, indices)
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


def fit_columns(table: Table, lines: Sequence[int]) -> tuple[Column, ...]:
    """What the columns mean, by the entries of training images: numbers if all are, tags if any has a |, else categories.

    UserError for an empty entry, and for numbers that are not finite or too large.
    """
    found = []
    for name, entries in table.columns.items():
        words = [entries[line] for line in lines]
        numbers = [value for value in map(float_of, words) if value is not None]
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


def _number(entry: str, where: str) -> float:
    value = float_of(entry)
    if value is None or not math.isfinite(value):
        raise UserError(f"{where}: {entry or 'an empty entry'} is no finite number: correct it.")
    return value
