"""The report of a run: one page of what the run's folder holds.

A section is empty, and so left out, where the run has nothing to say about it.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pixelpath.atomic import leaves
from pixelpath.errors import MissingError
from pixelpath.evaluation.held_out import HeldOutRow
from pixelpath.evaluation.histograms import HistogramRow
from pixelpath.evaluation.inception import Inception
from pixelpath.evaluation.memorising import GapRow
from pixelpath.evaluation.probe import ProbeRow
from pixelpath.evaluation.spectrum import SpectrumRow
from pixelpath.recipes import RECIPES
from pixelpath.recipes.recipe import to_json
from pixelpath.reports.charts import training_charts
from pixelpath.reports.cost import cost_table
from pixelpath.reports.evaluation import histograms_plot, loss_gap_plot, spectrum_plot
from pixelpath.reports.page import (
    boxes,
    document_of,
    duration,
    figure,
    folded,
    groups,
    header,
    note,
    pairs,
    plot,
    protocol_line,
    table,
    text,
    words,
    write_page,
)
from pixelpath.reports.pictures import (
    distance_over_nfe,
    noise_levels_plot,
    probe_plot,
    save_png,
    series,
    skipped_steps,
    training_curves,
)
from pixelpath.reports.quickstart import comparison
from pixelpath.runs.bundled import check_writable
from pixelpath.runs.cost_card import cost_rows
from pixelpath.runs.verdict import closeness_of, training_verdict, verdict
from pixelpath.trainer.journal import lines

SHOWN = 9  # previews in the strip, at most
STRIP = 1000  # pixels across, of a picture in the strip
STAGES = {
    "RepresentationLearning": "Stage one: representation learning",
    "Denoising": "Stage two: diffusion",
    "Consistency": "Stage two: one step (consistency)",
}
PLOTS = {
    HeldOutRow: noise_levels_plot,
    ProbeRow: probe_plot,
    GapRow: loss_gap_plot,
    SpectrumRow: spectrum_plot,
    HistogramRow: histograms_plot,
}
CURVES = ("spectra", "histograms")  # of pixel values
FOLDED = {"sampling", "pairs", "neighbours", "quantiles", "frequent"}  # parts of a document that say how, or in detail
OPEN = 30  # numbers below a plot, at most, that are not folded away
FILES = {
    "recipe.json": "every setting of the run",
    "origin.json": "the runs whose weights it began with",
    "environment.json": "versions and devices",
    "metrics.jsonl": "measurements during training, one JSON object a line",
    "curves.png": "training curves",
    "evaluation.json": "distances and held-out losses with their protocols",
    "held_out.png": "training and held-out loss by noise level",
    "nearest.png": "the samples nearest to training images",
    "spectrum.png": "power by frequency, of samples and real images",
    "histograms.png": "values of samples and real images",
    "distance_over_nfe.json": "distances by network evaluations (NFE), of this run and of those measured with it",
    "distance_over_nfe.png": "the newest of them as a plot",
    "probe.json": "accuracy of the encoder's features by noise level",
    "probe.png": "the same as a plot",
    "divergences.json": "when training diverged and went back to a checkpoint",
    "encoder": "the encoder whose features the loss compares",
    "sampling.json": "how the run was tuned to be sampled, and everything that was compared",
    "tuning.html": "the newest of it as a page",
    "starts": "fitted starts for sampling in fewer steps",
    "quickstart.json": "the numbers of the quickstart",
    "report.html": "this report",
    "checkpoints": "weights, their EMA and the optimizer, to resume from or to sample with",
    "previews": "images made during training",
    "samples": "images made with the run",
}


def write_report(run: Path) -> Path:
    """Write RUN/report.html (and RUN/curves.png) from what the run's folder holds; the file.

    Numbers of a quickstart are also looked for beside a stage-two run. Raises MissingError if there is no such folder, UserError
    for a JSON file that cannot be read.
    """
    check_writable(run)
    if not run.is_dir():
        raise MissingError(f"There is no folder {run}: name the folder of a run.", setting="run")
    sections = {
        "Samples": _samples(run),
        "Views": _views(run),
        "Results": _results(run),
        "Features": _features(run),
        "Training": _training(run),
        "Previews": _previews(run),
        "Settings": _settings(run),
        "Cost": cost_table(cost_rows(run)),
        "Environment": _environment(run),
        "Files": _files(run),
    }
    return write_page(run / "report.html", _name(run), _header(run), sections)


def is_reported(run: Path) -> bool:
    """Whether the run has a report that is newer than its last checkpoint."""
    newest, page = max(run.glob("checkpoints/step-*/state.json"), default=None), run / "report.html"
    return page.exists() and (newest is None or page.stat().st_mtime >= newest.stat().st_mtime)


def _name(run: Path) -> str:
    return f"{(document_of(run / 'recipe.json') or {}).get('name', 'Run')}: {run.resolve().name}"


def _header(run: Path) -> str:
    """What was run, and its main numbers."""
    recipe = document_of(run / "recipe.json") or {}
    stage = STAGES.get(_objective(run), "")
    rows = lines(run)
    metadata: dict[str, str] = {}
    if rows:
        last, total = rows[-1]["step"], recipe.get("steps")
        metadata["steps"] = f"{last:,}" + (f" of {total:,}" if isinstance(total, int) and total > last else "")
    for key, name, spelled in (
        ("seconds", "training time", duration),
        ("images_per_second", "images per second", lambda value: f"{value:,.0f}"),
        ("memory_bytes", "peak memory", lambda value: f"{value / 2**30:.2f} GiB"),
        ("loss", "loss", text),
        ("held_out_loss", "held-out loss", text),
    ):
        values = series(rows, key)[1]
        if len(values):
            metadata[name] = spelled(float(values[-1]))
    said = "".join(f"<p class='verdict'>{text(sentence)}</p>" for sentence in _verdict(run, rows, recipe.get("steps")))
    return header(_name(run), said + note(stage), metadata)


def _verdict(run: Path, rows: Sequence[Mapping[str, Any]], steps: int | None) -> list[str]:
    """What the newest evaluation says in words; without one how training went, and how to evaluate it."""
    measured = document_of(run / "evaluation.json")
    newest = measured[-1] if isinstance(measured, list) and measured else measured
    if isinstance(newest, Mapping):
        return verdict(newest)
    said = training_verdict(rows, steps)
    if not said or _objective(run) == "RepresentationLearning":
        return said
    return [*said, f"How good its samples are has not been measured yet: pixelpath evaluate {shlex.quote(str(run))}"]


def _samples(run: Path) -> str:
    """The newest grid of samples with the settings that made it; without one the last preview."""
    made = sorted((run / "samples").rglob("grid.png"), key=lambda path: path.stat().st_mtime)
    if made:
        settings = document_of(made[-1].with_name("samples.json")) or {}
        short = {key: value for key, value in settings.items() if not isinstance(value, list) or len(value) <= 2}
        return figure(made[-1], protocol_line({"file": made[-1].relative_to(run).as_posix(), **short}))
    one_step = _objective(run) == "Consistency"
    beside = run.parent / ("samples-one-step.png" if one_step else "samples.png")
    if _quickstart(run) and beside.exists():
        kind = "One-step" if one_step else "Guided"
        return figure(beside, f"{kind} samples of the quickstart, seeds in order from 0, classes in turn.")
    steps = _preview_files(run)
    if steps:
        caption = f"The preview of step {_step(steps[-1]):,}: fixed seeds, sampled with the EMA of the weights."
        return figure(steps[-1], caption)
    return ""


def _views(run: Path) -> str:
    views = run / "previews" / "views.png"
    caption = "Training images, and below them two views of each. The encoder learns to tell which views belong together."
    return figure(views, caption) if views.exists() else ""


def _results(run: Path) -> str:
    """The quickstart's numbers, the newest curves and evaluation, and the earlier ones folded away."""
    quick, measured = _quickstart(run), document_of(run / "evaluation.json")
    compared = comparison(quick) if quick else ""
    parts = [f"<h3>Quickstart</h3>{compared}{folded('All numbers', tree(quick), shown=not compared)}"] if quick else []
    drawn = [_over_nfe(result["curves"]) for result in reversed(document_of(run / "distance_over_nfe.json") or [])]
    parts += [f"<h3>Distance over network evaluations (NFE)</h3>{content}" for content in drawn[:1]]
    parts += [folded("Earlier curves", content) for content in drawn[1:]]
    evaluations = measured if isinstance(measured, list) else [measured] if measured else []
    for place, evaluation in enumerate(reversed(evaluations)):
        step = f" of step {text(evaluation['step'])}" if isinstance(evaluation, Mapping) and "step" in evaluation else ""
        if place == 0:
            parts.append(f"<h3>Evaluation{step}</h3>{tree(in_short(evaluation))}{_nearest(run)}")
        else:
            parts.append(folded(f"Earlier evaluation{step}", tree(in_short(evaluation, curves=False))))
    return "\n".join(parts)


