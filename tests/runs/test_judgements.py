"""Judgements of whole evaluations: planted copies, known errors of values, and images of any number of channels."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pixelpath.data import sources
from pixelpath.data.metadata import Metadata
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.evaluation.features import Pixels, extract
from pixelpath.evaluation.held_out import HeldOutRow
from pixelpath.reports.evaluation import histograms_plot, in_short, loss_gap_plot, nearest_picture, spectrum_plot
from pixelpath.runs.comparison import Real, known
from pixelpath.runs.judgements import Features, copies, domain, loss_gap, sentences, trained_on
from pixelpath.runs.opened import OpenRun, open_run
from pixelpath.runs.prepare import PreparedData, read_data_of
from pixelpath.runs.sample import Samples

CPU = torch.device("cpu")
UNKNOWN = Metadata()


def made_of(images: np.ndarray | Tensor) -> Samples:
    settings: dict[str, Any] = {"seeds": [100, 99 + len(images)], "sampler": "heun", "steps": 2, "guidance": 1.0}
    return Samples(torch.as_tensor(images), 1.0, 3.0, settings)


def data_of(images: np.ndarray, held_out: int, metadata: Metadata = UNKNOWN) -> PreparedData:
    parts = (images[held_out:], images[:held_out])
    training, kept = (sources.Arrays(part, np.zeros(len(part), np.int64), (), metadata=metadata) for part in parts)
    return PreparedData(training, kept, Normaliser.fit(training), False)


def features_of(data: PreparedData, made: Samples) -> Features:
    extractor = Pixels()
    _, training, held_out = known(extractor, Real(data), len(made.images), CPU)
    return Features(extractor, training, held_out, extract(extractor, [made.images], CPU))


@pytest.fixture(scope="module")
def run(diffusion_run: Path) -> OpenRun:
    return open_run(diffusion_run)


@pytest.fixture(scope="module")
def data(run: OpenRun) -> PreparedData:
    return read_data_of(run, None)


def test_planted_copies_are_found_named_and_shown(run: OpenRun, data: PreparedData) -> None:
    images = np.random.default_rng(0).integers(0, 255, (20, 3, 8, 8)).astype(np.uint8)
    images[[2, 5, 11]] = sources.gather(data.training, [7, 30, 0])
    made = made_of(images)
    found = copies(run, data, made, [features_of(data, made)], CPU)
    assert found["duplicates"] == 3
    assert found["held_out_duplicates"] == 0
    for pair, (place, index) in zip(found["pairs"], ((2, 7), (5, 30), (11, 0)), strict=False):
        assert (pair["sample"], pair["seed"], pair["training"], pair["training_distance"]) == (place, 100 + place, index, 0)
        assert pair["training_name"] == data.training.name(index)
    assert len(found["pairs"]) == 12
    picture = np.asarray(nearest_picture(data, made, found["pairs"]))
    side = (picture.shape[0] + 2) // 3
    assert np.array_equal(picture[: side - 2, : side * 3 - 2], picture[side : 2 * side - 2, : side * 3 - 2])


def test_samples_that_are_training_images(run: OpenRun, data: PreparedData) -> None:
    made = made_of(sources.gather(data.training, range(36)))
    found = copies(run, data, made, [features_of(data, made)], CPU)
    (row,) = found["closeness"]
    assert (row["closer"], row["below"], found["duplicates"]) == (1, 1, 36)
    assert (row["samples"], row["training"], row["held_out"]) == (36, 36, 4)
    assert row["protocol"]["extractor"] == "pixels"
    assert [(each["from"], each["to"], each["median"]) for each in found["neighbours"][:1]] == [("samples", "training", 0)]
    assert "36 samples are exact copies" in sentences({"copies": found})[0]


def test_mirror_images_are_copies_where_training_saw_them(run: OpenRun, data: PreparedData) -> None:
    made = made_of(sources.gather(data.training, range(20))[..., ::-1].copy())
    mirrored = replace(run, recipe=replace(run.recipe, flip=True))
    plain, flipped = (copies(each, data, made, [features_of(data, made)], CPU) for each in (run, mirrored))
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
    assert [row["gap"] for row in found["levels"]] == pytest.approx([0.2, 0.2])
    assert found["images"] == 100
    assert "more steps at this size will memorise" in found["advice"]
    assert sentences({"loss_gap": found})[0].startswith(found["advice"])
    assert loss_gap_plot(found["levels"]).width == 1440


@pytest.mark.parametrize(
    ("channels", "rows", "columns", "dtype"),
    [(1, 8, 8, "float32"), (2, 8, 16, "uint16"), (4, 6, 10, "uint8"), (7, 12, 4, "float16"), (13, 4, 6, "int16")],
)
def test_any_number_of_channels_and_any_aspect(channels: int, rows: int, columns: int, dtype: str) -> None:
    """Samples that are 3 training deviations too large in the last channel, and the training images elsewhere."""
    images = np.random.default_rng(1).normal(100, 10, (60, channels, rows, columns)).round().astype(dtype)
    data = data_of(images, 10)
    samples = images[10:].copy()
    samples[:, -1] += np.array(30).astype(dtype)
    found = domain(data, made_of(samples))
    assert found["images"]["drawn"][0] == str(channels - 1)
    assert len(found["images"]["drawn"]) == min(4, channels)
    last = found["channels"][-1]
    assert last["wasserstein"] == pytest.approx(30, rel=1e-3)
    assert last["spectrum"] == pytest.approx(0, abs=1e-6)
    assert last["guidance"] == pytest.approx(10, rel=0.1)
    assert all(row[key] == 0 for row in found["channels"][:-1] for key in ("wasserstein", "total_variation", "spectrum"))
    errors = [row["error"] for row in found["quantiles"] if row["channel"] == str(channels - 1)]
    assert errors == pytest.approx([30 / last["guidance"]] * 4, rel=1e-3)
    assert all(abs(row["floor"]) > 0 for row in found["quantiles"] if row["probability"] == 0.999)
    assert f"channel {channels - 1}" in sentences({"domain": found})[0]


def test_without_held_out_images_there_is_no_floor() -> None:
    images = np.random.default_rng(1).normal(size=(30, 2, 8, 12)).astype(np.float32)
    data, made = data_of(images, 0), made_of(images[:20])
    found = domain(data, made)
    assert (found["images"]["few"], found["images"]["held_out"]) == (0, 0)
    assert {row["held_out"] for key in ("spectra", "histograms", "quantiles") for row in found[key]} == {None}
    assert spectrum_plot(found["spectra"]).width == histograms_plot(found["histograms"]).width == 1440
    assert sentences({"domain": found})[0].startswith("Values, channel ")
    pairs = [{"sample": 3, "training": 4, "training_mirrored": False}]
    assert nearest_picture(data, made, pairs).height > 2 * 8


def test_zeros_and_half_transparent_pixels_are_counted() -> None:
    """RGBA of 64 pixels, of which 48 are transparent, 12 opaque and 4 between; samples have 8 between and 4 opaque."""
    images = np.zeros((30, 4, 8, 8), np.uint8)
    images[:, 3, 0], images[:, 3, 1, :4], images[:, 3, 1, 4:] = 255, 255, 128
    data = data_of(images, 6, Metadata(alpha="straight", channels=("red", "green", "blue", "alpha")))
    samples = images[6:].copy()
    samples[:, 3, 0] = 77
    found = domain(data, made_of(samples))
    assert found["half_transparent"] == {"training": 4 / 64, "held_out": 4 / 64, "samples": 12 / 64}
    row = found["frequent"][3]
    assert (row["value"], row["share_training"], row["share_samples"], row["zeros_held_out"]) == (0, 0.75, 0.75, 0.75)
    assert found["channels"][0]["spectrum"] is None  # black, all of it
    assert found["images"]["drawn"][0] == row["channel"] == "alpha"
    assert spectrum_plot(found["spectra"]).width == histograms_plot(found["histograms"]).width == 1440


def test_what_was_not_measured_counts_for_nothing() -> None:
    images = np.random.default_rng(2).normal(3, 1, (40, 1, 8, 8)).astype(np.float32)
    whole = domain(data_of(images, 8), made_of(images[8:]))
    images[:, :, 2] = -9999
    data = data_of(images, 8)
    marked = replace(data, normaliser=replace(data.normaliser, nodata=-9999.0))
    samples = images[8:].copy()
    samples[:, :, 2] = 3
    found = domain(marked, made_of(samples))
    assert abs(found["channels"][0]["guidance"] - whole["channels"][0]["guidance"]) < 0.05
    assert found["frequent"][0]["value"] != -9999
    (batch,) = Real(marked).batches(marked.held_out)
    assert batch[:, 0, 2].numpy() == pytest.approx(data.normaliser.mean[0])
    assert np.array_equal(np.delete(batch.numpy(), 2, axis=2), np.delete(images[:8], 2, axis=2))


def test_earlier_evaluations_are_shown_without_curves() -> None:
    result = {"held_out_loss": [1], "loss_gap": {"levels": []}, "domain": {"channels": [], "spectra": [], "histograms": []}}
    assert in_short(result) == {key: result[key] for key in ("loss_gap", "domain")}
    assert in_short(result, curves=False) == {"loss_gap": {"levels": []}, "domain": {"channels": []}}
    assert in_short({"held_out_loss": [1]}) == {"held_out_loss": [1]}
