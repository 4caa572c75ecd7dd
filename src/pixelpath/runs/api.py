"""What Python users call: `train` and `training`, `load`, and the `Run` with all that the command line does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from pixelpath import log
from pixelpath.data.memory import Layout
from pixelpath.data.settings import DataSettings
from pixelpath.errors import UserError
from pixelpath.interop.generator import TORCH
from pixelpath.recipes.recipe import Recipe
from pixelpath.reports.pictures import training_curves
from pixelpath.runs import fit as fitting
from pixelpath.runs import sample_conditions as asking
from pixelpath.runs.beginning import begin
from pixelpath.runs.chosen import Beginning, Saving
from pixelpath.runs.compare import Comparison
from pixelpath.runs.compare import compare as compare_sets
from pixelpath.runs.compare_features import Comparing, Weights
from pixelpath.runs.compare_sets import Given, Reading
from pixelpath.runs.cost_card import CostCard, cost_card
from pixelpath.runs.data import Data
from pixelpath.runs.devices import choose_device
from pixelpath.runs.editable import EditableRun
from pixelpath.runs.evaluate import Judges, check_runs, evaluate
from pixelpath.runs.exports import ExportFormat, write_export
from pixelpath.runs.fit_plan import Budget
from pixelpath.runs.fit_start import Fit, fit_run_start
from pixelpath.runs.hub import PREFIX, fetched, push
from pixelpath.runs.opened import open_run
from pixelpath.runs.prepare import PreparedData, read_data_of
from pixelpath.runs.report import write_report
from pixelpath.runs.sample import Samples, free_folder, sample
from pixelpath.runs.session import Session
from pixelpath.runs.tune import Tune, check_can_tune, tune_run
from pixelpath.sampling.sampler import Sampler, Sampling
from pixelpath.trainer.journal import lines
from pixelpath.trainer.loop import Step
from pixelpath.trainer.trackers import TrackerName


class Run(EditableRun):
    """A trained run, at its latest checkpoint; `load` and `train` return it.

    `denoiser` (or `representation`, for stage one), `normaliser`, `noise` and `recipe` are there for those who want the parts.
    """

    def __repr__(self) -> str:
        images = f"{'x'.join(map(str, self.shape))}, {len(self.classes)} classes"
        return f"<Run {self.path}: {self.recipe.name}, step {self.step} of {self.recipe.steps}, {images}>"

    def sample(
        self,
        count: int = 36,
        *,
        classes: Sequence[str | int] | str = (),
        conditions: Path | None = None,
        cond_image: Path | None = None,
        seed: int = 0,
        steps: int | None = None,
        nfe: int | None = None,
        sampler: str | Sampler | None = None,
        sigmas: Sequence[float] | None = None,
        sigma_max: float | None = None,
        rho: float | None = None,
        guidance: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        guide_with: Path | Run | None = None,
        start: Path | str | None = None,
        batch_size: int = 64,
        progress: bool = False,
    ) -> Samples:
        """Make images: number `count`, of the seeds `seed`, `seed` + 1, ..., the classes in turn.

        An image is a function of its seed, its class and the settings. What is None is as the recipe says; see
        `pixelpath.Sampling` for the choices and `docs/python.md` for `conditions` and `cond_image`. Raises UserError for what the
        run does not know.

        Examples:
            >>> samples = run.sample(8, classes=["3", "5"], nfe=9, guidance=1.5)
            >>> samples.images.shape, samples.images.dtype
            ((8, 1, 8, 8), dtype('uint8'))
        """
        if count < 1 or seed < 0:
            raise UserError(f"`count` must be at least 1 and `seed` at least 0, got {count} and {seed}.", setting="count")
        chosen = Sampling(
            steps,
            guidance,
            guidance_interval,
            nfe,
            None if sampler is None else _sampler(sampler),
            None if sigmas is None else tuple(sigmas),
            guide_with.path if isinstance(guide_with, Run) else guide_with,
            None if start is None else Path(start),
            sigma_max,
            rho,
        )
        seeds = range(seed, seed + count)
        with _progress(progress):
            names = (classes,) if isinstance(classes, str) else tuple(map(str, classes))
            condition = asking.condition(self, seeds, names, conditions, cond_image)
            return sample(self, seeds, condition, chosen, batch_size)

    def evaluate(
        self,
        data: Data | Path | str | None = None,
        *,
        sampling: Sampling | None = None,
        judges: Judges | None = None,
        count: int | None = None,
        seed: int = 0,
        progress: bool = False,
    ) -> dict[str, Any]:
        """Measure how close samples are to real images; every number comes with its protocol, and RUN/evaluation.json keeps it.

        `data` of None are the run's own; `count` of None is as many samples as training images, at most 50,000.
        """
        with _progress(progress):
            check_runs([self], in_full=True)
            return evaluate(self, self._data(data), sampling, judges, count, seed)

    def cost(self) -> CostCard:
        """What training (by stage) and an image cost; `.sentences(2.5)` says it at 2.5 for an hour of the device.

        Example:
            >>> run.cost().stages[0].images
            2560
        """
        return cost_card(self)

    def report(self) -> Path:
        """Write RUN/report.html, one self-contained page of all that the run's folder holds, and return its path."""
        return write_report(self.path)

    def curves(self) -> Figure:
        """The curves of training (losses, learning rate, held-out loss) as a matplotlib figure."""
        return training_curves(lines(self.path))

    def fit_start(
        self, data: Data | Path | str | None = None, fit: Fit | None = None, *, out: Path | None = None, progress: bool = False
    ) -> Path:
        """Fit where sampling may begin instead of at pure noise; the folder to give to `sample(start=...)`.

        Writes RUN/starts/1, 2, ... with a report, unless `out` names a new folder.
        """
        with _progress(progress):
            return fit_run_start(self, self._data(data), free_folder(self.path / "starts", out), fit)

    def tune(
        self, data: Data | Path | str | None = None, choices: Tune | None = None, *, progress: bool = False
    ) -> dict[str, Any]:
        """Find how to sample the run in the fewest network evaluations; `sample` then follows it, and `nfe` names a row of it.

        Adds the result to RUN/sampling.json, writes RUN/tuning.html, and returns the result.
        """
        with _progress(progress):
            check_can_tune(self)
            return tune_run(self, self._data(data), choices or Tune())

    def export(
        self,
        path: Path | str | None = None,
        *,
        format: ExportFormat | None = None,
        guidance: float | None = None,
        runtime: Path | str | None = None,
        progress: bool = False,
    ) -> Path:
        """Write the run so that it makes images without pixelpath; below the run's folder if `path` is not given.

        `format` is "onnx" or "torch" (a file of a one-step run, else a folder), "diffusers" or "web"; if not given, "torch" for a
        path that ends in .pt2, else "onnx". `runtime` is the folder of onnxruntime-web, for a page.
        """
        out = None if path is None else Path(path)
        chosen = format or ("torch" if out is not None and out.suffix == TORCH.suffix else "onnx")
        with _progress(progress):
            return write_export(self, chosen, guidance, out, None if runtime is None else Path(runtime))

    def save_diffusers(self, folder: Path | str, *, guidance: float | None = None, progress: bool = False) -> Path:
        """Write the run as a pipeline that diffusers opens where pixelpath is not installed."""
        return self.export(folder, format="diffusers", guidance=guidance, progress=progress)

    def push_to_hub(
        self, repository: str, license: str, *, audit: Path | str | None = None, private: bool = False, progress: bool = False
    ) -> str:
        """Publish the run on the Hugging Face Hub as `owner/name`, with a model card; returns its address.

        `license` is an identifier of the Hub, such as "cc0-1.0"; `audit` the folder that `pixelpath audit` wrote. Needs
        pixelpath[hub]; `load("hf:owner/name")` opens it again.
        """
        with _progress(progress):
            return push(self, repository, license, audit=None if audit is None else Path(audit), private=private)

    def _data(self, data: Data | Path | str | None) -> PreparedData:
        if isinstance(data, Data):
            return read_data_of(self, None, (data.training, data.held_out))
        return read_data_of(self, None if data is None else Path(data))


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
    one_step: bool = False,
    settings: DataSettings | None = None,
    device: str | None = None,
    progress: bool = False,
) -> Run:
    """From a folder or file and a budget of time to a run: audit, plan, train, tune, sample, evaluate, report.

    The same call goes on where it was interrupted; with more minutes it goes on from where it was. OUT (runs/NAME if not given)
    gets fit.json with the plan, its reasons and the seconds used, samples, and the folder of the run.

    Args:
        path: Images, as `open_data` takes them.
        minutes: The budget, all calls together.
        out: Folder of everything that it makes.
        one_step: Train a one-step model too, with half of the training time.
        settings: How the data are read; what it leaves open is chosen by the data.
        device: cpu, cuda, cuda:1, mps. Default: the best one here.
        progress: Print progress and remarks on standard error.

    Raises UserError for data that cannot be trained on, KeyboardInterrupt (once saved) on Ctrl-C.
    """
    chosen = replace(settings or DataSettings(), path=Path(path))
    folder = fitting.folder_of(path) if out is None else Path(out)
    where = choose_device(device)
    with _progress(progress), torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
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
    with _progress(progress):
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
    with _progress(progress):
        saving = Saving(every, measure_every, keep, track, save_minutes)
        session = _session(data, recipe, Path(out), encoder, init_from, device, saving, accept_changed_data)
    steps = session.proceed()
    try:
        while True:
            with _progress(progress), _callers_randomness(session):
                step = next(steps, None)
            if step is None:
                return
            yield step
    finally:
        steps.close()


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
    with _progress(progress):
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


def _sampler(name: str | Sampler) -> Sampler:
    names = [each.value for each in Sampler]
    if not isinstance(name, Sampler) and name not in names:
        raise UserError(f"There is no `sampler` {name}: choose from {', '.join(names)}.", setting="sampler")
    return Sampler(name)


def _progress(on: bool) -> AbstractContextManager[None]:
    return log.shown() if on else nullcontext()
