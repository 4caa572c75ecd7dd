"""Pixel values of samples: known errors are found, for images of any number of channels and any shape."""

from dataclasses import replace

import numpy as np
import pytest

from pixelpath.data import sources
from pixelpath.data.metadata import Metadata
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.reports.evaluation import histograms_plot, spectrum_plot
from pixelpath.reports.pictures import rendered
from pixelpath.runs.measuring.comparison import Real
from pixelpath.runs.measuring.pixel_values import pixel_values, sentence
from pixelpath.runs.prepare import PreparedData

UNKNOWN = Metadata()


def as_source(images: np.ndarray) -> sources.Source:
    return sources.Arrays(images, np.zeros(len(images), np.int64))


def data_of(images: np.ndarray, held_out: int, metadata: Metadata = UNKNOWN) -> PreparedData:
    parts = (images[held_out:], images[:held_out])
    training, kept = (sources.Arrays(part, np.zeros(len(part), np.int64), (), metadata=metadata) for part in parts)
    return PreparedData(training, kept, Normaliser.fit(training), False)


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
    found = pixel_values(data, as_source(samples))
    assert found["images"]["drawn"][0] == str(channels - 1)
    assert len(found["images"]["drawn"]) == min(4, channels)
    last = found["channels"][-1]
    assert last["wasserstein"] == pytest.approx(30, rel=1e-3)
    assert last["spectrum"] == pytest.approx(0, abs=1e-6)
    assert last["training_std"] == pytest.approx(10, rel=0.1)
    assert all(row[key] == 0 for row in found["channels"][:-1] for key in ("wasserstein", "total_variation", "spectrum"))
    errors = [row["error"] for row in found["quantiles"] if row["channel"] == str(channels - 1)]
    assert errors == pytest.approx([30 / last["training_std"]] * 4, rel=1e-3)
    assert all(abs(row["floor"]) > 0 for row in found["quantiles"] if row["probability"] == 0.999)
    assert f"channel {channels - 1}" in sentence(found)


def test_without_held_out_images_there_is_no_floor() -> None:
    images = np.random.default_rng(1).normal(size=(30, 2, 8, 12)).astype(np.float32)
    data = data_of(images, 0)
    found = pixel_values(data, as_source(images[:20]))
    assert (found["images"]["few"], found["images"]["held_out"]) == (0, 0)
    assert {row["held_out"] for key in ("spectra", "histograms", "quantiles") for row in found[key]} == {None}
    assert rendered(spectrum_plot(found["spectra"])).width == rendered(histograms_plot(found["histograms"])).width == 1440
    assert sentence(found).startswith("Values, channel ")


def test_zeros_and_half_transparent_pixels_are_counted() -> None:
    """RGBA of 64 pixels, of which 48 are transparent, 12 opaque and 4 between; samples have 8 between and 4 opaque."""
    images = np.zeros((30, 4, 8, 8), np.uint8)
    images[:, 3, 0], images[:, 3, 1, :4], images[:, 3, 1, 4:] = 255, 255, 128
    data = data_of(images, 6, Metadata(alpha="straight", channels=("red", "green", "blue", "alpha")))
    samples = images[6:].copy()
    samples[:, 3, 0] = 77
    found = pixel_values(data, as_source(samples))
    assert found["half_transparent"] == {"training": 4 / 64, "held_out": 4 / 64, "samples": 12 / 64}
    row = found["frequent"][3]
    assert (row["value"], row["share_training"], row["share_samples"], row["zeros_held_out"]) == (0, 0.75, 0.75, 0.75)
    assert found["channels"][0]["spectrum"] is None  # black, all of it
    assert found["images"]["drawn"][0] == row["channel"] == "alpha"
    assert rendered(spectrum_plot(found["spectra"])).width == rendered(histograms_plot(found["histograms"])).width == 1440


def test_what_was_not_measured_counts_for_nothing() -> None:
    images = np.random.default_rng(2).normal(3, 1, (40, 1, 8, 8)).astype(np.float32)
    whole = pixel_values(data_of(images, 8), as_source(images[8:]))
    images[:, :, 2] = -9999
    data = data_of(images, 8)
    marked = replace(data, normaliser=replace(data.normaliser, nodata=-9999.0))
    samples = images[8:].copy()
    samples[:, :, 2] = 3
    found = pixel_values(marked, as_source(samples))
    assert abs(found["channels"][0]["training_std"] - whole["channels"][0]["training_std"]) < 0.05
    assert found["frequent"][0]["value"] != -9999
    (batch,) = Real(marked).batches(marked.held_out)
    assert batch[:, 0, 2].numpy() == pytest.approx(data.normaliser.mean[0])
    assert np.array_equal(np.delete(batch.numpy(), 2, axis=2), np.delete(images[:8], 2, axis=2))
