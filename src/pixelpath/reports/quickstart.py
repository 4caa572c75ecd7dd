"""The numbers of a quickstart as a table: one line for each way of sampling, and one for real digits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pixelpath.reports.page import note, table

ABOUT = (
    "A classifier of real digits reads guided samples; the distance is that of unguided ones, of as many as there are held-out "
    "digits, to training images. Real held-out digits show what can be reached."
)


def comparison(found: Mapping[str, Any]) -> str:
    """What quickstart.json holds, line by line; empty for one of another version."""
    if not {"one_step", "recognised", "frechet", "floor", "classifier_held_out_accuracy"} <= set(found):
        return ""
    ways = {"diffusion": found, "one-step model, one step": found["one_step"]["one"]}
    ways |= {"one-step model, two steps": found["one_step"]["two"]}
    ways |= {"diffusion from a fitted start": found["warm"]} if "warm" in found else {}
    rows = [
        {
            "sampled by": name,
            "network evaluations (NFE), guided": way["nfe"],
            "read as the digit intended, %": round(100 * way["recognised"], 1),
            "Frechet distance": way["frechet"],
        }
        for name, way in ways.items()
    ]
    real = round(100 * found["classifier_held_out_accuracy"], 1)
    last = {"sampled by": "real held-out digits", "read as the digit intended, %": real, "Frechet distance": found["floor"]}
    return note(ABOUT) + table([*rows, last])
