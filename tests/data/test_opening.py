"""What a folder or an array becomes, and the sentence that each mistake is answered with."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.pictures import PIXELS, write
from tests.refusal import refused

from pixelpath.data.opening import open_source, open_split
from pixelpath.data.settings import DataSettings
from pixelpath.data.sources import (
    Arrays,
    describe,
    gather,
    labels,
)

RANDOM = np.random.default_rng(1)


def write_deep_colour(path: Path) -> None:
    """A PNG of 16-bit RGB, which Pillow cannot write: header, one compressed block, end."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + bytes(range(12 * 6)) for _ in range(8))
    head = struct.pack(">IIBBBBB", 12, 8, 16, 2, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b""))


def test_colours_of_sixteen_bits_keep_them(tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs")
    write_deep_colour(tmp_path / "a.png")
    source = open_source(tmp_path)
    expected = np.frombuffer(bytes(range(12 * 6)) * 8, ">u2").reshape(8, 12, 3).transpose(2, 0, 1)
    np.testing.assert_array_equal(source[0], expected)
    assert (source.dtype, source.metadata.photographs) == (np.dtype("uint16"), False)


def planes(array: np.ndarray) -> np.ndarray:
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize(
    ("suffix", "options"), [("png", {}), ("tiff", {}), ("TIF", {}), ("webp", {"lossless": True, "exact": True})]
)
def test_lossless_files_keep_every_value(tmp_path: Path, mode: str, suffix: str, options: dict[str, Any]) -> None:
    write(tmp_path / f"a.{suffix}", PIXELS[mode], **options)
    source = open_source(tmp_path)
    expected = planes(PIXELS[mode])
    if (mode, suffix) == ("L", "webp"):  # WebP has no grey
        expected = np.repeat(expected, 3, 0)
    assert source.dtype == np.uint8
    assert source.shape == expected.shape
    np.testing.assert_array_equal(source[0], expected)


def test_bmp_jpeg_and_the_first_frame_of_a_gif(tmp_path: Path) -> None:
    np.testing.assert_array_equal(open_source(write(tmp_path / "bmp" / "a.bmp").parent)[0], planes(PIXELS["RGB"]))
    smooth = np.linspace(0, 255, 8 * 12).reshape(8, 12).astype(np.uint8)
    jpeg = open_source(write(tmp_path / "jpeg" / "a.JPEG", smooth, quality=95).parent)
    assert jpeg.shape == (1, 8, 12)
    assert np.abs(jpeg[0].astype(int) - smooth).max() < 12
    frames = [Image.fromarray(np.full((8, 12, 3), value, np.uint8)).quantize(2) for value in (40, 200)]
    (tmp_path / "gif").mkdir()
    frames[0].save(tmp_path / "gif" / "a.gif", save_all=True, append_images=frames[1:])
    image = open_source(tmp_path / "gif")[0]
    assert image.shape == (3, 8, 12)
    assert np.abs(image.astype(int) - 40).max() < 10


def test_palettes_and_transparency(tmp_path: Path) -> None:
    picture = Image.fromarray(PIXELS["RGB"])
    for name, image, options, channels in [
        ("palette", picture.quantize(32), {}, 3),
        ("clear-palette", picture.quantize(32), {"transparency": 0}, 4),
        ("grey-alpha", Image.fromarray(PIXELS["RGBA"]).convert("LA"), {}, 4),
        ("one-bit", picture.convert("1"), {}, 1),
        ("cmyk", picture.convert("CMYK"), {}, 3),
    ]:
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / ("a.tif" if name == "cmyk" else "a.png"), **options)
        assert open_source(tmp_path / name)[0].shape == (channels, 8, 12), name


def test_deep_grey_keeps_its_dtype(tmp_path: Path) -> None:
    deep = RANDOM.integers(0, 65536, (8, 12)).astype(np.uint16)
    floats = RANDOM.normal(size=(8, 12)).astype(np.float32) * 1e4
    for name, array, path in [("png", deep, "a.png"), ("tiff", deep, "a.tiff"), ("float", floats, "a.tiff")]:
        source = open_source(write(tmp_path / name / path, array).parent)
        assert source.dtype == array.dtype
        np.testing.assert_array_equal(source[0], array[None])


