"""A trained run as Python users hold it: it is sampled, measured, tuned and exported by methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pixelpath.errors import UserError
from pixelpath.interop.generator import TORCH
from pixelpath.log import telling
from pixelpath.reports.pictures import training_curves
from pixelpath.runs import sample_conditions as asking
from pixelpath.runs.cost_card import CostCard, cost_card
from pixelpath.runs.data import Data
from pixelpath.runs.editable import EditableRun
from pixelpath.runs.measuring.evaluate import Judges, check_runs, evaluate
from pixelpath.runs.measuring.report import write_report
from pixelpath.runs.prepare import PreparedData, read_data_of
from pixelpath.runs.sample import Samples, free_folder, sample
from pixelpath.runs.sharing.exports import ExportFormat, write_export
from pixelpath.runs.sharing.hub import push
from pixelpath.runs.starting.fit_start import Fit, fit_run_start
from pixelpath.runs.tune import Tune, check_can_tune, tune_run
from pixelpath.sampling.sampler import Sampler, Sampling
from pixelpath.trainer.journal import lines


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
        seeds = asking.seeds_from(seed, count)
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
        with telling(progress):
            condition = asking.condition(self, seeds, asking.named(classes), conditions, cond_image)
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
        with telling(progress):
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
        with telling(progress):
            return fit_run_start(self, self._data(data), free_folder(self.path / "starts", out), fit)

    def tune(
        self, data: Data | Path | str | None = None, choices: Tune | None = None, *, progress: bool = False
    ) -> dict[str, Any]:
        """Find how to sample the run in the fewest network evaluations; `sample` then follows it, and `nfe` names a row of it.

        Adds the result to RUN/sampling.json, writes RUN/tuning.html, and returns the result.
        """
        with telling(progress):
            check_can_tune(self)
            return tune_run(self, self._data(data), choices or Tune())

    def export(
        self,
        path: Path | str | None = None,
        *,
        format: ExportFormat | None = None,
        guidance: float | None = None,
        runtime: Path | str | None = None,
        start: Path | str | None = None,
        progress: bool = False,
    ) -> Path:
        """Write the run so that it makes images without pixelpath; below the run's folder if `path` is not given.

        `format` is "onnx" or "torch" (a file of a one-step run, else a folder), "diffusers" or "web"; if not given, "torch" for a
        path that ends in .pt2, else "onnx". `runtime` is the folder of onnxruntime-web, for a page; `start` a fitted start, for
        the folder of a diffusion run.
        """
        out = None if path is None else Path(path)
        chosen = format or ("torch" if out is not None and out.suffix == TORCH.suffix else "onnx")
        with telling(progress):
            dist, begin = (None if place is None else Path(place) for place in (runtime, start))
            return write_export(self, chosen, guidance, out, dist, begin)

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
        with telling(progress):
            return push(self, repository, license, audit=None if audit is None else Path(audit), private=private)

    def _data(self, data: Data | Path | str | None) -> PreparedData:
        if isinstance(data, Data):
            return read_data_of(self, None, (data.training, data.held_out))
        return read_data_of(self, None if data is None else Path(data))


def _sampler(name: str | Sampler) -> Sampler:
    names = [each.value for each in Sampler]
    if not isinstance(name, Sampler) and name not in names:
        raise UserError(f"There is no `sampler` {name}: choose from {', '.join(names)}.", setting="sampler")
    return Sampler(name)
