"""Tuned sampling: what is chosen is what sampling follows, and what is reported is measured on seeds that chose nothing."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from tests.application import call

import pixelpath as pp
from pixelpath.data.sources import Arrays
from pixelpath.evaluation.tails import ValueTail
from pixelpath.runs.opened import open_run
from pixelpath.runs.prepare import read_data_of
from pixelpath.runs.tune import Tune, tune_run
from pixelpath.runs.ways import ratios

COUNTS = ("--count", 6, "--reported", 5)


@pytest.fixture(scope="module")
def tuned(diffusion_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was tuned for 2 and 3 evaluations."""
    run = shutil.copytree(diffusion_run, tmp_path_factory.mktemp("tuned") / "run")
    assert call("tune", run, "--nfe", 2, 3, *COUNTS) == 0
    return run


def newest(run: Path) -> dict[str, Any]:
    return json.loads((run / "sampling.json").read_text())[-1]


def made(run: Path, out: Path, *words: object) -> dict[str, Any]:
    assert call("sample", run, "--count", 2, "--out", out, *words) == 0
    return json.loads((out / "samples.json").read_text())


def sigmas(row: dict[str, Any]) -> Any:
    return pytest.approx([row["sigma_max"], *row["sigmas"], 0])


def test_every_way_is_compared_with_guidance_and_without(tuned: Path) -> None:
    result = newest(tuned)
    assert [table["guidance"] for table in result["tables"]] == [1.0, 1.5]
    for table in result["tables"]:
        assert {row["nfe"] for row in table["candidates"]} == {2, 3}
        assert {row["sampler"] for row in table["candidates"]} == {"dpmpp_2m", "heun"}
        assert [(row["name"], row["nfe"]) for row in table["controls"]] == [("heun from sigma 80", 35), ("as the recipe says", 2)]
        for nfe, chosen in zip((2, 3), table["chosen"], strict=True):
            ways = [row["searched"] for row in table["candidates"] if row["nfe"] == nfe]
            score = [way["pixels"] * way["encoder"] for way in ways]
            assert chosen["searched"]["pixels"] * chosen["searched"]["encoder"] == pytest.approx(min(score))
            assert sum("learned" in row["name"] for row in table["candidates"] if row["nfe"] == nfe) == 2
        assert [row["default"] for row in table["chosen"]].count(True) == 1
        for row in table["chosen"]:
            assert row["ratio"] == ratios(row["reported"], table["controls"][0]["reported"])
    assert "dpmpp_2m from sigma 10" in (tuned / "tuning.html").read_text()


