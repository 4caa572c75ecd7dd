"""Images from a trained run, one per seed: what was chosen is completed by the run's recipe, and everything is written down."""

from __future__ import annotations

import io
import itertools
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Shaped
from PIL import Image
from torch import Tensor, nn

from pixelpath import processes
from pixelpath.atomic import PARTIAL, write_json
from pixelpath.data.folders import GRID, RECORD
from pixelpath.data.formats.writers import nodata_in, write_samples, written_as
from pixelpath.data.metadata import Metadata, SampleFormat
from pixelpath.data.opening import open_source
from pixelpath.data.unmeasured import left_out
from pixelpath.errors import UserError
from pixelpath.log import progress
from pixelpath.models.denoiser import Denoiser
from pixelpath.reports.display import BY_RULE, Display, grid
from pixelpath.reports.pictures import save_png
from pixelpath.runs.devices import sampling_precision
from pixelpath.runs.generate import Origin, on_device, steps_below
from pixelpath.runs.opened import OpenRun, open_run
from pixelpath.runs.sample_conditions import captions
from pixelpath.runs.sharing.bundled import beside, check_writable, is_bundled
from pixelpath.runs.starting.files import open_start
from pixelpath.runs.tuned import with_tuning
from pixelpath.sampling.sampler import LENGTHS, Sampling
from pixelpath.starts.warm import check_count
from pixelpath.types import Condition, Conditioning, classes_of

SHOWN = 144  # images of a grid, at most
COLUMNS = range(8, 13)  # of a grid, from which the number is taken that fills its rows best


@dataclass(frozen=True, eq=False, repr=False)
class Samples:
    """Images made by a run, in the data's own dtype and range; a notebook shows their grid.

    `native` are the images on the CPU [sample, channel, row, column], `images` the same as a numpy array; `nfe` counts network
    evaluations an image, those of guidance included; `settings` is every setting that made them, JSON-ready.
    """

    native: Shaped[Tensor, "batch channel row column"]
    run: OpenRun
    seconds: float
    nfe: float
    settings: dict[str, Any]

    @property
    def images(self) -> Shaped[np.ndarray, "batch channel row column"]:
        """The images as a numpy array."""
        return self.native.numpy()

    def __len__(self) -> int:
        return len(self.native)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.native.shape[1:]))
        return f"<{len(self)} samples of {self.run.path}, {shape} {self.run.normaliser.dtype}, {self.nfe:g} NFE an image>"

    def grid(self, columns: int | None = None, display: Display = BY_RULE, *, labels: bool = True) -> Image.Image:
        """The first 144 images as one picture, row by row, the seed and the class of each below it if `labels`.

        `columns` of None: 8 to 12, so that rows are full, and classes that take turns stand below one another.
        """
        return self._grid(self.images, self.run.metadata, columns, display, labels=labels)

    def _grid(
        self,
        images: Shaped[np.ndarray, "..."],
        metadata: Metadata,
        columns: int | None,
        display: Display,
        *,
        labels: bool = True,
    ) -> Image.Image:
        known, looks = self.labels[:SHOWN] if labels else None, self.run.normaliser.shown
        columns = columns or columns_of(min(SHOWN, len(self)), len(self.run.classes))
        return grid(images[:SHOWN], min(columns, len(self)), metadata=metadata, display=display, seen=looks, labels=known)

    @property
    def labels(self) -> list[str]:
        """The seed and the class of each."""
        first, last = self.settings["seeds"]
        numbers = torch.tensor(self.settings["labels"] or [0] * len(self), dtype=torch.int64)
        return captions(range(first, last + 1), numbers, self.settings["classes"])

    @property
    def first_number(self) -> int:
        """The number of the first file."""
        return self.settings["seeds"][0]

    def to_write(self) -> tuple[Shaped[np.ndarray, "batch channel row column"], Metadata]:
        """The images as files are to hold them, and what is known of them."""
        return self.images, self.run.metadata

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.grid().save(file, "PNG")
        return file.getvalue()

    def save(
        self,
        folder: Path | str,
        format: SampleFormat | None = None,
        *,
        coordinates: bool = False,
        fill_nodata: Path | None = None,
        display: Display = BY_RULE,
    ) -> list[Path]:
        """Write the images as files of `format` (None: as the data's own), grid.png and samples.json; the image files.

        Samples have the coordinates of the training images where these fit; with `coordinates` it is an error if they do not, and
        samples of mirrored or turned images have them too. `fill_nodata` is an image whose pixels other than 0 become "not
        measured". Raises UserError unless the folder is new or empty, and for what the data's kind cannot hold.
        """
        folder, (images, metadata) = new_folder(Path(folder)), self.to_write()
        if (self.run.recipe.flip or self.run.recipe.rot90) and not coordinates:
            metadata = replace(metadata, axes=())
        kind = check_format(self.run, format)
        if fill_nodata is not None:
            images = images.copy()
            images[:, :, unmeasured(self.run, fill_nodata)] = nodata_in(self.run.metadata, images.dtype)
        asked = dict(self.settings["conditions"])
        if self.settings["labels"] is not None:
            asked = {"class": [self.run.classes[label] for label in self.settings["labels"]], **asked}
        written = write_samples(folder, images, metadata, self.first_number, format, coordinates=coordinates, conditions=asked)
        save_png(folder / GRID, self._grid(images, metadata, None, display))
        files = {
            "format": kind,
            "units": metadata.units or list(metadata.channel_units) or "",
            "channels": list(metadata.channels),
            "files": [written[0].name, written[-1].name],
        }
        write_json(folder / RECORD, {**self.settings, **files})
        return written


