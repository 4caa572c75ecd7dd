"""One-step runs: the frozen encoder stays with the run, and training that diverges falls back, says so, and stops in the end."""

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from tests.application import assert_same, at_step, call, steps_kept, train, weights
from tests.runs.test_session import interrupt
from torch import Tensor, nn

from pixelpath.cli import spelled
from pixelpath.data.settings import DataSettings
from pixelpath.evaluation.distances import frechet, frechet_of_rows
from pixelpath.evaluation.statistics import of
from pixelpath.models.representation import Representation
from pixelpath.recipes.build import denoiser_of, objective_through
from pixelpath.recipes.digits import digits_onestep
from pixelpath.recipes.recipe import Recipe
from pixelpath.recipes.sizes import Blocks, Size
from pixelpath.runs import monitor
from pixelpath.runs.opened import open_run
from pixelpath.runs.prepare import PreparedData, read_data
from pixelpath.runs.students import frozen_encoder
from pixelpath.trainer import checkpoint
from pixelpath.trainer.journal import lines
from pixelpath.types import Batch, Images, Losses, Objective, Views

THROUGH = ("--objective.features", "contrastive")
WRONG = ["the spread of samples is 0.01 times the data's"]


@contextmanager
def samples_judged(*verdicts: list[str], farther: float = 2.1) -> Iterator[None]:
    """While open, measurements of samples give these verdicts in turn, and then none; wrong samples are `farther` times away."""
    left = list(verdicts)

    def judged(*given: object) -> tuple[float, list[str]]:
        wrong = left.pop(0) if left else []
        return (farther if wrong else 1.0), wrong

    with patch.object(monitor, "watch_samples", judged):
        yield


def read(folder: Path, share: float = 0.2) -> PreparedData:
    return read_data(replace(digits_onestep(), data=DataSettings(path=folder, held_out_share=share)))


def rates(run: Path) -> dict[int, float]:
    return {row["step"]: row["lr"] for row in lines(run) if "lr" in row}


def test_the_run_goes_on_without_the_stage_one_it_began_with(
    pictures: Path, encoder_run: Path, onestep_run: Path, tmp_path: Path
) -> None:
    began = tmp_path / "encoder"
    shutil.copytree(encoder_run, began)
    words = ("--encoder", began, *THROUGH)
    assert train("digits-onestep", pictures, tmp_path / "run", *words) == 0
    assert_same(onestep_run, tmp_path / "run", 6)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000006")
    shutil.rmtree(began)
    assert train("digits-onestep", pictures, tmp_path / "run", *words) == 0
    assert_same(onestep_run, tmp_path / "run", 6)


def test_a_one_step_run_keeps_the_average_of_stage_one_alone(encoder_run: Path, onestep_run: Path) -> None:
    kept, began = open_run(onestep_run / "encoder").model.state_dict(), open_run(encoder_run).model.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in began.items())
    latest = checkpoint.latest(onestep_run / "encoder")
    assert latest is not None
    assert not (latest / "optimizer.safetensors").exists()


