"""What changes in images shows in the digest of its block, and nowhere else."""

from dataclasses import replace

import numpy as np
import pytest

from pixelpath.data import digest
from pixelpath.data.digest import BLOCKS, digests
from pixelpath.data.sources import Arrays

COUNT = 3 * BLOCKS - 5  # blocks of 3 images, the last one shorter


def source(images: np.ndarray | None = None) -> Arrays:
    found = np.random.default_rng(0).integers(0, 256, (COUNT, 1, 2, 2), np.uint8) if images is None else images
    return Arrays(found, np.arange(COUNT) % 2, ("a", "b"))


def changed(first: Arrays, second: Arrays) -> list[str]:
    ours, theirs = digests(first), digests(second)
    assert ours.keys() == theirs.keys()
    return [name for name in ours if ours[name] != theirs[name]]


def test_a_value_or_a_label_changes_its_block_alone() -> None:
    before = source()
    assert len(digests(before)) <= BLOCKS
    for index in (0, 4, COUNT - 1):
        images, labels = before.images.copy(), before.labels.copy()
        images[index, 0, 1, 0] ^= 1
        labels[index] ^= 1
        expected = [before.name(index - index % 3)]
        assert changed(before, source(images)) == expected
        assert changed(before, replace(before, labels=labels)) == expected


def test_the_order_of_bytes_is_none_of_the_images() -> None:
    images = np.random.default_rng(1).normal(size=(COUNT, 1, 2, 2)).astype("<f4")
    assert changed(source(images), source(images.astype(">f4"))) == []


def test_of_large_data_the_first_image_of_a_block_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "WHOLE", 4 * COUNT - 1)
    before = source()
    images = before.images.copy()
    images[[3, 7]] ^= 1
    assert changed(before, source(images)) == [before.name(3)]
