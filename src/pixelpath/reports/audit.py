"""The page of an audit: findings, pictures, numbers by channel, what is there twice, and what training would cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pixelpath.evaluation.alike import NEAR
from pixelpath.evaluation.inspection import Finding, Inspection
from pixelpath.reports.audit_plots import CAPTIONS, EXTREMES
from pixelpath.reports.page import figure, header, note, pairs, sentence, table, text, write_page

ACROSS = 6  # channels up to which each has a column of the table, instead of a row
LISTED = 200  # rows of a table, at most


@dataclass(frozen=True, eq=False)
class AuditPage:
    """What the page shows. Data that cannot be read together have no inspection, but perhaps the sizes of their images."""

    title: str
    settings: Mapping[str, Any]
    findings: Sequence[Finding]
    inspection: Inspection | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    commands: Sequence[str] = ()
    costs: Sequence[Mapping[str, Any]] = ()
    sizes: Sequence[tuple[str, int]] = ()


def write_audit(folder: Path, page: AuditPage, pictures: Sequence[str] = ()) -> Path:
    """Write FOLDER/report.html with the pictures that are there by these names; the file."""
    drawn = {name: figure(folder / name, CAPTIONS[name], "plot" if name == "histograms.png" else "") for name in pictures}
    seen = page.inspection
    sections = {"Findings": _findings(page.findings)}
    if seen is None:
        rows = [{"rows x columns": size, "images": count} for size, count in page.sizes[:LISTED]]
        sections |= {"Sizes": table(rows)}
    else:
        sections |= {
            "Images": drawn.get("typical.png", ""),
            "Channels": _channels(seen) + drawn.get("histograms.png", ""),
            "Extremes": "".join(drawn.get(name, "") for name in EXTREMES),
            "Duplicates": _alike(seen) + drawn.get("nearest.png", "") + drawn.get("leaked.png", ""),
            "Classes": table([{"class": name, **counts} for name, counts in seen.class_counts.items()][:LISTED]),
            "Proposal": _proposal(seen, page.commands),
            "Cost": _costs(page.costs),
        }
    sections["Settings"] = pairs(page.settings)
    top = header(page.title, _verdict(page.findings), page.metadata)
    return write_page(folder / "report.html", page.title, top, sections)


def summary(page: AuditPage) -> str:
    """The findings and channels as a piece of HTML, for a notebook."""
    channels = "" if page.inspection is None else _channels(page.inspection)
    return header(page.title, _verdict(page.findings), page.metadata) + _findings(page.findings) + channels


def _verdict(found: Sequence[Finding]) -> str:
    counts = {level: sum(finding.level == level for finding in found) for level in ("problem", "warning", "note")}
    said = [f"{count} {level}{'s' if count > 1 else ''}" for level, count in counts.items() if count]
    return f"<p class='{'bad' if counts['problem'] else 'soft'}'>{', '.join(said) or 'Nothing is wrong.'}</p>"


def _findings(found: Sequence[Finding]) -> str:
    rows = []
    for finding in found:
        where = f"<div class='soft'>{text(list(finding.where))}</div>" if finding.where else ""
        mark = " class='bad'" if finding.level == "problem" else ""
        what = sentence(f"{finding.what[:1].upper()}{finding.what[1:]}. {finding.remedy}".rstrip())
        level = f"<th{mark} style='white-space: nowrap'>{finding.level}</th>"
        rows.append(f"<tr>{level}<td>{what}{where}</td></tr>")
    return f"<table><tbody>{''.join(rows)}</tbody></table>" if rows else "<p>Nothing is wrong.</p>"


def _channels(seen: Inspection) -> str:
    rows = []
    for channel in seen.training.found.channels:
        row: dict[str, Any] = {"channel": channel.name, "lowest": channel.lowest}
        row |= {f"q {name}": value for name, value in channel.quantiles.items()}
        row |= {"highest": channel.highest, "mean": channel.mean, "std": channel.std}
        row |= {"zeros, %": 100 * channel.zeros, "most frequent": channel.atom, "its share, %": 100 * channel.atom_share}
        row |= {"nodata, %": 100 * channel.missing} if channel.missing else {}
        row |= {"NaN": channel.nan, "infinite": channel.infinite} if channel.nan or channel.infinite else {}
        rows.append(row | {"skewness": channel.skewness, "tail index": channel.tail_index})
    about = (
        "Training images, native values. Quantiles, most frequent value, skewness and tail index are estimated on evenly chosen "
        "values, the other numbers on all values. A tail index (of the distance from the median) below 4 is heavy."
    )
    if len(rows) <= ACROSS:
        name, keys = "channel" if len(rows) > 1 else "value", list(dict.fromkeys(key for row in rows for key in row))[1:]
        rows = [{"of": key} | {f"{name} {row['channel']}": row.get(key) for row in rows} for key in keys]
    return note(about) + table(rows)


def _alike(seen: Inspection) -> str:
    inside, outside = seen.median_differences
    about = (
        "The difference of two images, each less its mean, is in units of their own standard deviation: 0 for copies, 1.4 for "
        f"images that have nothing in common. Images below {NEAR:g} are nearly the same, by means of 8 x 8 blocks and by pixels."
    )
    counts = {
        "copies within training": sum(len(group) - 1 for group in seen.duplicates),
        "near pairs within training": len(seen.near_duplicates),
        "held-out images that are training images": len(seen.leaked),
        "held-out images that are nearly so": len(seen.near_leaked),
        "median difference to the nearest, training": inside,
        "median difference to the nearest, held out to training": outside,
        f"nearest within {seen.order.width} places in order": seen.order.share,
        "the same by chance": seen.order.chance,
    }
    return note(about) + pairs({name: value for name, value in counts.items() if value is not None})


def _proposal(seen: Inspection, commands: Sequence[str]) -> str:
    trial = seen.normaliser
    why = "".join(f"<p>{sentence(each)}</p>" for each in (trial.proposal.why if trial.proposal else ()))
    exact = "" if trial.exact is None else f"<p>Integers come back exactly: {text(trial.exact)}.</p>"
    return f"{why}{exact}" + "".join(f"<p><code>{text(words)}</code></p>" for words in commands)


def _costs(rows: Sequence[Mapping[str, Any]]) -> str:
    about = (
        "Measured here in some real steps. Times are those of all steps of each stage, without previews, held-out measurements "
        "and checkpoints. Where fewer images than a batch were measured, the numbers are extrapolated linearly."
    )
    return note(about) + table(rows) if rows else ""
