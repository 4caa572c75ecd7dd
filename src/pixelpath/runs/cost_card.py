"""What a run has cost, by stage, and what an image costs: multiply-adds, seconds of the device, energy, money.

A *pass* is one evaluation of the network for one image, whose multiply-adds torch counts (matrix products and convolutions). A
step of training is counted in passes, a backward pass as two. Seconds are those that the steps themselves took.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any

from pixelpath.atomic import read_json
from pixelpath.errors import UserError
from pixelpath.objectives.consistency import Consistency
from pixelpath.recipes.recipe import Recipe, from_json
from pixelpath.runs.folder import ENCODER
from pixelpath.runs.monitor import BACKWARD
from pixelpath.runs.opened import OpenRun, outlined, read_encoding
from pixelpath.runs.teacher import RECORD
from pixelpath.runs.tuned import with_tuning
from pixelpath.runs.work import multiply_adds_of
from pixelpath.sampling.sampler import Sampling
from pixelpath.trainer import checkpoint
from pixelpath.trainer.journal import lines

CONTRAST = 12  # passes of stage one an image: two views seen by student (with gradient) and teacher, and a pair along the noise
HOUR = 3600.0


@dataclass(frozen=True)
class StageCost:
    """What the training of one run has cost. `joules` is None where the machine did not tell, `devices` is their number."""

    name: str
    run: str
    steps: int
    images: int
    multiply_adds: float
    seconds: float
    devices: int
    joules: float | None


@dataclass(frozen=True)
class ImageCost:
    """What an image costs at the run's own sampling; `seconds` are the device's, `measured` by an evaluation or not."""

    nfe: int
    multiply_adds: float
    seconds: float
    measured: bool


@dataclass(frozen=True)
class CostCard:
    """What a run has cost, the runs whose weights it began with included, and what an image costs (None for an encoder)."""

    stages: tuple[StageCost, ...]
    image: ImageCost | None
    missing: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Seconds of all devices together, for all training."""
        return sum(stage.seconds * stage.devices for stage in self.stages)

    def price(self, per_hour: float) -> float:
        """What all training would cost on such devices that are rented for so much an hour."""
        return self.seconds / HOUR * per_hour

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, for a JSON file."""
        return asdict(self)

    def rows(self) -> list[dict[str, Any]]:
        """A line a stage and one for an image, ready for a table."""
        found = [
            {
                "of": stage.name,
                "images": stage.images,
                "multiply_adds": stage.multiply_adds,
                "device_seconds": stage.seconds * stage.devices,
                "energy_kJ": "not told by this machine" if stage.joules is None else stage.joules / 1e3,
            }
            for stage in self.stages
        ]
        image = self.image
        if image is None:
            return found
        one = {"of": f"one image, {image.nfe} evaluations", "images": 1, "multiply_adds": image.multiply_adds}
        return [*found, {**one, "device_seconds": image.seconds, "energy_kJ": self._energy_of_image()}]

    def _energy_of_image(self) -> float | str:
        """By the power of the last stage, whose device works as hard."""
        last = self.stages[-1]
        known = self.image is not None and last.joules is not None and last.seconds > 0
        return self.image.seconds * last.joules / last.seconds / 1e3 if known else "not told by this machine"  # pyright: ignore

    def sentences(self, per_hour: float | None = None) -> list[str]:
        """The card in words, with prices where an hour of the device has one."""
        check_price(per_hour)
        said = []
        for stage in self.stages:
            energy = "energy not told by this machine" if stage.joules is None else f"{stage.joules / 3.6e6:.3g} kWh"
            said.append(
                f"{stage.name}: {stage.multiply_adds:.3g} multiply-adds for {stage.images:,} images, "
                f"{stage.seconds * stage.devices:,.0f} device seconds, {energy}."
            )
        if self.image is not None:
            by = "measured" if self.image.measured else "estimated by the seconds of training"
            said.append(
                f"One image: {self.image.nfe} evaluations, {self.image.multiply_adds:.3g} multiply-adds, "
                f"{self.image.seconds:.3g} device seconds ({by})."
            )
        if per_hour is not None:
            images = "" if self.image is None else f", 1,000 images {1000 * self.image.seconds / HOUR * per_hour:.2g}"
            said.append(f"At {per_hour:g} for an hour of the device, training costs {self.price(per_hour):.2g}{images}.")
        return said + [f"Not counted: {each}, which is gone." for each in self.missing]


def check_price(per_hour: float | None) -> None:
    """UserError for a price that cannot be."""
    if per_hour is not None and not 0 <= per_hour < inf:
        raise UserError(f"`price_per_hour` must be at least 0, got {per_hour:g}: give what an hour costs.", "price_per_hour")


def cost_card(run: OpenRun) -> CostCard:
    """What the open run has cost at its checkpoint, with the stages before it."""
    chain, missing = _chain(run.path, run.checkpoint)
    stages = tuple(stage for path, folder in chain for stage in (*_taught(path, folder), _stage(path, folder)))
    return CostCard(stages, None if run.recipe.is_encoder else _image(run, stages[-1]), tuple(missing))


def cost_rows(run: Path) -> list[dict[str, Any]]:
    """The card of the run in a folder as lines of a table; none before its first checkpoint. Its weights are not read."""
    latest = checkpoint.latest(run)
    return [] if latest is None else cost_card(outlined(run, latest)).rows()


def passes_of_step(recipe: Recipe) -> int:
    """Passes of the network that a step of training takes for each image of its batch."""
    if recipe.is_encoder:
        return CONTRAST
    return BACKWARD + 1 if isinstance(recipe.objective, Consistency) else BACKWARD


def _chain(run: Path, folder: Path) -> tuple[list[tuple[Path, Path]], list[str]]:
    """The runs whose weights the run began with, in order, and itself, each with its checkpoint; and those that are gone."""
    origin = read_json(run / "origin.json") if (run / "origin.json").exists() else {}
    found: list[tuple[Path, Path]] = []
    missing: list[str] = []
    for name in ("encoder", "init_from"):
        if not origin.get(name):
            continue
        places = [Path(origin[name]), *([run / ENCODER] if name == "encoder" else [])]
        before = next(((path, latest) for path in places if (latest := checkpoint.latest(path)) is not None), None)
        if before is None:
            missing.append(f"{name} {origin[name]}")
            continue
        chain, gone = _chain(*before)
        found += [each for each in chain if each not in found]
        missing += gone
    return [*found, (run, folder)], missing


def _stage(run: Path, folder: Path) -> StageCost:
    recipe, state = from_json(json.dumps(checkpoint.read(folder, "recipe"))), checkpoint.read_state(folder)
    told = [line["joules"] for line in lines(run) if "joules" in line and line["step"] <= state.step]
    devices = _devices(run)
    images = state.step * recipe.batch_size
    return StageCost(
        recipe.name,
        run.name,
        state.step,
        images,
        passes_of_step(recipe) * images * _pass(recipe, folder),
        state.seconds,
        devices,
        told[-1] if told and devices == 1 else None,
    )


def _devices(run: Path) -> int:
    environment = read_json(run / "environment.json") if (run / "environment.json").exists() else {}
    return environment.get("processes", 1)


def _taught(run: Path, folder: Path) -> list[StageCost]:
    """What the teacher's images cost that a distilled run learned from; nothing for other runs."""
    if not (run / RECORD).exists():
        return []
    about, recipe = read_json(run / RECORD), from_json(json.dumps(checkpoint.read(folder, "recipe")))
    images = about["seeds"][1] - about["seeds"][0] + 1
    work = about["nfe"] * images * _pass(recipe, folder)
    return [StageCost(f"images for {recipe.name}", run.name, 0, images, work, about["seconds"], _devices(run), None)]


