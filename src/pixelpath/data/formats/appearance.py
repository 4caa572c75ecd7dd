"""How stored samples become what is seen: upright, and colours as grey, RGB or RGBA.

The *photometric interpretation* of a TIFF page says what its samples stand for; *extra* samples come after its colours. An
*orientation* (TIFF and EXIF) from 1 to 8 says how a stored picture must be turned to stand upright.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped
from PIL import Image

Planes = Shaped[np.ndarray, "_ _ _"]

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
JPEGS = (6, 7, 34892, 33007)  # compressions that store RGB as YCbCr themselves
STRANGE = {
    8: "L*a*b* colours",
    9: "L*a*b* colours",
    10: "L*a*b* colours",
    32803: "a colour filter array",
    32844: "LogL brightness",
    32845: "LogLuv colours",
}
ALPHAS = {1: "RGBa", 2: "RGBA"}  # values of ExtraSamples: colours multiplied by their alpha, and as they are
BYTES = {1: "L", 3: "RGB", 4: "RGBA"}
MIRRORED, UPSIDE_DOWN, SIDEWAYS = (2, 3, 7, 8), (3, 4, 6, 7), (5, 6, 7, 8)  # columns, rows, rows and columns change places


class Colours(NamedTuple):
    """What the samples of a TIFF page stand for, by its tags."""

    photometric: int
    samples: int
    extra: tuple[int, ...]
    dtype: np.dtype
    bits: int
    """Per sample; fewer than the dtype has if samples are packed."""
    compression: int
    inks: bool = False
    """Whether separated colours are other inks than CMYK."""
    subsampled: bool = True
    """Whether the chroma of YCbCr has fewer pixels than its brightness."""
    palette: Shaped[np.ndarray, "colour index"] | None = None

    def same(self, other: Colours) -> bool:
        """Whether two pages look alike."""
        palettes = [None if each.palette is None else each.palette.tobytes() for each in (self, other)]
        return self._replace(palette=None) == other._replace(palette=None) and palettes[0] == palettes[1]

    @property
    def _unsigned(self) -> bool:
        return self.dtype.kind in "ub"

    @property
    def _is_ycbcr(self) -> bool:
        return self.photometric == YCBCR and self.compression not in JPEGS

    @property
    def _stored(self) -> int:
        """How many samples the colours take."""
        cmyk = self.photometric == CMYK and not self.inks
        return {RGB: 3, YCBCR: 3}.get(self.photometric, 4 if cmyk else 1)

    @property
    def letters(self) -> str:
        """L, RGB, RGBA or RGBa (premultiplied); "" for bands that are not all colours."""
        grey = self.photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO)
        if not grey and self.photometric not in (RGB, PALETTE, YCBCR) and not (self.photometric == CMYK and not self.inks):
            return ""
        beyond = self.samples - self._stored
        if beyond == 0:
            return "L" if grey else "RGB"
        seen = self._unsigned and self.dtype.itemsize <= 2
        return ALPHAS.get(self.extra[0], "") if beyond == 1 and len(self.extra) == 1 and (seen or not grey) else ""

    @property
    def strange(self) -> str | None:
        """What these samples are, if it is nothing that can be brought to grey, RGB or bands."""
        if self.photometric in STRANGE:
            return STRANGE[self.photometric]
        if self._is_ycbcr and (self.subsampled or self.dtype != np.uint8 or self.samples != 3):
            return "YCbCr colours with fewer pixels of chroma, or of other depth than 8 bits"
        if self.photometric == PALETTE and (self.palette is None or not self._unsigned):
            return "colours as a palette that is missing"
        if self.photometric in (WHITE_IS_ZERO, CMYK) and not self.inks and not self._unsigned:
            return f"{'white as zero' if self.photometric == WHITE_IS_ZERO else 'CMYK colours'} in {self.dtype}"
        if self.photometric == CMYK and not self.inks and self.samples < 4:
            return f"CMYK colours of {self.samples} samples"
        return None

    def shown(self, values: Planes) -> Planes:
        """The samples of a page as grey, RGB, RGBA or bands: white - value, and (white - ink)(white - black) / white for CMYK.

        1, 2 and 4 bits become 8, black 0 and white 255, as in other pictures; of other depths values stay in their range.
        """
        white = 2**self.bits - 1
        colours, rest = values[: self._stored], self._in_bytes(values[self._stored :])
        if self.photometric == PALETTE and self.palette is not None:
            deep = self.palette.max(initial=0) > 255  # some writers give 8 bits where 16 are due
            colours = (self.palette >> 8 if deep else self.palette).astype(np.uint8)[:, colours[0].astype(np.intp)]
        elif self.photometric == CMYK and not self.inks:
            inks = white - colours.astype(np.uint64)
            colours = self._in_bytes(((inks[:3] * inks[3] + white // 2) // white).astype(values.dtype))
        elif self._is_ycbcr:
            interleaved = np.ascontiguousarray(colours.transpose(1, 2, 0))
            image = Image.frombuffer("YCbCr", interleaved.shape[1::-1], interleaved, "raw", "YCbCr", 0, 1)
            colours = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
        else:
            inverted = self.photometric == WHITE_IS_ZERO
            colours = self._in_bytes((white - colours.astype(np.uint64)).astype(values.dtype) if inverted else colours)
        if len(colours) == 1 and self.letters in ALPHAS.values():
            colours = np.repeat(colours, 3, 0)
        return np.concatenate([colours, rest.astype(colours.dtype)]) if len(rest) else colours

    def _in_bytes(self, planes: Planes) -> Planes:
        return planes if self.bits >= 8 else planes.astype(np.uint8) * np.uint8(255 // (2**self.bits - 1))


def turned(planes: Planes, orientation: int) -> Planes:
    """A view of a stored picture that stands upright."""
    rows = -1 if orientation in UPSIDE_DOWN else 1
    columns = -1 if orientation in MIRRORED else 1
    flipped = planes[:, ::rows, ::columns]
    return flipped.transpose(0, 2, 1) if orientation in SIDEWAYS else flipped


def turned_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Rows and columns of an upright picture from the stored ones, and the stored ones from those of the upright."""
    return (size[1], size[0]) if orientation in SIDEWAYS else size


def stored_window(rows: range, columns: range, size: tuple[int, int], orientation: int) -> tuple[slice, slice]:
    """Where a window of an upright picture lies in the stored one, which is of `size`."""
    down, across = (columns, rows) if orientation in SIDEWAYS else (rows, columns)
    top, bottom = (size[0] - down.stop, size[0] - down.start) if orientation in UPSIDE_DOWN else (down.start, down.stop)
    left, right = (size[1] - across.stop, size[1] - across.start) if orientation in MIRRORED else (across.start, across.stop)
    return slice(top, bottom), slice(left, right)


def converted(planes: Planes, channels: int | None) -> Planes:
    """An 8-bit picture in grey (1), RGB (3) or RGBA (4), as Pillow converts them."""
    if channels in (None, len(planes)):
        return planes
    stored = planes[0] if len(planes) == 1 else np.ascontiguousarray(planes.transpose(1, 2, 0))
    array = np.asarray(Image.fromarray(stored).convert(BYTES[channels]))
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def planes_in(image: Image.Image) -> Planes:
    """The channels of a Pillow picture."""
    array = np.asarray(image)
    return array.transpose(2, 0, 1) if array.ndim == 3 else array[None]
