"""From a folder to samples in a budget of a clock that ticks when it is asked: trained, resumed, extended."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from tests.application import at_step, call

from pixelpath import processes
from pixelpath.atomic import read_json
from pixelpath.data.settings import DataSettings
from pixelpath.errors import Stopped, UserError
from pixelpath.recipes.recipe import from_json
from pixelpath.runs.fitting.fit import Fitting, Machine, fit, plan_fit
from pixelpath.runs.fitting.planning import Budget, Plan
from pixelpath.runs.fitting.sitting import Sitting
from pixelpath.runs.fitting.training import _tell
from pixelpath.runs.folder import restated
from pixelpath.runs.opened import open_run
from pixelpath.runs.teacher import FIRST
from pixelpath.trainer.journal import lines

CPU = torch.device("cpu")


def ticking(tick: float, step: float) -> Machine:
    """A machine whose clock goes on by `tick` seconds whenever it is read, and that tells of `step` seconds a step."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += tick
        return now

    return Machine(clock, lambda recipe, device: step, lambda: 1)


def fitted(pictures: Path, out: Path, minutes: float, machine: Machine) -> Path:
    return fit(DataSettings(path=pictures), out, Budget(minutes), CPU, machine)


def document(out: Path) -> dict[str, Any]:
    return json.loads((out / "fit.json").read_text())


def test_a_fit_trains_resumes_and_goes_on_with_more_minutes(pictures: Path, tmp_path: Path) -> None:
    out, machine = tmp_path / "fit", ticking(0.6, 3.3)
    stop: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
    with at_step(5, stop), pytest.raises(Stopped):
        fitted(pictures, out, 2.5, machine)
    half = document(out)
    assert [run["ended"] for run in half["runs"]] == [""]
    assert open_run(out).step == 5
    run = fitted(pictures, out, 2.5, machine)
    done = document(out)
    assert run == out / done["runs"][-1]["folder"] == open_run(out).path
    assert done["runs"][0]["folder"] == "diffusion"
    assert done["spent"]["training"] == pytest.approx(done["plans"][0]["training"], rel=0.1)
    assert {"training", "samples", "evaluation"} <= set(done["done"])
    for name in ("samples/1/grid.png", f"{run.name}/report.html", f"{run.name}/evaluation.json"):
        assert (out / name).exists()
    before = open_run(out).step
    assert fitted(pictures, out, 2.5, machine) == run
    assert open_run(out).step == before
    longer = fitted(pictures, out, 5, machine)
    assert longer == out / document(out)["runs"][-1]["folder"] != run
    assert json.loads((longer / "origin.json").read_text())["init_from"].endswith(f"/{document(out)['runs'][-2]['folder']}")
    added = document(out)["spent"]["training"] - done["spent"]["training"]
    assert added == pytest.approx(document(out)["plans"][-1]["training"], rel=0.1)
    assert (out / "samples" / "2" / "grid.png").exists()


def test_a_plan_that_is_off_is_made_anew_within_the_same_run(pictures: Path, tmp_path: Path) -> None:
    run = fitted(pictures, tmp_path / "fit", 1, ticking(0.4, 0.1))
    runs = document(tmp_path / "fit")["runs"]
    assert [each["folder"] for each in runs] == ["diffusion"]
    assert runs[0]["planned"] > 1
    assert open_run(run).step == json.loads((run / "recipe.json").read_text())["steps"]
    rates = [line["lr"] for line in lines(run) if "lr" in line]
    assert rates[-1] < 0.02 * max(rates)  # the schedule ended with the time
    spent, planned = document(tmp_path / "fit")["spent"], document(tmp_path / "fit")["plans"][0]["training"]
    assert spent["training"] == pytest.approx(planned, rel=0.1)


def test_a_crash_between_the_two_files_of_a_new_plan_is_taken_up(pictures: Path, tmp_path: Path) -> None:
    stop: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
    with at_step(5, stop), pytest.raises(Stopped):
        fitted(pictures, tmp_path / "fit", 1, ticking(0.6, 3.3))
    folder = tmp_path / "fit" / "diffusion"
    recipe = from_json(json.dumps(read_json(folder / "recipe.json")))
    restated(folder, recipe, recipe.steps + 7, 1)
    fitted(pictures, tmp_path / "fit", 1, ticking(0.6, 3.3))
    assert document(tmp_path / "fit")["runs"][0]["ended"]


def test_a_plan_alone_writes_nothing(pictures: Path, tmp_path: Path) -> None:
    said = plan_fit(DataSettings(path=pictures), tmp_path / "fit", Budget(10), CPU, ticking(0.1, 0.1))
    assert any("train" in line and "digits-diffusion" in line for line in said)
    assert not (tmp_path / "fit").exists()


def test_a_short_budget_takes_coarser_patches(tmp_path: Path) -> None:
    """At 0.1 s for 32 images, 0.8 of 3 minutes show 44 thousand images and 0.8 of an hour 880 thousand; 60 are aimed at."""
    np.save(tmp_path / "noise.npy", np.random.default_rng(0).integers(0, 256, (60, 3, 32, 32), np.uint8))
    for minutes, side in ((3.0, 8), (60.0, 4)):
        settings = DataSettings(path=tmp_path / "noise.npy")
        said = plan_fit(settings, tmp_path / "fit", Budget(minutes), CPU, ticking(0.1, 0.1))
        assert any(f"(patch {side}, size nano" in line for line in said)
        assert any("Patch 8 instead of 4" in line for line in said) == (side == 8)


