"""Runs through the command: exact resume, folders that are never overwritten, and every kind of data."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from tests.application import TINY, assert_same, at_step, call, files, losses, steps_kept, train, weights
from torch import Tensor

from pixelpath.models.denoiser import Denoiser
from pixelpath.recipes.build import student_of
from pixelpath.runs.opened import open_run
from pixelpath.trainer import checkpoint
from pixelpath.trainer.journal import lines

STAGES = ["digits-encoder", "digits-diffusion", "digits-onestep"]


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module", params=STAGES)
def whole(request: pytest.FixtureRequest, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A stage, and its run of 9 steps in one go."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert train(request.param, pictures, out, "--steps", 9) == 0
    return request.param, out


def test_stopped_and_taken_up_is_one_go(whole: tuple[str, Path], pictures: Path, tmp_path: Path, capsys) -> None:
    stage, straight = whole
    with at_step(5, interrupt):
        assert train(stage, pictures, tmp_path / "run", "--steps", 9) == 130
    assert "Stopped and saved at step 5" in capsys.readouterr().err
    assert train(stage, pictures, tmp_path / "run", "--steps", 9) == 0
    assert "Taken up at step 5" in capsys.readouterr().err
    assert_same(straight, tmp_path / "run", 9)


def test_killed_and_taken_up_is_one_go(whole: tuple[str, Path], pictures: Path, tmp_path: Path) -> None:
    stage, straight = whole
    words = ["train", stage, "--data", pictures, "--out", tmp_path / "run", *TINY[stage], "--steps", 9]
    words += ["--every", 3, "--measure-every", 3]
    script = (
        "import os, signal, sys, time; from pathlib import Path; from tests.application import at_step, call\n"
        "saved = Path(sys.argv[1], 'checkpoints', 'step-00000003')\n"
        "def kill():\n"
        "    while not saved.exists(): time.sleep(0.01)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "with at_step(5, kill): call(*sys.argv[2:])"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run"), *map(str, words)],
        capture_output=True,
        cwd=Path(__file__).parents[2],
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [step for step in steps_kept(tmp_path / "run") if step] == [3]  # a one-step run keeps its beginning too
    assert call(*words) == 0
    assert_same(straight, tmp_path / "run", 9)
    assert json.loads((tmp_path / "run" / "metrics.1.jsonl").read_text().splitlines()[0])["step"] == 4


def test_the_same_command_on_a_finished_run_changes_nothing(
    whole: tuple[str, Path], pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage, run = whole
    before = files(run)
    assert train(stage, pictures, run, "--steps", 9) == 0
    assert "is finished: all 9 steps are taken" in capsys.readouterr().err
    assert files(run) == before


def test_a_damaged_checkpoint_is_passed_over(
    whole: tuple[str, Path], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage, straight = whole
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    latest = checkpoint.latest(run)
    assert latest is not None
    (latest / "normaliser.json").write_text("{}")
    assert train(stage, pictures, run, "--steps", 9) == 0
    said = capsys.readouterr().err
    assert f"{latest} is damaged and passed over" in said
    assert "Taken up at step 6" in said
    assert_same(straight, run, 9)


def test_a_run_that_saved_nothing_begins_anew(pictures: Path, tmp_path: Path) -> None:
    with at_step(1, lambda: (_ for _ in ()).throw(KeyboardInterrupt)):
        assert train("digits-diffusion", pictures, tmp_path) == 130
    assert steps_kept(tmp_path) == []
    assert train("digits-diffusion", pictures, tmp_path, "--seed", 1) == 0
    assert json.loads((tmp_path / "recipe.json").read_text())["seed"] == 1


def test_the_average_begins_by_forgetting_fast(pictures: Path, tmp_path: Path) -> None:
    """Its rate is (1 + i) / (10 + i) at the step of index i, but never above the recipe's."""
    words = ("--every", 1, "--keep", 6, "--ema-decay", 0.3)
    assert train("digits-diffusion", pictures, tmp_path, *words) == 0
    first = student_of(open_run(tmp_path).recipe, (3, 8, 8), 2).state_dict()
    before = {f"ema/{name}": value for name, value in first.items()}
    for step, rate in enumerate((1 / 10, 2 / 11, 3 / 12, 0.3, 0.3), start=1):
        now = weights(tmp_path, step)
        for name in (name for name in now if name.startswith("ema")):
            expected = rate * before[name] + (1 - rate) * now[name.replace("ema", "student")]
            torch.testing.assert_close(now[name], expected, rtol=1e-5, atol=1e-6)
        before = now


