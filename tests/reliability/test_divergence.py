"""A run that diverges never ends well by being started again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.reliability.harness import Command, Starter, train

EXPLODES = ("--steps", 40, "--every", 1, "--schedule.warmup", 0)


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


def test_samples_of_a_diverged_run_are_not_made_in_silence(starter: Starter, pictures: Path, tmp_path: Path) -> None:
    words = train("digits-diffusion", pictures, tmp_path / "run", *EXPLODES, "--optimizer.lr", 1e30)
    assert starter.run(Command(words))[0].status == 2
    words = ("sample", str(tmp_path / "run"), "--out", str(tmp_path / "samples"), "--count", "2")
    (ended,) = starter.run(Command(words))
    assert "diverged" in ended.said or "not finite" in ended.said
