"""What an export is checked with: conditions of seeds, both as a user gives them and as the network takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from pixelpath.data.conditions import TAG, Column
from pixelpath.interop.generator import inputs_of
from pixelpath.randomness import Streams, normal, seed_of
from pixelpath.runs.opened import OpenRun
from pixelpath.types import Condition, Conditioning, Labels, classes_of

KEY = 9  # second part of the keys of their seeds


@dataclass(frozen=True, eq=False)
class Examples:
    """Conditions of images of `classes` classes: entries by column, native condition images, and what the network takes."""

    classes: int
    numbers: dict[str, list[str]]
    cond_image: Shaped[np.ndarray, "image channel row column"] | None
    condition: Conditioning

    @property
    def given(self) -> Conditioning | None:
        """The condition; None where the run has none."""
        return self.condition if self.classes or isinstance(self.condition, Condition) else None

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The condition as inputs of an exported network."""
        return inputs_of(self.given, self.classes)

    @property
    def labels(self) -> list[int] | None:
        """The classes alone; None without classes."""
        return classes_of(self.condition).tolist() if self.classes else None


def examples_of(run: OpenRun, seeds: Sequence[int], labels: Labels) -> Examples:
    """Conditions that a run can be asked for, a function of the seeds; classes are the labels."""
    asks, streams = run.conditions, Streams([seed_of(seed, KEY) for seed in seeds])
    if not asks.numbers and not asks.other:
        return Examples(len(run.classes), {}, None, labels)
    entries = {column.name: _entries(column, seeds, normal(streams, (1,))[:, 0].tolist()) for column in asks.columns}
    where = [f"seed {seed}" for seed in seeds]
    parts = [column.encode(entries[column.name], where) for column in asks.columns]
    vector = torch.from_numpy(np.concatenate(parts, axis=1)) if parts else None
    native = encoded = None
    if asks.cond_image is not None:
        drawn = normal(streams, (asks.cond_image.channels, *run.shape[1:]))
        if asks.cond_image.normaliser is None:
            native = (drawn.abs() * asks.cond_image.classes).long() % asks.cond_image.classes
        else:
            native = asks.cond_image.normaliser.decode(drawn / 2)
        encoded = asks.cond_image.encode(native)
    return Examples(len(run.classes), entries, None if native is None else native.numpy(), Condition(labels, vector, encoded))


def _entries(column: Column, seeds: Sequence[int], draws: Sequence[float]) -> list[str]:
    """An entry of a column for each seed: the mean plus draws of the std, or words in turn."""
    if column.kind == "number":
        return [repr(column.mean + column.std * draw) for draw in draws]
    words = column.words
    if column.kind == "category":
        return [words[seed % len(words)] for seed in seeds]
    return [TAG.join(words[: seed % (len(words) + 1)]) for seed in seeds]
