"""Sources as numbered images: their split, their classes, and how images are gathered from them."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tests.arrays import array_source
from tests.pictures import write
from tests.refusal import refused

from pixelpath.data.opening import open_source, open_split
from pixelpath.data.settings import DataSettings
from pixelpath.data.sources import (
    Arrays,
    describe,
    gather,
    load,
    split,
    subset,
)


def test_one_class_or_none_is_unconditional(tmp_path: Path) -> None:
    write(tmp_path / "one" / "cat" / "1.png")
    write(tmp_path / "none" / "1.png")
    ones = array_source(np.zeros((3, 4, 4), np.uint8), np.zeros(3, int))
    for source in (open_source(tmp_path / "one"), open_source(tmp_path / "none"), ones):
        assert source.classes == ()
        assert source.label(0) == 0
        assert "unconditional, for there is one class or none" in describe(source)


def many(count: int) -> Arrays:
    names = tuple(f"{index}.png" for index in range(count))
    return Arrays(np.arange(count, dtype=np.uint16).reshape(-1, 1, 1, 1), np.arange(count) % 3, ("a", "b", "c"), names=names)


def test_the_split_is_by_the_hash_of_the_name() -> None:
    source = many(4000)
    training, held_out = split(source, 0.25)
    chosen = [
        index
        for index in range(4000)
        if int(hashlib.blake2b(f"{index}.png".encode(), digest_size=8).hexdigest(), 16) < 0.25 * 2**64
    ]
    assert gather(held_out, range(len(held_out))).ravel().tolist() == chosen
    assert abs(len(chosen) - 1000) < 4 * (4000 * 0.25 * 0.75) ** 0.5
    names = {held_out.name(index) for index in range(len(held_out))}
    assert names.isdisjoint(training.name(index) for index in range(len(training)))
    assert len(training) + len(held_out) == 4000
    _, fewer = split(subset(source, range(0, 4000, 2)), 0.25)
    assert {fewer.name(index) for index in range(len(fewer))} == {name for name in names if int(name[:-4]) % 2 == 0}


def test_the_split_leaves_something_on_both_sides() -> None:
    training, held_out = split(many(4), 1e-9)
    assert (len(training), len(held_out)) == (3, 1)
    assert len(split(many(4), 0.0)[1]) == 0
    with refused("data.held_out_share", "0.999999 of 4"):
        split(many(4), 0.999999)
    with refused("data.path", "one image of 1x1 pixels"):  # no other share helps a single image
        split(many(1), 0.5)
    with refused("data.held_out_share", "1.0"):
        split(many(4), 1.0)


def test_gathering_is_the_same_by_threads_by_subsets_and_from_memory(tmp_path: Path) -> None:
    for index in range(9):
        write(tmp_path / str(index % 2) / f"{index}.png", np.full((8, 8, 3), index * 20, np.uint8))
    source = open_source(tmp_path)
    picked = subset(subset(source, [8, 6, 4, 2, 0]), [1, 1, 3])
    with ThreadPoolExecutor(2) as pool:
        np.testing.assert_array_equal(gather(picked, [2, 0], pool), gather(source, [2, 6]))
    assert (picked.name(0), picked.label(0), picked.classes) == (source.name(6), source.label(6), ("0", "1"))
    memory = load(picked, workers=2)
    assert isinstance(memory, Arrays)
    np.testing.assert_array_equal(memory.images, np.stack([source[6], source[6], source[2]]))
    assert (memory.name(2), memory.label(2), memory.classes) == (source.name(2), source.label(2), ("0", "1"))


def test_a_source_is_indexed_as_a_sequence_and_shows_what_it_holds(tmp_path: Path) -> None:
    for index in range(6):
        write(tmp_path / "folder" / f"{index % 2}" / f"{index}.png", np.full((8, 8, 4), 40 * index, np.uint8))
    np.save(tmp_path / "a.npy", np.arange(6 * 64, dtype=np.uint8).reshape(6, 8, 8))
    opened = {
        "<6 images, 4x8x8 uint8, 2 classes>": open_split(DataSettings(tmp_path / "folder", held_out_share=0.0))[0],
        "<6 images, 1x8x8 uint8>": open_source(tmp_path / "a.npy"),
        "<24 images, 1x4x4 uint8>": open_split(DataSettings(tmp_path / "a.npy", tile=(4,), held_out_share=0.0))[0],
    }
    rgba = DataSettings(tmp_path / "folder", alpha="premultiplied", held_out_share=0.0)
    opened["<6 images, 4x8x8 uint8, 2 classes> "] = open_split(rgba)[0]
    for shown, source in opened.items():
        assert repr(source) == shown.strip()
        every = [image.tolist() for image in source]  # iteration ends at the IndexError
        assert len(every) == len(source)
        assert source[-1].tolist() == every[-1] == source[len(source) - 1].tolist()
        assert source[-len(source)].tolist() == every[0]
        for beyond in (len(source), -len(source) - 1):
            with pytest.raises(IndexError):
                source[beyond]
