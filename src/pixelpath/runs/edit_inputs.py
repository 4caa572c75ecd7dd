"""What is given to be edited: images in the run's own units, and masks of the pixels to be made anew.

*Straight* images are RGBA as files hold them, where the run works with colours multiplied by alpha (data/alpha.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Shaped
from PIL import Image
from torch import Tensor

from pixelpath.data import dtypes
from pixelpath.data.alpha import premultiply, unpremultiply
from pixelpath.data.opening import open_place
from pixelpath.data.parts import parts
from pixelpath.data.settings import DataSettings
from pixelpath.errors import UserError
from pixelpath.runs.opened import OpenRun

_CHANNELS: dict[int, Literal[1, 3, 4]] = {1: 1, 3: 3, 4: 4}  # of pictures

NativeArray = Shaped[np.ndarray, "image channel row column"]
OpenPixels = Bool[np.ndarray, "image row column"]


@dataclass(frozen=True, eq=False)
class GivenImages:
    """Images in the run's own units, and `straight`, as files hold them; both are the same but for premultiplied colours."""

    native: NativeArray
    straight: NativeArray

    def __len__(self) -> int:
        return len(self.native)

    def chosen(self, places: np.ndarray) -> GivenImages:
        """The images at these places, which may occur again."""
        return GivenImages(self.native[places], self.straight[places])


Given = Path | str | Image.Image | np.ndarray | Tensor | GivenImages
"""Images: a path of one or more, a picture, or an array [row, column], [channel, row, column] or [image, ...]."""

MaskGiven = Path | str | Image.Image | np.ndarray | Tensor
"""Masks: a path of one or more, a picture, or an array [row, column] or [image, row, column]."""


def given_images(run: OpenRun, images: Given) -> GivenImages:
    """The images in the run's units; arrays are in those of `run.sample().images`, files and pictures as the data's files.

    Raises UserError for another size, dtype or number of channels than the run's, and for values that are none.
    """
    if isinstance(images, GivenImages):
        return images
    where = str(images) if isinstance(images, Path | str) else "`image`"
    premultiplied = run.metadata.alpha == "premultiplied"
    if isinstance(images, Path | str | Image.Image):
        straight = _read(run, Path(images)) if isinstance(images, Path | str) else _of_picture(images)
        _check_kind(run, straight, where)
        given = GivenImages(premultiply(straight) if premultiplied else straight, straight)
    else:
        native = _with_channels(run, _numpy(images))
        _check_kind(run, native, where)
        given = GivenImages(native, unpremultiply(native) if premultiplied else native)
    _check_finite(run, given.native, where)
    return given


def open_pixels(run: OpenRun, mask: MaskGiven, count: int) -> OpenPixels:
    """Where `count` images are to be made anew: the pixels of a mask that are other than 0, one mask for all or one for each.

    A pixel of a mask with alpha is 0 where it is transparent. Raises UserError for another size or number of masks, and for masks
    that leave nothing open.
    """
    where = str(mask) if isinstance(mask, Path | str) else "`mask`"
    if isinstance(mask, Path | str):
        source = open_place(parts(Path(mask))[0], DataSettings(Path(mask)), None)
        found = _painted(np.stack([source[index] for index in range(len(source))]), source.metadata.alpha != "")
    elif isinstance(mask, Image.Image):
        found = _painted(_of_picture(mask), "A" in mask.getbands())
    else:
        array = _numpy(mask)
        found = (array[None] if array.ndim == 2 else array) != 0
    if found.ndim != 3 or found.shape[1:] != run.shape[1:]:
        sizes = ["x".join(map(str, shape)) for shape in (found.shape[1:], run.shape[1:])]
        raise UserError(f"{where} is {sizes[0]} pixels but the images are {sizes[1]}: give a mask of that size.", "mask")
    if len(found) not in (1, count):
        raise UserError(f"{where} holds {len(found)} masks for {count} images: give one for all, or one for each.", "mask")
    if not found.any((1, 2)).all():
        raise UserError(f"{where} is 0 everywhere, so that no pixel is to be made anew: paint those that are.", "mask")
    return np.broadcast_to(found, (count, *run.shape[1:]))


def measured_pixels(run: OpenRun, native: NativeArray) -> Bool[np.ndarray, "image channel row column"]:
    """Where native images have a value."""
    valid = run.normaliser.valid(torch.from_numpy(np.ascontiguousarray(native)))
    return np.ones(native.shape, bool) if valid is None else valid.numpy()


def _read(run: OpenRun, path: Path) -> NativeArray:
    """The images at a path as the run's data were read, but not resized; pictures in the run's channels."""
    data, channels = run.recipe.data, run.recipe.data.channels
    if run.metadata.photographs and channels is None:
        channels = _CHANNELS.get(run.shape[0])
    source = open_place(parts(path)[0], DataSettings(path, channels=channels, nodata=data.nodata, axis=data.axis), None)
    if source.shape != run.shape:
        raise _other_shape(run, source.shape, str(path))
    return np.stack([source[index] for index in range(len(source))])


def _of_picture(picture: Image.Image) -> NativeArray:
    array = np.asarray(picture)
    return array[None, None] if array.ndim == 2 else array.transpose(2, 0, 1)[None]


def _painted(masks: NativeArray, alpha: bool) -> OpenPixels:
    if alpha and masks.shape[1] in (2, 4):
        return (masks[:, :-1] != 0).any(1) & (masks[:, -1] != 0)
    return (masks != 0).any(1)


def _numpy(images: np.ndarray | Tensor) -> np.ndarray:
    return images.detach().cpu().numpy() if isinstance(images, Tensor) else np.asarray(images)


def _with_channels(run: OpenRun, array: np.ndarray) -> np.ndarray:
    """An array as [image, channel, row, column]: channels may be missing, or last, where that is the only shape that fits.

    One that does not fit is returned as it is.
    """
    channels, rows, columns = run.shape
    one = array[None] if array.ndim == 3 and array.shape in (run.shape, (rows, columns, channels)) else array
    if one.ndim == 4 and one.shape[1:] != run.shape and one.shape[1:] == (rows, columns, channels):
        return one.transpose(0, 3, 1, 2)
    if channels == 1 and one.ndim in (2, 3):
        return one.reshape(-1, 1, *one.shape[-2:])
    return one


def _check_kind(run: OpenRun, images: np.ndarray, where: str) -> None:
    if images.ndim != 4 or images.shape[1:] != run.shape or len(images) == 0:
        raise _other_shape(run, images.shape[1:] if images.ndim == 4 else images.shape, where)
    if dtypes.checked(images.dtype, where, "image").name != run.normaliser.dtype:
        kind = run.normaliser.dtype
        raise UserError(f"{where} is {images.dtype} but the images of {run.path} are {kind}: convert it.", "image")


def _other_shape(run: OpenRun, shape: tuple[int, ...], where: str) -> UserError:
    words = ["x".join(map(str, each)) for each in (shape, run.shape)]
    kinds = "(channels x rows x columns)"
    return UserError(f"{where} is {words[0]} but {run.path} makes {words[1]} {kinds}: give images of that size.", "image")


def _check_finite(run: OpenRun, native: NativeArray, where: str) -> None:
    wrong = measured_pixels(run, native) & ~np.isfinite(native) if native.dtype.kind == "f" else np.zeros(1, bool)
    if wrong.any():
        raise UserError(f"{where} holds NaN or infinity, which {run.path} has no place for: replace such values.", "image")
