"""The page of a tuned run: which ways to sample were compared, which were chosen, and how far from the data they are.

A *result*, *table* and *row* are those of RUN/sampling.json (pixelpath.runs.tuned).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pixelpath.reports.page import embedded, header, note, pairs, table, text, write_page
from pixelpath.reports.pictures import GREY, MARKS, blank, colours, logarithmic, rendered, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDEST = 1440  # pixels across, of a plot
SEARCH = (
    "The distance of every way to sample that was compared, by network evaluations (NFE). Rings mark the chosen ways. These are "
    "numbers of the search: the lowest of many is lower than it would be again. Fresh seeds are in the table above."
)
REPORTED = (
    "Frechet distances of samples of fresh seeds from training images: mean and standard deviation over the sets of seeds. The "
    "way marked as default is sampled with unless `nfe` is given. The last rows are controls. A ratio is the distance by "
    "that of the first control with the same seeds."
)


def write_tuning_page(path: Path, name: str, result: Mapping[str, Any]) -> Path:
    """Write the page of the run `name`; the file."""
    sections = {}
    for each in result["tables"]:
        kind = "Without guidance" if each["guidance"] == 1 else f"Guidance {each['guidance']:g}"
        plots = "".join(embedded(rendered(search_plot(each, kind)), "plot", WIDEST, "search") for kind in result["features"])
        rows = [_reported(row) for row in [*each["chosen"], *each["controls"]]]
        sections[kind] = note(REPORTED) + table(rows) + plots + note(SEARCH)
    sections["Protocol"] = pairs({key: result[key] for key in ("checkpoint", "features", "searched", "reported", "seconds")})
    title = f"Sampling: {name}"
    return write_page(path, title, header(title, "", {"step": text(result["step"])}), sections)


def search_plot(table: Mapping[str, Any], features: str) -> Figure:
    """Distances in the search against evaluations, both logarithmic: a colour and mark for each kind of way."""
    names = list(dict.fromkeys(row["name"] for row in table["candidates"]))
    figure = blank(3.6 + 0.2 * (len(names) + len(table["controls"])))  # names are long: one a line
    axes = figure.add_subplot()
    for place, name in enumerate(names):
        rows = sorted((row for row in table["candidates"] if row["name"] == name), key=lambda row: row["nfe"])
        counts, distances = [row["nfe"] for row in rows], [row["searched"][features] for row in rows]
        style = MARKS[place // len(colours()) % len(MARKS)] + ("-" if len(rows) > 1 else "")
        axes.plot(counts, distances, style, color=colours()[place % len(colours())], markersize=4, linewidth=1, label=name)
    chosen = table["chosen"]
    rings = [row["nfe"] for row in chosen], [row["searched"][features] for row in chosen]
    axes.plot(*rings, "o", color="black", markersize=10, fillstyle="none", label="chosen")
    for row in table["controls"]:
        axes.plot(row["nfe"], row["searched"][features], "x", color=GREY, label=f"control: {row['name']}, {row['nfe']} NFE")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set(xlabel="network evaluations (NFE)", ylabel=f"Frechet distance ({features})")
    logarithmic(axes, np.array([row["searched"][features] for row in [*table["candidates"], *table["controls"]]]))
    return styled(figure, columns=1)


def _reported(row: Mapping[str, Any]) -> dict[str, Any]:
    distances = {f"distance ({name})": _spread(values, 2) for name, values in row["reported"].items()}
    distances |= {f"ratio ({name})": _spread(values, 1) for name, values in row.get("ratio", {}).items()}
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
