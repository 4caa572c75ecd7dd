"""What an audit leaves: audit.json for programs, report.html and pictures for people.

*Typical* images are evenly chosen, *extreme* ones have the largest or smallest value or mean of all, in deviations of their
channel, *unusual* ones are farthest from their nearest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from pixelpath.atomic import whole
from pixelpath.data.settings import DataSettings
from pixelpath.data.sources import evenly, gather, labels
from pixelpath.evaluation.alike import NEAR, Pair
from pixelpath.evaluation.histograms import drawn_edges, shares
from pixelpath.recipes.recipe import Recipe
from pixelpath.reports.display import grid
from pixelpath.reports.page import duration, figure, header, pairs, table, text, write_page
from pixelpath.reports.pictures import BLUE, ORANGE, blank, logarithmic, rendered, save_png
from pixelpath.runs.audit_findings import Finding, Seen, Side, medians, ordered, status
from pixelpath.runs.cost import Cost

TYPICAL, EXTREME, SHOWN_PAIRS = 32, 8, 8
WIDE = 1000  # pixels across, that the images of a row should not exceed
ACROSS = 6  # channels up to which each has a column of the table, instead of a row
DRAWN = 12  # channels of which histograms are drawn
HEAVY = 30.0  # a share so many times the median one makes the others invisible on a linear axis

CAPTIONS = {
    "typical.png": "Evenly chosen training images.",
    "highest.png": "The training images with the highest values, the highest first.",
    "lowest.png": "The training images with the lowest values, the lowest first.",
    "largest-mean.png": "The training images with the largest means.",
    "smallest-mean.png": "The training images with the smallest means.",
    "unusual.png": "The training images farthest from their nearest training image.",
    "damaged.png": "Images with NaN or infinite values.",
    "nearest.png": "Pairs of training images that are nearly (or exactly) the same, one above the other, the nearest first.",
    "leaked.png": "Held-out images, and below each the training image that is nearly (or exactly) the same.",
    "histograms.png": "How often values occur, channel by channel: training (filled) and held-out images (line).",
}


def write_audit(
    folder: Path,
    seen: Seen,
    rows: Sequence[Recipe],
    costs: Sequence[Cost],
    found: Sequence[Finding],
    training: int,
    held_out: int,
    commands: Sequence[str],
) -> Path:
    """Write FOLDER/audit.json, the pictures and report.html; the latter. `training` and `held_out` count all images there are."""
    folder.mkdir(parents=True, exist_ok=True)
    names = _pictures(folder, seen)
    document = _document(seen, rows, costs, found, training, held_out, commands) | {"pictures": names}
    _write_json(folder / "audit.json", document)
    shown = {name: figure(folder / name, CAPTIONS[name], "plot" if name == "histograms.png" else "") for name in names}
    sections = {
        "Findings": _findings(found),
        "Images": shown.get("typical.png", ""),
        "Channels": _channels(seen) + shown.get("histograms.png", ""),
        "Extremes": "".join(shown.get(name, "") for name in list(CAPTIONS)[1:7]),
        "Duplicates": _alike(seen) + shown.get("nearest.png", "") + shown.get("leaked.png", ""),
        "Classes": _classes(seen),
        "Proposal": _proposal(seen, commands),
        "Cost": _costs(costs),
        "Settings": pairs(_settings(seen.settings)),
    }
    metadata = {
        "training images": f"{training:,}",
        "held out": f"{held_out:,}",
        "shape": "x".join(map(str, seen.training.source.shape)),
        "dtype": seen.training.source.dtype.name,
    }
    if costs:
        metadata |= {
            "training time here": duration(sum(cost.whole for cost in costs)),
            "peak memory": f"{max(cost.memory for cost in costs) / 2**30:.2f} GiB",
        }
    title = f"Audit: {seen.settings.path}"
    return write_page(folder / "report.html", title, header(title, _verdict(found), metadata), sections)


def write_stopped(folder: Path, settings: DataSettings, found: Sequence[Finding], sizes: Sequence[tuple[str, int]]) -> Path:
    """The same of data that cannot be read together: what is wrong, and the sizes of images if these are known."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {"path": str(settings.path), "settings": _settings(settings), "status": status(found)}
    document |= {"findings": [asdict(finding) for finding in found], "sizes": dict(sizes)}
    _write_json(folder / "audit.json", document)
    title = f"Audit: {settings.path}"
    sections = {
        "Findings": _findings(found),
        "Sizes": table([{"rows x columns": size, "images": count} for size, count in sizes[:200]]) if sizes else "",
        "Settings": pairs(_settings(settings)),
    }
    return write_page(folder / "report.html", title, header(title, _verdict(found), {}), sections)


