"""A hundred and more bad inputs, and the one sentence that answers each: which file or setting, what is wrong, what to do.

A case is what it is called, a function that makes the bad thing below a folder and returns the settings that name it, and the
answer. Most are read as `train` reads its data before its first step; some go through the command line.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import socket
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from pixelpath.data.formats.reading import BrokenFileError
from pixelpath.data.normalise.curves import Normalisation
from pixelpath.data.settings import DataSettings
from pixelpath.data.sources import gather
from pixelpath.errors import MissingError, UserError
from pixelpath.recipes import RECIPES
from pixelpath.runs.prepare import read_data
from tests.application import call, files, train

RANDOM = np.random.default_rng(0)
RECIPE = RECIPES["digits-diffusion"]()
GREY = RANDOM.integers(0, 256, (8, 8), np.uint8)
RGB = np.stack([GREY] * 3, -1)
BYTES = RANDOM.integers(0, 256, (10, 8, 8), np.uint8)
FLOATS = RANDOM.normal(2, 1, (10, 1, 8, 8)).astype(np.float32)


@dataclass(frozen=True)
class Answer:
    """How a bad input is answered: by which error, about which setting, and the files and values that the sentence names."""

    kind: type[UserError]
    setting: str | None
    facts: tuple[str, ...]

    def check(self, error: BaseException) -> None:
        """The error is this answer."""
        assert isinstance(error, self.kind)
        assert error.setting == self.setting
        assert [fact for fact in self.facts if fact not in str(error)] == []


def told(*facts: str, setting: str | None = None) -> Answer:
    return Answer(UserError, setting, facts)


def missing(*facts: str) -> Answer:
    return Answer(MissingError, None, facts)


def broken(*facts: str, setting: str | None = "data.skip_broken") -> Answer:
    return Answer(BrokenFileError, setting, facts)


Make = Callable[[Path], DataSettings]
Case = tuple[str, Make, Answer]


def reads(settings: DataSettings) -> None:
    """What `train` does with its data before the first step, and a look at every image of both sides."""
    data = read_data(replace(RECIPE, data=replace(settings, workers=0)))
    for side, given in ((data.training, data.given), (data.held_out, data.given_held_out)):
        everything = range(len(side))
        data.normaliser.encode(torch.from_numpy(gather(side, everything)))
        if given is not None:
            given.condition(everything, torch.zeros(len(side), dtype=torch.int64))


def check_sentence(said: str, where: Path) -> None:
    """One line, one full stop at its end, the file or the setting, and after a colon the remedy."""
    assert said.endswith("."), said
    assert "\n" not in said, said
    assert str(where) in said or re.search(r"`data\.|::|(Image|Channel|image) \d|/dev/|--data", said), said
    assert re.search(r": [a-z].*\w", said.replace(str(where), "")), said
    assert not re.search(r"Traceback| object at |_io\.", said), said


# What bad things are made of


def cut(content: bytes, share: float = 0.5) -> bytes:
    return content[: int(len(content) * share)]


def encoded(pixels: np.ndarray | Image.Image = GREY, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(file, kind, **options)
    return file.getvalue()


PNG = encoded()


def folder(bad: dict[str, bytes], good: int = 0, **settings: Any) -> Make:
    """A folder with these files and so many good pictures."""

    def make(tmp: Path) -> DataSettings:
        for name, content in {**{f"{number}.png": PNG for number in range(good)}, **bad}.items():
            (tmp / "data" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp / "data" / name).write_bytes(content)
        return DataSettings(tmp / "data", **settings)

    return make


def file(name: str, content: bytes | Callable[[Path], Any], variable: str = "", **settings: Any) -> Make:
    """A file of these bytes, or written by a function, and perhaps a variable in it."""

    def make(tmp: Path) -> DataSettings:
        path = tmp / name
        path.write_bytes(content) if isinstance(content, bytes) else content(path)
        return DataSettings(Path(f"{path}::{variable}") if variable else path, **settings)

    return make


def npy(values: Any, labels: Any = None, **settings: Any) -> Make:
    """An array in a .npy file, perhaps with labels beside it."""

    def make(tmp: Path) -> DataSettings:
        np.save(tmp / "a.npy", np.asarray(values), allow_pickle=True)
        if labels is not None:
            np.save(tmp / "a_labels.npy", np.asarray(labels), allow_pickle=True)
        return DataSettings(tmp / "a.npy", **settings)

    return make


def npz(**values: Any) -> Make:
    return file("a.npz", lambda path: np.savez(path, **values))


def saved(values: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, values, allow_pickle=True)
    return content.getvalue()


def two(write: Callable[[Path, Any], Any], ending: str, *each: Any, **settings: Any) -> Make:
    """A folder of two files."""

    def make(tmp: Path) -> DataSettings:
        (tmp / "data").mkdir()
        for name, content in zip("ab", each, strict=True):
            write(tmp / "data" / f"{name}{ending}", content)
        return DataSettings(tmp / "data", **settings)

    return make


def shortened(make: Make, share: float = 0.5) -> Make:
    """The same file, cut off."""

    def act(tmp: Path) -> DataSettings:
        settings = make(tmp)
        path = Path(str(settings.path).partition("::")[0])
        path.write_bytes(cut(path.read_bytes(), share))
        return settings

    return act


# Pictures


def header_png(rows: int, columns: int) -> bytes:
    """A PNG that says of itself to be very large."""
    head = b"IHDR" + struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    return PNG[:8] + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + PNG[33:]


PICTURES: list[Case] = [
    ("PNG cut off", folder({"b.png": cut(PNG)}, 6), broken("b.png")),
    ("PNG cut in its header", folder({"b.png": PNG[:20]}, 6), broken("b.png")),
    (
        "JPEG cut off",
        folder({f"{n}.jpg": encoded(BYTES[n], "JPEG") for n in range(3)} | {"b.jpg": cut(encoded(BYTES[0], "JPEG"))}),
        broken("b.jpg"),
    ),
    ("WebP cut off", folder({"b.webp": cut(encoded(kind="WEBP"))}), broken("b.webp")),
    ("GIF cut off", folder({"b.gif": cut(encoded(kind="GIF"))}), broken("b.gif")),
    (
        "BMP cut off",
        folder({"a.bmp": encoded(RGB, "BMP"), "b.bmp": cut(encoded(RGB, "BMP"))}, held_out_share=0.0),
        broken("b.bmp"),
    ),
    (
        "plain TIFF cut off",
        folder({"b.tif": cut(encoded(kind="TIFF")), "a.tif": encoded(kind="TIFF")}, held_out_share=0.0),
        broken("b.tif"),
    ),
    ("no bytes", folder({"b.png": b""}, 6), broken("b.png")),
    ("text called PNG", folder({"b.png": b"not a picture"}, 6), broken("b.png")),
    ("HTML called JPEG", folder({"b.jpg": b"<html>404</html>"}, 6), broken("b.jpg")),
    ("all broken, all skipped", folder({"a.png": b"", "b.png": b"x"}, skip_broken=True), told("data", "2")),
    ("grey and RGB", folder({"b.png": encoded(RGB)}, 6), told("b.png", "0.png", "RGB", setting="data.channels")),
    (
        "8 and 16 bits",
        folder({"b.png": encoded(GREY.astype(np.uint16))}, 6),
        told("b.png", "0.png", "16-bit", "16-bit grey"),
    ),
    ("32-bit integers among PNGs", folder({"b.tif": encoded(GREY.astype(np.int32), "TIFF")}, 6), told("b.tif", "int32")),
    (
        "16 bits, channels asked for",
        folder({"b.png": encoded(GREY.astype(np.uint16))}, channels=3),
        told("b.png", "16-bit", "16-bit grey", setting="data.channels"),
    ),
    ("two sizes", folder({"b.png": encoded(GREY[:6])}, 6), told("b.png", "0.png", "6x8", "8x8", setting="data.resize")),
    ("a bomb", folder({"b.png": header_png(60000, 60000)}, 6), broken("b.png")),
    ("a bomb alone", folder({"b.png": header_png(14000, 14000)}, resize=(8, 8), held_out_share=0.0), broken("b.png")),
    ("0 rows", folder({"b.png": header_png(0, 8)}, 6), broken("b.png")),
    (
        "a patch that does not divide",
        folder({"b.png": encoded(BYTES[0, :, :6])}),
        told("b.png", "8x6", "4", setting="data.resize"),
    ),
    ("alpha of grey", folder({}, 6, alpha="premultiplied"), told("data", "1x8x8 uint8", setting="data.alpha")),
    (
        "alpha of 4 float channels",
        npy(np.ones((6, 4, 8, 8), np.float32), alpha="premultiplied"),
        told("a.npy", "4x8x8 float32", setting="data.alpha"),
    ),
    (
        "alpha of signed RGBA",
        npy(np.ones((6, 4, 8, 8), np.int8), alpha="premultiplied"),
        told("a.npy", "4x8x8 int8", setting="data.alpha"),
    ),
    ("nodata between 8-bit values", folder({}, 6, nodata=0.5), told("uint8", "0.5", setting="data.nodata")),
    ("nodata below 8-bit values", folder({}, 6, nodata=-1), told("uint8", "-1", setting="data.nodata")),
    ("nodata NaN of integers", folder({}, 6, nodata=float("nan")), told("uint8", "nan", setting="data.nodata")),
    ("nodata everywhere", npy(np.full((9, 8, 8), 7, np.uint8), nodata=7), told("7.0", setting="data.nodata")),
    ("a class as if by accident beside pictures", folder({"cats/0.png": PNG, "1.png": PNG}), told("data", "cats", "1.png")),
    ("an empty class", folder({"cats/0.png": PNG, "dogs/readme.txt": b""}), told("dogs")),
]

# Folders and places


def empty(tmp: Path) -> DataSettings:
    (tmp / "data").mkdir()
    return DataSettings(tmp / "data")


def special(name: str, act: Callable[[Path], Any]) -> Make:
    """Something that is neither a file nor a folder, alone or, as DATA/..., among good pictures."""

    def make(tmp: Path) -> DataSettings:
        (tmp / name).parent.mkdir(parents=True, exist_ok=True)
        act(tmp / name)
        return DataSettings(tmp / name.split("/")[0])

    return make


def bound(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as plug:
            plug.bind(path.name)
    finally:
        os.chdir(here)


def only(name: str) -> Make:
    return lambda tmp: DataSettings(tmp / name)


def around(tmp: Path) -> DataSettings:
    for name in ("cats", "dogs"):
        (tmp / "data" / name).mkdir(parents=True)
        (tmp / "data" / name / "0.png").write_bytes(PNG)
    (tmp / "data" / "all").symlink_to(tmp / "data")
    return DataSettings(tmp / "data")


PLACES: list[Case] = [
    ("nothing there", only("nowhere"), missing("nowhere")),
    ("a name of 500 letters", only("x" * 500), missing("x" * 500)),
    ("an empty folder", empty, told("data")),
    ("only hidden files", folder({".a.png": PNG, "__MACOSX/b.png": PNG}), told("data")),
    ("only other files", folder({"readme.md": b"", "notes.txt": b"x"}), told("data")),
    ("a file of no known kind", file("a.xyz", b"x"), told("a.xyz")),
    ("a file without ending", file("data", b"x"), told("data")),
    ("pictures and arrays", folder({"a.npy": saved(BYTES)}, 3), told("a.npy", "0.png")),
    ("pictures and a table of scans", folder({"a.dcm": b"x"}, 3), told("a.dcm", "0.png")),
    ("a pipe", special("pipe", os.mkfifo), told("pipe")),
    ("a pipe called .npy", special("pipe.npy", os.mkfifo), told("pipe.npy")),
    ("a pipe called .npz", special("pipe.npz", os.mkfifo), told("pipe.npz")),
    ("a pipe called .png in a folder", special("data/a.png", os.mkfifo), told("data")),
    ("a pipe called .png in a class", special("data/cats/a.png", os.mkfifo), told("data")),
    ("a socket", special("plug.png", bound), told("plug.png")),
    ("a device", lambda tmp: DataSettings(Path("/dev/null")), told("/dev/null")),
    ("a link to itself", special("loop", lambda path: path.symlink_to(path)), missing("loop")),
    ("a link to itself in a folder", special("data/loop", lambda path: path.symlink_to(path)), told("data")),
    ("a link to nothing", special("data/a.png", lambda path: path.symlink_to("gone.png")), broken("a.png")),
    ("a class that holds all classes", around, told("all", "data")),
    ("no variable after the colons", only("a.h5::"), told("a.h5", "a.h5::VARIABLE")),
    ("a variable of an array", file("a.npy", saved(BYTES), "x"), told("a.npy::x", "a.npy")),
    ("a variable of a folder", only("data::x"), told("data::x", "data")),
    ("nothing but colons", lambda tmp: DataSettings(Path("::x")), told("::x")),
    ("a variable of a store that is not there", only("a.h5::x"), missing("a.h5")),
    ("held-out images that are not there", lambda tmp: replace(folder({}, 6)(tmp), held_out=tmp / "gone"), missing("gone")),
    (
        "held-out images of another size",
        lambda tmp: replace(
            folder({}, 6)(tmp), held_out=folder({"a.png": encoded(np.zeros((12, 8), np.uint8))})(tmp / "other").path
        ),
        told("other/data", "1x12x8 uint8", "1x8x8 uint8", setting="data.held_out"),
    ),
    (
        "held-out images of another class",
        lambda tmp: replace(
            folder({"cats/0.png": PNG, "dogs/0.png": PNG})(tmp),
            held_out=folder({"cats/0.png": PNG, "cows/0.png": PNG})(tmp / "other").path,
        ),
        told("other/data", "cows"),
    ),
    (
        "held-out images without a class",
        lambda tmp: replace(
            folder({"cats/0.png": PNG, "dogs/0.png": PNG})(tmp), held_out=folder({"0.png": PNG})(tmp / "other").path
        ),
        told("other/data", "cats, dogs"),
    ),
    (
        "held-out images that are broken",
        lambda tmp: replace(folder({}, 6)(tmp), held_out=folder({"0.png": cut(PNG, 0.7)})(tmp / "other").path),
        broken("other/data/0.png"),
    ),
    ("a test part that is broken", folder({"train/0.png": PNG, "train/1.png": PNG, "test/0.png": b"x"}), broken("test/0.png")),
    ("all held out", folder({}, 6, held_out_share=1.0), told("1.0", setting="data.held_out_share")),
    ("less than none held out", folder({}, 6, held_out_share=-0.1), told("-0.1", setting="data.held_out_share")),
    ("NaN held out", folder({}, 6, held_out_share=float("nan")), told("nan", setting="data.held_out_share")),
    ("one image, some held out", folder({}, 1), told("one image", "folder", setting="data.path")),
]

# Arrays


def pickled(tmp: Path) -> DataSettings:
    np.save(tmp / "a.npy", np.array([{"a": 1}] * 3, dtype=object), allow_pickle=True)
    return DataSettings(tmp / "a.npy")


def archive(*members: tuple[str, bytes]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as target, contextlib.suppress(UserWarning):
            for name, content in members:
                target.writestr(name, content)

    return write


def lying(shape: tuple[int, ...], dtype: str = "|u1") -> bytes:
    """A .npy file whose header promises more than it holds."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue() + bytes(64)


