"""Series of DICOM files through pydicom, one image per slice or frame.

A *series* is what a scanner calls one run; its slices lie one behind the other along the *normal*, the cross product of the
directions of rows and columns. *Padding* fills the pixels that the scanner did not see.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from pixelpath.data import dtypes
from pixelpath.data.formats.reading import UNSCALED, BrokenFileError, Scale, check_exists, leaving_out, needs, reading, rescaled
from pixelpath.data.formats.stacks import EVERYTHING, Stack
from pixelpath.data.metadata import Metadata
from pixelpath.errors import UserError
from pixelpath.log import followed

WANTED = "a folder of DICOM files, or one such file"
DIRECTORY = "1.2.840.10008.1.3.10"  # the class of DICOMDIR files, which only list others (PS3.4, table B.5-1)
HEADER = (
    *("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "Modality"),
    *("InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient", "NumberOfFrames"),
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "PixelRepresentation"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence", "PixelPaddingValue"),
    *("RedPaletteColorLookupTableDescriptor", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)


class Slice(NamedTuple):
    """One image of a series: its name, where it is, its slope and intercept, and whether it needs a palette or inflating."""

    name: str
    file: Path
    frame: int
    scale: Scale
    palette: bool
    deflated: bool


@dataclass(frozen=True, eq=False)
class DicomStack:
    """The slices of one DICOM series, in order; made by `open_dicom`."""

    path: Path
    slices: tuple[Slice, ...]
    shape: tuple[int, int, int, int]
    dtype: np.dtype
    metadata: Metadata
    patient: str = ""
    """Whose series it is, "" if the files do not say."""
    study: str = ""
    """The examination that it belongs to, likewise."""
    labels: Int[np.ndarray, "count"] | None = None
    classes: tuple[str, ...] | None = None
    whole: bool = True

    def name(self, index: int) -> str:
        return self.slices[index].name

    def read(self, index: int, rows: slice = EVERYTHING, columns: slice = EVERYTHING) -> Shaped[np.ndarray, "channel row column"]:
        piece = self.slices[index]
        stored = _stored_pixels(piece)
        planes = stored[None] if stored.ndim == 2 else np.moveaxis(stored, -1, 0)
        if planes.shape != self.shape[1:]:
            raise UserError(
                f"{piece.file} has shape {planes.shape} but was {self.shape[1:]} when first opened: "
                "leave the data unchanged during a run."
            )
        return rescaled(planes[:, rows, columns], piece.scale, self.dtype, piece.file)


def looks_like_dicom(path: Path) -> bool:
    """Whether a file says that it is DICOM, by the letters DICM after 128 bytes (PS3.10, 7.1); no for what cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def open_dicom(path: Path, names: Sequence[str], broken: list[str] | None = None) -> list[Stack]:
    """The series among the DICOM files of these names below a folder (or the one file `path`), a stack each, one channel or RGB.

    Slices are in order along the normal, else by instance number, else by file name; the frames of a file in their own order,
    numbered from 1. Values are slope * stored + intercept. Without these (or 1 and 0) they keep the stored dtype; if one slope
    and intercept, both integers, hold for the whole series, they are int16, or int32 where the stored bits would not fit; else
    (PET, whose slope changes from slice to slice) float32. Grey values are as stored whatever their interpretation: MONOCHROME1
    only asks that they be shown inverted. Palettes and YBR become RGB. Units: the rescale type, HU for CT. The padding value,
    rescaled, is the nodata; of a range of padding values only this end is known. DICOMDIR files, which only list others,
    are passed over. Only headers are read. Raises UserError naming the file: missing, no DICOM, no image, no decoder for its
    compression, slices of unequal size. Files without a readable header are left out where there is a list of `broken` ones.
    """
    root, names = (path.parent, (path.name,)) if path.is_file() else (path, names)
    series: dict[str, list[_File]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of oddities that it then puts right
        for name in followed(names, "opening files", len(names)):
            with leaving_out(broken, name):
                header = _header(root / name, name)
                if header is not None:
                    series.setdefault(header.series, []).append(header)
    if not series:
        raise UserError(f"{path} holds no DICOM images: give {WANTED}.")
    return [_series(path, members) for members in series.values()]


@dataclass(frozen=True)
class _File:
    """What the header of one DICOM file says."""

    path: Path
    name: str
    series: str
    patient: str
    study: str
    shape: tuple[int, int, int]
    stored: np.dtype
    bits: int
    scales: tuple[Scale, ...]
    units: str
    padding: int | None
    palette: bool
    deflated: bool
    orientation: tuple[float, ...]
    position: tuple[float, ...]
    number: int | None


def _header(path: Path, name: str) -> _File | None:
    """The header of one file, None for a DICOMDIR; UserError if its image cannot be read."""
    pydicom = needs("pydicom", "medical", path)
    check_exists(path, WANTED)
    with reading(path, "as a DICOM file"), path.open("rb") as file:
        found = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(HEADER))
        if found.file_meta.get("MediaStorageSOPClassUID") == DIRECTORY:
            return None
        frames = int(found.get("NumberOfFrames") or 1)
        _check_pixels(path, found, frames, path.stat().st_size - file.tell())
        stored = _stored(path, found)
        transforms = [_transform(found, frame) for frame in range(frames)]
        palette = found.PhotometricInterpretation == "PALETTE COLOR"
        return _File(
            path=path,
            name=name,
            series=str(found.get("SeriesInstanceUID", "")),
            patient=str(found.get("PatientID") or ""),
            study=str(found.get("StudyInstanceUID") or ""),
            shape=(3 if palette else int(found.get("SamplesPerPixel", 1)), int(found.Rows), int(found.Columns)),
            stored=np.dtype(f"uint{found.RedPaletteColorLookupTableDescriptor[2]}") if palette else stored,
            bits=int(found.get("BitsStored") or found.BitsAllocated),
            scales=tuple(UNSCALED if palette else _scale(path, transform) for transform in transforms),
            units=_units(transforms[0], str(found.get("Modality", ""))),
            padding=None if palette else _padding(found, stored),
            palette=palette,
            deflated=bool(found.file_meta.TransferSyntaxUID.is_deflated),
            orientation=tuple(map(float, found.get("ImageOrientationPatient") or ())),
            position=tuple(map(float, found.get("ImagePositionPatient") or ())),
            number=None if found.get("InstanceNumber") is None else int(found.InstanceNumber),
        )


