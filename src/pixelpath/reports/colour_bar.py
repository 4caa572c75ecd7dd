"""The colour bar below a grid of images: which value a colour stands for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

BAR, POINT, TICK, LETTERS, MARGIN, NARROWEST = 14, 7, 4, 14, 8, 280  # pixels
EDGE = "#9ca3af"


@dataclass(frozen=True)
class Bar:
    """The meaning of colours: evenly spaced from `lowest` to `highest`, and whether there are values beyond either end."""

    colours: UInt8[np.ndarray, "256 3"]
    lowest: float
    highest: float
    title: str
    beyond: tuple[bool, bool] = (False, False)


def above_bar(picture: Image.Image, bar: Bar) -> Image.Image:
    """The picture with a colour bar of its width below it, pointed where there are values beyond."""
    font = font_of(LETTERS)
    ends = max(font.getlength(f"{end:.5g}") for end in (bar.lowest, bar.highest))
    left = round(ends / 2) + MARGIN  # a number at an end needs so much room beyond it
    width = max(picture.width, NARROWEST, math.ceil(font.getlength(bar.title)) + 2 * MARGIN)
    lines = LETTERS + MARGIN // 2
    canvas = Image.new("RGB", (width, picture.height + MARGIN + BAR + TICK + lines * (2 if bar.title else 1) + MARGIN), "white")
    canvas.paste(picture.convert("RGB"), (0, 0))
    left, right, top = left, width - left, picture.height + MARGIN
    across = bar.colours[np.floor((np.arange(right - left) + 0.5) / (right - left) * 256).astype(int)]
    canvas.paste(Image.fromarray(np.broadcast_to(across, (BAR, *across.shape)).copy()), (left, top))
    pen, below = ImageDraw.Draw(canvas), top + BAR
    pen.rectangle((left - 1, top - 1, right, below), outline=EDGE)
    for pointed, end, tip, colour in zip(bar.beyond, (left - 1, right), (left - POINT, right + POINT), (0, -1), strict=True):
        if pointed:
            corners = [(end, top - 1), (end, below), (tip, (top + below) // 2)]
            pen.polygon(corners, fill=tuple(bar.colours[colour].tolist()), outline=EDGE)
    for value in _ticks(bar, right - left, font):
        place = left + round((value - bar.lowest) / (bar.highest - bar.lowest) * (right - left - 1))
        pen.line((place, below, place, below + TICK), fill="black")
        pen.text((place, below + TICK + 1), _number(value), fill="black", font=font, anchor="mt")
    if bar.title:
        pen.text(((left + right) / 2, below + TICK + lines), bar.title, fill="black", font=font, anchor="mt")
    return canvas


def font_of(size: int) -> ImageFont.FreeTypeFont:
    from matplotlib.font_manager import findfont

    return ImageFont.truetype(findfont("DejaVu Sans"), size)


def _ticks(bar: Bar, width: int, font: ImageFont.FreeTypeFont) -> list[float]:
    """Round values in the range, as many as have room for their numbers."""
    from matplotlib.ticker import MaxNLocator

    found: list[float] = []
    for most in range(10, 0, -1):
        values = MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]).tick_values(bar.lowest, bar.highest)
        slack = 1e-9 * (bar.highest - bar.lowest)
        found = [float(value) for value in values if bar.lowest - slack <= value <= bar.highest + slack]
        if sum(font.getlength(_number(value)) + 2 * MARGIN for value in found) <= width:
            break
    return found


def _number(value: float) -> str:
    return f"{value:.7g}".replace("-", "\N{MINUS SIGN}")
