"""The cost card of a run: a table of what training took, a line a stage, and of what an image takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pixelpath.reports.page import note, table

ABOUT = (
    "Multiply-adds are those of matrix products and convolutions, a backward pass counted as two. Device seconds are those of "
    "the steps alone, of all devices together. At a price for an hour of the device: "
    "<code>pixelpath report RUN --price-per-hour 2.5</code>."
)


def cost_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The lines of a cost card as HTML; empty without lines."""
    return note(ABOUT) + table(rows) if rows else ""
