"""The training of one run of a fit in its time; and of another one beside it, by a process of its own, on a CPU.

A run is a dictionary of fit.json: its folder, kind and recipe, the run that it begins with, the seconds of its step and those
that it has used, and why it *ended*: its steps are taken or its time is up. One that has not ended was stopped, and goes on. Its
number of steps is planned anew when the speed is not as planned, so that its schedule ends when the time does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from pixelpath.runs.fitting import planning
from pixelpath.runs.folder import holds_run
from pixelpath.runs.session import Session
from pixelpath.trainer.interruption import Interruption

Run = dict[str, Any]

CHECKED, AGAIN, LEAST_CHECKED = 0.08, 0.33, 10  # of a run's time, and of what is left later, after which its speed is compared
OFF = 0.1  # of a run's time: a plan that is off by more is made anew
ANEW = "planned anew"  # why a run was left, to go on with another number of steps
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
        """Take the run's steps until it has ended or was `asked` to stop; in the `last` seconds they are taken as planned."""
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
        self.run["ended"] = "steps taken" if session.finished else why
        self.note()

    def _plan_anew(self, session: Session) -> None:
        """Give the run as many more steps as it takes until its time is up: its schedule then ends with it."""
        run = self.run
        steps = session.state.step + planning.steps_in(self.left(), run["step"])
        say(f"A step takes {run['step']:.3g} s, which is not as planned: {steps:,} steps instead of {run['recipe']['steps']:,}.")
        warmup = planning.warmup_in(steps, run["recipe"]["schedule"]["warmup"])
        run["recipe"] |= {"steps": steps, "schedule": run["recipe"]["schedule"] | {"warmup": warmup}}
        run["planned"] = run.get("planned", 1) + 1
        session.plan_anew(steps, warmup)
        self.note()

    def _take(self, session: Session, asked: Callable[[], bool], last: float) -> str:
        """Why a session was left; empty if it was asked to stop. Its speed is compared until `last` seconds are left."""
        room, began = self.left(), self.clock()
        first, why, taken = session.state.step, "", 0
        due = (AGAIN if first else CHECKED) * room

        def stop() -> bool:
            nonlocal why, due
            if asked():
                return True
            left = self.left()
            if left <= 0:
                why = "time is up"
            elif room - left > due and left > last and taken >= LEAST_CHECKED + WARM:
                due = room - left + AGAIN * left
                speed = (self.clock() - began) / (taken - WARM)
                ahead = planning.MEASURED * speed * (session.recipe.steps - first - taken)
                why = ANEW if abs(ahead - left) > OFF * room else ""
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


class Beside:
    """A run of a fit that a process of its own trains for so many seconds on the CPU, in as many threads as this one has now."""

    def __init__(self, out: Path, run: Run, seconds: float, last: float) -> None:
        self.run, self.stopping = run, False
        until = time.time() + seconds  # its process needs a while to begin
        given = {"out": str(out.absolute()), "run": run, "until": until, "last": last, "parent": os.getpid()}
        given["threads"] = torch.get_num_threads()
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C asks this process, which asks that one
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(given))
        self.process.stdin.close()

    @property
    def running(self) -> bool:
        """Whether its process has not ended."""
        return self.process.poll() is None

    @property
    def failed(self) -> bool:
        """Whether its process has ended, and not well."""
        return self.process.poll() not in (None, 0)

    def stop(self) -> None:
        """Ask it to save and stop."""
        if self.running:
            self.stopping = True
            self.process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """Wait for it, and take over what became of its run. Raises UserError for its own, and if its process was killed."""
        assert self.process.stdout is not None
        said, code = self.process.stdout.read(), self.process.wait()
        found = json.loads(said) if said else {"run": {}, "error": None}
        self.run |= found["run"]
        if found["error"]:
            raise UserError(found["error"]["sentence"], setting=found["error"]["setting"])
        if self.stopping:  # perhaps before it had begun
            return
        if code < 0:
            raise UserError(
                f"The process that trains {self.run['folder']} was ended by {signal.Signals(-code).name}, perhaps for lack of "
                "memory. What it had saved is kept: the same command goes on from there.",
                setting="one_step",
            )
        if code:
            raise RuntimeError(f"The process that trains {self.run['folder']} failed: its traceback is above.")


def train_beside(own: Training, beside: Beside | None, asked: Callable[[], bool], last: float) -> None:
    """Train a run here, and perhaps another one beside it; both have ended, or were asked to stop, when this returns."""
    failed = lambda: beside is not None and beside.failed  # noqa: E731
    try:
        if not own.run["ended"]:
            own.proceed(lambda: asked() or failed(), last)
        while beside is not None and beside.running and not asked():
            time.sleep(0.05)
    finally:
        if beside is not None:
            if asked() or own.left() > 0:  # that, or training here has failed
                beside.stop()
            beside.end()


@contextmanager
def half_of_threads() -> Iterator[None]:
    """While open, torch computes in half of the threads that it has on the CPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // 2))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def main() -> None:
    """Train the run that standard input tells of; what became of it is written to standard output."""
    given = json.loads(sys.stdin.read())
    torch.set_num_threads(given["threads"])
    end, run = time.monotonic() + given["until"] - time.time(), given["run"]
    timing = Timing(time.monotonic, lambda: end - time.monotonic())
    training = Training(Path(given["out"]), run, torch.device("cpu"), timing)
    error = None
    try:
        with Interruption() as interruption:
            training.proceed(lambda: interruption.asked() or os.getppid() != given["parent"], given["last"])
    except UserError as mistake:
        error = {"sentence": str(mistake), "setting": mistake.setting}
    sys.stdout.write(json.dumps({"run": run, "error": error}))
    sys.exit(2 if error else 0)


if __name__ == "__main__":
    main()
