"""How a page shows documents of results: single values in boxes, measurements as curves, parts under their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pixelpath.evaluation.held_out import HeldOutRow
from pixelpath.evaluation.histograms import HistogramRow
from pixelpath.evaluation.inception import Inception
from pixelpath.evaluation.memorising import GapRow
from pixelpath.evaluation.probe import ProbeRow
from pixelpath.evaluation.spectrum import SpectrumRow
from pixelpath.reports.measured import histograms_chart, loss_gap_chart, noise_levels_chart, probe_chart, spectrum_chart
from pixelpath.reports.page import boxes, charted, folded, table, text, words
from pixelpath.runs.measuring.verdict import closeness_of

CHARTS = {
    HeldOutRow: noise_levels_chart,
    ProbeRow: probe_chart,
    GapRow: loss_gap_chart,
    SpectrumRow: spectrum_chart,
    HistogramRow: histograms_chart,
}
CURVES = ("spectra", "histograms")  # of pixel values
FOLDED = {
    "sampling",
    "pairs",
    "extremes",
    "neighbours",
    "quantiles",
    "frequent",
}  # parts of a document that say how, or in detail


def in_short(evaluation: Any, *, curves: bool = True) -> Any:
    """An evaluation without held-out losses that stand beside training losses, and with or without its curves."""
    if not isinstance(evaluation, Mapping):
        return evaluation
    found = dict(evaluation)
    found.pop("extremes", None)  # it has a section of its own
    if found.get("loss_gap"):
        found.pop("held_out_loss", None)
    if isinstance(found.get("pixel_values"), Mapping) and not curves:
        found["pixel_values"] = {key: found["pixel_values"][key] for key in found["pixel_values"] if key not in CURVES}
    if isinstance(found.get("copies"), Mapping):
        copies = found["copies"]
        found["copies"] = {**copies, "closeness": [_telling(row) for row in copies["closeness"]]}
        found["copies"] |= {"pairs": [_numbered(row) for row in copies["pairs"]]} if copies.get("pairs") else {}
    if isinstance(found.get("distances"), list):
        found["distances"] = [_named(row) for row in found["distances"]]
    return found


def _telling(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The closeness in one kind of features, without numbers that so few images cannot tell."""
    near = closeness_of(row)
    if near is None or near.telling:
        return row
    return {key: value for key, value in row.items() if not key.startswith(("closer", "below"))}


def _numbered(pair: Mapping[str, Any]) -> Mapping[str, Any]:
    """A pair whose numbers of images are called that, as elsewhere these keys count images."""
    return {f"{key}_number" if key in ("training", "held_out") else key: value for key, value in pair.items()}


def _named(distances: Any) -> Any:
    """Distances in one kind of features; in those of Inception they have names of their own."""
    if not isinstance(distances, Mapping) or distances.get("features") != Inception.name:
        return distances
    return {**distances, "features": f"{Inception.name} (Frechet distance: FID, kernel distance: KID)"}


def tree(document: Any) -> str:
    """Any document: its single values with their protocol, rows of measurements as plots, and its parts under their names."""
    if isinstance(document, Mapping):
        nested = {key: value for key, value in document.items() if _is_nested(value) and key != "protocol"}
        single = {key: value for key, value in document.items() if key not in nested and key != "protocol"}
        parts = [boxes(single, document.get("protocol"))] if single else []
        ordered = sorted(nested.items(), key=lambda item: isinstance(item[1], Mapping))  # measurements before how they were made
        parts += [
            folded(words(key), tree(value)) if key in FOLDED else f"<h3>{words(key)}</h3>{tree(value)}"
            for key, value in ordered
            if value
        ]
        return "\n".join(parts)
    if isinstance(document, list) and all(isinstance(row, Mapping) for row in document):
        for kind, drawn in CHARTS.items():
            if document and all({part.name for part in fields(kind)} <= set(row) for row in document):
                return charted(drawn(document), document)
        flat = all(not _is_nested(value) or key == "protocol" for row in document for key, value in row.items())
        return table(document) if flat else "\n".join(tree(row) for row in document)
    return f"<p>{text(document)}</p>"


def _is_nested(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(part, Mapping) for part in value))
