"""The results of `benchmarks.gpu` as Markdown: what became of every part, then its rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

HEADS = ("part", "work", "mode", "batch", "per second", "images/s", "of peak", "peak GB", "time / peer", "time / network")


def markdown(found: dict[str, Any]) -> str:
    """One table of speeds, one of distances over time, one of waits, and one of the parts."""
    about, parts = found["machine"], found["parts"]
    lines = [f"{about['device']}, torch {about['torch']}, diffusers {about['diffusers']}; {found['seconds']:.0f} s in all.", ""]
    rows = [(name, row) for name, part in parts.items() for row in part["rows"]]
    lines += table(HEADS, [_speed(name, row) for name, row in rows if "seconds" in row])
    lines += table(
        ("arm", "seconds of training", "steps", "images/s", "samples by", "distance"),
        [_distance(row) for _, row in rows if "distance" in row],
    )
    lines += table(
        ("part", "waits a step", "where"),
        [(row["work"], f"{row['waits']:g}", ", ".join(sorted(set(row["where"])))) for _, row in rows if "waits" in row],
    )
    lines += table(
        ("part", "what became of it", "seconds"),
        [(name, part["status"], f"{part['seconds']:.0f}") for name, part in parts.items() if "status" in part],
    )
    return "\n".join(lines)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table and an empty one; none without rows."""
    lines = ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows]
    return ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *lines, ""] if lines else []


def _speed(name: str, row: dict[str, Any]) -> list[str]:
    ratios = {pair.rpartition(" ")[2]: ratio["median"] for pair, ratio in row.get("ratios", {}).items()}
    return [
        name,
        row["work"],
        row["mode"],
        str(row["batch"]),
        f"{1 / row['seconds']['median']:.3g}",
        f"{row['images_per_second']:.3g}",
        f"{row['utilisation']['median']:.1%}" if "utilisation" in row else "",
        f"{row['peak_bytes'] / 1e9:.3g}" if "peak_bytes" in row else "",
        f"{ratios['peer']:.3g}" if "peer" in ratios else "",
        f"{ratios['network']:.3g}" if "network" in ratios else "",
    ]


def _distance(row: dict[str, Any]) -> list[str]:
    rate = row["images"] / row["trained"] if row["trained"] else 0.0
    return [row["arm"], f"{row['trained']:.3g}", str(row["step"]), f"{rate:.0f}", row["sampler"], f"{row['distance']:.4g}"]
