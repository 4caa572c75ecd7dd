"""The batches of a step are a function of (seed, step, rank), whatever comes before, beside or behind them."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.refusal import refused

from pixelpath import randomness
from pixelpath.data.batches import Batches
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.data.opening import open_source
from pixelpath.data.sources import Arrays, Source
from pixelpath.types import classes_of

COUNT = 23
NORMALISER = Normaliser((0.0,), (0.5,))  # model range is the native range


def numbered(rows: int = 2, columns: int = 3) -> Source:
    """Image i holds i in its left column and 100 + i elsewhere; its label is i mod 4."""
    images = np.arange(COUNT, dtype=np.uint8)[:, None, None, None] + np.full((1, 1, rows, columns), 100, np.uint8)
    images[..., 0] -= 100
    return Arrays(images, np.arange(COUNT) % 4, ("a", "b", "c", "d"))


def numbers(stream: Batches, step: int) -> list[int]:
    return stream.batch(step).images[:, 0, 0, 0].int().tolist()


def test_every_epoch_holds_every_image_once() -> None:
    stream = Batches(numbered(), NORMALISER, 10, seed=3)
    row = [number for step in range(23) for number in numbers(stream, step)]
    epochs = [row[at : at + COUNT] for at in range(0, len(row), COUNT)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(COUNT))] * 10
    assert len({tuple(epoch) for epoch in epochs}) == 10


def test_a_batch_may_be_larger_than_the_set() -> None:
    stream = Batches(numbered(), NORMALISER, 2 * COUNT, seed=0)
    assert sorted(numbers(stream, 1)) == sorted([*range(COUNT)] * 2)
    index = stream.batch(1).index
    assert index is not None
    assert index.tolist() == numbers(stream, 1)


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    first, again = Batches(numbered(), NORMALISER, 6, seed=1), Batches(numbered(), NORMALISER, 6, seed=1)
    backwards = [again.batch(step) for step in reversed(range(12))][::-1]
    for step, (one, other, third) in enumerate(zip(map(first.batch, range(12)), backwards, first.batches(), strict=False)):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.images, third.images)
        assert (one.seeds, one.seed) == (other.seeds, other.seed)
        assert one.seed == randomness.seed_of(1, step)
        assert one.seeds == tuple(randomness.seed_of(1, step, position) for position in range(6))
    assert numbers(first, 0) != numbers(Batches(numbered(), NORMALISER, 6, seed=2), 0)
    resumed = next(first.batches(7))
    assert torch.equal(resumed.images, backwards[7].images)


def test_the_order_is_the_same_in_every_version() -> None:
    assert numbers(Batches(numbered(), NORMALISER, 8, seed=0), 0) == [16, 11, 6, 17, 10, 7, 1, 0]


def test_labels_belong_to_their_images() -> None:
    batch = Batches(numbered(), NORMALISER, 40, seed=0).batch(5)
    assert torch.equal(classes_of(batch.labels), batch.images[:, 0, 0, 0].long() % 4)


def test_processes_share_the_global_batch() -> None:
    whole = Batches(numbered(), NORMALISER, 12, seed=5, flip=True).batch(4)
    parts = [Batches(numbered(), NORMALISER, 12, 5, rank=rank, processes=3, flip=True).batch(4) for rank in range(3)]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert torch.equal(torch.cat([classes_of(part.labels) for part in parts]), classes_of(whole.labels))
    assert tuple(itertools.chain(*(part.seeds for part in parts))) == whole.seeds
    assert {part.seed for part in parts} == {whole.seed}
    with refused("batch_size", 10, "3 processes"):
        Batches(numbered(), NORMALISER, 10, 5, processes=3)


def test_half_of_the_images_are_mirrored_whatever_their_noise() -> None:
    plain, flipping = Batches(numbered(), NORMALISER, 2000, 1), Batches(numbered(), NORMALISER, 2000, 1, flip=True)
    before, after = plain.batch(0), flipping.batch(0)
    mirrored = after.images[:, 0, 0, 0] >= 100
    expected = torch.where(mirrored[:, None, None, None], before.images.flip(-1), before.images)
    assert torch.equal(after.images, expected)
    assert abs(mirrored.float().mean() - 0.5) < 4 * 0.5 / 2000**0.5
    draws = randomness.normal(randomness.Streams(after.seeds), ())
    correlation = torch.corrcoef(torch.stack([mirrored.float(), draws]))[0, 1]
    assert correlation.abs() < 4 / 2000**0.5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(COUNT):
        path = tmp_path / f"{index % 2}" / f"{index:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 4), index, np.uint8)).save(path)
    return tmp_path


def decoding() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_decoding_ahead_gives_the_same_batches(folder: Path) -> None:
    source = open_source(folder)
    cached = Batches(source, NORMALISER, 20, seed=1, flip=True)
    assert cached.cached
    for workers in (0, 3):
        stream = Batches(source, NORMALISER, 20, seed=1, flip=True, workers=workers, cache_bytes=COUNT * 16 - 1)
        assert not stream.cached
        batches = stream.batches(2)
        for step in range(2, 8):
            one, other = next(batches), cached.batch(step)
            assert torch.equal(one.images, other.images)
            assert torch.equal(classes_of(one.labels), classes_of(other.labels))
            assert (one.seeds, one.seed) == (other.seeds, other.seed)
        assert len(decoding()) == workers
        batches.close()
        assert decoding() == []


def test_an_error_of_a_thread_is_raised_where_batches_are_used(folder: Path) -> None:
    source = open_source(folder)
    victim = folder / source.name(3)
    victim.write_bytes(victim.read_bytes()[:40])
    with refused("data.skip_broken", victim):
        for _ in itertools.islice(Batches(source, NORMALISER, 20, 1, workers=2, cache_bytes=0).batches(), 4):
            pass
    assert decoding() == []
    with refused("data.skip_broken", victim):
        Batches(source, NORMALISER, 20, 1, workers=2)
    assert decoding() == []


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float16", "float64"])
def test_every_native_dtype_streams(dtype: str) -> None:
    images = np.arange(5 * 4, dtype=dtype).reshape(5, 1, 2, 2)
    batch = Batches(Arrays(images, np.zeros(5, np.int64)), Normaliser((4.0,), (0.5,), dtype), 5, seed=0).batch(0)
    assert batch.images.dtype == torch.float32
    assert sorted(batch.images.flatten().tolist()) == list(range(-4, 16))


def test_no_images_is_an_error() -> None:
    with refused(None, "no images"):
        Batches(Arrays(np.zeros((0, 1, 2, 2), np.uint8), np.zeros(0, np.int64)), NORMALISER, 4, seed=0)
