"""Views of stage one that are cut from images as they were before they were resized."""

from __future__ import annotations

import math
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.application import TINY, assert_same, at_step, call

from pixelpath.data.augment import PHOTOGRAPHS, augment, windows
from pixelpath.data.batches import Batches
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.data.opening import open_source
from pixelpath.data.originals import Cutting, has_originals
from pixelpath.data.originals import windows as cut
from pixelpath.data.sources import Arrays, Source, subset

ROWS, COLUMNS, SIZE = 48, 64, (8, 8)
SEEDS = tuple(range(200, 400))


def plane(rows: int = ROWS, columns: int = COLUMNS) -> np.ndarray:
    """An image of one channel that rises by 1 from column to column and by 100 from row to row."""
    return (np.arange(columns)[None, :] + 100.0 * np.arange(rows)[:, None]).astype(np.float32)[None]


@pytest.fixture
def source() -> Source:
    return Arrays(np.stack([plane(), 2 * plane(), 3 * plane()]), np.zeros(3, np.int64), resize=SIZE)


def test_a_window_shows_its_box_and_the_image_comes_first(source: Source) -> None:
    box = (10.0, 8.0, 26.0, 32.0)  # 16 columns and 24 rows: 2 and 3 to a new pixel
    image, window = cut(source, 1, lambda rows, columns: [box])
    np.testing.assert_array_equal(image, source[1])
    across, down = 10 + 2 * (np.arange(8) + 0.5) - 0.5, 8 + 3 * (np.arange(8) + 0.5) - 0.5  # the centres of the new pixels
    inner = slice(1, -1)
    expected = 2 * (across[None, :] + 100 * down[:, None])
    np.testing.assert_allclose(window[0, inner, inner], expected[inner, inner], rtol=1e-5)


def test_pictures_are_cut_as_arrays_are(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (ROWS, COLUMNS, 3), np.uint8)
    for place in range(2):
        Image.fromarray(noise).save(tmp_path / f"{place}.png")
    found = open_source(tmp_path, resize=SIZE)
    assert has_originals(found)
    assert not has_originals(open_source(tmp_path))
    centre = (8.0, 0.0, 56.0, 48.0)
    image, window = cut(subset(found, [1]), 0, lambda rows, columns: [centre])
    np.testing.assert_array_equal(window, image)
    np.testing.assert_array_equal(image, found[1])


def test_boxes_have_the_share_of_the_area_and_the_ratio_that_were_drawn() -> None:
    strength = replace(PHOTOGRAPHS, crop_scale=(0.1, 0.4), crop_ratio=(0.8, 1.25))
    boxes = np.array([each(ROWS, COLUMNS) for each in windows(SEEDS, strength, aspect=1.0)])
    left, top, right, bottom = np.moveaxis(boxes, 2, 0)
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (right <= COLUMNS).all()
    assert (bottom <= ROWS).all()
    share, ratio = (right - left) * (bottom - top) / (ROWS * COLUMNS), (right - left) / (bottom - top)
    assert share.min() == pytest.approx(0.1, abs=0.005)
    assert share.max() == pytest.approx(0.4, abs=0.005)
    assert ratio.min() == pytest.approx(0.8, abs=0.01)
    assert ratio.max() == pytest.approx(1.25, abs=0.01)
    places = left / (COLUMNS - (right - left))
    assert places.mean() == pytest.approx(0.5, abs=4 / math.sqrt(12 * places.size))


def test_views_are_the_windows_of_the_images_own_seeds(source: Source) -> None:
    """In a pool of threads or not; and of a plain crop of the same place where the original is no larger."""
    strength = replace(PHOTOGRAPHS, flip=0.0, blur=(0.0, 0.0))
    normaliser = Normaliser.fit(source)
    cutting = Cutting(source, partial(windows, augmentation=strength, aspect=1.0))
    stream = Batches(source, normaliser, 4, 7, cutting=cutting, workers=0)
    batch = stream.batch(2)
    threaded = Batches(source, normaliser, 4, 7, cutting=cutting, workers=2).batches(2)
    again = next(threaded)
    threaded.close()
    assert batch.windows is not None
    assert again.windows is not None
    assert batch.index is not None
    assert torch.equal(again.windows, batch.windows)
    views = augment(batch, strength, normaliser, colours=False)
    for position, (seed, index) in enumerate(zip(batch.seeds, batch.index.tolist(), strict=True)):
        expected = cut(source, index, windows([seed], strength, 1.0)[0])
        native = torch.from_numpy(expected)
        for view, place in ((views.images, 0), (views.first, 1), (views.second, 2)):
            torch.testing.assert_close(normaliser.decode(view[position][None])[0], native[place], rtol=1e-4, atol=0.1)


def test_stage_one_on_larger_pictures_resumes_exactly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for place in range(20):
        noisy = numbers.integers(0, 256, (24 + place, 32, 3), np.uint8)
        Image.fromarray(noisy).save(tmp_path / "data" / f"{place:02d}.png")
    words = ["train", "digits-encoder", "--data", tmp_path / "data", *TINY["digits-encoder"], "--data.resize", 8, 8]
    words += ["--steps", 6, "--every", 3]
    assert call(*words, "--out", tmp_path / "whole") == 0
    assert "Views are cut from the images" in capsys.readouterr().err
    with at_step(4, lambda: os.kill(os.getpid(), signal.SIGTERM)):
        assert call(*words, "--out", tmp_path / "parts") == 130
    assert call(*words, "--out", tmp_path / "parts") == 0
    assert_same(tmp_path / "whole", tmp_path / "parts", 6)
    assert call(*words, "--augmentation.no-from-originals", "--out", tmp_path / "small") == 0
    with pytest.raises(AssertionError):
        assert_same(tmp_path / "whole", tmp_path / "small", 6)
