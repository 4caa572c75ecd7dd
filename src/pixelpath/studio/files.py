"""What leaves the studio as files: pictures of items, downloads in the data's own format, and sprite sheets.

A *sheet* is one picture with the images side by side, without labels and with their transparency, and a JSON file that says where
each is.
"""

from __future__ import annotations

import io
import json
import math
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from pixelpath.data.formats.writers import write_samples
from pixelpath.errors import UserError
from pixelpath.reports.display import Shown, show
from pixelpath.studio import conditions
from pixelpath.studio.gallery import Gallery, Item

STOPS = 17  # colours of a colour bar on the page


@dataclass(frozen=True)
class Download:
    """A file for the browser: what it is called, its kind and its bytes."""

    name: str
    kind: str
    content: bytes


def picture(gallery: Gallery, item: Item) -> bytes:
    """The item as a PNG file of its own pixels, as `reports.display.show` draws it, transparent where it is."""
    return _png(Image.fromarray(_rgba(_shown(gallery, [item]))[0]))


def cond_picture(gallery: Gallery, id: str) -> bytes:
    """A condition image as a PNG file of its own pixels."""
    run = gallery.run
    return _png(Image.fromarray(_rgba(conditions.shown(run, gallery.cond_images.find(run, id)))[0]))


def colour_bar(gallery: Gallery) -> dict[str, Any] | None:
    """What the colours of the items mean; None where they are the images' own."""
    items = list(gallery.items.values())
    bar = _shown(gallery, items[:1]).bar if items else None
    if bar is None or gallery.run.metadata.photographs:
        return None
    chosen = bar.colours[np.linspace(0, 255, STOPS).round().astype(int)].tolist()
    colours = [f"rgb({red} {green} {blue})" for red, green, blue in chosen]
    return {"lowest": f"{bar.lowest:.5g}", "highest": f"{bar.highest:.5g}", "title": bar.title, "colours": colours}


def values(gallery: Gallery, item: Item) -> dict[str, Any]:
    """The item's values row by row, channel by channel, and what its channels are called; not finite ones are null."""
    metadata, wide = gallery.metadata, item.straight.astype(np.float64)
    rounded = [float(f"{value:.6g}") if math.isfinite(value) else None for value in wide.ravel().tolist()]
    units = list(metadata.channel_units) or [metadata.units] * len(wide)
    usual = {1: [""], 3: ["red", "green", "blue"], 4: ["red", "green", "blue", "alpha"]} if metadata.photographs else {}
    names = list(metadata.channels) or usual.get(len(wide)) or [f"channel {place}" for place in range(len(wide))]
    return {"shape": list(wide.shape), "values": rounded, "names": [""] if len(wide) == 1 else names, "units": units}


def native(gallery: Gallery, items: Sequence[Item]) -> Download:
    """The items in the format of the data; a .zip file if that makes several files. UserError for none."""
    _check(items)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "images"
        images = np.stack([item.straight for item in items])
        written = write_samples(folder, images, gallery.metadata, 0)
        if len(items) == 1 and len(written) == 1 and written[0].is_file():
            name = items[0].name.replace(", ", "-").replace(" ", "-")
            return Download(f"{name}{''.join(written[0].suffixes)}", "application/octet-stream", written[0].read_bytes())
        about = [{"name": item.name, **item.how} for item in items]
        files = {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}
    return _zipped("images.zip", {**files, "images.json": json.dumps(about, indent=2).encode()})


def sheet(gallery: Gallery, items: Sequence[Item], columns: int | None = None) -> Download:
    """The items as a sprite sheet in RGBA of their own pixels, and its JSON, in a .zip file; UserError for none."""
    _check(items)
    tiles = _rgba(_shown(gallery, items))
    across = min(columns or math.ceil(math.sqrt(len(tiles))), len(tiles))
    height, width = tiles.shape[1:3]
    canvas = np.zeros((math.ceil(len(tiles) / across) * height, across * width, 4), np.uint8)
    frames = []
    for place, (tile, item) in enumerate(zip(tiles, items, strict=True)):
        row, column = divmod(place, across)
        canvas[row * height : (row + 1) * height, column * width : (column + 1) * width] = tile
        frames.append({"name": item.name, "x": column * width, "y": row * height, "width": width, "height": height, **item.how})
    about = {"image": "sheet.png", "columns": across, "tile": {"width": width, "height": height}, "frames": frames}
    files = {"sheet.png": _png(Image.fromarray(canvas)), "sheet.json": json.dumps(about, indent=2).encode()}
    return _zipped("sheet.zip", files)


def _shown(gallery: Gallery, items: Sequence[Item]) -> Shown:
    return show(np.stack([item.straight for item in items]), gallery.metadata, seen=gallery.seen)


def _rgba(shown: Shown) -> UInt8[np.ndarray, "image row column 4"]:
    pictures = shown.pictures
    colours = np.repeat(pictures, 3, axis=3) if pictures.shape[3] == 1 else pictures
    return colours if colours.shape[3] == 4 else np.concatenate([colours, np.full_like(colours[..., :1], 255)], axis=3)


def _check(items: Sequence[Item]) -> None:
    if not items:
        raise UserError("No images are chosen: choose at least one.", "id")


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _zipped(name: str, files: dict[str, bytes]) -> Download:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for inner, content in files.items():
            archive.writestr(inner, content)
    return Download(name, "application/zip", held.getvalue())