def test_the_last_checkpoints_and_the_best_stay(pictures: Path, tmp_path: Path) -> None:
    assert train("digits-diffusion", pictures, tmp_path, "--every", 1, "--measure-every", 1, "--keep", 2) == 0
    held_out = {line["step"]: line["held_out_loss"] for line in lines(tmp_path) if "held_out_loss" in line}
    assert list(held_out) == [1, 2, 3, 4, 5, 6]
    assert steps_kept(tmp_path) == sorted({5, 6, min(held_out, key=lambda step: (held_out[step], -step))})


@pytest.mark.parametrize("stage", ["digits-diffusion", "digits-onestep"])
def test_measuring_less_often_is_said_and_changes_no_weights(
    stage: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """44 steps of 8 images: eleven previews would take most of the time, so there is one at the end, and at most one before."""
    few, often = tmp_path / "few", tmp_path / "often"
    for out, words in ((few, ()), (often, ("--measure-every", 4))):
        assert train(stage, pictures, out, "--steps", 44, "--every", 4, *words) == 0
        said = capsys.readouterr().err
        assert ("Measured less often" in said) == ("--measure-every 4 measures" in said) == (out == few)
    previews = [sorted(path.name for path in (out / "previews").iterdir()) for out in (few, often)]
    assert previews[0][-1] == "step-00000044.png"
    assert len(previews[0]) <= 2
    assert len(previews[1]) == 11
    here, there = weights(few, 44), weights(often, 44)
    assert all(torch.equal(here[name], there[name]) for name in there)


def test_measurements_must_fall_on_checkpoints(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("digits-diffusion", pictures, tmp_path / "run", "--measure-every", 4) == 2
    assert "--measure-every must be a multiple" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_finished_run_has_every_file(diffusion_run: Path, encoder_run: Path) -> None:
    both = {
        "recipe.json",
        "origin.json",
        "environment.json",
        "metrics.jsonl",
        "checkpoints",
        "previews",
        "report.html",
        "curves.png",
    }
    assert both <= {path.name for path in diffusion_run.iterdir()}
    assert both <= {path.name for path in encoder_run.iterdir()}
    assert sorted(path.name for path in (diffusion_run / "previews").iterdir()) == ["step-00000003.png", "step-00000006.png"]
    assert [path.name for path in (encoder_run / "previews").iterdir()] == ["views.png"]


def test_stage_one_watches_its_features(encoder_run: Path, pictures: Path, tmp_path: Path) -> None:
    assert train("digits-encoder", pictures, tmp_path, "--data.held-out-share", 0.4) == 0
    last = [line for line in lines(tmp_path) if "held_out_loss" in line][-1]
    assert 0 < last["feature_std"] < 1.5
    assert last["effective_rank"] > 0
    few = [line for line in lines(encoder_run) if "held_out_loss" in line][-1]  # too few held-out images to tell
    assert "effective_rank" not in few


def test_stage_two_begins_with_the_encoder_of_stage_one(pictures: Path, encoder_run: Path, tmp_path: Path) -> None:
    words = ("--encoder", encoder_run, "--freeze-encoder", "--optimizer.weight-decay", 0.5)
    assert train("digits-diffusion", pictures, tmp_path, *words) == 0
    stage_one, stage_two = open_run(encoder_run), open_run(tmp_path)
    ours = stage_two.denoiser.backbone.encoder.state_dict()
    for name, value in stage_one.representation.encoder.state_dict().items():
        assert torch.equal(ours[name], value)
    assert not any("encoder" in name for name in weights(tmp_path, 6) if name.startswith("optimizer"))


def test_a_run_may_start_from_another(pictures: Path, diffusion_run: Path, tmp_path: Path) -> None:
    words = ("--init-from", diffusion_run, "--optimizer.lr", 1e-30, "--ema-decay", 0, "--optimizer.weight-decay", 0)
    assert train("digits-diffusion", pictures, tmp_path, *words) == 0
    theirs = open_run(diffusion_run).model.state_dict()
    for name, value in open_run(tmp_path).model.state_dict().items():
        assert torch.equal(theirs[name], value)


def test_another_resolution_takes_interpolated_positions(
    pictures: Path, encoder_run: Path, diffusion_run: Path, tmp_path: Path
) -> None:
    for name, words in (("encoder", ("--encoder", encoder_run)), ("init_from", ("--init-from", diffusion_run))):
        frozen = ("--freeze-encoder", "--data.resize", 16, 8)
        assert train("digits-diffusion", pictures, tmp_path / name, *words, *frozen) == 0
        grown, model = open_run(tmp_path / name), open_run(words[1]).model
        encoder = model.backbone.encoder if isinstance(model, Denoiser) else model.encoder
        encoder.resize(16, 8)
        ours = grown.denoiser.backbone.encoder.state_dict()
        assert grown.shape == (3, 16, 8)
        assert all(torch.equal(ours[key], value) for key, value in encoder.state_dict().items())


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels(channels: int, pictures: Path, tmp_path: Path) -> None:
    assert train("digits-encoder", pictures, tmp_path / "one", "--data.channels", channels, "--augmentation", "photographs") == 0
    words = ("--data.channels", channels, "--encoder", tmp_path / "one", "--flip")
    assert train("digits-diffusion", pictures, tmp_path / "two", *words) == 0
    assert open_run(tmp_path / "two").shape == (channels, 8, 8)


def test_float_data_keeps_its_colours(plain_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("digits-encoder", plain_run.parent / "plain.npy", tmp_path, "--augmentation", "photographs") == 0
    assert "views are cropped, mirrored and blurred but keep their values" in capsys.readouterr().err
    assert open_run(tmp_path).normaliser.dtype == "float32"


def test_without_held_out_images_nothing_is_measured(plain_run: Path, pictures: Path, tmp_path: Path) -> None:
    assert not any("held_out_loss" in line for line in lines(plain_run))
    assert train("digits-encoder", pictures, tmp_path, "--data.held-out-share", 0) == 0
    assert not any("held_out_loss" in line for line in lines(tmp_path))


def test_without_classes(pictures: Path, tmp_path: Path) -> None:
    assert train("digits-diffusion", pictures, tmp_path, "--no-conditional") == 0
    run = open_run(tmp_path)
    assert run.classes == ()
    assert run.denoiser.backbone.num_classes == 0


def test_mirroring_changes_what_is_learned(pictures: Path, tmp_path: Path) -> None:
    for name, words in (("plain", ()), ("mirrored", ("--flip",))):
        assert train("digits-diffusion", pictures, tmp_path / name, *words, "--steps", 3) == 0
    # the first estimate is 0, and equally wrong about an image and its mirror image
    assert losses(tmp_path / "mirrored")[1]["loss"] != losses(tmp_path / "plain")[1]["loss"]


def test_a_batch_may_be_larger_than_the_data(pictures: Path, tmp_path: Path) -> None:
    for stage in STAGES:
        assert train(stage, pictures, tmp_path / stage, "--batch-size", 100, "--steps", 3) == 0


@pytest.mark.parametrize("stage", STAGES[:2])
def test_parts_of_a_batch_give_its_gradient(stage: str, pictures: Path, tmp_path: Path) -> None:
    for name, words in (("whole", ()), ("parts", ("--accumulate", 4)), ("checkpointed", ("--activation-checkpointing",))):
        assert train(stage, pictures, tmp_path / name, *words) == 0
    straight = losses(tmp_path / "whole")
    for name in ("parts", "checkpointed"):
        for ours, theirs in zip(losses(tmp_path / name), straight, strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
            assert ours["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-4)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("stage", STAGES)
def test_mixed_precision_is_near_float32(precision: str, stage: str, pictures: Path, tmp_path: Path) -> None:
    # under the recipes' own weights float16 skips the first step, to find its loss scale, and learns something else
    weight = {
        "digits-encoder": (),
        "digits-diffusion": ("--objective.weight", "edm", "--preconditioning", "edm"),
        "digits-onestep": ("--objective.softening", 1000),
    }[stage]
    for name in ("float32", precision):
        assert train(stage, pictures, tmp_path / name, "--precision", name, "--steps", 3, *weight) == 0
    # stage two estimates 0 before its first step; stage one in float16 skips that step, to find its loss scale
    compared = 0 if stage == "digits-encoder" else 1
    ours, theirs = losses(tmp_path / precision)[compared], losses(tmp_path / "float32")[compared]
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.02)
    assert ours["loss"] != theirs["loss"]


def test_ten_steps_that_are_not_finite_end_the_run(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--steps", 40, "--every", 1, "--optimizer.lr", 1e30)
    assert train("digits-diffusion", pictures, tmp_path, *words) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    latest = checkpoint.latest(tmp_path)
    assert latest is not None
    assert f"the last good checkpoint is {latest}" in said
    assert all(torch.isfinite(value).all() for value in weights(tmp_path, int(latest.name[5:])).values())


def test_a_dry_run_writes_nothing(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("digits-diffusion", pictures, tmp_path / "run", "--dry-run") == 0
    assert not (tmp_path / "run").exists()
    said = capsys.readouterr().err
    assert "6 tokens an image" in said  # CLS, noise, and 2 x 2 patches
    assert "steps/s" in said


def test_a_run_shorter_than_its_warm_up_shortens_it_and_says_so(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("digits-diffusion", pictures, tmp_path / "run", "--steps", 20, "--schedule.warmup", 50) == 0
    assert "shorter than its warm-up of 50 steps, which takes 2 instead" in capsys.readouterr().err
    rates = [line["lr"] for line in lines(tmp_path / "run") if "loss" in line]
    assert rates[0] == pytest.approx(rates[1] / 2)


def test_a_checkpoint_is_saved_when_enough_time_has_passed(pictures: Path, tmp_path: Path) -> None:
    """Without a measurement, so that the run is the same as one without it."""
    assert train("digits-diffusion", pictures, tmp_path / "plain", "--keep", 20) == 0
    assert steps_kept(tmp_path / "plain") == [3, 6]
    assert train("digits-diffusion", pictures, tmp_path / "often", "--keep", 20, "--save-minutes", 1e-9) == 0
    assert steps_kept(tmp_path / "often") == [1, 2, 3, 4, 5, 6]
    assert [checkpoint.read_state(folder).value is None for folder in checkpoint.complete(tmp_path / "often")] == [
        *[True, True, False],
        *[True, True, False],
    ]
    assert_same(tmp_path / "plain", tmp_path / "often", 6)


def test_a_checkpoint_that_cannot_be_written_stops_the_run(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is written beside training, and its fault is raised at a later step, or at the end of the last one."""
    store, full = checkpoint._store, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for fails in (3, 6):

        def stored(tensors: dict[str, Tensor], file: Path, *rest: Any, name: str = f".step-{fails:08d}.partial") -> None:
            if file.parent.name == name:
                raise full
            store(tensors, file, *rest)

        with patch("pixelpath.trainer.checkpoint._store", stored):
            assert train("digits-diffusion", pictures, tmp_path / str(fails)) == 2
        assert capsys.readouterr().err.splitlines()[-1] == "pixelpath: No space left on device."
        assert fails not in steps_kept(tmp_path / str(fails))
