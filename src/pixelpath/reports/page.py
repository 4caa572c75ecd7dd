"""Pages: HTML files that hold their pictures and load nothing from the network, and the pieces that they are made of.

A *section* is a title and a piece of HTML, empty where there is nothing to say. A *document* is the content of a JSON file. A
*record* is a mapping of single values, whose entry "protocol" says how they were measured, and "remarks" what else to know.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any, Literal

from PIL import Image

from pixelpath.atomic import leaves, read_json, whole
from pixelpath.errors import UserError
from pixelpath.reports.names import name_of
from pixelpath.reports.style import script, stylesheet, template

WIDEST = 1440  # pixels across, of a picture
NOTHING = "\N{EN DASH}"
MISSING = object()  # where a record has no entry
MEASURED = "how it was measured"
LONG = 60  # letters of a value that takes a line of its own
FACT = 10  # letters that a box holds on one line


@dataclass(frozen=True)
class Verdict:
    """What a page says first: sentences (text, settings and commands in backticks) that a stranger understands, and how it is.

    "good" asks for nothing, "warn" for a look, "bad" for a change; "" judges nothing.
    """

    sentences: Sequence[str] = ()
    level: Literal["good", "warn", "bad", ""] = ""


def write_page(path: Path, title: str, top: str, sections: Mapping[str, str]) -> Path:
    """Write a page: its title (text), its top and its sections (HTML, empty ones left out). Returns the file."""
    present = {name: content for name, content in sections.items() if content}
    places = {name: re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") for name in present}
    links = "".join(f'<a href="#{place}">{name}</a>' for name, place in places.items())
    parts = [f'<section id="{places[name]}"><h2>{name}</h2>\n{content}</section>' for name, content in present.items()]
    below = ["<nav aria-label='Sections'>", links, "</nav>", "<main>", *parts, "</main>"] if parts else []
    page = {"title": text(title), "body": "\n".join([top, *below]), "style": stylesheet(), "script": script()}
    with whole(path) as file:
        file.write(Template(template()).substitute(page).encode("utf-8"))
    return path


def header(kind: str, title: str, verdict: Verdict, facts: Mapping[str, str], more: str = "") -> str:
    """The top of a page: what it is and its title (text), the verdict, more (HTML), and the main numbers in boxes (HTML)."""
    said = "".join(f"<p>{sentence(each)}</p>" for each in verdict.sentences)
    judged = f"<div class='verdict {verdict.level}'>{said}</div>" if said else ""
    wide = {name: " class='long'" if len(value) > FACT else "" for name, value in facts.items()}
    shown = "".join(f"<div{wide[name]}><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items())
    numbers = f"<dl class='facts'>{shown}</dl>" if shown else ""
    return f"<header><p class='kind'>{text(kind)}</p><h1>{text(title)}</h1>\n{judged}{more}{numbers}</header>"


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Records as a table, one a line, each with its remarks and, folded away, its protocol below; empty without records.

    What is the same in all of several records stands once above them, measured numbers apart. Columns that are alike become one.
    """
    if not records:
        return ""
    keys = [key for key in dict.fromkeys(key for record in records for key in record) if key not in ("protocol", "remarks")]
    alike = [key for key in keys if len(records) > 1 and _is_alike([record.get(key, MISSING) for record in records])]
    alike = alike if len(alike) < len(keys) else []
    above = f"<p class='protocol'>In all rows: {protocol_line({key: _same(records, key) for key in alike})}</p>" if alike else ""
    keys, titles = _columns(records, [key for key in keys if key not in alike])
    side = {key: next((found for record in records if (found := _align(record.get(key)))), "") for key in keys}
    head = "".join(f"<th{side[key]}>{titles[key]}</th>" for key in keys)
    body = []
    for record in records:
        below = [protocol_line(record["remarks"])] if record.get("remarks") else []
        below += [folded(MEASURED, protocol_line(record["protocol"]))] if record.get("protocol") else []
        cells = "".join(f"<td{side[key]}>{_cell(record, key)}</td>" for key in keys)
        body.append(f"<tr{' class=record' if below else ''}>{cells}</tr>")
        body += [f"<tr><td class='protocol' colspan='{len(keys)}'>{''.join(below)}</td></tr>"] if below else []
    return f"{above}<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"


def pairs(values: Mapping[str, Any]) -> str:
    """Names and values, one pair a line."""
    rows = [f"<tr><th>{text(key)}</th><td{_align(value)}>{text(value)}</td></tr>" for key, value in leaves(values)]
    return f"<table><tbody>{''.join(rows)}</tbody></table>" if rows else ""


def figure(path: Path, caption: str, kind: str = "sheet", widest: int = WIDEST) -> str:
    """A picture file with a caption (HTML): a "sheet" of images, or a "plot", whose colours follow the theme of the page."""
    with Image.open(path) as picture:
        return f"<figure>{embedded(picture, kind, widest, path.stem)}<figcaption>{caption}</figcaption></figure>"


