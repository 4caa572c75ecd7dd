"""Every mistake that a user can make is told in one sentence: what, where, and what to do."""

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.application import TINY, at_step, call, files, train

from pixelpath import cli
from pixelpath.errors import Stopped

NO_MEMORY = "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."

ONE, TWO = (f"train {stage} --out {{new}} {' '.join(TINY[stage])} --steps 6" for stage in ("digits-encoder", "digits-diffusion"))
ON_ONE, ON_TWO = f"{ONE} --data {{pictures}}", f"{TWO} --data {{pictures}}"

MISTAKES: list[tuple[str, str]] = [  # what is typed, and what the answer names: flags, values, files, remedies
    # the command line
    ("trian", "trian | train"),
    ("train digits-encodr --out {new}", "digits-encodr | digits-encoder | pixelpath recipes"),
    ("train digits-encoder", "--out"),
    ("train --out {new}", "cpu-32-diffusion | pixelpath recipes"),
    (f"{ON_TWO} --step 3", "--step | --steps | --help-all"),
    (f"{ON_TWO} --projector.hidden 3", "--projector.hidden | encoder"),
    (f"{ON_TWO} --size tinny", "--size | tinny | tiny"),
    (f"{ON_TWO} --steps many", "--steps | many"),
    (f"{ON_TWO} --objective.weight flat --objective.weight.count 3", "count | flat"),
    ("audit {pictures} --recipe digits-encodr", "digits-encodr | digits-encoder"),
    # numbers
    (f"{ON_ONE} --steps 0", "--steps | 0"),
    (f"{ON_ONE} --batch-size 0", "--batch-size | 0"),
    (f"{ON_ONE} --batch-size 1", "--batch-size | 2"),
    (f"{ON_ONE} --accumulate 3", "--batch-size | 8 | 3"),
    ("train digits-onestep --data {pictures} --objective.features contrastive --accumulate 2 --out {new}", "--accumulate"),
    (f"{ON_ONE} --every 0", "--every | 0"),
    (f"{ON_ONE} --keep 0", "--keep | 0"),
    (f"{ON_ONE} --ema-decay 1", "--ema-decay | 1.0 | 0.999"),
    (f"{ON_ONE} --objective.noise.sigma_min -1", "--objective.noise.sigma-min | -1"),
    (f"{ON_ONE} --objective.noise.shift 2", "--objective.noise.shift"),
    (f"{ON_ONE} --augmentation.flip 2", "--augmentation.flip | 2"),
    (f"{ON_ONE} --lr 0", "--optimizer.lr | 0"),
    (f"{ON_ONE} --size.encoder.heads 5", "32 | 5 heads"),
    (f"{ON_TWO} --size.encoder.depth 2", "depth"),
    (f"{ON_TWO} --device cuda:7", "--device | cuda:7"),
    (f"{ON_TWO} --device nonsense", "--device | nonsense"),
    # data
    (TWO, "--data"),
    (f"{TWO} --data {{tmp}}/nowhere", "{tmp}/nowhere | --data"),
    (f"{TWO} --data {{empty}}", "{empty}"),
    (f"{TWO} --data {{text}}", "{text}"),
    (f"{TWO} --data {{broken}}", "{broken}/a.png | --data.skip-broken"),
    (f"{TWO} --data {{mixed}}", "{mixed}/2.png | --data.resize"),
    (f"{TWO} --data {{nan}}", "NaN | --data.nodata"),
    (f"{ON_TWO} --patch 3", "3 | --data.resize"),
    (f"{ON_TWO} --patch 0", "--patch | 0"),
    (f"{ON_TWO} --data.held-out-share 1", "--data.held-out-share | 1.0"),
    # where a run begins
    (f"{ON_ONE} --encoder {{encoder}}", "--init-from {encoder}"),
    (f"{ON_ONE} --init-from {{diffusion}}", "{diffusion} | stage two"),
    (f"{ON_TWO} --encoder {{diffusion}}", "{diffusion} | stage two"),
    (f"{ON_TWO} --init-from {{encoder}}", "--encoder | {encoder}"),
    (f"{ON_TWO} --encoder {{encoder}} --init-from {{diffusion}}", "--encoder | --init-from"),
    (f"{ON_TWO} --encoder {{empty}}", "{empty}"),
    (f"{ON_TWO} --encoder {{tmp}}/nowhere", "{tmp}/nowhere | --encoder"),
    (f"{ON_TWO} --freeze-encoder", "--freeze-encoder | --encoder | --init-from"),
    (f"{ON_TWO} --encoder {{encoder}} --size.encoder.width 64", "--size"),
    (f"{ON_TWO} --encoder {{encoder}} --patch 2", "--patch"),
    (f"{ON_TWO} --encoder {{encoder}} --data.channels 1", "channels"),
    (f"{ON_TWO} --init-from {{diffusion}} --no-conditional", "classes"),
    # where it goes
    (f"{ON_TWO} --out {{pictures}}", "{pictures} | --out"),
    (f"{ON_TWO} --out {{text}}", "{text} | --out"),
    (f"{ON_TWO} --out {{diffusion}}", "--encoder {encoder} | --out"),
    (f"{ON_TWO} --out {{diffusion}} --encoder {{encoder}} --seed 5", "seed | 0 | 5"),
    (f"{TWO} --data {{fewer}} --out {{diffusion}} --encoder {{encoder}}", "{diffusion} | held_out | 4 | 3"),
    # sampling
    ("sample {tmp}/nowhere", "{tmp}/nowhere"),
    ("sample {empty}", "{empty}"),
    ("sample {encoder}", "{encoder} | --encoder"),
    ("sample {diffusion} --count 0", "--count | 0"),
    ("sample {diffusion} --first-seed -1", "--first-seed | -1"),
    ("sample {diffusion} --steps 0", "--steps | 0"),
    ("sample {diffusion} --steps 2 --sigmas 3", "--steps | --sigmas"),
    ("sample {diffusion} --guidance nan", "--guidance | nan"),
    ("sample {diffusion} --guidance-interval nan nan", "--guidance-interval | nan"),
    ("sample {diffusion} --sigmas nan", "--sigmas | nan"),
    ("evaluate {diffusion} {plain} --steps 1,2", "{plain} | {diffusion}"),
    (f"{ON_TWO} --sampling.steps 0", "steps | 0"),
    ("sample {diffusion} --batch-size 0", "--batch-size | 0"),
    ("sample {diffusion} --guidance-interval 3 1", "--guidance-interval | 3.0 | 1.0"),
    ("sample {diffusion} --sampler dpm", "--sampler | dpmpp_2m"),
    ("sample {diffusion} --classes dawn", "dawn | down"),
    ("sample {diffusion} --classes 2", "2 | across, down"),
    ("sample {diffusion} --out {pictures}", "{pictures} | --out"),
    ("sample {diffusion} --checkpoint {diffusion}/checkpoints/step-00000099", "{diffusion}/checkpoints/step-00000099"),
    ("sample {diffusion} --guide-with {plain}", "{plain} | {diffusion}"),
    ("sample {plain} --classes 1", "{plain} | --classes"),
    ("sample {plain} --guidance 2", "{plain} | --guidance | --guide-with"),
    ("sample {damaged}", "{damaged}/checkpoints/step-00000006/ema.safetensors | {damaged}/checkpoints/step-00000003"),
    # measuring
    ("evaluate {encoder}", "{encoder}"),
    ("evaluate {diffusion} --count 0", "--count | 0"),
    ("evaluate {diffusion} --count 3 --no-use-inception", "3"),
    ("evaluate {diffusion} --data {plain_data}", "{plain_data} | 2x8x8 float32 | 3x8x8 uint8"),
    ("evaluate {diffusion} --encoder {diffusion}", "{diffusion} | stage two"),
    ("evaluate {diffusion} --inception {tmp}/nowhere.pth --count 8", "{tmp}/nowhere.pth | --inception"),
    ("evaluate {no_json}", "{no_json}/evaluation.json"),
    ("probe {plain}", "--data"),
    ("probe {diffusion} --limit 0", "--limit | 0"),
    ("probe {empty}", "{empty}"),
]


