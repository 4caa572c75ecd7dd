"""Picture files of every kind: each is read as the values that were written, or refused by one sentence that names it."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from PIL import Image
from tests.data.formats import png
from tests.refusal import refused

from pixelpath.data.formats import pictures
from pixelpath.data.formats.recent import Recent
from pixelpath.data.formats.tiff import open_tiff
from pixelpath.data.opening import open_source, open_split
from pixelpath.data.settings import DataSettings
from pixelpath.errors import UserError

TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # of [row, column, ...], as EXIF 2.3 defines the tag
    1: lambda image: image,
    2: np.fliplr,
    3: lambda image: np.rot90(image, 2),
    4: np.flipud,
    5: lambda image: np.swapaxes(image, 0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(np.swapaxes(image, 0, 1), 2),
    8: np.rot90,
}
quick = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
long = settings(quick, max_examples=4000)


def planes(image: np.ndarray) -> np.ndarray:
    return image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)


def of_any_value(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if np.dtype(dtype).kind == "f":
        return random.normal(size=shape).astype(dtype)
    limits = np.iinfo(dtype)
    return random.integers(limits.min, limits.max, shape, dtype, endpoint=True)


class Page(NamedTuple):
    """How a TIFF file is written."""

    dtype: str
    colours: str
    extra: tuple[str, ...]
    planar: str
    packing: str | None
    predictor: bool
    tiled: bool
    byteorder: str
    big: bool
    orientation: int
    size: tuple[int, int]
    seed: int


PAGES = some.builds(
    Page,
    some.sampled_from(("uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64", "bool", "int64")),
    some.sampled_from(("minisblack", "miniswhite", "rgb", "palette", "separated")),
    some.sampled_from(((), ("unspecified",), ("unassalpha",), ("assocalpha",), ("unspecified", "unassalpha"))),
    some.sampled_from(("contig", "separate")),
    some.sampled_from((None, "zlib", "lzw", "packbits", "zstd", "lzma")),
    some.booleans(),
    some.booleans(),
    some.sampled_from("<>"),
    some.booleans(),
    some.integers(1, 8),
    some.tuples(some.integers(1, 40), some.integers(1, 40)),
    some.integers(0, 2**32),
)


def written(path: Path, page: Page) -> tuple[np.ndarray, str] | None:
    """What was written, as [channel, row, column] upright, and its alpha; None for what tifffile does not write."""
    random, base = np.random.default_rng(page.seed), {"rgb": 3, "separated": 4}.get(page.colours, 1)
    shape = (*page.size, base + len(page.extra))
    values = random.random(shape) < 0.5 if page.dtype == "bool" else of_any_value(random, shape, page.dtype)
    stored = values[..., 0] if shape[2] == 1 else np.moveaxis(values, -1, 0) if page.planar == "separate" else values
    palette = random.integers(0, 65536, (3, 2 ** (16 if page.dtype == "uint16" else 8)), np.uint16)
    options: dict[str, Any] = {"colormap": palette} if page.colours == "palette" else {}
    if shape[2] > 1:
        options |= {"planarconfig": page.planar, "extrasamples": page.extra}
    if page.packing is not None and page.predictor and page.dtype != "bool" and page.packing != "packbits":
        options["predictor"] = True
    try:
        tifffile.imwrite(
            path,
            np.ascontiguousarray(stored),
            photometric=page.colours,
            compression=page.packing,
            tile=(16, 32) if page.tiled else None,
            rowsperstrip=None if page.tiled else 7,
            byteorder=page.byteorder,
            bigtiff=page.big,
            metadata=None,
            extratags=[(274, "H", 1, page.orientation, True)],
            **options,
        )
    except (ValueError, TypeError, KeyError, NotImplementedError, RuntimeError):
        return None
    image, alpha = expected(values, page, palette)
    return planes(TURNS[page.orientation](image)), alpha


def expected(values: np.ndarray, page: Page, palette: np.ndarray) -> tuple[np.ndarray, str]:
    """[row, column, channel] as seen, and its alpha, from what was stored."""
    base, kind = {"rgb": 3, "separated": 4}.get(page.colours, 1), np.dtype(page.dtype).kind
    if page.dtype == "bool":
        values, kind = values.astype(np.uint8) * np.uint8(255), "u"
    colours, rest = values[..., :base], values[..., base:]
    if kind == "u" and page.colours in ("miniswhite", "separated"):
        share = 1 - colours / np.float64(np.iinfo(values.dtype).max)
        share = share[..., :3] * share[..., 3:] if page.colours == "separated" else share
        colours = np.rint(share * np.iinfo(values.dtype).max).astype(values.dtype)
    if page.colours == "palette":
        colours = (palette[:, colours[..., 0]] >> 8).astype(np.uint8).transpose(1, 2, 0)
    alpha = {("unassalpha",): "straight", ("assocalpha",): "premultiplied"}.get(page.extra, "")
    if base == 1 and page.colours != "palette" and alpha and values.dtype in (np.uint8, np.uint16):
        colours = np.repeat(colours, 3, -1)
    elif base == 1 and page.colours != "palette":
        alpha = ""
    return np.concatenate([colours, rest.astype(colours.dtype)], -1), alpha


def check_page(folder: Path, page: Page) -> None:
    path = folder / "a.tif"
    made = written(path, page)
    if made is None:
        return
    image, alpha = made
    seen = page.dtype in ("uint8", "uint16", "uint32", "bool") or page.colours in ("rgb", "minisblack")
    if not seen or page.dtype == "int64" or (page.colours == "palette" and page.extra and page.dtype == "uint16"):
        with pytest.raises(UserError, match=r"a\.tif"):
            open_source(path)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source, stack = open_source(path), open_tiff(path)
    assert (source.shape, source.dtype) == (image.shape, image.dtype)
    np.testing.assert_array_equal(source[0], image)
    assert stack.metadata.alpha == alpha
    assert source.metadata.alpha == (alpha if image.dtype.name in ("uint8", "uint16") else "")
    rows, columns = slice(page.seed % image.shape[1], None), slice(0, 1 + page.seed % image.shape[2])
    np.testing.assert_array_equal(stack.read(0, rows, columns), image[:, rows, columns])


@quick
@given(PAGES)
def test_a_tiff_file_is_read_as_it_was_written_or_refused(tmp_path: Path, page: Page) -> None:
    check_page(tmp_path, page)


@pytest.mark.full
@long
@given(PAGES)
def test_thousands_of_tiff_files_are_read_as_they_were_written(tmp_path: Path, page: Page) -> None:
    check_page(tmp_path, page)


class Png(NamedTuple):
    """How a PNG file is written."""

    kind: int
    depth: int
    keyed: bool
    interlaced: bool
    orientation: int
    late: bool
    size: tuple[int, int]
    seed: int


PNGS = some.sampled_from([(kind, depth) for kind, depths in png.DEPTHS.items() for depth in depths]).flatmap(
    lambda kind: some.builds(
        Png,
        some.just(kind[0]),
        some.just(kind[1]),
        some.booleans(),
        some.booleans(),
        some.integers(1, 8),
        some.booleans(),
        some.tuples(some.integers(1, 20), some.integers(1, 20)),
        some.integers(0, 2**32),
    )
)


def check_png(folder: Path, file: Png) -> None:
    random, most = np.random.default_rng(file.seed), 2**file.depth - 1
    deep, palette = file.depth == 16, random.integers(0, 256, (most % 256 + 1, 3), np.uint8)
    values = random.integers(0, most + 1, (*file.size, png.SAMPLES[file.kind]))
    clear = random.integers(0, 256, random.integers(1, len(palette) + 1)).astype(np.uint8)
    before, after = [], []
    if file.kind == png.PALETTE:
        before.append((b"PLTE", palette.tobytes()))
    if file.keyed and file.kind == png.PALETTE:
        before.append((b"tRNS", clear.tobytes()))
    elif file.keyed and file.kind in (png.GREY, png.RGB):
        before.append((b"tRNS", values[0, 0].astype(">u2").tobytes()))
    if file.orientation > 1:
        (after if file.late else before).append(png.orientation(file.orientation))
    data = png.encode(values, file.kind, file.depth, random, interlaced=file.interlaced, before=before, after=after)
    (folder / "a.png").write_bytes(data)
    white, dtype = (65535, np.uint16) if deep else (255, np.uint8)
    if file.kind == png.PALETTE:
        opacity = np.concatenate([clear, np.full(256, 255, np.uint8)])
        image = palette[values[..., 0]]
        image = np.concatenate([image, opacity[values]], -1) if file.keyed else image
    else:
        image = values * (white // most)
        if file.kind == png.GREY_ALPHA:
            image = image[..., [0, 0, 0, 1]]
        elif file.keyed and file.kind != png.RGBA:
            opacity = np.where((values == values[0, 0]).all(-1, keepdims=True), 0, white)
            image = np.concatenate([np.broadcast_to(image, (*file.size, 3)), opacity], -1)
    image = planes(TURNS[file.orientation](image.astype(dtype)))
    source = open_source(folder / "a.png")
    assert (source.shape, source.dtype) == (image.shape, image.dtype)
    np.testing.assert_array_equal(source[0], image)
    assert source.metadata.alpha == ("straight" if len(image) == 4 else "")


@quick
@given(PNGS)
def test_a_png_file_is_read_as_it_was_written(tmp_path: Path, file: Png) -> None:
    check_png(tmp_path, file)


@pytest.mark.full
@long
@given(PNGS)
def test_thousands_of_png_files_are_read_as_they_were_written(tmp_path: Path, file: Png) -> None:
    check_png(tmp_path, file)
