"""Nothing is printed unless somebody asks; progress fits a narrow terminal, and is a line now and then where there is none."""

import os
import re
import shutil
import struct
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from pixelpath import log
from tests.application import call

fcntl, termios, pty = (pytest.importorskip(name) for name in ("fcntl", "termios", "pty"))


def on_a_terminal(columns, work):
    """What `work` writes to standard error, where that is a terminal so many columns wide."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    parts = []

    def read():
        try:
            while part := os.read(ours, 4096):
                parts.append(part)
        except OSError:  # the other end is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    before = sys.stderr
    try:
        with os.fdopen(theirs, "w", encoding="utf-8") as sys.stderr:
            work()
    finally:
        sys.stderr = before
        reader.join()
        os.close(ours)
    return b"".join(parts).decode()


def test_progress_prints_nothing_unless_sentences_are_shown(capsys, monkeypatch):
    monkeypatch.setattr(log, "PAUSE", 0)
    assert list(log.followed(range(3), "counting", 3)) == [0, 1, 2]
    with log.progress("counting", 3) as advance:
        advance(3)
    assert capsys.readouterr() == ("", "")


def test_away_from_a_terminal_a_line_says_what_is_done_and_what_is_left(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    with log.shown(), log.progress("counting", 10) as advance:
        for _ in range(10):
            now[0] += 12
            advance(1)
    # a line at 36, 72 and 108 s: the first moments 30 s after the one before; 12 s a part are left for each other part
    assert capsys.readouterr().err.splitlines() == [
        "counting: 3 of 10, 01:24 left",
        "counting: 6 of 10, 00:48 left",
        "counting: 9 of 10, 00:12 left",
    ]


def test_within_a_task_only_the_outer_one_is_shown(capsys, monkeypatch):
    monkeypatch.setattr(log, "PAUSE", 0)
    with log.shown(), log.progress("outer", 2) as advance:
        with log.progress("inner", 2) as inner:
            inner(1)
        advance(1)
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == ["outer"]
    with log.shown(), log.progress("later", 2) as advance:  # the place is free again, also after an error
        advance(1)
    assert capsys.readouterr().err.startswith("later: 1 of 2")


def test_a_task_that_fails_takes_its_bar_away(capsys, monkeypatch):
    monkeypatch.setattr(log, "PAUSE", 0)
    with log.shown():
        with pytest.raises(KeyError), log.progress("fails", 2):
            raise KeyError
        with log.progress("later", 2) as advance:
            advance(1)
    assert capsys.readouterr().err.startswith("later: 1 of 2")


@pytest.mark.parametrize("columns", [60, 100])
@pytest.mark.parametrize("name", ["export", "features (inception-v3-2048)"])
def test_on_a_terminal_the_bar_fits_its_columns(name, columns):
    def work():
        with log.shown(), log.progress(name, 2000) as advance:
            advance(1234)
            log.say("A sentence.")

    shown = on_a_terminal(columns, work)
    lines = [re.sub(r"\x1b\[[A-Z]", "", line) for line in re.split(r"[\r\n]+", shown)]
    bars = [line for line in lines if "1234/2000" in line]
    assert bars
    assert all(len(line) <= columns for line in lines)
    assert all(re.search(r" 62% \|.+\| 1234/2000, \d\d:\d\d left", bar) for bar in bars)
    assert "A sentence." in lines  # on a line of its own


COMMANDS = {
    "sample": ({"sampling 3"}, ["sample", "RUN", "--count", "3", "--out", "OUT"]),
    "evaluate": (
        {
            "sampling 24",
            "features (pixels)",
            "features (encoder)",
            "distances (pixels)",
            "loss by noise level",
            "search for copies",
        },
        ["evaluate", "RUN", "--count", "24", "--no-use-inception"],
    ),
    "probe": ({"probe (encoder)", "probe (pixels)"}, ["probe", "RUN"]),
    "export": ({"export"}, ["export", "ONESTEP", "--format", "torch", "--out", "OUT.pt2"]),
    "distill": ({"making 30"}, ["distill", "RUN", "--images", "30", "--steps", "2", "--out", "OUT"]),
    "audit": ({"opening files", "reading images", "nearest images", "near pairs"}, ["audit", "ALIKE", "--out", "OUT"]),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_shows_the_progress_of_all_that_may_take_long(
    name, diffusion_run, onestep_run, pictures, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(log, "PAUSE", 0)
    run = tmp_path / "run"
    shutil.copytree(diffusion_run, run)
    alike = tmp_path / "alike"
    shutil.copytree(pictures, alike)
    for path in sorted((alike / "across").iterdir())[:3]:
        Image.fromarray(np.asarray(Image.open(path)) ^ 1).save(path.with_name(f"like-{path.name}"))
    places = {
        "RUN": run,
        "ONESTEP": onestep_run,
        "ALIKE": alike,
        "OUT": tmp_path / "out",
        "OUT.pt2": tmp_path / "out.pt2",
    }
    tasks, words = COMMANDS[name]
    assert call(*(places.get(word, word) for word in words)) in (0, 1, 3)
    shown = capsys.readouterr().err
    said = re.findall(r"^(.+): (\d+) of (\d+), [\d:]+ left$", shown, re.MULTILINE)
    assert all(len(line) <= 60 for line in shown.splitlines() if line.endswith(" left"))
    assert tasks <= {task for task, _, _ in said}, shown
    assert all(int(done) <= int(total) for _, done, total in said)


def test_what_was_told_before_can_be_hushed(capsys: pytest.CaptureFixture[str]) -> None:
    with log.shown():
        log.say("first")
        with log.hushed():
            log.say("again")
        log.say("last")
    assert capsys.readouterr().err.split() == ["first", "last"]
