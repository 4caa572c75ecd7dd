"""Options that several commands share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import tyro

from pixelpath.runs.devices import choose_device, use_tensor_cores
from pixelpath.sampling.sampler import Sampling


@dataclass(frozen=True)
class SamplingWithoutSteps(Sampling):
    """How to sample, for commands whose --steps is of another kind."""

    steps: Annotated[int | None, tyro.conf.Suppress, tyro.conf.Fixed] = None
    """As `Sampling.steps`."""


def device_named(name: str | None) -> torch.device:
    """The device of a command, which may use all that it has: this process is the command's own."""
    use_tensor_cores()
    return choose_device(name)