def in_short(evaluation: Any, *, curves: bool = True) -> Any:
    """An evaluation without held-out losses that stand beside training losses, and with or without its curves."""
    if not isinstance(evaluation, Mapping):
        return evaluation
    found = dict(evaluation)
    if found.get("loss_gap"):
        found.pop("held_out_loss", None)
    if isinstance(found.get("pixel_values"), Mapping) and not curves:
        found["pixel_values"] = {key: found["pixel_values"][key] for key in found["pixel_values"] if key not in CURVES}
    if isinstance(found.get("copies"), Mapping):
        found["copies"] = {**found["copies"], "closeness": [_telling(row) for row in found["copies"]["closeness"]]}
    if isinstance(found.get("distances"), list):
        found["distances"] = [_named(row) for row in found["distances"]]
    return found


def _telling(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The closeness in one kind of features, without numbers that so few images cannot tell."""
    near = closeness_of(row)
    if near is None or near.telling:
        return row
    return {key: value for key, value in row.items() if not key.startswith(("closer", "below"))}


def _named(distances: Any) -> Any:
    """Distances in one kind of features; in those of Inception they have names of their own."""
    if not isinstance(distances, Mapping) or distances.get("features") != Inception.name:
        return distances
    return {**distances, "features": f"{Inception.name} (Frechet distance: FID, kernel distance: KID)"}


def _nearest(run: Path) -> str:
    """The pairs of the newest evaluation that looked for copies."""
    caption = (
        "The samples nearest to training images, relative to how near held-out images come. Below each stands its nearest "
        "training image, and below that its nearest held-out image, where images were held out."
    )
    return figure(run / "nearest.png", caption) if (run / "nearest.png").is_file() else ""


def _over_nfe(found: Sequence[Mapping[str, Any]]) -> str:
    """Curves measured together: their plot, and a table of their points with the protocol of each curve."""
    words = "Each point is the same seeds sampled with another number of steps. The dashed line is what other real images reach."
    rows = [
        {"curve": curve["name"], "features": curve["features"], **point, "floor": curve["floor"]}
        | ({"protocol": curve["protocol"]} if point is curve["points"][-1] else {})
        for curve in found
        for point in curve["points"]
    ]
    return note(words) + plot(distance_over_nfe(found), rows)


def _features(run: Path) -> str:
    document = document_of(run / "probe.json")
    words = "Accuracy of classes predicted from frozen features of noisy held-out images."
    return note(words) + tree(document) if document else ""


def _training(run: Path) -> str:
    rows = lines(run)
    if not rows:
        return ""
    caption = (
        "Faint: as measured. Strong: smoothed. The held-out loss is that of the EMA of the weights. The pointer tells values; "
        "the same as a picture: <a href='curves.png'>curves.png</a>."
    )
    odd = [(step, "skipped: its loss or gradient was not finite") for step in skipped_steps(rows)] + _alarms(rows)
    listed = "".join(
        f"<tr><td class='number'>{step:,}</td><td class='bad'>{text(what)}</td></tr>" for step, what in sorted(odd)[:200]
    )
    head = "<h3>Alarms and skipped steps</h3><table><thead><tr><th class='number'>step</th><th>what</th></tr></thead>"
    save_png(run / "curves.png", training_curves(rows))
    return training_charts(rows) + note(caption) + (f"{head}<tbody>{listed}</tbody></table>" if odd else "")


def _alarms(rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
    """Each alarm at the step where it was first raised; alarms that differ only in numbers count as one."""
    kinds: dict[str, list[tuple[int, str]]] = {}
    for row in rows:
        for alarm in row.get("alarms") or ():
            kinds.setdefault(re.sub(r"[\d.]+", "", alarm), []).append((row["step"], alarm))
    return [
        (found[0][0], found[0][1] + (f" (last at step {found[-1][0]:,})" if len(found) > 1 else "")) for found in kinds.values()
    ]


def _previews(run: Path) -> str:
    """Up to nine previews, evenly spread from the first to the last."""
    found = _preview_files(run)
    if len(found) < 2:
        return ""
    count = min(SHOWN, len(found))
    chosen = [found[round(place * (len(found) - 1) / (count - 1))] for place in range(count)]
    strip = "".join(figure(path, f"step {_step(path):,}", widest=STRIP) for path in chosen)
    return note("The same seeds at every step.") + f"<div class='strip'>{strip}</div>"


def _settings(run: Path) -> str:
    """What differs from the recipe of this name, and everything folded away."""
    recipe = document_of(run / "recipe.json")
    if not recipe:
        return ""
    plain = {key: value for key, value in recipe.items() if not isinstance(value, Mapping)}
    nested = {key: value for key, value in recipe.items() if isinstance(value, Mapping)}
    every = folded("All settings", groups({"run": plain, **nested, "origin": document_of(run / "origin.json") or {}}))
    if recipe.get("name") not in RECIPES:
        return every
    usual = dict(leaves(json.loads(to_json(RECIPES[recipe["name"]]()))))
    rows = [
        {"setting": key, "here": value, "in the recipe": usual.get(key)}
        for key, value in leaves(recipe)
        if value != usual.get(key)
    ]
    return (table(rows) if rows else note("All settings are those of the recipe.")) + every


def _environment(run: Path) -> str:
    known = document_of(run / "environment.json")
    return folded("Versions and devices", pairs(known)) if known else ""


def _files(run: Path) -> str:
    """The files in the folder with their sizes; names that start with a dot are unfinished and left out."""
    found = sorted(path for path in run.iterdir() if not path.name.startswith("."))
    rows = [
        f"<tr><td><a href='{quote(path.name)}{'/' if path.is_dir() else ''}'><code>{text(path.name)}</code></a></td>"
        f"<td class='number'>{_size(path)}</td><td>{FILES.get(path.name, '')}</td></tr>"
        for path in found
        if path.name != "report.html"
    ]
    return f"<table><tbody>{''.join(rows)}</tbody></table>" if rows else ""


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
        for kind, drawn in PLOTS.items():
            if document and all({part.name for part in fields(kind)} <= set(row) for row in document):
                return plot(drawn(document), document, shown=len(document) <= OPEN)
        flat = all(not _is_nested(value) or key == "protocol" for row in document for key, value in row.items())
        return table(document) if flat else "\n".join(tree(row) for row in document)
    return f"<p>{text(document)}</p>"


def _is_nested(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(part, Mapping) for part in value))


def _objective(run: Path) -> str:
    recipe = document_of(run / "recipe.json") or {}
    return (recipe.get("objective") or {}).get("type", "")


def _quickstart(run: Path) -> Any:
    """The numbers of a quickstart in the run's folder, or beside a run that is not its stage one."""
    beside = None if _objective(run) == "RepresentationLearning" else document_of(run.resolve().parent / "quickstart.json")
    return document_of(run / "quickstart.json") or beside


def _preview_files(run: Path) -> list[Path]:
    return sorted((path for path in (run / "previews").glob("step-*.png") if path.stem[5:].isdigit()), key=_step)


def _step(preview: Path) -> int:
    return int(preview.stem[5:])


def _size(path: Path) -> str:
    """The bytes of a file, or of all files in a folder."""
    size = float(sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size)
    power = min(4, (len(f"{size:.0f}") - 1) // 3)
    return f"{size / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
