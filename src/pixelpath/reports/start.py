"""The report of a start: one HTML file in its folder, with its pictures and how to read them.

A *candidate* is one of the starts that were compared, as search.json records it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import stdev
from typing import Any

from pixelpath.reports.measured import distance_chart
from pixelpath.reports.page import (
    Verdict,
    document_of,
    duration,
    figure,
    folded,
    groups,
    header,
    note,
    pairs,
    table,
    text,
    write_page,
)
from pixelpath.reports.start_charts import certificate_chart, neighbours_chart, tails_chart

Record = Mapping[str, Any]

FEW = 8  # values of a list that settings show
NAMES = {"least": "least", "q05": "5 % below", "median": "median"}  # of the quantiles of a distance
NATS = (
    "Nats. At most: the upper 95 % limit of cross. Cross is the estimate, excess one too low, direct one too high, each with its "
    "standard error."
)

QUALITY = (
    "The distance of finished samples from real images by network evaluations (NFE). A start helps where its curve lies lower or "
    "further left. The dashed line is what other real images reach. Every point is the mean of three sets of seeds."
)
CERTIFICATE = (
    "The divergence of each start from the noised data at every noise level, by the choosing half of the held-out images. Lower "
    "is better. Sampling begins at the upright line: the smallest sigma where the chosen start keeps to the budget in both "
    "halves and has the data's tails, or the sigma that was given. Bands end at the upper 95 % limit. The grey band reaches from "
    "the low to the high estimate of the chosen start, and is wide where the denoiser errs."
)
TAILS = (
    "How far images lie from the median image, quantile by quantile. Where the start has the data's tails, its samples follow "
    "the dashed line. Of samples of the same density, 95 % would lie within the grey band at each place. Quantiles can be judged "
    "where at least 20 held-out images lie beyond."
)
IMAGES = (
    "Noised real images should look like samples of the start, and the denoiser's estimates of both should look alike. They are "
    "not the same images: only their kind can be compared."
)
NEIGHBOURS = (
    "How far images are from the nearest training image. If the curve of samples lies far to the left of the curve of held-out "
    "images, training images are repeated."
)


def write_start_report(folder: Path) -> Path:
    """Write FOLDER/report.html from search.json and start.json, and from the pictures that are there; the file."""
    search, saved = (document_of(folder / f"{name}.json") for name in ("search", "start"))
    candidates, chosen = search["candidates"], search["chosen"]
    (best,) = [each for each in candidates if each["name"] == chosen]
    rows = [_divergence(each["name"], row) for each in candidates for row in each["certificate"] or ()]
    picture, bound = folder / "side-by-side.png", search["budget"]
    charts = {
        "Certificate": (certificate_chart(candidates, chosen, search["sigma"], bound), CERTIFICATE),
        "Tails": (tails_chart(search["radii"], chosen), TAILS),
        "Side by side": (figure(picture, IMAGES, "sheet") if picture.is_file() else "", ""),
        "Nearest neighbours": (neighbours_chart(search["neighbours"]), NEIGHBOURS),
    }
    sections = {"Quality": (distance_chart(search["quality"]) + note(QUALITY)) if search["quality"] else ""}
    sections |= {title: drawn + (note(words) if words else "") for title, (drawn, words) in charts.items() if drawn}
    sections |= {
        "Candidates": table([_candidate(each, chosen) for each in candidates])
        + (folded("Divergences at every noise level", note(NATS) + table(rows)) if rows else ""),
        "Tail quantiles": table([_quantile(row) for row in best["tails"] or ()]),
        "Left out": pairs(search["left_out"]),
        "Distances": table([_point(curve, point) for curve in search["quality"] for point in curve["points"]]),
        "Nearest training images": table(
            [
                {"images": name, **{NAMES[key]: value for key, value in distances.items() if key in NAMES}}
                for name, distances in search["neighbours"].items()
            ]
        ),
        "Settings": folded("All settings", groups({"start": _short(saved["metadata"]), "made for": _short(saved["about"])})),
    }
    name = folder.resolve().name
    return write_page(folder / "report.html", f"Start: {name}", _top(name, search, saved["about"]), sections)


def _top(name: str, search: Record, about: Record) -> str:
    """The choice and what it saves in words, then the main numbers."""
    verdict = Verdict([search["verdict"], search["sentence"], search["savings"]], "good" if search["pays"] else "warn")
    remarks = "".join(note(text(remark)) for remark in search["remarks"])
    index = search["index"]
    metadata = {
        "start": search["chosen"],
        "begins at sigma": search["sigma"],
        "nats from the noised data, at most": None if search["bound"] is None else search["bound"]["limit"],
        "noise alone would begin at sigma": search["cold"],
        "steps from there": about["steps"],
        "tail index of the data": None if index is None else _with_error(index["value"], index["error"]),
    }
    shown = {name: text(value) for name, value in metadata.items() if value is not None}
    facts = shown | {"time to choose": duration(search["seconds"])}
    return header("Start for sampling in fewer steps", f"Start {name}", verdict, facts, remarks)


def _candidate(candidate: Record, chosen: str) -> dict[str, Any]:
    name = candidate["name"]
    judged = [row for row in candidate["tails"] or () if row["certified"]]
    worst = max(judged, key=lambda row: abs(row["error"]), default=None)
    remarks = {"not used:": candidate["against"], "remark:": candidate["remark"]}
    return {
        "start": f"{name} (chosen)" if name == chosen else name,
        "sigma": candidate["sigma"],
        "divergence at most, nats": candidate["limit"],
        "estimate": candidate["divergence"],
        "standard error": candidate["error"],
        "seconds to fit": candidate["seconds"],
        "numbers held": candidate["numbers"],
        "worst certified tail, %": None if worst is None else _percent(worst["error"]),
        "of": None if worst is None else f"{worst['what']}, {text(worst['probability'])}",
        "remarks": {key: remark for key, remark in remarks.items() if remark},
    }


def _divergence(name: str, row: Record) -> dict[str, Any]:
    """The divergence of a candidate at one noise level."""
    estimates = {kind: _with_error(row[kind], row[f"{kind}_error"]) for kind in ("cross", "excess", "direct")}
    return {
        "start": name,
        "sigma": row["sigma"],
        "at most": row["limit"],
        **estimates,
        "of the greatest hundredth, %": _percent(row["top"]),
    }


def _quantile(row: Record) -> dict[str, Any]:
    return {
        "of": row["what"],
        "quantile": row["probability"],
        "held-out images": row["held_out"],
        "start samples": row["samples"],
        "error, %": _percent(row["error"]),
        "from": _percent(row["interval"][0]),
        "to (99 %)": _percent(row["interval"][1]),
        "not seen from, %": _percent(row["detectable"][0]),
        "not seen to, %": _percent(row["detectable"][1]),
        "images beyond": row["exceedances"],
        "samples beyond": row["beyond"],
        "expected": row["expected"],
        "certified": row["certified"],
    }


def _point(curve: Record, point: Record) -> dict[str, Any]:
    return {
        "curve": curve["name"],
        "features": curve["features"],
        "steps": point["steps"],
        "network evaluations (NFE)": point["nfe"],
        f"Frechet distance of {text(curve['few'])} samples": _with_error(point["frechet"], stdev(point["distances"])),
        "sets of seeds": len(point["distances"]),
        "floor": curve["floor"],
    }


def _short(group: Record) -> dict[str, Any]:
    """The values that are no long lists."""
    return {key: value for key, value in group.items() if not isinstance(value, list) or len(value) <= FEW}


def _with_error(value: float, error: float) -> str:
    return f"{value:.3g} ± {error:.1g}"


def _percent(value: float) -> float:
    return round(100 * value, 1)
