"""The sheet of extremes shows the images that it names: by distance, and by the values of each variable."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pixelpath.data import sources
from pixelpath.data.metadata import Metadata
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.evaluation.copies import Neighbours
from pixelpath.reports.display import GAP
from pixelpath.reports.tiles import ACROSS
from pixelpath.runs.measuring.extremes import by_distance, extremes, picture
from pixelpath.runs.prepare import PreparedData

RAIN = Metadata("netcdf", "rain", units="mm/h", nodata=float("nan"))
COUNT = 20


def source_of(images: np.ndarray, metadata: Metadata) -> sources.Source:
    return sources.Arrays(images, np.zeros(len(images), np.int64), metadata=metadata)


def data_of(images: np.ndarray, metadata: Metadata) -> PreparedData:
    training, held_out = source_of(images, metadata), source_of(images[:10] + 0.5, metadata)
    return PreparedData(training, held_out, Normaliser.fit(training, nodata=metadata.nodata), False)


def rain(count: int, seed: int) -> np.ndarray:
    """Images of 1, 2, ... wet pixels, the wettest with as many mm/h, in a random order; one pixel was not measured."""
    images = np.zeros((count, 1, 8, 8), np.float32)
    order = np.random.default_rng(seed).permutation(count)
    for place, rank in enumerate(order.tolist()):
        images[place].flat[: rank + 1] = np.arange(1, rank + 2)
    images[:, 0, 7, 7] = np.nan
    return images


def neighbours(distance: list[float]) -> Neighbours:
    zeros = torch.zeros(len(distance), dtype=torch.int64)
    return Neighbours(zeros, zeros, torch.tensor(distance, dtype=torch.float64))


def test_the_highest_values_and_the_driest_images_are_named() -> None:
    data, samples = data_of(rain(60, 0), RAIN), rain(COUNT, 1)
    groups = {group["what"]: group for group in extremes(data, source_of(samples, RAIN), 100, None)}
    assert list(groups) == [
        "Highest values: rain (mm/h)",
        "Largest share of pixels at 0: rain (mm/h)",
        "Smallest share of pixels at 0: rain (mm/h)",
    ]
    wettest = np.argsort(-np.nanmax(samples, axis=(1, 2, 3)))[:ACROSS]
    ours, theirs = groups["Highest values: rain (mm/h)"]["rows"]
    assert [tile["name"] for tile in ours["tiles"]] == [f"seed {100 + place}" for place in wettest]
    assert [tile["value"] for tile in ours["tiles"]] == ["20", "19", "18", "17", "16", "15"]
    assert (ours["among"], theirs["among"], theirs["of"]) == (COUNT, COUNT, "training")  # as many, evenly chosen
    chosen = sources.evenly(60, COUNT)
    highest = sorted((float(np.nanmax(data.training[int(place)])) for place in chosen), reverse=True)[:ACROSS]
    assert [float(tile["value"]) for tile in theirs["tiles"]] == highest
    dry = groups["Largest share of pixels at 0: rain (mm/h)"]["rows"][0]["tiles"]
    assert dry[0]["image"] == int(np.argmin(np.nanmax(samples, axis=(1, 2, 3))))
    assert dry[0]["value"] == f"{100 * 62 / 63:.3g} %"  # of 63 measured pixels one is wet


def test_variables_without_a_common_lowest_value_have_their_lowest_values() -> None:
    known = Metadata("netcdf", "t,u", channels=("t", "u"), channel_units=("K", "m/s"))
    images = np.random.default_rng(0).normal(size=(40, 2, 8, 8)).astype(np.float32)
    groups = extremes(data_of(images, known), source_of(images[:9], known), None, None)
    assert [group["what"] for group in groups] == [
        "Highest values: t (K)", "Lowest values: t (K)", "Highest values: u (m/s)", "Lowest values: u (m/s)"
    ]  # fmt: skip
    assert [group["channels"] for group in groups] == [[0], [0], [1], [1]]
    assert groups[2]["bar"]["title"] == "u (m/s)"
    lowest = groups[1]["rows"][0]["tiles"][0]
    assert float(lowest["value"]) == pytest.approx(images[:9, 0].min(), rel=1e-3)


def test_samples_by_distance_stand_beside_held_out_images() -> None:
    data = data_of(rain(60, 0), RAIN)
    samples = source_of(rain(8, 1), RAIN)
    rows = by_distance(data, samples, 5, neighbours([3, 1, 4, 1.5, 5, 9, 2, 6]), neighbours([float(n) for n in range(10)]))
    ours = [row for row in rows if row["of"] == "samples"]
    assert [row["distance"] for row in ours if row["end"] == "farthest"] == [9, 6, 5, 4, 3, 2]
    assert [row["name"] for row in ours if row["end"] == "nearest"][:2] == ["seed 6", "seed 8"]
    assert [row["distance"] for row in rows if row["of"] == "held_out"][:2] == [9, 8]
    copies = {"closeness": [{"features": "pixels"}], "extremes": rows}
    groups = extremes(data, samples, 5, copies)[:2]
    assert groups[0]["what"] == "Farthest from training images (distance in pixels)"
    assert [row["of"] for row in groups[0]["rows"]] == ["samples", "held_out"]


def test_the_picture_shows_the_images_that_are_named() -> None:
    """Photographs of one grey each: every tile has that of its image."""
    known = Metadata(photographs=True)
    training, samples = (
        np.arange(count, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 1, 8, 8), np.uint8) for count in (60, 8)
    )
    samples = samples + 100
    data = PreparedData(
        source_of(training, known), source_of(training[:10] + 200, known), Normaliser.fit(source_of(training, known)), False
    )
    rows = by_distance(
        data, source_of(samples, known), 0, neighbours([float(n) for n in range(8)]), neighbours([float(n) for n in range(10)])
    )
    groups = extremes(data, source_of(samples, known), 0, {"closeness": [{"features": "pixels"}], "extremes": rows})
    assert len(groups) == 2  # photographs have no variables
    drawn = np.asarray(picture(data, source_of(samples, known), groups).convert("L"))
    side = (drawn.shape[1] + GAP) // ACROSS
    shown = drawn[side // 2 :: side, side // 2 :: side]
    assert shown.tolist() == [
        [107, 106, 105, 104, 103, 102],
        [209, 208, 207, 206, 205, 204],
        [100, 101, 102, 103, 104, 105],
        [200, 201, 202, 203, 204, 205],
    ]
