"""Grids against pixels computed by hand, files that come back exactly, plots that show what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixelpath.commands.pictures import (
    curves,
    evaluations_plot,
    grid,
    noise_levels_plot,
    probe_plot,
    save_images,
    save_png,
    series,
    skipped_steps,
    smooth,
)
from pixelpath.evaluation.held_out import HeldOutRow
from pixelpath.evaluation.probe import ProbeRow


def ramp(dtype: str, channels: int = 1, count: int = 1) -> np.ndarray:
    values = np.arange(count * channels * 16).reshape(count, channels, 4, 4)
    return values.astype(dtype)


def cells(picture: Image.Image, rows: int, columns: int) -> np.ndarray:
    """The middle pixel of every pixel of a grid of one image."""
    pixels = np.asarray(picture)
    height, width = pixels.shape[0] // rows, pixels.shape[1] // columns
    return pixels[height // 2 :: height, width // 2 :: width]


def test_whole_range_of_bytes_is_shown_as_it_is() -> None:
    image = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    picture = grid(torch.from_numpy(image), columns=1)
    assert picture.mode == "L"
    assert picture.size == (32 * 16, 32 * 16)
    assert np.array_equal(cells(picture, 16, 16), image[0, 0])


@pytest.mark.parametrize(
    ("count", "columns", "side"), [(1, 12, 8), (36, 12, 8), (200, 20, 8), (36, 12, 32), (9, 3, 100), (30, 10, 64)]
)
def test_width_and_places(count: int, columns: int, side: int) -> None:
    """Image n stands in row n // columns; enlarged by one whole number, 2 grey pixels apart, up to 1000 pixels wide."""
    values = np.random.default_rng(0).integers(0, 255, count, np.uint8)
    pixels = np.asarray(grid(np.broadcast_to(values[:, None, None, None], (count, 1, side, side)), columns))
    across = min(columns, count)
    edge = (pixels.shape[1] + 2) // across
    assert (pixels.shape[1] + 2) % across == 0
    assert (edge - 2) % side == 0
    assert pixels.shape == (edge * -(-count // columns) - 2, edge * across - 2)
    assert pixels.shape[1] <= 1000
    assert pixels.shape[1] > 500 or (edge - 2) == 32 * side
    for place, value in enumerate(values):
        top, left = place // across * edge, place % across * edge
        assert (pixels[top : top + edge - 2, left : left + edge - 2] == value).all()


def test_large_images_keep_their_size() -> None:
    assert grid(np.zeros((6, 3, 300, 400), np.uint8), 3).size == (3 * 402 - 2, 2 * 302 - 2)


def test_unfilled_places_and_gaps_are_grey() -> None:
    pixels = np.asarray(grid(np.zeros((3, 1, 256, 256), np.uint8), 2))
    assert (pixels[258:, 258:] == 128).all()
    assert (pixels[256:258] == 128).all()


def test_given_range_and_range_of_integers() -> None:
    digits = np.array([0, 4, 16, 17], np.uint8).reshape(1, 1, 2, 2)
    assert cells(grid(digits, 1, 0, 16), 2, 2).ravel().tolist() == [0, 64, 255, 255]  # 4/16 of 255 is 63.75
    wide = np.array([-32768, 0, 32767, 100], np.int16).reshape(1, 1, 2, 2)
    assert cells(grid(wide, 1), 2, 2).ravel().tolist() == [0, 128, 255, 128]


def test_floats_are_shown_between_percentiles() -> None:
    """A ramp of 10,000 values: 0.5 % of them are black, 0.5 % white, and the middle stays the middle."""
    values = torch.linspace(-3, 5, 10_000).reshape(1, 1, 100, 100)
    shown = np.sort(cells(grid(values, 1), 100, 100).ravel())
    expected = np.floor(np.clip((np.arange(10_000) / 9999 - 0.005) / 0.99, 0, 1) * 255 + 0.5)
    assert np.abs(shown - expected).max() <= 1
    assert np.mean(shown != expected) < 0.01


def test_values_that_are_not_finite() -> None:
    values = np.array([np.nan, np.inf, -np.inf, 0.5], np.float32).reshape(1, 1, 2, 2)
    assert cells(grid(values, 1, 0.0, 1.0), 2, 2).ravel().tolist() == [0, 255, 0, 128]
    assert cells(grid(np.full((1, 1, 2, 2), np.nan, np.float32), 1), 2, 2).max() == 0


def test_channels() -> None:
    """Three are colours; two and five show the first."""
    assert np.array_equal(cells(grid(ramp("uint8", 3), 1), 4, 4), ramp("uint8", 3)[0].transpose(1, 2, 0))
    for channels in (2, 5):
        assert np.array_equal(cells(grid(ramp("uint8", channels), 1), 4, 4), ramp("uint8", channels)[0, 0])


def test_transparency_shows_a_checkerboard() -> None:
    image = np.zeros((1, 4, 128, 128), np.uint8)
    image[:, 0], image[:, 3, :, 64:] = 200, 255
    image[:, 3, :, 32:64] = 51  # a fifth
    pixels = np.asarray(grid(image, 1))
    scale = pixels.shape[0] // 128
    assert (pixels[:, 64 * scale :] == [200, 0, 0]).all()
    assert {tuple(pixel) for pixel in pixels[:, : 32 * scale].reshape(-1, 3).tolist()} == {(255,) * 3, (204,) * 3}
    thin = {tuple(pixel) for pixel in pixels[:, 32 * scale : 64 * scale].reshape(-1, 3).tolist()}
    assert thin == {(244, 204, 204), (203, 163, 163)}  # 0.2 of (200, 0, 0) over 0.8 of 255 and of 204


def test_grid_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        grid(np.zeros((0, 1, 4, 4), np.uint8), 3)
    with pytest.raises(ValueError, match="below its highest"):
        grid(ramp("uint8"), 1, 16, 16)


@pytest.mark.parametrize(("dtype", "channels"), [("uint8", 1), ("uint8", 3), ("uint8", 4), ("uint16", 1)])
def test_png_files_come_back_exactly(tmp_path: Path, dtype: str, channels: int) -> None:
    images = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, (3, channels, 5, 7), dtype, endpoint=True)
    paths = save_images(tmp_path / "new", torch.from_numpy(images), 40)
    assert [path.name for path in paths] == ["000040.png", "000041.png", "000042.png"]
    assert sorted(paths) == sorted((tmp_path / "new").iterdir())
    for path, image in zip(paths, images, strict=True):
        with Image.open(path) as picture:
            stored = np.asarray(picture)
        assert np.array_equal(stored if stored.ndim == 2 else stored.transpose(2, 0, 1), image[0] if channels == 1 else image)
        assert stored.dtype == images.dtype


@pytest.mark.parametrize(("dtype", "channels"), [("float32", 3), ("int16", 1), ("uint16", 3), ("uint8", 2)])
def test_other_images_become_an_array(tmp_path: Path, dtype: str, channels: int) -> None:
    images = ramp(dtype, channels, 2)
    (path,) = save_images(tmp_path, images, 7)
    assert path.name == "000007-000008.npy"
    stored = np.load(path)
    assert stored.dtype == images.dtype
    assert np.array_equal(stored, images)


def test_an_array_can_be_asked_for(tmp_path: Path) -> None:
    (path,) = save_images(tmp_path, ramp("uint8"), npy=True)
    assert np.load(path).dtype == np.uint8


@pytest.mark.parametrize("npy", [False, True])
def test_nothing_is_overwritten(tmp_path: Path, npy: bool) -> None:
    first = save_images(tmp_path, ramp("uint8", count=2), 1, npy=npy)
    before = {path: path.read_bytes() for path in first}
    with pytest.raises(ValueError, match="not overwritten"):
        save_images(tmp_path, ramp("uint8", count=2) + 1, 0 if not npy else 1, npy=npy)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_png_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    save_png(path, grid(ramp("uint8"), 1))
    before = path.read_bytes()
    with pytest.raises(OSError, match="CMYK"):
        save_png(path, Image.new("CMYK", (2, 2)))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_smoothing_is_a_gaussian_average() -> None:
    """An impulse spreads to weights of sum 1 and of the deviation asked for; constants stay."""
    impulse = np.zeros(401)
    impulse[200] = 1
    weights = smooth(impulse, 5.0)
    assert weights.sum() == pytest.approx(1, abs=1e-9)
    assert np.sqrt(weights @ (np.arange(401) - 200.0) ** 2) == pytest.approx(5, rel=1e-3)
    assert np.allclose(smooth(np.full(20, 3.0), 4.0), 3, rtol=1e-12)


def test_series_keeps_finite_numbers() -> None:
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": None}, {"step": 3, "rate": 1}, {"step": 4, "loss": float("inf")}]
    steps, values = series([*rows, {"step": 5, "loss": 1}], "loss")
    assert (steps.tolist(), values.tolist()) == ([1, 5], [2, 1])
    assert series(rows, "absent")[0].size == 0


def test_skipped_steps_are_where_the_count_grows() -> None:
    counts = [0, 0, 1, None, 1, 2, 2]
    rows = [{"step": step} | ({} if count is None else {"skipped": count}) for step, count in enumerate(counts, 1)]
    assert skipped_steps(rows) == [3, 6]


def write_metrics(run: Path, count: int) -> None:
    rows = [
        {"step": step, "loss": 1 / step, "squared_error": 0.1 / step, "gradient_norm": None if step == 3 else 0.5, "rate": 1e-3}
        | {"images_per_second": 100.0, "skipped": int(step >= 3), "alarms": ["loss is high"] if step == 2 else []}
        for step in range(1, count + 1)
    ]
    rows.append({"step": count, "held_out_loss": 0.2, "feature_deviation": 0.9, "effective_rank": 12.0})
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 9, "lo', encoding="utf-8")


def has_colour(picture: Image.Image, colour: str) -> bool:
    wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return bool((np.asarray(picture.convert("RGB")) == wanted).all(-1).any())


@pytest.mark.parametrize("count", [1, 5, 200])
def test_curves_are_drawn(tmp_path: Path, count: int) -> None:
    write_metrics(tmp_path, count)
    path = curves(tmp_path)
    assert path == tmp_path / "curves.png"
    with Image.open(path) as picture:
        assert picture.width == 1440
        assert has_colour(picture, "#0b6fb8")  # the loss
        assert has_colour(picture, "#c8373b") == (count > 1)  # the alarm and the skipped step


def test_curves_without_lines(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"metrics\.jsonl holds no line"):
        curves(tmp_path)


def test_plots_take_rows_and_their_json() -> None:
    held_out = [HeldOutRow(sigma, 0.1 * sigma, 0.001, 10) for sigma in (2.0, 0.5, 0.1)]
    assert noise_levels_plot(held_out) == noise_levels_plot([row.__dict__ for row in reversed(held_out)])
    assert noise_levels_plot(held_out) != noise_levels_plot(held_out[:2])
    rows = [ProbeRow(name, sigma, 0.9, 0.8, 10, 5) for name in ("encoder", "pixels") for sigma in (0.1, 1.0)]
    picture = probe_plot(rows)
    assert picture == probe_plot([row.__dict__ for row in rows])
    assert has_colour(picture, "#0b6fb8")
    assert has_colour(picture, "#d9822b")
    assert not has_colour(probe_plot(rows[:2]), "#d9822b")


def curve(name: str, factor: float = 1.0, features: str = "pixels", counts: tuple[int, ...] = (1, 2, 4, 16)) -> dict:
    """Distances that are inverse to the evaluations, far above the floor."""
    points = [{"steps": n, "evaluations": n, "frechet": 9.0, "frechet_of_few": 64 * factor / n, "seconds": 1.0} for n in counts]
    return {"name": name, "features": features, "floor": 1.0, "few": 90, "points": points}


def test_a_power_of_the_evaluations_is_a_straight_line() -> None:
    """Both axes are logarithmic: the blue line keeps one slope from end to end, and the samples count as many as the floor's."""
    rows, columns = np.nonzero((np.asarray(evaluations_plot([curve("a")]))[120:] == [0x0B, 0x6F, 0xB8]).all(-1))
    fit = np.polyfit(columns, rows, 1)
    assert np.abs(np.polyval(fit, columns) - rows).max() < 8  # half a mark
    assert columns.max() - columns.min() > 1000
    assert fit[0] > 0.1


def test_curves_over_evaluations_take_any_number_of_runs_and_any_order() -> None:
    names = "abcdefgh"
    many = [curve(name, 1 + place, kind) for place, name in enumerate(names) for kind in ("pixels", "encoder")]
    picture = evaluations_plot(many)
    assert picture.height > 1.7 * evaluations_plot([curve("a")]).height  # a panel per kind of features
    for colour in ("#0b6fb8", "#d9822b", "#12936f", "#8e5bb5", "#6b7280"):
        assert has_colour(picture, colour)
    assert evaluations_plot([curve("a", counts=(16, 1, 4, 2))]) == evaluations_plot([curve("a")])
    assert evaluations_plot(many[:-2]) != picture


def test_one_point_is_a_plot() -> None:
    assert has_colour(evaluations_plot([curve("a", counts=(1,))]), "#0b6fb8")
