"""The training of one run of a fit in its time, on a CPU by two processes: each computes half of every batch.

A run is a dictionary of fit.json: its folder, kind and recipe, the run that it begins with, the seconds of its step and those
that it has used, and why it *ended*: its steps are taken or its time is up. One that has not ended was stopped, and goes on. Its
number of steps is planned anew when the speed is not as planned, so that its schedule ends when the time does.

Small networks gain little by the threads of one process (docs/scale.md). What depends on a clock the main process decides; the
*companion* does as it does, and ends when it does.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pixelpath.atomic import read_json
from pixelpath.errors import UserError
from pixelpath.log import say
from pixelpath.recipes.recipe import from_json
from pixelpath.runs.beginning import begin
from pixelpath.runs.chosen import Beginning, Saving
from pixelpath.runs.devices import met
from pixelpath.runs.fitting import planning
from pixelpath.runs.folder import by_main, holds_run
from pixelpath.runs.session import Session

Run = dict[str, Any]

CHECKED, AGAIN, LEAST_CHECKED = 0.08, 0.33, 10  # of a run's time, and of what is left later, after which its speed is compared
OFF = 0.1  # of a run's time: a plan that is off by more is made anew
ANEW, STOPPED = "planned anew", "stopped"  # why a run was left: to go on with another number of steps, or as it was asked to
TOGETHER = 2  # processes on a CPU
WARM = 3  # steps before speed counts
BEAT = 10.0  # seconds between notes of the time used


@dataclass(frozen=True)
class Timing:
    """How long a run may train: a clock of seconds, the seconds that are left, and whom to tell that time went by."""

    clock: Callable[[], float]
    left: Callable[[], float]
    told: Callable[[], None] = lambda: None


class Training:
    """The training of a run of the fit in `out`, while time is left."""

    def __init__(self, out: Path, run: Run, device: torch.device, timing: Timing) -> None:
        self.out, self.run, self.device = out, run, device
        self.clock, self.left, self.told = timing.clock, timing.left, timing.told
        self.mark = self.clock()

    def note(self) -> None:
        """Count the seconds since the last note as used by the run."""
        now = self.clock()
        self.run["seconds"] = self.run.get("seconds", 0.0) + now - self.mark
        self.mark = now
        self.told()

    def proceed(self, asked: Callable[[], bool], last: float = 0.0) -> None:
        """Take the run's steps until it has ended or was `asked` to stop; in the `last` seconds they are taken as planned.

        Of two processes both must call it.
        """
        folder = self.out / self.run["folder"]
        if holds_run(folder):  # its own number of steps holds, should a crash have come between the two files
            kept = read_json(folder / "recipe.json")
            self.run["recipe"] |= {name: kept[name] for name in ("steps", "schedule")}
        recipe = from_json(json.dumps(self.run["recipe"]))
        origin = None if self.run["from"] is None else (self.out / self.run["from"]).absolute()
        session = begin(recipe, folder, self.device, Beginning(init_from=origin), Saving())
        self.note()
        why = self._take(session, asked, last)
        while why == ANEW and not session.finished:
            self._plan_anew(session)
            why = self._take(session, asked, last)
        self.run["ended"] = "steps taken" if session.finished else "" if why == STOPPED else why
        self.note()

    def _plan_anew(self, session: Session) -> None:
        """Give the run as many more steps as it takes until its time is up: its schedule then ends with it."""
        run = self.run
        steps = session.state.step + by_main(lambda: planning.steps_in(self.left(), run["step"]))()
        say(f"A step takes {run['step']:.3g} s, which is not as planned: {steps:,} steps instead of {run['recipe']['steps']:,}.")
        warmup = planning.warmup_in(steps, run["recipe"]["schedule"]["warmup"])
        run["recipe"] |= {"steps": steps, "schedule": run["recipe"]["schedule"] | {"warmup": warmup}}
        run["planned"] = run.get("planned", 1) + 1
        session.plan_anew(steps, warmup)
        self.note()

    def _take(self, session: Session, asked: Callable[[], bool], last: float) -> str:
        """Why a session was left; empty if it was not. Its speed is compared until `last` seconds are left."""
        room, began = self.left(), self.clock()
        first, why, taken = session.state.step, "", 0
        due = (AGAIN if first else CHECKED) * room

        @by_main
        def decided() -> str:
            nonlocal due
            if asked():
                return STOPPED
            left = self.left()
            if left <= 0:
                return "time is up"
            if room - left <= due or left <= last or taken < LEAST_CHECKED + WARM:
                return ""
            due = room - left + AGAIN * left
            speed = (self.clock() - began) / (taken - WARM)
            ahead = planning.MEASURED * speed * (session.recipe.steps - first - taken)
            return ANEW if abs(ahead - left) > OFF * room else ""

        def stop() -> bool:
            nonlocal why
            why = decided()
            return bool(why)

        for _ in session.proceed(stop):
            taken += 1
            if taken == WARM:
                began = self.clock()
            if self.clock() - self.mark > BEAT:
                self.note()
        if taken >= LEAST_CHECKED + WARM:
            self.run["step"] = (self.clock() - began) / (taken - WARM)
        return why


@contextmanager
def in_company(out: Path, run: Run, device: torch.device, threads: int) -> Iterator[None]:
    """While open, a companion trains the run too, each of the two in half of the threads: on a CPU that has two or more.

    Raises UserError if it ends before both have met.
    """
    recipe, own = run["recipe"], torch.get_num_threads()
    if device.type != "cpu" or threads < TOGETHER or recipe["batch_size"] % (TOGETHER * recipe["accumulate"]):
        yield
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        place, each = Path(folder) / "meeting", threads // TOGETHER
        companion = subprocess.Popen(
            [sys.executable, "-m", __name__, str(place), str(each)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C asks this process alone
            env=os.environ | {"RANK": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        torch.set_num_threads(each)
        with companion:
            try:
                _tell(companion, {"out": str(out.absolute()), "run": run})
                with met(place, 0, TOGETHER):
                    yield
            finally:
                companion.kill()  # it has ended, unless something failed here; it writes nothing that is kept
                torch.set_num_threads(own)


def _tell(companion: subprocess.Popen[str], what: dict[str, Any]) -> None:
    """Tell the companion what to train, and wait until it is ready; UserError if it is gone."""
    assert companion.stdin is not None
    assert companion.stdout is not None
    with suppress(BrokenPipeError):
        companion.stdin.write(json.dumps(what))
        companion.stdin.close()
    if companion.stdout.readline():
        return
    code = companion.wait()
    if code >= 0:
        raise RuntimeError(f"The second process that trains {what['run']['folder']} failed: its traceback is above.")
    raise UserError(
        f"The second process that trains {what['run']['folder']} was ended by {signal.Signals(-code).name}, perhaps for lack of "
        "memory: free some, and give the same command again."
    )


def main(place: str, threads: str) -> None:
    """Train the run that standard input tells of in company of the process that waits at `place`."""
    torch.set_num_threads(int(threads))
    given = json.loads(sys.stdin.read())
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    never = Timing(time.monotonic, lambda: math.inf)  # the main process decides when time is up
    try:
        with met(Path(place), 1, TOGETHER):
            Training(Path(given["out"]), given["run"], torch.device("cpu"), never).proceed(lambda: False)
    except UserError:
        sys.exit(2)  # the main process says what is wrong


if __name__ == "__main__":
    main(*sys.argv[1:])