def test_a_start_from_a_run_compares_through_that_runs_encoder(
    pictures: Path, encoder_run: Path, onestep_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("digits-onestep", pictures, tmp_path / "run", "--init-from", onestep_run, *THROUGH, "--steps", 3) == 0
    assert f"through the encoder with which {onestep_run} began, {onestep_run / 'encoder'}" in capsys.readouterr().err
    before, begun = weights(onestep_run, 6), weights(tmp_path / "run", 0)
    names = [name for name in begun if name.startswith("student/")]
    assert all(torch.equal(begun[name], before[name.replace("student/", "ema/")]) for name in names)
    assert len(names) > 10


def test_features_without_an_encoder_are_a_mistake(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("digits-onestep", pictures, tmp_path / "run", *THROUGH) == 2
    assert "--encoder" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_kept_encoder_that_is_damaged_is_named(
    pictures: Path, encoder_run: Path, onestep_run: Path, tmp_path: Path, capsys
) -> None:
    run = tmp_path / "run"
    shutil.copytree(onestep_run, run)
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    for damage in (lambda file: file.write_bytes(b"x"), lambda file: shutil.rmtree(file.parents[2])):
        latest = checkpoint.latest(run / "encoder")
        assert latest is not None
        damage(latest / "ema.safetensors")
        assert train("digits-onestep", pictures, run, "--encoder", encoder_run, *THROUGH) == 2
        assert f"{run / 'encoder'}, the stage one that this run compares features through, is missing" in capsys.readouterr().err


def test_weights_under_another_preconditioning_are_named(
    pictures: Path, onestep_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for preconditioning, warned in (("edm", True), ("anchored", False)):
        words = ("--init-from", onestep_run, "--preconditioning", preconditioning, "--steps", 3)
        assert train("digits-onestep", pictures, tmp_path / preconditioning, *words) == 0
        assert ("its weights mean something else" in capsys.readouterr().err) == warned


def test_a_float16_run_goes_on_from_its_beginning(pictures: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train("digits-onestep", pictures, run, "--precision", "float16") == 0
    before = weights(run, 6)
    for step in (3, 6):
        shutil.rmtree(run / "checkpoints" / f"step-{step:08d}")
    assert train("digits-onestep", pictures, run, "--precision", "float16") == 0
    assert all(torch.equal(before[name], value) for name, value in weights(run, 6).items())


def test_what_a_run_falls_back_to_is_never_pruned(pictures: Path, tmp_path: Path) -> None:
    """Four interruptions after the last measurement leave it in place, and so does keeping one checkpoint only."""
    run = tmp_path / "run"
    words = ("--steps", 9, "--every", 4, "--measure-every", 4, "--keep", 1)
    with samples_judged([], WRONG):
        for step in (5, 6, 7):
            with at_step(step, interrupt):
                assert train("digits-onestep", pictures, run, *words) == 130
        assert 4 in steps_kept(run)
        assert train("digits-onestep", pictures, run, *words) == 0
    assert json.loads((run / "divergences.json").read_text())[0]["back_to"] == "step-00000004"


def test_a_broken_list_of_divergences_is_named(
    pictures: Path, onestep_run: Path, encoder_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(onestep_run, run)
    for text, said in (("{", "cannot be read"), ("{}", "holds no list of divergences")):
        (run / "divergences.json").write_text(text)
        assert train("digits-onestep", pictures, run, "--encoder", encoder_run, *THROUGH) == 2
        assert said in capsys.readouterr().err


def test_a_frozen_encoder_takes_images_of_another_size_but_not_of_other_channels(encoder_run: Path, tmp_path: Path) -> None:
    numbers = np.random.default_rng(0)
    for name, shape in (("wide", (20, 3, 8, 12)), ("grey", (20, 1, 8, 8))):
        np.save(tmp_path / f"{name}.npy", numbers.integers(0, 256, shape, dtype=np.uint8))
    wide = read(tmp_path / "wide.npy")
    frozen = frozen_encoder(encoder_run, wide, torch.device("cpu"))
    assert frozen is not None
    images = wide.normaliser.encode(torch.from_numpy(np.load(tmp_path / "wide.npy")))
    assert frozen(images, torch.tensor(0.1)).projection.shape == (20, 16)
    with pytest.raises(ValueError, match="3 channels and these have 1"):
        frozen_encoder(encoder_run, read(tmp_path / "grey.npy"), torch.device("cpu"))


def test_samples_that_leave_the_data_take_the_run_back_at_half_the_rate(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = ("--schedule", "constant", "--schedule.warmup", 0, "--optimizer.lr", 1e-3, "--every", 2, "--measure-every", 2)
    with samples_judged([], WRONG):  # near at step 2, away at step 4, near again at 4 and 6
        assert train("digits-onestep", pictures, run, *words) == 0
    said = capsys.readouterr().err
    assert "Step 4: the spread of samples is 0.01 times the data's. Falling back, with 0.5 of the learning rate" in said
    assert rates(run) == pytest.approx({1: 1e-3, 2: 1e-3, 3: 5e-4, 4: 5e-4, 5: 5e-4, 6: 5e-4})
    assert json.loads((run / "divergences.json").read_text()) == [{"step": 4, "why": WRONG[0], "back_to": "step-00000002"}]
    aside = [json.loads(line)["step"] for line in (run / "metrics.1.jsonl").read_text().splitlines()]
    assert aside == [3, 4, 4]  # two steps, and what was measured
    (alarm,) = [row["alarms"] for row in lines(run) if row["step"] == 2 and row.get("alarms")]
    assert alarm[0].startswith("fell back from step 4")
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    with samples_judged():
        assert train("digits-onestep", pictures, run, *words) == 0  # the halved rate stays when the run is taken up
    assert rates(run)[6] == pytest.approx(5e-4)


def test_moments_alone_take_no_run_back(pictures: Path, tmp_path: Path) -> None:
    with samples_judged([], WRONG, farther=1.9):
        assert train("digits-onestep", pictures, tmp_path / "run", "--every", 2, "--measure-every", 2) == 0
    assert not (tmp_path / "run" / "divergences.json").exists()


def test_the_third_divergence_stops_the_run_and_names_the_last_good_checkpoint(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with samples_judged([], WRONG, WRONG, WRONG):
        assert train("digits-onestep", pictures, tmp_path / "run", "--every", 2, "--measure-every", 2) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("pixelpath: Training stopped at step 4: the spread of samples is 0.01 times the data's, after falling")
    assert "step-00000002. One-step training from scratch is known to collapse" in said
    assert steps_kept(tmp_path / "run") == [0, 2]
    falls = json.loads((tmp_path / "run" / "divergences.json").read_text())
    assert [fall["back_to"] for fall in falls] == ["step-00000002", "step-00000002", None]
    assert {row["step"] for row in lines(tmp_path / "run") if "sample_distance" in row} == {2, 4}


def test_losses_that_are_not_finite_take_the_run_back_too(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a rate far too high the first steps already fail; halving it twice is not enough here."""
    words = ("--schedule", "constant", "--schedule.warmup", 0, "--optimizer.lr", 1e30, "--steps", 60, "--every", 60)
    assert train("digits-onestep", pictures, tmp_path / "run", *words) == 2
    said = capsys.readouterr().err
    assert said.count("Taken up at step 0") == 2
    assert "10 steps in a row had a loss or gradient that was not finite" in said.splitlines()[-1]
    assert "after falling back 2 times" in said.splitlines()[-1]


def test_a_run_from_scratch_that_never_comes_near_is_called_so(
    pictures: Path, encoder_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, words in (("scratch", ()), ("begun", ("--encoder", encoder_run))):
        with samples_judged(WRONG, WRONG):
            assert train("digits-onestep", pictures, tmp_path / name, *words) == 0
        said = capsys.readouterr().err
        assert "have not come near the data" in said
        assert (spelled(monitor.REMEDY) in said) == (name == "scratch")
        assert [row["alarms"] for row in lines(tmp_path / name) if "sample_distance" in row] == [
            [f"{WRONG[0]} (not near the data yet)"]
        ] * 2


def test_a_jump_of_the_loss_is_an_alarm(pictures: Path, tmp_path: Path) -> None:
    def jumping(recipe: Recipe, frozen: Representation | None) -> Objective:
        def loss(student: nn.Module, ema: nn.Module, batch: Batch | Views, progress: float) -> Losses:
            losses = objective_through(recipe, frozen)(student, ema, batch, progress)
            return replace(losses, total=losses.total * (100 if progress == 14 / 16 else 1))

        return loss

    with patch("pixelpath.runs.beginning.objective_through", jumping):
        assert train("digits-onestep", pictures, tmp_path / "run", "--steps", 16, "--every", 16) == 0
    found = {row["step"]: row["alarms"] for row in lines(tmp_path / "run") if "lr" in row and row["alarms"]}
    assert list(found) == [15]
    assert found[15][0].startswith("the loss jumped to")


def test_a_checkpoints_value_is_the_distance_of_its_samples(pictures: Path, onestep_run: Path) -> None:
    latest = checkpoint.latest(onestep_run)
    assert latest is not None
    said = {row["step"]: row["sample_distance"] for row in lines(onestep_run) if "sample_distance" in row}
    assert checkpoint.read_state(latest).value == said[6] > 0
    run, data = open_run(onestep_run), read(pictures)
    real = monitor.reference(data)
    distance, _ = monitor.watch_samples(run.recipe, data, run.denoiser, real)
    assert distance == pytest.approx(said[6], rel=1e-5)


@pytest.mark.parametrize("size", [(8, 8), (96, 96)])
def test_samples_are_compared_with_training_images(pictures: Path, size: tuple[int, int]) -> None:
    """Samples that are the data, moved by 0.1, lie at 0.01 a value; large images are halved until few values are left."""
    recipe = replace(digits_onestep(), data=DataSettings(path=pictures, resize=size))
    data = read_data(recipe)
    real = monitor.reference(data)
    native = torch.stack([torch.from_numpy(data.training[place]) for place in range(len(data.training))])
    images = data.normaliser.encode(native)
    tiny = Size(Blocks(1, 16, 2), Blocks(1, 16, 2))
    model = denoiser_of(replace(recipe, size=tiny), data.shape, 2)

    def judged(samples: Images) -> tuple[float, list[str]]:
        with patch.object(monitor, "generate", lambda *given: iter(samples.split(7))):
            return monitor.watch_samples(recipe, data, model, real)

    assert judged(images) == (pytest.approx(0, abs=1e-9), [])
    values = 192 if size == (8, 8) else 3 * 24 * 24
    assert judged(images + 0.1) == (pytest.approx(values * 0.01, rel=1e-4), [])
    assert judged(images * 3)[1] != []
    assert judged(images * math.nan) == (math.inf, ["samples are not finite"])


def test_moments_are_not_judged_where_real_images_leave_their_own_band(tmp_path: Path) -> None:
    """One image in 1,000 holds nearly all of the variance: 256 real images are then no measure of it."""
    values = np.random.default_rng(0).normal(0, 1e-3, (1000, 1, 8, 8)).astype(np.float32)
    values[1] = 1000.0
    np.save(tmp_path / "rare.npy", values)
    assert monitor.reference(read(tmp_path / "rare.npy", 0.0)).moments is None


def test_the_quick_distance_is_the_frechet_distance() -> None:
    for counts, width in (((40, 30), 12), ((9, 14), 50)):
        first, second = (_rows(count, width, seed) for seed, count in enumerate(counts))
        assert frechet_of_rows(first, second) == pytest.approx(frechet(of(first), of(second)), rel=1e-7)
    with pytest.raises(ValueError, match="at least 2 images"):
        frechet_of_rows(_rows(1, 3, 0), _rows(5, 3, 1))


def test_one_evaluation_is_the_default_of_a_one_step_run(onestep_run: Path, tmp_path: Path) -> None:
    assert call("sample", onestep_run, "--count", 2, "--out", tmp_path / "samples") == 0
    settings = json.loads((tmp_path / "samples" / "samples.json").read_text())
    assert (settings["steps"], settings["sampler"], settings["nfe"]) == (1, "consistency", 1)


def _rows(count: int, width: int, seed: int) -> Tensor:
    guidance = torch.linspace(0.5, 2, width, dtype=torch.float64)
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * guidance + 0.3 * seed


def test_a_run_does_not_fall_back_to_where_it_was_merely_interrupted(pictures: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with samples_judged([], WRONG):  # near at step 3, interrupted at 4, away at 6
        with at_step(4, interrupt):
            assert train("digits-onestep", pictures, run) == 130
        assert steps_kept(run) == [0, 3, 4]
        assert train("digits-onestep", pictures, run) == 0
    assert json.loads((run / "divergences.json").read_text())[0]["back_to"] == "step-00000003"
    assert steps_kept(run) == [0, 3, 6]
    assert (run / "checkpoints" / "diverged-1-step-00000004").is_dir()
