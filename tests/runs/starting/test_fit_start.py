"""A start through the commands: fitted and judged by held-out images, on record, and sampled from by its own run alone."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.application import SIZE, call, files

from pixelpath import log
from pixelpath.atomic import read_json
from pixelpath.models.denoiser import Denoiser
from pixelpath.runs.opened import open_run
from pixelpath.runs.prepare import read_data_of
from pixelpath.runs.starting.fit_start import known_of
from pixelpath.runs.starting.quality import QualityCurve, QualityPoint, start_pays
from pixelpath.starts.warm import check_count

TRAINED = [
    *SIZE, "--batch-size", 64, "--schedule.warmup", 10, "--steps", 60, "--every", 60, "--patch", 2, "--sampling.steps", 8,
    "--preconditioning", "edm", "--ema-decay", 0.95, "--data.held-out-share", 0.4, "--objective.noise.sigma_max", 200,
]  # fmt: skip
QUICK = ("--quality.count", 0, "--points", 128)
LEVEL = 0.3  # where starts are put by hand
NFE = {"euler": 3, "heun": 5, "heun_stochastic": 5, "euler_ancestral": 3, "dpmpp_2m": 3, "consistency": 3}  # of 3 steps


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 250 images of 4 x 4 float values: a ramp up in class 0, down in class 1, with Gaussian offset and noise."""
    folder = tmp_path_factory.mktemp("starts")
    numbers = np.random.default_rng(0)
    labels = np.arange(250) % 2
    ramp = np.where(labels == 0, 1, -1)[:, None, None, None] * np.linspace(-1, 1, 16).reshape(1, 1, 4, 4)
    images = (ramp + 0.5 * numbers.normal(size=(250, 1, 1, 1)) + 0.3 * numbers.normal(size=(250, 1, 4, 4))).astype(np.float32)
    np.savez(folder / "data.npz", images=images, labels=labels)
    return folder


def trained(place: Path, name: str, *words: object, recipe: str = "digits-diffusion") -> Path:
    """A run on the images of `place` that learned enough for its estimates to be in the right range."""
    assert call("train", recipe, "--data", place / "data.npz", "--out", place / name, *TRAINED, *words) == 0
    return place / name


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    """A run of two classes."""
    return trained(place, "run")


@pytest.fixture(scope="module")
def plain(place: Path) -> Path:
    """A run that does not use the classes, of other weights therefore."""
    return trained(place, "plain", "--no-conditional")


@pytest.fixture(scope="module")
def onestep(place: Path, run: Path) -> Path:
    """A one-step run that began with the weights of the run."""
    return trained(place, "onestep", "--init-from", run, "--steps", 12, recipe="digits-onestep")


@pytest.fixture(scope="module")
def whole(run: Path) -> Path:
    """The start that is fitted when nothing but the cost is said, with its comparison of samples."""
    assert call("start", "fit", run, "--points", 256, "--quality.count", 40, "--quality.nfe", 3, 7) == 0
    return run / "starts" / "1"


@pytest.fixture(scope="module")
def start(run: Path, place: Path) -> Path:
    """A start by class at a level of our choice."""
    return fit(run, place / "start", "--density", "moment-by-class", "--sigma", LEVEL)


def fit(run: Path, out: Path, *words: object) -> Path:
    """A start of the run in `out`."""
    assert call("start", "fit", run, "--out", out, *QUICK, *words) == 0
    return out


def document(folder: Path, name: str = "search.json") -> Any:
    return read_json(folder / name)


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one sentence with which a command ends that the words make a mistake."""
    capsys.readouterr()
    assert call(*words) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "came from inside" not in said
    plain = " ".join(said.replace("│", " ").split())
    if "full helptext" in plain:  # options that cannot be stand in a box and point to the help
        return plain
    last = said.splitlines()[-1]
    assert last.startswith("pixelpath: ")
    assert last.endswith(".")
    return last


def edited(start: Path, out: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of the start whose start.json was changed."""
    shutil.copytree(start, out)
    saved = document(out, "start.json")
    change(saved)
    (out / "start.json").write_text(json.dumps(saved))
    return out


# fitted


