"""A training session: from a recipe and data to a trained run, in as many sittings as it takes."""

from __future__ import annotations

import io
import json
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import nn

from pixelpath import log, processes
from pixelpath.atomic import leaves
from pixelpath.data.sources import Source
from pixelpath.errors import UserError
from pixelpath.evaluation.divergence import spiked
from pixelpath.log import say
from pixelpath.recipes.recipe import Recipe, to_json
from pixelpath.runs import monitor
from pixelpath.runs.chosen import Saving
from pixelpath.runs.devices import compiles, precision_of
from pixelpath.runs.folder import (
    by_main,
    divergences,
    hold,
    note_divergence,
    restated,
)
from pixelpath.runs.measuring.report import is_reported, write_report
from pixelpath.runs.monitor import Reference
from pixelpath.runs.prepare import PreparedData, batches
from pixelpath.trainer import checkpoint
from pixelpath.trainer import shard as sharding
from pixelpath.trainer.checkpoint import NotFiniteError, State
from pixelpath.trainer.ema import ramped, twin
from pixelpath.trainer.interruption import EVERY, Interruption
from pixelpath.trainer.journal import Journal
from pixelpath.trainer.loop import Diverged, Step, distribute, loss_scaler
from pixelpath.trainer.loop import train as steps_of
from pixelpath.trainer.trackers import Tracker, open_tracker
from pixelpath.trainer.writer import Writer
from pixelpath.types import Objective

FALLS = 2  # times that a one-step run falls back on its own
FARTHER = 2.0  # times the best distance of samples so far: much farther away
REMEMBERED = 51  # losses among which a jump shows