def test_photographs_stand_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the picture must turn by 90 degrees to the right
    write(tmp_path / "a.png", exif=exif)
    source = open_source(tmp_path)
    assert source.shape == (3, 12, 8)
    np.testing.assert_array_equal(source[0], np.rot90(planes(PIXELS["RGB"]), -1, (1, 2)))


def test_channels_can_be_converted(tmp_path: Path) -> None:
    write(tmp_path / "a.png", PIXELS["L"])
    write(tmp_path / "b.png", PIXELS["RGBA"])
    source = open_source(tmp_path, channels=3)
    np.testing.assert_array_equal(source[0], np.repeat(PIXELS["L"][None], 3, 0))
    np.testing.assert_array_equal(source[1], planes(PIXELS["RGBA"])[:3])


def test_classes_are_the_subfolders_in_order(tmp_path: Path) -> None:
    for path in ("dog/1.png", "cat/deep/2.png", "cat/1.png", ".hidden/3.png", "dog/notes.txt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / path) if path.endswith("png") else (tmp_path / path).write_text("not an image")
    source = open_source(tmp_path)
    assert source.classes == ("cat", "dog")
    assert [source.name(index) for index in range(3)] == ["cat/1.png", "cat/deep/2.png", "dog/1.png"]
    assert labels(source).tolist() == [0, 0, 1]
    assert describe(source) == "3 images, 3x8x12 uint8, 2 classes: cat, dog."


def broken_file(folder: Path) -> None:
    write(folder / "a.png")
    (folder / "b.png").write_bytes(b"this is no image")


def mixed_channels(folder: Path) -> None:
    for name, mode in (("a.png", "RGB"), ("b.png", "L"), ("c.png", "RGB")):
        write(folder / name, PIXELS[mode])


def mixed_sizes(folder: Path) -> None:
    for name, rows in (("a.png", 8), ("b.png", 7), ("c.png", 8)):
        write(folder / name, PIXELS["RGB"][:rows])


def empty_class(folder: Path) -> None:
    write(folder / "cat" / "a.png")
    (folder / "dog").mkdir()


def stray_image(folder: Path) -> None:
    write(folder / "cat" / "a.png")
    write(folder / "stray.png")


def pages_among_pictures(folder: Path) -> None:
    write(folder / "a.png", PIXELS["L"])
    page = Image.fromarray(PIXELS["L"])
    page.save(folder / "b.tif", save_all=True, append_images=[page])


FOLDERS: list[tuple[Callable[[Path], object], str | None, list[str]]] = [
    (lambda folder: folder.mkdir(), None, ["data", ".png"]),
    (broken_file, "data.skip_broken", ["b.png"]),
    (mixed_channels, "data.channels", ["b.png is grey", "a.png is RGB", "`data.channels` 3"]),
    (mixed_sizes, "data.resize", ["b.png is 7x12", "a.png is 8x12", "`data.resize` 8 8"]),
    (empty_class, None, ["dog"]),
    (pages_among_pictures, "data.skip_broken", ["b.tif", "2 pages"]),
    (stray_image, None, ["stray.png", "class folder cat"]),
    (lambda folder: write(folder / "a.png"), "data.resize", ["a.png is 8x12", "patch of 8", "`data.resize` to 8 8"]),
]


def assert_sentence(error: BaseException, words: list[str]) -> None:
    text = str(error)
    assert text.endswith(".")
    assert "\n" not in text
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize(("make", "setting", "facts"), FOLDERS)
def test_wrong_folders_are_answered_with_one_sentence(
    tmp_path: Path, make: Callable[[Path], object], setting: str | None, facts: list[str]
) -> None:
    make(tmp_path / "data")
    with refused(setting, *facts):
        open_source(tmp_path / "data", patch=8)


def test_what_does_not_exist_or_is_something_else(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist: give") as missing:
        open_source(tmp_path / "nowhere")
    assert_sentence(missing.value, ["nowhere"])
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(ValueError, match=r"a\.txt is of no kind that can be read: give a folder of images, or a \.npy"):
        open_source(tmp_path / "a.txt")
    with pytest.raises(ValueError, match=r"a\.txt::b names a variable, which only stores have"):
        open_source(tmp_path / "a.txt::b")
    with refused("data.path"):
        open_split(DataSettings())


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_truncated_file_is_named_when_it_is_decoded(tmp_path: Path) -> None:
    truncate(write(tmp_path / "a.jpg", np.repeat(np.repeat(PIXELS["RGB"], 8, 0), 8, 1)))
    source = open_source(tmp_path)
    with refused("data.skip_broken", "a.jpg", "truncated"):
        source[0]


def test_broken_files_can_be_left_out(tmp_path: Path) -> None:
    for name in ("cat/a.jpg", "cat/b.jpg", "dog/c.jpg", "dog/d.jpg"):
        write(tmp_path / name, np.repeat(np.repeat(PIXELS["RGB"], 8, 0), 8, 1))
    truncate(tmp_path / "cat" / "b.jpg")
    (tmp_path / "dog" / "c.jpg").write_bytes(b"nothing")
    for workers in (0, 2):
        source, _ = open_split(DataSettings(tmp_path, held_out=tmp_path, skip_broken=True, workers=workers))
        assert source.broken == ["cat/b.jpg", "dog/c.jpg"]
        assert [source.name(index) for index in range(len(source))] == ["cat/a.jpg", "dog/d.jpg"]
        assert labels(source).tolist() == [0, 1]
        assert "2 undecodable files left out" in describe(source)
    (tmp_path / "cat" / "a.jpg").write_bytes(b"")
    (tmp_path / "dog" / "d.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="None of the 4 image files"):
        open_source(tmp_path, skip_broken=True)


def test_resize_is_antialiased(tmp_path: Path) -> None:
    """Stripes of one pixel become flat grey, their mean, where taking every fourth pixel would leave black or white."""
    stripes = np.zeros((32, 32), np.uint8)
    stripes[:, ::2] = 200
    write(tmp_path / "a.png", stripes)
    small = open_source(tmp_path, resize=(8, 8))[0]
    assert small.shape == (1, 8, 8)
    assert np.abs(small[:, :, 2:-2].astype(int) - 100).max() <= 2
    array = Arrays(stripes[None, None].astype(np.float32), np.zeros(1, np.int64), resize=(8, 8))
    assert array.shape == (1, 8, 8)
    np.testing.assert_allclose(array[0][:, :, 2:-2], 100, atol=1.5)


@pytest.mark.parametrize("kind", ["file", "float", "deep"])
def test_resize_crops_the_centre_by_the_shorter_side(tmp_path: Path, kind: str) -> None:
    """A ramp from left to right, 16 x 48 to 8 x 8: the middle third is kept, so neighbours differ by two steps of the ramp."""
    ramp = np.repeat(np.arange(48)[None] * 2.0, 16, 0)
    if kind == "file":
        source = open_source(write(tmp_path / "a.png", ramp.astype(np.uint8)).parent, resize=(8, 8))
    else:
        np.save(tmp_path / "a.npy", ramp[None].astype(np.float32 if kind == "float" else np.uint16))
        source = open_source(tmp_path / "a.npy", resize=(8, 8))
    expected = (16 + 0.5 + 2 * np.arange(8)) * 2
    np.testing.assert_allclose(source[0][0, 3, 1:-1], expected[1:-1], atol=0.01 if kind == "float" else 0.51)


def test_resize_makes_mixed_sizes_one_and_leaves_equal_ones_alone(tmp_path: Path) -> None:
    mixed_sizes(tmp_path)
    source = open_source(tmp_path, resize=(8, 12), patch=4)
    assert gather(source, range(3)).shape == (3, 3, 8, 12)
    np.testing.assert_array_equal(source[0], planes(PIXELS["RGB"]))
    with refused("data.resize", "8x12", "patch of 5", "10 10"):
        open_source(tmp_path, resize=(8, 12), patch=5)


ARRAY = np.zeros((3, 8, 8), np.uint8)


def test_folders_train_and_test_are_the_users_split(tmp_path: Path) -> None:
    for path in ("train/cat/1.png", "train/dog/2.png", "test/dog/3.png", "test/dog/4.png"):
        write(tmp_path / path)
    training, held_out = open_split(DataSettings(tmp_path))
    assert (training.classes, held_out.classes) == (("cat", "dog"), ("cat", "dog"))
    assert labels(training).tolist() == [0, 1]
    assert labels(held_out).tolist() == [1, 1]
    assert open_source(tmp_path).name(0) == "cat/1.png"
    write(tmp_path / "val" / "cat" / "5.png")
    assert open_split(DataSettings(tmp_path))[1].name(0) == "cat/5.png"
    write(tmp_path / "val" / "fox" / "6.png")
    with pytest.raises(ValueError, match="holds the class fox, unlike the training images"):
        open_split(DataSettings(tmp_path))


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for path in ("train/1.png", "plane/2.png"):
        write(tmp_path / path)
    assert open_source(tmp_path).classes == ("plane", "train")


def test_arrays_train_and_test_are_the_users_split(tmp_path: Path) -> None:
    parts: dict[str, Any] = {
        f"{part}_{what}": np.full((2, 8, 8), value, np.uint8)
        for part, what, value in (("train", "images", 1), ("test", "images", 2))
    }
    np.savez(tmp_path / "a.npz", **parts, train_labels=np.array([0, 1]), test_labels=np.array([1, 1]))
    np.savez(tmp_path / "b.npz", x_train=parts["train_images"], x_test=parts["test_images"], y_train=[0, 1], y_test=[1, 1])
    np.savez(tmp_path / "c.npz", train=parts["train_images"], test=parts["test_images"], train_time=np.zeros(2))
    for part in ("train", "test"):
        (tmp_path / "d").mkdir(exist_ok=True)
        np.save(tmp_path / "d" / f"{part}.npy", parts[f"{part}_images"])
        np.save(tmp_path / "d" / f"{part}_labels.npy", np.array([0, 1] if part == "train" else [1, 1]))
    for name, numbers in (("a.npz", [1, 1]), ("b.npz", [1, 1]), ("c.npz", [0, 0]), ("d", [1, 1])):
        training, held_out = open_split(DataSettings(tmp_path / name), patch=4)
        assert (training[0].max(), held_out[0].max()) == (1, 2), name
        assert labels(held_out).tolist() == numbers
        assert training.classes == held_out.classes


def test_held_out_images_may_lie_elsewhere_but_must_match(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ARRAY)
    np.save(tmp_path / "b.npy", ARRAY[:2] + 1)
    np.save(tmp_path / "c.npy", ARRAY[:, :4])
    training, held_out = open_split(DataSettings(tmp_path / "a.npy", held_out=tmp_path / "b.npy"))
    assert (len(training), len(held_out), held_out[0].max()) == (3, 2, 1)
    with refused("data.held_out", "c.npy", "1x4x8 uint8", "1x8x8 uint8"):
        open_split(DataSettings(tmp_path / "a.npy", held_out=tmp_path / "c.npy"))
    np.save(tmp_path / "a_labels.npy", np.array([0, 1, 0]))
    with pytest.raises(ValueError, match=r"labels of .*b\.npy are missing though there are 2 classes"):
        open_split(DataSettings(tmp_path / "a.npy", held_out=tmp_path / "b.npy"))


def test_a_single_image_is_refused_with_what_helps(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((300, 400, 3), np.uint8)).save(tmp_path / "one.png")
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / "small.tif")
    np.save(tmp_path / "one.npy", np.zeros((300, 400), np.float32))
    (tmp_path / "folder").mkdir()
    shutil.copy(tmp_path / "one.png", tmp_path / "folder")
    for name in ("one.png", "folder"):
        with refused("data.path", "one image of 300x400 pixels", "a folder or an array of images", "`data.tile` 64"):
            open_split(DataSettings(tmp_path / name))
    with refused("data.path", "one image of 20x20 pixels", "give a folder or an array of images as `data.path`."):
        open_split(DataSettings(tmp_path / "small.tif"))
    with refused(None, "which is one image", "`data.tile`"):
        open_split(DataSettings(tmp_path / "one.npy"))
    for name in ("one.png", "one.npy"):  # what the sentence proposes
        training, held_out = open_split(DataSettings(tmp_path / name, tile=(64,)))
        assert len(training) + len(held_out) > 16