def _document(
    seen: Seen,
    rows: Sequence[Recipe],
    costs: Sequence[Cost],
    found: Sequence[Finding],
    training: int,
    held_out: int,
    commands: Sequence[str],
) -> dict[str, Any]:
    """All numbers, JSON-ready."""
    source, inside = seen.training.source, medians(seen)
    metadata = source.metadata.to_json()
    metadata["axes"] = [axis.name for axis in source.metadata.axes]
    return {
        "path": str(seen.settings.path),
        "settings": _settings(seen.settings),
        "status": status(found),
        "findings": [asdict(finding) for finding in ordered(found)],
        "training": training,
        "held_out": held_out,
        "left_out": seen.left_out,
        "looked_at": len(source) + (0 if seen.held_out is None else len(seen.held_out.source)),
        "shape": list(source.shape),
        "dtype": source.dtype.name,
        "metadata": metadata,
        "channels": [asdict(channel) for channel in seen.training.found.channels],
        "held_out_channels": [] if seen.held_out is None else [asdict(each) for each in seen.held_out.found.channels],
        "copied_channels": [list(pair) for pair in seen.training.found.copies],
        "duplicates": [[seen.training.name(number) for number in group] for group in seen.twice],
        "near_duplicates": [_pair(pair, seen.training, seen.training) for pair in seen.near],
        "leaked": [[seen.held_out.name(a), seen.training.name(b)] for a, b in seen.shared] if seen.held_out else [],
        "near_leaked": [_pair(pair, seen.held_out, seen.training) for pair in seen.leaked] if seen.held_out else [],
        "near_below": NEAR,
        "median_difference": {"training": inside[0], "held_out": inside[1]},
        "order": asdict(seen.order) | {"matters": seen.order.matters},
        "classes": _class_counts(seen),
        "normaliser": None if seen.proposal is None else asdict(seen.proposal) | {"integers_exact": seen.exact},
        "rows": [{"name": row.name, "patch": row.patch, "size": asdict(row.size)} for row in rows],
        "commands": list(commands),
        "costs": [
            asdict(cost) | {"images_per_second": cost.images_per_second, "whole_seconds": cost.whole, "disk": cost.disk}
            for cost in costs
        ],
    }


def _pictures(folder: Path, seen: Seen) -> list[str]:
    """Draw what there is to draw; the names of the files."""
    side, found = seen.training, seen.training.found
    readable = np.setdiff1d(np.arange(len(side.source)), list(found.unreadable))
    chosen = {"typical.png": readable[evenly(len(readable), TYPICAL)]}
    if len(readable) > EXTREME:
        centre = np.array([channel.mean or 0.0 for channel in found.channels])
        scale = np.array([channel.std or 1.0 for channel in found.channels])
        for name, rows, sign in (
            ("highest.png", found.highest, 1),
            ("lowest.png", found.lowest, -1),
            ("largest-mean.png", found.mean, 1),
            ("smallest-mean.png", found.mean, -1),
        ):
            chosen[name] = _extreme(sign * (rows - centre) / scale)
        finite = np.flatnonzero(np.isfinite(seen.among.difference))
        farthest = finite[np.argsort(-seen.among.difference[finite], kind="stable")[:EXTREME]]
        chosen["unusual.png"] = found.signed[farthest]
    chosen["damaged.png"] = np.flatnonzero(found.damaged > 0)[:EXTREME]
    pictures = {name: _grid(side, numbers) for name, numbers in chosen.items() if len(numbers)}
    couples = [(group[0], group[1]) for group in seen.twice] + [(pair.first, pair.second) for pair in seen.near]
    across = [*seen.shared, *((pair.first, pair.second) for pair in seen.leaked)]
    if couples:
        pictures["nearest.png"] = _couples(side, side, _spread(couples))
    if across and seen.held_out is not None:
        pictures["leaked.png"] = _couples(seen.held_out, side, _spread(across))
    histograms = histograms_plot(side, seen.held_out)
    pictures |= {} if histograms is None else {"histograms.png": histograms}
    for name, picture in pictures.items():
        save_png(folder / name, picture)
    return [name for name in CAPTIONS if name in pictures]


