"""Images on disk, as numbered arrays in the dtype they were stored in.

A *source* is a numbered set of images of one shape [channel, row, column] and one dtype; *native* values are the stored ones,
never scaled. A *class* is a named kind of image; a source with fewer than two is *unconditional*: `classes` is empty, every label
0. A *split* is a pair of sources, (training, held out).
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Shaped

from pixelpath.data import files

TRAIN = ("train",)
TASK = 16  # images that one thread decodes at a time
HELD_OUT = ("val", "valid", "validation", "test")


@dataclass(frozen=True)
class DataSettings:
    """Which images to train on, and how they are read."""

    path: Path | None = None
    """Folder of images (with or without one subfolder per class), .npy or .npz file; with train and test (or val) parts, they
    are used.
    """
    held_out: Path | None = None
    """Folder or file of images kept from training; without it, the data's own test part, or a share chosen by file name."""
    held_out_share: float = 0.05
    """Share of the images kept from training when the data has no test part of its own."""
    resize: tuple[int, int] | None = None
    """Rows and columns every image is brought to: antialiased resize of the shorter side, then centre crop."""
    channels: Literal[1, 3, 4] | None = None
    """Convert every image file to grey (1), RGB (3, transparency dropped) or RGBA (4); without it, as the files are."""
    skip_broken: bool = False
    """Leave out files that cannot be decoded (every file is decoded once to find them) instead of stopping."""
    workers: int | None = None
    """Decoding threads; without it, one per processor core."""
    cache_bytes: int = 2 * 2**30
    """Keep the decoded images in memory if they fit into so many bytes."""


