"""Options that several commands share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from pixelpath.sampling.sampler import Sampling


@dataclass(frozen=True)
class SamplingWithoutSteps(Sampling):
    """How to sample, for commands whose --steps is of another kind."""

    steps: Annotated[int | None, tyro.conf.Suppress, tyro.conf.Fixed] = None
    """As `Sampling.steps`."""
