"""The command `pixelpath train`: from a recipe and data to a trained run, in as many sessions as it takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import nn

from pixelpath import processes
from pixelpath.commands import monitor
from pixelpath.commands.dry_run import dry_run as estimate
from pixelpath.commands.folder import check_same, claim, look
from pixelpath.commands.prepare import (
    Data,
    batches,
    check_origin,
    choose_device,
    close,
    freeze,
    joined,
    new_student,
    objective_of,
    precision_of,
    read_data,
    say,
    with_data,
)
from pixelpath.commands.report import write_report
from pixelpath.data.normaliser import Normaliser
from pixelpath.data.sources import Source
from pixelpath.recipes.build import student_of
from pixelpath.recipes.recipe import Recipe, summary, to_json
from pixelpath.recipes.rows import table
from pixelpath.training import checkpoint
from pixelpath.training.average import twin
from pixelpath.training.checkpoint import Interruption, State
from pixelpath.training.journal import Journal
from pixelpath.training.loop import Diverged, Step, distribute, loss_scaler
from pixelpath.training.loop import train as steps_of

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
) -> None:
    """Train a recipe on your images; the same command again takes up the run where it stopped, exactly.

    Every setting of a recipe is an option: `pixelpath train RECIPE --help` lists them, with the recipe's own values. Some are
    choices with settings of their own: `--size small --size.encoder.depth 4`, `--schedule constant --schedule.warmup 100`.
    On several GPUs: `torchrun --nproc-per-node 8 -m pixelpath.cli train RECIPE ...`.

    Args:
        recipe: What to train. An encoder (stage one) needs no classes; diffusion (stage two) takes it up with --encoder.
        out: Folder of the run; made if missing, never overwritten.
        data: Folder of images (with or without a subfolder per class), .npy or .npz file.
        encoder: Run of stage one whose encoder stage two begins with.
        start: Run of the same stage whose weights to begin with.
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
            return
        session = begin(with_data(recipe, data), out, chosen, encoder, start)
        session.keep, session.every = keep, every or max(1, session.recipe.steps // 10)
        session.run(tensorboard)


def begin(recipe: Recipe, out: Path, device: torch.device, encoder: Path | None = None, start: Path | None = None) -> Session:
    """A session of the run in `out` at its newest good checkpoint, or at its first step if it has not begun."""
    latest = look(out)
    data = read_data(recipe, None if latest is None else Normaliser.from_json(checkpoint.read(latest, "normaliser")))
    closed, origin = close(recipe, data), {"encoder": str(encoder or ""), "start": str(start or "")}
    if latest is None:
        session = Session(closed, data, out, device, new_student(closed, data, encoder, start))
        claim(out, closed, origin)
        return session
    check_same(out, latest, closed, origin, data.facts())
    student = student_of(closed, data.shape, len(data.classes))
    freeze(student, closed)
    session = Session(closed, data, out, device, student)
    session.take_up(latest)
    return session


class Session:
    """One sitting of a run: what changes while it trains, and where it is kept."""

    def __init__(self, recipe: Recipe, data: Data, out: Path, device: torch.device, bare: nn.Module) -> None:
        self.recipe, self.data, self.out, self.device = recipe, data, out, device
        self.keep, self.every = 3, 1000
        self.precision = precision_of(recipe, device)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        self.bare = bare.to(device)
        self.average = twin(self.bare)
        self.optimizer = recipe.optimizer.build(self.bare)
        self.scaler = loss_scaler(self.precision, device)
        self.state = State(0, recipe.seed)
        self.alarms: list[str] = []

    def take_up(self, folder: Path) -> None:
        """Go on from a checkpoint."""
        self.state = checkpoint.load(folder, self.bare, self.average, self.optimizer)
        if self.scaler is not None:
            self.scaler.load_state_dict(self.state.scaler)
        say(f"Taken up at step {self.state.step} from {folder}.")

    def run(self, tensorboard: bool = False) -> None:
        """Take every step that is left, measuring and saving as it goes; the report at the end."""
        if self.state.step >= self.recipe.steps:
            say(f"{self.out} is finished: all {self.recipe.steps} steps are taken.")
            return
        main = processes.rank() == 0
        if main and self.recipe.is_encoder and self.state.step == 0:
            monitor.show_views(self.recipe, self.data, self.out / "previews" / "views.png")
        with self.journal(tensorboard) as journal, Interruption() as interruption:
            try:
                finished = self.go(journal, interruption)
            except Diverged as error:
                error.checkpoint = checkpoint.latest(self.out)
                raise
        if not finished:
            say(f"Stopped and saved at step {self.state.step}; the same command again goes on from there.")
        elif main:
            say(f"Report: {write_report(self.out)}")

    def go(self, journal: Journal, interruption: Interruption) -> bool:
        """Step by step to the end; False if interrupted, in either case saved."""
        images = monitor.measured(self.data)
        for step in self.steps():
            journal.record(step, self.alarms)
            last, stop = step.number == self.recipe.steps, interruption.asked()
            if step.number % self.every == 0 or last or stop:
                value = self.measure(step, images, journal)
                scaler = {} if self.scaler is None else self.scaler.state_dict()
                self.state = State(step.number, self.recipe.seed, journal.seconds, journal.skipped, value, scaler)
                self.save()
            if stop and not last:
                return False
        return True

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
        student, teacher = (torch.compile(each) if self.compiles else each for each in (self.bare, self.average))
        assert isinstance(student, nn.Module)
        assert isinstance(teacher, nn.Module)
        return steps_of(
            distribute(student),
            teacher,
            objective_of(recipe),
            self.optimizer,
            recipe.schedule,
            batches(recipe, self.data, self.device, first),
            first=first,
            steps=recipe.steps,
            average_rate=lambda number: min(recipe.average_rate, number / (9 + number)),
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

    def measure(self, step: Step, images: Source, journal: Journal) -> float | None:
        """The held-out loss, and previews (stage two) or the features' health (stage one), into the journal; returns the loss."""
        loss = monitor.held_out_loss(self.recipe, self.data, images, self.average, self.device)
        if processes.rank() != 0:
            return loss
        values: dict[str, float | list[str]] = {} if loss is None else {"held_out_loss": loss}
        if self.recipe.is_encoder:
            health = monitor.watch_features(self.recipe, self.data, images, self.average, self.device)
            self.alarms = monitor.alarms(self.recipe, health, step.losses["contrast"], step.number)
            values |= health
        else:
            monitor.preview(self.recipe, self.data, self.average, self.out / "previews" / f"step-{step.number:08d}.png")
        if self.alarms:
            values["alarms"] = self.alarms
        if values:
            journal.note(step.number, values)
        return loss

    def save(self) -> None:
        """A checkpoint of now."""
        extras = {
            "recipe": json.loads(to_json(self.recipe)),
            "normaliser": self.data.normaliser.to_json(),
            "data": self.data.facts(),
        }
        checkpoint.save(self.out, self.state, self.bare, self.average, self.optimizer, extras, self.keep)
        processes.barrier()
