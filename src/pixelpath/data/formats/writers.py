"""Writing samples as the data were: the same kind of file, dtype, units, names, and value for "not measured".

*Nodata* is that value. To *widen* is to keep every value exactly in a larger dtype. A sample is known by its *seed*: files are
numbered by it, and files of many samples by the first and the last one.
"""

from __future__ import annotations

import gzip
import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import tifffile
from jaxtyping import Shaped
from PIL import Image

from pixelpath.atomic import whole, whole_path
from pixelpath.data import dtypes
from pixelpath.data.alpha import unpremultiply
from pixelpath.data.formats.reading import needs
from pixelpath.data.formats.tiff import GDAL_NODATA
from pixelpath.data.metadata import Described, Metadata, SampleFormat
from pixelpath.errors import UserError

if TYPE_CHECKING:
    from xarray import Dataset

Samples = Shaped[np.ndarray, "sample channel row column"]
Sample = Shaped[np.ndarray, "channel row column"]
Conditions = Mapping[str, Sequence[float] | Sequence[str]]
"""By name: what was asked of every sample, a number or words."""

SUFFIXES: dict[SampleFormat, str] = {
    "png": ".png",
    "tiff": ".tif",
    "geotiff": ".tif",
    "npy": ".npy",
    "netcdf": ".nc",
    "hdf5": ".h5",
    "zarr": ".zarr",
    "nifti": ".nii.gz",
}
PACKAGES: dict[SampleFormat, tuple[str, ...]] = {
    "geotiff": ("rasterio",),
    "netcdf": ("xarray", "h5netcdf"),
    "hdf5": ("h5py",),
    "zarr": ("xarray", "zarr"),
    "nifti": ("nibabel",),
}
EXTRAS: dict[SampleFormat, str] = {"geotiff": "geo", "nifti": "medical"}  # of the others: arrays
WIDENED = ("geotiff", "netcdf", "nifti")  # these hold no float16
DESCRIPTION_TAG = 270
TEXT = 2  # the type of this tag and of GDAL_NODATA
MOST_IN_NIFTI = 32767  # along any axis of the first version of the format


@dataclass(frozen=True)
class _Batch:
    """What is written, as a format holds it, and what is known of it."""

    images: Samples
    metadata: Metadata
    seeds: range
    dtype: np.dtype
    """The native dtype, from which the images may have been widened."""
    coordinates: bool
    """Whether the data's coordinates fit."""
    conditions: Conditions

    @property
    def nodata(self) -> int | float | None:
        return nodata_in(self.metadata, self.dtype)

    @property
    def widened(self) -> dict[str, str]:
        return {} if self.images.dtype == self.dtype else {"widened_from": self.dtype.name}


def write_samples(
    folder: Path,
    images: Samples,
    metadata: Metadata,
    first_seed: int,
    kind: SampleFormat | None = None,
    *,
    coordinates: bool = False,
    conditions: Conditions | None = None,
) -> list[Path]:
    """Write native samples, numbered by their seeds from `first_seed` on, in the format of the data, and return the files.

    Every value comes back bit for bit; float16 is widened to float32, and said to be, where a format has none. One file each:
    PNG, TIFF and GeoTIFF (without a place: samples are nowhere). One file for all: .npy, NetCDF, HDF5 and Zarr (format 3), where
    the variable has the data's name (or "samples") and the axes sample, channel, row, column. Several variables of the data are
    several again, each with its units. `conditions`, what was asked of every sample, lie along the samples. NIfTI: a volume
    [row, column, sample] per channel. `written_as` says which it is. Stores have the data's words (long_name, standard_name) and,
    NetCDF and Zarr, the data's coordinates along rows and columns if there are as many; with `coordinates` those must fit.
    Premultiplied colours are written straight. The units and nodata are kept where a format has a place for them (.npy and PNG
    have none, NIfTI none for nodata, and conditions neither); a nodata that no pixel could have is left out.

    Each file is whole or absent. Raises UserError for no samples, a format that cannot hold them or whose package is missing,
    and rather than overwrite a file; then nothing is written.
    """
    if len(images) == 0:
        raise UserError("There are no images to save: ask for at least one.", "count")
    kind = written_as(metadata, images.dtype, images.shape[1], kind)
    if coordinates:
        _check_coordinates(kind, images, metadata)
    placed = tuple(len(axis.values) for axis in metadata.axes) == images.shape[2:]
    values = unpremultiply(images) if metadata.alpha == "premultiplied" and images.shape[1] == 4 else images
    widens = kind in WIDENED and images.dtype == np.float16
    values = values.astype(np.float32 if widens else images.dtype.newbyteorder("="), copy=False)
    seeds, native = range(first_seed, first_seed + len(images)), images.dtype.newbyteorder("=")
    batch = _Batch(values, metadata, seeds, native, placed, conditions or {})
    paths = _paths(folder, kind, batch.seeds, images.shape[1])
    for path in paths:
        if path.exists():
            raise UserError(f"{path} exists already and is not overwritten: choose another folder, or another first seed.", "out")
    folder.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(paths):
        WRITE[kind](path, batch, number)
    return paths