@runtime_checkable
class Source(Protocol):
    """A numbered set of images of one shape and dtype."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes in the order of their labels; empty if there are fewer than two (unconditional)."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, rows, columns) of every image."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """The native dtype: an integer of at most 16 bits, or a float."""
        ...

    @property
    def broken(self) -> list[str]:
        """Files left out because they could not be decoded."""
        ...

    def __len__(self) -> int: ...

    def get(self, index: int) -> Shaped[np.ndarray, "channel row column"]:
        """Image `index`, native; ValueError naming the file if it cannot be decoded."""
        ...

    def label(self, index: int) -> int:
        """The class of image `index`, 0 if the source is unconditional."""
        ...

    def name(self, index: int) -> str:
        """What image `index` is called: its path below the folder, or its number in the array."""
        ...


@dataclass(frozen=True, eq=False)
class Folder:
    """Image files below a folder, decoded when asked for; made by `open_source`."""

    root: Path
    names: tuple[str, ...]
    labels: Int[np.ndarray, "count"]
    classes: tuple[str, ...]
    mode: str
    shape: tuple[int, int, int]
    resize: tuple[int, int] | None = None
    broken: list[str] = field(default_factory=list)

    @property
    def dtype(self) -> np.dtype:
        return files.DEPTHS.get(self.mode, np.dtype("uint8"))

    def __len__(self) -> int:
        return len(self.names)

    def get(self, index: int) -> Shaped[np.ndarray, "channel row column"]:
        return files.decode(self.root / self.names[index], self.mode, self.shape, self.resize)

    def label(self, index: int) -> int:
        return int(self.labels[index])

    def name(self, index: int) -> str:
        return self.names[index]


@dataclass(frozen=True, eq=False)
class Arrays:
    """Images that are rows of one array, in memory or mapped from a file; made by `from_arrays` or `open_source`."""

    images: Shaped[np.ndarray, "count channel row column"]
    labels: Int[np.ndarray, "count"]
    classes: tuple[str, ...] = ()
    resize: tuple[int, int] | None = None
    names: tuple[str, ...] = ()
    broken: list[str] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int, int]:
        channels, rows, columns = self.images.shape[1:]
        return (channels, *self.resize) if self.resize else (channels, rows, columns)

    @property
    def dtype(self) -> np.dtype:
        return self.images.dtype.newbyteorder("=")

    def __len__(self) -> int:
        return len(self.images)

    def get(self, index: int) -> Shaped[np.ndarray, "channel row column"]:
        image = np.array(self.images[index], dtype=self.dtype)
        return files.resized(image, self.resize) if self.resize else image

    def label(self, index: int) -> int:
        return int(self.labels[index])

    def name(self, index: int) -> str:
        return self.names[index] if self.names else f"{index:08d}"


@dataclass(frozen=True, eq=False)
class Subset:
    """Some images of another source, in the order of `indices`."""

    source: Source
    indices: Int[np.ndarray, "count"]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.source.classes

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.source.shape

    @property
    def dtype(self) -> np.dtype:
        return self.source.dtype

    @property
    def broken(self) -> list[str]:
        return self.source.broken

    def __len__(self) -> int:
        return len(self.indices)

    def get(self, index: int) -> Shaped[np.ndarray, "channel row column"]:
        return self.source.get(int(self.indices[index]))

    def label(self, index: int) -> int:
        return self.source.label(int(self.indices[index]))

    def name(self, index: int) -> str:
        return self.source.name(int(self.indices[index]))


def subset(source: Source, indices: Sequence[int] | Int[np.ndarray, "count"]) -> Source:
    """The images of `source` with these numbers, in this order; it shares the source's classes even where none of a class is
    left.
    """
    return Subset(source, np.asarray(indices, dtype=np.int64))


def from_arrays(images: np.ndarray, labels: np.ndarray | None = None, classes: tuple[str, ...] | None = None) -> Source:
    """A source of the rows of `images`: [N,H,W] (one channel), or [N,C,H,W] or [N,H,W,C], where the channel axis is the shorter
    one.

    `labels` are integers [N] in 0 .. classes-1; without `classes` every label up to the highest must occur. At a tie of lengths
    the channels come first. Raises ValueError for other shapes, for dtypes but 8/16-bit integers and floats, and for wrong
    labels.
    """
    numbers, names = files.check_labels(labels, len(images), classes, "the array")
    return Arrays(files.check_array(images, "the array"), numbers, names)


def open_source(
    path: Path,
    resize: tuple[int, int] | None = None,
    skip_broken: bool = False,
    patch: int | None = None,
    channels: Literal[1, 3, 4] | None = None,
) -> Source:
    """The images at `path`: a folder with or without class subfolders, a .npy or a .npz file. Of data with parts, the training
    part.

    Folders: png, jpeg, webp, bmp, gif (first frame) and tiff, turned upright by their EXIF tag. Files with transparency (grey
    ones too) become RGBA, palettes RGB, 16-bit grey uint16, float tiff float32. Arrays are memory-mapped (a compressed .npz is
    read); the channel axis follows `from_arrays`; labels come from the .npz ("labels", and "class_names") or from the sibling
    file NAME_labels.npy. Raises FileNotFoundError or ValueError with one sentence: nothing there, unequal sizes or channels,
    undecodable files (unless `skip_broken`), sizes that `patch` does not divide, labels out of range.
    """
    settings = DataSettings(path, resize=resize, skip_broken=skip_broken, channels=channels)
    return _open(_parts(path)[0], settings, patch, None)


def open_split(settings: DataSettings, patch: int | None = None) -> tuple[Source, Source]:
    """The training and the held-out images that `settings` name: its own `held_out`, else the data's test part, else `split` by
    name.

    A test part is a folder (or file) val, valid, validation or test, the first that exists, beside train; or arrays of those
    names in a .npz. Held-out labels are numbered by the training classes. Raises as `open_source`, and ValueError if the two do
    not match.
    """
    if settings.path is None:
        raise ValueError("No data given: name a folder of images or a .npy/.npz file with --data.path PATH.")
    training_place, held_out_place = _parts(settings.path)
    if settings.held_out is not None:
        own, test = _parts(settings.held_out)
        held_out_place = test or own
    training = _open(training_place, settings, patch, None)
    if held_out_place is None:
        return split(training, settings.held_out_share)
    held_out = _open(held_out_place, settings, patch, training.classes)
    if (held_out.shape, held_out.dtype) != (training.shape, training.dtype):
        raise ValueError(
            f"The held-out images in {held_out_place[0]} are {look(held_out)} but the training images {look(training)}: "
            f"give both the same size, channels and dtype (--data.resize and --data.channels apply to both)."
        )
    return training, held_out


def split(source: Source, held_out: float = 0.05) -> tuple[Source, Source]:
    """(training, held out): an image is held out if the blake2b hash of its name, as a fraction of 2^64, is below `held_out`.

    So an image stays on its side whatever is added or removed. At least one image is held out unless the share is 0.
    Raises ValueError unless 0 <= held_out < 1 and an image is left to train on.
    """
    if not 0 <= held_out < 1:
        raise ValueError(f"The held-out share must be at least 0 and below 1, got {held_out}: change --data.held-out-share.")
    fractions = np.array([_fraction(source.name(index)) for index in range(len(source))])
    chosen = fractions < held_out
    if held_out > 0 and not chosen.any():
        chosen[fractions.argmin()] = True
    if chosen.all():
        raise ValueError(
            f"No image is left to train on after holding out {held_out:g} of {len(source)}: lower --data.held-out-share."
        )
    return subset(source, np.flatnonzero(~chosen)), subset(source, np.flatnonzero(chosen))


def evenly(count: int, most: int) -> Int[np.ndarray, "chosen"]:
    """At most so many of the numbers below `count`, evenly spread."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


