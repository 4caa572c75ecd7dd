"""What a run needs before its first step: data, a folder of its own, a student, a device."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from pixelpath import processes
from pixelpath.data import sources
from pixelpath.data.normaliser import Normaliser
from pixelpath.data.sources import Source
from pixelpath.data.stream import Stream
from pixelpath.data.views import augment
from pixelpath.models.denoiser import Denoiser
from pixelpath.models.representation import Representation
from pixelpath.recipes.build import Shape, hand_over, strict_load, student_of
from pixelpath.recipes.recipe import Precision, Recipe, for_data, to_json
from pixelpath.recipes.run import open_run
from pixelpath.training import checkpoint
from pixelpath.types import Batch, Views


@dataclass(frozen=True)
class Data:
    """The images of a run on both sides of its split, and how they come into model range."""

    training: Source
    held_out: Source
    normaliser: Normaliser
    conditional: bool

    @property
    def shape(self) -> Shape:
        """Channels, rows, columns of an image."""
        return self.training.shape

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes that the run uses; empty if it is unconditional."""
        return self.training.classes if self.conditional else ()


def say(sentence: str) -> None:
    """One line for the user on standard error, from the main process only."""
    if processes.rank() == 0:
        sys.stderr.write(f"{sentence}\n")
        sys.stderr.flush()


def with_data(recipe: Recipe, path: Path | None) -> Recipe:
    """The recipe with `--data PATH`, which is the same as --data.path PATH."""
    return recipe if path is None else replace(recipe, data=replace(recipe.data, path=path))


def read_data(recipe: Recipe, known: Normaliser | None = None) -> Data:
    """The data that the recipe names; the normaliser is measured on the training images unless it is known already."""
    training, held_out = sources.open_split(recipe.data, recipe.patch)
    say(f"Training data: {sources.describe(training)} Held out: {len(held_out)} images.")
    for name in [*training.broken, *held_out.broken][:20]:
        say(f"Left out, cannot be decoded: {name}")
    normaliser = known or Normaliser.fit(training, recipe.data.workers)
    return Data(training, held_out, normaliser, recipe.conditional)


def choose_device(name: str | None) -> torch.device:
    """The device called `name`; without a name CUDA if there is one, else MPS, else the CPU. ValueError if there is no such device."""
    if name is None:
        best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if best == "cuda" else best
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"There is no device {name} here ({str(error).splitlines()[0]}): leave --device away, or use --device cpu.") from error
    return torch.device(name)


def join_processes() -> None:
    """Join the processes that torchrun started, if it did: gloo for tensors on the CPU, NCCL for those on GPUs."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")


def precision_of(recipe: Recipe, device: torch.device) -> torch.dtype:
    """The dtype of the run's computation on this device."""
    if recipe.precision is Precision.AUTO:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {
        Precision.FLOAT32: torch.float32,
        Precision.BFLOAT16: torch.bfloat16,
        Precision.FLOAT16: torch.float16,
    }[recipe.precision]


def batches(
    recipe: Recipe, data: Data, source: Source, device: torch.device, first: int, size: int
) -> Iterator[Batch] | Iterator[Views]:
    """This process's share of batches of `size` images from step `first` on, as the objective takes them: with views in stage one."""
    stream = Stream(
        source,
        data.normaliser,
        size,
        recipe.seed,
        device,
        processes.rank(),
        processes.count(),
        flip=recipe.flip,
        workers=recipe.data.workers,
        cache_bytes=recipe.data.cache_bytes,
    )
    plain = stream.batches(first)
    if not recipe.is_encoder:
        return plain
    return (augment(batch, recipe.augmentation, data.normaliser) for batch in plain)


def new_student(recipe: Recipe, data: Data, encoder: Path | None, start: Path | None) -> Representation | Denoiser:
    """The student before its first step: new, with the encoder of a stage-one run, or with all weights of another run of its kind."""
    student = student_of(recipe, data.shape, len(data.classes))
    if start is not None:
        origin = open_run(start)
        strict_load(student, origin.model.state_dict(), f"the run {start}", "start from a run of the same recipe, size and data")
    if encoder is not None:
        if not isinstance(student, Denoiser):
            raise ValueError(f"--encoder goes with a recipe of stage two, and {recipe.name} is stage one: use --start {encoder} instead.")
        hand_over(open_run(encoder).representation.encoder, student)
    if recipe.freeze_encoder:
        if not isinstance(student, Denoiser):
            raise ValueError(f"{recipe.name} trains an encoder, so --freeze-encoder leaves nothing to train: leave it away.")
        student.backbone.encoder.requires_grad_(False)
    return student


def claim(out: Path, recipe: Recipe, origin: dict[str, str]) -> Path | None:
    """Make `out` the folder of this run; returns its latest checkpoint if the same run is there already, to be taken up.

    Raises ValueError if the folder holds anything else: no run is ever overwritten.
    """
    written = out / "recipe.json"
    if not written.exists():
        if out.exists() and any(out.iterdir()):
            raise ValueError(f"{out} is not empty and holds no run: choose another --out.")
        if processes.rank() == 0:
            out.mkdir(parents=True, exist_ok=True)
            _write(out / "origin.json", origin)
            _write(out / "environment.json", environment())
            _write(written, json.loads(to_json(recipe)))
        processes.barrier()
        return None
    processes.barrier()
    _same(out, json.loads(written.read_text(encoding="utf-8")), json.loads(to_json(recipe)))
    if json.loads((out / "origin.json").read_text(encoding="utf-8")) != origin:
        raise ValueError(f"{out} began from other weights (see {out / 'origin.json'}): give the same --encoder and --start, or another --out.")
    return newest_good(out)


def newest_good(out: Path) -> Path | None:
    """The latest checkpoint whose files are all as they were written; says which ones it passes over."""
    for folder in reversed(checkpoint.complete(out)):
        if checkpoint.good(folder):
            return folder
        say(f"{folder} is damaged and passed over.")
    return None


def _same(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    for place in ("path", "workers", "cache_bytes"):  # where the data lie and how they are read may change between sessions
        before["data"].pop(place, None)
        now["data"].pop(place, None)
    old, new = dict(_leaves(before)), dict(_leaves(now))
    changed = [f"{key} was {old.get(key)} and is {new.get(key)}" for key in sorted(old | new) if old.get(key) != new.get(key)]
    if changed:
        raise ValueError(f"{out} holds a run with other settings ({'; '.join(changed[:3])}): use the same ones to go on, or another --out.")


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path, tree


def _write(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2), encoding="utf-8")
    partial.replace(path)


def environment() -> dict[str, Any]:
    """What the run ran on: versions, device names, processes and threads."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "pixelpath": metadata.version("pixelpath"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "gpus": gpus,
        "threads": torch.get_num_threads(),
        "processes": processes.count(),
    }


def close(recipe: Recipe, data: Data) -> Recipe:
    """The recipe closed for this data (see `for_data`)."""
    return for_data(recipe, *data.shape[1:])


def data_settings(data: Data) -> dict[str, Any]:
    """What a checkpoint keeps of the data beside the normaliser."""
    return {"shape": list(data.shape), "classes": list(data.classes)}


