"""The command `pixelpath sample`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import tyro

from pixelpath import processes
from pixelpath.commands.options import device_named
from pixelpath.data.metadata import SampleFormat
from pixelpath.errors import UserError
from pixelpath.log import say
from pixelpath.reports.display import BY_RULE, Display
from pixelpath.runs import sample as runs
from pixelpath.runs import sample_conditions as asking
from pixelpath.runs.devices import joined
from pixelpath.runs.folder import by_main
from pixelpath.runs.opened import open_run
from pixelpath.sampling.sampler import Sampling
from pixelpath.trainer.journal import peak_memory

USUAL_COUNT = 36
AS_TRAINED = Sampling()


def sample(
    run: Annotated[Path, tyro.conf.Positional],
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
    coordinates: bool = False,
    fill_nodata: Path | None = None,
    display: Display = BY_RULE,
    device: str | None = None,
) -> None:
    """Make images with a trained run: files as the data's own, a grid to look at, and samples.json with every setting.

    Started by torchrun, the processes share the images.

    Args:
        run: Folder of a stage-two run, or the name of a model that comes with pixelpath: sprites.
        count: How many images. Default: as many as --conditions or --cond-image ask for, else 36.
        first_seed: Seed of the first image; the others follow. An image is a function of its seed, its class and the settings.
        classes: Names (or numbers) of classes, taken in turn. Default: all of them.
        conditions: Table (.csv or .npy) with the columns the run was trained with, a line per image; lines are taken in turn.
        cond_image: Images (masks, maps) as conditions, as the run was trained with, taken in turn.
        how: How to sample. What is not given is as the run's recipe says.
        batch_size: Images at a time. It changes speed and memory, not the images.
        checkpoint: A folder of RUN/checkpoints other than the latest.
        out: New or empty folder. Default: RUN/samples/1, 2, ..., of sprites sprites-samples/1, 2, ...
        format: Kind of files. Default: that of the training images, or the nearest one their dtype and channels allow.
        coordinates: Refuse to sample where files cannot hold the coordinates of the training images (NetCDF and Zarr can).
            Otherwise samples have them where they fit, unless training images were mirrored or turned.
        fill_nodata: Image or array whose pixels other than 0 become "not measured" in every sample.
        display: How the grid shows images.
        device: cpu, cuda, mps. Default: the best one here.
    """
    if count is not None and count < 1:
        raise UserError(f"`count` must be at least 1, got {count}.", setting="count")
    if first_seed < 0:
        raise UserError(f"`first_seed` must be at least 0, got {first_seed}.", setting="first_seed")
    chosen = device_named(device)
    opened = open_run(run, checkpoint, chosen)
    runs.check_format(opened, format)  # better said before sampling, as what follows
    if fill_nodata is not None:
        runs.unmeasured(opened, fill_nodata)
    count = count or asking.lines_in(conditions, cond_image) or USUAL_COUNT
    seeds = range(first_seed, first_seed + count)
    condition = asking.condition(opened, seeds, classes, conditions, cond_image)
    with ExitStack() as stack:
        with joined():
            folder = by_main(runs.free_folder)(runs.folder_for("samples", run, opened), out)
            file = stack.enter_context(runs.scratch(folder))
            made, is_main = runs.sample(opened, seeds, condition, how, batch_size, file), processes.rank() == 0
        if not is_main:
            return
        made.save(folder, format, coordinates=coordinates, fill_nodata=fill_nodata, display=display)
    checked = made.settings["start_check_nfe"]
    once = f" and {checked} once to check the start" if checked else ""
    speed = f"{count / made.seconds:.1f} images/s, {made.nfe:g} network evaluations an image{once}"
    say(f"{count} images in {folder}: {speed}, peak memory {peak_memory(chosen) / 2**30:.2f} GiB.")