def test_the_folder_of_a_start_is_complete_and_agrees_with_itself(run: Path, whole: Path) -> None:
    files = {"start.json", "start.safetensors", "search.json", "report.html", "side-by-side.png"}
    assert {path.name for path in whole.iterdir()} == files
    search, about = document(whole), document(whole, "start.json")["about"]
    chosen = next(each for each in search["candidates"] if each["name"] == search["chosen"])
    assert about["name"] == search["chosen"]
    assert about["sigma"] == search["sigma"] == chosen["sigma"]
    assert about["limit"] == search["bound"]["limit"] <= search["budget"]
    assert search["bound"]["sigma"] <= search["sigma"] == chosen["sigma"]
    assert about["budget"] == search["budget"] == 0.02  # the usual one of up to 64 values
    assert about["run"] == str(run)
    assert about["checkpoint"] == "step-00000060"
    assert len(about["residual_energies"]) == 1024
    assert f"Start {search['chosen']} at sigma {search['sigma']:.3g}" in search["sentence"]
    assert f"the recipe's 8 steps takes {about['steps']} of them" in search["savings"]
    report = (whole / "report.html").read_text()
    assert search["sentence"] in report
    assert report.count("data:image/png;base64,") == 1
    assert re.search(r"Frechet distance of \d+ samples \(pixels\)", report)  # a curve of the page itself


def test_the_level_is_the_smallest_of_those_that_keep_to_the_budget(run: Path, whole: Path) -> None:
    search = document(whole)
    names = [each["name"] for each in search["candidates"]]
    assert names == ["moment", "mixture", "moment-by-class", "mixture-by-class"]
    levels = {each["name"]: each["sigma"] for each in search["candidates"]}
    assert search["sigma"] == levels[search["chosen"]]  # the certifying half may turn down the lowest
    assert levels["moment-by-class"] < levels["moment"] / 1.2  # two ramps are two Gaussians
    for each in search["candidates"]:
        assert each["limit"] <= search["budget"]
        assert each["sigma"] in [row["sigma"] for row in each["certificate"]]
        kept = [row["limit"] for row in each["certificate"] if row["sigma"] >= each["sigma"] * (1 - 1e-9)]
        assert max(kept) <= search["budget"]
        assert each["certificate"][0]["sigma"] == pytest.approx(200 * 4 / 64)


def test_the_quality_is_that_of_warm_and_cold_samples(run: Path, whole: Path) -> None:
    search = document(whole)
    recipe, cold, multistep, heun = search["quality"]
    hidden = "" if search["cold"] is None else f" from sigma {search['cold']:.3g}"
    assert [curve["name"] for curve in search["quality"]] == [
        "cold, as the recipe",
        f"cold, 2M{hidden}",
        "warm, 2M",
        "warm, Heun",
    ]
    assert [point["nfe"] for point in recipe["points"]] == [8]
    for curve, steps in ((cold, (3, 7)), (multistep, (3, 7)), (heun, (2, 4))):
        assert [(point["steps"], point["nfe"]) for point in curve["points"]] == list(zip(steps, (3, 7), strict=True))
        assert curve["few"] == 40
        assert curve["protocol"]["seeds"] == [0, 119]
        for point in curve["points"]:
            assert len(set(point["distances"])) == 3
            assert point["frechet"] == point["frechet_of_few"] == pytest.approx(sum(point["distances"]) / 3)
    compared = 40 * 3 * (8 + 3 * (3 + 7))
    assert search["spent"] == search["nfe"] + compared
    assert search["verdict"].startswith("The start needs " if search["pays"] else "No start pays here: ")
    assert search["verdict"] in (whole / "report.html").read_text()
    near = search["neighbours"]
    assert set(near) == {"held-out images", "warm samples", "cold samples"}
    opened = open_run(run)
    known = known_of(opened, read_data_of(opened, None))
    distances = torch.cdist(known.held_out[:40].flatten(1), known.training.flatten(1)).min(1).values
    assert near["held-out images"]["median"] == pytest.approx(float(distances.median()), rel=1e-4)
    assert 0.5 < near["warm samples"]["median"] / near["held-out images"]["median"] < 2.5


def curve(name: str, *points: tuple[int, float], spread: float = 0.0) -> QualityCurve:
    """Points of (evaluations, mean distance), and the std of three sets as a share of it."""
    made = tuple(
        QualityPoint(nfe, nfe, tuple(mean * (1 + spread * apart) for apart in (-1, 0, 1)), mean, mean, 0.0)
        for nfe, mean in points
    )
    return QualityCurve(name, name.split()[-1], "pixels", 0.0, 40, made, {})


