"""Curves of measurements: every side and every channel at its place, with the units of its channel."""

from __future__ import annotations

import re

import pytest
from tests.reports.test_charts import told

from pixelpath.reports.measured import distance_chart, histograms_chart, loss_gap_chart, probe_chart, spectrum_chart

SIDES = {"training": 0.5, "held_out": 0.25, "samples": 0.125}


def test_losses_stand_over_noise_levels_in_a_band_of_two_errors() -> None:
    row = {"training": 0.1, "training_error": 0.01, "held_out": 0.2, "held_out_error": 0.02}
    html = loss_gap_chart([{"sigma": 10.0, **row}, {"sigma": 0.1, **row}])
    assert told(html)["raised"] is True
    assert told(html)["curves"] == [["training images", [0.1, 10], [0.1, 0.1]], ["held-out images", [0.1, 10], [0.2, 0.2]]]
    assert len(re.findall("class='(?:grey|orange) band'", html)) == 2


def test_each_channel_has_a_spectrum_under_its_name() -> None:
    rows = [{"channel": name, "frequency": f, **SIDES} for name in ("t (K)", "1") for f in (0.1, 0.5)]
    html = spectrum_chart(rows)
    assert re.findall(r"<b>(.*?)</b>", html) == ["t (K): power per mode", "channel 1: power per mode"]
    assert "<figure class='chart'" in html
    assert "<figure class='chart tall'" in spectrum_chart(rows[:2])


@pytest.mark.parametrize(("share", "raised"), [(0.4, False), (0.99, True)])
def test_a_bin_that_hides_the_others_makes_shares_logarithmic(share: float, raised: bool) -> None:
    rest = (1 - share) / 4
    rows = [
        {"channel": "0", "lower": float(n), "upper": n + 1.0, **dict.fromkeys(SIDES, share if n == 0 else rest)} for n in range(5)
    ]
    rows[3] |= {"samples": 0.0, "held_out": 0.0, "training": 0.0}
    html = histograms_chart(rows)
    assert told(html)["curves"][0][1] == [0, 1, 2, 3, 4, 5]
    assert told(html)["curves"][0][2] == pytest.approx([share, rest, rest, 0, rest, rest], rel=1e-3)
    (ticks,) = re.findall("<div class='heights'[^>]*>(.*?)</div>", html)
    assert (">0<" in ticks) is not raised


def test_distances_have_their_floor_and_a_chart_for_each_kind_of_features() -> None:
    points = [{"nfe": nfe, "frechet_of_few": 8.0 / nfe} for nfe in (4, 1, 2)]
    curves = [{"name": "run", "features": kind, "few": 90, "floor": 0.5, "points": points} for kind in ("pixels", "encoder")]
    html = distance_chart(curves)
    assert re.findall(r"<b>(.*?)</b>", html) == [f"Frechet distance of 90 samples ({kind})" for kind in ("pixels", "encoder")]
    assert told(html)["curves"] == [["run", [1, 2, 4], [8, 4, 2]], ["floor: 90 other real images", [1, 2, 4], [0.5, 0.5, 0.5]]]


def test_accuracies_are_in_percent_and_linear_probes_dashed() -> None:
    rows = [{"name": "encoder", "sigma": sigma, "nearest": 0.25, "linear": 0.5} for sigma in (0.1, 1.0)]
    html = probe_chart(rows)
    assert [curve[2] for curve in told(html)["curves"]] == [[25, 25], [50, 50]]
    assert len(re.findall("class='blue dashed'", html)) == 1
