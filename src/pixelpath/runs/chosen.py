"""What is chosen of a run beside its recipe: the weights that it begins with, and what it writes while it trains."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from pixelpath.errors import UserError
from pixelpath.runs.sharing.bundled import located
from pixelpath.trainer.trackers import TrackerName


@dataclass(frozen=True)
class Beginning:
    """The weights that a run begins with: random ones unless a run is named."""

    encoder: Path | None = None
    """Run of stage one whose encoder stage two begins with, and through which a one-step recipe compares features."""
    init_from: Path | None = None
    """Run of the same stage whose weights to begin with. A one-step recipe can begin with those of a diffusion run."""

    def located(self) -> Beginning:
        """The same, with the folders of bundled models for their names."""
        return Beginning(*(None if run is None else located(run) for run in (self.encoder, self.init_from)))

    def to_json(self) -> dict[str, str]:
        """What the run's folder keeps of it."""
        origin = {"encoder": self.encoder, "init_from": self.init_from}
        return {name: "" if run is None else str(run.absolute()) for name, run in origin.items()}


@dataclass(frozen=True)
class Saving:
    """What a run writes while it trains."""

    every: int | None = None
    """Steps between checkpoints. Default: a tenth of the run."""
    measure_every: int | None = None
    """Steps between previews and held-out measurements, a multiple of those between checkpoints. Default: at every checkpoint,
    or less often where they would take more than a tenth of the training time."""
    keep: int = 3
    """How many of the latest checkpoints stay, beside the best."""
    track: TrackerName | None = None
    """Show numbers and previews in a tracker too: tensorboard (needs pixelpath[track]), wandb or trackio."""
    save_minutes: float | None = 20.0
    """Save a checkpoint after so many minutes too, however few steps that are. None: only every `every` steps."""

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise UserError(f"`keep` must be at least 1, got {self.keep}.", setting="keep")
        for name, steps in (("every", self.every), ("measure_every", self.measure_every)):
            if steps is not None and steps < 1:
                raise UserError(f"`{name}` must be at least 1, got {steps}.", setting=name)
        if self.save_minutes is not None and not 0 < self.save_minutes < math.inf:
            raise UserError(f"`save_minutes` must be above 0, got {self.save_minutes}: choose 20, or None.", "save_minutes")

    def interval(self, steps: int) -> int:
        """The steps between checkpoints of a run of so many; UserError if measurements fall between them."""
        every = self.every or max(1, steps // 10)
        if self.measure_every is not None and self.measure_every % every:
            sentence = f"`measure_every` must be a multiple of the steps between checkpoints (`every`), {every}"
            raise UserError(f"{sentence}, got {self.measure_every}.", setting="measure_every")
        return every
