"""NIfTI volumes through nibabel, one image per slice and time point."""

from __future__ import annotations

import functools
import math
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from pixelpath.data import dtypes
from pixelpath.data.formats.reading import UNSCALED, BrokenFileError, Scale, check_exists, needs, reading, rescaled
from pixelpath.data.formats.stacks import EVERYTHING, Stack
from pixelpath.data.metadata import Metadata
from pixelpath.errors import UserError

MOST_UNZIPPED = 2**28  # bytes of a compressed volume that is unpacked whole, so that reading slice after slice takes linear time

_unzipping = threading.Lock()


@dataclass(frozen=True, eq=False)
class NiftiStack:
    """The slices of one NIfTI volume along an axis, time point after time point; made by `open_nifti`."""

    path: Path
    volume: tuple[int, int, int, int]
    """The lengths of the volume's axes x, y, z and of time."""
    stored: np.dtype
    offset: int
    scale: Scale
    axis: int
    dtype: np.dtype
    metadata: Metadata
    labels: Int[np.ndarray, "count"] | None = None
    classes: tuple[str, ...] | None = None
    whole: bool = True

    @property
    def shape(self) -> tuple[int, int, int, int]:
        rows, columns = (self.volume[axis] for axis in range(3) if axis != self.axis)
        return self.volume[self.axis] * self.volume[3], 1, rows, columns

    def name(self, index: int) -> str:
        time, place = divmod(index, self.volume[self.axis])
        slice_name = f"{'xyz'[self.axis]}={place:04d}"
        return slice_name if self.volume[3] == 1 else f"t={time:03d},{slice_name}"

    def read(self, index: int, rows: slice = EVERYTHING, columns: slice = EVERYTHING) -> Shaped[np.ndarray, "channel row column"]:
        time, place = divmod(index, self.volume[self.axis])
        window: list[Any] = [rows, columns, time]
        window.insert(self.axis, place)
        with reading(self.path, "as a NIfTI file"):
            values = np.array(self._unscaled(tuple(window)))[None]
        return rescaled(values, self.scale, self.dtype, self.path)

    def _unscaled(self, window: tuple[Any, ...]) -> np.ndarray:
        """Stored values: of a plain file mapped, of a small compressed one from the unpacked volume, else unpacked up to them."""
        arrayproxy = needs("nibabel.arrayproxy", "medical", self.path)
        lazy = arrayproxy.ArrayProxy(str(self.path), (self.volume, self.stored, self.offset))
        if not self.path.name.lower().endswith(".gz"):
            return lazy.get_unscaled()[window]
        if math.prod(self.volume) * self.stored.itemsize > MOST_UNZIPPED:
            return lazy[window]
        with _unzipping:
            return _unzipped(str(self.path), self.path.stat().st_mtime_ns, self.volume, self.stored, self.offset)[window]


def open_nifti(path: Path, axis: int = 2) -> Stack:
    """The slices of a NIfTI volume (.nii, .nii.gz) along its axis 0, 1 or 2; time points follow each other as further images.

    A slice has the first of the two other axes as rows and the second as columns: values lie as they are stored, whatever the
    header says of left and right. Slope and intercept (unless 1 and 0) make float32 of the stored values, float64 of float64.
    Of a plain file only a window is read. Compressed volumes of up to 256 MiB are unpacked whole, and the last two kept; larger
    ones up to the window, each time, so use gunzip on these. Raises UserError naming the file: missing, no NIfTI, cut short, more
    axes, another dtype.
    """
    if axis not in (0, 1, 2):
        raise UserError(f"{path} has no spatial axis {axis}: slice it along `data.axis` 0, 1 or 2.", "data.axis")
    check_exists(path, "a .nii or .nii.gz file")
    nibabel = needs("nibabel", "medical", path)
    with reading(path, "as a NIfTI file"):
        image = nibabel.load(path)
    if not isinstance(image, nibabel.Nifti1Image):
        raise UserError(f"{path} is not a NIfTI file: convert it to one, or give it the ending of its kind.")
    lazy, sides = image.dataobj, tuple(int(side) for side in image.shape)
    if len(sides) < 2 or 0 in sides or any(side > 1 for side in sides[4:]):
        raise UserError(f"{path} has shape {sides}: give a volume of 2 or 3 axes, and time as the fourth.")
    volume = (*sides[:2], sides[2] if len(sides) > 2 else 1, sides[3] if len(sides) > 3 else 1)
    stored = np.dtype(lazy.dtype)
    native = dtypes.checked(stored, path)
    if lazy.offset < image.header.sizeof_hdr:
        raise UserError(f"{path} is a header alone, whose values are in a .img file: convert the pair to one .nii file.")
    needed = lazy.offset + math.prod(volume) * stored.itemsize
    if not path.name.lower().endswith(".gz") and path.stat().st_size < needed:
        raise BrokenFileError(f"{path} ends after {path.stat().st_size} of {needed} bytes: copy it again.")
    scale = (float(lazy.slope), float(lazy.inter))
    scaled = np.dtype("float64" if stored.itemsize == 8 else "float32")
    dtype = native if scale == UNSCALED else scaled
    return NiftiStack(path, volume, stored, int(lazy.offset), scale, axis, dtype, Metadata("nifti"))


@functools.lru_cache(2)
def _unzipped(path: str, changed: int, volume: tuple[int, int, int, int], stored: np.dtype, offset: int) -> np.ndarray:
    """The whole of a compressed volume; by `changed`, the time of its last change, a new file is told from an old one."""
    arrayproxy = needs("nibabel.arrayproxy", "medical", Path(path))
    return arrayproxy.ArrayProxy(path, (volume, stored, offset)).get_unscaled()
