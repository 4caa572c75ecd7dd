"""The picture of a start: its samples beside noised images, and what the network makes of both.

*Points* are images [count, 1, 1, values] of two or more values. They are drawn by their first two values, as places in a plane.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pixelpath.reports.display import GAP, PERCENTILES, WIDEST, Native, grid
from pixelpath.reports.pictures import (
    BLUE,
    ORANGE,
    blank,
    rendered,
    styled,
)
from pixelpath.types import Images

SIDE_BY_SIDE, PLACES = 12, 600  # images and points that are shown of each kind
RAW = 200_000  # bytes of images in a picture of four rows, unless that leaves fewer than 3 columns
LETTERS, ROOM, APART = 15, 30, 4  # pixels: of a name, of its line, and of the space between images
KINDS = (
    "Held-out images, noised",
    "Start samples",
    "Estimates of the noised images",
    "Estimates of the start samples",
)


def side_by_side(
    noised: Images,
    drawn: Images,
    estimates_of_noised: Native,
    estimates_of_drawn: Native,
    *,
    south_up: bool = False,
) -> Image.Image:
    """Noised held-out images, start samples, and the denoiser's native estimates of each, in four labelled rows.

    Of noisy images, at most three channels are shown. Their display range is even about 0 and reaches to the extreme percentiles
    of the held-out images. Estimates are shown as `display.grid` shows native images. Images that are `south_up` are drawn with
    north up. Points are drawn as places instead.
    """
    every = (noised, drawn, estimates_of_noised, estimates_of_drawn)
    count = min(shown(tuple(noised.shape[1:])), *map(len, every))
    kinds = [torch.as_tensor(each)[:count].detach().cpu() for each in every]
    if _are_points(noised):
        return _places(kinds)
    kinds = [each.flip(2) for each in kinds] if south_up else kinds
    visible = 3 if noised.shape[1] in (3, 4) else 1
    end = max(abs(value) for value in _percentiles(kinds[0][:, :visible])) or 1.0
    noisy = grid(torch.cat(kinds[:2])[:, :visible], count, (-end, end))
    clean = grid(torch.cat(kinds[2:]), count)
    return _labelled([*_rows(noisy, count), *_rows(clean, count)])


def shown(shape: tuple[int, ...]) -> int:
    """How many images [channel, row, column] of each kind `side_by_side` shows: up to 12, fewer large ones, or 600 points."""
    channels, height, width = shape
    if channels == height == 1 and width > 1:
        return PLACES
    return max(3, min(SIDE_BY_SIDE, RAW // (4 * height * width * min(channels, 3)), WIDEST // (width + GAP)))


def _are_points(images: Images) -> bool:
    return images.shape[1] == images.shape[2] == 1 and images.shape[3] > 1


def _percentiles(values: Tensor) -> list[float]:
    return np.percentile(values.double().numpy(), PERCENTILES).tolist()


def _rows(picture: Image.Image, count: int) -> list[Image.Image]:
    """The two rows of a grid of twice `count` images, with white between these, made smaller where wider than WIDEST."""
    width, height = (picture.width + GAP) // count, (picture.height + GAP) // 2
    rows = [Image.new("RGB", ((width + APART) * count - APART - GAP, height - GAP), "white") for _ in range(2)]
    for down, row in enumerate(rows):
        for across in range(count):
            left, top = across * width, down * height
            row.paste(picture.crop((left, top, left + width - GAP, top + height - GAP)), (left + across * APART, 0))
    smaller = min(1, (WIDEST + APART * count) / rows[0].width)
    size = round(rows[0].width * smaller), max(1, round(rows[0].height * smaller))
    return rows if smaller == 1 else [row.resize(size, Image.Resampling.LANCZOS) for row in rows]


def _labelled(rows: Sequence[Image.Image]) -> Image.Image:
    """Rows of images below one another, each under its name."""
    from matplotlib.font_manager import findfont

    font = ImageFont.truetype(findfont("DejaVu Sans"), LETTERS)
    width = max(*(row.width for row in rows), *(math.ceil(font.getlength(name)) for name in KINDS))
    canvas = Image.new("RGB", (width, sum(row.height + ROOM for row in rows)), "white")
    top = 0
    for name, row in zip(KINDS, rows, strict=True):
        ImageDraw.Draw(canvas).text((0, top + (ROOM - LETTERS) // 2), name, fill="black", font=font)
        canvas.paste(row, (0, top + ROOM))
        top += row.height + ROOM
    return canvas


def _places(kinds: Sequence[Tensor]) -> Image.Image:
    """Points in four planes, the noisy ones to one scale and their estimates to another, each about the held-out ones."""
    figure = blank(7.6)
    for number, (axes, name) in enumerate(zip(figure.subplots(2, 2).flat, KINDS, strict=True)):
        first, second = (kinds[number].flatten(1)[:, place].double().numpy() for place in (0, 1))
        limits = [_around(kinds[number - number % 2].flatten(1)[:, place]) for place in (0, 1)]
        inside = (first >= limits[0][0]) & (first <= limits[0][1]) & (second >= limits[1][0]) & (second <= limits[1][1])
        beyond = f" ({len(inside) - inside.sum():,} of {len(inside):,} further out)" if not inside.all() else ""
        axes.plot(first, second, "o", color=(BLUE, ORANGE)[number % 2], markersize=2.5, alpha=0.5, markeredgewidth=0)
        axes.set(xlim=limits[0], ylim=limits[1], xlabel="first value", ylabel="second value")
        axes.set_title(name + beyond, loc="left", fontsize=9)
    return rendered(styled(figure))


def _around(values: Tensor) -> tuple[float, float]:
    """From percentile to percentile, and a tenth beyond."""
    low, high = _percentiles(values)
    margin = 0.1 * (high - low) or 1.0
    return low - margin, high + margin