def _check_pixels(path: Path, found: Any, frames: int, left: int) -> None:
    """UserError if the file has no image, a table for its values, too few bytes after the header, or no decoder here."""
    syntax = found.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise BrokenFileError(f"{path} does not say how its pixels are encoded (transfer syntax): write it with its file meta.")
    missing = [tag for tag in ("Rows", "Columns", "BitsAllocated", "PhotometricInterpretation") if found.get(tag) is None]
    if missing or (left <= 0 and not syntax.is_deflated):  # a deflated file was read to its end
        modality = str(found.get("Modality") or "")
        kind = f" ({modality})" if modality.isalnum() else ""
        raise BrokenFileError(f"{path} is a DICOM file{kind} without an image: leave it out, or copy it again.")
    if "ModalityLUTSequence" in found:
        raise UserError(f"{path} rescales by a table (modality LUT), which is not supported: store the rescaled values.")
    _check_decoder(path, syntax)
    values = int(found.Rows) * int(found.Columns) * int(found.get("SamplesPerPixel", 1)) * frames
    subsampled = found.PhotometricInterpretation == "YBR_FULL_422"  # a third of the values is not stored
    own = values * int(found.BitsAllocated) // 8 * (2 if subsampled else 3) // 3
    needed = own + (8 if syntax.is_implicit_VR else 12)  # tag, kind and length come before
    if left < needed and not (syntax.is_compressed or syntax.is_deflated):
        raise BrokenFileError(f"{path} ends {needed - left} bytes before its pixels do: copy it again.")


def _check_decoder(path: Path, syntax: Any) -> None:
    pixels = needs("pydicom.pixels", "medical", path)
    try:
        decoder = pixels.get_decoder(syntax)
        known, wanted = decoder.is_available, "; ".join(decoder.missing_dependencies)
    except NotImplementedError:
        known, wanted = False, "pydicom knows none"
    if not known:
        raise UserError(
            f"{path} is compressed as {syntax.name} ({syntax}), for which no decoder is installed ({wanted}): install one, or "
            "decompress the files, for instance with gdcmconv --raw."
        )


def _stored(path: Path, found: Any) -> np.dtype:
    """The dtype of the stored values: integers, or floats where no signedness is given (PS3.3, C.7.6.24 and C.7.6.25)."""
    bits, signed = int(found.BitsAllocated), found.get("PixelRepresentation")
    name = f"float{bits}" if signed is None and bits in (32, 64) else f"{'int' if signed else 'uint'}{bits}"
    if name not in dtypes.NAMES:
        raise UserError(f"{path} stores {bits} bits a value, which is not supported: convert it to 8, 16 or 32 bits.")
    return np.dtype(name)


def _transform(found: Any, frame: int) -> Any:
    """The data set that holds slope and intercept of a frame: in enhanced files one of the functional groups, else the file."""
    own = (found.get("PerFrameFunctionalGroupsSequence") or [])[frame : frame + 1]
    for group in (*own, *(found.get("SharedFunctionalGroupsSequence") or [])[:1]):
        if "PixelValueTransformationSequence" in group:
            return group.PixelValueTransformationSequence[0]
    return found


def _scale(path: Path, transform: Any) -> Scale:
    slope, intercept = transform.get("RescaleSlope"), transform.get("RescaleIntercept")
    scale = (1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept))
    if not all(map(math.isfinite, scale)) or scale[0] == 0:
        raise UserError(f"{path} rescales by {scale[0]:g} and {scale[1]:g}, which makes no values: correct its header.")
    return scale


