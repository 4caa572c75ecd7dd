"""What a run needs before its first step: data, a student, a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float

from pixelpath import processes
from pixelpath.data import conditions, sources
from pixelpath.data.augment import augment, windows
from pixelpath.data.batches import Batches, ahead
from pixelpath.data.conditions import ConditionData, Conditions
from pixelpath.data.digest import Digests, digests
from pixelpath.data.metadata import Metadata
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.data.opening import check_patch, open_place, open_split
from pixelpath.data.originals import Cutting, has_originals
from pixelpath.data.parts import HELD_OUT, TRAIN, parts
from pixelpath.data.settings import DataSettings
from pixelpath.data.sources import Source
from pixelpath.data.tables import Table, check_shared, for_images, lines_of, read_table
from pixelpath.data.unmeasured import Mask, moved_along, unmeasured, with_mask
from pixelpath.errors import MissingError, UserError
from pixelpath.log import say
from pixelpath.models.denoiser import Denoiser
from pixelpath.models.representation import Representation
from pixelpath.recipes.build import Shape, student_of
from pixelpath.recipes.recipe import Recipe, for_data, unlearned
from pixelpath.runs.examined import examined
from pixelpath.runs.generate import balanced, in_shares
from pixelpath.runs.index import Index
from pixelpath.runs.opened import OpenRun
from pixelpath.types import Batch, Condition, Conditioning, Views, classes_of

FIRST = 2**40  # seed of a teacher's first image, far from seeds that users sample: what a run makes must not be what it learned
MASKED = 0.01  # share of the values: so many that all images lack, and their mirror images have, are a map's


@dataclass(frozen=True)
class PreparedData:
    """The images of a run on both sides of its split, and how they come into model range.

    `originals` are the training images as a source that cuts windows from them before it resizes them, if there is one.
    """

    training: Source
    held_out: Source
    normaliser: Normaliser
    conditional: bool
    resize: tuple[int, int] | None = None
    given: ConditionData | None = None
    given_held_out: ConditionData | None = None
    originals: Source | None = None
    sampled: Metadata | None = None
    """What is known of samples, if more than of the images: where they have no value."""
    digests: dict[str, Digests] | None = None
    """Those of both sides, if they are known."""

    @property
    def shape(self) -> Shape:
        """Channels, rows, columns of an image."""
        return self.training.shape

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes that the run uses; empty if it is unconditional."""
        return self.training.classes if self.conditional else ()

    @cached_property
    def shares(self) -> Float[np.ndarray, "class"]:
        """The share of every class in the training images."""
        return np.bincount(sources.labels(self.training), minlength=len(self.training.classes)) / len(self.training)

    @property
    def metadata(self) -> Metadata:
        """What is known of the images besides their values."""
        return self.training.metadata

    @cached_property
    def unmeasured(self) -> Mask | None:
        """Where no training image has a value; None if there is no such pixel."""
        return unmeasured(self.training, self.normaliser.nodata)

    def masked(self, recipe: Recipe) -> PreparedData:
        """The same, samples of the closed recipe being nodata where no view of any image has a value."""
        if recipe.is_encoder or self.unmeasured is None:
            return self
        return replace(self, sampled=with_mask(self.metadata, moved_along(self.unmeasured, flip=recipe.flip, rot90=recipe.rot90)))

    @property
    def conditions(self) -> Conditions:
        """What images can be asked for beside classes."""
        return Conditions() if self.given is None else self.given.conditions

    @property
    def colours(self) -> bool:
        """Whether colours may be jittered: of photographs, whose colours are their own and not multiplied by alpha."""
        return self.metadata.photographs and self.metadata.alpha != "premultiplied" and self.normaliser.has_unit_range

    def student(self, recipe: Recipe) -> Representation | Denoiser:
        """A new student of the recipe for these images."""
        return student_of(recipe, self.shape, len(self.classes), self.conditions.numbers, self.conditions.other)

    def condition(self, seeds: Sequence[int]) -> Conditioning:
        """What to ask of samples with these seeds: classes in turn; where there is more, what is known of real images in turn.

        Of held-out ones, where there are any.
        """
        if self.given is None:
            return balanced(seeds, len(self.classes))
        side, given = (self.held_out, self.given_held_out) if len(self.held_out) else (self.training, self.given)
        assert given is not None
        indices = np.array([seed % len(side) for seed in seeds])
        numbers = [side.label(int(index)) if self.classes else 0 for index in indices]
        return given.condition(indices, torch.tensor(numbers, dtype=torch.int64))

    def like_training(self, seeds: Sequence[int]) -> Conditioning:
        """What to ask of samples that are compared with real images: as `condition`, but classes in the training images' shares.

        Another mix of classes would count as a distance.
        """
        return in_shares(seeds, self.shares) if self.given is None and self.classes else self.condition(seeds)

    @cached_property
    def known(self) -> dict[str, Any]:
        """What a checkpoint keeps of the data beside the normaliser, JSON-ready."""
        return {
            "shape": list(self.shape),
            "dtype": self.training.dtype.name,
            "classes": list(self.classes),
            "training": len(self.training),
            "held_out": len(self.held_out),
            "metadata": (self.sampled or self.metadata).to_json(),
            "conditions": self.conditions.to_json(),
            "images": self.digests or {"training": digests(self.training, None), "held_out": digests(self.held_out, None)},
        }


