"""How images look on a screen: which of their channels are shown, between which values, and in which colours.

*Native* images are [image, channel, row, column] in the dtype the data were stored in. The *display range* (lowest, highest) of
native values maps to the first and the last colour; values outside are clipped to it. *Photographs* are 8-bit images of 1, 3 or
4 channels without units. All other images are *measured*. A *colour bar* says which value a colour stands for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pixelpath.data.alpha import unpremultiply
from pixelpath.data.formats.writers import nodata_in
from pixelpath.data.metadata import Metadata
from pixelpath.errors import UserError
from pixelpath.reports.colour_bar import Bar, above_bar, font_of

Native = Shaped[Tensor, "image channel row column"] | Shaped[np.ndarray, "image channel row column"]
Pictures = UInt8[np.ndarray, "image row column colour"]
Colours = Literal["auto", "grey", "sequential", "diverging"]

WIDEST, HIGHEST, LARGEST_SCALE = 1000, 2000, 32  # of a grid of enlarged images: pixels, pixels, pixels per pixel
GAP, GAP_GREY = 2, 128
TILE, LIGHT, DARK = 8, 255, 204  # the checkerboard behind transparent pixels
PERCENTILES = (0.5, 99.5)
MISSING = 150  # the grey of what was not measured
BOTH_SIGNS = 0.2  # a range counts as having two signs if its nearer end is so far from 0, as a share of the other end
MAPS = {"sequential": "viridis", "diverging": "RdBu_r"}  # perceptually uniform; white at 0
RADIOLOGY = ("dicom", "nifti")  # read in grey the world over
MANY = 6  # channels of measured images up to which a grid shows all
BETWEEN = 18  # pixels between the grids of two channels
LABEL_SIZES, LABELLED = (14, 12, 11), 48  # letters of labels, the largest that fit; pixels across that an image with one has


@dataclass(frozen=True)
class Display:
    """How previews and grids show images."""

    channels: tuple[int, ...] = ()
    """Which channel to show, or which three as red, green and blue. Default: the channels of these names, else three without
    names as such, else each of up to six by itself, else the first.
    """
    percentiles: tuple[float, float] = PERCENTILES
    """The display range of measured values, as percentiles: of the training data if they are 0.5 and 99.5, else of the images
    shown.
    """
    range: tuple[float, float] | None = None
    """The display range itself, in native values."""
    colours: Colours = "auto"
    """Colours of one channel: grey, sequential, or diverging from 0. auto: photographs, DICOM and NIfTI in grey; others diverging
    if both ends of the display range are far from 0 (the nearer one at least a fifth as far as the other), else sequential.
    """

    def __post_init__(self) -> None:
        first, last = self.percentiles
        if len(self.channels) not in (0, 1, 3) or any(channel < 0 for channel in self.channels):
            sentence = f"`display.channels` takes one channel, or three as colours, numbered from 0, got {self.channels}."
            raise UserError(sentence, setting="display.channels")
        if not 0 <= first < last <= 100:
            sentence = f"`display.percentiles` must rise from at least 0 to at most 100, got {first:g} and {last:g}."
            raise UserError(sentence, setting="display.percentiles")
        if self.range is not None and not self.range[0] < self.range[1]:
            sentence = f"`display.range` needs a lowest value below its highest, got {self.range[0]} and {self.range[1]}."
            raise UserError(sentence, setting="display.range")
        if len(self.channels) == 3 and self.colours != "auto":
            sentence = f"Three channels make colours of their own: omit `display.colours` {self.colours}, or choose one channel."
            raise UserError(sentence, setting="display.colours")


BY_RULE = Display()


@dataclass(frozen=True)
class Shown:
    """Pictures of 1 (grey), 3 (RGB) or 4 (RGBA) colours, and the colour bar if colours stand for values."""

    pictures: Pictures
    bar: Bar | None = None


def grid(
    images: Native,
    columns: int,
    ends: tuple[float, float] | None = None,
    *,
    metadata: Metadata | None = None,
    display: Display = BY_RULE,
    seen: Sequence[tuple[float, float]] | None = None,
    labels: Sequence[str] | None = None,
) -> Image.Image:
    """Native images in rows of `columns`, small ones enlarged by a whole number until the grid is 600 to 1000 pixels wide.

    With `metadata` (or a display other than by rule) as `panels` draws them, one grid below the other, each above a colour bar
    if colours stand for values. Otherwise one channel is grey, three are RGB, four are RGBA over a checkerboard, and of any other
    number the first is shown in grey. Their display range is `ends` if given; else it reaches from the 0.5th to the 99.5th
    percentile of finite floats, or spans the dtype of integers. `labels` of one or more lines stand below the images, in strips
    of their own. Raises UserError without images or columns, or for an empty range.
    """
    if labels is not None and len(labels) != len(images):
        raise UserError(f"A grid of {len(images)} images takes as many labels, got {len(labels)}.")
    if len(images) == 0 or columns < 1:
        raise UserError(f"A grid needs at least one image and one column, got {len(images)} images and {columns} columns.")
    values = images.detach().cpu().numpy() if isinstance(images, Tensor) else images
    if metadata is None and display == BY_RULE and seen is None:
        return _laid_out(_plain(values, ends), columns, labels)
    drawn = []
    for shown in panels(values, metadata or Metadata(), display, seen):
        canvas = _laid_out(shown.pictures, columns, labels)
        drawn.append(canvas if shown.bar is None else above_bar(canvas, shown.bar))
    return drawn[0] if len(drawn) == 1 else _below_each_other(drawn)


def panels(
    values: Shaped[np.ndarray, "image channel row column"],
    metadata: Metadata,
    display: Display = BY_RULE,
    seen: Sequence[tuple[float, float]] | None = None,
) -> list[Shown]:
    """Native images as `show` draws them, once for every choice of channels that is worth a look.

    Of measured images with up to six channels that are not colours every channel is shown, unless `display` chooses.
    """
    if _is_plain(values, metadata, display):
        return [show(values, metadata, display, seen)]
    wanted = choices(values.shape[1], metadata, display)
    return [show(values, metadata, replace(display, channels=tuple(chosen)), seen) for chosen in wanted]


def show(
    values: Shaped[np.ndarray, "image channel row column"],
    metadata: Metadata,
    display: Display = BY_RULE,
    seen: Sequence[tuple[float, float]] | None = None,
) -> Shown:
    """Native images as pictures.

    Photographs are shown as they are: 4 channels as RGBA, between the limits of the dtype. Of measured images, one channel is
    shown in colours that stand for values, or three channels become RGB, each with its own display range. The display range is
    that of `display`, else `seen` (lowest and highest of each channel of the training data), else percentiles of these images.
    Diverging colours widen it to be even about 0. What was not measured is grey. North is up where the metadata tell. Raises
    UserError for channels that do not exist.
    """
    if metadata.south_up:
        return show(values[:, :, ::-1], replace(metadata, south_up=False), display, seen)
    photographs = are_photographs(values, metadata)
    if _is_plain(values, metadata, display):
        whole = unpremultiply(values) if metadata.alpha == "premultiplied" and values.shape[1] == 4 else values
        return Shown(_plain(whole, display.range))
    chosen = choices(values.shape[1], metadata, display)[0]
    measured = _measured(values[:, chosen], metadata)
    ranges = [
        _range_of(values[:, channel], measured[:, place], display, _seen(seen, channel, values.shape[1]))
        for place, channel in enumerate(chosen)
    ]
    if len(chosen) == 3:
        pictures = np.stack([_bytes(values[:, channel], *ends) for channel, ends in zip(chosen, ranges, strict=True)], axis=-1)
        pictures[~measured.all(axis=1)] = MISSING
        return Shown(pictures)
    colours = _colours(display, metadata, ranges[0], photographs)
    lowest, highest = ranges[0]
    if colours == "diverging":
        highest = max(abs(lowest), abs(highest))
        lowest = -highest
    table = _table(colours)
    pictures = table[_bytes(values[:, chosen[0]], lowest, highest)]
    pictures[~measured[:, 0]] = MISSING
    known = values[:, chosen[0]][measured[:, 0]].astype(np.float64)
    beyond = bool((known < lowest).any()), bool((known > highest).any())
    title = _title(chosen[0], values.shape[1], metadata, bool(measured.all()))
    return Shown(pictures, Bar(table, lowest, highest, title, beyond))


def are_photographs(values: Shaped[np.ndarray, "image channel row column"], metadata: Metadata) -> bool:
    """Whether the metadata say so, or 8-bit images of 1, 3 or (with alpha) 4 channels have neither units nor nodata."""
    colours = values.shape[1] in (1, 3) or (values.shape[1] == 4 and metadata.alpha != "")
    return metadata.photographs or (values.dtype == np.uint8 and colours and metadata.nodata is None and not metadata.units)


def _is_plain(values: Shaped[np.ndarray, "image channel row column"], metadata: Metadata, display: Display) -> bool:
    """Whether these are photographs that are shown as they are."""
    return are_photographs(values, metadata) and not display.channels and display.colours == "auto"


def choices(count: int, metadata: Metadata, display: Display = BY_RULE) -> list[list[int]]:
    """The channels that are shown together, one or three of them, in the order in which these are worth a look."""
    if display.channels:
        if max(display.channels) >= count:
            missing = f"There is no channel {max(display.channels)} to show among {count}"
            sentence = f"{missing}: choose `display.channels` from 0 to {count - 1}."
            raise UserError(sentence, setting="display.channels")
        return [list(display.channels)]
    if display.colours != "auto":
        return [[0]]
    names = [name.lower() for name in metadata.channels]
    for wanted in (("red", "green", "blue"), ("r", "g", "b")):
        if all(name in names for name in wanted):
            return [[names.index(name) for name in wanted]]
    if count == 3 and not names:
        return [[0, 1, 2]]
    return [[channel] for channel in range(count)] if count <= MANY else [[0]]


def _measured(
    values: Shaped[np.ndarray, "image chosen row column"], metadata: Metadata
) -> Shaped[np.ndarray, "image chosen row column"]:
    """Whether a value is a measurement: neither NaN nor nodata."""
    nodata = nodata_in(metadata, values.dtype)
    found = ~np.isnan(values) if values.dtype.kind == "f" else np.ones(values.shape, bool)
    return found if nodata is None else found & (values != values.dtype.type(nodata))


def _seen(seen: Sequence[tuple[float, float]] | None, channel: int, count: int) -> tuple[float, float] | None:
    if seen is None:
        return None
    if len(seen) != count:
        raise UserError(f"A display range was given for {len(seen)} channels, but the images have {count}: give one for each.")
    return seen[channel]


def _range_of(
    values: Shaped[np.ndarray, "image row column"],
    measured: Shaped[np.ndarray, "image row column"],
    display: Display,
    seen: tuple[float, float] | None,
) -> tuple[float, float]:
    if display.range is not None:
        return display.range
    if seen is not None and display.percentiles == PERCENTILES:
        return seen if seen[0] < seen[1] else (seen[0], seen[0] + 1.0)
    return _between(values[measured], display.percentiles)


def _between(values: np.ndarray, percentiles: tuple[float, float]) -> tuple[float, float]:
    """The percentiles of the finite values, the higher one raised by 1 if they are equal."""
    finite = values[np.isfinite(values)].astype(np.float64)
    if finite.size == 0:
        return 0.0, 1.0
    lowest, highest = np.percentile(finite, percentiles).tolist()
    return lowest, highest if highest > lowest else lowest + 1.0


def _colours(display: Display, metadata: Metadata, ends: tuple[float, float], photographs: bool) -> str:
    if display.colours != "auto":
        return display.colours
    if photographs or metadata.format in RADIOLOGY:
        return "grey"
    lowest, highest = ends
    both = lowest < 0 < highest and min(-lowest, highest) >= BOTH_SIGNS * max(-lowest, highest)
    return "diverging" if both else "sequential"


def _table(colours: str) -> UInt8[np.ndarray, "256 3"]:
    steps = np.arange(256)
    if colours == "grey":
        return np.repeat(steps[:, None], 3, axis=1).astype(np.uint8)
    import matplotlib

    return np.floor(matplotlib.colormaps[MAPS[colours]](steps)[:, :3] * 255 + 0.5).astype(np.uint8)


def _title(channel: int, count: int, metadata: Metadata, complete: bool) -> str:
    words = metadata.called(channel, count)
    return words if complete else f"{words}; grey: not measured".removeprefix("; ")


def _bytes(values: np.ndarray, lowest: float, highest: float) -> np.ndarray:
    """0 at the lowest value to 255 at the highest, rounded; NaN is 0."""
    shown = (values.astype(np.float64) - lowest) / (highest - lowest)
    shown = np.nan_to_num(shown, nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1)
    return np.floor(shown * 255 + 0.5).astype(np.uint8)


def _plain(values: np.ndarray, ends: tuple[float, float] | None) -> Pictures:
    """Photographs, and images without metadata."""
    values = values if values.shape[1] in (1, 3, 4) else values[:, :1]
    lowest, highest = ends or _range(values)
    if not lowest < highest:
        raise UserError(f"A display range needs a lowest value below its highest, got {lowest} and {highest}.")
    return _bytes(values, lowest, highest).transpose(0, 2, 3, 1)


def _range(values: np.ndarray) -> tuple[float, float]:
    """The display range where none is given."""
    if values.dtype == np.bool_:
        return 0.0, 1.0
    if values.dtype.kind in "iu":
        return float(np.iinfo(values.dtype).min), float(np.iinfo(values.dtype).max)
    return _between(values, PERCENTILES)


def _laid_out(pictures: Pictures, columns: int, labels: Sequence[str] | None) -> Image.Image:
    """Pictures in rows, enlarged, with grey between them; with labels white, and these below them."""
    count, height, width, _ = pictures.shape
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    room = min((WIDEST - GAP * (columns - 1)) // (columns * width), HIGHEST // (rows * height))
    scale = max(1, min(room, LARGEST_SCALE))
    tiles = opaque(pictures.repeat(scale, axis=1).repeat(scale, axis=2))
    across = tiles.shape[2] if labels is None else max(tiles.shape[2], LABELLED)
    font, strip = (None, 0) if labels is None else _fitting(labels, across)
    height, width = tiles.shape[1] + strip + GAP, across + GAP
    ground = GAP_GREY if labels is None else 255
    canvas = np.full((rows * height - GAP, columns * width - GAP, tiles.shape[3]), ground, np.uint8)
    for place, tile in enumerate(tiles):
        row, column = divmod(place, columns)
        canvas[row * height :, column * width :][: tile.shape[0], : tile.shape[1]] = tile
    picture = Image.fromarray(canvas.squeeze(2) if canvas.shape[2] == 1 else canvas)
    pen = ImageDraw.Draw(picture)
    for place, label in enumerate(labels or ()):
        assert font is not None
        row, column = divmod(place, columns)
        lines = "\n".join(_shortened(line, font, across) for line in label.split("\n"))
        pen.text((column * width, row * height + tiles.shape[1] + 1), lines, fill="black", font=font, spacing=1)
    return picture


def _below_each_other(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures on white, one below the other."""
    height = sum(picture.height for picture in pictures) + BETWEEN * (len(pictures) - 1)
    canvas, top = Image.new("RGB", (max(picture.width for picture in pictures), height), "white"), 0
    for picture in pictures:
        canvas.paste(picture.convert("RGB"), (0, top))
        top += picture.height + BETWEEN
    return canvas


