"""Judgements of whole evaluations: planted copies, mirror images, and the loss gap."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pixelpath.data import sources
from pixelpath.evaluation.features import Pixels, extract
from pixelpath.evaluation.held_out import HeldOutRow
from pixelpath.reports.evaluation import loss_gap_plot, nearest_picture
from pixelpath.reports.pictures import rendered
from pixelpath.runs.measuring.comparison import Real, real_statistics
from pixelpath.runs.measuring.judgements import (
    Features,
    as_source,
    copies,
    loss_gap,
    nearest_images,
    of_run,
    sentences,
    trained_on,
)
from pixelpath.runs.opened import OpenRun, open_run
from pixelpath.runs.prepare import PreparedData, read_data_of
from pixelpath.runs.sample import Samples

CPU = torch.device("cpu")


def made_of(run: OpenRun, images: np.ndarray | Tensor) -> Samples:
    settings: dict[str, Any] = {"seeds": [100, 99 + len(images)], "sampler": "heun", "steps": 2, "guidance": 1.0}
    return Samples(torch.as_tensor(images), run, 1.0, 3.0, settings)


def features_of(data: PreparedData, made: Samples) -> Features:
    extractor = Pixels()
    _, training, held_out = real_statistics(extractor, Real(data), len(made), CPU)
    return Features(extractor, training, held_out, extract(extractor, [made.native], CPU))


@pytest.fixture(scope="module")
def run(diffusion_run: Path) -> OpenRun:
    return open_run(diffusion_run)


@pytest.fixture(scope="module")
def data(run: OpenRun) -> PreparedData:
    return read_data_of(run, None)


def test_planted_copies_are_found_named_and_shown(run: OpenRun, data: PreparedData) -> None:
    images = np.random.default_rng(0).integers(0, 255, (20, 3, 8, 8)).astype(np.uint8)
    images[[2, 5, 11]] = sources.gather(data.training, [7, 30, 0])
    made = made_of(run, images)
    found = copies(data, of_run(run, data, made), [features_of(data, made)])
    assert found["duplicates"] == 3
    assert found["held_out_duplicates"] == 0
    for pair, (place, index) in zip(found["pairs"], ((2, 7), (5, 30), (11, 0)), strict=False):
        assert (pair["sample"], pair["seed"], pair["training"], pair["training_distance"]) == (place, 100 + place, index, 0)
        assert pair["training_name"] == data.training.name(index)
    assert len(found["pairs"]) == 12
    rows = nearest_images(data, as_source(made), found["pairs"])
    picture = np.asarray(nearest_picture(rows, data.metadata, data.normaliser.shown))
    side = (picture.shape[0] + 2) // 3
    assert np.array_equal(picture[: side - 2, : side * 3 - 2], picture[side : 2 * side - 2, : side * 3 - 2])


def test_samples_that_are_training_images(run: OpenRun, data: PreparedData) -> None:
    made = made_of(run, sources.gather(data.training, range(36)))
    found = copies(data, of_run(run, data, made), [features_of(data, made)])
    (row,) = found["closeness"]
    assert (row["closer"], row["below"], found["duplicates"]) == (1, 1, 36)
    assert (row["samples"], row["training"], row["held_out"]) == (36, 36, 4)
    assert row["protocol"]["extractor"] == "pixels"
    assert [(each["from"], each["to"], each["median"]) for each in found["neighbours"][:1]] == [("samples", "training", 0)]
    assert "36 samples are exact copies" in sentences({"copies": found})[0]


def test_mirror_images_are_copies_where_training_saw_them(run: OpenRun, data: PreparedData) -> None:
    made = made_of(run, sources.gather(data.training, range(20))[..., ::-1].copy())
    mirrored = replace(run, recipe=replace(run.recipe, flip=True))
    plain, flipped = (copies(data, of_run(each, data, made), [features_of(data, made)]) for each in (run, mirrored))
    assert plain["duplicates"] == 0
    assert (flipped["duplicates"], flipped["mirrored"]) == (20, True)
    assert flipped["closeness"][0]["closer"] == 1
    assert all(pair["training_mirrored"] for pair in flipped["pairs"])


def test_other_images_are_known_by_their_number(run: OpenRun, data: PreparedData) -> None:
    assert trained_on(run, data)
    assert not trained_on(run, replace(data, training=sources.subset(data.training, range(30))))


def test_the_loss_gap_of_a_run(run: OpenRun) -> None:
    held_out = [HeldOutRow(sigma, 1.0, 0.01, 100) for sigma in (0.1, 1.0)]
    found = loss_gap(run, [replace(row, loss=0.8) for row in held_out], held_out)
    assert [row["gap"] for row in found["noise_levels"]] == pytest.approx([0.2, 0.2])
    assert found["images"] == 100
    assert "more steps at this size will memorise" in found["advice"]
    assert sentences({"loss_gap": found})[0].startswith(found["advice"])
    assert rendered(loss_gap_plot(found["noise_levels"])).width == 1440