def columns_of(count: int, classes: int) -> int:
    """The columns of a grid of so many images that leave the fewest places empty; of classes that take turns, where each stands
    in columns of its own if so many columns can."""
    turns = [columns for columns in COLUMNS if classes and (columns % classes == 0 or classes % columns == 0)]
    return min(turns or COLUMNS, key=lambda columns: (-count % columns, -columns))


def sample(
    run: OpenRun,
    seeds: Sequence[int],
    condition: Conditioning,
    sampling: Sampling | None = None,
    batch_size: int = 64,
    into: Path | None = None,
) -> Samples:
    """One image per seed and condition; what `sampling` leaves open is as the run's recipe says.

    With `into`, a file, images go there as they are made instead of being held in memory, and are mapped from it. The processes
    of a run then share the batches, and all must call it; an image is the same on any number of them.
    """
    complete, origin = completed(run, sampling or Sampling())
    warm, ratio, checked = origin.warm, None, 0
    if warm is not None and warm.expected is not None:  # UserError if start and denoiser disagree
        checked = check_count(math.prod(run.shape))
        ratio = warm.check(run.denoiser, checked, run.device)
    if run.device.type == "cuda":
        torch.cuda.set_device(run.device)
    rows = own_rows(len(seeds), batch_size) if into is not None else torch.arange(len(seeds))
    steps = math.ceil(len(rows) / max(1, batch_size)) * (len(origin.schedule(complete)) - 1)
    with (
        counted(run.denoiser, *([origin.reference] if origin.reference else [])) as calls,
        progress(f"sampling {len(seeds)}", steps) as advance,
    ):
        began = time.perf_counter()
        own = [seeds[row] for row in rows.tolist()]
        made = on_device(run.denoiser, origin, complete, own, condition[rows], batch_size, advance)
        native = (left_out(run.normaliser.decode(part).cpu(), run.metadata) for part in made)
        images = torch.cat(list(native)) if into is None else gathered(native, rows, len(seeds), run, into)
        seconds = time.perf_counter() - began
    nfe = sum(calls) / len(seeds) if into is None else float(processes.add(torch.tensor(float(sum(calls))))) / len(seeds)
    settings = {
        **identity(run, seeds, condition),
        **choices(complete, origin, origin.schedule(complete)),
        "start_residual_ratio": ratio,
        "start_check_nfe": checked,
        "nfe": nfe,
        "batch_size": batch_size,
        "device": str(run.device),
    }
    return Samples(images, run, seconds, nfe, settings)