def with_data(recipe: Recipe, path: Path | None) -> Recipe:
    """The recipe on the data at `path`; without a path as it is."""
    return recipe if path is None else replace(recipe, data=replace(recipe.data, path=path))


Sources = tuple[Source, Source]
"""Training images and held-out images."""


def read_data(
    recipe: Recipe,
    sides: Sources | None = None,
    known: Normaliser | None = None,
    asks: Conditions | None = None,
    index: Index | None = None,
) -> PreparedData:
    """The data that the recipe names, or `sides` if they are open already.

    What the normaliser and the conditions need is measured on the training images, unless it is known. With an `index` every
    process of a run must call it: the main one reads the images, unless the index knows what is in them.
    """
    if sides is None and recipe.data.path is None:
        raise UserError("No data given: name a folder of images or a file of arrays as `data`.", setting="data")
    if sides is not None:
        check_patch(sides[0], recipe.patch, recipe.data)
    training, held_out = sides or open_split(recipe.data, recipe.patch, index and index.headers)
    say(f"Training data: {sources.describe(training)} Held out: {len(held_out)} images.")
    if training.classes and not recipe.conditional:
        say("The classes are not used.")
    for name in list(dict.fromkeys([*training.broken, *held_out.broken]))[:20]:
        say(f"Left out, cannot be decoded: {name}")
    originals = training if has_originals(training) else None
    given = (None, None) if recipe.is_encoder else _given(training, held_out, recipe.data, asks)
    if known is not None and index is None:
        return PreparedData(training, held_out, known, recipe.conditional, recipe.data.resize, *given, originals)
    training = held_in_memory(training, recipe.data)
    known, digests = examined((training, held_out), recipe.data, known, index)
    return PreparedData(training, held_out, known, recipe.conditional, recipe.data.resize, *given, originals, digests=digests)


def _given(
    training: Source, held_out: Source, settings: DataSettings, asks: Conditions | None
) -> tuple[ConditionData | None, ConditionData | None]:
    """What is given of the images of both sides, as the settings say; None where nothing is."""
    if settings.conditions is None and settings.cond_image is None:
        return None, None
    sides = (training, held_out)
    names = [(*words, *map(str.capitalize, words), *map(str.upper, words)) for words in (TRAIN, HELD_OUT)]
    tables = [None if settings.conditions is None else _table(settings.conditions, sides, part) for part in names]
    if tables[0] is not None and tables[0].names is None:
        say(f"{settings.conditions} names no image, so its lines are taken in the order of the file.")
    lines = [
        None if table is None else lines_of(table, side, part) for table, side, part in zip(tables, sides, names, strict=True)
    ]
    cond_image = [None, None] if settings.cond_image is None else _cond_images(settings.cond_image, sides, settings)
    if asks is None:
        columns = () if tables[0] is None or lines[0] is None else conditions.fit_columns(tables[0], lines[0])
        asks = Conditions(columns, None if cond_image[0] is None else conditions.fit_cond_image(cond_image[0]))
        for column in columns:
            words = f": {', '.join(column.words[:10])}" if column.words else f", mean {column.mean:g}, std {column.std:g}"
            say(f"Condition {column.name}: {column.kind}{words}.")
    vectors = [
        None if table is None or line is None else asks.vectors(table, line) for table, line in zip(tables, lines, strict=True)
    ]
    first, second = (ConditionData(asks, vector, other) for vector, other in zip(vectors, cond_image, strict=True))
    if second.cond_image is not None and len(held_out):
        second.condition(range(len(held_out)), torch.zeros(len(held_out), dtype=torch.int64))  # a mistake is better said now
    return first, second


