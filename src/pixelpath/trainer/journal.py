"""What a run records: metrics.jsonl for programs, one line of progress for people, and what a tracker shows.

A *line* of metrics.jsonl is a JSON object with the number of a step; numbers that are not finite are null. An *alarm* is a
sentence about training that goes wrong without failing.
"""

from __future__ import annotations

import io
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import torch
from tqdm import tqdm

from pixelpath import processes
from pixelpath.errors import UserError
from pixelpath.trainer.energy import Meter
from pixelpath.trainer.loop import Step
from pixelpath.trainer.trackers import Tracker

Stream = TextIO | io.TextIOBase

METRICS = "metrics.jsonl"


class Journal:
    """The journal of one run, to be used as a context; on processes other than the main one it only counts.

    `first` is the number of the step from which the run goes on (0 for a new run): later lines in metrics.jsonl are moved aside
    into metrics.<n>.jsonl. `total` is the number of the last step; `seconds` and `skipped` count earlier parts of the run. A line
    is written every `every` steps, with mean losses since the last line. On a terminal `stream` shows a progress bar, elsewhere a
    plain line every `pause` seconds. `track` opens a tracker once the journal is at its step, on the main process alone.
    """

    def __init__(
        self,
        run: Path,
        *,
        total: int,
        first: int = 0,
        seconds: float = 0.0,
        skipped: int = 0,
        device: torch.device | None = None,
        every: int = 1,
        track: Callable[[], Tracker] | None = None,
        stream: Stream | None = None,
        pause: float = 30.0,
    ) -> None:
        self.seconds, self.skipped = seconds, skipped
        self._every, self._device, self._total = every, device or torch.device("cpu"), total
        self._window: list[Step] = []
        self._last: tuple[Step, Sequence[str], Callable[[], Sequence[str]]] | None = None  # not counted yet
        self._main = processes.rank() == 0
        self._tracker: Tracker | None = None
        if not self._main:
            return
        run.mkdir(parents=True, exist_ok=True)
        set_aside(run, first)
        self._meter, self._joules = Meter(self._device), _joules_before(run, first)
        self._file = (run / METRICS).open("a", encoding="utf-8")
        if track is not None:
            self._tracker = track()
        self._progress = _Progress(stream or sys.stderr, first, total, pause)

    def record(self, step: Step, alarms: Sequence[str] = (), late: Callable[[], Sequence[str]] = tuple) -> None:
        """Take a step, which is counted with the next one or by `flush`: what the device says of it is then there.

        `late` are alarms that depend on what it says.
        """
        self.flush()
        self._last = step, alarms, late

    def flush(self) -> None:
        """Count the last step; write its line if one is due (also for alarms, skipped steps, and the last), show the progress."""
        if self._last is None:
            return
        (step, alarms, late), self._last = self._last, None
        alarms = [*alarms, *late()]
        self.seconds += step.seconds
        self.skipped += step.skipped
        if not self._main:
            return
        self._window.append(step)
        speed = sum(each.images for each in self._window) / max(sum(each.seconds for each in self._window), 1e-9)
        memory = peak_memory(self._device)
        if step.number % self._every == 0 or step.skipped or alarms or step.number == self._total:
            losses = _means(self._window)
            line = {"loss": losses["loss"], **losses, "gradient_norm": step.gradient_norm, "lr": step.lr}
            counts = {"seconds": self.seconds, "memory_bytes": memory, "skipped": self.skipped, "alarms": list(alarms)}
            self.note(step.number, {**line, "images_per_second": speed, **counts, **self._energy()})
            self._window = []
        self._progress.show(step, speed, memory, self.skipped, alarms)

    def _energy(self) -> dict[str, float]:
        """The joules of the run's device since the run began, where the machine tells them for the whole run."""
        joules = self._meter.read()
        return {} if joules is None or self._joules is None else {"joules": self._joules + joules}

    def note(self, number: int, values: Mapping[str, Any]) -> None:
        """Write a line of other values of step `number`, such as {"held_out_loss": 0.12}."""
        self.flush()
        if not self._main:
            return
        odd = {name for name, value in values.items() if isinstance(value, float) and not math.isfinite(value)}
        finite = {name: None if name in odd else value for name, value in values.items()}
        self._file.write(json.dumps({"step": number, **finite}, allow_nan=False) + "\n")
        self._file.flush()
        if self._tracker is not None:
            self._tracker.numbers(number, {name: value for name, value in finite.items() if isinstance(value, (int, float))})

    def show(self, number: int, picture: Path) -> None:
        """Show a picture of step `number`, a file, in the tracker."""
        self.flush()
        if self._main and self._tracker is not None:
            self._tracker.picture(number, picture)

    def close(self) -> None:
        """Count the last step, end the progress line and close the files."""
        self.flush()
        if not self._main:
            return
        self._progress.close()
        self._file.close()
        if self._tracker is not None:
            self._tracker.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def lines(run: Path) -> list[dict[str, Any]]:
    """All whole lines of a run's metrics.jsonl; empty if there is none."""
    file = run / METRICS
    text = _text(file).splitlines() if file.exists() else []
    return [parsed for line in text if (parsed := _parsed(line)) is not None]