def written_as(metadata: Metadata, dtype: np.dtype, channels: int, kind: SampleFormat | None = None) -> SampleFormat:
    """The format in which samples of this dtype and so many channels are written: `kind`, else as the data, else TIFF.

    PNG holds uint8 of 1, 3 or 4 channels and uint16 of 1; picture files of any other kind (16-bit RGB, other numbers of channels,
    floats) become TIFF. So do DICOM series (see `SampleFormat`). Raises UserError for a `kind` that there is not or that cannot
    hold the samples, a format whose package is missing, and dtypes that are not those of images.
    """
    dtypes.checked(dtype, "The array of samples")
    if kind is not None and kind not in WRITE:
        raise UserError(f"Samples are not written as {kind}: ask for one of {', '.join(WRITE)}.", "format")
    in_png = (dtype == np.uint8 and channels in (1, 3, 4)) or (dtype == np.uint16 and channels == 1)
    if kind == "png" and not in_png:
        raise UserError(
            f"PNG files hold uint8 of 1, 3 or 4 channels and uint16 of 1, but the samples are {dtype} of {channels}: "
            "ask for tiff or npy.",
            "format",
        )
    chosen: SampleFormat | Literal["dicom"] = kind or metadata.format
    if chosen == "dicom" or (chosen == "png" and not in_png):
        chosen = "tiff"
    for package in PACKAGES.get(chosen, ()):
        needs(package, EXTRAS.get(chosen, "arrays"), Path(f"A {chosen} file of samples"))
    return chosen


def nodata_in(metadata: Metadata, dtype: np.dtype) -> int | float | None:
    """The nodata of the metadata as the dtype holds it; None if there is none, or none that a pixel could have."""
    held = None if metadata.nodata is None else dtypes.held(metadata.nodata, dtype)
    return int(held) if held is not None and dtype.kind in "iu" else held


def _paths(folder: Path, kind: SampleFormat, seeds: range, channels: int) -> list[Path]:
    if kind in ("png", "tiff", "geotiff"):
        return [folder / f"{seed:06d}{SUFFIXES[kind]}" for seed in seeds]
    name = f"{seeds[0]:06d}-{seeds[-1]:06d}"
    if kind == "nifti" and channels > 1:
        return [folder / f"{name}-channel-{channel}{SUFFIXES[kind]}" for channel in range(channels)]
    return [folder / f"{name}{SUFFIXES[kind]}"]


def _check_coordinates(kind: SampleFormat, images: Samples, metadata: Metadata) -> None:
    if kind not in ("netcdf", "zarr"):
        raise UserError(
            f"Coordinates can be kept in netcdf and zarr, not in {kind}: leave them out, or ask for netcdf.", "coordinates"
        )
    lengths = tuple(len(axis.values) for axis in metadata.axes)
    if lengths != images.shape[2:]:
        known, pixels = "x".join(map(str, lengths)) or "no", "x".join(map(str, images.shape[2:]))
        raise UserError(
            f"The data have {known} coordinates but the samples {pixels} pixels: leave coordinates out.", "coordinates"
        )


def _description(metadata: Metadata, seeds: Sequence[int], channels: Sequence[str]) -> str:
    numbers = f"sample of seed {seeds[0]}" if len(seeds) == 1 else f"samples of seeds {seeds[0]} to {seeds[-1]}"
    units = [f"units: {metadata.units}"] if metadata.units else []
    return "; ".join([numbers, *units, *([f"channels: {', '.join(channels)}"] if channels else [])])


def _is_colour(dtype: np.dtype, channels: int, metadata: Metadata) -> bool:
    """Whether three or four channels are red, green, blue (and alpha), so that viewers show colours."""
    return dtype.name in ("uint8", "uint16") and (channels == 3 or (channels == 4 and metadata.alpha != ""))


def _picture(image: Sample) -> Image.Image:
    return Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))


def _png(path: Path, batch: _Batch, number: int) -> None:
    with whole(path) as file:
        _picture(batch.images[number]).save(file, "PNG")