def test_held_out_images_of_another_law_are_not_searched_by(
    tuned: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = open_run(shutil.copytree(tuned, tmp_path / "run"))
    data = read_data_of(run, None)
    bright = Arrays(np.full((100, *data.shape), 250, np.uint8), np.arange(100) % 2, data.training.classes)
    choices = Tune(nfe=(2,), guidance=(1.0,), count=4, reported=4, learned=False, controls=False)
    with caplog.at_level(logging.INFO, "pixelpath"):
        assert tune_run(run, replace(data, held_out=bright), choices)["searched"]["compared_with"] == "training images"
    assert "Held-out images are " in caplog.text
    assert tune_run(run, data, choices)["searched"]["compared_with"] == "held-out images"


def test_reported_numbers_are_of_seeds_that_chose_nothing(tuned: Path) -> None:
    result = newest(tuned)
    assert result["searched"] == {"seeds": [0, 5], "compared_with": "held-out images"}
    assert result["reported"] == {"seeds": [[6, 10], [11, 15], [16, 20]], "compared_with": "training images"}
    row = result["tables"][0]["chosen"][1]
    words = ("--nfe", 3, "--guidance", 1, "--first-seed", 11, "--count", 5, "--no-use-inception")
    assert call("evaluate", tuned, *words) == 0
    alone = json.loads((tuned / "evaluation.json").read_text())[-1]["distances"]
    for distance in alone:
        assert row["reported"][distance["features"]][1] == pytest.approx(distance["frechet"], rel=1e-6)


def test_sampling_follows_the_chosen_row(tuned: Path, diffusion_run: Path, tmp_path: Path) -> None:
    plain, guided = newest(tuned)["tables"]
    for place, (words, rows) in enumerate({("--guidance", 1): plain["chosen"], (): guided["chosen"]}.items()):
        for nfe, row in zip((2, 3), rows, strict=True):
            found = made(tuned, tmp_path / f"{place}{nfe}", "--nfe", nfe, *words)
            assert (found["sampler"], found["sigmas"]) == (row["sampler"], pytest.approx([row["sigma_max"], *row["sigmas"], 0]))
        (default,) = [row for row in rows if row["default"]]
        assert made(tuned, tmp_path / f"{place}", *words)["sigmas"] == pytest.approx(
            [default["sigma_max"], *default["sigmas"], 0]
        )
    for name, words in {"steps": ("--steps", 3), "untuned": ("--nfe", 5), "sampler": ("--nfe", 3, "--sampler", "heun")}.items():
        own, other = (made(run, tmp_path / f"{name}{run.parent.name}", *words)["sigmas"] for run in (tuned, diffusion_run))
        assert own == other


def test_another_checkpoint_is_not_sampled_as_tuned(tuned: Path, tmp_path: Path) -> None:
    found = made(tuned, tmp_path / "out", "--checkpoint", tuned / "checkpoints" / "step-00000003", "--guidance", 1)
    assert found["sigmas"][:2] == pytest.approx([10.0, 0.002])  # the recipe's two steps


def test_a_result_is_added_to_the_earlier_ones(tuned: Path) -> None:
    run = pp.load(tuned, device="cpu")
    before = json.loads((tuned / "sampling.json").read_text())
    result = run.tune(choices=pp.Tune(nfe=(2,), count=4, reported=4))
    assert json.loads((tuned / "sampling.json").read_text()) == [*before, result]
    (tuned / "sampling.json").write_text(json.dumps(before))


def test_sigmas_are_learned_for_few_evaluations_only(diffusion_run: Path, tmp_path: Path) -> None:
    run = pp.load(shutil.copytree(diffusion_run, tmp_path / "run"), device="cpu")
    with patch("pixelpath.runs.tune._learn", lambda judge, way, seeds: way.sampling):
        result = run.tune(choices=pp.Tune(nfe=(7, 8), guidance=(1.0,), count=4, reported=4))
    learned = [row["nfe"] for row in result["tables"][0]["candidates"] if "learned" in row["name"]]
    assert learned == [7, 7]


def test_what_cannot_be_tuned_is_refused(onestep_run: Path, tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, part in (((onestep_run,), "one-step"), ((tuned, "--nfe", 1), "--nfe"), ((tuned, "--count", 1), "--count")):
        assert call("tune", *words) == 2
        assert part in capsys.readouterr().err
    kept = (tuned / "sampling.json").read_text()
    (tuned / "sampling.json").write_text('[{"checkpoint": "step-00000006"}]')
    assert call("sample", tuned, "--count", 1) == 2
    assert "sampling.json cannot be used" in capsys.readouterr().err
    (tuned / "sampling.json").write_text(kept)


def test_a_light_tuning_learns_no_sigmas_and_reports_no_controls(diffusion_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(diffusion_run, tmp_path / "run")
    assert call("tune", run, "--nfe", 2, "--guidance", 1, *COUNTS, "--no-learned", "--no-controls") == 0
    (table,) = newest(run)["tables"]
    assert [row["name"] for row in table["candidates"]] == [f"dpmpp_2m from sigma {first}" for first in ("80", "10", "5")]
    assert table["controls"] == []
    assert made(run, tmp_path / "made", "--guidance", 1)["sigmas"] == sigmas(table["chosen"][0])


def test_without_an_encoder_features_of_the_network_itself_count(diffusion_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(diffusion_run, tmp_path / "run")
    (folder / "origin.json").write_text(json.dumps({"encoder": None, "init_from": None}))
    few = pp.Tune(nfe=(2,), guidance=(1.0,), count=4, reported=4, learned=False, controls=False)
    run = pp.load(folder, device="cpu")
    for use_own, names in ((True, ["pixels", "own network"]), (False, ["pixels"])):
        result = run.tune(choices=replace(few, use_own=use_own))
        assert result["features"] == list(result["tables"][0]["chosen"][0]["reported"]) == names


def test_heavy_tails_try_stochastic_heun_and_are_measured(diffusion_run: Path, tmp_path: Path) -> None:
    """Tails are those of channel 0, whose values have a median of 40 and a .999 quantile of distances of 90."""
    folder = shutil.copytree(diffusion_run, tmp_path / "run")
    run = pp.load(folder, device="cpu")
    with patch("pixelpath.runs.tune.value_tails", lambda values, channels: (ValueTail(0, 40.0, 90.0),)):
        run.tune(choices=pp.Tune(nfe=(2, 3), guidance=(1.0,), count=6, reported=5, learned=True))
    (table,) = newest(folder)["tables"]
    assert {(row["sampler"], row["nfe"]) for row in table["candidates"]} == {
        ("dpmpp_2m", 2), ("dpmpp_2m", 3), ("heun", 3), ("heun_stochastic", 3)
    }  # fmt: skip
    assert not any("learned" in row["name"] for row in table["candidates"] if row["sampler"] == "heun_stochastic")
    for row in table["candidates"]:
        if row["sampler"] == "heun_stochastic" or row["nfe"] == 2:
            words = ("--guidance", 1, "--sampler", row["sampler"], "--sigma-max", row["sigma_max"], "--sigmas", *row["sigmas"])
            out = tmp_path / f"{row['name']} {row['nfe']}"
            assert call("sample", folder, "--count", 6, "--format", "npy", "--out", out, *words) == 0
            (file,) = out.glob("*.npy")
            values = np.load(file)[:, 0].astype(float)
            assert row["tail_error"] == pytest.approx(np.quantile(np.abs(values - 40), 0.999) / 90 - 1, abs=1e-9)
    assert all(len(row["tail_errors"]) == 3 for row in [*table["chosen"], *table["controls"]])
    assert "heavy tail" in (folder / "tuning.html").read_text()


def test_light_tails_change_nothing(tuned: Path) -> None:
    for table in newest(tuned)["tables"]:
        rows = [*table["candidates"], *table["chosen"], *table["controls"]]
        assert not any("tail_error" in row or "tail_errors" in row for row in rows)
    assert "tail error" not in (tuned / "tuning.html").read_text()
