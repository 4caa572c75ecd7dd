"""Data that lie in memory, as the two sides of a split: arrays, tensors, data sets of Python objects.

The *layout* of images says where their channels are: [N,C,H,W] (channels first) or [N,H,W,C] (channels last). A *data set* here
is a sequence of images, or of pairs (image, label), or a table with a column of images, as Hugging Face datasets have it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from PIL import Image
from torch import Tensor

from pixelpath.data import dtypes
from pixelpath.data.formats import arrays, parquet, pictures
from pixelpath.data.formats.arrays import CHANNELS_FIRST, CHANNELS_LAST, ClassLabels
from pixelpath.data.formats.resampling import resampled
from pixelpath.data.formats.stacks import ArrayStack
from pixelpath.data.opening import open_array
from pixelpath.data.settings import DataSettings
from pixelpath.data.sources import Arrays, Premultiplied, Source, Subset, split
from pixelpath.data.tiles import Stacked
from pixelpath.errors import UserError

CHANNELS = (1, 3, 4)  # lengths of an axis by which it is taken for that of the channels

Layout = Literal["channels_first", "channels_last"]


@runtime_checkable
class Dataset(Protocol):
    """Numbered images, or pairs (image, label), as PyTorch's map-style data sets have them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


@runtime_checkable
class Table(Dataset, Protocol):
    """Rows with named columns, as a Hugging Face data set has them; a row is a dictionary, a column a sequence."""

    column_names: list[str]
    features: Mapping[str, Any]


@runtime_checkable
class _NamedClasses(Protocol):
    """A feature of a table whose numbers stand for names."""

    names: Sequence[str]


@runtime_checkable
class _KnownClasses(Protocol):
    """A data set that names its classes, as those of torchvision do."""

    classes: Sequence[str]


class _Collected(NamedTuple):
    """Images as one array, with their labels and what is known of both."""

    images: np.ndarray
    labels: Any = None
    class_names: Sequence[str] | None = None
    layout: Layout | None = None


def from_arrays(
    images: np.ndarray | Tensor | Dataset,
    labels: np.ndarray | Tensor | Sequence[int] | Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    *,
    layout: Layout | None = None,
    settings: DataSettings = DataSettings(),  # noqa: B008 (frozen)
) -> tuple[Source, Source]:
    """The training and the held-out images of data in memory.

    `images` are an array or a tensor [N,H,W], [N,C,H,W] or [N,H,W,C], which stays as it is; a sequence or data set of images
    (arrays, tensors, PIL pictures) or of pairs (image, label); or a Hugging Face data set with a column image and perhaps label.
    The channel axis is the one of length 1, 3 or 4; if both or neither are, `layout` must say "channels_first" or
    "channels_last". `labels` are integers from 0, or names. Of the `settings`, those that choose files do not apply.

    The split is that of files: the same arrays in a .npz file, opened by its path, have the same sides (see `sources.split`).
    Raises UserError for unequal sizes, dtypes that are not in `dtypes.NAMES`, labels that do not fit, and an ambiguous layout.

    Examples:
        >>> training, held_out = from_arrays(np.zeros((40, 8, 8, 3), np.uint8), settings=DataSettings(held_out_share=0.1))
        >>> training.shape, len(training) + len(held_out)
        ((3, 8, 8), 40)
    """
    found = _collected(images, settings)
    if labels is not None and found.labels is not None:
        raise UserError("The data set brings labels of its own: leave `labels` away.", "labels")
    what, layout = "`images`", layout or found.layout
    dtypes.checked(found.images.dtype, what, "images")
    planes = arrays.check_array(found.images, what, _channels_last(found.images.shape, layout), "images")
    numbers, names = _numbered(found.labels if labels is None else labels, class_names or found.class_names)
    checked = arrays.check_labels(numbers, len(planes), names, "`labels`", "labels")
    source = open_array(planes, checked, settings, what)
    return split(source, settings.held_out_share, settings.held_out_by)


def save_arrays(path: Path, side: Source) -> None:
    """Write the data that a side of `from_arrays` is part of as a .npz file: all images, uncut, in their order, with labels.

    Opened by its path with the same settings, the file gives the same sides. Raises UserError for other sources, also for a side
    that was copied by `sources.load`.
    """
    match side:
        case Subset() | Premultiplied():
            save_arrays(path, side.source)
        case Arrays(names=()):  # those with names were loaded from files, or are one side alone
            arrays.write_arrays(path, side.images, ClassLabels(side.labels, side.classes))
        case Stacked(stacks=(ArrayStack() as stack,)):
            arrays.write_arrays(path, stack.images, ClassLabels(side.labels, side.classes))
        case _:
            raise UserError(f"{side} is no side of arrays that lie in memory: name its files instead.")


