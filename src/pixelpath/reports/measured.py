"""The curves of what an evaluation measured, as a page shows them: losses and accuracies by noise level, spectra, histograms.

A *row* is an entry of evaluation.json, probe.json or distance_over_nfe.json. A *side* is a set of images that is compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from pixelpath.reports.charts import COLOURS, Curve, Frame, chart, side_by_side
from pixelpath.reports.pictures import HEAVY, JSONRows

BY_LEVEL = Frame(along="noise level sigma (model range)", raised=True)
BY_FREQUENCY = Frame(along="frequency (cycles per pixel)", raised=True)
BY_NFE = Frame(along="network evaluations (NFE) per image", raised=True)
SQUARED = "mean squared error (model range)"
SIDES = (("training", "training images", "grey"), ("held_out", "held-out images", "orange"), ("samples", "samples", "blue"))
ENDS = 2  # standard errors to either side of a mean, that its band shows


def noise_levels_chart(rows: JSONRows) -> str:
    """Held-out denoising error by noise level, in a band of two standard errors."""
    return chart(SQUARED, [_with_error("held-out images", rows, "loss", "standard_error", "orange")], frame=BY_LEVEL)


def loss_gap_chart(rows: JSONRows) -> str:
    """Denoising error of training and of held-out images by noise level, in bands of two standard errors."""
    curves = [_with_error(label, rows, key, f"{key}_error", colour) for key, label, colour in SIDES[:2]]
    return chart(SQUARED, curves, frame=BY_LEVEL)


def probe_chart(rows: JSONRows) -> str:
    """Share of test images recognised, in %, by noise level: a colour per kind of features, linear probes dashed."""
    curves = []
    for name, colour in zip(dict.fromkeys(row["name"] for row in rows), COLOURS, strict=False):
        chosen = sorted((row for row in rows if row["name"] == name), key=lambda row: row["sigma"])
        for key, label in (("nearest", "nearest neighbours"), ("linear", "linear, dashed")):
            shares = 100 * _values(chosen, key)
            curves.append(Curve(f"{name}, {label}", _values(chosen, "sigma"), shares, colour, exact=True, dashed=key == "linear"))
    return chart("test images recognised, %", curves, frame=Frame(BY_LEVEL.along, raised=True, from_zero=True))


def spectrum_chart(rows: JSONRows) -> str:
    """Power per mode by frequency, both logarithmic: a chart per channel, a curve per side."""

    def draw(chosen: JSONRows, key: str, label: str, colour: str) -> Curve:
        values = _values(chosen, key)
        return Curve(label, _values(chosen, "frequency"), np.where(values > 0, values, np.nan), colour, exact=True)

    return _by_channel(rows, "power per mode", draw, BY_FREQUENCY)


def histograms_chart(rows: JSONRows) -> str:
    """The share of values in bins of equal width: a chart per channel, logarithmic where few bins hold most of the values."""
    every = np.concatenate([_values(rows, key) for key, *_ in _present(rows)])
    positive = every[every > 0]
    raised = positive.size > 0 and positive.max() > HEAVY * np.median(positive)

    def draw(chosen: JSONRows, key: str, label: str, colour: str) -> Curve:
        edges = np.append(_values(chosen, "lower"), chosen[-1]["upper"])
        values = _values(chosen, key)
        values = np.append(values, values[-1])
        return Curve(label, edges, np.where(values > 0, values, np.nan) if raised else values, colour, stairs=True)

    return _by_channel(rows, "share of values", draw, Frame(along="value", from_zero=not raised))


def distance_chart(curves: JSONRows) -> str:
    """Frechet distance by network evaluations (NFE) per image, both logarithmic: a chart per kind of features.

    A curve has the colour of its name. Its distances are those of as many samples as the floor, dashed, has real images.
    """
    names, drawn = list(dict.fromkeys(curve["name"] for curve in curves)), []
    for kind in dict.fromkeys(curve["features"] for curve in curves):
        chosen = [curve for curve in curves if curve["features"] == kind]
        counts = sorted({point["nfe"] for curve in chosen for point in curve["points"]})
        found = [_distances(curve, COLOURS[names.index(curve["name"]) % len(COLOURS)]) for curve in chosen]
        for few, floor in dict.fromkeys((curve["few"], curve["floor"]) for curve in chosen):
            level = np.full(len(counts), float(floor))
            found.append(Curve(f"floor: {few:,} other real images", np.array(counts, float), level, "ink", True, dashed=True))
        samples = " or ".join(f"{few:,}" for few in dict.fromkeys(curve["few"] for curve in chosen))
        drawn.append(chart(f"Frechet distance of {samples} samples ({kind})", found, frame=BY_NFE))
    return "".join(drawn)


def _distances(curve: Any, colour: str) -> Curve:
    points = sorted(curve["points"], key=lambda point: point["nfe"])
    return Curve(curve["name"], _values(points, "nfe"), _values(points, "frechet_of_few"), colour, exact=True)


def _with_error(label: str, rows: JSONRows, key: str, error: str, colour: str) -> Curve:
    """A mean by rising sigma, in a band of two standard errors to either side."""
    ordered = sorted(rows, key=lambda row: row["sigma"])
    means, spread = _values(ordered, key), ENDS * _values(ordered, error)
    return Curve(label, _values(ordered, "sigma"), means, colour, exact=True, band=(means - spread, means + spread))


def _by_channel(rows: JSONRows, title: str, draw: Callable[[JSONRows, str, str, str], Curve], frame: Frame) -> str:
    """A chart for each channel, with a curve for each side that is there."""
    channels = list(dict.fromkeys(row["channel"] for row in rows))
    found = []
    for channel in channels:
        chosen = [row for row in rows if row["channel"] == channel]
        named = title if len(channels) == 1 and channel.isdecimal() else f"{_called(channel)}: {title}"
        curves = [draw(chosen, *side) for side in _present(chosen)]
        found.append(chart(named, curves, frame=replace(frame, tall=len(channels) == 1)))
    return side_by_side(found) if len(found) > 1 else "".join(found)


def _called(channel: str) -> str:
    return f"channel {channel}" if channel.isdecimal() else channel


def _present(rows: JSONRows) -> list[tuple[str, str, str]]:
    """The sides that rows hold."""
    return [side for side in SIDES if rows[0][side[0]] is not None]


def _values(rows: JSONRows, key: str) -> np.ndarray:
    return np.array([math.nan if row[key] is None else row[key] for row in rows], np.float64)
