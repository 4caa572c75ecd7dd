"""Trackers are given every number and preview; losing one never stops a run."""

import io
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.application import lines, train
from tests.trainer.test_journal import step

from pixelpath.errors import UserError
from pixelpath.trainer.journal import Journal
from pixelpath.trainer.trackers import open_tracker


class StandIn(ModuleType):
    """What is used of wandb and of trackio: init, a run with log and finish, and Image."""

    def __init__(self, name: str, breaks_at: int = 0) -> None:
        super().__init__(name)
        self.begun: dict[str, Any] = {}
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.finished, self.breaks_at = False, breaks_at

    def init(self, **given: Any) -> "StandIn":
        self.begun = given
        return self

    def log(self, values: dict[str, Any], step: int) -> None:
        if step == self.breaks_at:
            raise ConnectionError("the server\nis gone")
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished = True

    def Image(self, path: str) -> str:  # noqa: N802
        return f"picture {Path(path).name}"


def journal(run: Path, name: Any) -> Journal:
    """The journal of a run of 2 steps under a tracker."""
    return Journal(run, total=2, track=lambda: open_tracker(name, run, 0, {"optimizer.lr": 0.001}), stream=io.StringIO())


def picture(folder: Path) -> Path:
    """A picture of 4 x 4 red pixels."""
    path = folder / "preview.png"
    Image.fromarray(np.tile(np.array([200, 0, 0], np.uint8), (4, 4, 1))).save(path)
    return path


def test_tensorboard_has_numbers_and_previews(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with journal(tmp_path, "tensorboard") as written:
        written.record(step(1))
        written.record(step(2, loss=0.25))
        written.show(2, picture(tmp_path))
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0.5), (2, 0.25)]
    (shown,) = events.Images("preview")
    assert (shown.step, shown.width, shown.height) == (2, 4, 4)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_others_are_given_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = StandIn(name)
    monkeypatch.setitem(sys.modules, name, stand_in)
    with journal(tmp_path / "mine", name) as written:
        written.record(step(1))
        written.show(1, picture(tmp_path))
    assert stand_in.begun["config"] == {"optimizer.lr": 0.001}
    assert stand_in.begun["project"] == "pixelpath"
    assert stand_in.begun["resume"] == "allow"
    assert stand_in.begun["name"].startswith("mine")
    (first, values), shown = stand_in.logged
    assert (first, values["loss"]) == (1, 0.5)
    assert all(isinstance(value, int | float) for value in values.values())
    assert shown == (1, {"preview": "picture preview.png"})
    assert stand_in.finished


def test_a_run_outlives_its_tracker(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in = StandIn("trackio", breaks_at=2)
    monkeypatch.setitem(sys.modules, "trackio", stand_in)
    assert train("digits-diffusion", pictures, tmp_path / "run", "--track", "trackio") == 0
    assert capsys.readouterr().err.count("Tracking by trackio failed (the server is gone) and ends here") == 1
    assert [number for number, _ in stand_in.logged] == [1]
    assert stand_in.begun["config"]["steps"] == 6
    assert max(line["step"] for line in lines(tmp_path / "run")) == 6


def test_previews_reach_the_tracker(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = StandIn("wandb")
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    assert train("digits-diffusion", pictures, tmp_path / "run", "--track", "wandb") == 0
    shown = [values["preview"] for _, values in stand_in.logged if "preview" in values]
    assert shown[-1] == "picture step-00000006.png"
    assert stand_in.begun["id"] == stand_in.begun["id"].strip()
    assert stand_in.finished


def test_one_that_cannot_begin_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb") as caught:
        open_tracker("wandb", tmp_path, 0, {})
    assert caught.value.setting == "track"
    broken = StandIn("wandb")
    monkeypatch.setattr(broken, "init", lambda **given: 1 / 0)
    monkeypatch.setitem(sys.modules, "wandb", broken)
    with pytest.raises(UserError, match=r"cannot begin .division by zero.: mend that") as caught:
        open_tracker("wandb", tmp_path, 0, {})
    assert caught.value.setting == "track"


def test_wandb_itself_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with journal(tmp_path / "mine", "wandb") as written:
        written.record(step(1))
        written.show(1, picture(tmp_path))
        written.record(step(2))
    (kept,) = (tmp_path / "mine" / "wandb").glob("offline-run-*/*.wandb")
    assert b"gradient_norm" in kept.read_bytes()
