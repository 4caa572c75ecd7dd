"""The journal's lines, what resuming does to them, and what people see."""

import io
import json
import math
import os
from pathlib import Path

import pytest
import torch

from pixelpath.errors import UserError
from pixelpath.trainer.journal import Journal, lines, peak_memory, set_aside
from pixelpath.trainer.loop import Outcome, Step


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def step(number: int, loss: float = 0.5, skipped: bool = False) -> Step:
    return Step(number, 1e-4, 64, 0.5, lambda: Outcome({"contrast": 2 * loss, "loss": loss}, 1.25, skipped))


def test_a_line_says_all_that_was_measured(tmp_path: Path) -> None:
    with Journal(tmp_path, total=2, seconds=10.0, skipped=3, stream=io.StringIO()) as journal:
        journal.record(step(1))
        journal.record(step(2, math.nan, skipped=True), alarms=["The features have collapsed."])
        journal.note(2, {"held_out_loss": 0.25})
    first, second, third = lines(tmp_path)
    first.pop("joules", None)  # of a machine that tells them
    memory = first.pop("memory_bytes")
    assert 10_000_000 < memory < 10**12
    assert first == {
        "step": 1, "loss": 0.5, "contrast": 1.0, "gradient_norm": 1.25, "lr": 1e-4, "seconds": 10.5,
        "images_per_second": 128.0, "skipped": 3, "alarms": [],
    }  # fmt: skip
    assert list(first)[:2] == ["step", "loss"]
    assert second["loss"] is None
    assert second["alarms"] == ["The features have collapsed."]
    assert (second["skipped"], second["seconds"]) == (4, 11.0)
    assert third == {"step": 2, "held_out_loss": 0.25}
    assert (journal.seconds, journal.skipped) == (11.0, 4)


def test_a_line_is_there_once_the_next_step_is_taken(tmp_path: Path) -> None:
    """What a step was is asked for when the device has got to the next one, or where it is needed."""
    asked: list[int] = []

    def outcome() -> Outcome:
        asked.append(1)
        return Outcome({"loss": 1.0}, 1.0)

    journal = Journal(tmp_path, total=5, stream=io.StringIO())
    journal.record(Step(1, 1e-4, 64, 0.5, outcome), late=lambda: ["late"])
    assert (asked, lines(tmp_path)) == ([], [])
    journal.record(step(2))
    assert [(line["step"], line["alarms"]) for line in lines(tmp_path)] == [(1, ["late"])]
    journal.flush()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
    journal.close()
    assert len(lines(tmp_path)) == 2


def test_fewer_lines_hold_means(tmp_path: Path) -> None:
    with Journal(tmp_path, total=8, every=3, stream=io.StringIO()) as journal:
        for number in range(1, 9):
            journal.record(step(number, loss=float(number)))
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(3, 2.0), (6, 5.0), (8, 7.5)]
    assert lines(tmp_path)[0]["images_per_second"] == 128.0


def test_broken_lines_are_no_lines_and_are_moved_aside_byte_by_byte(tmp_path: Path) -> None:
    good, deep = b'{"step": 1, "loss": 0.5}', b"[" * 100_000
    broken = [b"\xff\xfe", b'{"step": true}', b'{"step": 1e400}', b'{"step": 1, "loss": "a"}', b"[1]", deep, b"half a li"]
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([*broken[:3], good, *broken[3:]]))
    assert lines(tmp_path) == [{"step": 1, "loss": 0.5}]
    aside = set_aside(tmp_path, 5)
    assert aside is not None
    assert aside.read_bytes().splitlines() == broken
    assert (tmp_path / "metrics.jsonl").read_bytes() == good + b"\n"


def test_metrics_that_are_no_file_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        lines(tmp_path)
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        Journal(tmp_path, total=1)


def test_resuming_moves_later_lines_aside_and_loses_none(tmp_path: Path) -> None:
    with Journal(tmp_path, total=9, stream=io.StringIO()) as journal:
        for number in range(1, 6):
            journal.record(step(number, loss=float(number)))
    file = tmp_path / "metrics.jsonl"
    with file.open("a") as stream:
        stream.write('{"step": 6, "lo')  # the line a kill cut off
    before = file.read_text().splitlines()
    with Journal(tmp_path, total=9, first=3, stream=io.StringIO()) as journal:
        journal.record(step(4, loss=40.0))
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(1, 1), (2, 2), (3, 3), (4, 40)]
    assert (tmp_path / "metrics.1.jsonl").read_text().splitlines() == before[3:]
    assert set_aside(tmp_path, 4) is None
    assert set_aside(tmp_path, 2) == tmp_path / "metrics.2.jsonl"
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.1.jsonl", "metrics.2.jsonl", "metrics.jsonl"]


def test_a_plain_stream_gets_a_line_now_and_then(tmp_path: Path) -> None:
    stream = io.StringIO()
    with Journal(tmp_path, total=100, stream=stream, pause=1000.0) as journal:
        for number in range(1, 100):
            journal.record(step(number))
        assert stream.getvalue() == ""
        journal.record(step(100))
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("step 100/100, loss 0.5, 128 images/s, ")
    assert line.endswith("GiB, 00:00 left")


def test_new_alarms_are_said_at_once_and_once(tmp_path: Path) -> None:
    stream = io.StringIO()
    with Journal(tmp_path, total=100, stream=stream, pause=1000.0) as journal:
        journal.record(step(1))
        for number in (2, 3):
            journal.record(step(number), alarms=["The loss is at chance level."])
    assert stream.getvalue().count("ALARM: The loss is at chance level.") == 1


def test_a_terminal_gets_a_bar(tmp_path: Path) -> None:
    stream = Terminal()
    with Journal(tmp_path, total=3, first=1, stream=stream) as journal:
        journal.record(step(2))
        journal.record(step(3), alarms=["The loss is at chance level."])
    text = stream.getvalue()
    assert "3/3" in text
    assert "images/s" in text
    assert "ALARM: The loss is at chance level." in text


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says it twice")
def test_peak_memory_is_that_of_this_process() -> None:
    (said,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    high_water = 1024 * int(said.split()[1])
    assert 0.95 * high_water <= peak_memory(torch.device("cpu")) < 50 * high_water  # that of a parent process may count too


def test_metrics_are_strict_json(tmp_path: Path) -> None:
    with Journal(tmp_path, total=1, stream=io.StringIO()) as journal:
        journal.record(step(1, math.inf, skipped=True))
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail)["loss"] is None
