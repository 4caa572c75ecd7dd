"""What Python users call to get a `Run`, `train`, `training`, `fit` and `load`, and to `compare` images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import torch

from pixelpath.data.memory import Layout
from pixelpath.data.settings import DataSettings
from pixelpath.log import telling
from pixelpath.recipes.distilled import Distilling, distilled
from pixelpath.recipes.recipe import Recipe
from pixelpath.runs.beginning import begin
from pixelpath.runs.chosen import Beginning, Saving
from pixelpath.runs.data import Data
from pixelpath.runs.devices import choose_device
from pixelpath.runs.digits import located
from pixelpath.runs.fitting import fit as fitting
from pixelpath.runs.fitting.planning import Budget
from pixelpath.runs.measuring.compare import Comparison
from pixelpath.runs.measuring.compare import compare as compare_sets
from pixelpath.runs.measuring.compare_features import Comparing, Weights
from pixelpath.runs.measuring.compare_sets import Given, Reading
from pixelpath.runs.opened import open_run
from pixelpath.runs.prepare import with_data
from pixelpath.runs.run import Run
from pixelpath.runs.session import Session
from pixelpath.runs.sharing.hub import PREFIX, fetched
from pixelpath.sampling.sampler import Sampling
from pixelpath.trainer.loop import Step
from pixelpath.trainer.trackers import TrackerName


def load(path: Path | str, checkpoint: Path | None = None, device: str | None = None) -> Run:
    """The run in a folder or on the Hub (`hf:owner/name`), or a model that comes with pixelpath (`sprites`).

    It is opened at its latest checkpoint, or at the folder `checkpoint`.

    `device` of None is CUDA if there is one, else MPS, else the CPU. Raises MissingError if there is no run, UserError if it is
    damaged.

    Examples:
        >>> load(run.path)
        <Run ...: digits-diffusion, step 20 of 20, 1x8x8, 10 classes>
    """
    place = fetched(path) if isinstance(path, str) and path.startswith(PREFIX) else path
    return Run(**vars(open_run(place, checkpoint, choose_device(device))))


def fit(
    path: Path | str,
    minutes: float = 60.0,
    *,
    out: Path | str | None = None,
    one_step: bool | None = None,
    settings: DataSettings | None = None,
    device: str | None = None,
    progress: bool = False,
) -> Run:
    """From a folder or file and a budget of time to a run: audit, plan, train, tune, sample, evaluate, report.

    The same call goes on where it was interrupted; with more minutes it goes on from where it was. OUT (runs/NAME if not given)
    gets fit.json with the plan, its reasons and the seconds used, samples, and the folder of the run.

    Args:
        path: Images, as `open_data` takes them, or "digits", which come with scikit-learn.
        minutes: The budget, all calls together.
        out: Folder of everything that it makes.
        one_step: Train a one-step model too, with half of the training time. None: where the time suffices for both.
        settings: How the data are read; what it leaves open is chosen by the data.
        device: cpu, cuda, cuda:1, mps. Default: the best one here.
        progress: Print progress and remarks on standard error.

    Raises UserError for data that cannot be trained on, KeyboardInterrupt (once saved) on Ctrl-C.
    """
    folder = fitting.folder_of(path) if out is None else Path(out)
    where = choose_device(device)
    with telling(progress), torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
        chosen = replace(settings or DataSettings(), path=located(Path(path), folder))
        return load(fitting.fit(chosen, folder, Budget(minutes, one_step), where), device=device)


def train(
    data: Data,
    recipe: Recipe,
    out: Path | str,
    *,
    encoder: Path | str | Run | None = None,
    init_from: Path | str | Run | None = None,
    device: str | None = None,
    every: int | None = None,
    measure_every: int | None = None,
    keep: int = 3,
    save_minutes: float | None = 20.0,
    track: TrackerName | None = None,
    accept_changed_data: bool = False,
    progress: bool = False,
) -> Run:
    """Train a recipe to its end and return the run; the same call takes up a run that was interrupted.

    Args:
        data: Images from `open_data` or `from_arrays`. Images from memory are kept as OUT/data.npz, so that the command line can
            use the run too.
        recipe: One of `pixelpath.recipes`, perhaps with changes: `recipes.small_32_diffusion(steps=5000)`.
        out: Folder of the run; made if missing, never overwritten.
        encoder: Run of stage one whose encoder stage two begins with.
        init_from: Run of the same stage whose weights to begin with.
        device: cpu, cuda, cuda:1, mps. Default: the best one here.
        every: Steps between checkpoints. Default: a tenth of the run.
        measure_every: Steps between previews and held-out measurements, a multiple of `every`. Default: at every checkpoint, or
            less often where they would take more than a tenth of the training time.
        keep: How many of the latest checkpoints stay, beside the best.
        save_minutes: Save a checkpoint after so many minutes too; None: only every `every` steps.
        track: tensorboard, wandb or trackio: show numbers and previews there too.
        accept_changed_data: Go on although the images are not those that the run began with.
        progress: Print progress and remarks on standard error.

    Raises UserError for settings or data that cannot be, Diverged if training fails, KeyboardInterrupt (once saved) on Ctrl-C.

    Examples:
        >>> run = train(data, recipes.digits_diffusion(steps=2, size=recipes.sizes.NANO), out=folder / "run")
        >>> run.step
        2
    """
    with telling(progress):
        saving = Saving(every, measure_every, keep, track, save_minutes)
        session = _session(data, recipe, Path(out), encoder, init_from, device, saving, accept_changed_data)
        with _callers_randomness(session):
            session.run()
    if not session.finished:
        raise KeyboardInterrupt
    return load(out, device=device)


def training(
    data: Data,
    recipe: Recipe,
    out: Path | str,
    *,
    encoder: Path | str | Run | None = None,
    init_from: Path | str | Run | None = None,
    device: str | None = None,
    every: int | None = None,
    measure_every: int | None = None,
    keep: int = 3,
    save_minutes: float | None = 20.0,
    track: TrackerName | None = None,
    accept_changed_data: bool = False,
    progress: bool = False,
) -> Iterator[Step]:
    """Train as `train` does, as a loop that you control: yields every step once it was taken; leaving the loop saves the run.

    Examples:
        >>> for step in training(data, recipes.digits_diffusion(steps=3), out=folder / "loop"):
        ...     if step.number == 2:
        ...         break
        >>> load(folder / "loop").step
        2
    """
    with telling(progress):
        saving = Saving(every, measure_every, keep, track, save_minutes)
        session = _session(data, recipe, Path(out), encoder, init_from, device, saving, accept_changed_data)
    steps = session.proceed()
    try:
        while True:
            with telling(progress), _callers_randomness(session):
                step = next(steps, None)
            if step is None:
                return
            yield step
    finally:
        steps.close()


def distill(
    run: Run | Path | str,
    out: Path | str,
    how: Distilling | None = None,
    *,
    data: Path | str | None = None,
    device: str | None = None,
    saving: Saving | None = None,
    progress: bool = False,
) -> Run:
    """Make a one-step model of a diffusion run, which learns to go from noise to that run's own samples at once.

    Args:
        run: A diffusion run.
        out: Folder of the one-step run; made if missing, never overwritten. The same call takes up a run that was interrupted.
        how: What to learn from, and how long.
        data: Where the data of the run are now, if elsewhere.
        device: cpu, cuda, cuda:1, mps. Default: the best one here.
        saving: What the run writes while it trains.
        progress: Print progress and remarks on standard error.

    Raises UserError for a run that is not of diffusion, KeyboardInterrupt (once saved) on Ctrl-C.

    Examples:
        >>> one_step = distill(run, folder / "one-step", Distilling(images=64, nfe=3, steps=2))
        >>> one_step.sample(4).nfe
        1.0
    """
    where = choose_device(device)
    with telling(progress):
        teacher = run if isinstance(run, Run) else load(run, device=device)
        recipe = distilled(teacher.recipe, teacher.denoiser.backbone.conditional, how or Distilling())
        recipe = with_data(recipe, None if data is None else Path(data))
        session = begin(recipe, Path(out), where, Beginning(init_from=teacher.path), saving or Saving())
        with _callers_randomness(session):
            session.run()
    if not session.finished:
        raise KeyboardInterrupt
    return load(out, device=device)


def compare(
    images: Given,
    reference: Given,
    *,
    held_out: Given | None = None,
    features: Sequence[str] = (),
    measures: Sequence[str] = (),
    encoder: Path | str | Run | None = None,
    inception: Path | str | None = None,
    dinov2: Path | str | None = None,
    value_range: tuple[float, float] | None = None,
    settings: DataSettings | None = None,
    layout: Layout | None = None,
    count: int | None = None,
    seed: int = 0,
    sampling: Sampling | None = None,
    device: str | None = None,
    progress: bool = False,
) -> Comparison:
    """Compare images with a reference: paths, arrays, `Data`, runs, samples, or .npz files of statistics, in any mix.

    Args:
        images: The images to judge.
        reference: What they are compared with.
        held_out: Images like the reference that the generator did not see, to tell copies from likeness.
        features: Any of pixels, encoder, inception, dinov2; those that can be had if not given. Nothing is downloaded.
        measures: Any of frechet, kernel, precision, score, copies, values; all that the two sets allow if not given.
        encoder: Run of stage one in whose features to compare.
        inception: File of the Inception weights; that in torch's cache if not given.
        dinov2: File of the DINOv2 weights; likewise.
        value_range: The values that mean black and white where images are not 8-bit, for features of Inception and DINOv2.
        settings: How files are read, both sets alike (`resize`, `channels`, `nodata`, ...).
        layout: "channels_first" or "channels_last", where the shape of an array leaves it open.
        count: How many samples of a run; as many as the other set has images if not given, of two runs 10,000 each.
        seed: Seed of the first sample.
        sampling: How to sample a run.
        device: cpu, cuda, cuda:1, mps. Default: the best one here.
        progress: Print progress and remarks on standard error.

    Raises UserError for sets that cannot be compared, and for features or measures that were asked for and cannot be had.

    Examples:
        >>> found = compare(run.sample(40), data, features=["pixels"], measures=["frechet", "precision"])
        >>> [(row["of"], row["images"], row["reference"]) for row in found.distances]
        [('all images', 40, 1425), ('few images', 40, 713), ('floor: reference itself', 40, 713)]
    """
    weights = Weights(_path(encoder), _path(inception), _path(dinov2), value_range)
    options = Comparing(tuple(features), tuple(measures), weights)
    with telling(progress):
        how = Reading(settings or DataSettings(), sampling, count, seed, device=choose_device(device), layout=layout)
        return compare_sets(images, reference, held_out, options, how)


def _session(
    data: Data,
    recipe: Recipe,
    out: Path,
    encoder: Path | str | Run | None,
    init_from: Path | str | Run | None,
    device: str | None,
    saving: Saving,
    accept_changed_data: bool,
) -> Session:
    """A session of the recipe on these data, whatever the recipe says of data."""
    beginning = Beginning(_path(encoder), _path(init_from))
    sides = (data.training, data.held_out)
    return begin(
        replace(recipe, data=data.settings),
        out,
        choose_device(device),
        beginning,
        saving,
        sides,
        accept_changed_data=accept_changed_data,
    )


def _callers_randomness(session: Session) -> AbstractContextManager[None]:
    """Afterwards the generators that training draws from, the CPU's and that of its own device, are as they were."""
    return torch.random.fork_rng(devices=[session.device] if session.device.type == "cuda" else [])


def _path(run: Path | str | Run | None) -> Path | None:
    return run.path if isinstance(run, Run) else None if run is None else Path(run)