@pytest.fixture(scope="module")
def places(
    pictures: Path, encoder_run: Path, diffusion_run: Path, plain_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Good and bad data and runs, by the names that the mistakes call them."""
    tmp = tmp_path_factory.mktemp("mistakes")
    for name in ("empty", "broken", "mixed"):
        (tmp / name).mkdir()
    (tmp / "text").write_text("not a picture")
    (tmp / "broken" / "a.png").write_text("not a picture")
    for place, size in enumerate(((8, 8), (8, 8), (9, 8))):
        Image.new("RGB", size).save(tmp / "mixed" / f"{place}.png")
    np.save(tmp / "nan.npy", np.full((9, 1, 8, 8), np.nan, np.float32))
    for run in ("damaged", "no_json"):
        shutil.copytree(diffusion_run, tmp / run)
    (tmp / "damaged" / "checkpoints" / "step-00000006" / "ema.safetensors").write_text("nothing")
    (tmp / "no_json" / "evaluation.json").write_text("[")
    fewer = tmp / "fewer"
    shutil.copytree(pictures, fewer)
    for path in list(fewer.glob("*/0*.png")):
        path.unlink()
    return {
        "tmp": tmp, "new": tmp / "new", "empty": tmp / "empty", "text": tmp / "text", "broken": tmp / "broken",
        "mixed": tmp / "mixed", "nan": tmp / "nan.npy", "fewer": fewer, "damaged": tmp / "damaged", "no_json": tmp / "no_json",
        "pictures": pictures, "encoder": encoder_run, "diffusion": diffusion_run, "plain": plain_run,
        "plain_data": plain_run.parent / "plain.npy",
    }  # fmt: skip


@pytest.mark.parametrize(("words", "facts"), MISTAKES, ids=[words.split("{")[0] + words[-30:] for words, _ in MISTAKES])
def test_a_mistake_is_one_sentence(words: str, facts: str, places: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    before = files(places["diffusion"])
    assert call(*words.format(**places).split()) == 2
    said = capsys.readouterr().err
    plain = " ".join(said.replace("│", " ").split())
    boxed = "full helptext" in plain  # what tyro says of values that it cannot read; all else is one sentence, the last line
    last = plain if boxed else said.splitlines()[-1]
    assert [fact for fact in facts.format(**places).split(" | ") if fact not in last] == []
    assert "Traceback" not in said
    if not boxed:
        assert last.startswith("pixelpath: ")
        assert last.endswith((".", ".)"))
        assert "`" not in last
    assert not places["new"].exists()
    assert files(places["diffusion"]) == before


def test_settings_in_what_is_said_meanwhile_are_spelled_as_options(pictures: Path, tmp_path: Path, capsys) -> None:
    assert train("digits-diffusion", pictures, tmp_path, "--warmup", 6) == 0
    assert "--schedule.warmup" in capsys.readouterr().err


def test_tensorboard_without_its_package(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    assert train("digits-diffusion", pictures, tmp_path, "--track", "tensorboard") == 2
    assert "pip install 'pixelpath[track]'" in capsys.readouterr().err


def test_a_run_whose_checkpoints_are_all_damaged(diffusion_run: Path, pictures: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(diffusion_run, tmp_path / "run")
    for path in (tmp_path / "run").glob("checkpoints/*/student.safetensors"):
        path.write_text("nothing")
    encoder = json.loads((diffusion_run / "origin.json").read_text())["encoder"]
    assert train("digits-diffusion", pictures, tmp_path / "run", "--encoder", encoder) == 2
    assert "All checkpoints of" in capsys.readouterr().err


def test_an_error_of_the_system_names_its_file(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "metrics.jsonl"))

    with at_step(2, full):
        assert train("digits-diffusion", pictures, tmp_path) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"pixelpath: {tmp_path / 'metrics.jsonl'}: No space left on device."


def test_a_bug_has_its_traceback_and_a_place_to_report_it(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with at_step(2, lambda: {}["x"]):
        assert train("digits-diffusion", pictures, tmp_path) == 70
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "KeyError: 'x'" in said
    assert said.splitlines()[-1].startswith("pixelpath: ")
    assert cli.ISSUES in said.splitlines()[-1]


def test_the_place_to_report_bugs_is_that_of_the_project() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["urls"]["Issues"] == cli.ISSUES


@pytest.mark.parametrize(
    "error",
    [MemoryError("Unable to allocate 9 GiB"), torch.OutOfMemoryError("CUDA out of memory. Tried."), RuntimeError(NO_MEMORY)],
    ids=lambda error: type(error).__name__,
)
def test_too_little_memory_is_no_bug(
    error: Exception, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def full() -> None:
        raise error

    with at_step(2, full):
        assert train("digits-diffusion", pictures, tmp_path) == 2
    assert "--batch-size" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(("error", "status"), [(Stopped(), 130), (BrokenPipeError(), 1)])
def test_whoever_has_said_enough_says_nothing(error: BaseException, status: int, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*given: object) -> None:
        raise error

    monkeypatch.setattr(cli, "_call", interrupted)
    assert call("recipes") == status
    assert capsys.readouterr().err == ""


def test_the_place_of_a_mistake_can_be_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv(cli.TRACEBACK, "1")
    assert call("train", "digits-diffusion", "--out", tmp_path / "new") == 2
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.splitlines()[-1].startswith("pixelpath: ")