RECIPE, COLD = curve("cold, as the recipe", (35, 0.05)), curve("cold, 2M", (5, 0.07), (7, 0.06), (9, 0.051), (17, 0.05))


@pytest.mark.parametrize(
    ("warm", "verdict"),
    [
        (curve("warm, 2M", (5, 0.051), (9, 0.049)), (True, "The start needs 1.8 times fewer evaluations than the best cold")),
        (
            curve("warm, 2M", (5, 0.06), (9, 0.049)),
            (False, "No start pays here: 9 evaluations (warm, 2M: 0.049 +- 0) and 9 (cold, 2M: 0.051 +- 0) reach"),
        ),
        (
            curve("warm, 2M", (5, 0.09), (9, 0.06)),
            (False, "No start pays here: the distance of warm samples is 0.06 +- 0 at best, that of cold ones 0.05 +- 0."),
        ),
        (curve("warm, 2M", (8, 0.0549)), (False, "No start pays here: the distance of warm samples is 0.0549 +- 0 at best")),
    ],
)
def test_a_start_pays_where_it_needs_fewer_evaluations_than_the_best_cold_samples(
    warm: QualityCurve, verdict: tuple[bool, str]
) -> None:
    """The goal is 0.0525, 1.05 times the least cold distance, which 2M reaches at 9 evaluations."""
    found = start_pays([RECIPE, COLD, warm])
    assert found.pays == verdict[0]
    assert found.sentence.startswith(verdict[1])


def test_a_start_that_pays_says_how_to_use_it_and_when_it_is_repaid() -> None:
    found = start_pays([RECIPE, COLD, curve("warm, Heun", (5, 0.051), (9, 0.049)), curve("warm, 2M", (5, 0.0512))])
    assert (found.nfe, found.sampler, found.saved) == (5, "Heun", 4)
    assert found.repaid(10_001) == "It is repaid after 2,501 samples."
    assert start_pays([RECIPE, COLD, curve("warm, 2M", (9, 0.05))]).repaid(10_001) == ""


def test_a_start_that_is_hardly_closer_at_fewer_evaluations_does_not_pay() -> None:
    """0.052 at 8 evaluations against 0.054 at 7: chance may have made that difference."""
    near = curve("cold, 2M", (7, 0.054), (9, 0.051), (17, 0.05))
    assert not start_pays([RECIPE, near, curve("warm, 2M", (8, 0.052))]).pays
    assert start_pays([RECIPE, near, curve("warm, 2M", (8, 0.0485))]).pays


@pytest.mark.parametrize(("spread", "pays"), [(0.15, True), (0.18, False)])
def test_a_start_pays_only_beyond_the_spread_of_the_sets(spread: float, pays: bool) -> None:
    """5 warm evaluations are 27 % closer than 5 cold ones; two standard errors are 2 (2 / 3)^(1/2) times the spread."""
    cold = curve("cold, 2M", (5, 0.07), (7, 0.06), (9, 0.051), (17, 0.05), spread=spread)
    curves = [cold, curve("warm, 2M", (5, 0.051), spread=spread)]
    assert start_pays(curves).pays == pays


