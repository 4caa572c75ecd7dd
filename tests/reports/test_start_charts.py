"""Curves of a start: what is drawn is what was measured, noise is not drawn, and few images have curves too."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch

from pixelpath.evaluation.certificate import Divergence
from pixelpath.evaluation.distances import nearest_shares
from pixelpath.evaluation.radii import radius_quantiles
from pixelpath.evaluation.tails import compare_tails
from pixelpath.reports.charts import Curve
from pixelpath.reports.start_charts import (
    BUDGET,
    certificate_chart,
    certificate_curves,
    neighbours_chart,
    tails_chart,
)

LEVELS = [80 * 0.8**place for place in range(30)]  # down to 0.12


def row(sigma: float, value: float, top: float = 0.1) -> dict[str, Any]:
    """A row of a certificate, as search.json holds it."""
    found = Divergence(sigma, 1.2 * value, 0.7 * value, value, 0.01, 0.02, 0.05 * abs(value), top, 1.08 * abs(value))
    return asdict(found) | {"dominated": found.dominated}


def candidate(name: str, factor: float) -> dict[str, Any]:
    """A divergence of factor sigma^-6, which keeps to a budget from (factor / budget)^(1/6) up."""
    return {"name": name, "certificate": [row(sigma, factor * sigma**-6) for sigma in LEVELS]}


def drawn(*candidates: dict[str, Any]) -> dict[str, Curve]:
    """The curves by name; the first candidate is chosen, at sigma 2."""
    return {curve.name: curve for curve in certificate_curves(candidates, candidates[0]["name"], 2.0, 0.05)}


def test_certificates_show_cross_estimates_down_to_a_hundredth_of_the_budget() -> None:
    found = drawn(candidate("mixture", 0.3), candidate("moment", 2.0))
    assert list(found) == ["from its low to its high estimate", "mixture (chosen)", "moment", BUDGET]
    for name, factor in (("mixture (chosen)", 0.3), ("moment", 2.0)):
        levels = [level for level in reversed(LEVELS) if factor * level**-6 >= 0.0005]
        assert np.allclose(found[name].steps, levels)
        assert np.allclose(found[name].values, factor * np.array(levels) ** -6.0, rtol=1e-12)
    assert found["mixture (chosen)"].colour != found["moment"].colour
    assert found[BUDGET].values.tolist() == [0.05, 0.05]
    assert found[BUDGET].steps[0] < LEVELS[-1]


def test_bands_hold_the_errors_and_the_other_estimates() -> None:
    found = drawn(candidate("a", 0.3))
    for name, ends in (("a (chosen)", (0.95, 1.08)), ("from its low to its high estimate", (0.7, 1.2))):
        band = found[name].band
        assert band is not None
        assert tuple(side[0] / (0.3 * LEVELS[-1] ** -6) for side in band) == pytest.approx(ends)


def test_noise_is_left_out_and_few_images_are_dots() -> None:
    rows = candidate("a", 0.3)
    rows["certificate"][24] = row(LEVELS[24], -1e-5)
    rows["certificate"][25] = row(LEVELS[25], 3.0, 0.9)
    found = drawn(rows)
    assert LEVELS[24] not in found["a (chosen)"].steps
    few = found["decided by a few images"]
    assert (few.steps.tolist(), few.values.tolist(), few.loose) == ([LEVELS[25]], [3.0], True)
    assert "start at sigma 2" in certificate_chart([rows], "a", 2.0, 0.05)


@pytest.mark.parametrize("value", [None, -1e-3])
def test_without_a_divergence_nothing_is_drawn(value: float | None) -> None:
    rows = None if value is None else [row(level, value) for level in LEVELS]
    assert certificate_chart([{"name": "samples", "certificate": rows}], "samples", 5.0, 0.05) == ""


def test_the_chosen_sigma_lies_inside_the_chart() -> None:
    """Also where every divergence that is drawn is elsewhere."""
    for sigma in (0.01, 300.0):
        curves = certificate_curves([candidate("a", 0.3)], "a", sigma, 0.05)
        assert min(curve.steps[0] for curve in curves) < sigma < max(curve.steps[-1] for curve in curves)


@pytest.mark.parametrize("density", ["gaussian", "cauchy"])
def test_tails_are_quantiles_of_both(density: str) -> None:
    """Of equally many images the order statistics, about the held-out median."""
    source = torch.Generator().manual_seed(3)
    truth, samples = (torch.randn(250, 1, 1, 2, generator=source) for _ in range(2))
    if density == "cauchy":
        truth, samples = truth / truth[..., :1].abs(), samples / samples[..., :1].abs()
    found = radius_quantiles(samples + 0.3, truth)
    centre = truth.double().flatten(1).median(0).values
    expected = [(each.double().flatten(1) - centre).norm(dim=1).sort().values.numpy() for each in (truth, samples + 0.3)]
    assert np.allclose([found["across"], found["up"]], expected, rtol=1e-6)
    assert found["high"][-1] is None
    assert found["low"][100] <= found["across"][100] <= found["high"][100]
    assert "start moment" in tails_chart(found, "moment")


def test_certified_quantiles_are_those_that_the_gate_judges() -> None:
    source = torch.Generator().manual_seed(3)
    truth, samples = (torch.randn(count, 1, 1, 2, generator=source) for count in (2100, 900))
    found = radius_quantiles(samples, truth)
    judged = [each for each in compare_tails(samples, truth).quantiles if each.certified and each.what == "radius"]
    assert [each.probability for each in judged] == [0.99]
    assert np.allclose(found["certified"], [[0.99, judged[0].held_out, judged[0].samples]], rtol=1e-9)
    assert "quantiles that can be judged: 0.99" in tails_chart(found, "moment")


def test_few_images_have_tails_too() -> None:
    """Two images, and images all alike: nothing is certified and nothing fails."""
    for samples, truth in (
        (torch.randn(3, 1, 2, 2), torch.randn(2, 1, 2, 2)),
        (torch.zeros(3, 1, 2, 2), torch.zeros(9, 1, 2, 2)),
    ):
        found = radius_quantiles(samples, truth)
        assert found["certified"] == []
        assert "<svg" in tails_chart(found, "a")


def test_neighbours_are_distribution_functions() -> None:
    shares = nearest_shares(torch.tensor([3.0, 1.0, 2.0, 4.0, 5.0]))
    assert (len(shares), shares[0], shares[25], shares[50], shares[100]) == (101, 1.0, 2.0, 3.0, 5.0)
    found = neighbours_chart({"held-out images": {"shares": shares}, "warm samples": {"shares": shares}})
    assert "<span class='orange'>warm samples</span>" in found
    assert neighbours_chart({}) == ""