def histograms_plot(training: Side, held_out: Side | None) -> Image.Image | None:
    """Shares of values of the first channels, on a logarithmic axis where one value has nearly all; None without any."""
    known = [number for number, channel in enumerate(training.found.channels) if channel.count][:DRAWN]
    if not known:
        return None
    columns = 1 if len(known) == 1 else 2
    plot = blank(2.4 * math.ceil(len(known) / columns) + 0.4)
    for place, number in enumerate(known):
        axes = plot.add_subplot(math.ceil(len(known) / columns), columns, place + 1)
        channel, integers = training.found.channels[number], training.source.dtype.kind in "iu"
        try:
            ours = training.found.values.channel(number)
        except ValueError:
            continue
        edges = drawn_edges(ours, whole=integers)
        real = shares(ours, edges)
        axes.stairs(real, edges, fill=True, color=BLUE, alpha=0.45, label="training")
        drawn = real
        if held_out is not None and held_out.found.channels[number].count:
            theirs = shares(held_out.found.values.channel(number), edges)
            axes.stairs(theirs, edges, color=ORANGE, linewidth=1.2, label="held out")
            drawn = np.concatenate([real, theirs])
        drawn = drawn[drawn > 0]
        if drawn.max() > HEAVY * np.median(drawn):
            logarithmic(axes, drawn)
        units = training.source.metadata.units
        name = channel.name if training.source.metadata.channels else f"channel {channel.name}"
        axes.set(xlabel=f"{name} ({units})" if units else name, ylabel="share")
    return rendered(plot)


def _extreme(rows: Float[np.ndarray, "image channel"]) -> Int[np.ndarray, "chosen"]:
    """The images with the largest of these in any channel; none if half of all images have it."""
    known = np.where(np.isnan(rows), -np.inf, rows).max(1)
    if (known == known.max()).mean() > 0.5:
        return np.zeros(0, np.int64)
    order = np.argsort(-known, kind="stable")[:EXTREME]
    return order[np.isfinite(known[order])]