def _fitting(labels: Sequence[str], width: int) -> tuple[ImageFont.FreeTypeFont, int]:
    """The largest font in which every label fits the width, else the smallest; and the height of a strip of labels."""
    lines = [line for label in labels for line in label.split("\n")]
    fonts = [font_of(size) for size in LABEL_SIZES]
    font = next((font for font in fonts if all(font.getlength(line) <= width for line in lines)), fonts[-1])
    most = max((label.count("\n") + 1 for label in labels), default=0)
    return font, most * (sum(font.getmetrics()) + 1) + 2


def _shortened(line: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The line, its middle left out if it is too long."""
    short, kept = line, len(line)
    while font.getlength(short) > width and kept > 2:
        kept -= 1
        short = f"{line[: kept // 2]}\N{HORIZONTAL ELLIPSIS}{line[len(line) - (kept - kept // 2) :]}"
    return short


def opaque(tiles: Pictures) -> UInt8[np.ndarray, "image row column opaque"]:
    """RGBA over a checkerboard; other images as they are."""
    if tiles.shape[3] != 4:
        return tiles
    rows, columns = np.indices(tiles.shape[1:3]) // TILE
    board = np.where((rows + columns) % 2, DARK, LIGHT)[..., None]
    alpha = tiles[..., 3:] / 255
    return np.floor(tiles[..., :3] * alpha + board * (1 - alpha) + 0.5).astype(np.uint8)
