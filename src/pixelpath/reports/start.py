"""The report of a start: one HTML file in its folder, with its pictures and how to read them.

A *candidate* is one of the starts that were compared, as search.json records it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from pixelpath.errors import MissingError
from pixelpath.reports.page import document_of, duration, figure, header, pairs, table, text, write_page

Record = Mapping[str, Any]

FEW = 8  # values of a list that settings show

PICTURES = {
    "Certificate": (
        "certificate.png",
        "The divergence of each start from the noised data at every noise level, by held-out images. Lower is better. Sampling "
        "begins at the dashed line: the smallest sigma where the chosen start keeps to the budget and has the data's tails, or "
        "the sigma that was given. Strong bands are one standard error. Faint bands reach from the low to the high estimate, and "
        "are wide where the denoiser errs.",
    ),
    "Tails": (
        "tails.png",
        "How far images lie from the median image, quantile by quantile. Where the start has the data's tails, its samples "
        "follow the dashed line. Of samples of the same density, 95 % would lie within the grey band at each place. Rings are "
        "quantiles that can be judged, because at least 20 held-out images lie beyond.",
    ),
    "Side by side": (
        "side-by-side.png",
        "Noised real images should look like samples of the start, and the denoiser's estimates of both should look alike. "
        "They are not the same images: only their kind can be compared.",
    ),
    "Quality": (
        "distance_over_nfe.png",
        "The distance of finished samples from real images by network evaluations (NFE). A start helps where its curve lies "
        "lower or further left. The dashed line is what other real images reach.",
    ),
    "Nearest neighbours": (
        "neighbours.png",
        "How far images are from the nearest training image. If the curve of samples lies far to the left of the curve of "
        "held-out images, training images are repeated.",
    ),
}


def write_start_report(folder: Path) -> Path:
    """Write FOLDER/report.html from search.json, start.json and the pictures there, without what is missing; the file.

    Raises MissingError if there is no such folder, UserError for a JSON file that cannot be read.
    """
    if not folder.is_dir():
        raise MissingError(f"There is no folder {folder}: name the folder of a fitted start.", setting="folder")
    search, saved = _mapping(document_of(folder / "search.json")), _mapping(document_of(folder / "start.json"))
    candidates, chosen = _records(search.get("candidates")), search.get("chosen")
    curves = _records(search.get("quality"))
    pictures = {
        title: figure(folder / name, caption, "plot") for title, (name, caption) in PICTURES.items() if (folder / name).is_file()
    }
    sections = pictures | {
        "Candidates": _table([_candidate(each, chosen) for each in candidates]) + _certificates(candidates),
        "Tail quantiles": _table([_quantile(row) for each in candidates if each.get("name") == chosen for row in _tails(each)]),
        "Left out": pairs(_mapping(search.get("left_out"))),
        "Distances": _table([_point(curve, point) for curve in curves for point in _records(curve.get("points"))]),
        "Nearest training images": _table(
            [{"images": name, **_named(row)} for name, row in _mapping(search.get("neighbours")).items()]
        ),
        "Settings": _settings(search, saved),
    }
    title = f"Start: {folder.resolve().name}"
    return write_page(folder / "report.html", title, _top(title, search, _mapping(saved.get("about"))), sections)


def _top(title: str, search: Record, about: Record) -> str:
    """The choice and what it saves in words, then the main numbers."""
    sentences = [search.get("sentence"), search.get("savings")]
    below = "".join(f"<p>{text(sentence)}</p>" for sentence in sentences if sentence)
    below += "".join(f"<p class='soft'>{text(remark)}</p>" for remark in search.get("remarks") or ())
    index, chosen = _mapping(search.get("index")), search.get("chosen", about.get("name"))
    (candidate,) = [each for each in _records(search.get("candidates")) if each.get("name") == chosen][:1] or [{}]
    metadata = {
        "start": chosen,
        "begins at sigma": search.get("sigma", about.get("sigma")),
        "nats from the noised data": candidate.get("divergence", about.get("divergence")),
        "steps from there": about.get("steps"),
        "tail index of the data": _between(index.get("value"), index.get("error")),
    }
    shown = {name: text(value) for name, value in metadata.items() if value is not None}
    if _is_number(search.get("seconds")):
        shown["time to choose"] = duration(search["seconds"])
    return header(title, below, shown)


def _candidate(candidate: Record, chosen: Any) -> dict[str, Any]:
    name = candidate.get("name")
    judged = [row for row in _tails(candidate) if row.get("certified") and _is_number(row.get("error"))]
    worst = max(judged, key=lambda row: abs(row["error"]), default={})
    remarks = {"not used:": candidate.get("against"), "remark:": candidate.get("remark")}
    row = {
        "start": f"{name} (chosen)" if name == chosen else name,
        "sigma": candidate.get("sigma"),
        "divergence, nats": candidate.get("divergence"),
        "standard error": candidate.get("error"),
        "seconds to fit": candidate.get("seconds"),
        "numbers held": candidate.get("numbers"),
        "worst certified tail, %": _percent(worst.get("error")),
        "of": f"{worst['what']}, {text(worst.get('probability'))}" if "what" in worst else None,
    }
    return row | {"protocol": {key: remark for key, remark in remarks.items() if remark}}


def _certificates(candidates: Sequence[Record]) -> str:
    """The divergences at every noise level, folded away."""
    rows = [
        {"start": each.get("name"), "sigma": row.get("sigma")}
        | {kind: _between(row.get(kind), row.get(f"{kind}_error")) for kind in ("cross", "excess", "direct")}
        | {"of the greatest hundredth, %": _percent(row.get("top"))}
        for each in candidates
        for row in _records(each.get("certificate"))
    ]
    note = "<p class='soft'>Nats, with standard errors: cross is the estimate, excess one too low, direct one too high.</p>"
    return f"<details><summary>Divergences at every noise level</summary>{note}{table(rows)}</details>" if rows else ""


def _quantile(row: Record) -> dict[str, Any]:
    interval = row.get("interval") or (None, None)
    return {
        "of": row.get("what"),
        "quantile": row.get("probability"),
        "held-out images": row.get("held_out"),
        "start samples": row.get("samples"),
        "error, %": _percent(row.get("error")),
        "from": _percent(interval[0]),
        "to (99 %)": _percent(interval[1]),
        "images beyond": row.get("exceedances"),
        "samples beyond": row.get("beyond"),
        "expected": row.get("expected"),
        "certified": row.get("certified"),
    }


def _point(curve: Record, point: Record) -> dict[str, Any]:
    return {
        "curve": curve.get("name"),
        "features": curve.get("features"),
        "steps": point.get("steps"),
        "network evaluations (NFE)": point.get("nfe"),
        "Frechet distance": point.get("frechet"),
        f"of {text(curve['few'])} samples" if "few" in curve else "of few samples": point.get("frechet_of_few"),
        "floor": curve.get("floor"),
    }


def _settings(search: Record, saved: Record) -> str:
    """What the start is, what it was made for, and how it was chosen, without long lists."""
    groups = {"start": saved.get("metadata"), "made for": saved.get("about"), "search": search.get("protocol")}
    parts = [
        f"<section><h3>{name}</h3>{pairs(kept)}</section>"
        for name, group in groups.items()
        if (kept := {key: value for key, value in _mapping(group).items() if not isinstance(value, list) or len(value) <= FEW})
    ]
    return f"<div class='groups'>{''.join(parts)}</div>" if parts else ""


def _table(rows: Sequence[Record]) -> str:
    return table(rows) if rows else ""


def _tails(candidate: Record) -> list[Record]:
    return _records(candidate.get("tails"))


def _named(row: Any) -> dict[str, Any]:
    """The quantiles of a distance by readable names."""
    names = {"least": "least", "q05": "5 % below", "median": "median"}
    return {names.get(key, key): value for key, value in _mapping(row).items()}


def _between(value: Any, error: Any) -> str | None:
    """A number with its error, where it has one."""
    if not _is_number(value):
        return None
    return f"{value:.3g} ± {error:.1g}" if _is_number(error) else f"{value:.3g}"


def _percent(value: Any) -> float | None:
    return round(100 * value, 1) if _is_number(value) else None


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _records(value: Any) -> list[Record]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list | tuple) else []
