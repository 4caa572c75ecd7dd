"""Picture files of every kind: each is read as the values that were written, or refused by one sentence that names it."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from fractions import Fraction
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
from pixelpath.data.sources import Source, gather
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


def every(source: Source) -> np.ndarray:
    return gather(source, range(len(source)))


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
    if page.dtype == "bool" and page.planar == "contig" and base + len(page.extra) > 1:
        return None  # tifffile packs the bits of such pages otherwise than TIFF 6.0 says
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
            byteorder="<" if page.byteorder == "<" else ">",
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
        white = int(np.iinfo(values.dtype).max)
        lit = white - colours.astype(object)  # Python's numbers are exact
        if page.colours == "separated":
            lit = np.vectorize(lambda ink, black: round(Fraction(ink * black, white)))(lit[..., :3], lit[..., 3:])
        colours = lit.astype(values.dtype)
    if page.colours == "palette":
        colours = (palette[:, colours[..., 0]] >> 8).astype(np.uint8).transpose(1, 2, 0)
    alpha = {"unassalpha": "straight", "assocalpha": "premultiplied"}.get("".join(page.extra), "")
    if base == 1 and page.colours != "palette" and alpha and values.dtype in (np.uint8, np.uint16):
        colours = np.repeat(colours, 3, -1)
    elif base == 1 and page.colours != "palette":
        alpha = ""
    return np.concatenate([colours, rest.astype(colours.dtype)], -1), alpha


def check_page(folder: Path, page: Page) -> None:
    path = folder / "a.tif"
    page = page._replace(extra=()) if page.colours == "palette" else page
    made = written(path, page)
    if made is None:
        return
    image, alpha = made
    seen = page.dtype in ("uint8", "uint16", "uint32", "bool") or page.colours in ("rgb", "minisblack")
    if not seen or page.dtype == "int64":
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
    assert source[0].flags.writeable
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


SMOOTH = (np.indices((24, 32)).sum(0)[..., None] * np.array([3, 2, 1]) + 20).astype(np.uint8)


@pytest.mark.parametrize("packing", ["jpeg", "webp", "group4", "tiff_lzw", "packbits", "zstd", "raw"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "F"])
def test_tiff_files_that_pillow_writes_are_read_as_it_reads_them(tmp_path: Path, mode: str, packing: str) -> None:
    grey = Image.fromarray(SMOOTH[..., 0])
    image = Image.fromarray(np.asarray(grey).astype(np.float32)) if mode == "F" else Image.fromarray(SMOOTH).convert("RGB")
    image = Image.fromarray(SMOOTH[..., 0].astype(np.uint16) * 200) if mode == "I;16" else image
    image = image if image.mode in (mode, "I;16") else image.convert(mode)
    if mode == "RGBA":
        image.putalpha(grey)
    try:
        image.save(tmp_path / "a.tif", compression=packing)
    except (OSError, RuntimeError, ValueError):
        pytest.skip("no such file")
    with (
        Image.open(tmp_path / "a.tif") if mode != "YCbCr" or packing == "jpeg" else image as file
    ):  # which Pillow writes but cannot always read
        shown = {"1": "L", "P": "RGB", "CMYK": "RGB", "YCbCr": "RGB", "LA": "RGBA"}.get(mode, mode)
        expected = planes(np.asarray(file if mode in ("I;16", "F") else file.convert(shown)))
    found = open_source(tmp_path)[0]
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, atol=2 if packing == "jpeg" else 0)  # two decoders of JPEG


@pytest.mark.parametrize("bits", [2, 4, 6, 10, 12, 14])
def test_samples_of_few_bits(tmp_path: Path, bits: int) -> None:
    values = np.random.default_rng(bits).integers(0, 2**bits, (9, 13)).astype(np.uint8 if bits < 8 else np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, bitspersample=bits, photometric="minisblack")
    if bits == 6:
        with refused(None, "a.tif", "6 bits"):
            open_source(tmp_path)
        return
    found = open_source(tmp_path)[0][0]
    np.testing.assert_array_equal(found, values * (255 // (2**bits - 1)) if bits < 8 else values)
    assert found.dtype == values.dtype


def test_a_smaller_copy_after_a_picture_is_passed_over(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(SMOOTH, photometric="rgb")
        file.write(SMOOTH[:7, :5], photometric="rgb", subfiletype=1)
    np.testing.assert_array_equal(open_source(tmp_path)[0], planes(SMOOTH))


def test_what_differs_from_page_to_page_is_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for orientation in (1, 3):
            file.write(SMOOTH, photometric="rgb", metadata=None, extratags=[(274, "H", 1, orientation, True)])
    with refused(None, "a.tif", "orientations"):
        open_source(tmp_path)


def bitmap(path: Path, pixels: np.ndarray, masks: tuple[int, int, int]) -> None:
    """A BMP of 16 bits a pixel, first row first."""
    rows, columns = pixels.shape
    head = struct.pack("<IiiHHIIiiII", 40, columns, -rows, 1, 16, 3, pixels.nbytes, 0, 0, 0, 0) + struct.pack("<III", *masks)
    path.write_bytes(b"BM" + struct.pack("<IHHI", 66 + pixels.nbytes, 0, 0, 66) + head + pixels.astype("<u2").tobytes())


@pytest.mark.parametrize("bits", [(5, 6, 5), (5, 5, 5)])
def test_bitmaps_of_16_bits_a_pixel_are_rgb(tmp_path: Path, bits: tuple[int, int, int]) -> None:
    shifts = (bits[1] + bits[2], bits[2], 0)
    parts = np.random.default_rng(0).integers(0, [1 << each for each in bits], (4, 6, 3))
    red, green, blue = (((1 << n) - 1) << s for n, s in zip(bits, shifts, strict=True))
    bitmap(tmp_path / "a.bmp", (parts << shifts).sum(-1), (red, green, blue))
    expected = planes(parts) * 255 / ((1 << np.array(bits)) - 1).reshape(3, 1, 1)
    source = open_source(tmp_path)
    assert source.dtype == np.uint8
    np.testing.assert_allclose(source[0], expected, atol=1)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_of_every_orientation(tmp_path: Path, mode: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(SMOOTH).convert(mode).save(tmp_path / "a.jpg", quality=95, exif=exif)
    with Image.open(tmp_path / "a.jpg") as file:
        stored = np.asarray(file.convert("L" if mode == "L" else "RGB"))
    source = open_source(tmp_path)
    np.testing.assert_array_equal(source[0], planes(TURNS[orientation](stored)))
    resized = open_source(tmp_path, resize=(8, 8))[0]
    np.testing.assert_allclose(resized.mean(), source[0][:, 4:-4, 4:-4].mean(), atol=4)


def test_exif_that_is_damaged_tells_nothing(tmp_path: Path) -> None:
    Image.fromarray(SMOOTH).save(tmp_path / "a.png", exif=b"Exif\0\0nonsense")
    np.testing.assert_array_equal(open_source(tmp_path)[0], planes(SMOOTH))


def write(path: Path, image: np.ndarray) -> None:
    if path.suffix == ".tif":
        tifffile.imwrite(path, image, photometric="rgb", compression="zlib", rowsperstrip=4)
    else:
        Image.fromarray(image).save(path)


@pytest.mark.parametrize("tile", [(), (8,)])
@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp", "gif", "tif"])
def test_broken_files_of_every_format_can_be_left_out(tmp_path: Path, ending: str, tile: tuple[int, ...]) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path / f"{name}.{ending}", np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8))
    whole = (tmp_path / f"b.{ending}").read_bytes()
    for content in (b"", b"nothing", whole[: len(whole) // 2], whole[:40]):
        (tmp_path / f"b.{ending}").write_bytes(content)
        with pytest.raises(UserError, match=rf"b\.{ending}") as caught:  # at opening, or when its pixels are asked for
            every(open_split(DataSettings(tmp_path, tile=tile, held_out_share=0.0))[0])
        assert caught.value.setting == "data.skip_broken"
        for workers in (0, 2):
            left = DataSettings(tmp_path, tile=tile, held_out_share=0.0, skip_broken=True, workers=workers)
            source = open_split(left)[0]
            assert source.broken == [f"b.{ending}"]
            assert {source.name(index).split("@")[0] for index in range(len(source))} == {f"a.{ending}", f"c.{ending}"}


def test_pages_and_broken_files(tmp_path: Path) -> None:
    for name, first in (("a", 0), ("c", 100)):
        pages = first + np.arange(3 * 64, dtype=np.int16).reshape(3, 8, 8)
        tifffile.imwrite(tmp_path / f"{name}.tif", pages, photometric="minisblack")
    (tmp_path / "b.tif").write_bytes(b"II*\0")
    source = open_source(tmp_path, skip_broken=True)
    assert (len(source), source.broken, source.name(3)) == (6, ["b.tif"], "c.tif:00000000")


def test_pictures_of_other_formats_are_named(tmp_path: Path) -> None:
    (tmp_path / "b.HEIC").write_bytes(b"a photograph")
    with refused(None, tmp_path, "b.HEIC"):
        open_source(tmp_path)
    write(tmp_path / "a.png", SMOOTH)
    assert open_source(tmp_path).broken == ["b.HEIC"]


def test_what_a_tiff_file_is_called_does_not_matter(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.png", SMOOTH, photometric="rgb")
    write(tmp_path / "b.png", SMOOTH)
    (tmp_path / "b.png").rename(tmp_path / "b.tif")
    source = open_source(tmp_path)
    np.testing.assert_array_equal(source[0], source[1])


@pytest.mark.parametrize("tile", [(), (8,)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_of_tiff_files_are_converted_like_those_of_others(tmp_path: Path, channels: int, tile: tuple[int, ...]) -> None:
    for folder in ("png", "tif"):
        (tmp_path / folder).mkdir()
    for name, image in (("a", SMOOTH), ("b", SMOOTH[..., 0])):
        tifffile.imwrite(tmp_path / "tif" / f"{name}.tif", image)
        Image.fromarray(image).save(tmp_path / "png" / f"{name}.png")
    first, second = (
        open_split(DataSettings(tmp_path / each, channels=channels, tile=tile, held_out_share=0.0))[0]  # pyright: ignore
        for each in ("png", "tif")
    )
    assert first.shape == second.shape == (channels, *(tile * 2 or (24, 32)))
    np.testing.assert_array_equal(every(first), every(second))
    tifffile.imwrite(tmp_path / "a.tif", SMOOTH.astype(np.uint16))
    if channels != 3:
        with refused("data.channels", "16-bit RGB", f"`data.channels` {channels}"):
            open_source(tmp_path / "a.tif", channels=channels)  # pyright: ignore


def test_a_picture_is_decoded_once_for_all_its_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    source = open_split(DataSettings(tmp_path, tile=(8,), held_out_share=0.0))[0]
    decoded: list[Path] = []
    original = pictures.decode
    monkeypatch.setattr(pictures, "decode", lambda path, *rest: decoded.append(path) or original(path, *rest))
    for index in range(len(source)):
        row, column = divmod(index, 8)
        np.testing.assert_array_equal(source[index], planes(image)[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8])
    assert len(decoded) == 1
    Image.fromarray(image[::-1]).save(tmp_path / "a.png", compress_level=1)  # another file of the same name
    np.testing.assert_array_equal(source[0], planes(image[::-1])[:, :8, :8])


def test_what_stays_decoded_is_bounded() -> None:
    recent, made = Recent(100), []
    for number in (1, 2, 1, 3, 1, 2):
        recent.get(number, lambda number=number: made.append(number) or np.full(40, number, np.uint8))
    assert made == [1, 2, 3, 2]  # 2 gave way to 3, for 1 was used after it
    with pytest.raises(ZeroDivisionError):
        recent.get(4, lambda: np.zeros(1 // 0))
    assert recent.get(4, lambda: np.zeros(1000)).size == 1000
    assert made == [1, 2, 3, 2]


def test_more_pixels_than_pillow_trusts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.png", SMOOTH)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(open_source(tmp_path)[0], planes(SMOOTH))
    assert Image.MAX_IMAGE_PIXELS == 100
    with (tmp_path / "a.png").open("rb") as file, pytest.raises(UserError, match=r"s\.tar::a"):
        pictures.header(pictures.Packed(file, "s.tar::a"))


def test_a_header_that_claims_more_than_a_file_can_hold_takes_no_memory(tmp_path: Path) -> None:
    Image.fromarray(SMOOTH).save(tmp_path / "a.gif")
    whole = bytearray((tmp_path / "a.gif").read_bytes())
    whole[6:10] = struct.pack("<HH", 65535, 65534)
    (tmp_path / "a.gif").write_bytes(whole)
    with refused("data.skip_broken", "a.gif", "65534x65535", len(whole)):
        open_source(tmp_path)