def _collected(images: object, settings: DataSettings) -> _Collected:
    if isinstance(images, np.ndarray):
        return _Collected(images)
    if isinstance(images, Tensor):
        return _Collected(_in_numpy(images, "`images`"))
    if isinstance(images, Table):
        return _of_table(images, settings)
    if isinstance(images, Mapping) or not isinstance(images, Dataset):
        raise UserError(
            f"`images` is a {type(images).__name__}: give an array, a tensor, a sequence of images, or one split of a data set.",
            "images",
        )
    found = _stacked((images[index] for index in range(len(images))), len(images), settings)
    if found.labels is None or not isinstance(images, _KnownClasses):
        return found
    return found._replace(class_names=tuple(images.classes))


def _of_table(table: Table, settings: DataSettings) -> _Collected:
    names = table.column_names
    image, label = parquet.named_columns([name for name in names if name not in parquet.LABEL_COLUMNS], names)
    if image is None:
        raise UserError(f"`images` has the columns {', '.join(names)}: call the one to train on image.", "images")
    found = _stacked((table[index][image] for index in range(len(table))), len(table), settings)
    if label is None:
        return found
    feature = table.features[label]
    classes = tuple(feature.names) if isinstance(feature, _NamedClasses) else None
    return found._replace(labels=list(table[label]), class_names=classes)


def _stacked(items: Iterator[Any], count: int, settings: DataSettings) -> _Collected:
    """Images, or pairs (image, label), as one array; UserError naming the first image that differs from the one before all."""
    found, labels, drawn = np.empty(0), [], False
    for index, item in enumerate(items):
        image, *rest = item if isinstance(item, tuple) else (item,)
        if len(rest) > 1 or len(labels) != (index if rest else 0):
            raise UserError(f"Item {index} of `images` is no pair (image, label), or others are none: give all alike.", "images")
        labels += [np.asarray(label).item() if np.ndim(label) == 0 else label for label in rest]
        what = f"Image {index} of `images`"
        picture = isinstance(image, Image.Image)
        if picture:
            masked = settings.resize is not None and settings.nodata is not None
            array = pictures.planes_of(image, what, settings.channels, None if masked else settings.resize)
            array = resampled(array, settings.resize, settings.nodata) if masked and settings.resize else array
        else:
            array = _in_numpy(image, what)
        if index == 0:
            found, drawn = np.empty((count, *array.shape), dtypes.checked(array.dtype, what, "images")), picture
        if (array.shape, array.dtype.newbyteorder("="), picture) != (found.shape[1:], found.dtype, drawn):
            there = f"{'x'.join(map(str, found.shape[1:]))} {found.dtype}"
            raise UserError(
                f"{what} is {'x'.join(map(str, array.shape))} {array.dtype} but the first is {there}: "
                "give all one size and dtype.",
                "images",
            )
        found[index] = array
    return _Collected(found, labels or None, None, CHANNELS_FIRST if drawn and found.ndim == 4 else None)


def _in_numpy(image: object, what: str) -> np.ndarray:
    if isinstance(image, Tensor) and image.dtype not in {dtypes.in_torch(name) for name in dtypes.NAMES}:
        name = str(image.dtype).removeprefix("torch.")
        raise UserError(f"{what} has dtype {name}: convert it to one of {', '.join(dtypes.NAMES)}.", "images")
    return image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)


def _channels_last(shape: tuple[int, ...], layout: Layout | None) -> bool | None:
    if layout not in (None, CHANNELS_FIRST, CHANNELS_LAST):
        raise UserError(f"`layout` is {layout!r}: give {CHANNELS_FIRST} or {CHANNELS_LAST}.", "layout")
    if layout is not None or len(shape) != 4:
        return layout == CHANNELS_LAST
    second, last = (shape[axis] in CHANNELS for axis in (1, 3))
    if second == last:
        raise UserError(
            f"`images` has shape {shape}, which does not tell where the channels are: set `layout` to {CHANNELS_FIRST} or "
            f"{CHANNELS_LAST}.",
            "layout",
        )
    return last


def _numbered(labels: Any, class_names: Sequence[str] | None) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """Labels as numbers, and the names of the classes; labels that are names are numbered by these, else in their order."""
    names = None if class_names is None else tuple(map(str, class_names))
    if labels is None:
        return None, names
    found = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if found.dtype.kind != "U":
        return found, names
    names = names or tuple(sorted(set(found.ravel().tolist())))
    order = {name: number for number, name in enumerate(names)}
    unknown = next((word for word in found.ravel().tolist() if word not in order), None)
    if unknown is not None:
        raise UserError(f"`labels` hold {unknown}, which `class_names` does not name: add it there.", "labels")
    return np.array([order[word] for word in found.ravel().tolist()], np.int64).reshape(found.shape), names
