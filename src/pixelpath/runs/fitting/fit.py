"""From a folder and a budget of time to samples: audit, plan, train, tune, sample, evaluate, report.

The folder of a fit holds fit.json (what was decided and why, planned and real seconds), samples, and its *runs*: `diffusion`,
`diffusion-2`, ..., each begun with the weights of the one before, and `onestep`, ..., each taught by the newest of these. A run
that has not *ended* goes on by the same command; another one begins only for added time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import torch

from pixelpath.data.settings import DataSettings
from pixelpath.errors import Stopped, UserError
from pixelpath.log import hushed, say
from pixelpath.recipes.recipe import Recipe, to_json
from pixelpath.reports.page import duration
from pixelpath.runs.fitting import planning
from pixelpath.runs.fitting.choosing import Chosen, chosen_for
from pixelpath.runs.fitting.finishing import finish
from pixelpath.runs.fitting.planning import Budget, Plan
from pixelpath.runs.fitting.sitting import HERE, Machine, Sitting
from pixelpath.runs.fitting.training import Timing, Training, in_company
from pixelpath.runs.folder import DIFFUSION, FIT, ONE_STEP, fitted_run
from pixelpath.runs.lock import LOCK, Lock
from pixelpath.runs.opened import open_run
from pixelpath.runs.work import multiply_adds_of
from pixelpath.trainer.interruption import Interruption

WORTH = 0.25  # of the time for training: less is not worth another run
CLOSE = 0.8  # of the images that a recipe should see: so many are enough once its speed is known
LAST = 0.15  # of the time for training: with less left, the steps are rather taken as planned


def folder_of(path: Path | str) -> Path:
    """Where a fit of the data at `path` is kept unless told otherwise: runs/NAME."""
    file, *variable = str(path).split("::")
    return Path("runs") / "-".join([Path(file).resolve().stem, *variable]).replace("/", "-")


def plan_fit(settings: DataSettings, out: Path, budget: Budget, device: torch.device, machine: Machine = HERE) -> list[str]:
    """The plan in lines; trains and writes nothing. Raises UserError for data that cannot be trained on."""
    fitting = Fitting(Sitting(settings, out, budget, device, machine))
    if fitting.finished:
        return [fitting.ending()]
    fitting.decide(added=fitting.at.judged)
    fitting.check_left()
    return fitting.plan_lines(fitting.plan())


def fit(settings: DataSettings, out: Path, budget: Budget, device: torch.device, machine: Machine = HERE) -> Path:
    """Everything from the data to samples and a report, in the budget; the folder of the last run.

    The same call goes on where it was interrupted, and with more minutes from where it was. Raises UserError for data that cannot
    be trained on and for a folder that holds anything else, Stopped if it was asked to stop.
    """
    if out.exists() and not (out / FIT).exists() and any(path.name != LOCK for path in out.iterdir()):
        raise UserError(f"{out} is there already and holds no fit: choose another `out`, nothing is overwritten.", setting="out")
    lock = Lock(out)
    try:
        return Fitting(Sitting(settings, out, budget, device, machine, kept=True)).run()
    finally:
        lock.release()


class Fitting:
    """What one sitting of a fit does."""

    def __init__(self, at: Sitting) -> None:
        self.at = at

    @property
    def finished(self) -> bool:
        """Whether everything is done, and for no more minutes than these, or hardly any time is left."""
        planned = max((plan["minutes"] for plan in self.at.state["plans"]), default=0)
        ended = self.at.budget.minutes <= planned or self.at.left < planning.SHARE * self.at.seconds
        return self.at.judged and ended

    def ending(self) -> str:
        """What is said of a fit that is finished."""
        return f"{self.at.out} is finished: {duration(self.at.spent)} are used. More `minutes` go on from there."

    def run(self) -> Path:
        """Everything that is still to be done."""
        if self.finished:
            say(self.ending())
            return fitted_run(self.at.out)
        added = self.at.judged
        if added:
            say(f"{duration(self.at.left)} are added: another run begins with the weights of {fitted_run(self.at.out).name}.")
            self.at.state["done"] = []
        self.decide(added=added)
        if not self.at.state["runs"]:
            self.check_left()
        plan = self.plan()
        for line in self.plan_lines(plan):
            say(line)
        self.at.state["plans"].append({"minutes": self.at.budget.minutes, "spent": self.at.spent, **plan.to_json()})
        if "training" not in self.at.state["done"]:
            with self.at.phase("training"):
                self.train(plan)
        finish(self.at, plan)
        self.say_end()
        return fitted_run(self.at.out)

    def decide(self, *, added: bool) -> None:
        """The recipe and the seconds of its step, from the data and by some real steps, once; whether one step is worth it.

        That is decided anew where minutes are `added`.
        """
        if "recipe" not in self.at.state:
            self.look()
        if added or not self.at.state["runs"]:
            has = bool(self.at.runs_of(ONE_STEP))
            self.at.state["one_step"] = has or planning.repaid(self.at.chosen, self.at.step, self.at.left)

    def check_left(self) -> None:
        """UserError where hardly any time is left to train in."""
        if self.at.left < planning.SHARE * self.at.seconds:
            used = f"{duration(self.at.spent)} of {duration(self.at.seconds)}"
            kept = " What was found is kept." if self.at.kept else ""
            raise UserError(f"{used} are used, which leaves too little to train in: raise `minutes`.{kept}", setting="minutes")

    def look(self) -> None:
        """The recipe and the seconds of its step."""
        with self.at.phase("looking"):
            chosen = chosen_for(self.at.settings, self.at.device)
        with self.at.phase("trial"):
            say(f"Trying some steps of {chosen.recipe.name} ...")
            chosen = self.scaled(self.tried(chosen))
            self.at.state["about"] = {name: value for name, value in vars(chosen).items() if name != "recipe"}
            self.at.state["recipe"] = json.loads(to_json(chosen.recipe))

    def tried(self, chosen: Chosen) -> Chosen:
        """What was chosen, with the seconds of a step noted; its batch is halved until a step fits into memory."""
        while True:
            try:
                with hushed():
                    self.at.state["step"] = self.at.machine.step(chosen.recipe, self.at.device)
            except torch.OutOfMemoryError:
                if chosen.recipe.batch_size <= planning.SMALLEST_BATCH:
                    raise
                chosen = replace(chosen, recipe=replace(chosen.recipe, batch_size=chosen.recipe.batch_size // 2))
                say(f"That takes more memory than there is: {chosen.recipe.batch_size} images a step instead.")
            else:
                return chosen

    def scaled(self, chosen: Chosen) -> Chosen:
        """The same with the largest size, and the finest patch, of which this budget shows a network enough images."""
        recipe, step, left = chosen.recipe, self.at.state["step"], self.at.left
        work = multiply_adds_of(recipe, chosen.shape, chosen.classes)
        *larger, last = planning.variants(recipe, chosen.shape, chosen.training)
        for other in larger:
            ahead = step * multiply_adds_of(other, chosen.shape, chosen.classes) / work
            if planning.seen(left, ahead, other) < planning.enough(other):
                continue
            if other == recipe:
                self.at.state["step"] = step
                return chosen
            found = self.tried(replace(chosen, recipe=other))
            if planning.seen(left, self.at.state["step"], found.recipe) >= CLOSE * planning.enough(other):
                return self.because(found, recipe)
        # a coarser patch takes less of everything, and the run itself corrects the speed: another trial is not worth its time
        self.at.state["step"] = step * multiply_adds_of(last, chosen.shape, chosen.classes) / work
        return chosen if last == recipe else self.because(replace(chosen, recipe=last), recipe)

    def because(self, found: Chosen, proposed: Recipe) -> Chosen:
        """What was found, with the reason why it is not what was proposed."""
        sees = planning.seen(self.at.left, self.at.state["step"], found.recipe)
        return replace(found, reasons=(*found.reasons, planning.why_scaled(proposed, found.recipe, sees)))

    def plan(self) -> Plan:
        """How what is left of the budget is used."""
        at = self.at
        return planning.planned(at.chosen, at.step, at.left, one_step=at.one_step, fixed=at.fixed)

    def plan_lines(self, plan: Plan) -> list[str]:
        """The plan in words."""
        return planning.lines(plan, self.at.chosen, datetime.now(), self.at.spent, str(self.at.device), self.at.out)

    def train(self, plan: Plan) -> None:
        """Run after run until the time for training is used. Raises Stopped if asked to."""
        with Interruption() as interruption:
            asked = lambda: interruption.signalled  # noqa: E731
            if self.at.one_step:
                self.train_kind(DIFFUSION, plan, plan.after + plan.training - self.due(plan.training), asked)
            self.train_kind(self.at.kinds[-1], plan, plan.after, asked)

    def due(self, training: float) -> float:
        """Of so many seconds of training that are left, those of the diffusion model that a one-step model is to learn from.

        A new one learns anew, so what earlier ones took does not count.
        """
        used = sum(run.get("seconds", 0.0) for run in self.at.runs_of(DIFFUSION))
        begun = sum(run.get("seconds", 0.0) for run in self.at.runs_of(ONE_STEP) if not run["ended"])
        return min(max((1 - planning.LEARNING) * (used + begun + training) - used, 0.0), training)

    def train_kind(self, kind: str, plan: Plan, after: float, asked: Callable[[], bool]) -> None:
        """Runs of one kind, until only `after` seconds are left."""
        while (run := self.open_run(kind, plan, after)) is not None:
            timing = Timing(self.at.machine.clock, lambda: self.at.left - after, lambda: self.at.note("training"))
            with in_company(self.at.out, run, self.at.device, self.at.machine.threads()):
                Training(self.at.out, run, self.at.device, timing).proceed(asked, LAST * plan.training)
            if not run["ended"]:
                self.stopped()

    def open_run(self, kind: str, plan: Plan, after: float) -> dict[str, Any] | None:
        """The run of a kind to be trained until only `after` seconds are left; None if no new one is worth it."""
        same = self.at.runs_of(kind)
        if same and not same[-1]["ended"]:
            return same[-1]
        if same and self.at.left - after < WORTH * plan.training:
            return None
        self.at.state["runs"].append(self.new_run(kind, same, plan, self.at.left - after))
        return self.at.state["runs"][-1]

    def new_run(self, kind: str, same: list[dict[str, Any]], plan: Plan, seconds: float) -> dict[str, Any]:
        """A run of as many steps as fit into the seconds, from the weights of the newest diffusion run, if there is one."""
        at = self.at
        name, origin = f"{kind}-{len(same) + 1}" if same else kind, at.newest(DIFFUSION).name if at.runs_of(DIFFUSION) else None
        if kind == ONE_STEP:
            teacher = open_run(at.newest(DIFFUSION))
            conditional = teacher.denoiser.backbone.conditional
            recipe = planning.one_step_recipe(teacher.recipe, at.chosen, at.step, seconds, conditional=conditional)
            recipe = replace(recipe, data=at.chosen.recipe.data)
        else:
            step = same[-1]["step"] if same and same[-1]["step"] else plan.step
            recipe = replace(at.chosen.recipe, batch_size=plan.batch_size, steps=planning.steps_in(seconds, step))
        schedule = replace(recipe.schedule, warmup=planning.warmup_in(recipe.steps, at.chosen.recipe.schedule.warmup))
        recipe = replace(recipe, schedule=schedule)
        if same:
            say(f"{name}: {recipe.steps:,} steps, from the weights of {origin}.")
        return {"folder": name, "kind": kind, "recipe": json.loads(to_json(recipe)), "from": origin, "step": None, "ended": ""}

    def stopped(self) -> NoReturn:
        """Say that the fit was stopped, and stop."""
        self.at.note("training")
        say("The fit was stopped; the same command goes on from there.")
        raise Stopped

    def say_end(self) -> None:
        """How far off the plan was, and where everything is."""
        parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in self.at.state["spent"].items())
        say(f"{duration(self.at.spent)} of {duration(self.at.seconds)} are used: {parts}.")
        say(f"More samples: pixelpath sample {self.at.out} --first-seed {planning.SHOWN}.")
        say("More time: the same command with more `minutes`.")
