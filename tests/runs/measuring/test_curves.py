"""Curves of distance over network evaluations: each point equals a single evaluation, every run keeps all curves."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from tests.application import call, files, train

from pixelpath.runs.measuring import curves as module

HEAD = ("--count", 12, "--guidance", 1)


def curves(run: Path) -> list[list[dict]]:
    return [result["curves"] for result in json.loads((run / "distance_over_nfe.json").read_text())]


@pytest.fixture(scope="module")
def runs(diffusion_run: Path, onestep_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A diffusion run and a one-step run, copied, measured together at 1 and 3 steps."""
    folder = tmp_path_factory.mktemp("curves")
    copies = folder / "diffusion", folder / "onestep"
    for run, copy in zip((diffusion_run, onestep_run), copies, strict=True):
        shutil.copytree(run, copy)
    assert call("evaluate", *copies, "--steps", "3,1", *HEAD) == 0
    return copies


def test_two_runs_are_two_curves_in_each_kind_of_features(runs: tuple[Path, Path]) -> None:
    (found,) = curves(runs[0])
    expected = [
        (name, kind) for name in ("diffusion (digits-diffusion)", "onestep (digits-onestep)") for kind in ("pixels", "encoder")
    ]
    assert [(curve["name"], curve["features"]) for curve in found] == expected
    assert [[point["steps"] for point in curve["points"]] for curve in found] == [[1, 3]] * 4
    assert [[point["nfe"] for point in curve["points"]] for curve in found] == [[1, 3]] * 4
    assert [curve["protocol"]["sampler"] for curve in found] == ["dpmpp_2m", "dpmpp_2m", "consistency", "consistency"]
    assert len({curve["protocol"]["extractor_hash"] for curve in found}) == 2  # both runs in the features of one encoder
    assert all(point["seconds"] > 0 for curve in found for point in curve["points"])


def test_a_point_is_what_a_single_evaluation_of_these_seeds_gives(runs: tuple[Path, Path]) -> None:
    for run, steps in ((runs[0], 3), (runs[1], 1)):
        assert call("evaluate", run, "--steps", steps, *HEAD, "--no-use-inception") == 0
        alone = json.loads((run / "evaluation.json").read_text())[-1]["distances"]
        together = [curve for curve in curves(run)[0] if Path(curve["run"]) == run]
        assert len(alone) == len(together) == 2
        for single, curve in zip(alone, together, strict=True):
            (point,) = [point for point in curve["points"] if point["steps"] == steps]
            assert point["frechet"] == pytest.approx(single["frechet"], rel=1e-6)
            assert point["frechet_of_few"] == pytest.approx(single["frechet_of_few"], rel=1e-6)
            assert (curve["floor"], curve["few"]) == (pytest.approx(single["frechet_floor_of_few"], rel=1e-6), 4)
            assert point["nfe"] == single["protocol"]["nfe"]
            alike = single["protocol"] | {"steps": None, "nfe": None}
            assert curve["protocol"] == {key: alike[key] for key in curve["protocol"]}


def test_every_run_keeps_all_curves_and_shows_them(runs: tuple[Path, Path]) -> None:
    first, second = runs
    assert curves(first) == curves(second)
    before = curves(first)
    assert call("evaluate", first, "--steps", "1,2", "--guidance", 2) == 0
    assert curves(first)[:-1] == before
    assert curves(second) == before
    assert [point["nfe"] for point in curves(first)[-1][0]["points"]] == [2, 4]  # guided: each with and without its label
    assert curves(first)[-1][0]["protocol"]["generated"] == 4  # as many as held-out images, if no count is given
    with Image.open(first / "distance_over_nfe.png") as newer, Image.open(second / "distance_over_nfe.png") as older:
        assert newer != older
    page = (first / "report.html").read_text()
    assert page.index("Distance over network evaluations (NFE)") < page.index("Earlier curves")
    assert "onestep (digits-onestep)" in page
    assert "Earlier curves" not in (second / "report.html").read_text()


def test_real_images_are_looked_at_once(runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    real_statistics = module.real_statistics
    monkeypatch.setattr(module, "real_statistics", lambda *words: looked.append(words[0].name) or real_statistics(*words))
    monkeypatch.setattr(module, "write", lambda *words: None)
    assert call("evaluate", *runs, "--steps", "1,2,3", "--count", 3) == 0
    assert looked == ["pixels", "encoder"]


def test_runs_without_numbers_are_measured_as_their_recipes_say(runs: tuple[Path, Path], tmp_path: Path) -> None:
    copies = [shutil.copytree(run, tmp_path / run.name) for run in runs]
    for run in copies:
        (run / "distance_over_nfe.json").unlink()
    assert call("evaluate", *copies, "--count", 3, "--guidance", 1) == 0
    (found,) = curves(copies[1])
    assert [(point["steps"], point["nfe"]) for curve in found[::2] for point in curve["points"]] == [(2, 2), (1, 1)]


def test_progress_is_a_line_for_every_point(diffusion_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = shutil.copytree(diffusion_run, tmp_path / "run")
    assert call("evaluate", run, "--steps", "1,2,4", "--count", 2) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("run (digits-diffusion): steps")]
    assert [line.split()[3] for line in said] == ["1,", "2,", "4,"]


def test_mistakes_are_told_before_anything_is_measured(
    runs: tuple[Path, Path], plain_run: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = runs
    broken = shutil.copytree(second, tmp_path / "broken")
    (broken / "distance_over_nfe.json").write_text("{")
    other = tmp_path / "other"
    assert train("digits-diffusion", pictures, other, "--data.held-out-share", 0.5) == 0
    checkpoint = first / "checkpoints" / "step-00000006"
    before = files(first)
    twice = first.parent / "onestep" / ".." / "diffusion"
    for words, named in (
        ((first, plain_run), (plain_run, first)),
        ((first, other), (other, first)),  # another split, another normaliser
        ((first, second, twice), (first, "twice")),
        ((first, broken), (broken / "distance_over_nfe.json",)),
        ((first, second, "--checkpoint", checkpoint), ("checkpoint",)),
        ((first, "--steps", "1,2", "--sigmas", 3), ("steps", "sigmas")),
        ((first, "--steps", "1,2", "--count", 1), ("count", "got 1")),
        ((), ()),
    ):
        capsys.readouterr()
        assert call("evaluate", *words) == 2, words
        said = capsys.readouterr().err.splitlines()
        assert all(str(part) in said[-1] for part in named), said
        assert not [line for line in said if "network evaluations" in line]
    assert files(first) == before
