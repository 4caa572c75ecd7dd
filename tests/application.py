"""The application as its user calls it, in this process."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file
from torch import Tensor

from pixelpath import cli
from pixelpath.trainer import checkpoint
from pixelpath.trainer.journal import Journal, lines
from pixelpath.trainer.loop import Step

SIZE = [
    "--size.encoder.depth",
    "1",
    "--size.encoder.width",
    "32",
    "--size.encoder.heads",
    "2",
    "--size.decoder.depth",
    "1",
    "--size.decoder.width",
    "32",
    "--size.decoder.heads",
    "2",
    "--batch-size",
    "8",
    "--schedule.warmup",
    "2",
]
TINY = {
    "digits-encoder": [*SIZE, "--projector.hidden", "32", "--projector.out", "16"],
    "digits-diffusion": [*SIZE, "--sampling.steps", "2"],
    "digits-onestep": SIZE,
}
MEASURED = ("images_per_second", "seconds", "memory_bytes", "joules")  # what a line of the metrics says of the machine


def call(*words: object, report: bool = False) -> int:
    """The exit status of `pixelpath WORDS`; the report at the end of training, most of a tiny run's time, only if asked for."""
    stand_in = contextlib.nullcontext() if report else patch("pixelpath.runs.session.write_report", lambda run: run)
    with patch.object(sys, "argv", ["pixelpath", *map(str, words)]), stand_in:
        try:
            cli.main()
        except SystemExit as left:
            return int(left.code or 0)
    return 0


def train(recipe: str, data: Path, out: Path, *words: object, report: bool = False) -> int:
    """`pixelpath train` of a tiny model for 6 steps, saved and measured every 3, unless the words say otherwise."""
    saved = ["--every", 3] if "--every" in words else ["--every", 3, "--measure-every", 3]
    return call("train", recipe, "--data", data, "--out", out, *TINY[recipe], "--steps", 6, *saved, *words, report=report)


@contextlib.contextmanager
def at_step(number: int, act: Any) -> Iterator[None]:
    """While open, `act()` is called right after the step of this number was recorded."""
    record = Journal.record

    def watched(journal: Journal, step: Step, *rest: Any) -> None:
        record(journal, step, *rest)
        if step.number == number:
            act()

    with patch.object(Journal, "record", watched):
        yield


def weights(run: Path, step: int) -> dict[str, Tensor]:
    """Every tensor of a checkpoint."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    parts = ("student", "ema", "optimizer")
    return {f"{part}/{name}": value for part in parts for name, value in load_file(folder / f"{part}.safetensors").items()}


def losses(run: Path) -> list[dict[str, Any]]:
    """The lines of the metrics about steps, without what they say of the machine."""
    return [{key: line[key] for key in line if key not in MEASURED} for line in lines(run) if "loss" in line]


def assert_same(first: Path, second: Path, step: int) -> None:
    """Two runs have the same tensors after `step`, bit for bit, and the same lines up to it."""
    ours, theirs = weights(first, step), weights(second, step)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert losses(first) == losses(second)


def files(folder: Path) -> dict[Path, bytes]:
    """What every file below a folder holds."""
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def steps_kept(run: Path) -> list[int]:
    """The steps of the run's checkpoints."""
    return [int(path.name[5:]) for path in checkpoint.complete(run)]
