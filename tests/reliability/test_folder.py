"""The folder of a run: one process at a time, nothing half written left in it, files as the umask says, a report at the end."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest
from tests.reliability.harness import REMADE, Command, Kind, Starter, content, differences, train


def partials(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*partial*"))


def test_a_run_killed_after_its_last_checkpoint_gets_its_report(
    starter: Starter, kinds: dict[str, Kind], pictures: Path, tmp_path: Path
) -> None:
    for recipe, kind in kinds.items():
        out = tmp_path / recipe
        words = train(recipe, pictures, out, *kind.origin)
        starter.run(Command(words, after_file=str(out / "checkpoints" / "step-00000009")))
        for name in REMADE:
            (out / name).unlink(missing_ok=True)
        assert starter.run(Command(words))[0].status == 0
        assert {path.name for path in out.iterdir()} >= REMADE


def test_a_run_killed_at_one_of_its_first_operations_begins(
    starter: Starter, kinds: dict[str, Kind], pictures: Path, tmp_path: Path
) -> None:
    """From making the folder to the encoder's copy."""
    kind = kinds["digits-onestep"]
    for at in range(1, 30, 4):
        out = tmp_path / str(at)
        words = train(kind.recipe, pictures, out, *kind.origin)
        starter.run(Command(words, fault={"kind": "kill", "at": at, "within": str(out)}))
        (ended,) = starter.run(Command(words))
        assert ended.status == 0, f"after operation {at}: {ended.said}"
        assert differences(kind.straight, out) == []
        assert partials(out) == []


def test_what_a_crash_left_is_swept(starter: Starter, kinds: dict[str, Kind], pictures: Path, tmp_path: Path) -> None:
    kind, out = kinds["digits-encoder"], tmp_path / "run"
    shutil.copytree(kind.straight, out)
    for name in (".recipe.json.4242.partial", ".metrics.jsonl.partial", "previews/.views.png.77.partial", ".encoder.partial"):
        (out / name).write_text("half")
    (out / "checkpoints" / ".step-00000012.partial").mkdir()
    assert starter.run(Command(train(kind.recipe, pictures, out)))[0].status == 0
    assert partials(out) == []


def test_two_processes_do_not_train_in_one_folder(starter: Starter, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = train("digits-diffusion", pictures, out, "--steps", 60)
    found = sorted(starter.run(Command(words), Command(words)), key=lambda ended: ended.status)
    assert [ended.status for ended in found] == [0, 2]
    assert str(out) in found[1].sentence
    assert str(os.uname().nodename) in found[1].sentence
    starter.run(Command(train("digits-diffusion", pictures, tmp_path / "alone", "--steps", 60)))
    assert differences(tmp_path / "alone", out) == []


def test_a_dead_process_holds_no_folder(starter: Starter, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = train("digits-diffusion", pictures, out)
    starter.run(Command(words, after_file=str(out / "recipe.json")))
    assert starter.run(Command(words))[0].status == 0


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_files_are_as_readable_as_the_umask_says(
    umask: int, starter: Starter, kinds: dict[str, Kind], pictures: Path, tmp_path: Path
) -> None:
    kind, out = kinds["digits-onestep"], tmp_path / "run"
    assert starter.run(Command(train(kind.recipe, pictures, out, *kind.origin), umask=umask))[0].status == 0
    odd = {
        str(path.relative_to(out)): oct(mode)
        for path in out.rglob("*")
        if (mode := stat.S_IMODE(path.stat().st_mode)) != (0o777 if path.is_dir() else 0o666) & ~umask
    }
    assert odd == {}
    assert content(out)
