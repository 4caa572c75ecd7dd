"""Evaluations through the command: complete, appended, and measured against what they say."""

import json
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from tests.application import call, train

from pixelpath.commands.evaluate import numbers_of
from pixelpath.data import sources
from pixelpath.evaluation import statistics
from pixelpath.evaluation.distances import frechet
from pixelpath.evaluation.features import WIDEST, Pixels, extract, fewer
from pixelpath.randomness import Streams, normal, seed_of
from pixelpath.reports.names import NAMES
from pixelpath.reports.page import text
from pixelpath.runs.measuring.comparison import Real
from pixelpath.runs.measuring.evaluate import loss_by_level, summary
from pixelpath.runs.measuring.verdict import verdict
from pixelpath.runs.opened import open_run
from pixelpath.runs.prepare import read_data_of
from pixelpath.runs.sample_conditions import as_held_out
from pixelpath.types import classes_of


def results(run: Path) -> list[dict]:
    return json.loads((run / "evaluation.json").read_text())


@pytest.fixture(autouse=True)
def undrawn() -> Iterator[None]:
    """Pictures, most of the time of a tiny evaluation, are drawn only for `evaluated`."""
    with patch("pixelpath.runs.measuring.evaluate.save_pictures"):
        yield


@pytest.fixture(scope="module")
def evaluated(diffusion_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run of stage two, evaluated twice: other tests evaluate the run itself, before or after."""
    run = shutil.copytree(diffusion_run, tmp_path_factory.mktemp("evaluated") / "run")
    (run / "evaluation.json").unlink(missing_ok=True)
    for seed in (0, 12):
        words = ("--count", 12, "--first-seed", seed, "--guidance", 1, "--no-use-inception")
        assert call("evaluate", run, *words) == 0
    return run


def test_evaluating_twice_appends(evaluated: Path) -> None:
    first, second = results(evaluated)
    assert first["sampling"]["seeds"] == [0, 11]
    assert second["sampling"]["seeds"] == [12, 23]
    for name in ("held_out", "nearest", "spectrum", "histograms"):
        assert (evaluated / f"{name}.png").exists(), name


def test_every_number_has_its_protocol(evaluated: Path) -> None:
    result = results(evaluated)[0]
    assert [row["features"] for row in result["distances"]] == ["pixels", "encoder"]
    hashes = [row["protocol"]["extractor_hash"] for row in result["distances"]]
    assert len(set(hashes)) == 2
    for row in result["distances"]:
        protocol = row["protocol"]
        expected = {
            "real": 36, "generated": 12, "labels": "in the shares of training images, 2 classes",
            "images": "3x8x8 uint8, as stored",
            "sampler": "dpmpp_2m", "steps": 2, "nfe": 2, "guidance": 1, "seeds": [0, 11],
        }  # fmt: skip
        assert {key: protocol[key] for key in expected} == expected
        assert row["few"] == 4  # as many as held-out images
        assert row["frechet"] >= 0
        assert row["frechet_floor_of_few"] > 0
        assert row["frechet_floor_of_training"] > 0


def test_every_number_has_a_name_on_pages(evaluated: Path) -> None:
    """Keys of one word are read as they are; others and abbreviations need a name."""

    def keys(tree: object) -> set[str]:
        if isinstance(tree, list):
            return set().union(*map(keys, tree))
        return set(tree) | set().union(*map(keys, tree.values())) if isinstance(tree, dict) else set()

    found = keys(results(evaluated))
    assert {"frechet_of_few", "nfe", "closer_error"} <= found
    assert {key for key in found if "_" in key} - set(NAMES) == set()


def test_classes_are_sampled_as_often_as_they_are_among_training_images(evaluated: Path) -> None:
    """Else another mix of classes would count as a distance; of images of other classes nothing is known, so they are in turn."""
    run = open_run(evaluated)
    data = read_data_of(run, None)
    rows = [index for index in range(36) if data.training.label(index) == 0 or index % 3 == 0]
    few = replace(data, training=sources.subset(data.training, rows))
    share = np.mean([few.training.label(index) for index in range(len(rows))])
    assert abs(share - 0.5) > 0.1
    sampled = classes_of(as_held_out(run, few, range(5, 205)))
    assert sampled.double().mean() == pytest.approx(share, abs=0.01)
    other = replace(few, training=sources.Arrays(np.zeros((2, 3, 8, 8), np.uint8), np.array([0, 1]), ("cat", "dog")))
    assert classes_of(as_held_out(run, other, range(4))).tolist() == [0, 1, 0, 1]


def test_real_images_are_at_distance_0_from_themselves(evaluated: Path) -> None:
    data = read_data_of(open_run(evaluated), None)
    found = extract(Pixels(), Real(data).batches(data.training))
    assert found.shape == (36, 192)
    assert frechet(statistics.of(found), statistics.of(found)) == pytest.approx(0, abs=1e-6)
    assert frechet(statistics.of(found), statistics.of(found + 0.1)) == pytest.approx(192 * 0.01, rel=1e-4)


def test_the_held_out_loss_of_a_level_is_the_mean_squared_error(evaluated: Path) -> None:
    run = open_run(evaluated)
    data = read_data_of(run, None)
    rows = loss_by_level(run, data)
    assert [row.sigma for row in rows] == pytest.approx(np.geomspace(rows[0].sigma, rows[-1].sigma, 10).tolist())
    assert rows[0].sigma == pytest.approx(run.noise.sigma_min / 8)
    assert rows[-1].sigma == pytest.approx(run.noise.sigma_max / 8)
    images = run.normaliser.encode(torch.from_numpy(sources.gather(data.held_out, range(4))))
    labels = torch.from_numpy(sources.labels(data.held_out))
    draws = list(normal(Streams(seed_of(index) for index in range(4)), (3, 8, 8)))
    sigma = torch.tensor(rows[4].sigma)
    estimate = run.denoiser(images + sigma * torch.stack(draws), sigma, labels)
    assert rows[4].loss == pytest.approx(float(((estimate - images) ** 2).mean()), rel=1e-5)
    assert rows[4].count == 4


def test_without_held_out_images_training_images_make_the_floor(plain_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("evaluate", plain_run, "--count", 8) == 0
    said = capsys.readouterr().err
    assert "Inception features need 8-bit images of 1 or 3 channels: left out." in said
    assert "No encoder of stage one" in said
    assert "Fewer than 2 held-out images" in said
    result = results(plain_run)[-1]
    assert result["held_out_loss"] == []
    assert result["distances"][0]["few"] == 6  # half of the 12 training images
    assert [row["features"] for row in result["distances"]] == ["pixels", "own network"]
    assert result["loss_gap"] is None
    assert [set(row) for row in result["copies"]["closeness"]] == [
        {"features", "samples", "training", "held_out", "protocol"}
    ] * 2
    assert "Without held-out images, near copies cannot be told from others." in said


def test_a_light_evaluation_measures_pixels_alone_and_no_losses(plain_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(plain_run, tmp_path / "run")
    assert call("evaluate", run, "--count", 6, "--no-use-inception", "--no-use-own", "--losses", 0) == 0
    found = results(run)[-1]
    assert [row["features"] for row in found["distances"]] == ["pixels"]
    assert (found["held_out_loss"], found["loss_gap"]) == ([], None)


def test_an_encoder_of_another_resolution_is_left_out_or_refused(
    pictures: Path, encoder_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train("digits-diffusion", pictures, run, "--encoder", encoder_run, "--data.resize", 16, 16) == 0
    assert call("evaluate", run, "--count", 6, "--no-use-inception") == 0
    assert "takes images of 3x8x8, not 3x16x16, so its features are left out" in capsys.readouterr().err
    assert call("evaluate", run, "--count", 6, "--no-use-inception", "--encoder", encoder_run) == 2


def test_other_images_may_be_given(diffusion_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.npy"
    np.save(other, np.random.default_rng(2).integers(0, 255, (30, 3, 16, 8), dtype=np.uint8))
    assert call("evaluate", diffusion_run, "--data", other, "--count", 6, "--no-use-inception") == 0
    said = capsys.readouterr().err
    assert "measured without labels" in said
    assert "not the images that the run was trained on" in said
    assert results(diffusion_run)[-1]["copies"] is results(diffusion_run)[-1]["loss_gap"] is None
    protocol = results(diffusion_run)[-1]["distances"][0]["protocol"]
    assert 20 < protocol["real"] < 30
    assert protocol["images"] == "3x8x8 uint8, resized by the shorter side, cropped at the centre"


def test_the_summary_has_a_line_for_every_kind_of_features(evaluated: Path) -> None:
    result = results(evaluated)[0]
    lines = summary(result).splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["features", "pixels", "encoder"]
    assert len(lines) == 6
    assert float(lines[1].split()[1]) == pytest.approx(result["distances"][0]["frechet"], rel=1e-3)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((1, 8, 8), None), ((3, 32, 32), None), ((1, 64, 64), None), ((3, 64, 64), (32, 32)), ((3, 512, 256), (32, 16))],
)
def test_pixels_of_large_images_are_halved_until_their_covariance_can_be_held(
    shape: tuple[int, int, int], expected: tuple[int, int] | None
) -> None:
    found = fewer(shape)
    assert found == expected
    assert shape[0] * math.prod(found or shape[1:]) <= WIDEST


@pytest.mark.parametrize(
    ("words", "expected"), [("", []), ("4", [4]), ("1,2,16", [1, 2, 16]), ("8, 2 ,8", [2, 8]), ("010", [10])]
)
def test_numbers_of_steps(words: str, expected: list[int]) -> None:
    assert numbers_of(words) == expected


@pytest.mark.parametrize("words", ["0", "1,,2", "1,-2", "a", "1.5", "1;2", ","])
def test_other_words_are_no_numbers_of_steps(words: str, diffusion_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("evaluate", diffusion_run, "--steps", words) == 2
    sentence = f"pixelpath: --steps takes numbers from 1 on with commas between them, as in 1,2,4,8, got {words}.\n"
    assert capsys.readouterr().err == sentence


def test_one_number_is_a_full_evaluation(diffusion_run: Path) -> None:
    assert call("evaluate", diffusion_run, "--steps", 3, "--count", 4, "--no-use-inception") == 0
    result = results(diffusion_run)[-1]
    assert result["sampling"]["steps"] == 3
    assert len(result["held_out_loss"]) == 10


def test_a_one_step_run_is_evaluated_in_one_step(onestep_run: Path) -> None:
    assert call("evaluate", onestep_run, "--count", 8, "--no-use-inception") == 0
    protocol = results(onestep_run)[-1]["distances"][1]["protocol"]
    expected = {"extractor": "encoder", "sampler": "consistency", "steps": 1, "nfe": 1, "guidance": 1}
    assert {key: protocol[key] for key in expected} == expected


def test_the_report_is_written_again_and_begins_with_the_verdict(evaluated: Path) -> None:
    page = (evaluated / "report.html").read_text(encoding="utf-8")
    said = verdict(results(evaluated)[-1])
    places = [page.index(text(sentence)) for sentence in said]
    assert len(said) == 3  # distance, spectrum (of a network that has hardly learned), copies
    assert max(places) < page.index("<nav")


def test_no_two_columns_of_a_table_have_one_name(evaluated: Path) -> None:
    page = (evaluated / "report.html").read_text(encoding="utf-8")
    heads = [re.findall(r"<th(?: [^>]*)?>(.*?)</th>", head) for head in re.findall(r"<thead>(.*?)</thead>", page)]
    assert len(heads) > 5
    assert [head for head in heads if len(set(head)) < len(head)] == []