def set_aside(run: Path, last: int) -> Path | None:
    """Move broken lines and those of steps after `last` from metrics.jsonl to a new metrics.<n>.jsonl; returns that, or None.

    The moved lines are on the disk before metrics.jsonl is replaced, so a crash loses none.
    """
    file = run / METRICS
    if not file.exists():
        return None
    text = _text(file).splitlines()
    kept = [line for line in text if (parsed := _parsed(line)) is not None and parsed["step"] <= last]
    if len(kept) == len(text) and file.read_bytes().endswith(b"\n"):
        return None
    moved = [line for line in text if (parsed := _parsed(line)) is None or parsed["step"] > last]
    number = 1
    while (aside := run / f"metrics.{number}.jsonl").exists():
        number += 1
    if moved:
        _write(aside, moved)
    _write(partial := run / f".{METRICS}.partial", kept)
    os.replace(partial, file)
    return aside if moved else None


def peak_memory(device: torch.device) -> int:
    """The peak of bytes this process has held on the device (on a CPU: in memory); 0 where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    if sys.platform == "win32":
        return 0
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss also holds what the process that started this one had held
        peaks = [line for line in status.read_text(encoding="ascii", errors="ignore").splitlines() if line.startswith("VmHWM:")]
        if peaks:
            return 1024 * int(peaks[0].split()[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


class _Progress:
    """One line of progress: a bar on a terminal, elsewhere a plain line now and then."""

    def __init__(self, stream: Stream, first: int, total: int, pause: float) -> None:
        self._stream, self._total, self._pause = stream, total, pause
        self._bar = tqdm(total=total, initial=first, file=stream, unit="step", dynamic_ncols=True) if stream.isatty() else None
        self._said, self._alarms, self._first, self._began = time.monotonic(), (), first, time.monotonic()

    def show(self, step: Step, speed: float, memory: int, skipped: int, alarms: Sequence[str]) -> None:
        """Show a step, at once if its alarms are new."""
        words = [f"loss {step.losses['loss']:.4g}", f"{speed:.0f} images/s", f"{memory / 2**30:.1f} GiB"]
        words += [f"{skipped} skipped"] if skipped else []
        text = ", ".join([*words, *(f"ALARM: {alarm}" for alarm in alarms)])
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update()
            return
        now, new = time.monotonic(), tuple(alarms)
        due = now - self._said >= self._pause or step.number == self._total
        if due or (new and new != self._alarms):
            left = (self._total - step.number) * (now - self._began) / max(step.number - self._first, 1)
            self._stream.write(f"step {step.number}/{self._total}, {text}, {tqdm.format_interval(left)} left\n")
            self._stream.flush()
            self._said = now
        self._alarms = new

    def close(self) -> None:
        """Leave the line."""
        if self._bar is not None:
            self._bar.close()


def _joules_before(run: Path, first: int) -> float | None:
    """The joules of earlier sittings; None for a run of which a part was not told."""
    if first == 0:
        return 0.0
    told = [line["joules"] for line in lines(run) if "joules" in line]
    return told[-1] if told else None


def _means(steps: Sequence[Step]) -> dict[str, float]:
    """Each loss's mean over the steps that were not skipped (over all if all were)."""
    counted = [step.losses for step in steps if not step.skipped] or [step.losses for step in steps]
    return {name: math.fsum(losses[name] for losses in counted) / len(counted) for name in counted[0]}


def _text(file: Path) -> str:
    """What a file of metrics holds, bytes that are no text too; UserError for what is no file, which could wait for ever."""
    if not file.is_file():
        raise UserError(f"{file} is no file: remove it, then give the same command again.")
    return file.read_text(encoding="utf-8", errors="surrogateescape")


def _parsed(line: str) -> dict[str, Any] | None:
    """A line as `note` writes it: numbers, nulls and lists of sentences; None for any other, which is broken."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or type(value.get("step")) is not int:
        return None
    return value if all(each is None or isinstance(each, int | float | list) for each in value.values()) else None


def _write(file: Path, text: Sequence[str]) -> None:
    with file.open("w", encoding="utf-8", errors="surrogateescape") as stream:
        stream.writelines(line + "\n" for line in text)
        stream.flush()
        os.fsync(stream.fileno())