def spoilt(value: float, dtype: str = "float32") -> np.ndarray:
    values = FLOATS.astype(dtype)
    values[3, 0, 4, 4] = value
    return values


ARRAYS: list[Case] = [
    (".npy cut off", shortened(npy(BYTES), 0.8), told("a.npy")),
    (".npy cut in its header", shortened(npy(BYTES), 0.05), told("a.npy")),
    (".npy of no bytes", file("a.npy", b""), told("a.npy")),
    (".npy of text", file("a.npy", b"1,2,3"), told("a.npy")),
    (".npy that promises too much", file("a.npy", lying((10**6, 8, 8))), told("a.npy")),
    (".npy of negative lengths", file("a.npy", lying((-1, 8, 8))), told("a.npy")),
    (".npy beyond all numbers", file("a.npy", lying((2**62, 2**62, 8))), told("a.npy")),
    ("Python objects", pickled, told("a.npy")),
    ("Python objects as labels", npy(BYTES, np.array([None] * 10)), told("a_labels.npy")),
    ("complex values", npy(BYTES.astype(np.complex64)), told("a.npy", "complex64")),
    ("int64", npy(BYTES.astype(np.int64)), told("a.npy", "int64")),
    ("uint64", npy(BYTES.astype(np.uint64)), told("a.npy", "uint64")),
    ("bool", npy(BYTES > 9), told("a.npy", "bool")),
    ("strings", npy([["a"]]), told("a.npy", "<U1")),
    ("dates", npy(np.zeros((3, 8, 8), "M8[s]")), told("a.npy", "datetime64[s]")),
    ("records", npy(np.zeros((3, 8, 8), [("r", "u1")])), told("a.npy", "'r'", "'u1'")),
    ("long doubles", npy(BYTES.astype(np.longdouble)), told("a.npy", "float128")),
    ("no images", npy(BYTES[:0]), told("a.npy", "(0, 8, 8)")),
    ("no pixels", npy(np.zeros((9, 0, 8), np.uint8)), told("a.npy", "(9, 0, 8)")),
    ("a number", npy(np.uint8(1)), told("a.npy", "()")),
    ("one axis", npy(BYTES.ravel()), told("a.npy", "(640,)")),
    ("two axes", npy(GREY), told("a.npy", "(8, 8)")),
    ("five axes", npy(BYTES[None, None]), told("a.npy", "(1, 1, 10, 8, 8)")),
    ("too few labels", npy(BYTES, range(9)), told("a.npy", "(9,)", "10")),
    ("one label", npy(BYTES, 3), told("a.npy", "()", "10")),
    ("labels of two columns", npy(BYTES, np.zeros((10, 2), int)), told("a.npy", "(10, 2)")),
    ("labels between integers", npy(BYTES, np.arange(10.0)), told("a.npy", "float64")),
    ("negative labels", npy(BYTES, range(-1, 9)), told("a.npy", "-1", "0")),
    ("labels with a gap", npy(BYTES, [0, 2] * 5), told("a.npy", "2", "1")),
    ("labels in the billions", npy(BYTES, [0, 2**40] * 5), told("a.npy", "1099511627776")),
    (
        "labels cut off",
        lambda tmp: (npy(BYTES, range(10))(tmp), (tmp / "a_labels.npy").write_bytes(b"\x93NUMPY"))[0],
        told("a_labels.npy"),
    ),
    ("NaN in one image", npy(spoilt(np.nan)), told("NaN", "infinity", "00000003", setting="data.nodata")),
    ("NaN in a float16 image", npy(spoilt(np.nan, "float16")), told("NaN", "infinity", "00000003", setting="data.nodata")),
    ("infinity", npy(spoilt(np.inf)), told("NaN", "infinity", "00000003", setting="data.nodata")),
    ("infinity beside NaN as nodata", npy(spoilt(-np.inf), nodata=float("nan")), told("infinity", "00000003")),
    (
        "NaN beside another nodata",
        npy(spoilt(np.nan), nodata=-9999.0),
        told("NaN", "infinity", "00000003", setting="data.nodata"),
    ),
    ("nothing but NaN", npy(FLOATS * np.nan), told("NaN", "infinity", "00000001", setting="data.nodata")),
    ("nothing but nodata", npy(FLOATS * np.nan, nodata=float("nan")), told("Channel 0", "nan", setting="data.nodata")),
    (
        "values whose squares overflow",
        npy(np.full((6, 8, 8), 1e300) * np.resize([1, -1], (8, 8))),
        told("Channel 0", "float64", setting="data.nodata"),
    ),
    (
        "values of two sorts, both too large",
        npy(np.repeat([1e300, -1e300], 3)[:, None, None] * np.ones((8, 8))),
        told("Channel 0", "float64", setting="data.nodata"),
    ),
    (
        "values too far apart for float32",
        npy(np.resize([3e38, -3e38], (6, 8, 8)).astype(np.float32)),
        told("Channel 0", "float32", setting="data.nodata"),
    ),
    (
        "values too close for float32",
        npy(np.resize([1e-42, 0], (6, 8, 8)).astype(np.float32)),
        told("Channel 0", "float32", setting="data.nodata"),
    ),
    ("nodata beyond float16", npy(FLOATS.astype(np.float16), nodata=1e6), told("float16", "1000000.0", setting="data.nodata")),
    (
        "32-bit integers too far apart",
        npy(np.where(BYTES > 99, np.int32(2**31 - 2), BYTES)),
        told("Channel 0", "2147483646", setting="data.normaliser.kind"),
    ),
    (".npz cut off", shortened(npz(images=BYTES)), told("a.npz")),
    (".npz of text", file("a.npz", b"no archive"), told("a.npz")),
    (".npz of no bytes", file("a.npz", b""), told("a.npz")),
    (".npz that is a .npy", file("a.npz", saved(BYTES)), told("a.npz")),
    (".npz without images", npz(a=BYTES, b=BYTES), told("a.npz", "a, b")),
    (".npz of nothing", file("a.npz", archive()), told("a.npz")),
    (".npz of images that are objects", npz(images=np.array([None] * 3)), told("a.npz")),
    (
        ".npz with names of objects",
        npz(images=BYTES, labels=[0, 1] * 5, class_names=np.array([None, 1])),
        told("a.npz"),
    ),
    (
        ".npz with one name too few",
        npz(images=BYTES, labels=[0, 1, 2, 0, 0, 0, 0, 0, 0, 0], class_names=["a", "b"]),
        told("a.npz", "2", "0", "1"),
    ),
    (
        ".npz with two shapes",
        npz(train_images=BYTES, test_images=np.zeros((2, 4, 4), np.uint8)),
        told("a.npz", "1x4x4 uint8", "1x8x8 uint8", setting="data.held_out"),
    ),
    (".npz that leads out", file("a.npz", archive(("../../evil.npy", saved(BYTES)))), told("a.npz", "'../../evil.npy'")),
    (".npz of an absolute path", file("a.npz", archive(("/tmp/evil.npy", saved(BYTES)))), told("a.npz", "'/tmp/evil.npy'")),
    (
        ".npz that names images twice",
        file("a.npz", archive(("images.npy", saved(BYTES)), ("images.npy", saved(BYTES[:2])))),
        told("a.npz", "'images.npy'"),
    ),
    (".npz of text files", file("a.npz", archive(("images.txt", b"hello"))), told("a.npz")),
    (
        ".npz that promises too much",
        file("a.npz", archive(("images.npy", lying((10**6, 8, 8))))),
        told("a.npz"),
    ),
    ("tiles larger than images", npy(BYTES, tile=(16,)), told("a.npy::00000000", "8x8", "16x16", setting="data.tile")),
    ("tiles that a patch does not divide", npy(BYTES, tile=(6,)), told("6x6", "4", setting="data.tile")),
    (
        "tiles of arrays of two dtypes",
        folder({"a.npy": saved(GREY), "b.npy": saved(GREY.astype(np.float32))}),
        told("b.npy", "a.npy", "float32", "uint8"),
    ),
    (
        "arrays of two sizes",
        folder({"a.npy": saved(GREY), "b.npy": saved(GREY[:4])}),
        told("b.npy", "a.npy", "4x8", "8x8", setting="data.tile"),
    ),
    ("a broken array among good ones", folder({"a.npy": saved(GREY), "b.npy": b"x"}), told("b.npy")),
    (
        "labels of one file of two",
        folder({"a.npy": saved(FLOATS), "b.npy": saved(FLOATS), "a_labels.npy": saved(np.arange(10))}),
        told("b.npy", "data"),
    ),
]

