"""What is known of the images of a folder spares the next run all decoding, as long as no file changed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image
from tests.refusal import refused

from pixelpath import recipes
from pixelpath.data.digest import digests
from pixelpath.data.formats import pictures
from pixelpath.data.normalise.curves import Normalisation
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.data.settings import DataSettings
from pixelpath.runs import index
from pixelpath.runs.index import FOLDER, Index
from pixelpath.runs.prepare import PreparedData, read_data

COUNT = 40


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(index, "LEAST", 0)
    for number in range(COUNT):
        path = tmp_path / "data" / f"{number % 2}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 200, (8, 8, 3), np.uint8)).save(path)
    return tmp_path


@contextmanager
def decoded() -> Iterator[list[Path]]:
    """The files whose headers and whose pixels are read meanwhile, in any order."""
    found: list[Path] = []
    opened = pictures._opened

    def noting(picture: Path) -> object:
        found.append(picture)
        return opened(picture)

    with patch.object(pictures, "_opened", noting):
        yield found


def read(folder: Path, **settings: Any) -> PreparedData:
    chosen = DataSettings(folder / "data", workers=2, held_out_share=0.2, **settings)
    recipe = replace(recipes.digits_diffusion(), data=chosen)
    return read_data(recipe, index=Index(folder, chosen))


@pytest.mark.parametrize("cache_bytes", [0, 2**20])
def test_every_file_is_decoded_once_and_then_never_again(folder: Path, cache_bytes: int) -> None:
    with decoded() as files:
        first = read(folder, cache_bytes=cache_bytes)
    assert len(files) == 2 * COUNT  # headers and pixels
    with decoded() as files:
        second = read(folder, cache_bytes=cache_bytes)
    assert files == []
    assert second.normaliser == first.normaliser
    assert second.normaliser.ranges == first.normaliser.ranges
    assert second.known == first.known
    assert first.known["images"] == {"training": digests(first.training), "held_out": digests(first.held_out)}
    with decoded() as files:
        np.testing.assert_array_equal(second.training[3], first.training[3])
    assert len(files) == (2 if cache_bytes == 0 else 1)  # once decoded it may stay in memory


def test_a_changed_file_is_read_again(folder: Path) -> None:
    before = read(folder)
    file = folder / "data" / before.training.name(0)
    Image.fromarray(np.full((8, 8, 3), 255, np.uint8)).save(file)
    after = read(folder)
    assert after.normaliser.mean[0] > before.normaliser.mean[0]
    names = [
        name for name, value in after.known["images"]["training"].items() if before.known["images"]["training"][name] != value
    ]
    assert names == [before.training.name(0)]


def test_other_settings_and_a_damaged_index_are_as_no_index(folder: Path) -> None:
    read(folder)
    other = read(folder, normaliser=Normalisation("log1p", scale=10.0))
    assert other.normaliser != read(folder).normaliser
    (kept,) = [file for file in (folder / FOLDER).glob("images-*") if "transforms" not in file.read_text()]
    kept.write_text(kept.read_text().replace('"mean"', '"men"'))
    with decoded() as files:
        read(folder)
    assert len(files) == COUNT  # its headers are still known


def test_a_normaliser_of_other_images_is_not_handed_on(folder: Path) -> None:
    """A run that goes on with changed images keeps its normaliser; one that begins with them fits its own."""
    chosen = DataSettings(folder / "data", workers=0, held_out_share=0.2)
    recipe, other = replace(recipes.digits_diffusion(), data=chosen), Normaliser((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    went_on = read_data(recipe, None, other, index=Index(folder, chosen))
    assert went_on.normaliser == other
    begun = read_data(recipe, index=Index(folder, chosen))
    assert begun.normaliser == Normaliser.fit(begun.training)
    with decoded() as files:
        assert read_data(recipe, index=Index(folder, chosen)).normaliser == begun.normaliser
        assert read_data(recipe, None, other, index=Index(folder, chosen)).normaliser == other
    assert files == []


def test_published_constants_need_no_statistics(folder: Path) -> None:
    with patch("pixelpath.data.digest.WHOLE", 0), decoded() as files:
        read(folder, normaliser=Normalisation("imagenet"), cache_bytes=0)
    blocks = COUNT  # of one image each, as there are fewer than 256
    assert len(files) == COUNT + blocks


def test_small_folders_leave_nothing_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "LEAST", 2**24)
    read(folder)
    assert not (folder / FOLDER).exists()


def test_a_held_out_image_that_does_not_fit_is_named(folder: Path) -> None:
    """Half of all pixels have the lowest value, 20, so it is an atom, below which lies one pixel of one held-out image."""
    victim = read(folder).held_out.name(1)
    for path in (folder / "data").rglob("*.png"):
        values = np.asarray(Image.open(path)) // 2 + 20
        values[:4] = 20
        if path == folder / "data" / victim:
            values[0, 0] = 0
        Image.fromarray(values).save(path)
    with refused(None, victim, "at least 20"):
        read(folder, normaliser=Normalisation("log1p"))
