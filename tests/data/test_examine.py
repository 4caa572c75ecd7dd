"""One pass finds what two passes over the same images find, whoever decodes them."""

from dataclasses import replace

import numpy as np
import pytest

from pixelpath.data import digest, passes
from pixelpath.data.digest import digests
from pixelpath.data.examine import examine
from pixelpath.data.metadata import Metadata
from pixelpath.data.normalise.statistics import complete, measure
from pixelpath.data.sources import Arrays, remembered, subset

COUNT = 600  # blocks of three images


def source(dtype: str = "uint8", nodata: float | None = None) -> Arrays:
    images = np.random.default_rng(0).integers(0, 100, (COUNT, 2, 4, 4)).astype(dtype)
    return Arrays(images, np.arange(COUNT) % 2, ("a", "b"), resize=(4, 4), metadata=Metadata(nodata=nodata))


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize(("dtype", "nodata"), [("uint8", None), ("uint8", 7.0), ("int16", 7.0)])
def test_digests_and_statistics_of_one_pass(
    monkeypatch: pytest.MonkeyPatch, dtype: str, nodata: float | None, workers: int
) -> None:
    monkeypatch.setattr(passes, "CHUNK", 64)  # two images at a time
    images = source(dtype, nodata)
    for whole in (True, False):
        monkeypatch.setattr(digest, "WHOLE", 2**31 if whole else 0)
        found = examine(images, workers, nodata)
        assert found.digests == digests(images)
        assert found.tallies is not None
        for ours, theirs in zip(complete(found.tallies, nodata), measure(images, 0, nodata), strict=True):
            assert ours.sums == theirs.sums
            np.testing.assert_array_equal(ours.values, theirs.values)
            np.testing.assert_array_equal(ours.weights, theirs.weights)


def test_floats_are_not_counted_and_their_digest_is_the_same() -> None:
    found = examine(source("float32"), 2, None)
    assert found.tallies is None
    assert found.digests == digests(source("float32"))


class Counting(Arrays):
    """Notes which images are read."""

    reads: list[int] = []  # noqa: RUF012

    def __getitem__(self, index: int) -> np.ndarray:
        Counting.reads.append(index)
        return super().__getitem__(index)


def test_a_remembered_image_is_read_once() -> None:
    base = source()
    counting = Counting(base.images, base.labels, resize=(4, 4))
    kept = remembered(subset(counting, np.arange(0, COUNT, 2)))
    Counting.reads.clear()
    for _ in range(2):
        assert digests(kept, 2) == digests(subset(replace(base, classes=()), np.arange(0, COUNT, 2)))
    np.testing.assert_array_equal(kept[5], base.images[10])
    assert sorted(Counting.reads) == list(range(0, COUNT, 2))


def test_without_statistics_large_data_are_read_at_the_first_image_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "WHOLE", 0)
    base = source()
    Counting.reads.clear()
    examine(Counting(base.images, base.labels, resize=(4, 4)), 0, None, statistics=False)
    assert Counting.reads == list(range(0, COUNT, 3))