WRONG_SETTINGS: list[tuple[str, Callable[[], object], Answer]] = [
    ("a stride without tiles", lambda: DataSettings(stride=(4,)), told("`data.stride`", setting="data.tile")),
    ("tiles of nothing", lambda: DataSettings(tile=(0,)), told("got 0", setting="data.tile")),
    ("negative tiles", lambda: DataSettings(tile=(-8, 8)), told("-8 8", setting="data.tile")),
    ("three sides", lambda: DataSettings(tile=(8, 8, 8)), told("8 8 8", setting="data.tile")),
    ("a stride of nothing", lambda: DataSettings(tile=(8,), stride=(0,)), told("got 0", setting="data.stride")),
    (
        "tiles and a resize",
        lambda: DataSettings(tile=(8,), resize=(8, 8)),
        told("`data.tile`", "`data.resize`", setting="data.resize"),
    ),
    ("resize to nothing", lambda: DataSettings(resize=(0, 8)), told("0 8", setting="data.resize")),
    ("resize to less than nothing", lambda: DataSettings(resize=(-4, 8)), told("-4 8", setting="data.resize")),
    ("a scale of nothing", lambda: Normalisation("log1p", scale=0.0), told("0.0", setting="data.normaliser.scale")),
    ("a negative scale", lambda: Normalisation("asinh", scale=-1.0), told("-1.0", setting="data.normaliser.scale")),
    ("a scale of NaN", lambda: Normalisation("asinh", scale=float("nan")), told("nan", setting="data.normaliser.scale")),
    ("a scale without curve", lambda: Normalisation(scale=1.0), told("affine", setting="data.normaliser.scale")),
    ("a window that falls", lambda: Normalisation("window", window=(5.0, 1.0)), told("5", "1", setting="data.normaliser.window")),
    (
        "a window of NaN",
        lambda: Normalisation("window", window=(float("nan"), 1.0)),
        told("nan", "1", setting="data.normaliser.window"),
    ),
    (
        "a window without its kind",
        lambda: Normalisation("asinh", window=(0.0, 1.0)),
        told("asinh", "`data.normaliser.kind`", setting="data.normaliser.window"),
    ),
    ("a hurdle in a window", lambda: Normalisation("window", hurdle=True), told("window", setting="data.normaliser.hurdle")),
]


