"""The report of a run: one page of what the run's folder holds.

A section is empty, and so left out, where the run has nothing to say about it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from pixelpath.atomic import leaves
from pixelpath.errors import MissingError
from pixelpath.recipes import RECIPES
from pixelpath.recipes.recipe import to_json
from pixelpath.reports.charts import training_charts
from pixelpath.reports.cost import cost_table
from pixelpath.reports.measured import distance_chart
from pixelpath.reports.page import (
    Verdict,
    boxes,
    charted,
    document_of,
    duration,
    figure,
    folded,
    groups,
    header,
    note,
    pairs,
    protocol_line,
    table,
    text,
    write_page,
)
from pixelpath.reports.pictures import save_png, series, skipped_steps, training_curves
from pixelpath.reports.tiles import tiles
from pixelpath.runs.cost_card import cost_rows
from pixelpath.runs.folder import samples_of_fit
from pixelpath.runs.measuring.report_results import in_short, tree
from pixelpath.runs.measuring.verdict import level, training_verdict, verdict
from pixelpath.runs.sharing.bundled import check_writable
from pixelpath.runs.titles import objective_of
from pixelpath.trainer.journal import lines

SHOWN = 9  # previews in the strip, at most
STRIP = 1000  # pixels across, of a picture in the strip
STAGES = {
    "RepresentationLearning": "Stage one: representation learning",
    "Denoising": "Stage two: diffusion",
    "Consistency": "Stage two: one step (consistency)",
    "Distillation": "Stage two: one step (distillation of a diffusion run)",
}
EXTREMES = (
    "Samples at the ends of what the run makes, beside real images at the ends of the data. Values of real images are those of "
    "as many as there are samples, evenly chosen."
)
HOW = ("seeds", "sampler", "steps", "nfe", "guidance", "start", "units")  # what stands below samples
FILES = {
    "recipe.json": "every setting of the run",
    "origin.json": "the runs whose weights it began with",
    "environment.json": "versions and devices",
    "metrics.jsonl": "measurements during training, one JSON object a line",
    "curves.png": "training curves",
    "evaluation.json": "distances and held-out losses with their protocols",
    "held_out.png": "training and held-out loss by noise level",
    "extremes.png": "the tiles of the section Extremes",
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
    "report.html": "this report",
    "checkpoints": "weights, their EMA and the optimizer, to resume from or to sample with",
    "previews": "images made during training",
    "samples": "images made with the run",
}


def write_report(run: Path) -> Path:
    """Write RUN/report.html (and RUN/curves.png) from what the run's folder holds; the file.

    Samples of a fit are also looked for beside its runs. Raises MissingError if there is no such folder, UserError for a JSON
    file that cannot be read.
    """
    check_writable(run)
    if not run.is_dir():
        raise MissingError(f"There is no folder {run}: name the folder of a run.", setting="run")
    sections = {
        "Samples": _samples(run),
        "Views": _views(run),
        "Results": _results(run),
        "Extremes": _extremes(run),
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
    stage = STAGES.get(objective_of(recipe), "")
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
    return header(stage or "Run", _name(run), _verdict(run, rows, recipe.get("steps")), metadata)


def _verdict(run: Path, rows: Sequence[Mapping[str, Any]], steps: int | None) -> Verdict:
    """What the newest evaluation says in words; without one how training went, and how to evaluate it."""
    measured = document_of(run / "evaluation.json")
    newest = measured[-1] if isinstance(measured, list) and measured else measured
    if isinstance(newest, Mapping):
        return Verdict(verdict(newest), level(newest))
    said = training_verdict(rows, steps)
    alarmed = "warn" if rows and rows[-1].get("alarms") else ""
    if not said or _objective(run) == "RepresentationLearning":
        return Verdict(said, alarmed)
    ask = f"How good its samples are has not been measured yet: `pixelpath evaluate {shlex.quote(str(run))}` tells."
    return Verdict([*said, ask], alarmed)


def _samples(run: Path) -> str:
    """The newest grid of samples with the settings that made it; without one the last preview."""
    folders = filter(None, (run / "samples", samples_of_fit(run)))
    made = [path for folder in folders for path in folder.rglob("grid.png")]
    if made:
        made.sort(key=lambda path: path.stat().st_mtime)
        settings = document_of(made[-1].with_name("samples.json")) or {}
        made_by = {key: settings[key] for key in HOW if settings.get(key) not in (None, "")}
        others = {key: value for key, value in settings.items() if not isinstance(value, list) or len(value) <= 2}
        caption = protocol_line({"file": os.path.relpath(made[-1], run), **made_by})
        return figure(made[-1], caption) + (folded("How they were made", boxes(others)) if others else "")
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
    """The newest curves and evaluation, and the earlier ones folded away."""
    measured = document_of(run / "evaluation.json")
    drawn = [_over_nfe(result["curves"]) for result in reversed(document_of(run / "distance_over_nfe.json") or [])]
    parts = [f"<h3>Distance over network evaluations (NFE)</h3>{content}" for content in drawn[:1]]
    parts += [folded("Earlier curves", content) for content in drawn[1:]]
    evaluations = measured if isinstance(measured, list) else [measured] if measured else []
    for place, evaluation in enumerate(reversed(evaluations)):
        step = f" of step {text(evaluation['step'])}" if isinstance(evaluation, Mapping) and "step" in evaluation else ""
        if place == 0:
            parts.append(f"<h3>Evaluation{step}</h3>{tree(in_short(evaluation))}{_nearest(run)}")
        else:
            parts.append(folded(f"Earlier evaluation{step}", tree(in_short(evaluation, curves=False))))
    return "\n".join(parts)


def _nearest(run: Path) -> str:
    """The pairs of the newest evaluation that looked for copies."""
    caption = (
        "Nearest relative to how near held-out images come, the nearest first. Below each stands its nearest "
        "training image, and below that its nearest held-out image, where images were held out."
    )
    title = "<h3>The samples nearest to training images</h3>"
    return title + figure(run / "nearest.png", caption) if (run / "nearest.png").is_file() else ""


def _extremes(run: Path) -> str:
    """The sheet of extremes of the newest evaluation."""
    found = document_of(run / "evaluation.json")
    newest = found[-1] if isinstance(found, list) and found else {}
    if not newest.get("extremes") or not (run / "extremes.png").is_file():
        return ""
    with Image.open(run / "extremes.png") as drawn:
        return note(EXTREMES) + tiles(newest["extremes"], drawn)


def _over_nfe(found: Sequence[Mapping[str, Any]]) -> str:
    """Curves measured together: their plot, and a table of their points with the protocol of each curve."""
    words = "Each point is the same seeds sampled with another number of steps. The dashed line is what other real images reach."
    rows = [
        {"curve": curve["name"], "features": curve["features"], **point, "floor": curve["floor"]}
        | ({"protocol": curve["protocol"]} if point is curve["points"][-1] else {})
        for curve in found
        for point in curve["points"]
    ]
    return note(words) + charted(distance_chart(found), rows)


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
        f"<tr><td style='white-space: nowrap'><a href='{quote(path.name)}{'/' if path.is_dir() else ''}'>"
        f"<code>{text(path.name)}</code></a></td>"
        f"<td class='number'>{_size(path)}</td><td>{FILES.get(path.name, '')}</td></tr>"
        for path in found
        if path.name != "report.html"
    ]
    return f"<table><tbody>{''.join(rows)}</tbody></table>" if rows else ""


def _objective(run: Path) -> str:
    return objective_of(document_of(run / "recipe.json") or {})


def _preview_files(run: Path) -> list[Path]:
    return sorted((path for path in (run / "previews").glob("step-*.png") if path.stem[5:].isdigit()), key=_step)


def _step(preview: Path) -> int:
    return int(preview.stem[5:])


def _size(path: Path) -> str:
    """The bytes of a file, or of all files in a folder."""
    size = float(sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size)
    power = min(4, (len(f"{size:.0f}") - 1) // 3)
    return f"{size / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