def _tiff(path: Path, batch: _Batch, number: int) -> None:
    """One page with the units in its description: up to four channels pixel by pixel, more of them plane by plane."""
    image, metadata = batch.images[number], batch.metadata
    texts = {DESCRIPTION_TAG: _description(metadata, batch.seeds[number : number + 1], metadata.channels)}
    if batch.nodata is not None:
        texts[GDAL_NODATA] = "nan" if math.isnan(batch.nodata) else repr(batch.nodata)
    with whole(path) as file:
        file.write(_page(image, texts, colour=_is_colour(batch.dtype, len(image), metadata)))


def _page(image: Sample, texts: Mapping[int, str], *, colour: bool) -> bytes:
    count = len(image)
    values = image if count > 4 else image[0] if count == 1 else image.transpose(1, 2, 0)
    beyond = count - (3 if colour else 1)
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        np.ascontiguousarray(values),
        photometric="rgb" if colour else "minisblack",
        planarconfig=None if count == 1 else "separate" if count > 4 else "contig",
        extrasamples=[] if beyond == 0 else ["unassalpha"] if colour else ["unspecified"] * beyond,
        extratags=[(tag, TEXT, 0, text.encode(), True) for tag, text in texts.items()],
        metadata=None,
    )
    return file.getvalue()


def _geotiff(path: Path, batch: _Batch, number: int) -> None:
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.io import MemoryFile

    image, metadata = batch.images[number], batch.metadata
    count, rows, columns = image.shape
    colour = _is_colour(batch.dtype, count, metadata)
    layout = {"photometric": "RGB" if colour else "MINISBLACK", "interleave": "band" if count > 4 else "pixel"}
    if count > 1:
        layout["alpha"] = "NON-PREMULTIPLIED" if colour and count == 4 else "UNSPECIFIED"
    with warnings.catch_warnings(), MemoryFile() as memory:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # it is nowhere on purpose
        profile: dict[str, Any] = {"count": count, "height": rows, "width": columns, "dtype": image.dtype.name, **layout}
        with memory.open("GTiff", nodata=batch.nodata, **profile) as raster:
            raster.write(image)
            if metadata.units:
                raster.units = [metadata.units] * count
            for band, name in enumerate(metadata.channels, 1):
                raster.set_band_description(band, name)
            text = _description(metadata, batch.seeds[number : number + 1], metadata.channels)
            raster.update_tags(TIFFTAG_IMAGEDESCRIPTION=text, **batch.widened)
        with whole(path) as file:
            file.write(memory.read())


def _npy(path: Path, batch: _Batch, _: int) -> None:
    with whole(path) as file:
        np.save(file, batch.images)


def _nifti(path: Path, batch: _Batch, number: int) -> None:
    """The channel of this number; voxels of 1x1x1 about nowhere."""
    import nibabel

    volume = np.ascontiguousarray(batch.images[:, number].transpose(1, 2, 0))
    make = nibabel.Nifti1Image if max(volume.shape) <= MOST_IN_NIFTI else nibabel.Nifti2Image
    image = make(volume, np.eye(4), dtype=volume.dtype)
    text = _description(batch.metadata, batch.seeds, batch.metadata.channels[number : number + 1])
    text = "; ".join([text, *(f"widened from {dtype}" for dtype in batch.widened.values())])
    image.header["descrip"] = text.encode("ascii", "replace")[:79]  # all that the header has room for
    with whole(path) as file, gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
        packed.write(image.to_bytes())


class _Variable(NamedTuple):
    """One variable of the file: its name, its samples [sample, row, column] or with channels, their names, units, words."""

    name: str
    array: np.ndarray
    channels: list[str]
    units: str | list[str]
    described: Described = Described()


def _variables(batch: _Batch) -> list[_Variable]:
    """The variables that the data had, else one."""
    metadata, channels = batch.metadata, batch.images.shape[1]
    names, own = [name.strip().strip("/") for name in metadata.variable.split(",")], list(metadata.channel_units)
    if len(names) == 1 or channels % len(names):
        name, words = (names[0] or "samples", metadata.described) if len(names) == 1 else ("samples", ())
        return [_Variable(name, batch.images, list(metadata.channels), metadata.units or own, *words)]
    each, found = channels // len(names), []
    for number, name in enumerate(names):
        part = slice(number * each, (number + 1) * each)
        called = [channel.removeprefix(f"{name.rpartition('/')[2]} ") for channel in metadata.channels[part]]
        units = metadata.units or (own[part.start] if own else "")
        array = batch.images[:, part.start] if each == 1 else batch.images[:, part]
        found.append(_Variable(name, array, called if each > 1 else [], units, *metadata.described[number : number + 1]))
    return found


def _attributes(batch: _Batch, variable: _Variable) -> dict[str, Any]:
    """The attributes of a variable; units that differ within it are a list."""
    units = {"units": variable.units} if variable.units else {}
    names = {"channels": variable.channels} if variable.channels else {}
    known = {**variable.described.attributes, **units, **names, **batch.widened}
    return {**known, "description": "generated samples, not measurements"}


