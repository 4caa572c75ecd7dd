"""Our system: a recipe of pixelpath, trained by the parts of a session, and sampled as runs are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from benchmarks.equal_time.clock import Clock, Spent, train_for
from benchmarks.equal_time.systems import AT_ONCE, SAMPLERS, How, Task, changed, sampler_of
from pixelpath import recipes
from pixelpath.errors import UserError
from pixelpath.recipes.recipe import Recipe
from pixelpath.runs.beginning import begin
from pixelpath.runs.chosen import Beginning, Saving
from pixelpath.runs.devices import precision_of
from pixelpath.runs.opened import OpenRun, open_run
from pixelpath.runs.prepare import batches
from pixelpath.runs.sample import sample
from pixelpath.runs.session import Session
from pixelpath.sampling.sampler import Sampling
from pixelpath.trainer.checkpoint import State
from pixelpath.trainer.loop import distribute
from pixelpath.types import Labels


def unwatched(session: Session, step: int) -> None:
    """Look at nothing."""


@dataclass(frozen=True)
class Ours:
    """A recipe of pixelpath with changes, from scratch or from another run; what is trained is a run that `pixelpath` opens.

    `watch` is called after every step, with the session and the step's number; its time does not count.
    """

    recipe: str = "cpu-32-diffusion"
    changes: tuple[str, ...] = ()
    beginning: Beginning = Beginning()
    watch: Callable[[Session, int], None] = field(default=unwatched, repr=False)

    def complete(self, task: Task) -> Recipe:
        """The recipe on the data of the task."""
        if self.recipe not in recipes.RECIPES:
            raise UserError(f"There is no recipe {self.recipe}: `pixelpath recipes` lists them.", setting="recipe")
        recipe = replace(recipes.RECIPES[self.recipe](seed=task.seed), data=task.settings, flip=task.flip)
        return changed(recipe, self.changes)

    def train(self, task: Task, clock: Clock, folder: Path) -> Spent:
        """A session's own parts in its own loop, but for the schedule, which follows the time; networks are not compiled."""
        session = begin(self.complete(task), folder / "run", task.device, self.beginning, Saving())
        recipe = session.recipe
        with session.held:
            if session.state.step:
                raise UserError(f"{session.out} is trained, but not known for how long: remove it.", setting="out")
            spent = train_for(
                clock,
                distribute(session.bare),
                session.ema,
                session.objective,
                session.optimizer,
                recipe.schedule,
                batches(recipe, session.data, task.device, 0),
                ema_decay=recipe.ema_decay,
                seed=recipe.seed,
                clip=recipe.optimizer.limit,
                precision=precision_of(recipe, task.device),
                accumulate=recipe.accumulate,
                watch=lambda number: self.watch(session, number),
            )
            session.recipe = replace(recipe, steps=spent.steps)
            session.state = State(spent.steps, recipe.seed, spent.seconds)
            session.save()
            session.writer.wait()
        return spent

    def sample(self, task: Task, folder: Path, how: How, labels: Labels) -> Tensor:
        """Samples of the run."""
        return samples_of_run(open_run(folder / "run", device=task.device), how, labels)


def samples_of_run(run: OpenRun, how: How, labels: Labels) -> Tensor:
    """One native image per label from a run of pixelpath, of the seeds 0, 1, ..."""
    guidance = how.guidance if run.denoiser.backbone.conditional else None
    chosen = Sampling(steps=how.steps, guidance=guidance, sampler=sampler_of(how, SAMPLERS))
    return sample(run, range(len(labels)), labels, chosen, AT_ONCE).native
