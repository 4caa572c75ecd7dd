"""Tables of what is known of images: which line is whose.

A *table* has a line per image: a .csv file whose first column (or the one called name, file or file_name) names the images, or a
.csv file or array [image, number] in the order of the images of one file.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pixelpath.data.formats import arrays
from pixelpath.data.formats.stacks import Chosen
from pixelpath.data.sources import Arrays, Premultiplied, Source, Subset
from pixelpath.data.tiles import Stacked
from pixelpath.errors import MissingError, UserError

NAMES = ("name", "file", "file_name", "filename", "image", "id")


@dataclass(frozen=True, eq=False)
class Table:
    """The entries of a table as words, column by column; `names` of images, or None if they are in order."""

    path: Path
    names: tuple[str, ...] | None
    columns: Mapping[str, Sequence[str]]
    lines: tuple[int, ...] = ()
    """Where in a text file they stand; of an array, nothing."""
    key: str = ""
    """What the column of names is called."""
    part: str = ""
    """The array of a .npz file that it is."""

    def where(self, line: int) -> str:
        """How to name a line in a sentence."""
        return f"{self.path}, line {self.lines[line]}" if self.lines else f"{self.path}, row {line} (the first is 0)"

    @property
    def count(self) -> int:
        """How many lines it has."""
        return len(next(iter(self.columns.values())))


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
    if len(rows) < 2:
        raise UserError(f"{path} holds no table: write a line of column names, then a line per image, its name first.")
    head = [name.strip() for name in rows[0]]
    if len(set(head)) < len(head):
        raise UserError(f"{path} names a column twice ({', '.join(head)}): give every column its own name.")
    odd = next(((line, len(row)) for line, row in numbered if len(row) != len(head)), None)
    if odd is not None:
        raise UserError(f"{path}, line {odd[0]} has {odd[1]} entries but the first line {len(head)}: correct it.")
    key = next((name for name in NAMES if name in head), head[0])
    entries = {name: [row[place].strip() for row in rows[1:]] for place, name in enumerate(head)}
    if unnamed or len(head) == 1:
        return Table(path, None, entries, lines[1:])
    return Table(path, tuple(entries.pop(key)), entries, lines[1:], key)


def for_images(table: Table, sides: Sequence[Source]) -> Table:
    """The table with its lines in order, if its first column is not called like names and none of the images has such a name.

    Words of which none comes twice are names, though mistaken ones.
    """
    if table.names is None or table.key in NAMES or any(_numbers(side) is None for side in sides):
        return table
    names = set(table.names)
    if len(names) == len(table.names) and any(float_of(name) is None for name in names):
        return table
    if any(word in names for side in sides for index in range(len(side)) for word in _called(side.name(index), ())):
        return table
    first = {table.key: table.names} if table.key else {}  # a column without a name only counts the lines
    return Table(table.path, None, {**first, **table.columns}, table.lines)


def check_shared(table: Table, sides: tuple[Source, Source]) -> None:
    """UserError if a table in order is to be that of two files."""
    first, second = sides
    one = isinstance(first, Subset) and isinstance(second, Subset) and first.source is second.source
    if table.names is None and not table.part and len(second) and not one:
        raise UserError(
            f"{table.path} names no images, and the training and the held-out images have an order each: give a .npz file with "
            "the tables train and test, or a .csv file that names the images.",
            "data.conditions",
        )


def lines_of(table: Table, source: Source, part: Sequence[str] = ()) -> list[int]:
    """The line of every image of a source; UserError naming the first image that has none."""
    if table.names is None:
        ordered = _numbers(source)
        if ordered is None:
            raise UserError(
                f"{table.path} names no images, and these are those of several files: give a .csv file that names them.",
                "data.conditions",
            )
        numbers, count = ordered
        if count != table.count:
            raise UserError(
                f"{table.path} has {table.count} rows in the order of the file, which holds {count} images: give a row for every "
                "image, or a .csv file that names them.",
                "data.conditions",
            )
        return numbers
    if len(set(table.names)) < len(table.names):
        twice = Counter(table.names).most_common(1)[0][0]
        raise UserError(f"{table.path} has two lines for {twice}: keep one.")
    lines = {name: line for line, name in enumerate(table.names)}
    found = []
    for index in range(len(source)):
        line = next((lines[word] for word in _called(source.name(index), part) if word in lines), None)
        if line is None:
            raise UserError(f"{table.path} has no line for the image {source.name(index)}: add one, or leave the image out.")
        found.append(line)
    return found


def _numbers(source: Source) -> tuple[list[int], int] | None:
    """The number of every image in its file, and how many the file holds; None for images of several files."""
    match source:
        case Subset():
            inner = _numbers(source.source)
            return None if inner is None else ([inner[0][index] for index in source.indices.tolist()], inner[1])
        case Premultiplied():
            return _numbers(source.source)
        case Arrays(names=()):
            return list(range(len(source))), len(source)
        case Stacked(stacks=(stack,)):
            numbers = [source.image(index) for index in range(len(source))]
            if isinstance(stack, Chosen):
                return [int(stack.indices[number]) for number in numbers], stack.stack.shape[0]
            return numbers, stack.shape[0]
        case _:
            return None


def _table_of_array(path: Path, part: Sequence[str]) -> Table:
    names = [name for name in part if path.suffix.lower() == ".npz" and name in arrays.array_parts(path)]
    values = arrays.read_arrays(path, names[0] if names else None).images
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or values.dtype.kind not in "iuf" or 0 in values.shape:
        raise UserError(f"{path} has shape {values.shape} and dtype {values.dtype}: give numbers as [image, number].")
    columns = {str(place): [repr(value) for value in values[:, place].tolist()] for place in range(values.shape[1])}
    return Table(path, None, columns, part=names[0] if names else "")


def _called(name: str, part: Sequence[str]) -> Iterator[str]:
    """What an image may be called in a table: by part and path, by path, by file, with and without its ending."""
    image = name.split("@")[0]
    for word in (name, image, image.split(":")[0]):
        yield from (f"{side}/{word}" for side in part)
        yield word
        yield word.rsplit(".", 1)[0]
    yield image.rsplit("/", 1)[-1]
    yield image.rsplit("/", 1)[-1].rsplit(".", 1)[0]


def float_of(entry: str) -> float | None:
    """The number that an entry is, None if it is none."""
    try:
        return float(entry)
    except ValueError:
        return None
