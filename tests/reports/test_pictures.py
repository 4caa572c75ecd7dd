"""Files that come back exactly, plots that show what was measured."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from pixelpath.errors import UserError
from pixelpath.evaluation.held_out import HeldOutRow
from pixelpath.evaluation.probe import ProbeRow
from pixelpath.reports.pictures import (
    distance_over_nfe,
    noise_levels_plot,
    probe_plot,
    rendered,
    save_png,
    series,
    skipped_steps,
    smooth,
    training_curves,
)


def ramp(dtype: str, channels: int = 1, count: int = 1) -> np.ndarray:
    values = np.arange(count * channels * 16).reshape(count, channels, 4, 4)
    return values.astype(dtype)


def test_png_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    save_png(path, Image.fromarray(ramp("uint8")[0, 0]))
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
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": None}, {"step": 3, "lr": 1}, {"step": 4, "loss": float("inf")}]
    steps, values = series([*rows, {"step": 5, "loss": 1}], "loss")
    assert (steps.tolist(), values.tolist()) == ([1, 5], [2, 1])
    assert series(rows, "absent")[0].size == 0


def test_skipped_steps_are_where_the_count_grows() -> None:
    counts = [0, 0, 1, None, 1, 2, 2]
    rows = [{"step": step} | ({} if count is None else {"skipped": count}) for step, count in enumerate(counts, 1)]
    assert skipped_steps(rows) == [3, 6]


def metrics(count: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"step": step, "loss": 1 / step, "squared_error": 0.1 / step, "gradient_norm": None if step == 3 else 0.5, "lr": 1e-3}
        | {"images_per_second": 100.0, "skipped": int(step >= 3), "alarms": ["loss is high"] if step == 2 else []}
        for step in range(1, count + 1)
    ]
    return [*rows, {"step": count, "held_out_loss": 0.2, "feature_std": 0.9, "effective_rank": 12.0}]


def has_colour(picture: Image.Image, colour: str) -> bool:
    wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return bool((np.asarray(picture.convert("RGB")) == wanted).all(-1).any())


@pytest.mark.parametrize("count", [1, 5, 200])
def test_training_curves_are_drawn(count: int) -> None:
    """One figure for the picture and for notebooks: losses first, then a panel for each other measurement."""
    figure = training_curves(metrics(count))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[1:4] == ["learning rate", "gradient norm (unclipped)", "images per second"]
    assert {axes.get_xlabel() for axes in figure.axes} == {"step"}
    picture = rendered(figure)
    assert picture.width == 1440
    assert has_colour(picture, "#0b6fb8")  # the loss
    assert has_colour(picture, "#c8373b") == (count > 1)  # the alarm and the skipped step


def test_training_curves_need_a_step_and_no_global_state() -> None:
    with pytest.raises(UserError):
        training_curves([])
    script = "import sys; from pixelpath.reports.pictures import training_curves as draw; draw([{'step': 1, 'loss': 2.0}]);"
    subprocess.run([sys.executable, "-c", f"{script} assert 'matplotlib.pyplot' not in sys.modules"], check=True)


def drawn(plot: Callable[[Any], Figure], rows: Any) -> Image.Image:
    return rendered(plot(rows))


def test_plots_take_rows_and_their_json() -> None:
    held_out = [HeldOutRow(sigma, 0.1 * sigma, 0.001, 10) for sigma in (2.0, 0.5, 0.1)]
    assert drawn(noise_levels_plot, held_out) == drawn(noise_levels_plot, [row.__dict__ for row in reversed(held_out)])
    assert drawn(noise_levels_plot, held_out) != drawn(noise_levels_plot, held_out[:2])
    rows = [ProbeRow(name, sigma, 0.9, 0.8, 0.7, 10, 5) for name in ("encoder", "pixels") for sigma in (0.1, 1.0)]
    picture = drawn(probe_plot, rows)
    assert picture == drawn(probe_plot, [row.__dict__ for row in rows])
    assert has_colour(picture, "#0b6fb8")
    assert has_colour(picture, "#d9822b")
    assert not has_colour(drawn(probe_plot, rows[:2]), "#d9822b")


def curve(name: str, factor: float = 1.0, features: str = "pixels", counts: tuple[int, ...] = (1, 2, 4, 16)) -> dict:
    """Distances that are inverse to the network evaluations, far above the floor."""
    points = [{"steps": n, "nfe": n, "frechet": 9.0, "frechet_of_few": 64 * factor / n, "seconds": 1.0} for n in counts]
    return {"name": name, "features": features, "floor": 1.0, "few": 90, "points": points}


def test_a_power_of_the_nfe_is_a_straight_line() -> None:
    """Both axes are logarithmic: the blue line keeps one slope from end to end, and the samples count as many as the floor's."""
    rows, columns = np.nonzero((np.asarray(drawn(distance_over_nfe, [curve("a")]))[120:] == [0x0B, 0x6F, 0xB8]).all(-1))
    fit = np.polyfit(columns, rows, 1)
    assert np.abs(np.polyval(fit, columns) - rows).max() < 8  # half a mark
    assert columns.max() - columns.min() > 1000
    assert fit[0] > 0.1


def test_distances_over_nfe_take_any_number_of_runs_and_any_order() -> None:
    names = "abcdefgh"
    many = [curve(name, 1 + place, kind) for place, name in enumerate(names) for kind in ("pixels", "encoder")]
    picture = drawn(distance_over_nfe, many)
    assert picture.height > 1.7 * drawn(distance_over_nfe, [curve("a")]).height  # a panel per kind of features
    for colour in ("#0b6fb8", "#d9822b", "#12936f", "#8e5bb5", "#6b7280"):
        assert has_colour(picture, colour)
    assert drawn(distance_over_nfe, [curve("a", counts=(16, 1, 4, 2))]) == drawn(distance_over_nfe, [curve("a")])
    assert drawn(distance_over_nfe, many[:-2]) != picture


def test_one_point_is_a_plot() -> None:
    assert has_colour(drawn(distance_over_nfe, [curve("a", counts=(1,))]), "#0b6fb8")
