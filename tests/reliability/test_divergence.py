"""A run that diverges never ends well by being started again, and never leaves weights that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file
from tests import application
from tests.reliability.harness import Command, Starter, train

EXPLODES = ("--steps", 40, "--every", 1, "--measure-every", 1, "--schedule.warmup", 0)


def lowest_skipped(run: Path) -> int:
    """The first step that the run's newest metrics say was skipped; 0 if none."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return next((line["step"] for line in lines if line.get("skipped")), 0)


@pytest.mark.parametrize("recipe", ["digits-encoder", "digits-diffusion"])
def test_a_diverged_run_does_not_succeed_by_being_started_again(
    recipe: str, starter: Starter, pictures: Path, tmp_path: Path
) -> None:
    words = train(recipe, pictures, tmp_path / "run", *EXPLODES, "--optimizer.lr", 1e30)
    newest = []
    for _ in range(5):
        (ended,) = starter.run(Command(words))
        assert "`optimizer.lr`" in ended.sentence or "--optimizer.lr" in ended.sentence
        newest.append(max(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*")))
    assert len(set(newest)) == 1
    assert int(newest[0][5:]) < lowest_skipped(tmp_path / "run")  # the last good checkpoint precedes the streak


@pytest.mark.parametrize("recipe", ["digits-encoder", "digits-diffusion", "digits-onestep"])
@pytest.mark.parametrize("rate", [1e30, 3e38])
def test_every_checkpoint_holds_finite_weights(
    recipe: str, rate: float, starter: Starter, pictures: Path, tmp_path: Path
) -> None:
    (ended,) = starter.run(Command(train(recipe, pictures, tmp_path / "run", *EXPLODES, "--optimizer.lr", rate)))
    assert ended.status == 2
    for file in (tmp_path / "run").glob("checkpoints/*/*.safetensors"):
        infinite = [name for name, value in load_file(file).items() if not torch.isfinite(value.double()).all()]
        assert infinite == [], file


def test_an_average_that_is_not_finite_ends_the_run(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a step that overflows leaves it."""
    with patch("pixelpath.trainer.loop.update", lambda ema, *_: next(ema.parameters()).data.fill_(torch.inf)):
        assert application.train("digits-diffusion", pictures, tmp_path) == 2
    assert "ema is not finite" in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.glob("checkpoints/step-*")) == []


def test_samples_of_a_diverged_run_are_not_made_in_silence(starter: Starter, pictures: Path, tmp_path: Path) -> None:
    words = train("digits-diffusion", pictures, tmp_path / "run", *EXPLODES, "--optimizer.lr", 1e30)
    assert starter.run(Command(words))[0].status == 2
    words = ("sample", str(tmp_path / "run"), "--out", str(tmp_path / "samples"), "--count", "2")
    (ended,) = starter.run(Command(words))
    assert "diverged" in ended.said or "not finite" in ended.said