def own_rows(count: int, batch_size: int) -> Tensor:
    """Which of `count` images this process makes: every batch of so many in turn, as they are on one process."""
    batches = torch.arange(count).split(max(1, batch_size))[processes.rank() :: processes.count()]
    return torch.cat(batches) if batches else torch.arange(0)


def gathered(
    native: Iterable[Tensor], rows: Tensor, count: int, run: OpenRun, into: Path
) -> Shaped[Tensor, "count channel row column"]:
    """All `count` images, mapped from the file `into`, to which each process writes the rows that it makes."""
    dtype, shape = np.dtype(run.normaliser.dtype), (count, *run.shape)
    size = math.prod(run.shape) * dtype.itemsize
    if processes.rank() == 0:
        with into.open("wb") as file:
            file.truncate(count * size)
    processes.barrier()
    with into.open("r+b") as file:
        first = 0
        for part in native:
            file.seek(int(rows[first]) * size)  # the rows of a batch follow one another
            file.write(part.contiguous().numpy().data)
            first += len(part)
    processes.barrier()
    return torch.from_numpy(np.memmap(into, dtype, "c", shape=shape))  # copied where it is written to: the file stays


@contextmanager
def scratch(beside: Path) -> Iterator[Path]:
    """A hidden file beside a path in which samples lie while they are needed."""
    path = beside.with_name(f".{beside.name}.samples{PARTIAL}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield path
    finally:
        if os.environ.get("RANK", "0") == "0":  # the processes may have parted by now
            with suppress(PermissionError):  # Windows keeps what is mapped
                path.unlink(missing_ok=True)


def completed(run: OpenRun, chosen: Sampling) -> tuple[Sampling, Origin]:
    """The choices completed by how the run was tuned and by its recipe, and what they need; UserError if they do not fit the run.

    Below a start as fine a grid as the recipe's is walked, unless the number of steps is chosen.
    """
    chosen = with_tuning(run, chosen)
    sampling = chosen.over(run.recipe.usual_sampling)
    reference = None if sampling.guide_with is None else _reference(run, sampling.guide_with)
    if reference is None and not run.denoiser.backbone.conditional:
        if chosen.guidance not in (None, 1.0):
            sentence = f"{run.path} is unconditional, so `guidance` needs a weaker run to guide with: give `guide_with`."
            raise UserError(sentence, setting="guidance")
        sampling = replace(sampling, guidance=1.0)
    warm = None if sampling.start is None else open_start(sampling.start, run)
    if warm is not None and all(vars(chosen)[name] is None for name in LENGTHS):
        fewer = steps_below(run.recipe.usual_sampling.schedule(run.noise), warm.sigma)
        sampling = replace(sampling, steps=fewer, nfe=None, sigmas=None)
    origin = Origin(run.noise, warm, reference, sampling_precision(run.recipe, run.device))
    sigmas = origin.schedule(sampling)  # those that do not fit are better refused now
    other = len(sigmas) > 2 or warm is not None or sampling.sigma_max is not None or sampling.guidance != 1
    if run.recipe.is_distilled and other:
        sentence = f"{run.path} is distilled, so it goes from pure noise to images in one step, guided as it has learned it"
        raise UserError(f"{sentence}: omit how to sample.", setting="steps")
    return sampling, origin


def identity(run: OpenRun, seeds: Sequence[int], condition: Conditioning) -> dict[str, Any]:
    """Which images these are, of which run, and what was asked of each."""
    vector = condition.vector if isinstance(condition, Condition) else None
    return {
        "run": str(run.path),
        "recipe": run.recipe.name,
        "checkpoint": run.checkpoint.name,
        "step": run.step,
        "seeds": [seeds[0], seeds[-1]],
        "labels": classes_of(condition).tolist() if run.classes else None,
        "classes": list(run.classes),
        "conditions": {} if vector is None else run.conditions.entries(vector.numpy()),
        "shape": list(run.shape),
        "dtype": run.normaliser.dtype,
        "pixelpath": version("pixelpath"),
    }


def choices(sampling: Sampling, origin: Origin, sigmas: Tensor) -> dict[str, Any]:
    """How they were sampled, over which sigmas."""
    assert sampling.sampler is not None
    assert sampling.guidance_interval is not None
    return {
        "sampler": sampling.sampler.value,
        "steps": len(sigmas) - 1,
        "sigmas": sigmas.tolist(),
        "guidance": sampling.guidance,
        "guidance_interval": [str(limit) if math.isinf(limit) else limit for limit in sampling.guidance_interval],
        "guide_with": None if sampling.guide_with is None else str(sampling.guide_with),
        "start": None if sampling.start is None else str(sampling.start),
        "start_sigma": None if origin.warm is None else origin.warm.sigma,
    }


def check_format(run: OpenRun, format: SampleFormat | None) -> str:
    """The kind of files that samples of the run are written as; UserError if it cannot hold them."""
    return written_as(run.metadata, np.dtype(run.normaliser.dtype), run.shape[0], format)


def unmeasured(run: OpenRun, path: Path) -> Bool[np.ndarray, "row column"]:
    """Where samples are to be "not measured"; UserError if the run's data know no such value, or for a mask of another size."""
    if nodata_in(run.metadata, np.dtype(run.normaliser.dtype)) is None:
        raise UserError(f"The images of {run.path} have no value that means not measured: omit `fill_nodata`.", "fill_nodata")
    mask = open_source(path)
    if mask.shape[1:] != run.shape[1:]:
        sizes = ["x".join(map(str, shape[1:])) for shape in (mask.shape, run.shape)]
        raise UserError(f"{path} is {sizes[0]} pixels but samples are {sizes[1]}: give a mask of that size.", "fill_nodata")
    return np.asarray(mask[0].any(0))


def _reference(run: OpenRun, path: Path) -> Denoiser:
    """The denoiser of another run as the reference of guidance; UserError unless it knows the same kind of images."""
    other = open_run(path, device=run.device)
    if (other.shape, other.normaliser) != (run.shape, run.normaliser):
        raise UserError(f"{path} was trained on other images than {run.path}: give a run on the same data.", "guide_with")
    if other.classes and other.classes != run.classes:
        sentence = f"{path} knows other classes than {run.path}: give a run on the same classes, or one without classes."
        raise UserError(sentence, setting="guide_with")
    return other.denoiser


@contextmanager
def counted(*denoisers: nn.Module) -> Iterator[list[int]]:
    """While open, the list grows by the number of images of every evaluation of these networks."""
    calls: list[int] = []
    hooks = [denoiser.register_forward_hook(lambda module, given, out: calls.append(len(out))) for denoiser in denoisers]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def new_folder(out: Path) -> Path:
    """The folder, if it is new or empty; UserError otherwise: nothing is overwritten."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already and not an empty folder: choose another `out`, nothing is overwritten.", "out")
    return out


def numbered(base: Path) -> Path:
    """The path, or where it is taken with the first number from 2 on that is free."""
    others = (base.with_name(f"{base.name}-{number}") for number in itertools.count(2))
    return base if not base.exists() else next(place for place in others if not place.exists())


def folder_for(what: str, run: Path, opened: OpenRun) -> Path:
    """Where samples or edits of a run opened as `run` are: RUN/WHAT, of a bundled model NAME-WHAT in the working directory."""
    return beside(opened.path if is_bundled(opened.path) else run, what)


def free_folder(among: Path, out: Path | None) -> Path:
    """`out`, if it is new or empty; without it the next number in the folder `among`."""
    if out is not None:
        return new_folder(out)
    check_writable(among.parent)
    taken = [int(path.name) for path in among.glob("*") if path.name.isdecimal()]
    return among / str(max(taken, default=0) + 1)