def _table(path: Path, sides: tuple[Source, Source], part: Sequence[str]) -> Table:
    """A table of the images of both sides, of one with parts this one."""
    table = for_images(read_table(path, part), sides)
    check_shared(table, sides)
    return table


def _cond_images(path: Path, sides: tuple[Source, Source], settings: DataSettings) -> list[Source]:
    """The images that are conditions of those of both sides."""
    plain = replace(settings, alpha="straight", nodata=None, channels=None, skip_broken=False)
    training, held_out = parts(path)
    first = open_place(training, plain, None)
    second = first if held_out is None else open_place(held_out, plain, None)
    return [conditions.cond_images_of(side, other, path) for side, other in zip(sides, (first, second), strict=True)]


def read_data_of(run: OpenRun, path: Path | None, sides: Sources | None = None) -> PreparedData:
    """The run's own data, or the images at `path` brought to the size of the run's, or `sides` that are open already.

    Raises UserError for images of another shape or dtype than the run's.
    """
    recipe = with_data(run.recipe, path)
    if path is not None and recipe.data.resize is None:
        recipe = replace(recipe, data=replace(recipe.data, resize=run.shape[1:]))
    try:
        data = read_data(recipe, sides, run.normaliser, run.conditions)
    except MissingError as error:
        if path is not None:
            raise
        raise MissingError(
            f"The data of {run.path} are not where they were: name their new place as `data`. {error}", setting="data"
        ) from error
    here, there = (data.shape, data.training.dtype.name), (run.shape, run.normaliser.dtype)
    if here != there:
        words = ["x".join(map(str, shape)) + f" {dtype}" for shape, dtype in (here, there)]
        place = f"at {recipe.data.path}" if sides is None else "given"
        raise UserError(
            f"The images {place} are {words[0]} but {run.path} was trained on {words[1]}: give such images.", setting="data"
        )
    return data


def held_in_memory(source: Source, settings: DataSettings) -> Source:
    """The source kept in memory if it fits, so that measuring and training decode each image once."""
    needed = len(source) * int(np.prod(source.shape)) * source.dtype.itemsize
    return sources.remembered(source, settings.workers) if needed <= settings.cache_bytes else source


def batches(recipe: Recipe, data: PreparedData, device: torch.device, first: int) -> Iterator[Batch] | Iterator[Views]:
    """This process's share of the training batches from step `first` on, as the objective takes them: with views in stage one."""
    stream = Batches(
        data.training,
        data.normaliser,
        recipe.batch_size,
        recipe.seed,
        device,
        processes.rank(),
        processes.count(),
        flip=recipe.flip and not (recipe.is_encoder or recipe.is_distilled),
        rot90=recipe.rot90 and not (recipe.is_encoder or recipe.is_distilled),
        given=data.given,
        workers=recipe.data.workers,
        cache_bytes=recipe.data.cache_bytes,
        cutting=cutting(recipe, data.originals),
    )
    found = (for_objective(batch, recipe, data) for batch in stream.batches(first))
    return cast(Iterator[Batch] | Iterator[Views], ahead(found, device))  # which of the two follows from the recipe


