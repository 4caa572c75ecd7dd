"""Tar shards: samples as they were packed, in little memory, mistakes answered in words."""

from __future__ import annotations

import re
import tarfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tests.data.formats.packing import COLOUR, GREY, RANDOM, Members, everything, npy, png, refused, shard

from pixelpath.data.formats.reading import BrokenFileError
from pixelpath.data.formats.tar import open_tar_shards


def test_a_tar_shard_gives_every_picture_with_its_key_and_label(tmp_path: Path) -> None:
    members = []
    for number, image in enumerate(COLOUR):
        members += [
            (f"a/{number:04d}.v1.png", png(image)),
            (f"a/{number:04d}.txt", b"ignored"),
            (f"a/{number:04d}.cls", b"%d\n" % (number % 3)),
        ]
    members += [("a/._0000.png", b"left by an archiver"), ("README", b"no sample")]
    (stack,) = open_tar_shards([shard(tmp_path / "s.tar", members)])
    assert (stack.shape, stack.dtype, stack.whole, stack.classes) == ((7, 3, 6, 5), np.dtype("uint8"), False, None)
    assert (stack.metadata.format, stack.metadata.photographs, stack.metadata.alpha) == ("png", True, "")
    assert stack.name(6) == "a/0006"
    assert stack.labels is not None
    np.testing.assert_array_equal(stack.labels, np.arange(7) % 3)
    np.testing.assert_array_equal(everything(stack), COLOUR)
    np.testing.assert_array_equal(stack.read(2, slice(1, 4), slice(2, None)), COLOUR[2, :, 1:4, 2:])


@pytest.mark.parametrize("dtype", ["uint8", "int32", ">f4", "float16"])
def test_arrays_in_tar_shards_are_windows_of_the_file(tmp_path: Path, dtype: str) -> None:
    images = RANDOM.integers(0, 200, (3, 2, 6, 5)).astype(dtype)
    lists = (images, images[:, 0], images.transpose(0, 2, 3, 1), np.asfortranarray(images))
    for number, stored in enumerate(lists):
        path = shard(tmp_path / f"{number}.tar", [(f"{index}.npy", npy(image)) for index, image in enumerate(stored)])
        (stack,) = open_tar_shards([path])
        expected = images[:, :1] if stored.ndim == 3 else images
        assert (stack.dtype, stack.metadata.format, stack.metadata.photographs) == (images.dtype.newbyteorder("="), "npy", False)
        np.testing.assert_array_equal(everything(stack), expected)
        assert stack.read(1, slice(2, 4), slice(0, 3)).flags.c_contiguous
        np.testing.assert_array_equal(stack.read(1, slice(2, 4), slice(0, 3)), expected[1, :, 2:4, :3])


def test_tar_shards_are_read_lazily_and_by_threads(tmp_path: Path) -> None:
    image = RANDOM.integers(0, 256, (3, 128, 128), np.uint8)
    path = shard(tmp_path / "s.tar", [(f"{number:03d}.png", png(image, compress_level=0)) for number in range(60)])
    tracemalloc.start()
    (stack,) = open_tar_shards([path])
    opened = tracemalloc.get_traced_memory()[1]
    for index in range(60):
        stack.read(index)
    read = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 60 * image.nbytes
    assert opened < 4 * image.nbytes  # members' headers, and a picture's header at a time
    assert read < 8 * image.nbytes  # of sixty pictures
    with ThreadPoolExecutor(4) as pool:
        assert all((found == image).all() for found in pool.map(stack.read, range(60)))


def special(path: Path, kind: bytes) -> Path:
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = kind, "/etc/hostname"
        tar.addfile(info)
    return path


@pytest.mark.parametrize("name", ["../../evil.png", "/etc/evil.png", "a/../../evil.png", "..\\evil.png", "C:\\evil.png"])
def test_members_that_lead_out_of_a_shard_are_refused(tmp_path: Path, name: str) -> None:
    path = shard(tmp_path / "s.tar", [("a.png", png(GREY[0])), (name, png(GREY[0]))])
    refused(r"s\.tar has the member .*evil\.png', whose path leads out", lambda: open_tar_shards([path]))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    path = special(tmp_path / "s.tar", kind)
    refused(r"s\.tar has the member 'a\.png', which is a link, a device", lambda: open_tar_shards([path]))