def normalised(values: np.ndarray, **how: Any) -> Make:
    return npy(values, normaliser=Normalisation(**how))


NORMALISERS: list[Case] = [
    (
        "a logarithm of negative values",
        normalised(FLOATS - 5, kind="log1p", scale=1.0),
        told("00000001", setting="data.normaliser.kind"),
    ),
    ("a logarithm where its data choose", normalised(FLOATS - 5, kind="log1p"), told("00000001", setting="data.normaliser.kind")),
    ("a hurdle without atom", normalised(FLOATS, kind="asinh", hurdle=True), told("5%", setting="data.normaliser.hurdle")),
    (
        "quantiles of NaN",
        normalised(FLOATS * np.nan, kind="quantile"),
        told("NaN", "infinity", "00000001", setting="data.nodata"),
    ),
    ("a guess from NaN", normalised(spoilt(np.nan), kind="auto"), told("NaN", "infinity", "00000003", setting="data.nodata")),
]

# Stores


def hdf5(path: Path, **variables: Any) -> None:
    with pytest.importorskip("h5py").File(path, "w") as target:
        for name, values in variables.items():
            target[name] = values


def of_hdf5(variable: str = "", **variables: Any) -> Make:
    return file("a.h5", lambda path: hdf5(path, **variables), variable)


def netcdf(path: Path, engine: str = "scipy", **variables: Any) -> None:
    xarray = pytest.importorskip("xarray")
    names = [("time", "y", "x"), ("time", "band", "y", "x")]
    data = {name: (names[np.ndim(values) - 3], values) for name, values in variables.items()}
    xarray.Dataset(data).to_netcdf(path, engine=engine)


def zarr(path: Path, spoil: Callable[[Path], Any] = lambda path: None, values: np.ndarray = FLOATS, **options: Any) -> None:
    group = pytest.importorskip("zarr").open_group(path, mode="w", zarr_format=3)
    group.create_array("x", data=values, chunks=(2, *values.shape[1:]), **options)
    spoil(path)


def recoded(path: Path) -> None:
    about = json.loads((path / "x" / "zarr.json").read_text())
    about["codecs"] = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "strange", "configuration": {}}]
    (path / "x" / "zarr.json").write_text(json.dumps(about))


def chunks(path: Path) -> list[Path]:
    return sorted(found for found in (path / "x" / "c").rglob("*") if found.is_file())


STORES: list[Case] = [
    ("HDF5 cut off", shortened(of_hdf5(x=FLOATS)), told("a.h5")),
    ("HDF5 of text", file("a.h5", b"no HDF5"), told("a.h5")),
    ("HDF5 of no bytes", file("a.h5", b""), told("a.h5")),
    ("HDF5 without variables", of_hdf5(), told("a.h5", setting="data.path")),
    ("HDF5 with two variables", of_hdf5(x=FLOATS, y=FLOATS), told("a.h5", "10x1x8x8 float32", setting="data.path")),
    ("HDF5 without that variable", of_hdf5("z", x=FLOATS), told("a.h5", "variable z", "(x)", setting="data.path")),
    ("a group of HDF5", of_hdf5("g", **{"g/x": FLOATS}), told("a.h5", "variable g", "(g/x)", setting="data.path")),
    ("an empty variable", of_hdf5("x", x=FLOATS[:0]), told("a.h5::x", "0x1x8x8")),
    ("a variable without place", of_hdf5("x", x=np.float32(3)), told("a.h5::x", "()", "0")),
    ("a variable of one axis", of_hdf5("x", x=np.ones(5)), told("a.h5::x", "(5)", "1")),
    ("a variable of five axes", of_hdf5("x", x=FLOATS[None]), told("a.h5::x", "1x10x1x8x8")),
    ("a variable of strings", of_hdf5("x", x=np.full((3, 8, 8), b"a")), told("a.h5::x", "|S1")),
    ("a variable of text of any length", of_hdf5("x", x=np.full((2, 2), "a", object)), told("a.h5::x", "object")),
    (
        "a variable of records",
        of_hdf5("x", x=np.zeros((3, 8, 8), [("r", "u1"), ("g", "u1")])),
        told("a.h5::x", "'r'", "'u1'", "'g'"),
    ),
    ("a variable of int64", of_hdf5("x", x=np.zeros((3, 8, 8), np.int64)), told("a.h5::x", "int64")),
    ("a variable of bool", of_hdf5("x", x=np.zeros((3, 8, 8), bool)), told("a.h5::x", "bool")),
    ("a variable of complex values", of_hdf5("x", x=np.zeros((3, 8, 8), np.complex64)), told("a.h5::x", "complex64")),
    ("variables of two shapes", of_hdf5("x,y", x=FLOATS, y=FLOATS[:3]), told("a.h5", "3x1x8x8 float32", "10x1x8x8 float32")),
    (
        "variables of two dtypes",
        of_hdf5("x,y", x=FLOATS, y=FLOATS.astype(np.float64)),
        told("a.h5", "10x1x8x8 float64", "10x1x8x8 float32"),
    ),
    ("a variable named twice", of_hdf5("x,x", x=FLOATS), told("x,x")),
    (
        "a variable of nothing but NaN",
        of_hdf5("x", x=FLOATS * np.nan),
        told("NaN", "infinity", "00000001", setting="data.nodata"),
    ),
    (
        "labels of another length are no labels",
        of_hdf5("x", x=FLOATS * np.inf, labels=np.arange(3)),
        told("NaN", "infinity", "00000001", setting="data.nodata"),
    ),
    ("labels with a gap in HDF5", of_hdf5("x", x=FLOATS, labels=np.resize([0, 2], 10)), told("a.h5::x", "2", "1")),
    ("HDF5 called NetCDF", file("a.nc", b"not NetCDF"), told("a.nc", "3", "4")),
    ("NetCDF of no bytes", file("a.nc", b""), told("a.nc", "3", "4")),
    ("NetCDF 3 cut off", shortened(file("a.nc", lambda path: netcdf(path, u=FLOATS)), 0.6), told("a.nc")),
    ("NetCDF 3 cut in its header", shortened(file("a.nc", lambda path: netcdf(path, u=FLOATS)), 0.01), told("a.nc")),
    ("NetCDF 4 cut off", shortened(file("a.nc", lambda path: netcdf(path, "h5netcdf", u=FLOATS))), told("a.nc")),
    (
        "NetCDF with two variables",
        file("a.nc", lambda path: netcdf(path, u=FLOATS, v=FLOATS)),
        told("a.nc", "10x1x8x8 float32", setting="data.path"),
    ),
    (
        "NetCDF without that variable",
        file("a.nc", lambda path: netcdf(path, u=FLOATS), "q"),
        told("a.nc", "variable q", "(u)", setting="data.path"),
    ),
    (
        "NetCDF without that group",
        file("a.nc", lambda path: netcdf(path, "h5netcdf", u=FLOATS), "g/q"),
        told("a.nc", "variable g/q", "(u)", setting="data.path"),
    ),
    ("Zarr that is an empty folder", file("a.zarr", Path.mkdir), told("a.zarr")),
    ("Zarr that is a file", file("a.zarr", b"x"), told("a.zarr")),
    (
        "Zarr whose JSON is none",
        file("a.zarr", lambda path: zarr(path, lambda at: (at / "zarr.json").write_text("{"))),
        told("a.zarr"),
    ),
    (
        "Zarr whose array's JSON is none",
        file("a.zarr", lambda path: zarr(path, lambda at: (at / "x/zarr.json").write_text("[]")), "x"),
        told("a.zarr"),
    ),
    ("Zarr with a codec of the future", file("a.zarr", lambda path: zarr(path, recoded), "x"), told("a.zarr")),
    (
        "Zarr whose chunk is cut off",
        file("a.zarr", lambda path: zarr(path, lambda at: chunks(at)[1].write_bytes(b"zzz")), "x"),
        told("a.zarr", "2"),
    ),
    (
        "Zarr whose chunks are gone, NaN instead",
        file("a.zarr", lambda path: zarr(path, lambda at: [c.unlink() for c in chunks(at)], fill_value=np.nan), "x"),
        told("NaN", "infinity", "00000001", setting="data.nodata"),
    ),
    ("Zarr in a ZIP cut off", file("a.zarr.zip", b"PK\3\4zzz"), told("a.zarr.zip")),
    (
        "Zarr of int64",
        file("a.zarr", lambda path: zarr(path, values=np.zeros((3, 8, 8), np.int64)), "x"),
        told("a.zarr::x", "int64"),
    ),
    (
        "stores of two dtypes",
        two(lambda path, x: hdf5(path, x=x), ".h5", FLOATS, FLOATS.astype(np.float64)),
        told("b.h5", "a.h5", "float64", "float32"),
    ),
    (
        "stores of two numbers of channels",
        two(lambda path, x: hdf5(path, x=x), ".h5", FLOATS, np.repeat(FLOATS, 2, 1)),
        told("b.h5", "a.h5", "float32", "1"),
    ),
]

