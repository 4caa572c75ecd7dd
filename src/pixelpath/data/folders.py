"""Files below a folder: which of them are images, in what order, and of which class.

A *class folder* is a subfolder that holds the images of one class. A *store* (Zarr) is a folder that is one file to the user.
Hidden entries, and what archivers leave behind, are passed over.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from pixelpath.data.addresses import Address
from pixelpath.errors import UserError

STORES = (".zarr",)
RECORD, GRID = "samples.json", "grid.png"  # what a folder of samples has besides them: the settings, and all as one picture

Entry = os.DirEntry[str] | Address
"""What lies in a folder: its name, and whether it is a file, a folder or a link."""


def visible(folder: Path) -> Sequence[Entry]:
    """The entries of a folder in the order of their names, without hidden ones and what archivers leave behind.

    Of a folder of samples without their grid, which is none of them.
    """
    if isinstance(folder, Address):
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith((".", "__")))
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry for entry in entries if not entry.name.startswith((".", "__"))), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be listed ({error.strerror}): make it readable, or leave it out.") from error
    return [entry for entry in found if entry.name != GRID] if any(entry.name == RECORD for entry in found) else found


def is_file(entry: Entry) -> bool:
    """Whether an entry is a file, or a link that leads nowhere (reading it says so); not a pipe or a device."""
    try:
        return entry.is_file() or (entry.is_symlink() and not Path(entry).exists())
    except OSError:
        return True


def scan(
    folder: Path, expected: tuple[str, ...] | None, suffixes: tuple[str, ...]
) -> tuple[list[str], Int[np.ndarray, "count"], tuple[str, ...]]:
    """Every file below `folder` with one of the `suffixes` (path relative to it), its label, and the classes: the subfolders.

    Files of other kinds are passed over. With `expected` classes the labels are numbered by them.
    Raises UserError for a folder without images, a class without images, images beside class folders, and an unexpected class.
    """
    entries = visible(folder)
    here = [entry.name for entry in entries if has(entry.name, suffixes) and (is_file(entry) or is_store(entry))]
    kinds_below = [entry for entry in entries if is_folder(entry) and entry.name not in here]
    for entry in kinds_below:
        if entry.is_symlink() and folder.resolve().is_relative_to(Path(entry).resolve()):
            raise UserError(
                f"The class folder {folder / entry.name} is a link that leads back to {folder} or above it: delete it."
            )
    below = {entry.name: list(walk(folder, suffixes, entry.name)) for entry in kinds_below}
    if here and any(below.values()):
        first = next(name for name, files in below.items() if files)
        raise UserError(f"{folder} holds images beside the class folder {first}: move {here[0]} and its like into class folders.")
    if not here and not any(below.values()):
        raise UserError(f"{folder} holds no images ({', '.join(suffixes)}): give a folder that does.")
    if here:
        return here, _numbers([""] * len(here), (), expected, folder), expected or ()
    empty = next((name for name, files in below.items() if not files), None)
    if empty is not None:
        raise UserError(f"The class folder {folder / empty} holds no images: fill it or delete it.")
    names = [file for files in below.values() for file in files]
    kinds = [kind for kind, files in below.items() for _ in files]
    found = tuple(below) if len(below) > 1 else ()
    return names, _numbers(kinds, found, expected, folder), found if expected is None else expected


def walk(root: Path, suffixes: tuple[str, ...], below: str = "") -> Iterator[str]:
    """Every visible file below a folder with one of the suffixes, as its path from `root`, in order; a store is one file.

    Links to files are followed, links to folders are not.
    """
    entries, base = visible(root / below), Path(below)
    found = [entry.name for entry in entries if has(entry.name, suffixes) and (is_file(entry) or is_store(entry))]
    yield from ((base / name).as_posix() for name in found)
    for entry in entries:
        if is_folder(entry) and not entry.is_symlink() and not is_store(entry):
            yield from walk(root, suffixes, (base / entry.name).as_posix())


def _numbers(
    kinds: list[str], found: tuple[str, ...], expected: tuple[str, ...] | None, folder: Path
) -> Int[np.ndarray, "count"]:
    classes = found if expected is None else expected
    if not classes:
        return np.zeros(len(kinds), np.int64)
    strange = next((kind for kind in kinds if kind not in classes), None)
    if strange is not None:
        what = f"the class {strange}" if strange else "images without a class"
        raise UserError(f"{folder} holds {what}, unlike the training images: sort it into the classes {', '.join(classes[:10])}.")
    order = {name: number for number, name in enumerate(classes)}
    return np.array([order[kind] for kind in kinds], np.int64)


def has(name: str, suffixes: tuple[str, ...]) -> bool:
    """Whether a name has one of the endings, in any case, and is not hidden."""
    return name.lower().endswith(suffixes) and not name.startswith(".")


def is_folder(entry: Entry) -> bool:
    """Whether an entry is a folder or a link to one; no for a link to itself."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_store(entry: Entry) -> bool:
    """Whether an entry is a folder that is one file to the user."""
    return has(entry.name, STORES) and is_folder(entry)