def _conditions(batch: _Batch, taken: Sequence[str]) -> dict[str, Any]:
    """What was asked of the samples, by names that a store can have and that are not `taken`."""
    found: dict[str, Any] = {}
    for name, values in batch.conditions.items():
        found[_free(name.replace("/", "_") or "condition", [*taken, *found])] = list(values)
    return found


def _free(name: str, taken: Sequence[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _hdf5(path: Path, batch: _Batch, _: int) -> None:
    import h5py

    variables = _variables(batch)
    seeds = _free("seeds", names := [each.name for each in variables])
    with whole(path) as file, h5py.File(file, "w") as store:
        for each in variables:
            data = store.create_dataset(each.name, data=each.array)
            data.attrs.update(_attributes(batch, each))
            if batch.nodata is not None:
                data.attrs["nodata"] = each.array.dtype.type(batch.nodata)
        store.create_dataset(seeds, data=np.array(batch.seeds, np.int64))
        for name, values in _conditions(batch, [*names, seeds]).items():
            encoded = [value.encode() if isinstance(value, str) else value for value in values]
            kind = h5py.string_dtype("utf-8", max(1, *map(len, encoded))) if isinstance(values[0], str) else None
            store.create_dataset(name, data=np.array(encoded, kind))


def _datasets(batch: _Batch, *, named: bool) -> dict[str | None, tuple[Dataset, dict[str, Any]]]:
    """By group (None: the root): variables with their dimensions, and how they are encoded: as they are.

    With `named`, words (names of channels, conditions) are coordinates, else attributes.
    """
    import xarray

    metadata, nodata = batch.metadata, batch.nodata
    found: dict[str | None, tuple[Dataset, dict[str, Any]]] = {}
    variables = [(*each.name.rpartition("/")[::2], each) for each in _variables(batch)]
    axes: list[str] = []
    for name in ["sample", "channel", *([axis.name for axis in metadata.axes] or ["row", "column"])]:
        axes.append(_free(name, [*axes, *(last for _, last, _ in variables)]))
    asked = _conditions(batch, [*axes, *(last for _, last, _ in variables)])
    texts = {} if named else {name: values for name, values in asked.items() if isinstance(values[0], str)}
    for group, name, each in variables:
        dataset, encoding = found.setdefault(group or None, (xarray.Dataset(), {}))
        array, attributes = each.array, _attributes(batch, each) | texts
        attributes |= {} if nodata is None else {"_FillValue": array.dtype.type(nodata)}
        encoding[name] = {"_FillValue": None} if nodata is None else {}
        dataset[name] = (axes if array.ndim == 4 else [axes[0], *axes[2:]], array, attributes)
        dataset.coords[axes[0]] = (axes[0], np.array(batch.seeds, np.int64), {"long_name": "seed"})
        for called, values in asked.items():
            if called not in texts:
                dataset.coords[called] = (axes[0], values)
                encoding[called] = {} if isinstance(values[0], str) else {"_FillValue": None}
        if named and each.channels and array.ndim == 4:
            dataset.coords[axes[1]] = (axes[1], each.channels)
        for axis, dimension in zip(metadata.axes if batch.coordinates else (), axes[2:], strict=batch.coordinates):
            words = axis.described.attributes | ({"units": axis.units} if axis.units else {})
            dataset.coords[dimension] = (dimension, np.array(axis.values, np.float64), words)
            encoding[dimension] = {"_FillValue": None}
    return found


def _netcdf(path: Path, batch: _Batch, _: int) -> None:
    with whole_path(path) as unfinished:
        for number, (group, (dataset, encoding)) in enumerate(_datasets(batch, named=True).items()):
            dataset.to_netcdf(unfinished, "a" if number else "w", group=group, engine="h5netcdf", encoding=encoding)


def _zarr(path: Path, batch: _Batch, _: int) -> None:
    """The names of channels stay an attribute, for the format has no settled way to store words."""
    with whole_path(path) as unfinished, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata")  # xarray warns of stores without it
        for number, (group, (dataset, encoding)) in enumerate(_datasets(batch, named=False).items()):
            dataset.to_zarr(unfinished, mode="a" if number else "w", group=group, encoding=encoding, zarr_format=3)


WRITE: dict[SampleFormat, Callable[[Path, _Batch, int], None]] = {
    "png": _png,
    "tiff": _tiff,
    "geotiff": _geotiff,
    "npy": _npy,
    "netcdf": _netcdf,
    "hdf5": _hdf5,
    "zarr": _zarr,
    "nifti": _nifti,
}
"""Each writes the file of this number; PNG and TIFF files have a sample each, NIfTI files a channel, others all."""