# TIFF and GeoTIFF


def tiff(path: Path, *arrays: Any, **options: Any) -> None:
    with pytest.importorskip("tifffile").TiffWriter(path) as target:
        for values in arrays:
            target.write(values, **options)


def of_tiff(*arrays: Any, settings: dict[str, Any] | None = None, **options: Any) -> Make:
    return file("a.tif", lambda path: tiff(path, *arrays, **options), **{"held_out_share": 0.0, **(settings or {})})


def pages(path: Path, values: np.ndarray) -> None:
    tiff(path, *values)


def nodata(text: str) -> dict[str, Any]:
    return {"extratags": [(42113, "s", 0, text, True)], "metadata": None}


RASTERS: list[Case] = [
    ("a scan cut off", shortened(of_tiff(BYTES.astype(np.float32)), 0.5), broken("a.tif")),
    (
        "a packed scan cut off",
        shortened(of_tiff(BYTES.astype(np.float32), compression="zlib", metadata=None), 0.6),
        broken("a.tif"),
    ),
    ("a tiled scan cut off", shortened(of_tiff(np.zeros((32, 32), np.float32), GREY, tile=(16, 16)), 0.5), broken("a.tif")),
    ("several series", of_tiff(BYTES[0], BYTES[1, :4]), told("a.tif", "4x8 uint8", "8x8 uint8")),
    ("a scan of int64", of_tiff(BYTES.astype(np.int64)), told("a.tif", "int64")),
    ("a scan of complex values", of_tiff(BYTES.astype(np.complex64)), told("a.tif", "complex64")),
    ("white as zero", of_tiff(*BYTES[:3].astype(np.int16), photometric="miniswhite"), told("a.tif", "white as zero")),
    ("TIFF of text", file("a.tif", b"no tiff at all"), broken("a.tif")),
    ("TIFF of no bytes", file("a.tif", b""), broken("a.tif")),
    ("TIFF that points past its end", file("a.tif", b"II*\0\xff\xff\xff\x7f"), broken("a.tif")),
    ("TIFF that points at itself", file("a.tif", b"II*\0\x08\0\0\0\0\0\x08\0\0\0"), told("a.tif")),
    (
        "scans of two sizes",
        two(pages, ".tif", FLOATS[:, 0], FLOATS[:, 0, :4]),
        told("b.tif", "a.tif", "4x8", "8x8", setting="data.tile"),
    ),
    ("scans of two depths", two(pages, ".tif", FLOATS[:, 0], BYTES), told("b.tif", "a.tif", "uint8", "float32")),
    ("nodata that bytes do not hold", of_tiff(GREY, **nodata("-9999")), told("a.tif", "uint8", "-9999")),
    ("nodata that is no number", of_tiff(FLOATS[0, 0], **nodata("none")), told("a.tif", "'none'")),
    ("a map cut off", shortened(of_tiff(np.zeros((64, 64), np.float32), **nodata("0")), 0.5), broken("a.tif", "0")),
    ("a map of complex values", of_tiff(np.zeros((8, 8), np.complex64), **nodata("0")), told("a.tif", "complex64")),
    (
        "tiles larger than a map",
        of_tiff(FLOATS[0, 0], settings={"tile": (16,)}, **nodata("0")),
        told("a.tif::00000000", "8x8", "16x16", setting="data.tile"),
    ),
    (
        "maps of two nodata",
        two(lambda path, text: tiff(path, FLOATS[0, 0], **nodata(text)), ".tif", "0", "1"),
        told("a.tif", "b.tif", "0.0", "1.0"),
    ),
    (
        "maps of NaN and of a number",
        two(lambda path, text: tiff(path, FLOATS[0, 0], **nodata(text)), ".tif", "0", "nan"),
        told("a.tif", "b.tif", "nan", "0.0"),
    ),
]


# Radiology


def scan(path: Path, pixels: np.ndarray = GREY, **tags: Any) -> None:
    """A small DICOM file; tags that are None are left out."""
    pydicom = pytest.importorskip("pydicom")
    data, uid = pydicom.Dataset(), pydicom.uid
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = uid.UID(tags.pop("syntax", uid.ExplicitVRLittleEndian))
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = uid.CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = uid.UID("1.2.3")
    values = {
        "SeriesInstanceUID": "1.2.4", "Modality": "CT", "Rows": pixels.shape[0], "Columns": pixels.shape[1],
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 8 * pixels.itemsize,
        "BitsStored": 8 * pixels.itemsize, "HighBit": 8 * pixels.itemsize - 1, "PixelRepresentation": 0,
        "PixelData": pixels.tobytes(), **tags,
    }  # fmt: skip
    for name, value in values.items():
        if value is not None:
            setattr(data, name, value)
    if "PixelData" in data:
        data["PixelData"].VR = "OB" if pixels.itemsize == 1 else "OW"
        data["PixelData"].is_undefined_length = data.file_meta.TransferSyntaxUID.is_compressed
    data.save_as(path, enforce_file_format=True)


def scans(*each: dict[str, Any]) -> Make:
    """A folder of slices."""

    def make(tmp: Path) -> DataSettings:
        (tmp / "data").mkdir()
        for number, tags in enumerate(each):
            scan(tmp / "data" / f"{number}.dcm", **tags)
        return DataSettings(tmp / "data")

    return make


