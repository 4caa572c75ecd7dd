"""The page of an audit: findings, pictures, numbers by channel, what is there twice, and what training would cost."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pixelpath.evaluation.alike import NEAR
from pixelpath.reports.audit_plots import CAPTIONS, EXTREMES
from pixelpath.reports.page import (
    Verdict,
    duration,
    figure,
    folded,
    header,
    note,
    pairs,
    sentence,
    table,
    text,
    write_page,
)

ACROSS = 6  # channels up to which each has a column of the table, instead of a row
VERDICTS: dict[str, Verdict] = {
    "problem": Verdict(["These images would stop or spoil training as they are"], "bad"),
    "warning": Verdict(["Training works, but its results may mislead"], "warn"),
    "": Verdict(["These images are ready to train on"], "good"),
}
LISTED = 200  # rows of a table, at most
FREQUENT = 12  # sizes that are shown without a click


def write_audit(folder: Path, document: Mapping[str, Any], pictures: Sequence[str] = ()) -> Path:
    """Write FOLDER/report.html with the numbers of audit.json and the pictures that are there by these names; the file."""
    drawn = {name: figure(folder / name, CAPTIONS[name], "plot" if name == "histograms.png" else "sheet") for name in pictures}
    sections = {"Findings": _findings(document["findings"])}
    sections |= {"Sizes": _sizes(document["sizes"])}
    if "channels" in document:
        sections |= {
            "Images": drawn.get("typical.png", ""),
            "Channels": _channels(document) + drawn.get("histograms.png", ""),
            "Extremes": "".join(drawn.get(name, "") for name in EXTREMES),
            "Duplicates": _alike(document) + drawn.get("nearest.png", "") + drawn.get("leaked.png", ""),
            "Classes": table([{"class": name, **counts} for name, counts in document["classes"].items()][:LISTED]),
            "Proposal": _proposal(document["normaliser"], document["commands"]),
            "Cost": _costs(document["costs"]),
        }
    sections["Settings"] = folded("All settings", pairs(document["settings"]))
    return write_page(folder / "report.html", f"Audit: {_place(document)}", _top(document), sections)


def summary(document: Mapping[str, Any]) -> str:
    """The findings and channels as a piece of HTML, for a notebook."""
    channels = _channels(document) if "channels" in document else ""
    return _top(document) + _findings(document["findings"]) + channels


def _place(document: Mapping[str, Any]) -> str:
    return document["path"] or "images in memory"


def _top(document: Mapping[str, Any]) -> str:
    """Whether to train on the data, how many findings there are of each level, and the main numbers."""
    levels = [finding["level"] for finding in document["findings"]]
    said = [f"{count} {level}{'s' * (count > 1)}" for level in ("problem", "warning", "note") if (count := levels.count(level))]
    judged = next(judged for level, judged in VERDICTS.items() if level in levels or not level)
    verdict = Verdict([f"{judged.sentences[0]}: {', '.join(said) or 'nothing is wrong'}."], judged.level)
    boxes: dict[str, str] = {}
    if "channels" in document:
        boxes = {"training images": f"{document['training']:,}", "held out": f"{document['held_out']:,}"}
        channels, *size = document["shape"]
        boxes |= {"size": " x ".join(map(str, size)), "channels": str(channels), "type of values": document["dtype"]}
        costs = document["costs"]
        if costs:
            boxes["training time here"] = duration(sum(cost["whole_seconds"] for cost in costs))
            boxes["peak memory"] = f"{max(cost['memory'] for cost in costs) / 2**30:.2f} GiB"
    return header("Audit of training images", _place(document), verdict, boxes)


def _sizes(counts: Mapping[str, int]) -> str:
    """The most frequent sizes as a table, and the others folded away, where images are of several."""
    rows = [{"rows x columns": size, "images": count} for size, count in counts.items()]
    if len(rows) <= FREQUENT + 1:
        return table(rows)
    listed = f", of which {LISTED - FREQUENT} are listed" if len(rows) > LISTED else ""
    return table(rows[:FREQUENT]) + folded(f"{len(rows) - FREQUENT:,} other sizes{listed}", table(rows[FREQUENT:LISTED]))


def _findings(found: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for finding in found:
        where = f"<div class='soft'>{text(finding['where'])}</div>" if finding["where"] else ""
        mark = {"problem": " class='bad'", "warning": " class='warn'"}.get(finding["level"], "")
        first, rest = finding["what"][:1], finding["what"][1:]
        begun = first.upper() if re.match(r"[a-z]+ ", finding["what"]) else first  # not of a path, which may come first
        what = sentence(f"{begun}{rest}. {finding['remedy']}".rstrip())
        level = f"<th{mark} style='white-space: nowrap'>{finding['level']}</th>"
        rows.append(f"<tr>{level}<td>{what}{where}</td></tr>")
    return f"<table><tbody>{''.join(rows)}</tbody></table>" if rows else "<p>Nothing is wrong.</p>"


def _channels(document: Mapping[str, Any]) -> str:
    """The measurements of every channel, with its units where these are known."""
    metadata, channels = document["metadata"], document["channels"]
    units = metadata["channel_units"] or [metadata["units"]] * len(channels)
    rows = []
    for channel, unit in zip(channels, units, strict=True):
        row = {"channel": f"{channel['name']} ({unit})" if unit else channel["name"], "lowest": channel["lowest"]}
        row |= {f"quantile {name}": value for name, value in channel["quantiles"].items()}
        row |= {name: channel[name] for name in ("highest", "mean", "std")}
        row |= {"zeros, %": 100 * channel["zeros"], "most frequent": channel["atom"], "its share, %": 100 * channel["atom_share"]}
        row |= {"nodata, %": 100 * channel["missing"]} if channel["missing"] else {}
        row |= {"NaN": channel["nan"], "infinite": channel["infinite"]} if channel["nan"] or channel["infinite"] else {}
        rows.append(row | {"skewness": channel["skewness"], "tail index": channel["tail_index"]})
    about = (
        "Training images, native values. Quantiles, most frequent value, skewness and tail index are estimated on evenly chosen "
        "values, the other numbers on all values. A tail index (of the distance from the median) below 4 is heavy; none is given "
        "for a tail like an exponential one."
    )
    if len(rows) <= ACROSS:
        keys = list(dict.fromkeys(key for row in rows for key in row))[1:]
        titles = [f"channel {row['channel']}" for row in rows]
        if len(rows) == 1 and not metadata["channels"]:  # of the only channel the number says nothing
            name = metadata["variable"] or "value"
            titles = [f"{name} ({units[0]})" if units[0] else name]
        rows = [{"measured": key} | {name: row.get(key) for name, row in zip(titles, rows, strict=True)} for key in keys]
    return note(about) + table(rows)


def _alike(document: Mapping[str, Any]) -> str:
    about = (
        "The difference of two images, each less its mean, is in units of their own standard deviation: 0 for copies, 1.4 for "
        f"images that have nothing in common. Images below {NEAR:g} are nearly the same, by means of 8 x 8 blocks and by pixels."
    )
    order, difference = document["order"], document["median_difference"]
    counts = {
        "copies within training": sum(len(group) - 1 for group in document["duplicates"]),
        "near pairs within training": len(document["near_duplicates"]),
        "held-out images that are training images": len(document["leaked"]),
        "held-out images that are nearly so": len(document["near_leaked"]),
        "median difference to the nearest, training": difference["training"],
        "median difference to the nearest, held out to training": difference["held_out"],
        f"nearest within {order['width']} places in order": order["share"],
        "the same by chance": order["chance"],
    }
    return note(about) + pairs({name: value for name, value in counts.items() if value is not None})


def _proposal(normaliser: Mapping[str, Any], commands: Sequence[str]) -> str:
    why, exact = "".join(f"<p>{sentence(each)}</p>" for each in normaliser["why"]), normaliser["integers_exact"]
    kept = "" if exact is None else f"<p>Integers come back exactly: {text(exact)}.</p>"
    return why + kept + "".join(f"<p><code>{text(words)}</code></p>" for words in commands)


def _costs(costs: Sequence[Mapping[str, Any]]) -> str:
    about = (
        "Measured here in some real steps. Times are those of all steps of each stage, without previews, held-out measurements "
        "and checkpoints. Where fewer images than a batch were measured, the numbers are extrapolated linearly."
    )
    rows = [
        {
            "recipe": cost["name"],
            "device": cost["device"],
            "parameters": f"{cost['parameters'] / 1e6:.2f} M",
            "tokens": cost["tokens"],
            "batch": cost["batch_size"],
            "measured on": cost["measured"],
            "images/s": cost["images_per_second"],
            "steps": f"{cost['steps']:,}",
            "time": duration(cost["whole_seconds"]),
            "peak memory": f"{cost['memory'] / 2**30:.2f} GiB",
            "checkpoints": f"{cost['disk'] / 2**30:.2g} GiB",
        }
        for cost in costs
    ]
    return note(about) + table(rows) if rows else ""
