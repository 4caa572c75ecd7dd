"""A disk that is full: one sentence, no checkpoint harmed, and the same command goes on once there is room."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.reliability.harness import Command, Kind, Starter, checkpoints, differences, lost, recorded, train

RICHEST = "digits-onestep"  # copies its encoder, and saves before the first step too
LEAST = 4096  # bytes that what is said needs


def fill_and_finish(starter: Starter, kind: Kind, words: tuple[str, ...], out: Path, full: Command) -> list[str]:
    """What is wrong after a run met a full disk, twice, and was finished when there was room."""
    wrong = []
    for _ in range(2):
        before, lines = checkpoints(out), recorded(out)
        (ended,) = starter.run(full)
        wrong += [f"lost: {name}" for name in lost(before, lines, out)]
        if ended.status != 0:
            assert "space" in ended.sentence or "large" in ended.sentence, ended.said
    before, lines = checkpoints(out), recorded(out)
    (ended,) = starter.run(Command(words))
    if ended.status != 0:
        return [*wrong, f"not taken up: {ended.said[-400:]}"]
    return [*wrong, *lost(before, lines, out), *(f"differs: {name}" for name in differences(kind.straight, out))]


def fill_at_operations(starter: Starter, kind: Kind, data: Path, folder: Path, count: int) -> None:
    """The disk is full from a random operation on, so many times."""
    draw = random.Random(count)
    watched = {"kind": "full", "at": None, "within": str(folder / "whole")}
    (ended,) = starter.run(Command(train(kind.recipe, data, folder / "whole", *kind.origin), fault=watched))
    assert ended.status == 0
    wrong = []
    for place in range(count):
        out = folder / f"run-{place}"
        words, at = train(kind.recipe, data, out, *kind.origin), draw.randint(1, ended.operations)
        full = Command(words, fault={"kind": "full", "at": at, "within": str(out)})
        wrong += [f"at operation {at}: {what}" for what in fill_and_finish(starter, kind, words, out, full)]
    assert not wrong, "\n".join(wrong)


def fill_at_sizes(starter: Starter, kind: Kind, data: Path, folder: Path, count: int) -> None:
    """No file can grow larger than a random size, so many times."""
    draw, wrong = random.Random(count), []
    largest = max(path.stat().st_size for path in kind.straight.rglob("*") if path.is_file())
    for place in range(count):
        out, limit = folder / f"run-{place}", round(LEAST * (largest / LEAST) ** draw.random())
        words = train(kind.recipe, data, out, *kind.origin)
        wrong += [f"limit {limit}: {what}" for what in fill_and_finish(starter, kind, words, out, Command(words, limit=limit))]
    assert not wrong, "\n".join(wrong)


def test_no_room_from_some_operation_on(starter: Starter, kinds: dict[str, Kind], pictures: Path, tmp_path: Path) -> None:
    fill_at_operations(starter, kinds[RICHEST], pictures, tmp_path, 3)


def test_no_room_in_the_middle_of_a_file(starter: Starter, kinds: dict[str, Kind], pictures: Path, tmp_path: Path) -> None:
    fill_at_sizes(starter, kinds[RICHEST], pictures, tmp_path, 2)


@pytest.mark.full
def test_no_room_from_some_operation_on_often(starter: Starter, kinds: dict[str, Kind], pictures: Path, tmp_path: Path) -> None:
    fill_at_operations(starter, kinds[RICHEST], pictures, tmp_path, 40)


@pytest.mark.full
def test_no_room_in_the_middle_of_a_file_often(starter: Starter, kinds: dict[str, Kind], pictures: Path, tmp_path: Path) -> None:
    fill_at_sizes(starter, kinds[RICHEST], pictures, tmp_path, 20)


@pytest.mark.full
@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a file system")
def test_a_small_file_system(starter: Starter, kinds: dict[str, Kind], pictures: Path, tmp_path: Path) -> None:
    """A real one, with room for a quarter, a half and three quarters of the run."""
    kind, disk = kinds[RICHEST], tmp_path / "disk"
    disk.mkdir()
    size = sum(path.stat().st_size for path in kind.straight.rglob("*") if path.is_file())
    for share in (0.25, 0.5, 0.75):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={round(share * size)}", "none", disk], check=True)
        try:
            out = disk / "run"
            words = train(kind.recipe, pictures, out, *kind.origin)
            (ended,) = starter.run(Command(words))
            assert "space" in ended.sentence
            kept = checkpoints(out)
            subprocess.run(["mount", "-o", f"remount,size={4 * size}", disk], check=True)
            (ended,) = starter.run(Command(words))
            assert ended.status == 0, ended.said
            assert lost(kept, set(), out) == []
            assert differences(kind.straight, out) == []
            shutil.rmtree(out)
        finally:
            subprocess.run(["umount", disk], check=True)
