"""The part of `pixelpath.Run` that edits images: in-painting, variations, and the way between two seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pixelpath.errors import UserError
from pixelpath.log import say, telling
from pixelpath.runs import edit
from pixelpath.runs import sample_conditions as asking
from pixelpath.runs.edit_inputs import Given, MaskGiven, given_images, open_pixels
from pixelpath.runs.opened import OpenRun
from pixelpath.sampling.sampler import Sampling
from pixelpath.types import Condition, Conditioning

WAY = 9  # images from one seed to another


class EditableRun(OpenRun):
    """A run whose images can be edited."""

    def inpaint(
        self,
        images: Given,
        mask: MaskGiven,
        count: int | None = None,
        *,
        classes: Sequence[str | int] | str = (),
        conditions: Path | None = None,
        cond_image: Path | None = None,
        seed: int = 0,
        sampling: Sampling | None = None,
        batch_size: int = 64,
        progress: bool = False,
    ) -> edit.Edits:
        """Make the pixels anew where `mask` is other than 0; all others stay exactly as they are.

        `images` and `mask` are paths, PIL pictures or arrays in the data's own units. Makes `count` images (None: one of each),
        of the images in turn and the seeds `seed`, `seed` + 1, ... Without `classes` a run with classes is asked for none. Raises
        UserError for what does not fit the run.

        Example:
            >>> image, mask = run.sample(1, seed=3).images, np.zeros((8, 8))
            >>> mask[:, 4:] = 1
            >>> edited = run.inpaint(image, mask, 3).images
            >>> bool((edited[:, :, :, :4] == image[:, :, :, :4]).all()), edited.shape
            (True, (3, 1, 8, 8))
        """
        with telling(progress):
            given = given_images(self, images)
            seeds = asking.seeds_from(seed, len(given) if count is None else count)
            given = given.chosen(np.arange(len(seeds)) % len(given))
            pixels = open_pixels(self, mask, len(seeds))
            condition, how = _asked(self, seeds, classes, conditions, cond_image, sampling)
            return edit.inpaint(self, given, pixels, seeds, condition, how, batch_size)

    def variations(
        self,
        images: Given,
        count: int = 8,
        strength: float = 0.5,
        *,
        classes: Sequence[str | int] | str = (),
        conditions: Path | None = None,
        cond_image: Path | None = None,
        seed: int = 0,
        sampling: Sampling | None = None,
        batch_size: int = 64,
        progress: bool = False,
    ) -> edit.Edits:
        """Make `count` images like each of `images`: noise it, and take the noise away again.

        A `strength` near 0 changes details, 1 nearly everything. Other arguments and errors are those of `inpaint`.

        Example:
            >>> run.variations(run.sample(2).images, 3, strength=0.4).images.shape
            (6, 1, 8, 8)
        """
        with telling(progress):
            given = given_images(self, images)
            seeds = asking.seeds_from(seed, count * len(given))
            given = given.chosen(np.repeat(np.arange(len(given)), count))
            condition, how = _asked(self, seeds, classes, conditions, cond_image, sampling)
            return edit.vary(self, given, strength, seeds, condition, how, batch_size)

    def between(
        self,
        seed_a: int,
        seed_b: int,
        count: int = WAY,
        *,
        classes: Sequence[str | int] | str = (),
        conditions: Path | None = None,
        cond_image: Path | None = None,
        sampling: Sampling | None = None,
        batch_size: int = 64,
        progress: bool = False,
    ) -> edit.Edits:
        """Make `count` images from that of one seed to that of another, both included, as `sample` makes them.

        `classes` are none (those of the two seeds), one for all, or one for each seed; so are the lines of `conditions` and the
        images at `cond_image`. Raises UserError for others.

        Example:
            >>> way = run.between(3, 7, 5).images
            >>> bool(abs(way[4].astype(int) - run.sample(1, seed=7).images[0].astype(int)).max() <= 1)
            True
        """
        names = asking.named(classes)
        if len(names) > 2:
            raise UserError(f"`classes` takes at most 2 classes between two seeds, got {len(names)}.", "classes")
        with telling(progress):
            asking.seeds_from(min(seed_a, seed_b), 1)
            both = asking.condition(self, [seed_a, seed_b], names, conditions, cond_image)
            return edit.between(self, (seed_a, seed_b), count, (both[:1], both[1:]), sampling, batch_size)


def _asked(
    run: OpenRun,
    seeds: Sequence[int],
    classes: Sequence[str | int] | str,
    table: Path | None,
    cond_image: Path | None,
    sampling: Sampling | None,
) -> tuple[Conditioning, Sampling]:
    """The condition of edits, and how to sample: without a class, and so without guidance by it, unless one is named."""
    chosen, names = sampling or Sampling(), asking.named(classes)
    condition = asking.condition(run, seeds, names, table, cond_image)
    if names or not run.classes:
        return condition, chosen
    none = torch.full((len(seeds),), len(run.classes), dtype=torch.int64)
    if isinstance(condition, Condition):
        return Condition(none, condition.vector, condition.cond_image), chosen
    if chosen.guidance not in (None, 1.0) and chosen.guide_with is None:
        raise UserError("`guidance` pushes towards a class: name one in `classes`.", setting="guidance")
    say("No class is asked for: name one in `classes` if the images have one.")
    return none, chosen if chosen.guide_with is not None else Sampling(guidance=1.0).over(chosen)
