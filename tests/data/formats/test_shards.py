"""Samples of shards, whatever packs them: alike, converted and resized as files are, with classes over all shards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.data.formats.packing import COLOUR, GREY, RANDOM, everything, npy, png, refused, shard

from pixelpath.data.formats.resizing import resized
from pixelpath.data.formats.tar import open_tar_shards
from pixelpath.data.opening import open_source


def test_names_in_json_are_numbered_over_all_shards(tmp_path: Path) -> None:
    paths = []
    for number, kinds in enumerate((["owl", "cat"], ["bee", "owl"])):
        members = [(f"{kind}.json", json.dumps({"label": kind}).encode()) for kind in kinds]
        paths.append(shard(tmp_path / f"{number}.tar", [*((f"{kind}.png", png(GREY[0])) for kind in kinds), *members]))
    stacks = open_tar_shards(paths)
    assert [stack.classes for stack in stacks] == [("bee", "cat", "owl")] * 2
    assert [stack.labels.tolist() for stack in stacks if stack.labels is not None] == [[2, 1], [0, 2]]


def test_deep_pictures_transparent_ones_and_turned_ones(tmp_path: Path) -> None:
    deep = RANDOM.integers(0, 65536, (1, 6, 5)).astype(np.uint16)
    (stack,) = open_tar_shards([shard(tmp_path / "deep.tar", [("a.png", png(deep))])])
    assert (stack.dtype, stack.metadata.photographs) == (np.dtype("uint16"), False)
    np.testing.assert_array_equal(stack.read(0), deep)
    clear = RANDOM.integers(0, 256, (4, 6, 5), np.uint8)
    (stack,) = open_tar_shards([shard(tmp_path / "clear.tar", [("a.png", png(clear))])])
    assert (stack.shape, stack.metadata.alpha) == ((1, 4, 6, 5), "straight")
    np.testing.assert_array_equal(stack.read(0), clear)
    exif = Image.Exif()
    exif[0x0112] = 6  # the picture is shown turned to the right by a quarter
    (stack,) = open_tar_shards([shard(tmp_path / "turned.tar", [("a.png", png(GREY[0], exif=exif))])])
    assert stack.shape == (1, 1, 5, 6)
    np.testing.assert_array_equal(stack.read(0)[0], np.rot90(GREY[0, 0], -1))


def test_colours_of_16_bits_keep_them(tmp_path: Path) -> None:
    codecs = pytest.importorskip("imagecodecs")
    image = RANDOM.integers(0, 65536, (6, 5, 3)).astype(np.uint16)
    (stack,) = open_tar_shards([shard(tmp_path / "s.tar", [("a.png", codecs.png_encode(image))])])
    assert (stack.shape, stack.dtype) == ((1, 3, 6, 5), np.dtype("uint16"))
    np.testing.assert_array_equal(stack.read(0), image.transpose(2, 0, 1))


def test_channels_convert_pictures(tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", [("a.png", png(COLOUR[0])), ("b.png", png(GREY[0]))])
    (stack,) = open_tar_shards([path], channels=3)
    np.testing.assert_array_equal(everything(stack), np.stack([COLOUR[0], np.repeat(GREY[0], 3, 0)]))
    (stack,) = open_tar_shards([path], channels=1)
    weighted = np.tensordot([0.299, 0.587, 0.114], COLOUR[0].astype(float), 1)  # ITU-R BT.601
    np.testing.assert_allclose(stack.read(0)[0], weighted, atol=1)


def test_pictures_of_unequal_size_are_resized_as_in_a_folder(tmp_path: Path) -> None:
    """Once: the source of the shard gives what the source of the folder gives, whose pictures are resized where they are read."""
    sizes, members = ((9, 12), (20, 7), (4, 6)), []
    (tmp_path / "folder").mkdir()
    for number, size in enumerate(sizes):
        picture = png(RANDOM.integers(0, 256, (3, *size), np.uint8))
        members.append((f"{number}.png", picture))
        (tmp_path / "folder" / f"{number}.png").write_bytes(picture)
    path = shard(tmp_path / "s.tar", members)
    refused(r"::1 is 20x7 pixels .* but .*::0 is 9x12: .*`data\.resize` 8 8", lambda: open_source(path))
    packed, alone = open_source(path, resize=(4, 6)), open_source(tmp_path / "folder", resize=(4, 6))
    assert packed.shape == alone.shape == (3, 4, 6)
    for index in range(len(sizes)):
        np.testing.assert_array_equal(packed[index], alone[index])


def test_arrays_of_unequal_size_are_resized(tmp_path: Path) -> None:
    images = [RANDOM.normal(size=(2, *size)).astype(np.float32) for size in ((9, 12), (8, 8))]
    path = shard(tmp_path / "s.tar", [(f"{number}.npy", npy(image)) for number, image in enumerate(images)])
    refused(r"::1 is 8x8 pixels .* but .*::0 is 9x12: .*`data\.resize` 8 8", lambda: open_tar_shards([path]))
    (stack,) = open_tar_shards([path], resize=(6, 4))
    for index, image in enumerate(images):
        np.testing.assert_array_equal(stack.read(index), resized(image, (6, 4)))
        np.testing.assert_array_equal(stack.read(index, slice(1, 3), slice(2)), resized(image, (6, 4))[:, 1:3, :2])


def test_pairs_of_shards_that_do_not_match(tmp_path: Path) -> None:
    first = shard(tmp_path / "a.tar", [("a.png", png(GREY[0])), ("a.cls", b"1")])
    second = shard(tmp_path / "b.tar", [("a.png", png(GREY[0]))])
    refused(r"b\.tar has no labels but .*a\.tar numbers as labels", lambda: open_tar_shards([first, second]))
    third = shard(tmp_path / "c.tar", [("a.png", png(GREY[0, :, 1:])), ("a.cls", b"1")])
    refused(r"c\.tar::a is 5x5 pixels .* but .*a\.tar::a is 6x5", lambda: open_tar_shards([first, third]))
