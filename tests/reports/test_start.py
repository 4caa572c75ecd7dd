"""The report of a start says what its folder holds, in the order it is asked for, escaped, and leaves out what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runs.measuring.test_report import Page

from pixelpath.errors import UserError
from pixelpath.reports.display import grid
from pixelpath.reports.pictures import save_png
from pixelpath.reports.start import write_start_report

TAIL = {
    "what": "radius",
    "probability": 0.99,
    "held_out": 7.31,
    "samples": 7.05,
    "error": -0.0356,
    "interval": [-0.081, 0.0123],
    "detectable": [-0.123, 0.14],
    "exceedances": 21,
    "beyond": 12,
    "expected": 20.5,
    "certified": True,
}
ROW = {"sigma": 1.25, "direct": 0.06, "excess": 0.03, "cross": 0.045}
ROW |= {"direct_error": 0.002, "excess_error": 0.003, "cross_error": 0.0041, "top": 0.125, "limit": 0.0519}
ROW |= {"dominated": False}
MIXTURE = {
    "name": "mixture",
    "sigma": 1.2345678,
    "divergence": 0.04987,
    "error": 0.0021,
    "limit": 0.0541,
    "seconds": 3.21,
    "numbers": 48230,
    "against": "",
    "remark": "",
    "tails": [TAIL, TAIL | {"probability": 0.999, "error": 0.5, "certified": False}],
    "certificate": [ROW],
}
STUDENT = dict.fromkeys(MIXTURE) | {"name": "student", "against": "its tails <are> wrong", "remark": ""}
SEARCH = {
    "sentence": "Start mixture at sigma 1.23: 0.0499 nats & less.",
    "verdict": "The start needs 2.0 times fewer <evaluations>.",
    "pays": True,
    "bound": ROW,
    "certifying": 90,
    "tries": 1,
    "cold": 9.87,
    "nfe": 123456,
    "savings": "As fine a grid as the recipe's 32 steps takes 17 of them from there on.",
    "budget": 0.05,
    "sigma": 1.2345678,
    "chosen": "mixture",
    "index": {"value": 9.87, "error": 0.5, "count": 100, "total": 10000},
    "candidates": [MIXTURE, STUDENT],
    "left_out": {"moment-by-class": "class <3> has no image"},
    "quality": [
        {
            "name": "run <1>",
            "features": "pixels",
            "floor": 0.0123,
            "few": 90,
            "points": [
                {"steps": 8, "nfe": 15, "frechet": 1.5, "frechet_of_few": 1.5, "distances": [1.25, 1.5, 1.75], "seconds": 2.0},
            ],
        }
    ],
    "neighbours": {"held-out images": {"median": 3.25, "q05": 1.125, "least": 0.5, "shares": [0.5, 3.25, 7.0]}},
    "radii": {"across": [1.0, 2.0], "up": [1.0, 2.5], "low": [None, 1.5], "high": [1.5, None], "certified": []},
    "remarks": ["Sampling was <not> tried."],
    "seconds": 200.0,
}
SAVED = {
    "version": 1,
    "metadata": {"family": "mixture", "shape": [1, 8, 8]},
    "about": {"name": "mixture", "sigma": 1.2345678, "steps": 17, "run": "runs/<a>", "residual_energies": [0.987654321] * 99},
}


def write(folder: Path, search: Any = SEARCH, saved: Any = SAVED, *, picture: bool = True) -> Path:
    folder.mkdir()
    for name, document in (("search", search), ("start", saved)):
        if document is not None:
            (folder / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")
    if picture:
        save_png(folder / "side-by-side.png", grid(np.zeros((2, 1, 4, 4), np.uint8), 2))
    return folder


def page_of(folder: Path) -> Page:
    path = write_start_report(folder)
    assert path == folder / "report.html"
    source = path.read_text(encoding="utf-8")
    assert "url(" not in source
    assert "prefers-color-scheme: dark" in source
    return Page(source)


def test_everything_is_there(tmp_path: Path) -> None:
    page = page_of(write(tmp_path / "1 <a>"))
    assert page.headings == [
        "Quality",
        "Certificate",
        "Tails",
        "Side by side",
        "Nearest neighbours",
        "Candidates",
        "Tail quantiles",
        "Left out",
        "Distances",
        "Nearest training images",
        "Settings",
    ]
    assert len(page.pictures) == 1
    assert page.charts == 4
    words = page.words
    assert (
        words.index("Start: 1 <a>")
        < words.index("The start needs 2.0 times fewer <evaluations>.")
        < words.index("0.0499 nats & less.")
        < words.index("takes 17 of them")
        < words.index("Quality")
    )
    for part in (
        "1.235",
        "0.04987",
        "48230",
        "3 min",
        "9.87 ± 0.5",
        "runs/<a>",
        "class <3> has no image",
        "was <not> tried",
        "2.0 times fewer <evaluations>",
        "0.0519",
    ):
        assert part in words, part
    assert "0.9877" not in words  # the energies


def test_links_lead_to_sections(tmp_path: Path) -> None:
    folder = write(tmp_path / "1")
    page = page_of(folder)
    source = (folder / "report.html").read_text(encoding="utf-8")
    assert len(page.links) == 11
    assert all(f'id="{link[1:]}"' in source for link in page.links)


def test_numbers_of_candidates_tails_and_quality(tmp_path: Path) -> None:
    words = page_of(write(tmp_path / "1")).words
    assert "mixture (chosen) 1.235 0.0541 0.04987 0.0021 3.21 48230 -3.6 radius, 0.99" in words  # of the certified ones
    nothing = " ".join(8 * ["\N{EN DASH}"])
    assert f"student {nothing} not used: its tails <are> wrong" in words
    assert "In all rows: of radius · images beyond 21 · samples beyond 12 quantile" in words
    assert "0.99 7.31 7.05 -3.6 -8.1 1.2 -12.3 14 20.5 yes" in words
    assert "mixture 1.25 0.0519 0.045 ± 0.004 0.03 ± 0.003 0.06 ± 0.002 12.5" in words
    assert "run <1> pixels 8 15 1.5 ± 0.2 3 0.0123" in words
    assert "held-out images 3.25 1.125 0.5" in words


def test_a_missing_picture_is_left_out(tmp_path: Path) -> None:
    page = page_of(write(tmp_path / "1", picture=False))
    assert not page.pictures
    assert len(page.headings) == 10


def test_what_was_not_measured_is_left_out(tmp_path: Path) -> None:
    bare = {
        "index": None,
        "quality": [],
        "neighbours": {},
        "left_out": {},
        "candidates": [MIXTURE | {"tails": None, "certificate": None}],
    }
    page = page_of(write(tmp_path / "1", SEARCH | bare, picture=False))
    assert page.headings == ["Tails", "Candidates", "Settings"]
    assert "tail index" not in page.words


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "1")
    (folder / "search.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"search\.json"):
        write_start_report(folder)
