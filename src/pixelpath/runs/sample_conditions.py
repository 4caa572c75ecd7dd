"""The conditions of samples: classes by name, numbers, categories and tags from a table, images from files.

Conditions that are not named are taken from real images: classes in turn, the others from held-out images.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from pixelpath.data import sources
from pixelpath.data.conditions import ConditionData
from pixelpath.data.opening import open_place
from pixelpath.data.parts import parts
from pixelpath.data.settings import DataSettings
from pixelpath.data.sources import Source
from pixelpath.data.tables import read_table
from pixelpath.errors import UserError
from pixelpath.log import say
from pixelpath.runs.generate import balanced
from pixelpath.runs.opened import OpenRun
from pixelpath.runs.prepare import PreparedData, read_data_of
from pixelpath.types import Condition, Conditioning, Labels, classes_of


def seeds_from(seed: int, count: int) -> range:
    """`count` seeds from `seed` on. Raises UserError for no seed, or one below 0."""
    if count < 1 or seed < 0:
        raise UserError(f"`count` must be at least 1 and `seed` at least 0, got {count} and {seed}.", setting="count")
    return range(seed, seed + count)


def named(classes: Sequence[str | int] | str) -> tuple[str, ...]:
    """Classes as words, of one name or of several names or numbers."""
    return (classes,) if isinstance(classes, str) else tuple(map(str, classes))


def condition(
    run: OpenRun, seeds: Sequence[int], classes: tuple[str, ...] = (), table: Path | None = None, cond_image: Path | None = None
) -> Conditioning:
    """The conditions of the samples of these seeds: lines of a table, and images at `cond_image`, in turn.

    Raises UserError for what the run was not trained with, and for files that do not fit it.
    """
    labels = choose_labels(run, seeds, classes)
    asks = run.conditions
    for name, path, known in (("conditions", table, asks.numbers), ("cond_image", cond_image, asks.other)):
        if path is not None and not known:
            raise UserError(f"{run.path} was trained without `data.{name}`: omit `{name}`.", setting=name)
    if not asks.numbers and not asks.other:
        return labels
    if (asks.numbers and table is None) or (asks.other and cond_image is None):
        if table is not None or cond_image is not None:
            missing = "`conditions`" if table is None else "`cond_image`"
            raise UserError(f"{run.path} was trained with numbers and with images as conditions: give {missing} too.")
        say("What to ask for is taken from held-out images: give files of your own with `conditions` or `cond_image`.")
        drawn = read_data_of(run, None).condition(seeds)
        return replace(drawn, labels=labels) if classes and isinstance(drawn, Condition) else drawn
    vectors = None
    if table is not None:
        known = read_table(table, columns=tuple(column.name for column in asks.columns))
        vectors = asks.vectors(known, [seed % known.count for seed in range(len(seeds))])
    other = None
    if cond_image is not None:
        source = cond_images(run, cond_image)
        other = sources.subset(source, [index % len(source) for index in range(len(seeds))])
    return ConditionData(asks, vectors, other).condition(range(len(seeds)), labels)


def captions(seeds: Sequence[int], asked: Conditioning, classes: Sequence[str]) -> list[str]:
    """What stands below samples: the seed of each, and below it the class if there are any."""
    names = [f"\nclass {name}" if name.isdecimal() else f"\n{name}" for name in classes]
    named = [names[number] for number in classes_of(asked).tolist()] if classes else [""] * len(seeds)
    return [f"seed {seed}{name}" for seed, name in zip(seeds, named, strict=True)]


def as_held_out(run: OpenRun, data: PreparedData, seeds: Sequence[int]) -> Conditioning:
    """The conditions of samples that are compared with real images: as `data.like_training`.

    But classes are in turn if the images have other ones than the run.
    """
    asked = run.conditions.numbers or run.conditions.other
    return data.like_training(seeds) if asked or same_classes(run, data) else balanced(seeds, len(run.classes))


def same_classes(run: OpenRun, data: PreparedData) -> bool:
    """Whether the run has classes, and the images have the same ones."""
    return bool(run.classes) and data.training.classes == run.classes


def lines_in(table: Path | None, cond_image: Path | None) -> int | None:
    """How many samples a table, or the images at `cond_image`, ask for; None without either."""
    if table is not None:
        return read_table(table, columns=None).count
    return None if cond_image is None else len(open_place(parts(cond_image)[0], DataSettings(cond_image), None))


def choose_labels(run: OpenRun, seeds: Sequence[int], classes: tuple[str, ...]) -> Labels:
    """The labels of the seeds: the chosen classes in turn, or all of them by seed; UserError for an unknown class."""
    if not classes:
        return balanced(seeds, len(run.classes))
    if not run.classes:
        raise UserError(f"{run.path} is unconditional and knows no classes: omit `classes`.", setting="classes")
    numbers = [_number(run, name) for name in classes]
    return torch.tensor([numbers[index % len(numbers)] for index in range(len(seeds))], dtype=torch.int64)


def cond_images(run: OpenRun, path: Path) -> Source:
    """The images at `path` as condition images of the run; UserError unless shape and dtype are those of training."""
    source = open_place(parts(path)[0], DataSettings(path), None)
    asks = run.conditions.cond_image
    assert asks is not None
    wanted = (asks.channels, *run.shape[1:])
    if source.shape != wanted:
        words = ["x".join(map(str, shape)) for shape in (source.shape, wanted)]
        raise UserError(
            f"The condition images in {path} are {words[0]} but {run.path} was trained with {words[1]}: give such images."
        )
    kind = asks.normaliser.dtype if asks.normaliser else "whole numbers, the classes of a mask"
    if source.dtype.kind not in "iu" if asks.normaliser is None else source.dtype.name != asks.normaliser.dtype:
        raise UserError(
            f"The condition images in {path} are {source.dtype} but {run.path} was trained with {kind}: convert them."
        )
    return source


def _number(run: OpenRun, name: str) -> int:
    if name in run.classes:
        return run.classes.index(name)
    if name.isdecimal() and int(name) < len(run.classes):
        return int(name)
    near = difflib.get_close_matches(name, run.classes, 3, 0.4) or list(run.classes[:10])
    raise UserError(
        f"{run.path} has no class {name}: choose from {', '.join(near)}, or a number below {len(run.classes)}.", "classes"
    )