def volume(values: np.ndarray, name: str = "a.nii", **settings: Any) -> Make:
    def write(path: Path) -> None:
        nibabel = pytest.importorskip("nibabel")
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4), dtype=values.dtype), path)

    return file(name, write, **settings)


COLOURS = np.zeros((8, 8, 8), [("R", "u1"), ("G", "u1"), ("B", "u1")])

MEDICAL: list[Case] = [
    ("text called DICOM", file("a.dcm", b"not DICOM"), told("a.dcm")),
    ("DICOM of no bytes", file("a.dcm", b""), told("a.dcm")),
    ("DICOM that only begins so", file("scan", bytes(128) + b"DICM"), told("scan")),
    ("DICOM without pixels", scans({}, {"PixelData": None}), told("1.dcm")),
    ("DICOM without rows", scans({}, {"Rows": None}), told("1.dcm")),
    ("DICOM of 0 rows", scans({}, {"Rows": 0}), told("1.dcm", "0.dcm", "(1, 0, 8)", "(1, 8, 8)")),
    (
        "DICOM cut off",
        lambda tmp: shortened(lambda here: replace(scans({})(here), path=here / "data" / "0.dcm"), 0.9)(tmp),
        told("0.dcm", "53"),
    ),
    (
        "DICOM cut in its header",
        lambda tmp: shortened(lambda here: replace(scans({})(here), path=here / "data" / "0.dcm"), 0.3)(tmp),
        told("0.dcm"),
    ),
    ("slices of two sizes", scans({}, {"pixels": GREY[:6]}), told("1.dcm", "0.dcm", "(1, 6, 8)", "(1, 8, 8)")),
    ("slices of two depths", scans({}, {"pixels": GREY.astype(np.uint16)}), told("1.dcm", "0.dcm", "uint16", "uint8")),
    (
        "series of two sizes",
        scans({}, {"pixels": GREY[:6], "SeriesInstanceUID": "1.2.9"}),
        told("data::1.dcm", "data::0.dcm", "6x8", "8x8", setting="data.tile"),
    ),
    ("a slope of 0", scans({}, {"RescaleSlope": "0", "RescaleIntercept": "1"}), told("1.dcm", "0")),
    ("1 bit a value", scans({}, {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}), told("1.dcm")),
    (
        "a compression that nothing reads",
        scans({"syntax": "1.2.840.10008.1.2.4.102", "PixelData": b"\xfe\xff\x00\xe0" + bytes(4)}),
        told("0.dcm", "MPEG-4"),
    ),
    ("text called NIfTI", file("a.nii", b"not NIfTI"), told("a.nii")),
    ("NIfTI of no bytes", file("a.nii", b""), told("a.nii")),
    ("NIfTI cut off", shortened(volume(FLOATS[:, 0]), 0.7), told("a.nii", "2038", "2912")),
    ("packed NIfTI cut off", shortened(volume(FLOATS[:, 0], "a.nii.gz", axis=0), 0.7), told("a.nii.gz")),
    ("packed NIfTI that is not packed", file("a.nii.gz", b"not gzip"), told("a.nii.gz")),
    ("NIfTI of one axis", volume(np.ones(8, np.float32)), told("a.nii", "(8,)")),
    ("NIfTI of five axes", volume(np.ones((4, 4, 4, 2, 2), np.float32)), told("a.nii", "(4, 4, 4, 2, 2)")),
    ("NIfTI of colours", volume(COLOURS), told("a.nii", "'R'", "'u1'", "'G'")),
    ("NIfTI of complex values", volume(np.ones((8, 8, 8), np.complex64)), told("a.nii", "complex64")),
    ("NIfTI of NaN", volume(FLOATS[:, 0] * np.nan, axis=0), told("NaN", "infinity", "0000", setting="data.nodata")),
    (
        "NIfTI volumes of two sizes",
        two(lambda path, values: volume(values, path.name)(path.parent), ".nii", FLOATS[:, 0], FLOATS[:, 0, :4]),
        told("b.nii", "a.nii", "10x4", "10x8", setting="data.tile"),
    ),
]

# Packed sets


def parquet(**columns: Any) -> Make:
    def write(path: Path) -> None:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table(columns), path)

    return file("a.parquet", write)


def tar(*members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE, mode: Literal["w", "w:gz"] = "w") -> Make:
    """A tar shard; members that are no regular files point elsewhere."""

    def write(path: Path) -> None:
        with tarfile.open(path, mode) as target:
            for name, content in members:
                info = tarfile.TarInfo(name)
                special = content == b""
                info.type, info.linkname, info.size = kind if special else tarfile.REGTYPE, "/etc/hostname", len(content)
                target.addfile(info, io.BytesIO(content))

    return file("a.tar", write)


def dataset(state: dict[str, Any] | str) -> Make:
    """A folder that `datasets.save_to_disk` might have written, with this state.json."""

    def make(tmp: Path) -> DataSettings:
        (tmp / "data").mkdir()
        (tmp / "data" / "state.json").write_text(state if isinstance(state, str) else json.dumps(state))
        (tmp / "data" / "dataset_info.json").write_text("{}")
        (tmp / "data" / "a.arrow").write_bytes(b"no Arrow")
        return DataSettings(tmp / "data")

    return make


FIVE = [(f"{number}.png", PNG) for number in range(5)]

