"""What runs are called in a list: told apart by folder, kind and data."""

from __future__ import annotations

import json
from pathlib import Path

from pixelpath.runs.titles import names, titles


def run(path: Path, kind: str, data: str | None) -> Path:
    """The folder of a run with as much of a recipe as its title needs."""
    path.mkdir(parents=True)
    (path / "recipe.json").write_text(json.dumps({"objective": {"type": kind}, "data": {"path": data}}))
    return path


def test_runs_of_one_name_are_told_apart_by_their_folders() -> None:
    assert names([Path("/a/one/run"), Path("/a/two/else")]) == ["run", "else"]
    assert names([Path("/a/one/run"), Path("/a/two/run")]) == ["one/run", "two/run"]
    assert names([Path("/run")]) == ["run"]


def test_a_title_has_the_fit_the_kind_and_the_data(tmp_path: Path) -> None:
    fits = [run(tmp_path / name / "diffusion", "Denoising", f"/data/{name}") for name in ("faces", "rain")]
    fits.append(run(tmp_path / "rain" / "onestep", "Consistency", "/data/rain"))
    for name in ("faces", "rain"):
        (tmp_path / name / "fit.json").write_text("{}")
    alone = run(tmp_path / "fine", "RepresentationLearning", "/data/rain.nc")
    memory = run(tmp_path / "memory", "Denoising", None)
    (broken := tmp_path / "broken").mkdir()
    (broken / "recipe.json").write_text("{")
    assert titles([*fits, alone, memory, broken]) == [
        "faces: diffusion",
        "rain: diffusion",
        "rain: one-step",
        "fine: encoder, rain.nc",
        "memory: diffusion",
        "broken",
    ]


def test_titles_that_would_be_the_same_name_more_folders(tmp_path: Path) -> None:
    alike = [run(tmp_path / name / "first", "Denoising", "/data/rain") for name in ("one", "two")]
    assert titles(alike) == ["one/first: diffusion, rain", "two/first: diffusion, rain"]