def charted(drawn: str, numbers: Sequence[Mapping[str, Any]]) -> str:
    """Curves (HTML), and the records that they show as a table below them, folded away."""
    return drawn + folded("The numbers", table(numbers))


def folded(title: str, content: str, *, shown: bool = False) -> str:
    """Content that a click on its title shows or hides; both are HTML."""
    return f"<details{' open' if shown else ''}><summary>{title}</summary>{content}</details>"


def note(content: str) -> str:
    """A paragraph of HTML that explains what stands beside it."""
    return f"<p class='soft'>{content}</p>"


def groups(values: Mapping[str, Mapping[str, Any]]) -> str:
    """Groups of names and values under their titles, side by side; empty ones are left out."""
    parts = [f"<section><h3>{text(name)}</h3>{pairs(group)}</section>" for name, group in values.items() if group]
    return f"<div class='groups'>{''.join(parts)}</div>" if parts else ""


def embedded(picture: Image.Image, kind: str, widest: int, name: str) -> str:
    """The picture inside the page, scaled down if it is wider than `widest`; on a narrow screen it scrolls."""
    if picture.width > widest:
        picture = picture.resize((widest, max(1, round(picture.height * widest / picture.width))), Image.Resampling.LANCZOS)
    held = io.BytesIO()
    picture.save(held, "PNG", optimize=True)
    data = base64.b64encode(held.getvalue()).decode("ascii")
    size = f'width="{picture.width}" height="{picture.height}" style="min-width: min(40rem, {picture.width}px)"'
    return f'<div class="wide"><img class="{kind}" alt="{text(name)}" {size} src="data:image/png;base64,{data}"></div>'


def boxes(values: Mapping[str, Any], protocol: Mapping[str, Any] | None = None) -> str:
    """Single values side by side, those that are there, and their protocol below them."""
    values = {key: value for key, value in values.items() if value is not None}
    long = {key for key, value in values.items() if isinstance(value, str) and len(value) > LONG}
    shown = "".join(
        f"<div{' class=long' if key in long else ''}><dt>{words(key)}</dt><dd>{text(value)}</dd></div>"
        for key, value in values.items()
    )
    return f"<dl class='pairs'>{shown}</dl>" + (
        f"<div class='protocol'>{folded(MEASURED, protocol_line(protocol))}</div>" if protocol else ""
    )


def protocol_line(protocol: Mapping[str, Any]) -> str:
    """How a number was measured, in one line."""
    return " · ".join(f"{words(key)} {text(value)}" for key, value in leaves(protocol) if value is not None)


def document_of(path: Path) -> Any:
    """The content of a JSON file, None if there is no such file; UserError if it is not JSON."""
    if not path.is_file():
        return None
    try:
        return read_json(path)
    except ValueError as error:
        raise UserError(f"{path} cannot be used ({error}): make it again or remove it, then write the report again.") from error


def words(key: str) -> str:
    """A key as escaped words."""
    return text(name_of(key))


def text(value: Any) -> str:
    """A value as escaped text: floats with four digits, lists with commas."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, list | tuple):
        return ", ".join(text(part) for part in value) or "none"
    return "none" if value is None or value == "" else escape(str(value))


def number(value: float) -> str:
    """A number with four digits, or with all those before the point."""
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def sentence(value: str) -> str:
    """A sentence as escaped text, its settings (in backticks) as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", text(value))


def duration(seconds: float) -> str:
    """Seconds, minutes or hours in words."""
    minutes, hours = seconds / 60, seconds / 3600
    few = f"{minutes:.2g} min" if minutes < 10 else f"{minutes:.0f} min"
    return f"{seconds:.0f} s" if seconds < 120 else few if minutes < 120 else f"{hours:.1f} h"


def _is_alike(values: Sequence[Any]) -> bool:
    """Whether the entries of a column are one and the same, and no measured number that only happens to be."""
    return all(value == values[0] and type(value) is type(values[0]) for value in values) and not isinstance(values[0], float)


def _same(records: Sequence[Mapping[str, Any]], key: str) -> Any:
    """The entry of all records, as a line has it."""
    return "none" if records[0][key] is None else records[0][key]


def _columns(records: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The columns that differ, and their titles: of several that hold the same, the names of all."""
    columns: dict[str, list[str]] = {}
    for key in keys:
        entries = [record.get(key, MISSING) for record in records]
        first = next((k for k in columns if len(records) > 1 and entries == [record.get(k, MISSING) for record in records]), key)
        columns.setdefault(first, []).append(words(key))
    return list(columns), {key: ", ".join(names) for key, names in columns.items()}


def _cell(record: Mapping[str, Any], key: str) -> str:
    """An entry of a table: nothing where a record has none, a dash where it is none."""
    return "" if key not in record else NOTHING if record[key] is None else text(record[key])


def _align(value: Any) -> str:
    return " class='number'" if isinstance(value, int | float) and not isinstance(value, bool) else ""
