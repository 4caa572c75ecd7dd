"""Curves as HTML and inline SVG: they follow the theme and the width of their page, and tell their values under the pointer.

A *curve* is a name with rising steps and a value at each. The script that tells values is in report.html.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from jaxtyping import Float

from pixelpath.reports.pictures import PANELS, Metrics, loss_names, series, skipped_steps, smooth

MOST = 300  # points of a curve that a page holds
SMOOTHED = 60  # values from which on a curve is smoothed, over a sixtieth of them
COLOURS = ("blue", "orange", "green", "purple", "grey")
WIDE, HIGH = 1000, 400  # of an SVG, in units that are stretched to the page
TICKS = 5


@dataclass(frozen=True)
class Curve:
    """One measurement: `colour` is one of COLOURS or "ink"; with `dots` it is not smoothed."""

    name: str
    steps: Float[np.ndarray, "value"]
    values: Float[np.ndarray, "value"]
    colour: str = COLOURS[0]
    dots: bool = False

    @property
    def smoothed(self) -> Float[np.ndarray, "value"]:
        """The values, smoothed where they are many."""
        few = self.dots or len(self.values) < SMOOTHED
        return self.values if few else smooth(self.values, len(self.values) / SMOOTHED)


def training_charts(rows: Metrics) -> str:
    """The losses, and below them what else was measured by step; skipped steps and alarms are upright lines."""
    parts = loss_names(rows)
    names = ["loss", *(parts if len(parts) > 1 else [])]  # the only part is the loss
    losses = [Curve(key.replace("_", " "), *series(rows, key), COLOURS[place % 5]) for place, key in enumerate(names)]
    held_out = Curve("held-out loss", *series(rows, "held_out_loss"), "ink", dots=True)
    marked = {"skipped step": skipped_steps(rows), "alarm": [row["step"] for row in rows if row.get("alarms")]}
    others = [(Curve(title, *series(rows, key), dots=key == "lr"), key != "gradient_norm") for key, title, _ in PANELS]
    small = "".join(chart(curve.name, [curve], from_zero=from_zero) for curve, from_zero in others)
    return chart("loss", [*losses, held_out], marked) + (f"<div class='charts'>{small}</div>" if small else "")


def chart(
    title: str, curves: Sequence[Curve], marked: Mapping[str, Sequence[int]] | None = None, *, from_zero: bool = False
) -> str:
    """Curves over steps, with upright lines at `marked` ones; empty without values.

    The vertical axis is logarithmic where all values are positive and differ enough, unless it begins `from_zero`.
    """
    curves = [curve for curve in curves if len(curve.steps)]
    if not curves:
        return ""
    up, along = _axes(curves, from_zero)
    lines = [f"<path class='line' d='M0 {HIGH * (1 - up.part(tick)):.1f}H{WIDE}'/>" for tick in up.ticks]
    lines += [_drawn(curve, curve.values, along, up, "faint") for curve in curves if curve.smoothed is not curve.values]
    lines += [_drawn(curve, curve.smoothed, along, up) for curve in curves]
    lines += [
        f"<path class='mark' d='M{WIDE * along.part(step):.1f} 0V{HIGH}'><title>{name} {step}</title></path>"
        for name, steps in (marked or {}).items()
        for step in steps[:MOST]
    ]
    several = len(curves) > 1
    legend = "".join(f"<span class='{curve.colour}'>{escape(curve.name)}</span>" for curve in curves if several)
    heights = "".join(f"<i style='bottom: {100 * up.part(tick):.2f}%'>{tick:g}</i>" for tick in up.ticks)
    places = "".join(f"<i style='left: {100 * along.part(tick):.2f}%'>{tick:,.0f}</i>" for tick in along.ticks)
    told = json.dumps({"ends": [along.low, along.high], "curves": [_told(curve) for curve in curves]}, separators=(",", ":"))
    return (
        f"<figure class='chart{' tall' if several else ''}' data-told='{escape(told)}'>"
        f"<figcaption><b>{escape(title)}</b>{legend}<output></output></figcaption>"
        f"<div class='heights'>{heights}</div><svg viewBox='0 0 {WIDE} {HIGH}' preserveAspectRatio='none' role='img' "
        f"aria-label='{escape(title)} by step'>{''.join(lines)}</svg><div class='places'>{places}</div></figure>"
    )


@dataclass(frozen=True)
class _Axis:
    """Values between two ends, by their logarithms if `raised`; `part` is the share of the way from the low end."""

    low: float
    high: float
    raised: bool = False

    def part(self, value: float) -> float:
        low, high, here = map(math.log, (self.low, self.high, value)) if self.raised else (self.low, self.high, value)
        return (here - low) / (high - low)

    @property
    def ticks(self) -> list[float]:
        """Round values between the ends."""
        from matplotlib.ticker import LogLocator, MaxNLocator

        near = self.high / max(self.low, 1e-300) < 1e3
        found = LogLocator(subs=(1, 2, 5) if near else (1,), numticks=TICKS + 3) if self.raised else MaxNLocator(TICKS)
        return [float(tick) for tick in found.tick_values(self.low, self.high) if self.low <= tick <= self.high]


def _axes(curves: Sequence[Curve], from_zero: bool) -> tuple[_Axis, _Axis]:
    """The vertical axis, with some room at its ends, and the horizontal one."""
    values = np.concatenate([curve.values for curve in curves])
    first, last = min(curve.steps[0] for curve in curves), max(curve.steps[-1] for curve in curves)
    along = _Axis(float(first), float(last if last > first else first + 1))
    low, high = float(values.min()), float(values.max())
    if from_zero and low >= 0:
        return _Axis(0.0, 1.05 * high or 1.0), along
    if low > 0 and high >= 1.5 * low:
        room = (high / low) ** 0.04
        return _Axis(low / room, high * room, raised=True), along
    room = 0.05 * (high - low) or abs(high) or 1.0
    return _Axis(low - room, high + room), along


def _chosen(curve: Curve) -> np.ndarray:
    """The places of the values that a page holds."""
    return np.unique(np.linspace(0, len(curve.steps) - 1, MOST).round().astype(int))


def _drawn(curve: Curve, values: Float[np.ndarray, "value"], along: _Axis, up: _Axis, look: str = "") -> str:
    chosen = _chosen(curve)
    places = zip(curve.steps[chosen].tolist(), values[chosen].tolist(), strict=True)
    points = " ".join(f"{WIDE * along.part(step):.1f} {HIGH * (1 - up.part(value)):.1f}" for step, value in places)
    return f"<path class='{curve.colour} {look}' d='M{points}{' h0.1' if len(chosen) == 1 else ''}'/>"


def _told(curve: Curve) -> list[object]:
    """The name, the steps and the values of a curve."""
    chosen = _chosen(curve)
    values = [float(f"{value:.4g}") for value in curve.smoothed[chosen]]
    return [curve.name, curve.steps[chosen].astype(int).tolist(), values]
