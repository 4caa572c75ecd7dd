"""Sheets of tiles: small images, each with its value and its name as text below it, that follow the theme and width of a page.

A *shot* is a row of native images and the channels that they are shown by. The *sheet* of all shots is one picture file without
words, from which a page cuts its tiles.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from pixelpath.data.metadata import Metadata
from pixelpath.errors import UserError
from pixelpath.reports.display import GAP, GAP_GREY, Display, opaque, show
from pixelpath.reports.names import short
from pixelpath.reports.page import note, number, text

ACROSS = 6  # tiles of a row, at most
SMALL, LARGE = 96, 192  # pixels across: small images are enlarged to about the first, large ones made smaller to the second
STOPS = 15  # of the gradient of a colour bar
SIDES = {"samples": "samples", "training": "training images", "held_out": "held-out images"}

Ranges = Sequence[tuple[float, float]] | None
"""The display range of each channel."""


@dataclass(frozen=True, eq=False)
class Shot:
    """Native images, at most six, and the channels that they are shown by; none: as they are."""

    images: Shaped[np.ndarray, "image channel row column"]
    channels: tuple[int, ...] = ()


def sheet(shots: Sequence[Shot], metadata: Metadata, seen: Ranges) -> Image.Image:
    """The shots below one another as one picture, each in a row of six places. Raises UserError without shots."""
    if not shots:
        raise UserError("A sheet needs at least one row of images.")
    rows = [_pictures(shot, metadata, seen) for shot in shots]
    width, height = rows[0][0].size
    size = ((width + GAP) * ACROSS - GAP, (height + GAP) * len(rows) - GAP)
    canvas = Image.new("RGB", size, (GAP_GREY,) * 3)
    for down, row in enumerate(rows):
        for across, image in enumerate(row):
            canvas.paste(image, (across * (width + GAP), down * (height + GAP)))
    return canvas


def tiles(groups: Sequence[Mapping[str, Any]], drawn: Image.Image) -> str:
    """The groups of a sheet (HTML): titles, and below them rows of tiles cut from the `drawn` sheet, each with its words."""
    parts: list[str] = []
    place, count = 0, sum(len(group["rows"]) for group in groups)
    width, height = (drawn.width + GAP) // ACROSS - GAP, (drawn.height + GAP) // count - GAP
    for group in groups:
        parts.append(f"<h3>{text(group['what'])}</h3>{colour_bar(group['bar'])}")
        for row in group["rows"]:
            of = SIDES[row["of"]]
            parts.append(note(f"{of.capitalize()}: {len(row['tiles'])} of {row['among']:,}"))
            top = place * (height + GAP)
            cells = []
            for across, tile in enumerate(row["tiles"]):
                left = across * (width + GAP)
                cut = drawn.crop((left, top, left + width, top + height))
                cells.append(_tile(cut, tile["value"], tile["name"]))
            parts.append(f"<ul class='tiles'>{''.join(cells)}</ul>")
            place += 1
    return "".join(parts)


def legend(shot: Shot, metadata: Metadata, seen: Ranges) -> dict[str, Any] | None:
    """What `colour_bar` says of the colours of a shot, JSON-ready; None where colours stand for no values."""
    bar = show(shot.images, metadata, Display(shot.channels), seen).bar
    if bar is None:
        return None
    stops = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in bar.colours[:: 255 // STOPS].tolist()]
    return {"lowest": bar.lowest, "highest": bar.highest, "title": bar.title, "stops": stops}


def colour_bar(bar: Mapping[str, Any] | None) -> str:
    """Which value a colour stands for (HTML); empty for None. Values beyond the ends have the colours of these."""
    if bar is None:
        return ""
    ends = [number(bar[end]).replace("-", "\N{MINUS SIGN}") for end in ("lowest", "highest")]
    title = text(bar["title"]) if bar["title"] else ""
    words = f"<span><span>{ends[0]}</span><span>{title}</span><span>{ends[1]}</span></span>"
    return f"<div class='bar'><i style='background: linear-gradient(90deg, {', '.join(bar['stops'])})'></i>{words}</div>"


def _tile(image: Image.Image, value: str, name: str) -> str:
    """An image with its value and its name below it, both also in words for those who do not see it."""
    held = io.BytesIO()
    image.save(held, "PNG", optimize=True)
    data = base64.b64encode(held.getvalue()).decode("ascii")
    said, called = text(value), text(short(name).replace("\n", " "))
    size = f'width="{image.width}" height="{image.height}"'
    picture = f'<img class="sheet" alt="{called}, {said}" {size} src="data:image/png;base64,{data}">'
    return f"<li>{picture}<span><b>{said}</b>{called}</span></li>"


def _pictures(shot: Shot, metadata: Metadata, seen: Ranges) -> list[Image.Image]:
    shown = opaque(show(shot.images, metadata, Display(shot.channels), seen).pictures)
    images = [Image.fromarray(each.squeeze(2) if each.shape[2] == 1 else each).convert("RGB") for each in shown]
    width, height = images[0].size
    if width > LARGE:
        return [image.resize((LARGE, max(1, round(height * LARGE / width))), Image.Resampling.LANCZOS) for image in images]
    scale = max(1, SMALL // width)
    return [image.resize((width * scale, height * scale), Image.Resampling.NEAREST) for image in images]
