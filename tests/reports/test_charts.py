"""Charts: every value stands where its axis says, and is told as it was measured."""

from __future__ import annotations

import json
import re
from html import unescape

import numpy as np
import pytest

from pixelpath.reports.charts import Curve, Frame, chart, training_charts

STEPS = np.array([10.0, 20.0, 50.0])


def places(html: str, look: str = "blue ") -> np.ndarray:
    """The places of the points of the only curve of this look, as shares of the area from its lower left."""
    (path,) = re.findall(rf"<path class='{look}' d='M([^']*)'", html)
    return np.array(path.split(), float).reshape(-1, 2) / [1000, 400] * [1, -1] + [0, 1]


def told(html: str) -> dict:
    return json.loads(unescape(re.findall("data-told='([^']*)'", html)[0]))


def ticks(html: str, axis: str) -> list[tuple[float, float]]:
    """The places and the numbers of an axis."""
    (part,) = re.findall(f"<div class='{axis}' aria-hidden='true'>(.*?)</div>", html)
    found = re.findall(r": ([\d.]+)%'>([^<]*)<", part)
    return [(float(place) / 100, float(number.replace(",", ""))) for place, number in found]


@pytest.mark.parametrize("values", [[1.0, 10.0, 100.0], [-3.0, 0.0, 5.0], [2.0, 2.1, 2.2]])
@pytest.mark.parametrize("from_zero", [False, True])
def test_values_and_ticks_stand_on_the_same_axis(values: list[float], from_zero: bool) -> None:
    html = chart("loss", [Curve("loss", STEPS, np.array(values))], frame=Frame(from_zero=from_zero))
    points, known = places(html), {number: place for place, number in ticks(html, "heights")}
    assert points[:, 0] == pytest.approx([0, 0.25, 1])
    assert len(known) >= 2
    raised = not from_zero and values[0] > 0 and values[-1] > 1.5 * values[0]
    scaled = np.log if raised else np.asarray
    (low, first), *_, (high, last) = sorted(known.items())
    slope = (last - first) / (scaled(high) - scaled(low))
    assert points[:, 1] == pytest.approx(first + slope * (scaled(np.array(values)) - scaled(low)), abs=5e-3)
    assert all(0 <= place <= 1 for place in (*known.values(), *points[:, 1]))


def test_values_are_told_as_they_are() -> None:
    html = chart("a <b>'", [Curve("a <b>'", STEPS, np.array([0.123456, 2.0, 3.0]))])
    curves = [["a <b>'", [10, 20, 50], [0.1235, 2.0, 3.0]]]
    assert told(html) == {"ends": [10, 50], "raised": False, "along": "step", "curves": curves}
    assert "<b>'" not in html


def test_a_run_shows_losses_marks_and_what_it_measured() -> None:
    rows = [{"step": step, "loss": 2.0 / step, "lr": 1e-3, "skipped": int(step > 3)} for step in range(1, 200)]
    rows += [{"step": 199, "held_out_loss": 0.5, "alarms": ["odd"]}]
    html = training_charts(rows)
    assert [name for name, *_ in told(html)["curves"]] == ["loss", "held-out loss"]
    assert html.count("<figure") == html.count("</figure>") == 2
    assert re.findall(r"<title>(.*?)</title>", html) == ["skipped step 4", "alarm 199"]
    assert len(re.findall("class='blue faint'", html)) == 1  # the loss as measured, below the smoothed one


def test_one_value_and_none() -> None:
    assert chart("loss", [Curve("loss", np.zeros(0), np.zeros(0))]) == ""
    assert "h0.1" in chart("loss", [Curve("loss", np.ones(1), np.zeros(1))])


def test_a_logarithmic_axis_has_equal_ratios_at_equal_distances() -> None:
    curve = Curve("loss", np.array([0.01, 0.1, 10.0]), np.array([1.0, 2.0, 4.0]))
    html = chart("loss", [curve], frame=Frame(along="noise level sigma (model range)", raised=True))
    assert places(html)[:, 0] == pytest.approx([0, 1 / 3, 1], abs=1e-3)
    known = ticks(html, "places")
    assert [number for _, number in known] == [0.01, 0.1, 1, 10]
    assert [place for place, _ in known] == pytest.approx([0, 1 / 3, 2 / 3, 1], abs=1e-3)
    assert (told(html)["along"], told(html)["raised"]) == ("noise level sigma", True)


def test_stairs_hold_their_value_up_to_the_next_step() -> None:
    html = chart("share", [Curve("share", np.array([0.0, 1.0, 4.0]), np.array([1.0, 3.0, 3.0]), stairs=True)])
    (path,) = re.findall(r"<path class='blue ' d='M([^']*)'", html)
    assert [float(across) for across in re.findall(r"H([\d.]+)", path)] == [250, 1000]
    assert path.index("H250") < path.index("V") < path.index("H1000")


def test_stairs_without_a_value_lie_at_the_foot() -> None:
    values = np.array([1.0, np.nan, 100.0, 100.0])
    html = chart("share", [Curve("share", np.arange(4.0), values, stairs=True)])
    (path,) = re.findall(r"<path class='blue ' d='M([^']*)'", html)
    assert next(float(down) for down in re.findall(r"V([\d.]+)", path)) == 400
    assert told(html)["curves"][0][2] == [1, 0, 100, 100]


def test_values_that_are_missing_leave_the_others_where_they_are() -> None:
    html = chart("power", [Curve("power", STEPS, np.array([1.0, np.nan, 1.2]))])
    assert told(html)["curves"] == [["power", [10, 50], [1.0, 1.2]]]
    assert places(html)[:, 0] == pytest.approx([0, 1])


def test_a_band_reaches_from_its_low_to_its_high_end() -> None:
    values = np.array([2.0, 2.0, 3.0])
    html = chart("loss", [Curve("loss", STEPS, values, band=(values - 0.5, values + 0.5))], frame=Frame(from_zero=True))
    (path,) = re.findall(r"<path class='blue band' d='M([^']*)Z'", html)
    corners = np.array(path.split(), float).reshape(-1, 2)
    low, high = corners[:3], corners[3:][::-1]
    line, (top,) = places(html), {1.05 * 3.0}
    assert low[:, 0] == pytest.approx(high[:, 0])
    assert (low[:2, 1] - high[:2, 1]) / 400 == pytest.approx(1 / top, abs=1e-3)  # the ends of the axis cut the last one
    assert 1 - low[:, 1] / 400 == pytest.approx(line[:, 1] - 0.5 / top, abs=1e-3)