def test_what_is_said_is_what_is_recorded(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with patch.object(log, "PAUSE", 0):
        out = fit(run, tmp_path / "out", "--density", "moment", "moment-by-class", "--budget", 0.01)
    said, search = capsys.readouterr().err, document(out)
    steps = [line for line in said.splitlines() if line.endswith(" left")]
    assert {"fitting densities", "candidates of a start"} <= {line.split(":")[0] for line in steps}
    assert all(len(line) <= 60 for line in steps)
    steps = document(out, "start.json")["about"]["steps"]
    assert f"{search['sentence']} {search['savings']}\n" in said
    assert f"{search['verdict']}\n" in said
    assert search["spent"] == search["nfe"]
    assert f"Search and comparison asked the network about {search['nfe']:,} images.\n" in said
    assert "% confidence (estimate " in search["sentence"]
    assert "Fitting to 144 training images, comparing on 106 held-out ones." in said
    used = f"pixelpath sample {run} --start {out} --sampler dpmpp_2m --steps {steps}\n"
    assert (used in said) == search["pays"]
    assert [each["name"] for each in search["candidates"]] == ["moment", "moment-by-class"]
    assert search["budget"] == 0.01
    assert "budget 0.01)" in search["sentence"]
    assert search["quality"] == []
    assert search["neighbours"] == {}
    assert not (out / "distance_over_nfe.png").exists()


def test_the_same_words_fit_the_same_start(run: Path, start: Path, tmp_path: Path) -> None:
    again = fit(run, tmp_path / "again", "--density", "moment-by-class", "--sigma", LEVEL)
    assert (again / "start.safetensors").read_bytes() == (start / "start.safetensors").read_bytes()
    assert (again / "start.json").read_bytes() == (start / "start.json").read_bytes()
    other = fit(run, tmp_path / "other", "--density", "moment-by-class", "--sigma", LEVEL, "--seed", 2**40)
    assert document(other, "start.json")["about"] != document(start, "start.json")["about"]


def test_a_fit_that_is_stopped_leaves_a_whole_start_or_none(run: Path, start: Path, tmp_path: Path) -> None:
    out, words = tmp_path / "out", ("start", "fit", run, *QUICK, "--density", "moment-by-class", "--sigma", LEVEL)
    for name in ("find_start", "_side_by_side"):
        with patch(f"pixelpath.runs.starting.fit_start.{name}", side_effect=KeyboardInterrupt):
            assert call(*words, "--out", out) == 130
        assert out.exists() == (name == "_side_by_side")
    for name in ("start.json", "start.safetensors"):
        assert (out / name).read_bytes() == (start / name).read_bytes()
    searches = [document(folder) for folder in (out, start)]
    assert [search["sentence"] for search in searches] == [searches[0]["sentence"]] * 2


def test_a_level_chosen_by_hand_is_used_whatever_the_budget(run: Path, start: Path) -> None:
    search = document(start)
    assert search["sigma"] == LEVEL
    assert search["bound"]["limit"] > search["budget"]
    assert f"Start moment-by-class at sigma {LEVEL:g}: at most " in search["sentence"]
    usual = [(5 ** (1 / 7) + place / 7 * (0.001 ** (1 / 7) - 5 ** (1 / 7))) ** 7 for place in range(8)]
    assert document(start, "start.json")["about"]["steps"] == sum(sigma < LEVEL for sigma in usual) == 4


def test_a_run_without_classes_has_no_families_by_class(plain: Path, tmp_path: Path) -> None:
    out = fit(plain, tmp_path / "out")
    assert [each["name"] for each in document(out)["candidates"]] == ["moment", "mixture"]
    assert call("sample", plain, "--count", 3, "--start", out, "--out", tmp_path / "samples") == 0
    assert document(tmp_path / "samples", "samples.json")["labels"] is None


def test_flipped_images_are_fitted_too_where_the_recipe_flips(run: Path) -> None:
    opened = open_run(run)
    content = read_data_of(opened, None)
    plain = known_of(opened, content)
    flipped = known_of(replace(opened, recipe=replace(opened.recipe, flip=True)), content)
    assert torch.equal(flipped.training, torch.cat([plain.training, plain.training.flip(3)]))
    as_it_was = (flipped.held_out == plain.held_out).flatten(1).all(1)
    assert int(as_it_was.sum()) == (len(plain.held_out) + 1) // 2
    assert torch.equal(flipped.held_out[~as_it_was], plain.held_out[~as_it_was].flip(3))
    assert plain.training_labels is not None
    assert flipped.training_labels is not None
    assert flipped.training_labels.tolist() == plain.training_labels.tolist() * 2


def test_a_one_step_run_on_the_same_images_begins_at_a_start(run: Path, onestep: Path, whole: Path, tmp_path: Path) -> None:
    assert call("sample", onestep, "--start", whole, "--steps", 1, "--count", 4, "--out", tmp_path / "samples") == 0
    settings = document(tmp_path / "samples", "samples.json")
    assert settings["sigmas"] == [document(whole, "start.json")["about"]["sigma"], 0]
    assert (settings["nfe"], settings["start_check_nfe"]) == (1, 0)


def test_a_start_is_found_from_another_folder_and_when_its_run_was_moved(
    run: Path, onestep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, source in (("diffusion", run), ("onestep", onestep)):
        shutil.copytree(source, tmp_path / "made" / name)
    monkeypatch.chdir(tmp_path / "made")
    fit(Path("diffusion"), Path("diffusion/starts/99"), "--density", "moment", "--sigma", 3)
    monkeypatch.chdir(tmp_path)
    for place in ("made", "moved"):
        words = ("--start", Path(place) / "diffusion/starts/99", "--steps", 1, "--count", 2)
        assert call("sample", Path(place) / "onestep", *words, "--out", tmp_path / f"samples-{place}") == 0
        (tmp_path / "made").rename(tmp_path / "moved") if place == "made" else None


def test_the_samples_of_a_one_step_run_are_a_start(run: Path, onestep: Path, tmp_path: Path) -> None:
    out = fit(run, tmp_path / "out", "--density", "samples", "--generator", onestep, "--sigma", 3)
    search, saved = document(out), document(out, "start.json")
    assert (search["chosen"], search["sigma"], search["candidates"][0]["divergence"]) == ("samples", 3, None)
    assert "sigma chosen by hand, divergence not measured" in search["sentence"]
    assert saved["metadata"]["run"] == str(onestep.resolve())
    words = ("--count", 3, "--format", "npy", "--guidance", 1, "--steps", 3)
    assert call("sample", run, *words, "--start", out, "--out", tmp_path / "samples") == 0
    assert document(tmp_path / "samples", "samples.json")["start_sigma"] == 3


# refused


MISTAKES = [
    ("--density samples", "--density samples and --generator belong together"),
    ("--generator {onestep}", "--density samples and --generator belong together"),
    ("--density", "--density needs the name of a family: auto, moment, "),
    ("--density auto moment", "--density auto compares the families that suit the data: name it alone"),
    ("--density samples --generator {onestep}", "--density samples has no log-density"),
    ("--density symlog", "--density symlog has no log-density"),
    (
        "--density samples --sigma 3 --generator {plain}",
        "was trained on other images or classes than {run}, so its samples cannot",
    ),
    ("--quality.count -1", "--quality.count must be 0 or at least 2"),
    ("--quality.count 1", "--quality.count must be 0 or at least 2"),
    ("--quality.nfe 2 0", "--quality.nfe at least 1, got 500 and (2, 0)"),
    ("--budget 0", "A budget is a number of nats above 0, got 0.0"),
    ("--budget -0.1", "A budget is a number of nats above 0, got -0.1"),
    ("--budget nan", "A budget is a number of nats above 0, got nan"),
    ("--sigma 20", "A start at sigma 20 lies outside 0.0"),
    ("--sigma -1", "A start at sigma -1 lies outside 0.0"),
    ("--sigma nan", "A start at sigma nan lies outside 0.0"),
    ("--points 1", "--points must be at least 2, got 1"),
    ("--points 0", "--points must be at least 2, got 0"),
    ("--data {other}", "are 1x4x4 float64 but"),
    (
        "--data {unlabelled}",
        "{run} makes images by class (0, 1)",
    ),
    ("--checkpoint {run}/checkpoints/step-00000099", "{run}/checkpoints/step-00000099"),
]


@pytest.mark.parametrize(("words", "sentence"), MISTAKES, ids=[words for words, _ in MISTAKES])
def test_a_mistake_of_fitting_is_one_sentence(
    words: str, sentence: str, place: Path, run: Path, plain: Path, onestep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = place / "other.npy"
    np.save(other, np.zeros((50, 1, 4, 4)))
    unlabelled = place / "unlabelled.npy"
    np.save(unlabelled, np.load(place / "data.npz")["images"])
    places = {"run": run, "plain": plain, "onestep": onestep, "other": other, "unlabelled": unlabelled}
    before = files(run)
    said = refused(capsys, "start", "fit", run, "--out", place / "new", *words.format(**places).split())
    assert sentence.format(**places) in said
    assert not (place / "new").exists()
    assert files(run) == before


def test_a_budget_out_of_reach_names_the_one_that_would_do(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "start", "fit", run, "--out", tmp_path / "out", *QUICK, "--density", "moment", "--budget", 1e-12)
    assert "No start keeps to a budget of 1e-12 nats" in said
    assert re.search(r"moment at sigma \d+\.\d+ would take a budget of", said)
    assert not (tmp_path / "out").exists()


def test_a_level_that_no_start_reaches_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At sigma 0.05 one Gaussian of two ramps has far more left for the denoiser to remove than the data."""
    said = refused(capsys, "start", "fit", run, "--out", tmp_path / "out", *QUICK, "--density", "moment", "--sigma", 0.05)
    assert "No start will do at sigma 0.05: begin at a higher one, or choose another family. moment: " in said
    assert "budget" not in said
    assert not (tmp_path / "out").exists()


def test_families_by_class_need_classes(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("moment-by-class", "mixture-by-class"):
        said = refused(capsys, "start", "fit", plain, "--out", tmp_path / "out", *QUICK, "--density", name)
        assert f"{name}: There are no classes to fit by" in said


def test_images_that_are_not_finite_are_refused(
    run: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = dict(np.load(place / "data.npz"))
    for wrong in (math.nan, math.inf):
        data["images"][7, 0, 1, 2] = wrong
        np.savez(tmp_path / "wrong.npz", **data)
        said = refused(capsys, "start", "fit", run, "--data", tmp_path / "wrong.npz", "--out", tmp_path / "out")
        assert "hold NaN or infinity: leave them out" in said


def test_only_a_diffusion_run_has_a_start(
    onestep: Path, encoder_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is a one-step model, which does not predict" in refused(capsys, "start", "fit", onestep)
    assert "is a run of stage one" in refused(capsys, "start", "fit", encoder_run)
    assert "holds no checkpoint of a run" in refused(capsys, "start", "fit", tmp_path)


def test_nothing_is_overwritten(run: Path, start: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(start)
    said = refused(capsys, "start", "fit", run, "--density", "moment", "--out", start)
    assert "is there already and not an empty folder: choose another --out" in said
    assert files(start) == before


# sampled from


def sampled(run: Path, out: Path, start: Path, *words: object) -> tuple[np.ndarray, dict[str, Any]]:
    """The images, and the settings on record."""
    assert call("sample", run, "--format", "npy", "--start", start, "--out", out, *words) == 0
    (array,) = out.glob("*.npy")
    return np.load(array), document(out, "samples.json")


def test_the_settings_of_warm_samples_are_on_record(run: Path, start: Path, tmp_path: Path) -> None:
    made = sampled(run, tmp_path / "out", start, "--count", 2, "--guidance", 1)[1]
    assert made["start"] == str(start)
    assert made["start_sigma"] == LEVEL
    assert made["start_residual_ratio"] == pytest.approx(1, abs=0.1)
    assert (made["steps"], made["nfe"]) == (4, 4)  # the share of the recipe's 8
    levels = open_run(run).noise.sigmas(4, start=LEVEL).tolist()
    assert made["sigmas"] == pytest.approx(levels)
    assert made["sigmas"][0] == pytest.approx(LEVEL)
    cold = sampled_cold(run, tmp_path / "cold")
    assert (cold["start"], cold["start_sigma"], cold["start_residual_ratio"], cold["steps"]) == (None, None, None, 8)


def sampled_cold(run: Path, out: Path) -> dict[str, Any]:
    assert call("sample", run, "--format", "npy", "--count", 2, "--out", out) == 0
    return document(out, "samples.json")


@pytest.mark.parametrize(("sampler", "guidance"), [*((sampler, 1) for sampler in NFE), ("heun", 2), ("consistency", 2)])
def test_recorded_evaluations_are_calls_of_the_network(
    sampler: str, guidance: int, run: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    calls, forward = [], Denoiser.forward

    def watched(self: Denoiser, noisy: torch.Tensor, *rest: Any) -> torch.Tensor:
        calls.append(len(noisy))
        return forward(self, noisy, *rest)

    monkeypatch.setattr(Denoiser, "forward", watched)
    words = ("--count", 5, "--batch-size", 2, "--steps", 3, "--sampler", sampler, "--guidance", guidance)
    made = sampled(run, tmp_path / "out", start, *words)[1]
    checked = check_count(16)
    assert calls[0] == checked == 625  # 4 / (16 x 0.02^2): the check of the start against the network, before anything is counted
    assert sum(calls[1:]) == 5 * NFE[sampler] * guidance
    assert made["start_check_nfe"] == checked
    assert made["nfe"] == NFE[sampler] * guidance
    assert f"{NFE[sampler] * guidance} network evaluations an image" in capsys.readouterr().err


@pytest.mark.parametrize("sampler", ["heun", "euler_ancestral"])
def test_a_warm_image_is_a_function_of_its_seed_at_any_batch_size(sampler: str, run: Path, start: Path, tmp_path: Path) -> None:
    words = ("--count", 5, "--steps", 3, "--sampler", sampler)
    whole, *parts = (sampled(run, tmp_path / str(size), start, *words, "--batch-size", size)[0] for size in (64, 1, 3))
    for part in parts:
        np.testing.assert_allclose(part, whole, rtol=0, atol=2e-5)
    later = sampled(run, tmp_path / "later", start, "--count", 2, "--first-seed", 3, "--steps", 3, "--sampler", sampler)[0]
    np.testing.assert_allclose(later, whole[3:], rtol=0, atol=2e-5)
    assert np.abs(whole[0] - whole[2]).max() > 0.05  # of one class


def test_warm_samples_keep_to_their_class(run: Path, start: Path, tmp_path: Path) -> None:
    """The start is drawn by class: the ramp of class 1 falls in every one of its images, that of class 0 rises."""
    ramp = np.linspace(-1, 1, 16).reshape(4, 4)
    for name, sign in ((0, 1), (1, -1)):
        images = sampled(run, tmp_path / str(name), start, "--count", 20, "--classes", name, "--guidance", 1)[0]
        slopes = (images[:, 0] * ramp).sum((1, 2)) / (ramp**2).sum()
        assert slopes.mean() == pytest.approx(sign, abs=0.2)
        assert (sign * slopes > 0.3).all()


def test_levels_below_a_start_may_be_named(run: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = sampled(run, tmp_path / "out", start, "--count", 2, "--sigmas", 0.125, 0.03, "--guidance", 1)[1]
    assert made["sigmas"] == pytest.approx([LEVEL, 0.125, 0.03, 0])
    assert (made["steps"], made["nfe"]) == (3, 3)
    said = refused(capsys, "sample", run, "--start", start, "--sigmas", 0.31, "--out", tmp_path / "above")
    assert f"must fall from below {LEVEL:g} to 0.001 or above" in said
    assert not (tmp_path / "above").exists()


def test_a_start_is_for_one_set_of_weights(
    run: Path, plain: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, "sample", plain, "--start", start, "--out", tmp_path / "out")
    assert f"was fitted for step-00000060 of {run}, and {plain} has other weights at step-00000060" in said
    assert f"fit one for it with `pixelpath start fit {plain}`" in said
    assert not (tmp_path / "out").exists()


def test_a_start_at_another_level_than_its_energies_is_refused(
    run: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    low = fit(run, tmp_path / "low", "--density", "moment-by-class", "--sigma", 0.15)
    wrong = edited(low, tmp_path / "wrong", lambda saved: saved["about"].update(sigma=0.15 * 1.3))
    assert "start and sigmas do not match" in refused(capsys, "sample", run, "--start", wrong, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


DAMAGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no level": (lambda saved: saved["about"].pop("sigma"), "is a start without a level or a denoiser"),
    "a level in words": (lambda saved: saved["about"].update(sigma="high"), "is a start without a level or a denoiser"),
    "no level that is null": (lambda saved: saved["about"].update(sigma=None), "is a start without a level or a denoiser"),
    "energies in words": (lambda saved: saved["about"].update(residual_energies="none"), "is a start without a level"),
    "a level of 0": (lambda saved: saved["about"].update(sigma=0.0), "needs a finite sigma above 0"),
    "a level above the range": (lambda saved: saved["about"].update(sigma=50.0), "this range runs from 0.001 to 12.5"),
    "an unknown family": (lambda saved: saved["metadata"].update(family="magic"), "of the family 'magic' is not known"),
    "no family": (lambda saved: saved["metadata"].pop("family"), "of the family None is not known"),
    "a later version": (lambda saved: saved.update(version=99), "cannot be used (it is not a start of version 2)"),
    "facts that are a list": (lambda saved: saved.update(metadata=[1]), "cannot be used"),
    "about that is a list": (lambda saved: saved.update(about=[1]), "cannot be used"),
    "a family that is a list": (lambda saved: saved["metadata"].update(family=["gaussian"]), "is not known"),
    "the hash of other tensors": (lambda saved: saved["about"].update(tensors="0"), "holds other numbers than were fitted"),
    "no facts": (lambda saved: saved.pop("metadata"), "cannot be used (it is not a start of version 2)"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_start_is_one_sentence(
    damage: str, run: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, sentence = DAMAGES[damage]
    wrong = edited(start, tmp_path / "wrong", change)
    assert sentence in refused(capsys, "sample", run, "--start", wrong, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_start_of_damaged_files_is_one_sentence(
    run: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def sentence(name: str, damage: Callable[[Path], object]) -> str:
        shutil.copytree(start, tmp_path / name)
        damage(tmp_path / name)
        return refused(capsys, "sample", run, "--start", tmp_path / name, "--out", tmp_path / "out")

    def without(folder: Path) -> None:
        tensors = load_file(folder / "start.safetensors")
        tensors.pop(sorted(tensors)[0])
        save_file(tensors, folder / "start.safetensors")

    def not_numbers(folder: Path) -> None:
        tensors = load_file(folder / "start.safetensors")
        wrong = {name: torch.full_like(value, math.nan) for name, value in tensors.items() if value.is_floating_point()}
        save_file(tensors | wrong, folder / "start.safetensors")

    assert "start.json cannot be used" in sentence("half", lambda folder: (folder / "start.json").write_text("{"))
    assert "There is no start in" in sentence("none", lambda folder: (folder / "start.json").unlink())
    assert "start.safetensors cannot be used" in sentence(
        "cut", lambda folder: (folder / "start.safetensors").write_bytes(b"nothing")
    )
    assert "start.safetensors cannot be used" in sentence("missing", lambda folder: (folder / "start.safetensors").unlink())
    assert "is incomplete" in sentence("without", without)
    assert "holds other numbers than were fitted" in sentence("nan", not_numbers)
    said = refused(capsys, "sample", run, "--start", start / "start.json", "--out", tmp_path / "out")
    assert "There is no start in" in said
    assert not (tmp_path / "out").exists()


def test_a_start_of_samples_wants_the_same_generator(
    run: Path, onestep: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = shutil.copytree(onestep, tmp_path / "onestep")
    out = fit(run, tmp_path / "start", "--density", "samples", "--generator", moved, "--sigma", 3)
    other = edited(out, tmp_path / "other", lambda saved: saved["metadata"].update(weights="0"))
    assert "has other weights than when the start was made of its samples" in refused(
        capsys, "sample", run, "--start", other, "--out", tmp_path / "out"
    )
    shutil.rmtree(moved)
    assert "There is no checkpoint" in refused(capsys, "sample", run, "--start", out, "--out", tmp_path / "out")


# evaluated


def test_cold_and_warm_curves_are_kept_and_reported(run: Path, start: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    words = ("--start", start, "--steps", "2,4", "--count", 20, "--no-use-inception", "--guidance", 1)
    assert call("evaluate", copy, *words) == 0
    (result,) = document(copy, "distance_over_nfe.json")
    cold, warm = result["curves"]
    assert [cold["name"], warm["name"]] == [
        "run (digits-diffusion)", f"run (digits-diffusion) from start moment-by-class at sigma {LEVEL:g}",
    ]  # fmt: skip
    for curve in (cold, warm):
        assert [(point["steps"], point["nfe"]) for point in curve["points"]] == [(2, 2), (4, 4)]
    assert warm["points"][0]["frechet"] < cold["points"][0]["frechet"] / 5
    assert warm["name"] in (copy / "report.html").read_text()


def test_one_evaluation_is_of_warm_samples_alone(run: Path, start: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    assert call("evaluate", copy, "--start", start, "--count", 20, "--no-use-inception", "--guidance", 1) == 0
    (result,) = document(copy, "evaluation.json")
    assert result["sampling"]["start_sigma"] == LEVEL
    assert result["sampling"]["nfe"] == 4
    assert result["distances"][0]["protocol"]["nfe"] == 4


def test_a_start_belongs_to_one_run(run: Path, plain: Path, start: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(run)
    said = refused(capsys, "evaluate", run, plain, "--start", start, "--steps", "2,4")
    assert f"--start {start} belongs to one run, and 2 are named" in said
    assert files(run) == before


def test_the_search_shows_its_progress(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "PAUSE", 0)
    assert call("start", "fit", run, "--out", tmp_path / "out", "--sigma", 5, *QUICK) == 0
    said = {line.split(":")[0] for line in capsys.readouterr().err.splitlines() if line.endswith(" left")}
    assert said == {"fitting densities", "certificate", "candidates of a start"}


def test_a_run_with_numbers_as_conditions_has_no_start(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "numbers.csv"
    table.write_text("\n".join(["offset", *(str(number / 250) for number in range(250))]))
    run = trained(place, "numbers", "--data.conditions", table, "--steps", 2)
    said = refused(capsys, "start", "fit", run)
    assert said.endswith(
        "takes numbers or images as conditions, and a start is a density of images alone: fit starts to runs without such "
        "conditions."
    )
    assert not (run / "starts").exists()
