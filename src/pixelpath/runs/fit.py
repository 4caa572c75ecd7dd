"""From a folder and a budget of time to samples: audit, plan, train, tune, sample, evaluate, report.

The folder of a fit holds fit.json (what was decided and why, planned and real seconds), samples, and its *runs*: `diffusion`,
`diffusion-2`, ..., each begun with the weights of the one before. A run is *ended* when its steps are taken or its time is up;
one that is not goes on by the same command. Its number of steps is planned anew when the speed is not as planned, so that its
schedule ends when the time does. Another run begins only for added time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from pixelpath.atomic import read_json, write_json
from pixelpath.data.settings import DataSettings
from pixelpath.errors import Stopped, UserError
from pixelpath.log import say
from pixelpath.recipes.recipe import Recipe, from_json, to_json
from pixelpath.reports.page import duration
from pixelpath.runs import fit_plan
from pixelpath.runs.beginning import begin
from pixelpath.runs.chosen import Beginning, Saving
from pixelpath.runs.cost import seconds_of_step
from pixelpath.runs.evaluate import evaluate
from pixelpath.runs.fit_data import Chosen, chosen_for
from pixelpath.runs.fit_plan import Budget, Plan
from pixelpath.runs.folder import FIT, document_of_fit, fitted_run, holds_run
from pixelpath.runs.lock import LOCK, Lock
from pixelpath.runs.opened import open_run
from pixelpath.runs.prepare import read_data_of
from pixelpath.runs.report import write_report
from pixelpath.runs.sample import free_folder, sample
from pixelpath.runs.sample_conditions import as_held_out
from pixelpath.runs.session import Session
from pixelpath.runs.tune import tune_run
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


@dataclass(frozen=True)
class Machine:
    """What a fit is timed by: a clock of seconds, and the seconds of a recipe's step here."""

    clock: Callable[[], float] = time.monotonic
    step: Callable[[Recipe, torch.device], float] = seconds_of_step


HERE = Machine()


def folder_of(path: Path | str) -> Path:
    """Where a fit of the data at `path` is kept unless told otherwise: runs/NAME."""
    file, *variable = str(path).split("::")
    return Path("runs") / "-".join([Path(file).resolve().stem, *variable]).replace("/", "-")


def plan_fit(settings: DataSettings, out: Path, budget: Budget, device: torch.device, machine: Machine = HERE) -> list[str]:
    """The plan in lines; trains and writes nothing. Raises UserError for data that cannot be trained on."""
    fitting = Fitting(settings, out, budget, device, machine)
    if fitting.finished:
        return [fitting.ending()]
    fitting.decide()
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
        return Fitting(settings, out, budget, device, machine, kept=True).run()
    finally:
        lock.release()