def _spread(couples: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The nearest, and evenly chosen others."""
    return [couples[place] for place in evenly(len(couples), SHOWN_PAIRS)]


def _couples(above: Side, below: Side, couples: Sequence[tuple[int, int]]) -> Image.Image:
    columns = _columns(above, len(couples))
    images = []
    for first in range(0, len(couples), columns):
        part = couples[first : first + columns]
        images += [above.source.get(one) for one, _ in part] + [below.source.get(other) for _, other in part]
        if len(part) < columns:
            columns_left = columns - len(part)
            images[len(images) - len(part) : len(images) - len(part)] = [images[-1] * 0] * columns_left
    return _drawn(above, np.stack(images), columns)


def _grid(side: Side, numbers: Int[np.ndarray, "chosen"]) -> Image.Image:
    return _drawn(side, gather(side.source, numbers), _columns(side, EXTREME))


def _columns(side: Side, wanted: int) -> int:
    return max(1, min(EXTREME, wanted, WIDE // side.source.shape[2]))


def _drawn(side: Side, images: np.ndarray, columns: int) -> Image.Image:
    """Native images between the 0.1 % and 99.9 % quantiles of the training values."""
    seen = [(channel.quantiles.get("0.001", 0.0), channel.quantiles.get("0.999", 1.0)) for channel in side.found.channels]
    return grid(images, columns, metadata=side.source.metadata, seen=seen)


def _verdict(found: Sequence[Finding]) -> str:
    counts = {level: sum(finding.level == level for finding in found) for level in ("problem", "warning", "note")}
    said = [f"{count} {level}{'s' if count > 1 else ''}" for level, count in counts.items() if count]
    return f"<p class='{'bad' if counts['problem'] else 'soft'}'>{', '.join(said) or 'Nothing is wrong.'}</p>"


def _findings(found: Sequence[Finding]) -> str:
    rows = []
    for finding in found:
        where = f"<div class='soft'>{text(list(finding.where))}</div>" if finding.where else ""
        mark = " class='bad'" if finding.level == "problem" else ""
        what = text(f"{finding.what[:1].upper()}{finding.what[1:]}. {finding.remedy}".rstrip())
        level = f"<th{mark} style='white-space: nowrap'>{finding.level}</th>"
        rows.append(f"<tr>{level}<td>{what}{where}</td></tr>")
    return f"<table><tbody>{''.join(rows)}</tbody></table>" if rows else "<p>Nothing is wrong.</p>"


def _channels(seen: Seen) -> str:
    rows = []
    for channel in seen.training.found.channels:
        row: dict[str, Any] = {"channel": channel.name, "lowest": channel.lowest}
        row |= {f"q {name}": value for name, value in channel.quantiles.items()}
        row |= {"highest": channel.highest, "mean": channel.mean, "std": channel.std}
        row |= {"zeros, %": 100 * channel.zeros, "most frequent": channel.atom, "its share, %": 100 * channel.atom_share}
        row |= {"nodata, %": 100 * channel.missing} if channel.missing else {}
        row |= {"NaN": channel.nan, "infinite": channel.infinite} if channel.nan or channel.infinite else {}
        rows.append(row | {"skewness": channel.skewness, "tail index": channel.tail_index})
    note = (
        "Training images, native values. Quantiles, most frequent value, skewness and tail index (of the distance from the "
        "median; below 4 is heavy) are of evenly chosen values, all else is of all."
    )
    if len(rows) <= ACROSS:
        name, keys = "channel" if len(rows) > 1 else "value", list(dict.fromkeys(key for row in rows for key in row))[1:]
        rows = [{"of": key} | {f"{name} {row['channel']}": row.get(key) for row in rows} for key in keys]
    return f"<p class='soft'>{note}</p>{table(rows)}"


def _alike(seen: Seen) -> str:
    inside, outside = medians(seen)
    note = (
        f"The difference of two images, each less its mean, is in units of their own deviation: 0 for copies, 1.4 for images "
        f"that have nothing in common; nearly the same are images below {NEAR:g}, by means of 8 x 8 blocks and then by pixels."
    )
    metadata = {
        "copies within training": sum(len(group) - 1 for group in seen.twice),
        "near pairs within training": len(seen.near),
        "held-out images that are training images": len(seen.shared),
        "held-out images that are nearly so": len(seen.leaked),
        "median difference to the nearest, training": inside,
        "median difference to the nearest, held out to training": outside,
        f"nearest within {seen.order.width} places in order": seen.order.share,
        "the same by chance": seen.order.chance,
    }
    return f"<p class='soft'>{note}</p>{pairs({name: value for name, value in metadata.items() if value is not None})}"


def _class_counts(seen: Seen) -> dict[str, dict[str, int]]:
    names = seen.training.source.classes
    sides = {"training": seen.training} | ({} if seen.held_out is None else {"held_out": seen.held_out})
    counts = {side: np.bincount(labels(each.source), minlength=len(names)) for side, each in sides.items()} if names else {}
    return {name: {side: int(count[number]) for side, count in counts.items()} for number, name in enumerate(names)}


def _classes(seen: Seen) -> str:
    rows = [{"class": name, **counts} for name, counts in _class_counts(seen).items()]
    return table(rows[:200]) if rows else ""


def _proposal(seen: Seen, commands: Sequence[str]) -> str:
    why = "".join(f"<p>{text(sentence)}</p>" for sentence in (seen.proposal.why if seen.proposal else ()))
    exact = "" if seen.exact is None else f"<p>Integers come back exactly: {text(seen.exact)}.</p>"
    return f"{why}{exact}" + "".join(f"<p><code>{text(words)}</code></p>" for words in commands)


def _costs(costs: Sequence[Cost]) -> str:
    rows = [
        {
            "recipe": cost.name,
            "device": cost.device,
            "parameters": f"{cost.parameters / 1e6:.2f} M",
            "tokens": cost.tokens,
            "batch": cost.batch_size,
            "measured on": cost.measured,
            "images/s": cost.images_per_second,
            "steps": f"{cost.steps:,}",
            "time": duration(cost.whole),
            "peak memory": f"{cost.memory / 2**30:.2f} GiB",
            "checkpoints": f"{cost.disk / 2**30:.2g} GiB",
        }
        for cost in costs
    ]
    note = (
        "Measured here in some real steps, for all steps of each stage but without previews, held-out measurements and the time "
        "to write checkpoints. Where fewer images than a batch were measured, the rest is extrapolated in a straight line."
    )
    return f"<p class='soft'>{note}</p>{table(rows)}" if rows else ""


def _pair(pair: Pair, above: Side, below: Side) -> dict[str, Any]:
    names = {"first": above.name(pair.first), "second": below.name(pair.second)}
    return names | {"view": pair.view, "difference": pair.difference}


def _settings(settings: DataSettings) -> dict[str, Any]:
    return {key: _plain(value) for key, value in asdict(settings).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, Path) else value


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    with whole(path) as file:
        file.write(json.dumps(_plain(document), indent=2, allow_nan=False).encode("utf-8"))
