"""What a system is, what all of them are given, and how their settings are changed by words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import tyro
from torch import Tensor

from benchmarks.equal_time.clock import Clock, Spent
from pixelpath.commands.settings import registry
from pixelpath.data.settings import DataSettings
from pixelpath.errors import UserError
from pixelpath.runs.prepare import PreparedData
from pixelpath.sampling.sampler import Sampler
from pixelpath.types import Labels

AT_ONCE = 64  # samples


@dataclass(frozen=True)
class Task:
    """What all systems are given alike: images, whether half of them are mirrored, a seed, a device."""

    data: PreparedData
    settings: DataSettings
    flip: bool
    seed: int
    device: torch.device


@dataclass(frozen=True)
class How:
    """How to sample: one of the system's samplers, its number of steps, the scale of classifier-free guidance."""

    sampler: str
    steps: int
    guidance: float

    @property
    def name(self) -> str:
        """The three in one word."""
        return f"{self.sampler}-{self.steps}-g{self.guidance:g}"


class System(Protocol):
    """A model with its training and its samplers."""

    def train(self, task: Task, clock: Clock, folder: Path) -> Spent:
        """Train until the time is up and leave in the folder what sampling needs."""
        ...

    def sample(self, task: Task, folder: Path, how: How, labels: Labels) -> Tensor:
        """One native image per label, of the seeds 0, 1, ..."""
        ...


def changed(chosen: Any, changes: Sequence[str]) -> Any:
    """A recipe or system with changes such as objective.draw.p_mean=.3, read as the command line of pixelpath reads them."""
    words: list[str] = []
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals:
            raise UserError(f"The change {change} is not NAME=VALUE: write for example optimizer.lr=1e-3.", setting="change")
        words += [f"--{name}", *value.split(",")]
    config = (tyro.conf.AvoidSubcommands, tyro.conf.EnumChoicesFromValues, tyro.conf.FlagConversionOff)
    return tyro.cli(type(chosen), default=chosen, args=words, config=config, registry=registry())


def sampler_of(how: How, known: Mapping[str, Any]) -> Any:
    """The sampler that was asked for; UserError naming those that the system has."""
    if how.sampler not in known:
        raise UserError(f"This system has no sampler {how.sampler}: it has {', '.join(known)}.", setting="samplers")
    return known[how.sampler]


SAMPLERS = {
    "2m": Sampler.DPMPP_2M,
    "heun": Sampler.HEUN,
    "heun-stochastic": Sampler.HEUN_STOCHASTIC,
    "consistency": Sampler.CONSISTENCY,
}
"""Samplers of denoisers, by the names they have here."""