def cutting(recipe: Recipe, source: Source | None) -> Cutting | None:
    """How the views of stage one are cut from the originals of a source; None if they are made of its images themselves."""
    if source is None or not (recipe.is_encoder and recipe.augmentation.from_originals and has_originals(source)):
        return None
    _, rows, columns = source.shape
    return Cutting(source, partial(windows, augmentation=recipe.augmentation, aspect=columns / rows))


def for_objective(batch: Batch, recipe: Recipe, data: PreparedData) -> Batch | Views:
    """The batch as the objective takes it: with two views of every image in stage one, without classes if none are used.

    Of images that a teacher made, with the seeds of which it made them.
    """
    if recipe.is_encoder:
        return augment(batch, recipe.augmentation, data.normaliser, data.colours)
    if recipe.is_distilled:
        assert batch.index is not None
        batch = replace(batch, seeds=tuple(FIRST + number for number in batch.index.tolist()))
    if data.classes:
        return batch
    condition = batch.labels
    none = torch.zeros_like(classes_of(condition))
    return replace(batch, labels=replace(condition, labels=none) if isinstance(condition, Condition) else none)


def _unmoved(recipe: Recipe, data: PreparedData) -> Recipe:
    """The recipe without mirror images where all images lack the same pixels, which mirror images would have."""
    if recipe.is_encoder or not (recipe.flip or recipe.rot90) or data.unmeasured is None:
        return recipe
    mask, kept = data.unmeasured, moved_along(data.unmeasured, flip=recipe.flip, rot90=recipe.rot90)
    if (mask & ~kept).mean() < MASKED:
        return recipe
    about = f"{mask.mean():.0%} of the values are not measured in any image, as where a map shows land"
    if recipe.rot90:
        say(f"{about}: turned images (`rot90`) have them elsewhere, so samples do not keep all of them.")
        return recipe
    say(f"{about}, so images are not mirrored (`flip`).")
    return replace(recipe, flip=False)


def close(recipe: Recipe, data: PreparedData) -> Recipe:
    """The recipe closed for this data (see `for_data`); UserError if its batch cannot be shared out among the processes."""
    parts = processes.count() * recipe.accumulate
    if recipe.batch_size % parts:
        raise UserError(
            f"A batch of {recipe.batch_size} images cannot be shared out among {processes.count()} processes in "
            f"{recipe.accumulate} equal parts each: choose a `batch_size` that is a multiple of {parts}.",
            setting="batch_size",
        )
    if recipe.needs_encoder and recipe.accumulate > 1:
        raise UserError(
            "The contrastive loss on features compares the images of a whole batch, so `accumulate` must be 1: use "
            "`activation_checkpointing` to save memory, or choose no features (`objective.features`).",
            setting="accumulate",
        )
    if (recipe.is_encoder or recipe.needs_encoder) and recipe.batch_size < 2:
        sentence = "A contrastive loss tells the images of a batch apart, so it needs at least 2 at a time: raise `batch_size`."
        raise UserError(sentence, setting="batch_size")
    if recipe.is_encoder and not data.colours:
        say("These are no 8-bit photographs, so views are cropped, mirrored and blurred but keep their values.")
    if (recipe.rot90 or (recipe.is_encoder and recipe.augmentation.rot90)) and data.shape[1] != data.shape[2]:
        size = "x".join(map(str, data.shape[1:]))
        raise UserError(f"Images of {size} pixels are not square, so they cannot be turned: omit `rot90`.", setting="rot90")
    if cutting(recipe, data.originals) is not None:
        say("Views are cut from the images as before `data.resize`, decoded at every step (`augmentation.from_originals`).")
    for remark in unlearned(recipe):
        say(remark)
    recipe = _unmoved(recipe, data)
    warmup, shorter = recipe.schedule.warmup, recipe.steps // 10
    if warmup >= recipe.steps:
        say(f"The run is shorter than its warm-up of {warmup} steps, which takes {shorter} instead: `schedule.warmup` sets it.")
        recipe = replace(recipe, schedule=replace(recipe.schedule, warmup=shorter))
    return for_data(recipe, *data.shape[1:])