def _pass(recipe: Recipe, folder: Path) -> float:
    """Multiply-adds of a pass of the network of a checkpoint, counted without its weights."""
    about, asks = checkpoint.read(folder, "data"), read_encoding(folder)[1]
    channels, rows, columns = about["shape"]
    return multiply_adds_of(recipe, (channels, rows, columns), len(about["classes"]), asks.numbers, asks.other)


def _image(run: OpenRun, stage: StageCost) -> ImageCost:
    """An image at the run's own sampling: as evaluated last, or by the seconds of training."""
    nfe = _evaluations(run)
    work = nfe * stage.multiply_adds / max(1, stage.images) / passes_of_step(run.recipe)
    file = run.path / "evaluation.json"
    found = [each for each in (read_json(file) if file.exists() else []) if each.get("checkpoint") == run.checkpoint.name]
    if found:
        first, last = found[-1]["sampling"]["seeds"]
        scale = nfe / found[-1]["sampling"]["nfe"]
        return ImageCost(nfe, work, scale * found[-1]["seconds_sampling"] / (last - first + 1), True)
    return ImageCost(nfe, work, nfe * stage.seconds / max(1, stage.images) / passes_of_step(run.recipe), False)


def _evaluations(run: OpenRun) -> int:
    """Network evaluations of an image, those of guidance included, which acts inside its interval."""
    sampling = with_tuning(run, Sampling()).over(run.recipe.usual_sampling)
    assert sampling.sampler is not None
    assert sampling.guidance_interval is not None
    sigmas = (sampling.schedule(run.noise) / run.noise.shift).tolist()
    walked = sigmas[:-1] + (sigmas[1:-1] if sampling.sampler.nfe(2) > 2 else [])
    low, high = sampling.guidance_interval
    guided = sampling.guidance != 1 and (run.denoiser.backbone.conditional or sampling.guide_with is not None)
    return len(walked) + sum(low < sigma <= high for sigma in walked if guided)
