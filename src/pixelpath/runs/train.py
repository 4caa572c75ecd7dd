"""The command `pixelpath train`: from a recipe and data to a trained run, in as many sessions as it takes."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import nn

from pixelpath import processes
from pixelpath.runs import monitor
from pixelpath.runs.cost import dry_run as estimate
from pixelpath.runs.folder import (
    check_same,
    claim,
    decided,
    divergences,
    encoder_run,
    keep_encoder,
    kept_encoder,
    look,
    note_divergence,
)
from pixelpath.runs.monitor import Reference
from pixelpath.runs.prepare import (
    Data,
    batches,
    check_origin,
    choose_device,
    close,
    freeze,
    frozen_encoder,
    joined,
    new_student,
    precision_of,
    read_data,
    say,
    with_data,
)
from pixelpath.runs.report import write_report
from pixelpath.data.conditions import Conditions
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.data.sources import Source
from pixelpath.evaluation.divergence import spiked
from pixelpath.recipes.build import objective_through
from pixelpath.recipes.recipe import Recipe, summary, to_json
from pixelpath.recipes.rows import table
from pixelpath.training import checkpoint
from pixelpath.training.ema import twin
from pixelpath.training.checkpoint import Interruption, State
from pixelpath.training.journal import Journal
from pixelpath.training.loop import Diverged, Step, distribute, loss_scaler
from pixelpath.training.loop import train as steps_of
from pixelpath.types import Objective

FALLS = 2  # times that a one-step run falls back on its own
FARTHER = 2.0  # times the best distance of samples so far: much farther away
REMEMBERED = 51  # losses among which a jump shows
ROWS = table()
RecipeRow = tyro.extras.subcommand_type_from_defaults(ROWS, {name: summary(row) for name, row in ROWS.items()})


def train(
    recipe: Annotated[RecipeRow, tyro.conf.arg(name="")],  # pyright: ignore[reportInvalidTypeForm]
    out: Path,
    data: Path | None = None,
    encoder: Path | None = None,
    start: Path | None = None,
    device: str | None = None,
    every: int | None = None,
    keep: int = 3,
    tensorboard: bool = False,
    dry_run: bool = False,
) -> bool:
    """Train a recipe on your images; the same command again takes up the run where it stopped, exactly.

    Every setting of a recipe is an option: `pixelpath train RECIPE --help` lists them, with the recipe's own values. Some are
    choices with settings of their own: `--size small --size.encoder.depth 4`, `--schedule constant --schedule.warmup 100`.
    On several GPUs: `torchrun --nproc-per-node 8 -m pixelpath.cli train RECIPE ...`.

    Args:
        recipe: What to train. An encoder (stage one) needs no classes; diffusion and one-step rows (stage two) take it up.
        out: Folder of the run; made if missing, never overwritten.
        data: Folder of images (with or without a subfolder per class), .npy or .npz file.
        encoder: Run of stage one whose encoder stage two begins with, and through which a one-step recipe compares features.
        start: Run of the same stage whose weights to begin with; a one-step recipe can begin with those of diffusion.
        device: cpu, cuda, cuda:1, mps; chosen by itself if not given.
        every: Steps between checkpoints, previews and held-out measurements; a tenth of the run if not given.
        keep: How many of the latest checkpoints stay, beside the best.
        tensorboard: Write TensorBoard events too (needs pixelpath[track]).
        dry_run: Only say what it would cost: size, compute, memory and speed of three real steps.
    """
    if keep < 1 or (every is not None and every < 1):
        raise ValueError(f"--keep and --every must be at least 1, got {keep} and {every}.")
    check_origin(recipe, encoder, start)
    with joined():
        chosen = choose_device(device)
        if dry_run:
            content = read_data(with_data(recipe, data))
            estimate(close(recipe, content), content, chosen)
            return False
        session = begin(with_data(recipe, data), out, chosen, encoder, start)
        session.keep, session.every = keep, every or max(1, session.recipe.steps // 10)
        return session.run(tensorboard)


def begin(recipe: Recipe, out: Path, device: torch.device, encoder: Path | None = None, start: Path | None = None) -> Session:
    """A session of the run in `out` at its newest good checkpoint, or at its first step if it has not begun."""
    latest = look(out)
    data = read_data(recipe) if latest is None else read_data(recipe, *_kept(latest))
    closed, origin = close(recipe, data), {"encoder": str(encoder or ""), "start": str(start or "")}
    if latest is None:
        student, through = new_student(closed, data, encoder, start), encoder_run(closed, encoder, start)
        objective_through(closed, frozen_encoder(through, data, device))  # a mistake is better said before the folder is claimed
        claim(out, closed, origin)
        kept = None if through is None else keep_encoder(through, out)
    else:
        check_same(out, latest, closed, origin, data.known())
        student, kept = data.student(closed), kept_encoder(out) if closed.needs_encoder else None
        freeze(student, closed)
    objective = objective_through(closed, frozen_encoder(kept, data, device))
    session = Session(closed, objective, data, out, device, student, scratch=encoder is None and start is None)
    if latest is not None:
        session.take_up(latest)
        session.alarms = monitor.standing_alarms(out, session.state.step)
    return session


def _kept(latest: Path) -> tuple[Normaliser, Conditions | None]:
    """What a checkpoint keeps of how its data are encoded."""
    asks = checkpoint.read(latest, "data").get("conditions")
    return Normaliser.from_json(checkpoint.read(latest, "normaliser")), None if asks is None else Conditions.from_json(asks)


class Session:
    """One sitting of a run: what changes while it trains, and where it is kept."""

    def __init__(
        self,
        recipe: Recipe,
        objective: Objective,
        data: Data,
        out: Path,
        device: torch.device,
        bare: nn.Module,
        *,
        scratch: bool = False,
    ) -> None:
        self.recipe, self.objective, self.data, self.out, self.device = recipe, objective, data, out, device
        self.scratch, self.keep, self.every = scratch, 3, 1000
        self.precision = precision_of(recipe, device)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        self.bare = bare.to(device)
        self.ema = twin(self.bare)
        self.optimizer = recipe.optimizer.build(self.bare)
        self.scaler = loss_scaler(self.precision, device)
        self.state = State(0, recipe.seed, scaler={} if self.scaler is None else self.scaler.state_dict())
        self.alarms: list[str] = []
        self.losses: deque[float] = deque(maxlen=REMEMBERED)
        self.falls, self.fell = sum(fall["back_to"] is not None for fall in divergences(out)), ""

    def take_up(self, folder: Path) -> None:
        """Go on from a checkpoint."""
        self.state = checkpoint.load(folder, self.bare, self.ema, self.optimizer)
        if self.scaler is not None:
            self.scaler.load_state_dict(self.state.scaler)
        say(f"Taken up at step {self.state.step} from {folder}.")

    def run(self, tensorboard: bool = False) -> bool:
        """Take every step that is left, measuring and saving as it goes; the report at the end; False if it was interrupted."""
        if self.state.step >= self.recipe.steps:
            say(f"{self.out} is finished: all {self.recipe.steps} steps are taken.")
            return True
        main = processes.rank() == 0
        if main and self.recipe.is_encoder and self.state.step == 0:
            monitor.show_views(self.recipe, self.data, self.out / "previews" / "views.png")
        if self.recipe.is_one_step and self.state.step == 0:
            self.save()  # something to fall back on
        with Interruption() as interruption:
            finished = None
            while finished is None:
                finished = self.sit(tensorboard, interruption)
        if not finished:
            say(f"Stopped and saved at step {self.state.step}; the same command again goes on from there.")
        elif main:
            self.close()
        return finished

    def sit(self, tensorboard: bool, interruption: Interruption) -> bool | None:
        """Go on to the end: True, or False if interrupted; None if it diverged and stands at an earlier checkpoint again."""
        try:
            with self.journal(tensorboard) as journal:
                if self.fell:
                    journal.note(self.state.step, {"alarms": [self.fell]})
                return self.go(journal, interruption)
        except Diverged as error:
            self.fall_back(error)
        return None

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
            error.checkpoint = checkpoint.latest(self.out)
            raise error
        error.checkpoint = back_to = decided(lambda: checkpoint.measured(self.out))
        if self.falls == FALLS:
            decided(lambda: note_divergence(self.out, error.step.number, error.why, None))
            if processes.rank() == 0:
                write_report(self.out)
            error.why += f", after falling back {FALLS} times with half the learning rate each time"
            error.advice = (
                monitor.REMEDY if self.scratch else "Choose a lower learning rate, or a longer warm-up, and a new --out."
            )
            raise error
        self.falls += 1
        decided(lambda: note_divergence(self.out, error.step.number, error.why, back_to))
        self.alarms = []
        self.losses.clear()
        rate = f"with {0.5**self.falls:g} of the learning rate from here on"
        self.fell = f"fell back from step {error.step.number} ({error.why}), {rate}"
        say(f"Step {error.step.number}: {error.why}. Falling back, {rate}.")
        self.take_up(back_to)

    def go(self, journal: Journal, interruption: Interruption) -> bool:
        """Step by step to the end; False if interrupted, in either case saved."""
        images = monitor.measured(self.data)
        real = monitor.reference(self.data) if self.recipe.is_one_step and processes.rank() == 0 else None
        for step in self.steps():
            journal.record(step, [*self.alarms, *self.jumped(step)])
            last, stop = step.number == self.recipe.steps, interruption.condition()
            due = step.number % self.every == 0 or last
            if due or stop:
                # measured when due alone: what a measurement decides must not depend on when a run was interrupted
                value = self.measure(step, images, journal, real) if due else None
                scaler = {} if self.scaler is None else self.scaler.state_dict()
                counts = journal.seconds, journal.skipped
                self.state = State(step.number, self.recipe.seed, *counts, value, scaler, self.state.near)
                self.save()
            if stop and not last:
                return False
        return True

    def jumped(self, step: Step) -> list[str]:
        """The alarm of a one-step run whose loss is far above those before."""
        if not self.recipe.is_one_step:
            return []
        self.losses.append(step.losses["loss"])
        return [f"the loss jumped to {self.losses[-1]:.3g}"] if spiked(self.losses) else []

    def journal(self, tensorboard: bool) -> Journal:
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
            tensorboard=tensorboard,
        )

    def steps(self) -> Iterator[Step]:
        """The steps of the run from where it stands."""
        recipe, first = self.recipe, self.state.step
        student, teacher = (torch.compile(each) if self.compiles else each for each in (self.bare, self.ema))
        assert isinstance(student, nn.Module)
        assert isinstance(teacher, nn.Module)
        return steps_of(
            distribute(student),
            teacher,
            self.objective,
            self.optimizer,
            lambda number: recipe.schedule(number) * 0.5**self.falls,
            batches(recipe, self.data, self.device, first),
            first=first,
            steps=recipe.steps,
            ema_decay=lambda number: min(recipe.ema_decay, number / (9 + number)),
            seed=recipe.seed,
            clip=recipe.optimizer.limit,
            precision=self.precision,
            accumulate=recipe.accumulate,
            scaler=self.scaler,
        )

    @property
    def compiles(self) -> bool:
        """Whether student and teacher are compiled."""
        return self.device.type == "cuda" if self.recipe.compile is None else self.recipe.compile

    def measure(self, step: Step, images: Source, journal: Journal, real: Reference | None) -> float | None:
        """What the run's stage is watched by, into the journal; returns the checkpoint's value.

        That is the held-out loss; for one-step runs, whose loss does not tell good samples from bad, it is their distance.
        """
        value = monitor.held_out_loss(self.recipe, self.objective, self.data, images, self.ema, self.device)
        values: dict[str, float | list[str]] = {} if value is None else {"held_out_loss": value}
        if self.recipe.is_one_step:
            value, wrong = decided(lambda: self.watch(real))
            values["sample_distance"] = value
            self.judge(step, value, wrong, journal, values)
        if processes.rank() != 0:
            return value
        if self.recipe.is_encoder:
            health = monitor.watch_features(self.recipe, self.data, images, self.ema, self.device)
            self.alarms = monitor.alarms(self.recipe, health, step.losses["contrast"], step.number)
            values |= health
        else:
            monitor.preview(self.recipe, self.data, self.ema, self.out / "previews" / f"step-{step.number:08d}.png")
        if self.alarms:
            values["alarms"] = self.alarms
        if values:
            journal.note(step.number, values)
        return value

    def watch(self, real: Reference | None) -> tuple[float, list[str]]:
        """The distance of one-step samples and what is wrong with them; the main process alone has the references."""
        assert real is not None
        return monitor.watch_samples(self.recipe, self.data, self.ema, real)

    def judge(
        self, step: Step, distance: float, wrong: list[str], journal: Journal, values: dict[str, float | list[str]]
    ) -> None:
        """Alarms of one-step samples; Diverged if they were near the data, are not any more, and are much farther away.

        Moments alone are no proof: early in training they pass through their band on the way.
        """
        if wrong and self.state.near and distance > FARTHER * decided(lambda: checkpoint.best_value(self.out)):
            journal.note(step.number, values | {"alarms": wrong})
            raise Diverged(step, "; ".join(wrong))
        if not wrong:
            self.state = replace(self.state, near=True)
        late = 2 * step.number >= self.recipe.steps
        self.alarms = [f"{what} (not near the data yet)" for what in wrong] if late else []

    def save(self) -> None:
        """A checkpoint of now."""
        extras = {
            "recipe": json.loads(to_json(self.recipe)),
            "normaliser": self.data.normaliser.to_json(),
            "data": self.data.known(),
        }
        checkpoint.save(self.out, self.state, self.bare, self.ema, self.optimizer, extras, self.keep)
        processes.barrier()