def _units(transform: Any, modality: str) -> str:
    """The rescale type, but US (unspecified); HU for rescaled CT without one, as it must be (PS3.3, C.8.2.1)."""
    given = str(transform.get("RescaleType") or "")
    if not given:
        return "HU" if modality == "CT" and "RescaleSlope" in transform else ""
    return "" if given == "US" else given


def _padding(found: Any, stored: np.dtype) -> int | None:
    """The padding value as the pixels store it: some writers give the same bits with the other signedness."""
    value = found.get("PixelPaddingValue")
    if value is None or stored.kind == "f":
        return None
    (lowest, highest), span, number = dtypes.limits(stored) or (0, 0), 2 ** (8 * stored.itemsize), int(value)
    return number - span if number > highest else number + span if number < lowest else number


def _series(path: Path, files: Sequence[_File]) -> DicomStack:
    """One series as a stack; UserError naming two files that do not agree."""
    first = files[0]
    for file in files:
        for what, here, there in (("shape", file.shape, first.shape), ("dtype", file.stored, first.stored)):
            if here != there:
                raise UserError(
                    f"{file.path} has {what} {here} but {first.path} of the same series has {there} (channels, rows, columns): "
                    "leave one of them out, or give each kind a series of its own."
                )
    files = _ordered(files)
    dtype = _value_type(files)
    slices = tuple(
        Slice(_frame_name(file, frame), file.path, frame, scale, file.palette, file.deflated)
        for file in files
        for frame, scale in enumerate(file.scales)
    )
    metadata = Metadata("dicom", units=first.units, nodata=_nodata(files, dtype))
    return DicomStack(path, slices, (len(slices), *first.shape), dtype, metadata, first.patient, first.study)


def _frame_name(file: _File, frame: int) -> str:
    return file.name if len(file.scales) == 1 else f"{file.name},frame={frame + 1:04d}"


def _ordered(files: Sequence[_File]) -> list[_File]:
    """Along the normal, else by instance number, else by name; slices at one place by number and name."""

    def tie(file: _File) -> tuple[float, str]:
        return (-math.inf if file.number is None else file.number, file.name)

    if all(len(file.orientation) == 6 and len(file.position) == 3 for file in files):
        normal = np.cross(files[0].orientation[:3], files[0].orientation[3:])
        # rounded to a thousandth of a millimetre, so that what scanners write of one place is one place
        return sorted(files, key=lambda file: (round(float(normal @ file.position), 3), *tie(file)))
    if all(file.number is not None for file in files):
        return sorted(files, key=tie)
    return sorted(files, key=lambda file: file.name)


def _value_type(files: Sequence[_File]) -> np.dtype:
    """The dtype of the rescaled values of a series; see `open_dicom`."""
    scales = {scale for file in files for scale in file.scales}
    stored = files[0].stored
    if scales == {UNSCALED} or stored.kind == "f":
        return stored
    slope, intercept = scales.pop()
    if not scales and slope.is_integer() and intercept.is_integer():
        bits = max(file.bits for file in files)
        lowest, highest = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if stored.kind == "i" else (0, 2**bits - 1)
        paddings = [file.padding for file in files if file.padding is not None]
        ends = [int(slope) * value + int(intercept) for value in (lowest, highest, *paddings)]
        for dtype in (np.dtype("int16"), np.dtype("int32")):
            if all(dtypes.held(end, dtype) is not None for end in ends):
                return dtype
    return np.dtype("float32")


def _nodata(files: Sequence[_File], dtype: np.dtype) -> float | None:
    """The one padding value of a series, as its values show it."""
    found: dict[float, _File] = {}
    for file in files:
        if file.padding is not None:
            for slope, intercept in set(file.scales):
                found.setdefault(float(dtype.type(slope * file.padding + intercept)), file)
    if len(found) > 1:
        (one, first), (other, second) = list(found.items())[:2]
        raise UserError(
            f"{first.path} pads with {one:g} but {second.path} of the same series with {other:g} (rescaled): "
            "write the series with one padding value."
        )
    return next(iter(found), None)


def _whole(path: Path) -> Any:
    """All of a DICOM file, without the warnings of what is put right in it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return needs("pydicom", "medical", path).dcmread(path)


def _stored_pixels(piece: Slice) -> np.ndarray:
    """The decoded frame [row, column] or [row, column, channel]; YBR and palettes as RGB."""
    pixels, pydicom = needs("pydicom.pixels", "medical", piece.file), needs("pydicom", "medical", piece.file)
    with reading(piece.file, "as a DICOM file"):
        try:
            # of a deflated file nothing can be read alone
            source = _whole(piece.file) if piece.deflated else piece.file
            stored = pixels.pixel_array(source, index=piece.frame)
        except Exception:  # headers of another encoding than they say are put right only where all is read
            stored = pixels.pixel_array(_whole(piece.file), index=piece.frame)
        if piece.palette:
            stored = pixels.apply_color_lut(stored, pydicom.dcmread(piece.file, stop_before_pixels=True))
    return stored
