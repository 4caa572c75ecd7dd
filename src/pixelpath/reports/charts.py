"""Curves as HTML and inline SVG: they follow the theme and the width of their page, and tell their values under the pointer.

A *curve* is a name with rising *steps* (places along the horizontal axis: steps of training, noise levels, network evaluations)
and a value at each. The script that tells values is page.js.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape

import numpy as np
from jaxtyping import Float

from pixelpath.reports.pictures import PANELS, Metrics, loss_names, series, skipped_steps, smooth

MOST = 300  # points of a curve that a page holds
SMOOTHED = 60  # values from which on a curve is smoothed, over a sixtieth of them
COLOURS = ("blue", "orange", "green", "purple", "grey")
WIDE, HIGH = 1000, 400  # of an SVG, in units that are stretched to the page
TICKS = 5
NEAR, DEEP = (
    8,
    1e3,
)  # ratios of the ends of a logarithmic axis: below the first it has more ticks, from the second on powers of ten


@dataclass(frozen=True)
class Curve:
    """One measurement: `colour` is one of COLOURS or "ink".

    `exact` values are few and shown as dots, never smoothed; no line joins `loose` ones. Of `stairs` each value holds up to the
    next step, and NaN, which is nothing, lies at the foot; other curves leave NaN out. `band` is the low and the high end of a
    band around the values.
    """

    name: str
    steps: Float[np.ndarray, "value"]
    values: Float[np.ndarray, "value"]
    colour: str = COLOURS[0]
    exact: bool = False
    stairs: bool = False
    dashed: bool = False
    loose: bool = False
    band: tuple[Float[np.ndarray, "value"], Float[np.ndarray, "value"]] | None = None

    @property
    def smoothed(self) -> Float[np.ndarray, "value"]:
        """The values, smoothed where they are many."""
        few = self.exact or self.stairs or len(self.values) < SMOOTHED
        return self.values if few else smooth(self.values, len(self.values) / SMOOTHED)


@dataclass(frozen=True)
class Frame:
    """What stands around curves: what the horizontal axis counts, and how the axes are scaled.

    The vertical axis is logarithmic where all values are positive and differ enough, unless it begins `from_zero`.
    """

    along: str = "step"
    raised: bool = False
    """Whether the horizontal axis is logarithmic; its steps are then positive."""
    from_zero: bool = False
    tall: bool = True


BY_STEP = Frame()


def training_charts(rows: Metrics) -> str:
    """The losses, and below them what else was measured by step; skipped steps and alarms are upright lines."""
    parts = loss_names(rows)
    names = ["loss", *(parts if len(parts) > 1 else [])]  # the only part is the loss
    losses = [Curve(key.replace("_", " "), *series(rows, key), COLOURS[place % 5]) for place, key in enumerate(names)]
    held_out = Curve("held-out loss", *series(rows, "held_out_loss"), "ink", exact=True)
    marked = {"skipped step": skipped_steps(rows), "alarm": [row["step"] for row in rows if row.get("alarms")]}
    others = [(Curve(title, *series(rows, key), stairs=key == "lr"), key != "gradient_norm") for key, title, _ in PANELS]
    small = [chart(curve.name, [curve], frame=Frame(from_zero=from_zero, tall=False)) for curve, from_zero in others]
    return chart("loss", [*losses, held_out], marked) + side_by_side(small)


def side_by_side(charts: Sequence[str]) -> str:
    """Small charts beside each other, as many as there is room for; empty ones are left out."""
    return f"<div class='charts'>{''.join(charts)}</div>" if any(charts) else ""


def chart(
    title: str, curves: Sequence[Curve], marked: Mapping[str, Sequence[float]] | None = None, frame: Frame = BY_STEP
) -> str:
    """Curves over steps, with upright lines at `marked` ones; empty without finite values."""
    curves = [curve for curve in map(_finite, curves) if len(curve.steps)]
    if not curves:
        return ""
    up, along = _axes(curves, frame)
    lines = [f"<path class='line' d='M0 {HIGH * (1 - up.part(tick)):.1f}H{WIDE}'/>" for tick in up.ticks]
    lines += [_band(curve, along, up) for curve in curves if curve.band is not None]
    lines += [_drawn(curve, curve.values, along, up, "faint") for curve in curves if curve.smoothed is not curve.values]
    lines += [_drawn(curve, curve.smoothed, along, up, "dashed" if curve.dashed else "") for curve in curves if not curve.loose]
    lines += [_dots(curve, along, up) for curve in curves if curve.exact and not curve.dashed]
    lines += [
        f"<path class='mark' d='M{WIDE * along.part(step):.1f} 0V{HIGH}'><title>{escape(name)} {step:g}</title></path>"
        for name, steps in (marked or {}).items()
        for step in steps[:MOST]
    ]
    legend = "".join(f"<span class='{curve.colour}'>{escape(curve.name)}</span>" for curve in curves if len(curves) > 1)
    heights = "".join(f"<i style='bottom: {100 * up.part(tick):.2f}%'>{tick:g}</i>" for tick in up.ticks)
    places = "".join(f"<i style='left: {100 * along.part(tick):.2f}%'>{_place(tick)}</i>" for tick in along.ticks)
    below = "" if frame.along == "step" else f"<div class='along'>{escape(frame.along)}</div>"
    told = {"ends": [along.low, along.high], "raised": frame.raised, "along": frame.along.split(" (")[0]}
    held = escape(json.dumps(told | {"curves": [_told(curve) for curve in curves]}, separators=(",", ":")))
    label = escape(f"{title} by {frame.along}; the arrow keys tell values")
    return (
        f"<figure class='chart{' tall' if frame.tall else ''}' data-told='{held}'>"
        f"<figcaption><b>{escape(title)}</b>{legend}<output></output></figcaption>"
        f"<div class='heights' aria-hidden='true'>{heights}</div><svg viewBox='0 0 {WIDE} {HIGH}' preserveAspectRatio='none' "
        f"role='img' aria-label='{label}'>{''.join(lines)}</svg>"
        f"<div class='places' aria-hidden='true'>{places}</div>{below}</figure>"
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

        ratio = self.high / max(self.low, 1e-300)
        subs = (1, 1.5, 2, 3, 4, 5, 7) if ratio < NEAR else (1, 2, 5) if ratio < DEEP else (1,)
        found = LogLocator(subs=subs, numticks=TICKS + 3) if self.raised else MaxNLocator(TICKS)
        slack = 1e-9 * (self.high - self.low)
        return [float(tick) for tick in found.tick_values(self.low, self.high) if self.low - slack <= tick <= self.high + slack]


def _finite(curve: Curve) -> Curve:
    """The curve where it has finite values; stairs as they are, unless they have none."""
    known = np.isfinite(curve.values)
    if known.all() or (curve.stairs and known.any()):
        return curve
    band = None if curve.band is None else (curve.band[0][known], curve.band[1][known])
    return replace(curve, steps=curve.steps[known], values=curve.values[known], band=band)


def _axes(curves: Sequence[Curve], frame: Frame) -> tuple[_Axis, _Axis]:
    """The vertical axis, with some room at its ends, and the horizontal one."""
    values = np.concatenate([curve.values[np.isfinite(curve.values)] for curve in curves])
    first, last = min(curve.steps[0] for curve in curves), max(curve.steps[-1] for curve in curves)
    along = _Axis(float(first), float(last if last > first else 2 * first if frame.raised else first + 1), raised=frame.raised)
    low, high = float(values.min()), float(values.max())
    if frame.from_zero and low >= 0:
        return _Axis(0.0, 1.05 * high or 1.0), along
    if low > 0 and high >= 1.5 * low:
        room = (high / low) ** 0.04
        return _Axis(low / room, high * room, raised=True), along
    room = 0.05 * (high - low) or abs(high) or 1.0
    return _Axis(low - room, high + room), along


def _chosen(curve: Curve) -> np.ndarray:
    """The places of the values that a page holds."""
    return np.unique(np.linspace(0, len(curve.steps) - 1, MOST).round().astype(int))


def _points(curve: Curve, values: Float[np.ndarray, "value"], along: _Axis, up: _Axis) -> list[tuple[float, float]]:
    """Where the values stand in the SVG; those beyond the vertical axis at its ends."""
    chosen = _chosen(curve)
    held = np.clip(np.nan_to_num(values[chosen], nan=up.low), up.low, up.high).tolist()
    places = zip(curve.steps[chosen].tolist(), held, strict=True)
    return [(WIDE * along.part(step), HIGH * (1 - up.part(value))) for step, value in places]


def _drawn(curve: Curve, values: Float[np.ndarray, "value"], along: _Axis, up: _Axis, look: str = "") -> str:
    points = _points(curve, values, along, up)
    (first, height), *rest = points
    if curve.stairs:
        line = f"{first:.1f} {height:.1f}" + "".join(f"H{across:.1f}V{down:.1f}" for across, down in rest)
    else:
        line = " ".join(f"{across:.1f} {down:.1f}" for across, down in points)
    return f"<path class='{curve.colour} {look}' d='M{line}{'' if rest else 'h0.1'}'/>"


def _dots(curve: Curve, along: _Axis, up: _Axis) -> str:
    places = "".join(f"M{across:.1f} {down:.1f}h.1" for across, down in _points(curve, curve.values, along, up))
    return f"<path class='{curve.colour} dots' d='{places}'/>"


def _band(curve: Curve, along: _Axis, up: _Axis) -> str:
    assert curve.band is not None
    low, high = (_points(curve, ends, along, up) for ends in curve.band)
    around = " ".join(f"{across:.1f} {down:.1f}" for across, down in [*low, *reversed(high)])
    return f"<path class='{curve.colour} band' d='M{around}Z'/>"


def _place(tick: float) -> str:
    """A number below the horizontal axis."""
    return f"{tick:,.0f}" if abs(tick) >= 1000 else f"{tick:g}"


def _told(curve: Curve) -> list[object]:
    """The name, the steps and the values of a curve."""
    chosen = _chosen(curve)
    steps = [int(step) if step == int(step) else float(f"{step:.4g}") for step in curve.steps[chosen].tolist()]
    values = [float(f"{value:.4g}") for value in np.nan_to_num(curve.smoothed[chosen]).tolist()]
    return [curve.name, steps, values]