class Session:
    """One sitting of a run: what changes while it trains, and where it is kept."""

    def __init__(
        self,
        recipe: Recipe,
        objective: Objective,
        data: PreparedData,
        out: Path,
        device: torch.device,
        bare: nn.Module,
        saving: Saving,
        lesson: PreparedData | None = None,
        *,
        scratch: bool = False,
        shard: bool = False,
    ) -> None:
        self.recipe, self.objective, self.data, self.out, self.device = recipe, objective, data, out, device
        self.scratch, self.saving = scratch, saving
        self.lesson = data if lesson is None else lesson  # what it learns from
        self.plan()
        self.precision = precision_of(recipe, device)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        self.bare = bare.to(device)
        self.ema = twin(self.bare)
        self.skeleton = None
        if shard:
            self.skeleton = sharding.skeleton(self.ema)
            for module in (self.bare, self.ema):
                sharding.shard(module, compiled=compiles(recipe, device))
        self.optimizer = recipe.optimizer.build(self.bare)
        self.scaler = loss_scaler(self.precision, device)
        self.state = State(0, recipe.seed, scaler={} if self.scaler is None else self.scaler.state_dict())
        self.writer, self.saved = Writer(), time.monotonic()
        self.alarms: list[str] = []
        self.losses: deque[float] = deque(maxlen=REMEMBERED)
        self.held = ExitStack()  # what it has of its folder while it lasts
        self.thinned = False  # whether it was said that the run is measured less often
        self.remarks: list[str] = []  # on how this sitting goes on, for the metrics
        self.falls = sum(fall["back_to"] is not None for fall in divergences(out))

    @property
    def finished(self) -> bool:
        """Whether every step is taken and saved."""
        return self.state.step >= self.recipe.steps

    def plan(self) -> None:
        """How often the run is saved and measured, by its number of steps."""
        self.every = self.saving.interval(self.recipe.steps)
        held_out, references = min(monitor.MEASURED, len(self.data.held_out)), min(monitor.SAMPLED, len(self.data.training))
        self.measuring = monitor.measuring(self.recipe, self.every, held_out, references, self.saving.measure_every)

    def plan_anew(self, steps: int, warmup: int) -> None:
        """Give the run, which was left and saved, another number of steps to `proceed` to."""
        self.held.callback(hold(self.out))
        self.recipe = restated(self.out, self.recipe, steps, warmup)
        self.plan()

    def take_up(self, folder: Path) -> None:
        """Go on from a checkpoint."""
        self.state = checkpoint.load(folder, self.bare, self.ema, self.optimizer)
        if self.scaler is not None:
            self.scaler.load_state_dict(self.state.scaler)
        say(f"Taken up at step {self.state.step} from {folder}.")

    def run(self) -> bool:
        """Take every remaining step, measuring and saving as it goes, and write the report; False if it was interrupted."""
        with Interruption() as interruption:
            for _ in self.proceed(interruption.asked):
                pass
        if not self.finished:
            say(f"Stopped and saved at step {self.state.step}; the same command again goes on from there.")
        return self.finished

    def proceed(self, asked_to_stop: Callable[[], bool] = lambda: False) -> Generator[Step, None, None]:
        """Every remaining step, once it was taken, recorded and, if due, measured and saved; the report at the end.

        Whoever leaves early finds the last step saved. A one-step run that diverges goes on from its last good checkpoint.
        """
        with self.held:
            if self.finished:
                say(f"{self.out} is finished: all {self.recipe.steps} steps are taken.")
            else:
                yield from self.with_others(self.take_steps(asked_to_stop))
            if self.finished and processes.rank() == 0 and not is_reported(self.out):
                self.close()

    def with_others(self, steps: Iterator[Step]) -> Iterator[Step]:
        """The steps; UserError if another process of the run is gone."""
        try:
            yield from steps
        except RuntimeError as error:
            if not processes.is_lost(error):
                raise
            newest = checkpoint.latest(self.out)
            goes_on = "begins anew" if newest is None else f"goes on from step {checkpoint.read_state(newest).step}"
            raise UserError(f"Another process of this run ended: the same command {goes_on}.") from error

    def take_steps(self, asked_to_stop: Callable[[], bool]) -> Iterator[Step]:
        """Every remaining step, through every fall."""
        if processes.rank() == 0 and self.recipe.is_encoder and self.state.step == 0:
            monitor.show_views(self.recipe, self.data, self.out / "previews" / "views.png")
        if self.recipe.is_one_step and self.state.step == 0:
            self.save()  # something to fall back on
        while True:
            try:
                with self.journal() as journal, self.writer:
                    if self.remarks:
                        journal.note(self.state.step, {"alarms": self.remarks})
                    yield from self.sit(journal, asked_to_stop)
                break
            except Diverged as error:
                self.fall_back(error)

    def sit(self, journal: Journal, asked_to_stop: Callable[[], bool]) -> Iterator[Step]:
        """Step by step to the end, or to where it is asked to stop, in either case saved."""
        images = monitor.measured(self.data)
        real = monitor.reference(self.data) if self.recipe.is_one_step and processes.rank() == 0 else None
        if (thinned := self.measuring.sentence(self.every, self.recipe.steps)) and not self.thinned:
            say(thinned)  # once: plans made anew, and steps after a fall, are measured less often too
            self.thinned = True
        for step in self.steps():
            self.writer.check()
            journal.record(step, list(self.alarms), partial(self.jumped, step))
            last, stop = step.number == self.recipe.steps, asked_to_stop()
            due = step.number % self.every == 0 or last
            measured = step.number % self.measuring.losses == 0 or last
            if (due or stop or self.overdue(step)) and not step.streak:  # what is saved must be known to go on
                # measured at fixed steps: what a measurement decides must not depend on when a run was interrupted
                value = self.measure(step, images, journal, real) if measured else None
                if step.number % self.measuring.previews == 0 or last:
                    self.preview(step.number, journal)
                self.keep(step, journal, value)
            try:
                yield step
            except GeneratorExit:
                if self.state.step != step.number and not step.streak:
                    self.keep(step, journal, None)
                raise
            if stop and not last:
                return

    def overdue(self, step: Step) -> bool:
        """Whether the last checkpoint is too old, as the main process finds, which others hear of at every tenth step."""
        minutes = self.saving.save_minutes
        if processes.count() > 1 and step.number % EVERY:
            return False
        late = minutes is not None and processes.rank() == 0 and time.monotonic() - self.saved >= 60 * minutes
        return late if minutes is None or processes.count() == 1 else bool(processes.add(torch.tensor(float(late))))

    def keep(self, step: Step, journal: Journal, value: float | None) -> None:
        """A checkpoint of the run as it is after a step; `value` is what it was measured at, if it was."""
        journal.flush()
        scaler = {} if self.scaler is None else self.scaler.state_dict()
        counts = journal.seconds, journal.skipped
        before, self.state = self.state, State(step.number, self.recipe.seed, *counts, value, scaler, self.state.near)
        try:
            self.save()
        except NotFiniteError as error:
            self.state = before
            raise Diverged(step, str(error).rstrip(".")) from error

    def close(self) -> None:
        """The report, and what one has to know of the run."""
        say(f"Report: {write_report(self.out)}")
        if self.recipe.is_one_step and not self.state.near:
            say("The one-step samples of this run have not come near the data." + (f" {monitor.REMEDY}" if self.scratch else ""))

    def fall_back(self, error: Diverged) -> None:
        """Stand at the last good checkpoint again, with half the learning rate; raises the error if that was done twice already.

        Only one-step runs do so: they diverge where others do not.
        """
        if not self.recipe.is_one_step:
            error.checkpoint = self.stop(error)
            raise error
        error.checkpoint = back_to = by_main(checkpoint.measured)(self.out)
        if self.falls == FALLS:
            self.stop(error)
            error.why += f", after falling back {FALLS} times with half the learning rate each time"
            error.advice = (
                monitor.REMEDY if self.scratch else "Choose a lower learning rate, or a longer warm-up, and a new `out`."
            )
            raise error
        self.falls += 1
        note_divergence(self.out, error.step.number, error.why, back_to)
        self.alarms = []
        self.losses.clear()
        rate = f"with {0.5**self.falls:g} of the learning rate from here on"
        self.remarks = [f"fell back from step {error.step.number} ({error.why}), {rate}"]
        say(f"Step {error.step.number}: {error.why}. Falling back, {rate}.")
        self.take_up(back_to)

    def stop(self, error: Diverged) -> Path | None:
        """Write down that the run diverged for good; its last good checkpoint."""
        note_divergence(self.out, error.step.number, error.why, None)
        if processes.rank() == 0:
            write_report(self.out)
        return checkpoint.latest(self.out)

    def jumped(self, step: Step) -> list[str]:
        """The alarm of a one-step run whose loss is far above those before."""
        if not self.recipe.is_one_step:
            return []
        self.losses.append(step.losses["loss"])
        return [f"the loss jumped to {self.losses[-1]:.3g}"] if spiked(self.losses) else []

    def journal(self) -> Journal:
        """The journal, going on from the state."""
        lines = max(1, min(50, self.recipe.steps // 200))
        state = self.state
        return Journal(
            self.out,
            total=self.recipe.steps,
            first=state.step,
            seconds=state.seconds,
            skipped=state.skipped,
            device=self.device,
            every=lines,
            track=self.tracker(),
            stream=None if log.is_shown() else io.StringIO(),
        )

    def tracker(self) -> Callable[[], Tracker] | None:
        """What opens the tracker, if one is chosen."""
        name = self.saving.track
        settings = dict(leaves(json.loads(to_json(self.recipe))))
        return None if name is None else lambda: open_tracker(name, self.out, self.state.step, settings)

    def steps(self) -> Iterator[Step]:
        """The steps of the run from where it stands."""
        recipe, first = self.recipe, self.state.step
        whole = compiles(recipe, self.device) and self.skeleton is None  # the blocks of a sharded one are compiled already
        student, teacher = (torch.compile(each) if whole else each for each in (self.bare, self.ema))
        assert isinstance(student, nn.Module)
        assert isinstance(teacher, nn.Module)
        return steps_of(
            distribute(student),
            teacher,
            self.objective,
            self.optimizer,
            lambda number, steps: recipe.schedule(number, steps) * 0.5**self.falls,
            batches(recipe, self.lesson, self.device, first),
            first=first,
            steps=recipe.steps,
            ema_decay=ramped(recipe.ema_decay),
            seed=recipe.seed,
            clip=recipe.optimizer.limit,
            precision=self.precision,
            accumulate=1 if recipe.is_encoder else recipe.accumulate,  # the student of stage one works in parts itself
            scaler=self.scaler,
        )

    def measure(self, step: Step, images: Source, journal: Journal, real: Reference | None) -> float | None:
        """What the run's stage is watched by, into the journal; returns the checkpoint's value.

        That is the held-out loss; for one-step runs, whose loss does not tell good samples from bad, it is their distance.
        """
        self.writer.wait()  # what is decided here depends on the checkpoints before
        ema = self.whole_ema()
        value = monitor.held_out_loss(self.recipe, self.objective, self.data, images, ema, self.device)
        values: dict[str, float | list[str]] = {} if value is None else {"held_out_loss": value}
        if self.recipe.is_one_step:
            value, wrong = by_main(monitor.watch_samples)(self.recipe, self.data, ema, cast(Reference, real))
            values["sample_distance"] = value
            self.judge(step, value, wrong, journal, values)
        if processes.rank() != 0:
            return value
        if self.recipe.is_encoder:
            health = monitor.watch_features(self.recipe, self.data, images, ema, self.device)
            self.alarms = monitor.alarms(self.recipe, health, step.losses["contrast"], step.number)
            values |= health
        if self.alarms:
            values["alarms"] = self.alarms
        if values:
            journal.note(step.number, values)
        return value

    def whole_ema(self) -> nn.Module:
        """The EMA as one process can use it alone; every process must call it."""
        return self.ema if self.skeleton is None else sharding.whole(self.ema, self.skeleton)

    def preview(self, number: int, journal: Journal) -> None:
        """Samples of the EMA as it is after a step, as a picture, also in the tracker; none in stage one."""
        if self.recipe.is_encoder:
            return
        ema = self.whole_ema()
        if processes.rank() != 0:
            return
        path = self.out / "previews" / f"step-{number:08d}.png"
        monitor.preview(self.recipe, self.data, ema, path, self.measuring.images)
        journal.show(number, path)

    def judge(
        self, step: Step, distance: float, wrong: list[str], journal: Journal, values: dict[str, float | list[str]]
    ) -> None:
        """Alarms of one-step samples; Diverged if they were near the data, are not any more, and are much farther away.

        Moments alone are no proof: early in training they pass through their band on the way.
        """
        if wrong and self.state.near and distance > FARTHER * by_main(checkpoint.best_value)(self.out):
            journal.note(step.number, values | {"alarms": wrong})
            raise Diverged(step, "; ".join(wrong))
        if not wrong:
            self.state = replace(self.state, near=True)
        late = 2 * step.number >= self.recipe.steps
        self.alarms = [f"{what} (not near the data yet)" for what in wrong] if late else []

    def save(self) -> None:
        """Begin to write a checkpoint of now."""
        extras = {
            "recipe": json.loads(to_json(self.recipe)),
            "normaliser": self.data.normaliser.to_json(),
            "data": self.data.known,
        }
        self.writer.save(self.out, self.state, (self.bare, self.ema), self.optimizer, extras, self.saving.keep)
        self.saved = time.monotonic()
