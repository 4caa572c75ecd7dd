"""What TIFF files and maps become, how little of them is read, and the sentence that each mistake is answered with."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.refusal import refused

from pixelpath.data.formats import tiff_segments
from pixelpath.data.formats.reading import BrokenFileError
from pixelpath.data.formats.stacks import Stack
from pixelpath.data.formats.tiff import is_map, is_picture, open_tiff

tifffile = pytest.importorskip("tifffile")
RANDOM = np.random.default_rng(0)
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64")


def values(*shape: int, dtype: str = "uint16") -> np.ndarray:
    if np.dtype(dtype).kind == "f":
        return RANDOM.normal(size=shape).astype(dtype)
    limits = np.iinfo(dtype)
    return RANDOM.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def write(path: Path, array: np.ndarray, **options: Any) -> Path:
    tifffile.imwrite(path, array, **{"photometric": "minisblack", **options})
    return path


def assert_holds(stack: Stack, images: np.ndarray) -> None:
    """A stack has the images [image, channel, row, column], whole and in windows."""
    assert stack.shape == images.shape
    assert stack.dtype == images.dtype
    for index in range(len(images)):
        np.testing.assert_array_equal(stack.read(index), images[index])
        for rows, columns in ((slice(2, 5), slice(3, 7)), (slice(0, 1), slice(5, None))):
            window = stack.read(index, rows, columns)
            np.testing.assert_array_equal(window, images[index, :, rows, columns])
            assert window.dtype == images.dtype
            assert window.flags.owndata or window.base is not None
            assert window.flags.writeable


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"byteorder": ">"}, {"compression": "zlib"}])
def test_every_depth_keeps_every_value(tmp_path: Path, dtype: str, options: dict[str, Any]) -> None:
    image = values(8, 12, dtype=dtype)
    stack = open_tiff(write(tmp_path / "a.tif", image, **options))
    assert_holds(stack, image[None, None])
    assert not stack.whole
    assert stack.metadata.format == "tiff"
    assert stack.name(0) == "00000000"


PACKINGS: list[dict[str, Any]] = [
    {},
    {"compression": "zlib", "rowsperstrip": 3},
    {"compression": "lzw", "predictor": True, "tile": (16, 16)},
    {"tile": (16, 16)},
]


@pytest.mark.parametrize("options", PACKINGS)
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_bands_are_channels(tmp_path: Path, options: dict[str, Any], planar: str) -> None:
    image = values(7, 24, 36)
    stored = image.transpose(1, 2, 0) if planar == "contig" else image
    path = write(tmp_path / "a.tif", np.ascontiguousarray(stored), planarconfig=planar, **options)
    assert_holds(open_tiff(path), image[None])
    assert not open_tiff(path).metadata.photographs


@pytest.mark.parametrize("options", PACKINGS)
@pytest.mark.parametrize("metadata", [{}, None])
def test_every_page_is_an_image(tmp_path: Path, options: dict[str, Any], metadata: dict[str, Any] | None) -> None:
    pages = values(4, 24, 36, dtype="float32")
    stack = open_tiff(write(tmp_path / "a.tif", pages, metadata=metadata, **options))
    assert_holds(stack, pages[:, None])
    assert stack.whole
    assert [stack.name(index) for index in (0, 3)] == ["00000000", "00000003"]


def test_pages_written_one_by_one(tmp_path: Path) -> None:
    pages = values(3, 8, 12, 3, dtype="uint8")
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page in pages:
            file.write(page, photometric="rgb", compression="zlib")
    stack = open_tiff(tmp_path / "a.tif")
    assert_holds(stack, pages.transpose(0, 3, 1, 2))
    assert stack.metadata.photographs


@pytest.mark.parametrize(("name", "kind", "axes"), [("a.tif", {"imagej": True}, "TZCYX"), ("a.ome.tif", {"ome": True}, "TCZYX")])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_microscopes_name_their_axes(
    tmp_path: Path, name: str, kind: dict[str, bool], axes: str, compression: str | None
) -> None:
    lengths = {"T": 2, "Z": 3, "C": 5, "Y": 8, "X": 12}
    array = values(*(lengths[axis] for axis in axes))
    path = write(tmp_path / name, array, metadata={"axes": axes}, compression=compression, **kind)
    images = np.moveaxis(array, axes.index("C"), 2).reshape(6, 5, 8, 12)
    assert_holds(open_tiff(path), images)


@pytest.mark.parametrize(
    ("channels", "extra", "alpha", "photographs"),
    [(3, None, "", True), (4, "unassalpha", "straight", True), (4, "assocalpha", "premultiplied", True)],
)
def test_colours(tmp_path: Path, channels: int, extra: str | None, alpha: str, photographs: bool) -> None:
    image = values(8, 12, channels, dtype="uint8")
    extrasamples = {} if extra is None else {"extrasamples": (extra,)}
    stack = open_tiff(write(tmp_path / "a.tif", image, photometric="rgb", **extrasamples))
    assert_holds(stack, image.transpose(2, 0, 1)[None])
    assert (stack.metadata.alpha, stack.metadata.photographs) == (alpha, photographs)


def test_infrared_is_no_transparency(tmp_path: Path) -> None:
    image = values(8, 12, 4, dtype="uint8")
    metadata = open_tiff(write(tmp_path / "a.tif", image, photometric="rgb", extrasamples=("unspecified",))).metadata
    assert (metadata.alpha, metadata.photographs) == ("", False)


def test_photographs_packed_as_jpeg(tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs")
    image = np.linspace(0, 255, 32 * 48 * 3).reshape(32, 48, 3).astype(np.uint8)
    path = write(tmp_path / "a.tif", image, photometric="rgb", compression="jpeg", tile=(16, 16))
    expected = tifffile.imread(path)
    assert np.abs(expected.astype(int) - image).max() < 20
    assert_holds(open_tiff(path), expected.transpose(2, 0, 1)[None])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_segments_never_written_are_empty(tmp_path: Path) -> None:
    rasterio, image = pytest.importorskip("rasterio"), np.zeros((2, 64, 64), np.uint16)
    image[0, 16:32, 32:48] = values(16, 16)
    options = {"tiled": True, "blockxsize": 16, "blockysize": 16, "sparse_ok": True, "compress": "deflate"}
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", width=64, height=64, count=2, dtype="uint16", **options) as file:
        file.write(image[0, 16:32, 32:48], 1, window=rasterio.windows.Window(32, 16, 16, 16))
    assert_holds(open_tiff(tmp_path / "a.tif"), image[None])


def test_smaller_copies_are_passed_over(tmp_path: Path) -> None:
    image = values(32, 32)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(image, subifds=1, tile=(16, 16))
        file.write(image[::2, ::2], subfiletype=1, tile=(16, 16))
    assert_holds(open_tiff(tmp_path / "a.tif"), image[None, None])


@pytest.mark.parametrize("reduced", [0, 1])
def test_pages_below_a_page_are_read_only_where_it_is_a_smaller_copy(tmp_path: Path, reduced: int) -> None:
    """Other versions of a page; cameras write the small one first, and the picture itself below it."""
    image = values(32, 32)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(image[::2, ::2], subifds=1, subfiletype=reduced)
        file.write(image)
    assert_holds(open_tiff(tmp_path / "a.tif"), (image if reduced else image[::2, ::2])[None, None])


def test_three_pages_of_two_shapes_are_called_that(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for side in (8, 8, 16):
            file.write(values(side, side), compression="zlib", metadata=None)
    with refused(None, "a.tif", "2x8x8", "16x16"):
        open_tiff(tmp_path / "a.tif")


def test_a_segment_with_fewer_samples_than_its_page_is_damaged(tmp_path: Path) -> None:
    """PlanarConfiguration of another type than it has is neither of its values: one sample would be read and the others lost."""
    pytest.importorskip("imagecodecs")
    image = np.stack([values(16, 16).astype(np.uint8)] * 3, -1)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, photometric="ycbcr", compression="jpeg", tile=(16, 16))
    with tifffile.TiffFile(path) as file:
        place = file.pages[0].tags["PlanarConfiguration"].offset + 2
    whole = bytearray(path.read_bytes())
    whole[place : place + 2] = (7).to_bytes(2, "little")
    path.write_bytes(whole)
    with pytest.raises(BrokenFileError, match="1x16x16 values where 3x16x16 belong"):
        open_tiff(path).read(0)


def test_a_window_of_a_packed_file_reads_the_segments_under_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = values(64, 80)
    stack = open_tiff(write(tmp_path / "a.tif", image, tile=(16, 16), compression="zlib"))
    counts: list[int] = []
    original = tiff_segments._bytes
    counting = lambda file, offset, count: counts.append(count) or original(file, offset, count)  # noqa: E731
    monkeypatch.setattr(tiff_segments, "_bytes", counting)
    np.testing.assert_array_equal(stack.read(0, slice(10, 20), slice(33, 47))[0], image[10:20, 33:47])
    assert len(counts) == 2


def test_a_file_much_larger_than_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        file.write(values(16, 16, dtype="uint8"))
    with path.open("r+b") as file:  # the header of a picture of 10^11 bytes, most of which the disk never holds
        with tifffile.TiffFile(path) as parsed:
            tags = parsed.pages[0].tags
            places = {code: (tags[code].valueoffset, tags[code].dtype) for code in (256, 257, 278, 279, 270) if code in tags}
            begin = parsed.pages[0].dataoffsets[0]
        for code, number in ((256, 400_000), (257, 250_000), (278, 250_000), (279, 10**11)):
            where, kind = places[code]
            file.seek(where)
            file.write(number.to_bytes({3: 2, 4: 4, 16: 8}[int(kind)], "little"))
        where, _ = places[270]
        file.seek(where)
        file.write(b"\0")
        file.truncate(begin + 10**11)
    stack = open_tiff(path)
    assert stack.shape == (1, 1, 250_000, 400_000)
    assert stack.read(0, slice(200_000, 200_008), slice(300_000, 300_008)).sum() == 0


def test_threads_read_what_one_reads(tmp_path: Path) -> None:
    pages = values(8, 24, 36)
    for options in ({}, {"compression": "zlib", "tile": (16, 16)}):
        stack = open_tiff(write(tmp_path / "a.tif", pages, **options))
        with ThreadPoolExecutor(4) as pool:
            read = list(pool.map(lambda index, stack=stack: stack.read(index % 8, slice(3, 20)), range(64)))
        for index, image in enumerate(read):
            np.testing.assert_array_equal(image[0], pages[index % 8, 3:20])


def assert_sentence(error: BaseException, words: list[str]) -> None:
    text = str(error)
    assert text.endswith(".")
    assert "\n" not in text
    assert [word for word in words if word not in text] == []


def unequal(path: Path) -> None:
    with tifffile.TiffWriter(path) as file:
        file.write(values(8, 12))
        file.write(values(4, 12))


def missing_strips(path: Path) -> None:
    write(path, values(8, 12), compression="zlib")
    with tifffile.TiffFile(path) as file:
        where = file.pages[0].tags[257].valueoffset
    with path.open("r+b") as file:
        file.seek(where)
        file.write((2**31 - 8).to_bytes(4, "little"))


def missing_pages(path: Path) -> None:
    content = write(path, values(4, 24, 36), metadata=None, compression="zlib").read_bytes()
    path.write_bytes(content[: len(content) // 2])


def truncated(path: Path) -> None:
    path.write_bytes(write(path, values(8, 12)).read_bytes()[:-60])


def unknown_compression(path: Path) -> None:
    write(path, values(8, 12))
    with tifffile.TiffFile(path) as file:
        where = file.pages[0].tags[259].valueoffset
    with path.open("r+b") as file:
        file.seek(where)
        file.write((34661).to_bytes(2, "little"))


MISTAKES: list[tuple[Callable[[Path], object], list[str]]] = [
    (lambda path: write(path, np.ones((8, 12), np.int64)), ["dtype int64", "float32"]),
    (lambda path: write(path, np.ones((8, 12), np.complex64)), ["dtype complex64", "convert"]),
    (unequal, ["several shapes", "8x12 uint16", "4x12 uint16"]),
    (lambda path: tifffile.imwrite(path, values(8, 12, dtype="int16"), photometric="miniswhite"), ["white as zero", "int16"]),
    (lambda path: tifffile.imwrite(path, values(8, 12, 3, dtype="uint8"), photometric="cielab"), ["L*a*b*", "convert"]),
    (lambda path: path.write_bytes(b""), ["cannot be read", "replace"]),
    (lambda path: path.write_bytes(b"II*\0"), ["cannot be read", "replace"]),
    (lambda path: path.write_bytes(b"II*\0\0\0\0\0"), ["cannot be read", "replace"]),
    (lambda path: path.write_bytes(b"no tiff at all"), ["cannot be read", "replace"]),
    (missing_strips, ["1 of ", "strips", "replace"]),
    (missing_pages, ["pages are missing", "replace"]),
    (truncated, ["ends before its last pixel", "bytes"]),
    (unknown_compression, ["cannot be read", "replace"]),
]


@pytest.mark.parametrize(("make", "words"), MISTAKES)
def test_mistakes_are_told_in_one_sentence(tmp_path: Path, make: Callable[[Path], object], words: list[str]) -> None:
    make(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif") as caught:
        open_tiff(tmp_path / "a.tif")
    assert_sentence(caught.value, words)


def test_damage_that_shows_when_pixels_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", values(3, 24, 36), compression="zlib")
    with tifffile.TiffFile(path) as file:
        where = file.pages[1].dataoffsets[0]
    with path.open("r+b") as file:
        file.seek(where)
        file.write(b"\xff" * 40)
    stack = open_tiff(path)
    stack.read(0)
    with pytest.raises(ValueError, match="at image 1") as caught:
        stack.read(1)
    assert_sentence(caught.value, ["a.tif", "image 1", "replace"])


def test_cut_off_after_opening(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", values(3, 24, 36))
    stack = open_tiff(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="at image 2") as caught:
        stack.read(2)
    assert_sentence(caught.value, ["a.tif"])


def test_what_is_a_map_is_seen_without_reading_it(tmp_path: Path) -> None:
    for name, tags, options in [
        ("plain", [], {}),
        ("nodata", [(42113, "s", 0, "-1", True)], {}),
        ("keys", [(34735, "H", 4, (1, 1, 0, 0), True)], {"bigtiff": True}),
        ("big", [(42113, "s", 0, "-1", True)], {"byteorder": ">"}),
    ]:
        assert is_map(write(tmp_path / f"{name}.tif", values(8, 12), extratags=tags, **options)) == (name != "plain")
    for content in (b"", b"II*\0", b"\x89PNG", b"MM\0*\0\0\xff\xff"):
        (tmp_path / "odd.tif").write_bytes(content)
        assert is_picture(tmp_path / "odd.tif")  # so that reading it says what is wrong