PACKED: list[Case] = [
    ("parquet of text", file("a.parquet", b"not parquet"), told("a.parquet")),
    ("parquet of no bytes", file("a.parquet", b""), told("a.parquet")),
    ("parquet cut off", shortened(parquet(image=[PNG] * 5)), told("a.parquet")),
    ("parquet without rows", parquet(image=np.zeros(0, "S1")), told("a.parquet")),
    ("parquet without images", parquet(a=[1, 2], b=["x", "y"]), told("a.parquet", "(a, b)")),
    ("parquet with two columns of images", parquet(a=[PNG] * 3, b=[PNG] * 3), told("a.parquet", "(a, b)")),
    ("parquet with a broken image", parquet(image=[PNG, PNG, b"x"]), broken("a.parquet::00000002", setting=None)),
    ("parquet with a cut image", parquet(image=[PNG, PNG, cut(PNG, 0.8)]), broken("a.parquet::00000002", setting=None)),
    ("parquet without an image", parquet(image=[PNG, None, PNG]), broken("a.parquet::00000001", setting=None)),
    (
        "parquet of paths",
        parquet(image=[{"bytes": None, "path": "/etc/passwd"}, {"bytes": PNG, "path": "b"}]),
        broken("a.parquet::00000000", "/etc/passwd", setting=None),
    ),
    (
        "parquet of two sizes",
        parquet(image=[PNG, encoded(GREY[:4]), PNG]),
        told("a.parquet::00000001", "a.parquet::00000000", "4x8", "8x8", setting="data.resize"),
    ),
    ("parquet of uneven lists", parquet(image=[[[1, 2], [3]], [[1, 2], [3, 4]]]), broken("a.parquet::00000000", setting=None)),
    ("parquet of int64 lists", parquet(image=np.zeros((3, 4, 4), int).tolist()), told("a.parquet::00000000", "int64")),
    ("parquet without a label", parquet(image=[PNG] * 3, label=[0, None, 1]), told("a.parquet", "1 rows")),
    ("parquet of labels between integers", parquet(image=[PNG] * 3, label=[0.0, 0.5, 1.0]), told("a.parquet", "double")),
    ("parquet of labels with a gap", parquet(image=[PNG] * 3, label=[0, 0, 2]), told("a.parquet", "2", "1")),
    ("a state that is no JSON", dataset("{"), told("state.json")),
    ("a state without files", dataset({}), told("state.json")),
    ("a state that leads out", dataset({"_data_files": [{"filename": "../evil.arrow"}]}), told("data", "'../evil.arrow'")),
    ("a state with a file that is gone", dataset({"_data_files": [{"filename": "b.arrow"}]}), missing("b.arrow")),
    ("no Arrow", dataset({"_data_files": [{"filename": "a.arrow"}]}), told("a.arrow")),
    ("tar of text", file("a.tar", b"not tar" * 99), told("a.tar")),
    ("tar of no bytes", file("a.tar", b""), told("a.tar")),
    ("tar cut off", shortened(tar(*FIVE), 0.2), told("a.tar", "2048")),
    ("tar cut at its end", shortened(tar(*FIVE), 0.5), told("a.tar", "5120")),
    ("tar of nothing", tar(), told("a.tar")),
    ("tar without images", tar(("a.txt", b"x")), told("a.tar")),
    ("tar that leads out", tar(*FIVE, ("../evil.png", PNG)), told("a.tar", "'../evil.png'")),
    ("tar of an absolute path", tar(*FIVE, ("/tmp/evil.png", PNG)), told("a.tar", "'/tmp/evil.png'")),
    ("tar that leads out of Windows", tar(*FIVE, ("..\\evil.png", PNG)), told("a.tar", "'..\\\\evil.png'")),
    ("tar with a link", tar(*FIVE, ("evil.png", b""), kind=tarfile.SYMTYPE), told("a.tar", "'evil.png'")),
    ("tar with a hard link", tar(*FIVE, ("evil.png", b""), kind=tarfile.LNKTYPE), told("a.tar", "'evil.png'")),
    ("tar with a device", tar(*FIVE, ("evil.png", b""), kind=tarfile.CHRTYPE), told("a.tar", "'evil.png'")),
    ("tar with a pipe", tar(*FIVE, ("evil.png", b""), kind=tarfile.FIFOTYPE), told("a.tar", "'evil.png'")),
    ("tar with a broken image", tar(*FIVE, ("b.png", b"x")), broken("a.tar::b", setting=None)),
    ("tar with a cut image", tar(*FIVE, ("b.png", cut(PNG, 0.8))), broken("a.tar::b", setting=None)),
    (
        "tar of two sizes",
        tar(*FIVE, ("b.png", encoded(GREY[:4]))),
        told("a.tar::b", "a.tar::0", "4x8", "8x8", setting="data.resize"),
    ),
    ("tar of two images a sample", tar(*FIVE, ("0.jpg", PNG)), told("a.tar::0", "2 images")),
    ("tar of a label without image", tar(*FIVE, ("b.cls", b"1")), told("a.tar::b")),
    ("tar of a label that is no number", tar(("a.png", PNG), ("a.cls", b"cat")), told("a.tar::a.cls", "'cat'")),
    ("tar of some labels", tar(*FIVE, ("0.cls", b"1")), told("a.tar", "0", "1")),
    ("tar of objects", tar(("a.npy", saved(np.array([None] * 3)))), broken("a.tar::a", setting=None)),
    ("tar of arrays that promise too much", tar(("a.npy", lying((100, 100)))), broken("a.tar::a", setting=None)),
    ("packed tar", tar(*FIVE, mode="w:gz"), told("a.tar", "gzip")),
]


# Tables and images beside

TABLE = "name,rain,kind\n" + "".join(f"{number},{number}.5,{'wet' if number % 2 else 'dry'}\n" for number in range(10))


MASKS = np.repeat([0] * 5 + [1] * 4 + [7], 64).reshape(10, 8, 8).astype(np.uint8)