class Fitting:
    """One sitting of a fit: `state` is what fit.json keeps."""

    def __init__(
        self, settings: DataSettings, out: Path, budget: Budget, device: torch.device, machine: Machine, *, kept: bool = False
    ) -> None:
        self.settings, self.out, self.budget, self.device, self.machine = settings.absolute(), out, budget, device, machine
        self.kept, self.mark = kept, machine.clock()
        asked = json.loads(json.dumps(asdict(self.settings), default=str)) | {"one_step": budget.one_step}
        self.state: dict[str, Any] = {"asked": asked, "spent": {}, "runs": [], "done": [], "plans": []}
        if (out / FIT).exists():
            known = document_of_fit(out)
            changed = [key for key, value in asked.items() if json.dumps(known["asked"].get(key)) != json.dumps(value)]
            if changed and known["runs"]:
                raise UserError(
                    f"{out} holds a fit with other settings ({', '.join(changed)}): use the same, or another `out`.", "out"
                )
            self.state = self.state if changed else known

    @property
    def seconds(self) -> float:
        """Those of the whole budget."""
        return 60 * self.budget.minutes

    @property
    def spent(self) -> float:
        """The seconds used so far, in all sittings."""
        return sum(self.state["spent"].values()) + self.machine.clock() - self.mark

    @property
    def left(self) -> float:
        """The seconds of the budget that are left."""
        return self.seconds - self.spent

    @property
    def finished(self) -> bool:
        """Whether everything is done, and for no more minutes than these, or hardly any time is left."""
        planned = max((plan["minutes"] for plan in self.state["plans"]), default=0)
        ended = self.budget.minutes <= planned or self.left < fit_plan.SHARE * self.seconds
        return "evaluation" in self.state["done"] and ended

    def ending(self) -> str:
        """What is said of a fit that is finished."""
        return f"{self.out} is finished: {duration(self.spent)} are used. More `minutes` go on from there."

    def run(self) -> Path:
        """Everything that is still to be done."""
        if self.finished:
            say(self.ending())
            return fitted_run(self.out)
        if "evaluation" in self.state["done"]:
            say(f"{duration(self.left)} are added: another run begins with the weights of {fitted_run(self.out).name}.")
            self.state["done"] = []
        self.decide()
        if not self.state["runs"] and self.left < fit_plan.SHARE * self.seconds:
            raise UserError(
                f"A look at the data and some trial steps took {duration(self.spent)} of {duration(self.seconds)}, which leaves "
                "too little to train in: raise `minutes`. What was found is kept.",
                setting="minutes",
            )
        plan = self.plan()
        for line in self.plan_lines(plan):
            say(line)
        self.state["plans"].append({"minutes": self.budget.minutes, "spent": self.spent, **plan.to_json()})
        if "training" not in self.state["done"]:
            with self.phase("training"):
                self.train(plan)
        self.finish(plan)
        self.say_end()
        return fitted_run(self.out)

    def decide(self) -> None:
        """The recipe and the seconds of its step: from the data and by some real steps, once."""
        if "recipe" in self.state:
            return
        with self.phase("looking"):
            chosen = chosen_for(self.settings, self.device)
        with self.phase("trial"):
            say(f"Trying some steps of {chosen.recipe.name} ...")
            chosen = self.scaled(self.tried(chosen))
            self.state["about"] = {name: value for name, value in vars(chosen).items() if name != "recipe"}
            self.state["recipe"] = json.loads(to_json(chosen.recipe))

    def tried(self, chosen: Chosen) -> Chosen:
        """What was chosen, with the seconds of a step noted; its batch is halved until a step fits into memory."""
        while True:
            try:
                self.state["step"] = self.machine.step(chosen.recipe, self.device)
            except torch.OutOfMemoryError:
                if chosen.recipe.batch_size <= fit_plan.SMALLEST_BATCH:
                    raise
                chosen = replace(chosen, recipe=replace(chosen.recipe, batch_size=chosen.recipe.batch_size // 2))
                say(f"That takes more memory than there is: {chosen.recipe.batch_size} images a step instead.")
            else:
                return chosen

    def scaled(self, chosen: Chosen) -> Chosen:
        """The same with the largest size, and the finest patch, of which this budget shows a network enough images."""
        recipe, step, left = chosen.recipe, self.state["step"], self.left
        work = multiply_adds_of(recipe, chosen.shape, chosen.classes)
        *larger, last = fit_plan.variants(recipe, chosen.shape, chosen.training)
        for other in larger:
            ahead = step * multiply_adds_of(other, chosen.shape, chosen.classes) / work
            if fit_plan.seen(left, ahead, other) < fit_plan.enough(other):
                continue
            if other == recipe:
                self.state["step"] = step
                return chosen
            found = self.tried(replace(chosen, recipe=other))
            if fit_plan.seen(left, self.state["step"], found.recipe) >= CLOSE * fit_plan.enough(other):
                return self.because(found, recipe)
        # a coarser patch takes less of everything, and the run itself corrects the speed: another trial is not worth its time
        self.state["step"] = step * multiply_adds_of(last, chosen.shape, chosen.classes) / work
        return chosen if last == recipe else self.because(replace(chosen, recipe=last), recipe)

    def because(self, found: Chosen, proposed: Recipe) -> Chosen:
        """What was found, with the reason why it is not what was proposed."""
        sees = fit_plan.seen(self.left, self.state["step"], found.recipe)
        return replace(found, reasons=(*found.reasons, fit_plan.why_scaled(proposed, found.recipe, sees)))

    @property
    def chosen(self) -> Chosen:
        """What was decided from the data."""
        about = self.state["about"] | {"recipe": from_json(json.dumps(self.state["recipe"]))}
        return Chosen(**about | {name: tuple(about[name]) for name in ("reasons", "shape")})

    def plan(self) -> Plan:
        """How what is left of the budget is used."""
        return fit_plan.planned(self.chosen, self.step, self.left, one_step=self.budget.one_step, fixed=self.fixed)

    @property
    def step(self) -> float:
        """The seconds of a step of the recipe: those of the last diffusion run, if there is one, else those tried."""
        found = [run for run in self.state["runs"] if run["kind"] == "diffusion" and run["step"]]
        if not found:
            return self.state["step"]
        return found[-1]["step"] * self.chosen.recipe.batch_size / found[-1]["recipe"]["batch_size"]

    @property
    def fixed(self) -> float:
        """What an evaluation and its reports take in any case: as long as the look at the data, which is work of that kind."""
        return max(fit_plan.FIXED, self.state["spent"].get("looking", 0.0))

    def plan_lines(self, plan: Plan) -> list[str]:
        """The plan in words."""
        return fit_plan.lines(plan, self.chosen, datetime.now(), self.spent, str(self.device), self.out)

    def train(self, plan: Plan) -> None:
        """Run after run, until the time for training is used."""
        if self.budget.one_step:
            if not any(run["kind"] == "onestep" for run in self.state["runs"]):
                self.train_kind("diffusion", self.chosen.recipe, plan, plan.after + plan.training / 2, plan.step)
            recipe = fit_plan.one_step_recipe(replace(self.chosen.recipe, batch_size=plan.batch_size))
            self.train_kind("onestep", recipe, plan, plan.after, fit_plan.ONE_STEP * plan.step)
        else:
            self.train_kind("diffusion", self.chosen.recipe, plan, plan.after, plan.step)

    def train_kind(self, kind: str, recipe: Recipe, plan: Plan, after: float, step: float) -> None:
        """Runs of one kind, until only `after` seconds are left."""
        runs = self.state["runs"]
        while True:
            same = [run for run in runs if run["kind"] == kind]
            if not same or same[-1]["ended"]:
                if same and self.left - after < WORTH * plan.training:
                    return
                step = same[-1]["step"] if same and same[-1]["step"] else step
                runs.append(self.new_run(kind, recipe, plan.batch_size, self.left - after, step))
            self.sit(runs[-1], after, LAST * plan.training)

    def new_run(self, kind: str, recipe: Recipe, batch_size: int, seconds: float, step: float) -> dict[str, Any]:
        """A run of as many steps as fit into the seconds, from the weights of the one before."""
        steps = fit_plan.steps_in(seconds, step)
        warmup = min(recipe.schedule.warmup, max(1, steps // 10))
        recipe = replace(recipe, steps=steps, batch_size=batch_size, schedule=replace(recipe.schedule, warmup=warmup))
        before, same = self.state["runs"], sum(run["kind"] == kind for run in self.state["runs"])
        name = kind if not same else f"{kind}-{same + 1}"
        origin = before[-1]["folder"] if before else None
        if origin is not None:
            say(f"{name}: {steps:,} steps, from the weights of {origin}.")
        return {"folder": name, "kind": kind, "recipe": json.loads(to_json(recipe)), "from": origin, "step": None, "ended": ""}

    def sit(self, run: dict[str, Any], after: float, last: float) -> None:
        """Take a run's steps, to their end or until only `after` seconds are left, as planned in the `last` ones before.

        Raises Stopped if asked to.
        """
        if holds_run(self.out / run["folder"]):  # its own number of steps holds, should a crash have come between the two files
            kept = read_json(self.out / run["folder"] / "recipe.json")
            run["recipe"] |= {name: kept[name] for name in ("steps", "schedule")}
        recipe = from_json(json.dumps(run["recipe"]))
        origin = None if run["from"] is None else (self.out / run["from"]).absolute()
        session = begin(recipe, self.out / run["folder"], self.device, Beginning(init_from=origin), Saving())
        self.note("training")
        with Interruption() as interruption:
            why = self.take(session, run, after, interruption.asked, last)
            while why == ANEW and not session.finished:
                self.plan_anew(session, run, after)
                why = self.take(session, run, after, interruption.asked, last)
        run["ended"] = "steps taken" if session.finished else why
        self.note("training")
        if not run["ended"]:
            say("The fit was stopped; the same command goes on from there.")
            raise Stopped

    def plan_anew(self, session: Session, run: dict[str, Any], after: float) -> None:
        """Give a run as many more steps as it takes until only `after` seconds are left: its schedule then ends with them."""
        steps = session.state.step + fit_plan.steps_in(self.left - after, run["step"])
        say(f"A step takes {run['step']:.3g} s, which is not as planned: {steps:,} steps instead of {run['recipe']['steps']:,}.")
        warmup = min(run["recipe"]["schedule"]["warmup"], max(1, steps // 10))
        run["recipe"] |= {"steps": steps, "schedule": run["recipe"]["schedule"] | {"warmup": warmup}}
        run["planned"] = run.get("planned", 1) + 1
        session.plan_anew(steps, warmup)
        self.note("training")

    def take(self, session: Session, run: dict[str, Any], after: float, asked: Callable[[], bool], last: float) -> str:
        """Why a session was left; empty if it was asked to stop. The speed is compared unless only `last` seconds are left."""
        room, began, left_at = self.left - after, self.machine.clock(), self.left
        first, why, taken = session.state.step, "", 0
        checked, share = room <= last, AGAIN if first else CHECKED

        def stop() -> bool:
            nonlocal why, checked
            if asked():
                return True
            left = self.left
            if left <= after:
                why = "time is up"
            elif not checked and left_at - left > share * room and taken >= LEAST_CHECKED + WARM:
                checked = True
                speed = (self.machine.clock() - began) / (taken - WARM)
                ahead = fit_plan.MEASURED * speed * (session.recipe.steps - first - taken)
                why = ANEW if abs(ahead - (left - after)) > OFF * room else ""
            return bool(why)

        for _ in session.proceed(stop):
            taken += 1
            if taken == WARM:
                began = self.machine.clock()
            if self.machine.clock() - self.mark > BEAT:
                self.note("training")
        if taken >= LEAST_CHECKED + WARM:
            run["step"] = (self.machine.clock() - began) / (taken - WARM)
        return why

    def finish(self, plan: Plan) -> None:
        """What follows training, as far as it is not done."""
        done, run = self.state["done"], open_run(fitted_run(self.out), device=self.device)
        data = read_data_of(run, None)
        if plan.tuned and "tuning" not in done and self.left > plan.tuning:
            with self.phase("tuning"):
                tune_run(run, data, fit_plan.tuning_of(self.chosen, plan.tuned, light="tuning" in plan.light))
        if "samples" not in done:
            with self.phase("samples"):
                seeds = range(fit_plan.showable(self.chosen, self.step, self.left, one_step=self.budget.one_step))
                folder = free_folder(self.out / "samples", None)
                sample(run, seeds, as_held_out(run, data, seeds)).save(folder)
                say(f"Samples: {folder / 'grid.png'}")
        if "evaluation" not in done:
            with self.phase("evaluation"):
                left, late, one_step = self.left - self.fixed, fit_plan.SHARE * self.seconds, self.budget.one_step
                count, light = fit_plan.judgeable(self.chosen, self.step, left, left + late, one_step=one_step)
                if count:
                    evaluate(run, data, None, fit_plan.judges_of(light=light), count)
                else:
                    say(f"The time does not hold an evaluation: `pixelpath evaluate {self.out}` makes it.")
        say(f"Report: {write_report(run.path)}")

    def say_end(self) -> None:
        """How far off the plan was, and where everything is."""
        parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in self.state["spent"].items())
        say(f"{duration(self.spent)} of {duration(self.seconds)} are used: {parts}.")
        say(f"More samples: pixelpath sample {self.out}. More time: the same command with more `minutes`.")

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """While open, time is used for this; afterwards it is done."""
        try:
            yield
            if name not in self.state["done"]:
                self.state["done"].append(name)
        finally:
            self.note(name)

    def note(self, name: str) -> None:
        """Write down the time used since the last note, for this."""
        now, spent = self.machine.clock(), self.state["spent"]
        spent[name] = spent.get(name, 0.0) + now - self.mark
        self.mark = now
        if self.kept and "recipe" in self.state:
            write_json(self.out / FIT, self.state)
