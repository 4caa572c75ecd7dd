"""From what `--data` names to a source: the kind of the files decides who reads them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from pixelpath.data.formats import arrays, pictures
from pixelpath.data.formats.stacks import ArrayStack, PictureStack, Stack, Stacked
from pixelpath.data.metadata import Metadata
from pixelpath.data.places import KINDS, Place, kind_of, parts
from pixelpath.data.settings import DataSettings
from pixelpath.data.sources import Arrays, Folder, Premultiplied, Source, look, split

TIFF = (".tif", ".tiff")


def open_source(
    path: Path,
    resize: tuple[int, int] | None = None,
    skip_broken: bool = False,
    patch: int | None = None,
    channels: Literal[1, 3, 4] | None = None,
) -> Source:
    """The images at `path`, see `DataSettings.path`. Of data with parts, the training part.

    Folders: png, jpeg, webp, bmp, gif (first frame) and tiff, turned upright by their EXIF tag; or arrays, rasters, volumes, one
    or more images a file. Files with transparency (grey ones too) become RGBA, palettes RGB, 16-bit grey uint16, float tiff
    float32. Arrays are memory-mapped (a compressed .npz is read); the channel axis follows `from_arrays`; labels come from the
    .npz ("labels", and "class_names") or from the sibling file NAME_labels.npy. Raises FileNotFoundError or ValueError with one
    sentence: nothing there, unequal sizes or channels, undecodable files (unless `skip_broken`), sizes that `patch` does not
    divide, labels out of range.
    """
    settings = DataSettings(path, resize=resize, skip_broken=skip_broken, channels=channels)
    return open_place(parts(path)[0], settings, patch)


def open_split(settings: DataSettings, patch: int | None = None) -> tuple[Source, Source]:
    """The training and the held-out images that `settings` name: its own `held_out`, else the data's test part, else a `split`.

    A test part is a folder (or file) val, valid, validation or test, the first that exists, beside train; arrays of those names
    in a .npz; shards named by part (train-00000.parquet). Held-out labels are numbered by the training classes. Raises as
    `open_source`, and ValueError if the two do not match.
    """
    if settings.path is None:
        raise ValueError("No data given: name a folder of images or a .npy/.npz file with --data.path PATH.")
    training_place, held_out_place = parts(settings.path)
    if settings.held_out is not None:
        own, test = parts(settings.held_out)
        held_out_place = test or own
    training = open_place(training_place, settings, patch)
    if held_out_place is None:
        return split(training, settings.held_out_share, settings.held_out_by)
    held_out = open_place(held_out_place, settings, patch, training.classes)
    if (held_out.shape, held_out.dtype) != (training.shape, training.dtype):
        raise ValueError(
            f"The held-out images in {held_out_place} are {look(held_out)} but the training images {look(training)}: "
            f"give both the same size, channels and dtype (--data.resize and --data.channels apply to both)."
        )
    return training, held_out


def open_place(place: Place, settings: DataSettings, patch: int | None, classes: tuple[str, ...] | None = None) -> Source:
    """The images of one side; with `classes` the labels are numbered by these."""
    if settings.resize is not None and min(settings.resize) < 1:
        raise ValueError(f"--data.resize is {settings.resize[0]} {settings.resize[1]}: give numbers of pixels above 0.")
    kind = kind_of(place)
    if kind == "pictures" and not _must_stack(place, settings):
        source: Source = _open_folder(place, settings, classes)
    elif kind == "arrays" and place.path.is_file() and not settings.tile:
        source = _open_array(place, settings, classes)
    else:
        source = _open_stacks(kind, place, settings, classes)
    _check_patch(source, patch, place, settings)
    _check_resize(source, place, settings)
    if settings.alpha == "premultiplied":
        if source.metadata.alpha != "straight" or source.dtype.kind != "u":
            raise ValueError(f"{place} is {look(source)}, not RGBA integers: leave --data.alpha premultiplied away.")
        return Premultiplied(source)
    return source


def _must_stack(place: Place, settings: DataSettings) -> bool:
    """Whether TIFF files hold what a picture cannot: several pages or bands, 32-bit integers, a place on the earth."""
    names = [place.path.name] if place.path.is_file() else list(pictures.walk(place.path, pictures.IMAGES))
    tiffs = [name for name in names if name.lower().endswith(TIFF)]
    folder = place.path.parent if place.path.is_file() else place.path
    if not tiffs or len(tiffs) < len(names):
        return False
    return bool(settings.tile) or not all(pictures.is_plain_tiff(folder / name) for name in tiffs)


def _open_folder(place: Place, settings: DataSettings, classes: tuple[str, ...] | None) -> Source:
    if place.path.is_file():
        folder, names, numbers, found = place.path.parent, [place.path.name], np.zeros(1, np.int64), classes or ()
    else:
        folder = place.path
        names, numbers, found = pictures.scan(folder, classes)
    with pictures.decoders(settings.workers) as pool:
        headers, broken = pictures.headers(folder, names, settings.skip_broken, settings.channels, pool)
    kept = np.flatnonzero([header is not None for header in headers])
    if len(kept) == 0:
        raise ValueError(f"None of the {len(names)} image files in {folder} can be decoded: give a folder of readable images.")
    kept_names = tuple(names[index] for index in kept)
    kept_headers = [header for header in headers if header is not None]
    # files that are cut into tiles need not be of one size
    sizes = settings.resize if not settings.tile else kept_headers[0].size
    mode, size = pictures.agree(folder, kept_names, kept_headers, settings.channels, sizes)
    tiff = all(name.lower().endswith(TIFF) for name in kept_names)
    metadata = Metadata(
        format="tiff" if tiff else "png",
        units=settings.units,
        nodata=settings.nodata,
        photographs=mode in pictures.BYTES.values(),
        alpha="straight" if pictures.channels_of(mode) == 4 else "",
    )
    shape = (pictures.channels_of(mode), *size)
    if not settings.tile:
        return Folder(folder, kept_names, numbers[kept], found, mode, shape, settings.resize, broken, metadata)
    stacks = tuple(
        PictureStack(folder / name, mode, header.size, metadata) for name, header in zip(kept_names, kept_headers, strict=True)
    )
    return _tiled(stacks, kept_names, numbers[kept], found, settings, place)


def _open_array(place: Place, settings: DataSettings, classes: tuple[str, ...] | None) -> Source:
    images, numbers, names = arrays.read_arrays(place.path, place.part)
    checked = arrays.check_array(images, str(place.path))
    if classes and names and names != classes:
        raise ValueError(
            f"{place.path} has the classes {', '.join(names[:10])}, unlike the training images: use the same, in order."
        )
    numbers, names = arrays.check_labels(numbers, len(images), names if classes is None else classes, str(place.path))
    return Arrays(checked, numbers, names, settings.resize, metadata=_array_facts(checked, settings))


def _array_facts(images: np.ndarray, settings: DataSettings) -> Metadata:
    drawn = images.dtype == np.uint8 and images.shape[1] in pictures.BYTES
    alpha = "straight" if drawn and images.shape[1] == 4 else ""
    return Metadata("npy", units=settings.units, nodata=settings.nodata, photographs=drawn, alpha=alpha)


def _open_stacks(kind: str, place: Place, settings: DataSettings, classes: tuple[str, ...] | None) -> Source:
    names, numbers, found = _names(kind, place, classes)
    root = place.path if place.path.is_dir() and place.path.suffix.lower() != ".zarr" else place.path.parent
    stacks = _read(kind, place, root, names, settings)
    if len(stacks) == len(names):
        titles = ("",) if place.path != root and len(stacks) == 1 else tuple(names)
    else:  # DICOM series, shards
        titles = tuple(stack.path.name if kind != "DICOM files" else f"series{number}" for number, stack in enumerate(stacks))
        titles = titles if len(set(titles)) == len(titles) else tuple(f"{t}#{number}" for number, t in enumerate(titles))
        titles = ("",) if len(stacks) == 1 else titles
    if len(found) >= 2 and len(stacks) == len(names):
        counts = [stack.shape[0] for stack in stacks]
        return _tiled(stacks, titles, np.repeat(numbers, counts), found, settings, place)
    own, known = _own_labels(stacks, classes, place)
    return _tiled(stacks, titles, own, known, settings, place)


def _names(kind: str, place: Place, classes: tuple[str, ...] | None) -> tuple[list[str], np.ndarray, tuple[str, ...]]:
    """The files of a place relative to its folder, their labels by class folder, and the classes."""
    path = place.path
    if path.is_file() or path.suffix.lower() == ".zarr":
        return [path.name], np.zeros(1, np.int64), classes or ()
    if place.names:
        return list(place.names), np.zeros(len(place.names), np.int64), ()
    if kind == "saved dataset":
        return [path.name], np.zeros(1, np.int64), ()
    suffixes = KINDS[kind]
    if kind == "DICOM files" and not any(pictures.walk(path, suffixes)):
        return list(pictures.walk(path, ("",))), np.zeros(0, np.int64), ()
    if kind in ("DICOM files", "parquet files", "tar shards"):
        return list(pictures.walk(path, suffixes)), np.zeros(0, np.int64), ()
    names, numbers, found = pictures.scan(path, classes, suffixes)
    cond_image = {f"{name.removesuffix('.npy')}_labels.npy" for name in names}
    images = [index for index, name in enumerate(names) if name not in cond_image]
    return [names[index] for index in images], numbers[images], found


def _read(kind: str, place: Place, root: Path, names: Sequence[str], settings: DataSettings) -> tuple[Stack, ...]:
    """Every file opened as a stack."""
    from pixelpath.data.formats import dicom, nifti, parquet, stores, tar, tiff

    paths = [root / name for name in names]
    if kind == "saved dataset":
        return tuple(parquet.open_saved_dataset(place.path, channels=settings.channels, resize=settings.resize))
    if kind == "parquet files":
        return tuple(parquet.open_parquet(paths, channels=settings.channels, resize=settings.resize))
    if kind == "tar shards":
        return tuple(tar.open_tar_shards(paths, channels=settings.channels, resize=settings.resize))
    if kind == "DICOM files":
        return tuple(dicom.open_dicom(root, names))
    readers: dict[str, Callable[[Path], Stack]] = {
        "stores": lambda path: stores.open_store(path, place.variable),
        "NIfTI files": lambda path: nifti.open_nifti(path, settings.axis),
        "pictures": lambda path: tiff.open_geotiff(path) if tiff.is_geotiff(path) else tiff.open_tiff(path),
        "arrays": lambda path: _array_stack(path, place, settings),
    }
    return tuple(readers[kind](path) for path in paths)


def _array_stack(path: Path, place: Place, settings: DataSettings) -> Stack:
    """A .npy or .npz file as a stack; in a folder of several, each may be one image."""
    images, numbers, names = arrays.read_arrays(path, place.part)
    if images.ndim == 2 or (images.ndim == 3 and place.path.is_dir()):
        images = images[None]
    checked = arrays.check_array(images, str(path))
    return ArrayStack(path, checked, _array_facts(checked, settings), numbers, names)


def _own_labels(stacks: Sequence[Stack], classes: tuple[str, ...] | None, place: Place) -> tuple[np.ndarray, tuple[str, ...]]:
    """The labels that the stacks bring, and the classes; zeros and none if they bring none."""
    count = sum(stack.shape[0] for stack in stacks)
    brought = [stack.labels for stack in stacks]
    present = [labels for labels in brought if labels is not None]
    if len(present) not in (0, len(brought)):
        odd = next(stack.path for stack in stacks if stack.labels is None)
        raise ValueError(f"{odd} has no labels but other files of {place} have some: give labels to all or to none.")
    named = {stack.classes for stack in stacks if stack.labels is not None and stack.classes}
    if len(named) > 1:
        raise ValueError(f"The files of {place} name their classes differently: write all with the same classes, in order.")
    own = next(iter(named), None)
    if classes and own and own != classes:
        raise ValueError(f"{place} has the classes {', '.join(own[:10])}, unlike the training images: use the same, in order.")
    names = own if classes is None else classes
    return arrays.check_labels(np.concatenate(present) if present else None, count, names, str(place))


def _tiled(
    stacks: tuple[Stack, ...] | Sequence[Stack],
    titles: Sequence[str],
    labels: np.ndarray,
    classes: tuple[str, ...],
    settings: DataSettings,
    place: Place,
) -> Source:
    """Stacks as one source, after a look whether they agree; ValueError naming the odd one."""
    first = stacks[0]
    for stack in stacks:
        # series of scans share one folder
        here, there = (f"{each.path}::{each.name(0)}" if stack.path == first.path else each.path for each in (stack, first))
        if (stack.shape[1], stack.dtype) != (first.shape[1], first.dtype):
            words = [f"{each.shape[1]} channels of {each.dtype}" for each in (stack, first)]
            raise ValueError(f"{here} holds {words[0]} but {there} {words[1]}: keep one kind of image in a data set.")
        rows, columns = stack.shape[2:]
        if settings.window is not None and (rows < settings.window[0] or columns < settings.window[1]):
            wanted = "x".join(map(str, settings.window))
            raise ValueError(f"{here} is {rows}x{columns} pixels, smaller than a tile of {wanted}: use a smaller --data.tile.")
        if settings.window is None and settings.resize is None and (rows, columns) != first.shape[2:]:
            other = "x".join(map(str, first.shape[2:]))
            raise ValueError(
                f"{here} is {rows}x{columns} pixels (rows x columns) but {there} is {other}: cut tiles of one size "
                f"with --data.tile, or bring all to one size with --data.resize {other.replace('x', ' ')}."
            )
    metadata = replace(
        first.metadata,
        units=settings.units or first.metadata.units,
        nodata=_nodata(stacks) if settings.nodata is None else settings.nodata,
        axes=() if settings.tile or settings.resize else first.metadata.axes,
    )
    return Stacked(tuple(stacks), tuple(titles), labels, classes, metadata, settings.window, settings.steps, settings.resize)


def _nodata(stacks: Sequence[Stack]) -> float | None:
    """What means "not measured" in all files; NaN may mean it in some only, for the others have none."""
    named = {str(stack.metadata.nodata): stack for stack in stacks}
    if set(named) == {"None", "nan"}:
        return math.nan
    if len(named) > 1:
        (one, first), (other, second) = list(named.items())[:2]
        raise ValueError(
            f"{first.path} marks missing values by {one} but {second.path} by {other}: bring all files to one value."
        )
    return stacks[0].metadata.nodata


def _check_patch(source: Source, patch: int | None, place: Place, settings: DataSettings) -> None:
    _, rows, columns = source.shape
    if patch is None or (rows % patch == 0 and columns % patch == 0):
        return
    near = " ".join(str(max(patch, round(side / patch) * patch)) for side in (rows, columns))
    where = "--data.tile" if settings.tile else "--data.resize"
    first = place.path / source.name(0) if isinstance(source, Folder) and place.path.is_dir() else place
    what = where if settings.resize or settings.tile else first
    raise ValueError(
        f"{what} is {rows}x{columns} pixels (rows x columns), which a patch of {patch} does not divide: use {where} {near}."
    )


def _check_resize(source: Source, place: Place, settings: DataSettings) -> None:
    """Resizing mixes neighbouring values, which must all be measured, and which float32 must hold."""
    if settings.resize is None:
        return
    if source.metadata.nodata is not None:
        raise ValueError(f"{place} has missing values, which --data.resize would mix into the others: use --data.tile instead.")
    if source.dtype.kind in "iu" and source.dtype.itemsize > 2:
        raise ValueError(
            f"{place} holds {source.dtype}, which --data.resize would round: use --data.tile, or convert to float32."
        )
