"""From a folder and a budget of time to samples: audit, plan, train, tune, sample, evaluate, report.

The folder of a fit holds fit.json (what was decided and why, planned and real seconds), samples, and its *runs*: `diffusion`,
`diffusion-2`, ..., each begun with the weights of the one before. A run is *ended* when its steps are taken or its time is up;
one that is not goes on by the same command. Its number of steps is planned anew when the speed is not as planned, so that its
schedule ends when the time does. Another run begins only for added time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from pixelpath.atomic import read_json
from pixelpath.data.settings import DataSettings
from pixelpath.errors import Stopped, UserError
from pixelpath.log import say
from pixelpath.recipes.recipe import Recipe, from_json, to_json
from pixelpath.reports.page import duration
from pixelpath.runs import fit_plan
from pixelpath.runs.beginning import begin
from pixelpath.runs.chosen import Beginning, Saving
from pixelpath.runs.fit_data import Chosen, chosen_for
from pixelpath.runs.fit_finish import finish
from pixelpath.runs.fit_plan import Budget, Plan
from pixelpath.runs.fit_sitting import HERE, Machine, Sitting
from pixelpath.runs.folder import DIFFUSION, FIT, ONE_STEP, fitted_run, holds_run
from pixelpath.runs.lock import LOCK, Lock
from pixelpath.runs.session import Session
from pixelpath.runs.work import multiply_adds_of
from pixelpath.trainer.interruption import Interruption

WORTH = 0.25  # of the time for training: less is not worth another run
CHECKED, AGAIN, LEAST_CHECKED = 0.08, 0.33, 10  # of a run's time, and of what is left later, after which its speed is compared
LAST = 0.15  # of the time for training: with less left, the steps are rather taken as planned
OFF = 0.1  # of a run's time: a plan that is off by more is made anew
ANEW = "planned anew"  # why a run was left, to go on with another number of steps
CLOSE = 0.8  # of the images that a recipe should see: so many are enough once its speed is known
WARM = 3  # steps before speed counts
BEAT = 10.0  # seconds between notes of the time used, while training


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
        ended = self.at.budget.minutes <= planned or self.at.left < fit_plan.SHARE * self.at.seconds
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
            self.at.state["done"] = self.kept()
        self.decide(added=added)
        if not self.at.state["runs"] and self.at.left < fit_plan.SHARE * self.at.seconds:
            spent = f"{duration(self.at.spent)} of {duration(self.at.seconds)}"
            raise UserError(
                f"A look at the data and some trial steps took {spent}, which leaves too little to train in: raise "
                "`minutes`. What was found is kept.",
                setting="minutes",
            )
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

    @property
    def has_one_step(self) -> bool:
        """Whether a one-step model has begun: the diffusion model is then as it will be."""
        return any(run["kind"] == ONE_STEP for run in self.at.state["runs"])

    def kept(self) -> list[str]:
        """What added minutes need not do again: what was made of a diffusion run that is not trained on."""
        made = ("start", "tuning", "samples", "evaluation") if self.has_one_step else ()
        return [name for name in self.at.state["done"] if name in made]

    def decide(self, *, added: bool) -> None:
        """The recipe and the seconds of its step, from the data and by some real steps, once; whether one step is worth it.

        That is decided anew where minutes are `added`.
        """
        if "recipe" not in self.at.state:
            self.look()
        if added or not self.at.state["runs"]:
            worth = fit_plan.repaid(self.at.chosen, self.at.step, self.at.left)
            self.at.state["one_step"] = self.has_one_step or worth

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
                self.at.state["step"] = self.at.machine.step(chosen.recipe, self.at.device)
            except torch.OutOfMemoryError:
                if chosen.recipe.batch_size <= fit_plan.SMALLEST_BATCH:
                    raise
                chosen = replace(chosen, recipe=replace(chosen.recipe, batch_size=chosen.recipe.batch_size // 2))
                say(f"That takes more memory than there is: {chosen.recipe.batch_size} images a step instead.")
            else:
                return chosen

    def scaled(self, chosen: Chosen) -> Chosen:
        """The same with the largest size, and the finest patch, of which this budget shows a network enough images."""
        recipe, step, left = chosen.recipe, self.at.state["step"], self.at.left
        work = multiply_adds_of(recipe, chosen.shape, chosen.classes)
        *larger, last = fit_plan.variants(recipe, chosen.shape, chosen.training)
        for other in larger:
            ahead = step * multiply_adds_of(other, chosen.shape, chosen.classes) / work
            if fit_plan.seen(left, ahead, other) < fit_plan.enough(other):
                continue
            if other == recipe:
                self.at.state["step"] = step
                return chosen
            found = self.tried(replace(chosen, recipe=other))
            if fit_plan.seen(left, self.at.state["step"], found.recipe) >= CLOSE * fit_plan.enough(other):
                return self.because(found, recipe)
        # a coarser patch takes less of everything, and the run itself corrects the speed: another trial is not worth its time
        self.at.state["step"] = step * multiply_adds_of(last, chosen.shape, chosen.classes) / work
        return chosen if last == recipe else self.because(replace(chosen, recipe=last), recipe)

    def because(self, found: Chosen, proposed: Recipe) -> Chosen:
        """What was found, with the reason why it is not what was proposed."""
        sees = fit_plan.seen(self.at.left, self.at.state["step"], found.recipe)
        return replace(found, reasons=(*found.reasons, fit_plan.why_scaled(proposed, found.recipe, sees)))

    def plan(self) -> Plan:
        """How what is left of the budget is used."""
        return fit_plan.planned(self.at.chosen, self.at.step, self.at.left, one_step=self.at.one_step, fixed=self.at.fixed)

    def plan_lines(self, plan: Plan) -> list[str]:
        """The plan in words."""
        return fit_plan.lines(plan, self.at.chosen, datetime.now(), self.at.spent, str(self.at.device), self.at.out)

    def train(self, plan: Plan) -> None:
        """Run after run, until the time for training is used."""
        if self.at.one_step:
            if not self.has_one_step:
                half = (self.at.state["spent"].get("training", 0.0) + plan.training) / 2  # of all sittings
                kept = plan.after + min(half, plan.training)
                self.train_kind(DIFFUSION, self.at.chosen.recipe, plan, kept, plan.step)
            recipe = fit_plan.one_step_recipe(replace(self.at.chosen.recipe, batch_size=plan.batch_size))
            self.train_kind(ONE_STEP, recipe, plan, plan.after, fit_plan.SLOWER * plan.step)
        else:
            self.train_kind(DIFFUSION, self.at.chosen.recipe, plan, plan.after, plan.step)

    def train_kind(self, kind: str, recipe: Recipe, plan: Plan, after: float, step: float) -> None:
        """Runs of one kind, until only `after` seconds are left."""
        runs = self.at.state["runs"]
        while True:
            same = [run for run in runs if run["kind"] == kind]
            if not same or same[-1]["ended"]:
                if same and self.at.left - after < WORTH * plan.training:
                    return
                step = same[-1]["step"] if same and same[-1]["step"] else step
                runs.append(self.new_run(kind, recipe, plan.batch_size, self.at.left - after, step))
            self.sit(runs[-1], after, LAST * plan.training)

    def new_run(self, kind: str, recipe: Recipe, batch_size: int, seconds: float, step: float) -> dict[str, Any]:
        """A run of as many steps as fit into the seconds, from the weights of the one before."""
        steps = fit_plan.steps_in(seconds, step)
        warmup = min(recipe.schedule.warmup, max(1, steps // 10))
        recipe = replace(recipe, steps=steps, batch_size=batch_size, schedule=replace(recipe.schedule, warmup=warmup))
        before, same = self.at.state["runs"], sum(run["kind"] == kind for run in self.at.state["runs"])
        name = kind if not same else f"{kind}-{same + 1}"
        origin = before[-1]["folder"] if before else None
        if origin is not None:
            say(f"{name}: {steps:,} steps, from the weights of {origin}.")
        return {"folder": name, "kind": kind, "recipe": json.loads(to_json(recipe)), "from": origin, "step": None, "ended": ""}

    def sit(self, run: dict[str, Any], after: float, last: float) -> None:
        """Take a run's steps, to their end or until only `after` seconds are left, as planned in the `last` ones before.

        Raises Stopped if asked to.
        """
        folder = self.at.out / run["folder"]
        if holds_run(folder):  # its own number of steps holds, should a crash have come between the two files
            kept = read_json(folder / "recipe.json")
            run["recipe"] |= {name: kept[name] for name in ("steps", "schedule")}
        recipe = from_json(json.dumps(run["recipe"]))
        origin = None if run["from"] is None else (self.at.out / run["from"]).absolute()
        session = begin(recipe, folder, self.at.device, Beginning(init_from=origin), Saving())
        self.at.note("training")
        with Interruption() as interruption:
            why = self.take(session, run, after, interruption.asked, last)
            while why == ANEW and not session.finished:
                self.plan_anew(session, run, after)
                why = self.take(session, run, after, interruption.asked, last)
        run["ended"] = "steps taken" if session.finished else why
        self.at.note("training")
        if not run["ended"]:
            say("The fit was stopped; the same command goes on from there.")
            raise Stopped

    def plan_anew(self, session: Session, run: dict[str, Any], after: float) -> None:
        """Give a run as many more steps as it takes until only `after` seconds are left: its schedule then ends with them."""
        steps = session.state.step + fit_plan.steps_in(self.at.left - after, run["step"])
        say(f"A step takes {run['step']:.3g} s, which is not as planned: {steps:,} steps instead of {run['recipe']['steps']:,}.")
        warmup = min(run["recipe"]["schedule"]["warmup"], max(1, steps // 10))
        run["recipe"] |= {"steps": steps, "schedule": run["recipe"]["schedule"] | {"warmup": warmup}}
        run["planned"] = run.get("planned", 1) + 1
        session.plan_anew(steps, warmup)
        self.at.note("training")

    def take(self, session: Session, run: dict[str, Any], after: float, asked: Callable[[], bool], last: float) -> str:
        """Why a session was left; empty if it was asked to stop. The speed is compared unless only `last` seconds are left."""
        room, began, left_at = self.at.left - after, self.at.machine.clock(), self.at.left
        first, why, taken = session.state.step, "", 0
        checked, share = room <= last, AGAIN if first else CHECKED

        def stop() -> bool:
            nonlocal why, checked
            if asked():
                return True
            left = self.at.left
            if left <= after:
                why = "time is up"
            elif not checked and left_at - left > share * room and taken >= LEAST_CHECKED + WARM:
                checked = True
                speed = (self.at.machine.clock() - began) / (taken - WARM)
                ahead = fit_plan.MEASURED * speed * (session.recipe.steps - first - taken)
                why = ANEW if abs(ahead - (left - after)) > OFF * room else ""
            return bool(why)

        for _ in session.proceed(stop):
            taken += 1
            if taken == WARM:
                began = self.at.machine.clock()
            if self.at.machine.clock() - self.at.mark > BEAT:
                self.at.note("training")
        if taken >= LEAST_CHECKED + WARM:
            run["step"] = (self.at.machine.clock() - began) / (taken - WARM)
        return why

    def say_end(self) -> None:
        """How far off the plan was, and where everything is."""
        parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in self.at.state["spent"].items())
        say(f"{duration(self.at.spent)} of {duration(self.at.seconds)} are used: {parts}.")
        say(f"More samples: pixelpath sample {self.at.out}. More time: the same command with more `minutes`.")
