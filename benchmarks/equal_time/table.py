"""The jobs of a folder side by side: one Markdown table and one picture for each data set."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.equal_time.jobs import REAL, RESULT, read
from pixelpath.data.alpha import unpremultiply
from pixelpath.reports.display import grid
from pixelpath.reports.pictures import save_png

COLUMNS = {
    "features_held_out": ("features", "{:.3g}"),
    "features_training": ("(training)", "{:.3g}"),
    "pixels_held_out": ("pixels", "{:.3g}"),
    "pixels_training": ("(training)", "{:.3g}"),
    "recognised": ("recognised", "{:.1%}"),
    "seam": ("seam", "{:.2f}"),
    "half": ("half", "{:.1%}"),
    "q999_error": ("q.999", "{:+.0%}"),
    "dry_error": ("dry", "{:+.1%}"),
    "spectrum_low": ("spectrum from", "{:.2f}"),
    "spectrum_high": ("to", "{:.2f}"),
    "images_a_second": ("images/s", "{:.0f}"),
    "seconds": ("seconds", "{:.0f}"),
    "seconds_each": ("s a sample", "{:.2g}"),
    "peak_mb": ("peak MB", "{:.0f}"),
    "parameters": ("parameters", "{:,.0f}"),
}
WIDE, TALL = 16, 3  # samples of a block of the picture


@dataclass(frozen=True)
class Row:
    """One job under one sampling."""

    label: str
    minutes: float
    how: str
    seed: int
    numbers: dict[str, float]
    samples: Path


def rows_of(folder: Path) -> Iterator[Row]:
    """Every sampling of every job of a data set that has a result."""
    for file in sorted(folder.glob(f"*/{RESULT}")):
        found = read(file) or {}
        for how, numbers in found["samples"].items():
            spent = dict(found.get("training", {}))
            if "images" in spent:
                spent["images_a_second"] = spent["images"] / spent["seconds"]
            samples = file.with_name(f"samples-{how}.npz")
            yield Row(found["label"], found["minutes"], how, found["seed"], {**spent, **numbers}, samples)


def markdown(folder: Path) -> str:
    """The table of a data set: real images, then jobs by time and distance in features; means over seeds, +- half their range."""
    groups: dict[tuple[float, str, str], list[Row]] = defaultdict(list)
    for row in rows_of(folder):
        groups[row.minutes, row.label, row.how].append(row)
    real = {f"real ({count})": numbers for count, numbers in (read(folder / REAL) or {}).items()}
    named = [(name, "", "", 0, [numbers]) for name, numbers in real.items()]
    order = sorted(groups, key=lambda key: (key[0], min(row.numbers["features_held_out"] for row in groups[key])))
    named += [
        (label, f"{minutes:g}", how, len(groups[minutes, label, how]), [row.numbers for row in groups[minutes, label, how]])
        for minutes, label, how in order
    ]
    shown = [key for key in COLUMNS if any(key in numbers for *_, each in named for numbers in each)]
    lines = ["system", "minutes", "sampler", "seeds", *(COLUMNS[key][0] for key in shown)]
    table = [_line(lines), _line(["---"] * len(lines))]
    table += [_line([*map(str, words), *(_cell(key, each) for key in shown)]) for *words, each in named]
    notes = [
        f"- {name}: the classifier's accuracy is {numbers['accuracy']:.1%}; halves of the training images differ by "
        f"{numbers['features_halves']:.3g} in features and {numbers['pixels_halves']:.3g} in pixels."
        for name, numbers in real.items()
    ]
    return "\n".join([f"### {folder.name}", "", *table, "", *notes, ""])


def picture(folder: Path, file: Path, images: Any) -> None:
    """Blocks of samples with the system's name above, the same classes in the same order, real held-out `images` first."""
    chosen: dict[str, np.ndarray] = {"real, held out": images(WIDE * TALL)}
    for row in sorted(rows_of(folder), key=lambda row: (row.minutes, row.numbers["features_held_out"])):
        with np.load(row.samples) as kept:
            chosen[f"{row.label}, {row.minutes:g} min, {row.how}, seed {row.seed}"] = in_turn(kept["images"], kept["labels"])
    seen = {name: unpremultiply(block) if block.shape[1] == 4 else block for name, block in chosen.items()}
    blocks = [_titled(name, grid(block, WIDE)) for name, block in seen.items()]
    whole = Image.new("RGB", (max(block.width for block in blocks), sum(block.height for block in blocks)), "white")
    top = 0
    for block in blocks:
        whole.paste(block, (0, top))
        top += block.height
    save_png(file, whole)


def in_turn(images: np.ndarray, labels: np.ndarray, count: int = WIDE * TALL) -> np.ndarray:
    """So many images, the classes in turn, column by column."""
    queues = [list(np.flatnonzero(labels == number)) for number in np.unique(labels)]
    order = [queue[place] for place in range(count) for queue in queues if place < len(queue)][:count]
    return images[order]


def _titled(title: str, picture: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", (picture.width, picture.height + 22), "white")
    ImageDraw.Draw(canvas).text((4, 4), title, fill="black", font=ImageFont.load_default(14))
    canvas.paste(picture.convert("RGB"), (0, 22))
    return canvas


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(key: str, each: list[dict[str, float]]) -> str:
    values, form = [numbers[key] for numbers in each if key in numbers], COLUMNS[key][1]
    if not values:
        return ""
    text = form.format(statistics.mean(values))
    return text if len(values) == 1 else f"{text} +- {form.format((max(values) - min(values)) / 2)}"
