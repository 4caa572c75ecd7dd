"""Trackers are given every number and preview; losing one never stops a run."""

import contextlib
import io
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image
from tests.application import lines, train
from tests.trainer.test_journal import step

from pixelpath.errors import UserError
from pixelpath.trainer.journal import Journal
from pixelpath.trainer.trackers import open_tracker


class StandIn(ModuleType):
    """What is used of wandb 0.31 and of trackio 0.43, as strict as they are: init gives a run, and Image is a class.

    Both take these names and no others, want `resume` to be one of their words, open the file of a picture, and (wandb) drop
    what is given to a step that lies behind the last.
    """

    TAKEN: ClassVar = {
        "wandb": {"project", "name", "config", "dir", "id", "resume"},
        "trackio": {"project", "name", "config", "resume"},
    }

    def __init__(self, name: str, breaks_at: int = 0) -> None:
        super().__init__(name)
        self.begun: dict[str, Any] = {}
        self.run = StandInRun(breaks_at)
        self.Image = StandInImage

    def init(self, **given: Any) -> "StandInRun":
        assert set(given) <= self.TAKEN[self.__name__]
        assert given["resume"] in ("allow", "must", "never")
        assert isinstance(given["config"], dict)
        self.begun = given
        return self.run


class StandInRun:
    """A run of either."""

    def __init__(self, breaks_at: int) -> None:
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.finished, self.breaks_at = False, breaks_at

    def log(self, data: dict[str, Any], step: int | None = None) -> None:
        assert isinstance(step, int)
        assert not self.finished
        if step == self.breaks_at:
            raise ConnectionError("the server\nis gone")
        assert not self.logged or step >= self.logged[-1][0], "wandb drops a step behind the last"
        self.logged.append((step, data))

    def finish(self) -> None:
        self.finished = True


class StandInImage:
    """A picture of either, which reads its file at once."""

    def __init__(self, path: str) -> None:
        with Image.open(path) as picture:
            self.name, self.size = Path(path).name, picture.size


def journal(run: Path, name: Any, first: int = 0) -> Journal:
    """The journal of a run of 2 more steps under a tracker."""
    settings = {"optimizer.lr": 0.001}
    return Journal(run, total=first + 2, track=lambda: open_tracker(name, run, first, settings), stream=io.StringIO())


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
    (first, values), shown = stand_in.run.logged
    assert (first, values["loss"]) == (1, 0.5)
    assert all(isinstance(value, int | float) for value in values.values())
    assert (shown[0], list(shown[1])) == (1, ["preview"])
    assert (shown[1]["preview"].name, shown[1]["preview"].size) == ("preview.png", (4, 4))
    assert stand_in.run.finished


def test_a_run_outlives_its_tracker(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in = StandIn("trackio", breaks_at=2)
    monkeypatch.setitem(sys.modules, "trackio", stand_in)
    assert train("digits-diffusion", pictures, tmp_path / "run", "--track", "trackio") == 0
    assert capsys.readouterr().err.count("Tracking by trackio failed (the server is gone) and ends here") == 1
    assert [number for number, _ in stand_in.run.logged] == [1]
    assert stand_in.begun["config"]["steps"] == 6
    assert max(line["step"] for line in lines(tmp_path / "run")) == 6


def test_previews_reach_the_tracker(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = StandIn("wandb")
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    assert train("digits-diffusion", pictures, tmp_path / "run", "--track", "wandb") == 0
    shown = [values["preview"] for _, values in stand_in.run.logged if "preview" in values]
    assert shown[-1].name == "step-00000006.png"
    assert stand_in.begun["id"] == stand_in.begun["id"].strip()
    assert stand_in.run.finished


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
    for first in (0, 2):  # the second is the same run, taken up again
        with journal(tmp_path / "mine", "wandb", first) as written:
            written.record(step(first + 1))
            written.show(first + 1, picture(tmp_path))
            written.record(step(first + 2))
    kept = sorted((tmp_path / "mine" / "wandb").glob("offline-run-*/*.wandb"))
    assert all(b"gradient_norm" in path.read_bytes() for path in kept)
    assert len(kept) == 2
    assert len({path.name for path in kept}) == 1
    assert len(list((tmp_path / "mine" / "wandb").glob("offline-run-*/files/media/images/preview_*.png"))) == 2


def test_trackio_itself(tmp_path: Path) -> None:
    """In a process of its own, as trackio asks for its folder once, when it is imported."""
    pytest.importorskip("trackio")
    program = (
        "import json, sys\nfrom pathlib import Path\nimport trackio\n"
        "from tests.trainer.test_trackers import journal, picture, step\n"
        "run = Path(sys.argv[1])\n"
        "for first in (0, 2):\n"
        "    with journal(run, 'trackio', first) as written:\n"
        "        written.record(step(first + 1))\n"
        "        written.show(first + 1, picture(run.parent))\n"
        "        written.record(step(first + 2, loss=0.25))\n"
        "(kept,) = trackio.Api().runs('pixelpath')\n"
        "print(json.dumps([kept.name, kept.config['optimizer.lr']]), file=sys.stderr)\n"
    )
    place = {"TRACKIO_DIR": str(tmp_path / "trackio"), "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "mine")],
        env={**os.environ, **place},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    name, lr = json.loads(done.stderr.splitlines()[-1])
    assert name.startswith("mine-")
    assert lr == 0.001
    with contextlib.closing(sqlite3.connect(tmp_path / "trackio" / "pixelpath.db")) as kept:
        steps = kept.execute("select step, metrics from metrics order by id").fetchall()
    assert [(number, json.loads(values).get("loss")) for number, values in steps] == [
        (1, 0.5), (1, None), (2, 0.25), (3, 0.5), (3, None), (4, 0.25)
    ]  # fmt: skip
    assert len(list((tmp_path / "trackio" / "media").rglob("*.png"))) == 2