def gather(
    source: Source, indices: Sequence[int] | Int[np.ndarray, "count"], pool: Executor | None = None
) -> Shaped[np.ndarray, "count channel row column"]:
    """The images with these numbers as one fresh native array, decoded by the threads of `pool` if given."""
    indices = np.asarray(indices, dtype=np.int64)
    if isinstance(source, Subset):
        return gather(source.source, source.indices[indices], pool)
    if isinstance(source, Arrays) and source.resize is None:
        return np.ascontiguousarray(source.images[indices], dtype=source.dtype)
    images = np.empty((len(indices), *source.shape), source.dtype)

    def read(first: int) -> None:
        for place in range(first, min(first + TASK, len(indices))):
            images[place] = source.get(int(indices[place]))

    starts = range(0, len(indices), TASK)
    deque(map(read, starts) if pool is None else pool.map(read, starts), maxlen=0)
    return images


def load(source: Source, workers: int | None = 0) -> Source:
    """The same images, decoded once by `workers` threads (None: one per core) and kept in memory."""
    if isinstance(source, Arrays) and source.resize is None and not isinstance(source.images, np.memmap):
        return source
    with files.decoders(workers) as pool:
        images = gather(source, range(len(source)), pool)
    names = tuple(source.name(index) for index in range(len(source)))
    return Arrays(np.asarray(images), labels(source), source.classes, names=names, broken=source.broken)


def labels(source: Source) -> Int[np.ndarray, "count"]:
    """Every image's label, in order."""
    return np.fromiter((source.label(index) for index in range(len(source))), np.int64, len(source))


def look(source: Source) -> str:
    """The shape and dtype of a source in words, like "3x32x32 uint8"."""
    return "x".join(map(str, source.shape)) + f" {source.dtype}"


def describe(source: Source) -> str:
    """One sentence about a source: how many images of what look, and its classes or that it is unconditional."""
    shown = ", ".join(source.classes[:10]) + (", ..." if len(source.classes) > 10 else "")
    kind = f"{len(source.classes)} classes: {shown}" if source.classes else "unconditional, for there is one class or none"
    left_out = f"; {len(source.broken)} undecodable files left out" if source.broken else ""
    return f"{len(source)} images, {look(source)}, {kind}{left_out}."


def _fraction(name: str) -> float:
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


_Place = tuple[Path, str | None]  # a folder or file, and the part of a .npz file


def _parts(path: Path) -> tuple[_Place, _Place | None]:
    """Where the training images are, and where the data's own held-out images are if it has any."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: give a folder of images or a .npy/.npz file.")
    if path.is_dir():
        training, held_out = files.part(path, TRAIN), files.part(path, HELD_OUT)
        if training is None or (held_out is None and training.is_dir() and len(files.visible(path)) > 1):
            return (path, None), None
        return (training, None), None if held_out is None else (held_out, None)
    if path.suffix.lower() == ".npz":
        names = files.array_parts(path)
        held_out = next((name for name in HELD_OUT if name in names), None)
        if "train" in names:
            return (path, "train"), None if held_out is None else (path, held_out)
    return (path, None), None


def _open(place: _Place, settings: DataSettings, patch: int | None, classes: tuple[str, ...] | None) -> Source:
    path, part = place
    if path.is_dir():
        source = _open_folder(path, settings, classes)
    elif path.suffix.lower() in files.ARRAYS:
        images, numbers, names = files.read_arrays(path, part)
        if classes and names and names != classes:
            raise ValueError(
                f"{path} has the classes {', '.join(names[:10])}, unlike the training images: use the same, in order."
            )
        numbers, names = files.check_labels(numbers, len(images), names if classes is None else classes, str(path))
        source = Arrays(files.check_array(images, str(path)), numbers, names, settings.resize)
    else:
        raise ValueError(f"{path} is neither a folder of images nor a .npy or .npz file: give one of these.")
    first = path / source.name(0) if path.is_dir() else path
    _check_patch(source, patch, first, settings.resize)
    return source


def _open_folder(folder: Path, settings: DataSettings, classes: tuple[str, ...] | None) -> Folder:
    names, numbers, found = files.scan(folder, classes)
    with files.decoders(settings.workers) as pool:
        headers, broken = files.headers(folder, names, settings.skip_broken, settings.channels, pool)
    kept = np.flatnonzero([header is not None for header in headers])
    if len(kept) == 0:
        raise ValueError(f"None of the {len(names)} image files in {folder} can be decoded: give a folder of readable images.")
    kept_names = tuple(names[index] for index in kept)
    kept_headers = [header for header in headers if header is not None]
    mode, size = files.agree(folder, kept_names, kept_headers, settings.channels, settings.resize)
    shape = (len(mode) if mode in ("RGB", "RGBA") else 1, *size)
    return Folder(folder, kept_names, numbers[kept], found, mode, shape, settings.resize, broken)


def _check_patch(source: Source, patch: int | None, first: Path, resize: tuple[int, int] | None) -> None:
    _, rows, columns = source.shape
    if patch is None or (rows % patch == 0 and columns % patch == 0):
        return
    near = " ".join(str(max(patch, round(side / patch) * patch)) for side in (rows, columns))
    what = "--data.resize" if resize else str(first)
    raise ValueError(
        f"{what} is {rows}x{columns} pixels (rows x columns), which a patch of {patch} does not divide: use --data.resize {near}."
    )
