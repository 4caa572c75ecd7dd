"""The command `pixelpath edit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from pixelpath.commands.options import device_named
from pixelpath.data.metadata import SampleFormat
from pixelpath.errors import UserError
from pixelpath.log import say
from pixelpath.reports.display import BY_RULE, Display
from pixelpath.runs import api
from pixelpath.runs.edit import Edits
from pixelpath.runs.editable import WAY
from pixelpath.runs.sample import check_format, folder_for, free_folder
from pixelpath.sampling.sampler import Sampling

AS_TRAINED = Sampling()


def edit(
    run: Annotated[Path, tyro.conf.Positional],
    image: Path | None = None,
    mask: Path | None = None,
    variations: int | None = None,
    strength: float = 0.5,
    between: tuple[int, int] | None = None,
    count: int | None = None,
    first_seed: int = 0,
    classes: tuple[str, ...] = (),
    conditions: Path | None = None,
    cond_image: Path | None = None,
    how: Annotated[Sampling, tyro.conf.arg(name="")] = AS_TRAINED,
    batch_size: int = 64,
    checkpoint: Path | None = None,
    out: Path | None = None,
    format: SampleFormat | None = None,
    display: Display = BY_RULE,
    device: str | None = None,
) -> None:
    """Edit images with a trained run: --image and --mask, or --image and --variations, or --between two seeds.

    In-painting makes the pixels anew where the mask is not 0, and leaves all others exactly as they are. Variations are images
    like a given one. Files are as the data's own, with a grid to look at and edit settings in samples.json.

    Args:
        run: Folder of a stage-two run, or the name of a model that comes with pixelpath: sprites.
        image: Image, or several, of the size that the run makes.
        mask: Image of that size whose pixels other than 0 are made anew.
        variations: How many images to make that are like each given one.
        strength: How far variations go: near 0 they differ in details, at 1 in nearly everything.
        between: Two seeds: images from that of the first one to that of the second.
        count: How many images. Default: one of each given image; 9 from one seed to another.
        first_seed: Seed of the first edit; the others follow.
        classes: Names (or numbers) of classes, in turn. Default: none; for --between those of the seeds.
        conditions: Table (.csv or .npy) with the columns the run was trained with; lines are taken in turn.
        cond_image: Images (masks, maps) as conditions, as the run was trained with, taken in turn.
        how: How to sample. What is not given is as the run's recipe says.
        batch_size: Images at a time.
        checkpoint: A folder of RUN/checkpoints other than the latest.
        out: New or empty folder. Default: RUN/edits/1, 2, ..., of sprites sprites-edits/1, 2, ...
        format: Kind of files. Default: that of the training images, or the nearest one their dtype and channels allow.
        display: How the grid shows images.
        device: cpu, cuda, mps. Default: the best one here.
    """
    _check(image, mask, variations, between, count)
    device_named(device)
    opened = api.load(run, checkpoint, device)
    folder = free_folder(folder_for("edits", run, opened), out)
    check_format(opened, format)  # better said before sampling
    asked = {"classes": classes, "conditions": conditions, "cond_image": cond_image, "sampling": how, "batch_size": batch_size}
    given = {**asked, "seed": first_seed}
    made: Edits
    if between is not None:
        made = opened.between(*between, WAY if count is None else count, **asked)
    elif mask is not None and image is not None:
        made = opened.inpaint(image, mask, count, **given)
    else:
        assert image is not None
        assert variations is not None
        made = opened.variations(image, variations, strength, **given)
    made.save(folder, format, display=display)
    say(f"{len(made)} images in {folder}: {len(made) / made.seconds:.1f} images/s, {made.nfe:g} network evaluations an image.")


def _check(
    image: Path | None, mask: Path | None, variations: int | None, between: tuple[int, int] | None, count: int | None
) -> None:
    """UserError unless exactly one edit is asked for, with what it needs."""
    asked = [name for name, value in (("mask", mask), ("variations", variations), ("between", between)) if value is not None]
    if len(asked) != 1:
        which = " and ".join(f"`{name}`" for name in asked) if asked else "No edit"
        raise UserError(f"{which} asked for: give one of `mask`, `variations` and `between`.", setting="mask")
    if (image is None) == (asked[0] != "between"):
        remedy = "omit `image`" if image is not None else "give `image`"
        raise UserError(f"`{asked[0]}` {'needs an' if image is None else 'takes no'} image: {remedy}.", setting="image")
    if variations is not None and count is not None:
        raise UserError("`variations` says how many images are made already: omit `count`.", setting="count")
