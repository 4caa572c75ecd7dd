"""The page of a tuned run: which ways to sample were compared, which were chosen, and how far from the data they are.

A *result*, *table* and *row* are those of RUN/sampling.json (pixelpath.runs.tuned).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pixelpath.reports.charts import COLOURS, Curve, chart
from pixelpath.reports.measured import BY_NFE
from pixelpath.reports.page import Verdict, duration, header, note, pairs, table, write_page

CLOSE = 1.1  # times the distance of the longest control, up to which the chosen way is as good
SEARCH = (
    "The distance of every way to sample that was compared, by network evaluations (NFE). The dark curve joins the chosen ways. "
    "These are numbers of the search: the lowest of many is lower than it would be again. Fresh seeds are in the table above."
)
REPORTED = (
    "Frechet distances of samples of fresh seeds from training images: mean and standard deviation over the sets of seeds. The "
    "way marked as default is sampled with unless <code>--nfe</code> is given. The last rows are controls. A ratio is the "
    "distance by that of the first control with the same seeds."
)
TAILS = (
    "Pixel values of these data have a heavy tail. The tail error is that of the .999 quantile of their distance from the "
    "median, samples by training images less 1, in the worst channel. Of ways whose distance is within 15 % of the least, only "
    "those within 5 % of the least tail error count: the nearest one is chosen, and the cheapest one is the default."
)


def write_tuning_page(path: Path, name: str, result: Mapping[str, Any]) -> Path:
    """Write the page of the run `name`; the file."""
    sections = {}
    for each in result["tables"]:
        kind = "Without guidance" if each["guidance"] == 1 else f"Guidance {each['guidance']:g}"
        searched = "".join(search_chart(each, features) for features in result["features"])
        rows = [_reported(row) for row in [*each["chosen"], *each["controls"]]]
        tails = note(TAILS) if any("tail_errors" in row for row in each["chosen"]) else ""
        sections[kind] = note(REPORTED) + tails + table(rows) + searched + note(SEARCH)
    sections["Protocol"] = pairs(_protocol(result))
    facts = {"step": f"{result['step']:,}", "time to tune": duration(result["seconds"])}
    return write_page(path, f"Sampling: {name}", header("How a run is best sampled", name, _verdict(result), facts), sections)


def _verdict(result: Mapping[str, Any]) -> Verdict:
    """How many evaluations a sample now takes at each guidance, and its distance beside that of the longest control."""
    said, most = [], 0.0
    for each in result["tables"]:
        chosen = next(row for row in each["chosen"] if row["default"])
        kind = "Without guidance" if each["guidance"] == 1 else f"With guidance {each['guidance']:g}"
        sentence = f"{kind}, {chosen['nfe']} network evaluations (NFE) make a sample"
        if each["controls"]:
            control = max(each["controls"], key=lambda row: row["nfe"])
            times = max(_mean(chosen, name) / _mean(control, name) for name in result["features"])
            most = max(most, times)
            sentence += f", at {times:.2f} times the distance from the data that {control['nfe']} of {control['name']} reach"
        said.append(f"{sentence}.")
    return Verdict(said, "good" if most <= CLOSE else "warn")


def _protocol(result: Mapping[str, Any]) -> dict[str, Any]:
    """How the ways were compared."""
    sets = ", ".join(f"{first:,} to {last:,}" for first, last in result["reported"]["seeds"])
    first, last = result["searched"]["seeds"]
    return {
        "checkpoint": result["checkpoint"],
        "distances in the features": result["features"],
        "seeds of the search": f"{first:,} to {last:,}",
        "the search compares with": result["searched"]["compared_with"],
        "fresh seeds": sets,
        "these compared with": result["reported"]["compared_with"],
    }


def _mean(row: Mapping[str, Any], features: str) -> float:
    return statistics.fmean(row["reported"][features])


def search_chart(table: Mapping[str, Any], features: str) -> str:
    """Distances in the search by evaluations, both logarithmic: a curve for each kind of way, the chosen ways and controls."""
    names = list(dict.fromkeys(row["name"] for row in table["candidates"]))
    curves = []
    for place, name in enumerate(names):
        rows = sorted((row for row in table["candidates"] if row["name"] == name), key=lambda row: row["nfe"])
        learned = name.endswith("learned sigmas")  # the way before it, with other sigmas
        curves.append(_curve(name + ", dashed" * learned, rows, features, COLOURS[place % len(COLOURS)], dashed=learned))
    curves.append(_curve("chosen", table["chosen"], features, "ink"))
    curves += [_curve(f"control: {row['name']}, {row['nfe']} NFE", [row], features, "grey") for row in table["controls"]]
    return chart(f"Frechet distance in the search ({features})", curves, frame=BY_NFE)


def _curve(name: str, rows: Sequence[Mapping[str, Any]], features: str, colour: str, *, dashed: bool = False) -> Curve:
    counts, distances = ([row["nfe"] for row in rows], [row["searched"][features] for row in rows])
    return Curve(name, np.array(counts, float), np.array(distances, float), colour, exact=True, dashed=dashed)


def _reported(row: Mapping[str, Any]) -> dict[str, Any]:
    distances = {f"distance ({name})": _spread(values, 2) for name, values in row["reported"].items()}
    distances |= {f"ratio ({name})": _spread(values, 1) for name, values in row.get("ratio", {}).items()}
    if "tail_errors" in row:
        mean, std = (100 * measure(row["tail_errors"]) for measure in (statistics.fmean, statistics.stdev))
        distances["tail error"] = f"{mean:+.1f} ± {std:.1f} %"
    name = f"{row['name']} (default)" if row.get("default") else row["name"]
    sigmas = [] if row["sigma_max"] is None else [row["sigma_max"]]
    return {
        "way": name,
        "evaluations (NFE)": row["nfe"],
        **distances,
        "sigmas": ", ".join(f"{s:.3g}" for s in [*sigmas, *row["sigmas"]]),
    }


def _spread(values: list[float], digits: int) -> str:
    return f"{statistics.fmean(values):.4g} ± {statistics.stdev(values):.{digits}g}"