def conditioned(text: str | bytes | np.ndarray, name: str = "table.csv", **settings: Any) -> Make:
    """Ten images with a table."""

    def make(tmp: Path) -> DataSettings:
        np.save(tmp / "a.npy", BYTES)
        if isinstance(text, np.ndarray):
            np.save(tmp / name, text)
        else:
            (tmp / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return DataSettings(tmp / "a.npy", conditions=tmp / name, **settings)

    return make


def numbered(text: str) -> str:
    """The table with numbers as the array's images are called."""
    return re.sub(r"^(\d)", r"0000000\1", text, flags=re.MULTILINE)


def cond_image(values: np.ndarray, **settings: Any) -> Make:
    """Ten images with others beside."""

    def make(tmp: Path) -> DataSettings:
        np.save(tmp / "a.npy", BYTES)
        np.save(tmp / "masks.npy", values)
        return DataSettings(tmp / "a.npy", cond_image=tmp / "masks.npy", **settings)

    return make


GIVEN: list[Case] = [
    ("no table", lambda tmp: replace(conditioned("")(tmp), conditions=tmp / "gone.csv"), missing("gone.csv")),
    ("a folder as table", lambda tmp: replace(conditioned("")(tmp), conditions=tmp), missing()),
    (
        "a pipe as table",
        lambda tmp: (os.mkfifo(tmp / "p.csv"), replace(conditioned("")(tmp), conditions=tmp / "p.csv"))[1],
        missing("p.csv"),
    ),
    ("a table of no bytes", conditioned(""), told("table.csv")),
    ("a table of a head alone", conditioned("name,rain\n"), told("table.csv")),
    ("a table of names alone", conditioned("name\n0\n"), told("table.csv", setting="data.conditions")),
    ("a picture as table", conditioned(PNG), told("table.csv")),
    ("an open quotation mark", conditioned('name,rain\n0,"1\n'), told("table.csv")),
    ("a table in UTF-16", conditioned(TABLE.encode("utf-16")), told("table.csv")),
    ("a line too short", conditioned(numbered(TABLE).replace(",3.5,wet", ",3.5")), told("table.csv", "line 5", "2", "3")),
    ("semicolons", conditioned(numbered(TABLE).replace(",", ";")), told("table.csv")),
    ("a column twice", conditioned(TABLE.replace("rain", "kind")), told("table.csv", "name, kind, kind")),
    ("an image twice", conditioned(numbered(TABLE) + "00000003,1,wet\n"), told("table.csv", "00000003")),
    ("an image without line", conditioned(numbered(TABLE).replace("00000003", "x")), told("table.csv", "00000003")),
    ("an image without number", conditioned(numbered(TABLE).replace("3.5", "nan")), told("table.csv", "nan", "rain")),
    ("an infinite number", conditioned(numbered(TABLE).replace("3.5", "inf")), told("table.csv", "inf", "rain")),
    (
        "a number beyond float32",
        conditioned(numbered(TABLE).replace("3.5", "1e308").replace("4.5", "-1e308")),
        told("table.csv", "1e308", "rain"),
    ),
    ("an image without word", conditioned(numbered(TABLE).replace("3.5,wet", "3.5,")), told("table.csv", "kind")),
    (
        "a word that only held-out images have",
        conditioned(numbered(TABLE).replace("9.5,wet", "9.5,hail"), held_out_by="order"),
        told("table.csv", "line 11", "kind", "hail", "dry, wet"),
    ),
    ("too few numbers", conditioned(np.ones((9, 2)), "table.npy"), told("table.npy", "9", setting="data.conditions")),
    (
        "a number that only held-out images have",
        conditioned(numbered(TABLE).replace("9.5", "9e30"), held_out_by="order"),
        told("table.csv", "line 11", "rain", "9e30"),
    ),
    ("numbers of three axes", conditioned(np.ones((10, 2, 2)), "table.npy"), told("table.npy", "(10, 2, 2)", "float64")),
    ("words in an array", conditioned(np.full((10, 1), "a"), "table.npy"), told("table.npy", "(10, 1)", "<U1")),
    ("complex numbers", conditioned(np.ones((10, 1), complex), "table.npy"), told("table.npy", "(10, 1)", "complex128")),
    ("NaN in an array", conditioned(np.full((10, 1), np.nan), "table.npy"), told("table.npy", "nan")),
    ("an array of objects", conditioned(saved(np.array([None] * 10)), "table.npy"), told("table.npy")),
    ("a .npz without numbers", conditioned(b"PK", "table.npz"), told("table.npz")),
    ("nothing beside", lambda tmp: replace(cond_image(BYTES)(tmp), cond_image=tmp / "gone"), missing("gone")),
    ("too few beside", cond_image(BYTES[:9]), told("masks.npy", "00000009", setting="data.cond_image")),
    ("smaller ones beside", cond_image(BYTES[:, :4]), told("masks.npy", "4x8", "8x8", setting="data.cond_image")),
    ("NaN beside", cond_image(spoilt(np.nan)), told("NaN", "infinity", "00000003", setting="data.nodata")),
    ("int64 beside", cond_image(BYTES.astype(np.int64)), told("masks.npy", "int64")),
    (
        "a class beside that only held-out images have",
        cond_image(MASKS, held_out_by="order"),
        told("00000009", "7", "2"),
    ),
]


CASES = [*PICTURES, *PLACES, *ARRAYS, *NORMALISERS, *STORES, *RASTERS, *MEDICAL, *PACKED, *GIVEN]


@pytest.mark.parametrize(("make", "answer"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_bad_data_are_one_sentence(make: Make, answer: Answer, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    settings = make(tmp_path)
    with pytest.raises(UserError) as caught:
        reads(settings)
    answer.check(caught.value)
    check_sentence(str(caught.value), tmp_path)


@pytest.mark.parametrize(("make", "answer"), [case[1:] for case in WRONG_SETTINGS], ids=[case[0] for case in WRONG_SETTINGS])
def test_wrong_settings_are_one_sentence(make: Callable[[], object], answer: Answer) -> None:
    with pytest.raises(UserError) as caught:
        make()
    answer.check(caught.value)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)
    assert "`data." in str(caught.value)


def test_there_are_a_hundred_of_them() -> None:
    names = [case[0] for case in (*CASES, *WRONG_SETTINGS)]
    assert len(set(names)) == len(names) >= 100


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = folder({"cats/0.png": PNG, "dogs/0.png": PNG})(tmp_path)
    listing = os.scandir

    def refused(path: Any) -> Any:
        if Path(path).name == "dogs":
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(os, "scandir", refused)  # root may read everything
    with pytest.raises(UserError, match=r"dogs.*Permission denied"):
        reads(settings)


# Through the command line


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that can be asked for numbers, words and masks, and whose images have pixels that were not measured."""
    tmp = tmp_path_factory.mktemp("given")
    values = FLOATS.copy()
    values[:, 0, 0] = np.nan
    np.save(tmp / "a.npy", values)
    np.save(tmp / "masks.npy", np.minimum(MASKS, 1))
    (tmp / "table.csv").write_text(numbered(TABLE))
    words = ("--data.nodata", "nan", "--data.conditions", tmp / "table.csv", "--data.cond-image", tmp / "masks.npy")
    assert train("digits-diffusion", tmp / "a.npy", tmp / "run", *words, "--steps", 3, "--every", 3) == 0
    return tmp / "run"


ASKED = "rain,kind\n1,wet\n"
GOOD = {"good.csv": ASKED.encode(), "good.npy": saved(MASKS[:1])}
TRAIN, SAMPLE = "train digits-diffusion --out {out} --data {tmp}/", "sample {run} --out {out} --count 1 "
BOTH = SAMPLE + "--conditions {tmp}/good.csv --cond-image {tmp}/good.npy "

COMMANDS: list[tuple[str, dict[str, bytes], str]] = [
    (TRAIN + "a.npy", {"a.npy": cut(saved(BYTES))}, "a.npy"),
    (TRAIN + "a.npy", {"a.npy": saved(spoilt(np.nan))}, "NaN | --data.nodata"),
    (TRAIN + "a", {"a/0.png": PNG, "a/1.png": PNG, "a/2.png": cut(PNG)}, "2.png | --data.skip-broken"),
    (TRAIN + "a.tar", {"a.tar": b"no tar"}, "a.tar"),
    (TRAIN + "a.h5::x", {"a.h5": b"no HDF5"}, "a.h5"),
    (TRAIN + "a.nc", {"a.nc": b"\x89HDF\r\n\x1a\n" + bytes(500)}, "a.nc"),
    (TRAIN + "a.npy --data.tile 16", {"a.npy": saved(BYTES)}, "--data.tile | 16"),
    (TRAIN + "a.npy --data.normaliser.kind log1p", {"a.npy": saved(FLOATS - 9)}, "--data.normaliser.kind | asinh"),
    (TRAIN + "a.npy --data.conditions {tmp}/t.csv", {"a.npy": saved(BYTES), "t.csv": b"name,x\n"}, "t.csv"),
    (
        TRAIN + "a.npy --data.cond-image {tmp}/b.npy",
        {"a.npy": saved(BYTES), "b.npy": saved(BYTES[:3])},
        "b.npy",
    ),
    ("audit {tmp}/a.xyz --out {out}", {"a.xyz": b"?"}, "a.xyz"),
    ("audit {tmp}/a.npy::x --out {out}", {"a.npy": saved(BYTES)}, "a.npy::x"),
    (SAMPLE + "--conditions {tmp}/t.csv", {"t.csv": ASKED.encode()}, "--cond-image"),
    (BOTH + "--conditions {tmp}/t.csv", {"t.csv": cut(PNG)}, "t.csv"),
    (BOTH + "--conditions {tmp}/t.csv", {"t.csv": b"rain\n1\n"}, "t.csv | kind"),
    (BOTH + "--conditions {tmp}/t.csv", {"t.csv": b"rain,kind\n\n1,snow\n"}, "t.csv | line 3 | kind | snow"),
    (BOTH + "--conditions {tmp}/t.csv", {"t.csv": b"rain,kind\nmuch,wet\n"}, "t.csv | line 2 | rain | much"),
    (BOTH + "--conditions {tmp}/t.csv", {"t.csv": b"rain,kind\n1e30,wet\n"}, "t.csv | line 2 | rain | 1e30"),
    (BOTH + "--cond-image {tmp}/b.npy", {"b.npy": saved(MASKS[:, :4])}, "b.npy | 1x4x8"),
    (BOTH + "--cond-image {tmp}/b.npy", {"b.npy": saved(MASKS[9:])}, "class 7 | 2"),
    (BOTH + "--cond-image {tmp}/b.npy", {"b.npy": saved(MASKS[:1].astype(np.float32) / 2)}, "b.npy | float32"),
    (BOTH + "--fill-nodata {tmp}/b.npy", {"b.npy": saved(MASKS[:1, :4])}, "b.npy | 4x8 | 8x8"),
    (BOTH + "--fill-nodata {tmp}/b.npy", {"b.npy": b"x"}, "b.npy"),
    (BOTH + "--format png", {}, "PNG"),
    (BOTH + "--coordinates", {}, "oordinates"),
    ("evaluate {run} --data {tmp}/b.npy --count 8 --no-use-inception", {"b.npy": saved(spoilt(np.inf))}, "00000003 | infinity"),
]


@pytest.mark.parametrize(("words", "written", "facts"), COMMANDS, ids=[f"{words[:5]} {facts}" for words, _, facts in COMMANDS])
def test_a_command_given_bad_data_says_one_sentence_and_writes_nothing(
    words: str, written: dict[str, bytes], facts: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in {**GOOD, **written}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    before, data = files(run), files(tmp_path)
    capsys.readouterr()
    assert call(*words.format(tmp=tmp_path, out=tmp_path / "out", run=run).split()) == 2
    said = capsys.readouterr().err
    mistakes = [line for line in said.splitlines() if line.startswith("pixelpath: ")]
    assert len(mistakes) == 1
    assert said.endswith(f"{mistakes[0]}\n")
    assert [fact for fact in facts.split(" | ") if fact not in mistakes[0]] == [], mistakes[0]
    assert mistakes[0].endswith(".")
    assert "Traceback" not in said
    assert files(run) == before
    assert files(tmp_path) == data
    assert not (tmp_path / "out").exists()


def test_held_out_images_that_are_broken_end_a_run_before_its_first_step(tmp_path: Path, capsys) -> None:
    bad = {f"train/{number}.png": PNG for number in range(8)} | {"test/0.png": cut(PNG, 0.7)}
    settings = folder(bad)(tmp_path)
    assert settings.path is not None
    assert train("digits-diffusion", settings.path, tmp_path / "run") == 2
    assert "test/0.png" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert not list((tmp_path / "run").rglob("*.partial"))
    assert all(json.loads(path.read_text()) for path in (tmp_path / "run").rglob("*.json"))
