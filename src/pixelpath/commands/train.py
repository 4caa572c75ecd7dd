"""The command `pixelpath train`: from a recipe and data to a trained run, in as many sessions as it takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import nn

from pixelpath import processes
from pixelpath.commands import monitor
from pixelpath.commands.dry_run import dry_run as estimate
from pixelpath.commands.prepare import (
    Data,
    batches,
    choose_device,
    claim,
    close,
    data_settings,
    join_processes,
    new_student,
    precision_of,
    read_data,
    say,
    with_data,
)
from pixelpath.commands.report import write_report
from pixelpath.data.normaliser import Normaliser
from pixelpath.recipes.recipe import Recipe, to_json
from pixelpath.recipes.rows import table
from pixelpath.training import checkpoint
from pixelpath.training.average import twin
from pixelpath.training.checkpoint import Interruption, State
from pixelpath.training.journal import Journal
from pixelpath.training.loop import Diverged, Step, distribute, loss_scaler
from pixelpath.training.loop import train as steps_of

RecipeRow = tyro.extras.subcommand_type_from_defaults(table())


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

    Args:
        recipe: What to train; its settings follow as --setting value.
        out: Folder of the run; made if missing, never overwritten.
        data: Folder of images (with or without a subfolder per class), .npy or .npz file.
        encoder: Run of stage one whose encoder stage two begins with.
        start: Run of the same kind whose weights to begin with.
        device: cpu, cuda, cuda:1, mps; chosen by itself if not given.
        every: Steps between checkpoints, previews and held-out measurements; a tenth of the run if not given.
        keep: How many of the latest checkpoints stay, beside the best.
        tensorboard: Write TensorBoard events too (needs pixelpath[track]).
        dry_run: Only say what it would cost: size, compute, memory and speed of three real steps.
    """
    join_processes()
    chosen = choose_device(device)
    opened = with_data(recipe, data)
    content = read_data(opened, _known_normaliser(out))
    closed = close(opened, content)
    if dry_run:
        estimate(closed, content, chosen)
        return
    origin = {"encoder": str(encoder or ""), "start": str(start or "")}
    latest = claim(out, closed, origin)
    session = begin(closed, content, out, chosen, latest, encoder, start)
    session.keep, session.every = keep, every or max(1, closed.steps // 10)
    session.run(tensorboard)


def _known_normaliser(out: Path) -> Normaliser | None:
    """The normaliser of a run to be taken up, so that it is not measured twice."""
    latest = checkpoint.latest(out)
    return None if latest is None else Normaliser.from_json(checkpoint.read(latest, "normaliser"))


@dataclass
class Session:
    """One sitting of a run: what the loop needs, and what it keeps on disk."""

    recipe: Recipe
    data: Data
    out: Path
    device: torch.device
    student: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None
    state: State
    keep: int = 3
    every: int = 1000
    alarms: list[str] = field(default_factory=list)

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
        processes.barrier()

    def go(self, journal: Journal, interruption: Interruption) -> bool:
        """Step by step to the end; False if interrupted, in either case saved."""
        for step in self.steps():
            journal.record(step, self.alarms)
            last, stop = step.number == self.recipe.steps, interruption.asked()
            if step.number % self.every == 0 or last or stop:
                value = self.measure(step, journal)
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
        first = self.state.step
        stream = batches(self.recipe, self.data, self.data.training, self.device, first, self.recipe.batch_size)
        return steps_of(
            self.student,
            self.average,
            self.recipe.objective,
            self.optimizer,
            self.recipe.schedule,
            stream,
            first=first,
            steps=self.recipe.steps,
            average_rate=lambda number: min(self.recipe.average_rate, number / (9 + number)),
            seed=self.recipe.seed,
            clip=self.recipe.optimizer.limit,
            precision=precision_of(self.recipe, self.device),
            accumulate=self.recipe.accumulate,
            scaler=self.scaler,
        )

    def measure(self, step: Step, journal: Journal) -> float:
        """The held-out loss, and previews (stage two) or the features' health (stage one), into the journal; returns the loss."""
        loss = monitor.held_out_loss(self.recipe, self.data, self.average, self.device)
        values = {"held_out_loss": loss}
        if self.recipe.is_encoder:
            contrast = step.losses["contrast"] if step.number >= min(200, self.recipe.steps) else None
            health, self.alarms = monitor.watch_features(self.recipe, self.data, self.average, contrast, self.device)
            values |= health
        elif processes.rank() == 0:
            monitor.preview(self.recipe, self.data, self.average, self.out / "previews" / f"step-{step.number:08d}.png")
        journal.note(step.number, {**values, "alarms": self.alarms} if self.alarms else values)
        return loss

    def save(self) -> None:
        """A checkpoint of now."""
        extras = {
            "recipe": json.loads(to_json(self.recipe)),
            "normaliser": self.data.normaliser.to_json(),
            "data": data_settings(self.data),
        }
        checkpoint.save(self.out, self.state, self.student, self.average, self.optimizer, extras, self.keep)
        processes.barrier()


def begin(
    recipe: Recipe,
    data: Data,
    out: Path,
    device: torch.device,
    latest: Path | None,
    encoder: Path | None = None,
    start: Path | None = None,
) -> Session:
    """A session of the run at its latest checkpoint, or at its first step if there is none."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.cuda.set_device(device)
    bare = new_student(recipe, data, encoder, start) if latest is None else new_student(recipe, data, None, None)
    bare = bare.to(device)
    average = twin(bare)
    optimizer = recipe.optimizer.build(bare)
    scaler = loss_scaler(precision_of(recipe, device), device)
    state = State(0, recipe.seed)
    if latest is not None:
        state = checkpoint.load(latest, bare, average, optimizer)
        if scaler is not None:
            scaler.load_state_dict(state.scaler)
        say(f"Taken up at step {state.step} from {latest}.")
    student = torch.compile(bare) if _compiles(recipe, device) else bare
    assert isinstance(student, nn.Module)
    return Session(recipe, data, out, device, distribute(student), average, optimizer, scaler, state)


def _compiles(recipe: Recipe, device: torch.device) -> bool:
    return device.type == "cuda" if recipe.compile is None else recipe.compile