def test_mistakes_in_tar_shards_are_answered_with_one_sentence(tmp_path: Path) -> None:
    good, other = ("a.png", png(GREY[0])), ("b.png", png(GREY[0]))
    cases: dict[str, Members] = {
        r"::b is 2x5 pixels \(rows x columns\) but .*::a is 6x5: bring all to one size": [good, ("b.png", png(GREY[0, :, :2]))],
        r"::b is RGB but .*::a is grey: .*`data\.channels` 3": [good, ("b.png", png(COLOUR[0]))],
        r"::b is 1x6x5 float32 \(an array\) but .*::a is 1x6x5 uint8": [good, ("b.npy", npy(GREY[0].astype(np.float32)))],
        "::a has 2 images": [good, ("a.jpg", png(GREY[0], "JPEG"))],
        "::a has a label but no image": [("a.cls", b"1"), other],
        r"::a\.cls holds no integer but b'cat'": [good, ("a.cls", b"cat")],
        r"::a\.json holds no JSON": [good, ("a.json", b"{")],
        r"::a\.json has the label '\[1\]'": [good, ("a.json", b'{"label": [1]}')],
        "labels a and b differently": [good, ("a.cls", b"1"), other],
        "more than 64 bits": [good, ("a.cls", b"9" * 30)],
        "::a has two labels": [good, ("a.cls", b"1"), ("a.v.cls", b"2")],
        "holds no images": [("a.txt", b"")],
        r"::a cannot be decoded as an image \(cannot identify image file\): replace": [("a.png", b"no picture")],
        "::a has dtype int64: convert it": [("a.npy", npy(np.zeros((2, 2), np.int64)))],
        "::a has shape": [("a.npy", npy(np.zeros(4, np.uint8)))],
        r"::a cannot be decoded as an image \(it ends too early": [("a.npy", npy(np.zeros((9, 9), np.uint8))[:-1])],
        r"::a cannot be decoded as an image \(it holds Python objects": [("a.npy", npy(np.array([[{}]])))],
    }
    for number, (words, members) in enumerate(cases.items()):
        path = shard(tmp_path / f"{number}.tar", members)
        refused(re.escape(str(path)) + ".*" + words, lambda path=path: open_tar_shards([path]))
    path = shard(tmp_path / "deep.tar", [("a.png", png(np.zeros((1, 4, 4), np.uint16)))])
    refused(r"16-bit grey, which is not converted: leave out `data\.channels` 3", lambda: open_tar_shards([path], channels=3))


def test_damaged_tar_files(tmp_path: Path) -> None:
    whole = shard(tmp_path / "whole.tar", [("a.png", png(GREY[0])), ("b.png", png(GREY[1]))]).read_bytes()
    body = whole.rstrip(b"\0")
    for number, data in enumerate((body, whole[:600], whole[:1024], b"", b"x" * 2000, whole[:1024] + b"x" * 512 + whole[1536:])):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(data)
        refused(rf"{number}\.tar ", lambda path=path: open_tar_shards([path]))
    with tarfile.open(tmp_path / "s.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "whole.tar", "a.png")
    refused(r"s\.tar\.gz is compressed by gzip.*: decompress it", lambda: open_tar_shards([tmp_path / "s.tar.gz"]))
    refused("does not exist", lambda: open_tar_shards([tmp_path / "gone.tar"]), FileNotFoundError)
    refused("None of the 0 shards", lambda: open_tar_shards([]))


def test_pixels_that_break_after_the_header_are_named_when_read(tmp_path: Path) -> None:
    data = png(COLOUR[0])
    path = shard(tmp_path / "s.tar", [("a.png", png(COLOUR[1])), ("b.png", data[:-40])])
    (stack,) = open_tar_shards([path])
    refused(r"s\.tar::b cannot be decoded as an image", lambda: stack.read(1), BrokenFileError)
    path.unlink()
    refused(r"s\.tar::a cannot be decoded as an image", lambda: stack.read(0))
