"""From a path, or arrays in memory, to sources: the kind of the files decides who reads them.

A *place* is a folder, a file, or a variable of a store (see `parts`). A *kind* is a set of file endings with one reader.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pixelpath.data import folders
from pixelpath.data.addresses import Address
from pixelpath.data.formats import arrays, dicom, geotiff, nifti, parquet, pictures, stores, tar, tiff
from pixelpath.data.formats.arrays import ClassLabels
from pixelpath.data.formats.pictures import Header, PictureStack
from pixelpath.data.formats.reading import BrokenFileError, leaving_out, reading
from pixelpath.data.formats.stacks import ArrayStack, Chosen, Stack, strips
from pixelpath.data.metadata import Metadata
from pixelpath.data.parts import ACCEPTED, KINDS, SUFFIXES, Place, check_unmixed, held_out_place, parts
from pixelpath.data.settings import DataSettings, fitting
from pixelpath.data.sources import Arrays, Folder, Premultiplied, Source, decoders, look, split
from pixelpath.data.tiles import stacked
from pixelpath.errors import UserError
from pixelpath.log import followed, say

TIFF = (".tif", ".tiff")
FAR = (".parquet", ".tar", ".zarr")  # what is read in parts, and so from object stores

Headers = Callable[[Path, Sequence[str]], tuple[list[Header | None], list[str]]]
"""From a folder and the names of its pictures to their headers, and the names of the broken ones, whose header is None."""


def open_source(
    path: Path,
    resize: tuple[int, int] | None = None,
    skip_broken: bool = False,
    patch: int | None = None,
    channels: Literal[1, 3, 4] | None = None,
) -> Source:
    """The images at `path`, see `DataSettings.path`. Of data with parts, the training part.

    Folders: png, jpeg, webp, bmp, gif (first frame) and tiff, turned upright by their EXIF tag; or arrays, rasters, volumes, one
    or more images a file. Files with transparency (grey ones too) become RGBA, palettes RGB; other depths and bands stay.
    Arrays are memory-mapped (a compressed .npz is read); `arrays.check_array` says which axis has the channels; labels
    come from the .npz ("labels", and "class_names") or from the sibling file NAME_labels.npy. Raises UserError: nothing there,
    unequal sizes or channels, undecodable files (unless `skip_broken`), sizes that `patch` does not divide, labels out of range.
    """
    settings = DataSettings(path, resize=resize, skip_broken=skip_broken, channels=channels)
    return open_place(parts(path)[0], settings, patch)


def open_split(settings: DataSettings, patch: int | None = None, headers: Headers | None = None) -> tuple[Source, Source]:
    """The training and the held-out images that `settings` name: its own `held_out`, else the data's test part, else a `split`.

    A test part is what lies beside the training part and is called like it but for the word: folders, files, shards, arrays of
    a .npz (see `parts`). Held-out labels are numbered by the training classes. `headers` may know what pictures' headers say;
    they are read without it. Raises as `open_source`, and UserError if the two do not match.
    """
    if settings.path is None:
        raise UserError("No data given: name a folder of images or a .npy/.npz file as `data.path`.", "data.path")
    place, other = parts(settings.path)
    other = other if settings.held_out is None else held_out_place(settings.held_out)
    training = open_place(place, settings, patch, headers=headers)
    if other is None:
        return split(training, settings.held_out_share, settings.held_out_by)
    if settings.held_out is None:
        say(f"Training images: {place}. Held-out images: {other}.")  # which nobody named
    held_out = open_place(other, settings, patch, training.classes, headers)
    if (held_out.shape, held_out.dtype) != (training.shape, training.dtype):
        raise UserError(
            f"The held-out images in {other} are {look(held_out)} but the training images {look(training)}: "
            f"give both the same size, channels and dtype (`data.resize` and `data.channels` apply to both).",
            "data.held_out",
        )
    return training, held_out


def open_place(
    place: Place,
    settings: DataSettings,
    patch: int | None,
    classes: tuple[str, ...] | None = None,
    headers: Headers | None = None,
) -> Source:
    """The images of one side; with `classes` the labels are numbered by these."""
    kind = kind_of(place)
    if isinstance(place.path, Address):
        _check_far(kind, place)
    if kind == "pictures" and not _must_stack(place, settings):
        source = _open_folder(place, settings, classes, headers or _reader(settings))
    elif kind == "arrays" and place.path.is_file():
        source = _open_array(place, settings, classes)
    else:
        source = _open_stacks(kind, place, settings, classes)
    source = _finished(source, settings, place)
    if patch is not None:
        check_patch(source, patch, settings)
    return source


def _check_far(kind: str, place: Place) -> None:
    """UserError for what is not read from object stores."""
    names = [place.path.name] if place.is_one else place.names or list(folders.walk(place.path, KINDS.get(kind, ())))
    other = next((name for name in names if not name.lower().endswith(FAR)), None)
    if other is not None or not names:
        what = f" ({other})" if other else ""
        raise UserError(f"{place} holds {kind}{what}: from object stores {', '.join(FAR)} are read, so pack or copy them first.")


def open_array(images: np.ndarray, labels: ClassLabels, settings: DataSettings, where: str) -> Source:
    """The images [N,C,H,W] of one array, whole, resized or in tiles as the settings say."""
    return _finished(_of_array(images, labels, settings, where), settings, where)


def check_patch(source: Source, patch: int, settings: DataSettings) -> None:
    """UserError if patches of so many pixels do not divide the images."""
    _, rows, columns = source.shape
    if rows % patch == 0 and columns % patch == 0:
        return
    near = " ".join(map(str, fitting(rows, columns, patch)))
    setting = "data.tile" if settings.tile else "data.resize"
    what = f"`{setting}`" if settings.resize or settings.tile else f"The image {source.name(0)}"
    raise UserError(
        f"{what} is {rows}x{columns} pixels (rows x columns), which a patch of {patch} does not divide: "
        f"set `{setting}` to {near}.",
        setting,
    )


def _finished(source: Source, settings: DataSettings, where: object) -> Source:
    """The source with its colours as `alpha` says; UserError if it has no alpha."""
    if settings.alpha == "straight":
        return source
    if source.metadata.alpha != "straight" or source.dtype.kind != "u":
        raise UserError(f"{where} is {look(source)}, not RGBA integers: leave `data.alpha` at straight.", "data.alpha")
    return Premultiplied(source)


def _must_stack(place: Place, settings: DataSettings) -> bool:
    """Whether TIFF files hold what a picture cannot (several images, a place on the earth), or are read in windows."""
    names = [place.path.name] if place.path.is_file() else place.names or list(folders.walk(place.path, pictures.IMAGES))
    tiffs = [name for name in names if name.lower().endswith(TIFF)]
    folder = place.path.parent if place.path.is_file() else place.path
    if not tiffs or len(tiffs) < len(names):
        return False
    return bool(settings.tile) or not all(tiff.is_picture(folder / name) for name in tiffs)


def _reader(settings: DataSettings) -> Headers:
    """Reads every header."""

    def read(folder: Path, names: Sequence[str]) -> tuple[list[Header | None], list[str]]:
        with decoders(settings.workers) as pool:
            return pictures.headers(folder, names, settings.skip_broken, settings.channels, pool)

    return read


def _open_folder(place: Place, settings: DataSettings, classes: tuple[str, ...] | None, headers: Headers) -> Source:
    folder = place.path.parent if place.is_one else place.path
    names, labels = _files("pictures", place, classes)
    found, broken = headers(folder, names)
    kept = np.flatnonzero([header is not None for header in found])
    if len(kept) == 0:
        raise _none_left(names, folder)
    kept_names = tuple(names[index] for index in kept)
    kept_headers = [header for header in found if header is not None]
    # files that are cut into tiles need not be of one size
    sizes = settings.resize if not settings.tile else kept_headers[0].size
    mode, size = pictures.agree(folder, kept_names, kept_headers, settings.channels, sizes)
    metadata = Metadata(
        format="tiff" if all(name.lower().endswith(TIFF) for name in kept_names) else "png",
        units=settings.units,
        nodata=settings.nodata,
        photographs=mode in pictures.PHOTOGRAPHS,
        alpha=pictures.alpha_of(mode),
    )
    labels = labels._replace(numbers=labels.numbers[kept])
    if not settings.tile:
        shape = (pictures.channels_of(mode), *size)
        return Folder(folder, kept_names, *labels, mode, shape, settings.resize, broken + _unread(place), metadata)
    sized = zip(kept_names, kept_headers, strict=True)
    stacks = [PictureStack(folder / name, mode, each.size, metadata) for name, each in sized]
    return stacked(stacks, kept_names, labels, settings, broken + _unread(place))


def _none_left(names: Sequence[str], folder: Path) -> UserError:
    return UserError(f"None of the {len(names)} image files in {folder} can be decoded: give a folder of readable images.")


def _unread(place: Place) -> list[str]:
    """Pictures of formats that are not read, among those that are; told, and kept as left out."""
    if place.path.is_file():
        return []
    names = list(folders.walk(place.path, pictures.UNREAD))
    if names:
        kinds = ", ".join(sorted({Path(name).suffix.lower() for name in names}))
        say(f"{len(names)} files of {place} are left out, as their format is not read ({kinds}): convert them to PNG. {names[0]}")
    return names


def _open_array(place: Place, settings: DataSettings, classes: tuple[str, ...] | None) -> Source:
    where, file = str(place.path), arrays.read_arrays(place.path, place.part)
    images = file.images[None] if file.images.ndim == 2 and settings.tile else file.images
    images = arrays.check_array(images, where, file.channels_last)
    names = _agreed(file.class_names, classes, place)
    return _of_array(images, arrays.check_labels(file.labels, len(images), names, f"The labels of {where}"), settings, where)


def _of_array(images: np.ndarray, labels: ClassLabels, settings: DataSettings, where: str) -> Source:
    metadata = _array_metadata(images, settings)
    if not settings.tile:
        return Arrays(images, *labels, settings.resize, metadata=metadata)
    return stacked([ArrayStack(Path(where), images, metadata)], ("",), labels, settings)


def _array_metadata(images: np.ndarray, settings: DataSettings) -> Metadata:
    drawn = images.dtype == np.uint8 and images.shape[1] in pictures.BYTES
    alpha = "straight" if drawn and images.shape[1] == 4 else ""
    return Metadata("npy", units=settings.units, nodata=settings.nodata, photographs=drawn, alpha=alpha)


def _open_stacks(kind: str, place: Place, settings: DataSettings, classes: tuple[str, ...] | None) -> Source:
    names, labels = _files(kind, place, classes)
    root, broken = place.path.parent if place.is_one else place.path, [] if settings.skip_broken else None
    opened = _read(kind, place, root, names, settings, broken)
    if broken is not None:
        opened = _readable(opened, broken, settings)
    if not opened:
        raise UserError(f"None of the {len(names)} {kind} in {place} can be read: give readable ones.", "data.path")
    titles, stacks = zip(*opened, strict=True)
    if len(labels.classes) >= 2:
        numbers = dict(zip(names, labels.numbers.tolist(), strict=True))
        counts = [stack.shape[0] for stack in stacks]
        labels = labels._replace(numbers=np.repeat([numbers[title] for title in titles], counts))
    else:
        labels = _own_labels(stacks, classes, place)
    alone = len(opened) == 1 and (place.is_one or titles[0] not in names)
    left_out = (broken or []) + (_unread(place) if kind == "pictures" else [])
    return stacked(stacks, ("",) if alone else titles, labels, settings, left_out)


def _files(kind: str, place: Place, classes: tuple[str, ...] | None) -> tuple[list[str], ClassLabels]:
    """The files of a place relative to its folder, their labels by class folder, and the classes; parts must not be mixed."""
    names, labels = _listed(kind, place, classes)
    if not place.names:
        check_unmixed(place.path.parent if place.is_one else place.path, names)
    return names, labels


def _listed(kind: str, place: Place, classes: tuple[str, ...] | None) -> tuple[list[str], ClassLabels]:
    path, none = place.path, ClassLabels(np.zeros(0, np.int64))
    if place.is_one:
        return [path.name], ClassLabels(np.zeros(1, np.int64), classes or ())
    if place.names:
        return list(place.names), ClassLabels(np.zeros(len(place.names), np.int64), classes or ())
    if kind == "saved dataset":
        return [path.name], ClassLabels(np.zeros(1, np.int64))
    suffixes = KINDS[kind]
    if kind == "DICOM files" and not any(folders.walk(path, suffixes)):
        return list(folders.walk(path, ("",))), none
    if kind in ("DICOM files", "parquet files", "tar shards"):
        return list(folders.walk(path, suffixes)), none
    names, numbers, found = folders.scan(path, classes, suffixes)
    siblings = {f"{name.removesuffix('.npy')}_labels.npy" for name in names}
    images = [index for index, name in enumerate(names) if name not in siblings]
    return [names[index] for index in images], ClassLabels(numbers[images], found)


def _read(
    kind: str, place: Place, root: Path, names: Sequence[str], settings: DataSettings, broken: list[str] | None
) -> list[tuple[str, Stack]]:
    """Every file opened as a stack, with what it is called; damaged ones are left out if there is a list of `broken` ones."""
    paths = [root / name for name in names]
    options: dict[str, Any] = {
        "channels": settings.channels,
        "resize": settings.resize,
        "nodata": settings.nodata,
        "broken": broken,
    }
    of_all: dict[str, Callable[[], list[Stack]]] = {
        "saved dataset": lambda: parquet.open_saved_dataset(place.path, **options),
        "parquet files": lambda: parquet.open_parquet(paths, **options),
        "tar shards": lambda: tar.open_tar_shards(paths, **options),
        "DICOM files": lambda: dicom.open_dicom(root, names, broken),
    }
    of_each: dict[str, Callable[[Path], Stack]] = {
        "stores": lambda path: stores.open_store(path, place.variable),
        "NIfTI files": lambda path: nifti.open_nifti(path, settings.axis),
        "pictures": lambda path: (
            geotiff.open_geotiff(path, settings.nodata) if tiff.is_map(path) else tiff.open_tiff(path, settings.channels)
        ),
        "arrays": lambda path: _array_stack(path, settings),
    }
    if kind in of_each:
        opened: list[tuple[str, Stack]] = []
        for name, path in followed(zip(names, paths, strict=True), "opening files", len(names)):
            with leaving_out(broken, name), reading(path, ""):
                opened.append((name, of_each[kind](path)))
        return opened
    stacks = of_all[kind]()
    if kind == "DICOM files":
        kept = [name for name in names if name not in (broken or ())]
        titles = kept if len(kept) == len(stacks) else [f"series{number}" for number in range(len(stacks))]
    elif kind == "saved dataset":
        titles = names if len(stacks) == 1 else [stack.path.name for stack in stacks]
    else:
        called = dict(zip(paths, names, strict=True))
        titles = [called[stack.path] for stack in stacks]
    return list(zip(titles, stacks, strict=True))


def _readable(opened: Sequence[tuple[str, Stack]], broken: list[str], settings: DataSettings) -> list[tuple[str, Stack]]:
    """The stacks without the images that cannot be decoded, whose names are added to those of the `broken` ones."""

    def bad(stack: Stack, index: int) -> bool:
        try:
            for rows in strips(stack):
                stack.read(index, rows)
        except BrokenFileError:
            return True
        return False

    kept: list[tuple[str, Stack]] = []
    with decoders(settings.workers) as pool:
        for title, stack in followed(opened, "looking for damage", len(opened)):
            images = range(stack.shape[0])
            wrong = np.array(list((map if pool is None else pool.map)(functools.partial(bad, stack), images)), bool)
            if not wrong.any():
                kept.append((title, stack))
            elif wrong.all():
                broken.append(title)
            else:
                broken += [f"{title}:{stack.name(index)}" for index in np.flatnonzero(wrong).tolist()]
                kept.append((title, Chosen(stack, np.flatnonzero(~wrong))))
    return kept


def _array_stack(path: Path, settings: DataSettings) -> Stack:
    """A .npy or .npz file of a folder of several, each of which may be one image, as a stack."""
    file = arrays.read_arrays(path, None)
    images = file.images[None] if file.images.ndim in (2, 3) else file.images
    images = arrays.check_array(images, str(path), file.channels_last)
    return ArrayStack(path, images, _array_metadata(images, settings), file.labels, file.class_names)


def _own_labels(opened: Sequence[Stack], classes: tuple[str, ...] | None, place: Place) -> ClassLabels:
    """The labels that the stacks bring; zeros and no classes if they bring none."""
    present = [stack.labels for stack in opened if stack.labels is not None]
    if len(present) not in (0, len(opened)):
        odd = next(stack.path for stack in opened if stack.labels is None)
        raise UserError(f"{odd} has no labels but other files of {place} have some: give labels to all or to none.")
    named = {stack.classes for stack in opened if stack.labels is not None and stack.classes}
    if len(named) > 1:
        raise UserError(f"The files of {place} name their classes differently: write all with the same classes, in order.")
    names, count = _agreed(next(iter(named), None), classes, place), sum(stack.shape[0] for stack in opened)
    return arrays.check_labels(np.concatenate(present) if present else None, count, names, f"The labels of {place}")


def _agreed(own: tuple[str, ...] | None, classes: tuple[str, ...] | None, place: Place) -> tuple[str, ...] | None:
    """The names of the classes: those of the training images if given; UserError if the place has others of its own."""
    if classes and own and own != classes:
        raise UserError(f"{place} has the classes {', '.join(own[:10])}, unlike the training images: use the same, in order.")
    return own if classes is None else classes


def kind_of(place: Place) -> str:
    """The kind of the files at a place; UserError if there are none, or of several kinds."""
    path = place.path
    if place.is_one:
        found = [kind for kind, suffixes in KINDS.items() if path.name.lower().endswith(suffixes)]
        if not found and _is_dicom(path):
            return "DICOM files"
        if not found:
            raise UserError(f"{path} is of no kind that can be read: give {ACCEPTED}.")
        return found[0]
    if not isinstance(path, Address) and ((path / "state.json").is_file() or any(path.glob("*.arrow"))):
        return "saved dataset"
    names = place.names or tuple(folders.walk(path, SUFFIXES))
    kinds = {kind: name for name in reversed(names) for kind, suffixes in KINDS.items() if name.lower().endswith(suffixes)}
    if len(kinds) > 1:
        (one, first), (other, second) = list(kinds.items())[:2]
        raise UserError(
            f"{path} holds {one} ({first}) and {other} ({second}): keep one kind in a folder, or name the file with the images."
        )
    if not kinds and any(_is_dicom(path / name) for name in list(folders.walk(path, ("",)))[:8]):
        return "DICOM files"
    unread = next(folders.walk(path, pictures.UNREAD), None) if not kinds else None
    if unread is not None:
        raise UserError(f"{path} holds pictures of formats that are not read ({unread}): convert them to PNG or TIFF.")
    return next(iter(kinds), "pictures")


def _is_dicom(path: Path) -> bool:
    return path.is_file() and dicom.looks_like_dicom(path)
