"""Where images lie: which of the files that `--data` names are trained on, which are held out, and of what kind they are.

A *place* is a folder, a file, or a variable of a store (FILE::VARIABLE). A *part* is one side of data that come with a split of
their own, like train and test. A *kind* is a set of file endings with one reader.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from pixelpath.data.formats import arrays, pictures

TRAIN = ("train",)
HELD_OUT = ("val", "valid", "validation", "test")
STORES = (".h5", ".hdf5", ".nc", ".nc4", ".cdf", ".zarr", ".zarr.zip")
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
ACCEPTED = "a folder of images, or a .npy, .npz, TIFF, HDF5, Zarr, NetCDF, DICOM, NIfTI, parquet or tar file"


@dataclass(frozen=True)
class Place:
    """A folder or file, with a variable of a store, a part of a .npz file, or some of the files of a folder."""

    path: Path
    variable: str | None = None
    part: str | None = None
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return str(self.path) if self.variable is None else f"{self.path}::{self.variable}"


def parts(path: Path) -> tuple[Place, Place | None]:
    """Where the training images are, and where the data's own held-out images are if it has any."""
    place = _place(path)
    _check_there(place.path)
    if place.variable is not None:
        return place, None
    path = place.path
    if path.is_dir() and path.suffix.lower() != ".zarr":
        return _parts_of_folder(path)
    if path.suffix.lower() == ".npz":
        names = arrays.array_parts(path)
        held_out = next((name for name in HELD_OUT if name in names), None)
        if "train" in names:
            return Place(path, part="train"), None if held_out is None else Place(path, part=held_out)
    return place, None


def _check_there(path: Path) -> None:
    """FileNotFoundError for nothing at all; ValueError for pipes and devices, which would be waited for without end."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        why = "" if isinstance(error, FileNotFoundError) else f" or cannot be reached ({error.strerror})"
        raise FileNotFoundError(f"{path} does not exist{why}: give {ACCEPTED}.") from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError(f"{path} is neither a file nor a folder: give {ACCEPTED}.")


def _place(path: Path) -> Place:
    """A path as given, split into the file and the variable within it."""
    text = str(path)
    if "::" not in text:
        return Place(path)
    file, _, variable = text.partition("::")
    if not file:
        raise ValueError(f"{text} names no file before the two colons: write FILE::VARIABLE.")
    if not variable:
        raise ValueError(f"{text} names no variable after the two colons: write {file}::VARIABLE, or {file} alone.")
    if not file.lower().endswith(STORES):
        raise ValueError(f"{text} names a variable, which only stores have ({', '.join(STORES)}): give {file} alone.")
    return Place(Path(file), variable)


def _parts_of_folder(path: Path) -> tuple[Place, Place | None]:
    from pixelpath.data.formats import parquet

    saved = parquet.saved_splits(path)
    if saved:
        held_out = next((saved[name] for name in HELD_OUT if name in saved), None)
        return Place(saved.get("train", next(iter(saved.values())))), None if held_out is None else Place(held_out)
    named = _parts_by_name(path)
    if named is not None:
        return named
    training, held_out = pictures.part(path, TRAIN), pictures.part(path, HELD_OUT)
    if training is None or (held_out is None and training.is_dir() and len(pictures.visible(path)) > 1):
        return Place(path), None
    return Place(training), None if held_out is None else Place(held_out)


def _parts_by_name(path: Path) -> tuple[Place, Place | None] | None:
    """Shards called train-*.parquet and test-*.parquet (or .tar), in the folder or in its folder data."""
    for folder in (path, path / "data"):
        names = [entry.name for entry in pictures.visible(folder) if pictures.is_file(entry)] if folder.is_dir() else []
        shards = [name for name in names if name.lower().endswith((".parquet", ".tar"))]
        chosen = {part: tuple(name for name in shards if name.startswith(f"{part}-")) for part in (*TRAIN, *HELD_OUT)}
        if chosen["train"]:
            held_out = next((chosen[part] for part in HELD_OUT if chosen[part]), None)
            return Place(folder, names=chosen["train"]), None if held_out is None else Place(folder, names=held_out)
        if shards and folder != path:
            return Place(folder), None
    return None


def kind_of(place: Place) -> str:
    """The kind of the files at a place; ValueError if there are none, or of several kinds."""
    path = place.path
    if path.is_file() or path.suffix.lower() == ".zarr":
        found = [kind for kind, suffixes in KINDS.items() if path.name.lower().endswith(suffixes)]
        if not found and _is_dicom(path):
            return "DICOM files"
        if not found:
            raise ValueError(f"{path} is of no kind that can be read: give {ACCEPTED}.")
        return found[0]
    if (path / "state.json").is_file() or any(path.glob("*.arrow")):
        return "saved dataset"
    names = place.names or tuple(pictures.walk(path, SUFFIXES))
    kinds = {kind: name for name in reversed(names) for kind, suffixes in KINDS.items() if name.lower().endswith(suffixes)}
    if len(kinds) > 1:
        (one, first), (other, second) = list(kinds.items())[:2]
        raise ValueError(
            f"{path} holds {one} ({first}) and {other} ({second}): keep one kind in a folder, or name the file with the images."
        )
    if not kinds and any(_is_dicom(path / name) for name in list(pictures.walk(path, ("",)))[:8]):
        return "DICOM files"
    return next(iter(kinds), "pictures")


def _is_dicom(path: Path) -> bool:
    from pixelpath.data.formats import dicom

    return path.is_file() and dicom.looks_like_dicom(path)