def test_a_folder_of_anything_else_is_left_alone(pictures: Path, tmp_path: Path, diffusion_run: Path) -> None:
    with pytest.raises(UserError) as caught:
        fitted(pictures, diffusion_run, 1, ticking(0.2, 1.0))
    assert caught.value.setting == "out"
    assert call("fit", tmp_path / "nothing", "--minutes", 1) == 2
    assert call("fit", pictures, "--minutes", 0) == 2


@pytest.mark.parametrize(
    ("runs", "own"),
    [
        ([], 600.0),
        ([("diffusion", 300.0, "steps taken")], 480.0),
        ([("diffusion", 300.0, "steps taken"), ("onestep", 100.0, "")], 540.0),
        ([("diffusion", 300.0, "steps taken"), ("onestep", 100.0, "time is up")], 480.0),
        ([("diffusion", 1800.0, "steps taken")], 0.0),
        ([("onestep", 1800.0, "")], 1000.0),
    ],
)
def test_diffusion_has_three_fifths_of_its_time_and_that_of_the_newest_one_step_run(
    runs: list[tuple[str, float, str]], own: float, tmp_path: Path
) -> None:
    """Of 1,000 s that the plan adds, with 60 s after them: until 60 s and the other model's are left."""
    fitting = Fitting(Sitting(DataSettings(path=tmp_path), tmp_path, Budget(60, one_step=True), CPU, ticking(0.2, 1.0)))
    fitting.at.state["runs"] = [{"kind": kind, "seconds": seconds, "ended": why} for kind, seconds, why in runs]
    plan = Plan(1000.0, 0.0, 0.0, 60.0, 64, 0, 20, 100, 32, 1.0, one_step=True)
    trained: list[tuple[str, float]] = []
    with patch.object(fitting, "train_kind", lambda kind, plan, after, asked: trained.append((kind, after))):
        fitting.train(plan)
    assert trained == [("diffusion", pytest.approx(1060.0 - own)), ("onestep", pytest.approx(60.0))]


def test_two_processes_train_diffusion_and_then_what_it_teaches_stopped_and_taken_up(pictures: Path, tmp_path: Path) -> None:
    out, machine = tmp_path / "fit", Machine(step=lambda recipe, device: 0.05, threads=lambda: 2)
    budget, threads = Budget(0.6, one_step=True), torch.get_num_threads()
    stop: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
    with at_step(3, stop), pytest.raises(Stopped):
        fit(DataSettings(path=pictures), out, budget, CPU, machine)
    assert [(run["ended"], run["folder"]) for run in document(out)["runs"]] == [("", "diffusion")]
    assert open_run(out / "diffusion").step == 3
    assert (processes.count(), torch.get_num_threads()) == (1, threads)
    fit(DataSettings(path=pictures), out, budget, CPU, machine)
    runs = document(out)["runs"]
    assert [(run["kind"], run["from"]) for run in runs] == [("diffusion", None), ("onestep", "diffusion")]
    assert all(run["ended"] for run in runs)
    assert sum(run["seconds"] for run in runs) < 1.2 * document(out)["spent"]["training"]
    for run in runs:
        assert read_json(out / run["folder"] / "environment.json")["processes"] == 2
    assert open_run(out / "diffusion").step > 3
    assert open_run(out / "onestep").step > 0  # on a busy machine little time is left when its images are made
    assert open_run(out / "onestep").recipe.is_distilled
    assert read_json(out / "onestep" / "taught.json")["seeds"][0] == FIRST
    assert {"samples", "samples-onestep", "evaluation-onestep"} <= set(document(out)["done"])
    for run, samples in (("diffusion", "samples"), ("onestep", "samples-onestep")):
        assert f"../{samples}/1/grid.png" in (out / run / "report.html").read_text()


def test_a_companion_that_is_killed_ends_the_training_with_a_sentence(pictures: Path, tmp_path: Path) -> None:
    machine, begun = Machine(step=lambda recipe, device: 0.05, threads=lambda: 2), []
    begin = subprocess.Popen

    def noted(*given: Any, **named: Any) -> Any:
        begun.append(begin(*given, **named))
        return begun[-1]

    kill: Callable[[], None] = lambda: begun[-1].kill()  # noqa: E731
    with patch.object(subprocess, "Popen", noted), at_step(3, kill), pytest.raises(UserError, match="Another process"):
        fit(DataSettings(path=pictures), tmp_path / "fit", Budget(0.5, one_step=False), CPU, machine)
    assert processes.count() == 1


@pytest.mark.parametrize(("code", "error", "words"), [(9, UserError, "SIGKILL"), (0, RuntimeError, "traceback")])
def test_a_companion_that_ends_before_it_begins_is_said(code: int, error: type[Exception], words: str) -> None:
    dies = f"import os; os.kill(os.getpid(), {code}) if {code} else exit(1)"
    pipe = subprocess.PIPE
    with (
        subprocess.Popen([sys.executable, "-c", dies], stdin=pipe, stdout=pipe, text=True) as companion,
        pytest.raises(error, match=words),
    ):
        _tell(companion, {"run": {"folder": "onestep"}})


def test_what_lies_where_a_run_belongs_is_left_alone(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "fit"
    (out / "onestep").mkdir(parents=True)
    (out / "onestep" / "mine.txt").write_text("kept")
    (out / "fit.json").write_text(json.dumps({"asked": {}, "runs": []}))
    with pytest.raises(UserError, match="onestep"):
        fit(DataSettings(path=pictures), out, Budget(1, one_step=True), CPU, ticking(0.4, 1.0))
    assert (out / "onestep" / "mine.txt").read_text() == "kept"
