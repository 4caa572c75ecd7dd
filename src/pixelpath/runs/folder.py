"""The folder of a run: claimed once, taken up by the same command, never overwritten.

A folder *holds a run* if it has a recipe.json; the run has *begun* once it has a checkpoint. One that never got so far has
nothing to lose, so the next command may begin it anew with other settings.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from importlib.metadata import version
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from torch import distributed as dist

from pixelpath import processes
from pixelpath.atomic import is_partial, leaves, read_json, sealed, sweep, write_json
from pixelpath.data.settings import PLACES
from pixelpath.errors import UserError
from pixelpath.log import say
from pixelpath.recipes.recipe import Recipe, from_json, to_json
from pixelpath.runs.lock import LOCK, Lock
from pixelpath.trainer import checkpoint

Given = ParamSpec("Given")
Value = TypeVar("Value")
DIVERGENCES = "divergences.json"
FIT = "fit.json"  # of a folder that `fit` wrote, which holds runs
DIFFUSION, ONE_STEP = "diffusion", "onestep"  # the kinds of these runs, and the names of their folders
ENCODER = "encoder"  # the folder within a run of the stage one that its loss needs
LEARNED = ("shape", "dtype", "classes", "conditions")  # of the data, what the network and its normaliser are made for
ELSEWHERE = ("path", "workers", "cache_bytes")  # where the data lie and how they are read may change between sessions


def by_main(decide: Callable[Given, Value]) -> Callable[Given, Value]:
    """The function as decided by the main process, on all processes; if it raises, the others leave quietly."""

    @wraps(decide)
    def decided(*given: Given.args, **named: Given.kwargs) -> Value:
        if processes.count() == 1:
            return decide(*given, **named)
        box: list[Any] = [None]
        try:
            box = [(decide(*given, **named),)] if processes.rank() == 0 else box
        finally:
            dist.broadcast_object_list(box, src=0)
        if box[0] is None:
            raise SystemExit(2)
        return box[0][0]

    return decided


def look(out: Path) -> Path | None:
    """The newest good checkpoint of the run in `out`, None if none has begun there; says which damaged ones it passes over.

    Of several processes the main one decides (`by_main`). Raises UserError if the folder holds anything but a run, or one whose
    checkpoints are all damaged.
    """
    if not holds_run(out):
        if out.exists() and (not out.is_dir() or not all(is_partial(path) or path.name == LOCK for path in out.iterdir())):
            raise UserError(
                f"{out} is there already and holds no run: choose another `out`, nothing is overwritten.", setting="out"
            )
        return None
    found = checkpoint.complete(out)
    for folder in reversed(found):
        if checkpoint.good(folder):
            return folder
        say(f"{folder} is damaged and passed over.")
    if found:
        raise UserError(f"All checkpoints of {out} are damaged: bring one back from a copy, or choose another `out`.")
    return None


def check_alike(settings: dict[str, Any]) -> None:
    """UserError naming up to three differences, said once, unless every process of this run was given the same settings."""
    if processes.count() == 1:
        return
    given: list[Any] = [None] * processes.count()
    dist.all_gather_object(given, settings)

    def compare() -> bool:
        for rank, theirs in enumerate(given):
            if changed := _differences(given[0], theirs):
                raise UserError(
                    f"Process {rank} of this run was started with other settings than process 0 ({changed}): start all of them "
                    "with the same command."
                )
        return True

    by_main(compare)()


def check_same(
    out: Path, latest: Path, recipe: Recipe, origin: dict[str, str], data: dict[str, Any], *, accept_changed_data: bool
) -> str:
    """UserError naming up to three differences unless the run in `out` has these settings, origin and data.

    Data whose images alone are others are accepted if asked; returns how they differ, in words. Says what another number of
    processes changes.
    """
    before, now = json.loads(to_json(from_json(json.dumps(_document(out / "recipe.json"))))), json.loads(to_json(recipe))
    for settings in (before["data"], now["data"]):
        settings.update({place: str(_place(settings[place])) for place in PLACES if settings[place] is not None})
        for place in ELSEWHERE:
            settings.pop(place, None)
    changed = _differences(before, now)
    if changed:
        raise UserError(
            f"{out} holds a run with other settings ({changed}): use the same ones to go on, or another `out`.", setting="out"
        )
    _say_processes(_document(out / "environment.json").get("processes"), recipe)
    began = _document(out / "origin.json")
    if {key: _place(value) for key, value in began.items()} != {key: _place(value) for key, value in origin.items()}:
        words = ", ".join(f"`{key}` {value}" for key, value in began.items() if value) or "neither `encoder` nor `init_from`"
        raise UserError(f"{out} holds a run that began with {words}: give the same to go on, or another `out`.", setting="out")
    known = checkpoint.read(latest, "data")
    changed = _differences(known, {key: value for key, value in data.items() if key in known or key != "images"})
    fits = all(known.get(key) == data[key] for key in LEARNED)
    if changed and not (fits and accept_changed_data):
        remedy = "give the same data to go on, or another `out`" + (", or set `accept_changed_data`" if fits else "")
        raise UserError(f"{out} holds a run on other data than {recipe.data.path} holds ({changed}): {remedy}.", setting="out")
    if changed:
        say(f"Going on with changed data, as accepted: {changed}.")
    return changed


def _say_processes(began: Any, recipe: Recipe) -> None:
    """What it changes that a run goes on with another number of processes than it began with."""
    if isinstance(began, int) and began != processes.count():
        masks = ", and dropout draws other masks" if recipe.dropout else ""
        say(
            f"This run began with {began} process(es) and goes on with {processes.count()}: batches, noise and seeds stay the "
            f"same, sums are rounded in another order{masks}."
        )


def holds_run(out: Path) -> bool:
    """Whether the folder holds a run, begun or not."""
    return (out / "recipe.json").exists()


def document_of_fit(path: Path) -> dict[str, Any]:
    """What the folder of a fit says of it; UserError if that cannot be read."""
    return _document(path / FIT)


def of_kind(what: str, kind: str) -> str:
    """The name in the folder of a fit of what is made of a run of this kind: samples, samples-onestep."""
    return what if kind == DIFFUSION else f"{what}-{kind}"


def samples_of_fit(run: Path) -> Path | None:
    """Where the fit that a run belongs to keeps samples of the runs of its kind; None for a run of no fit."""
    runs = document_of_fit(run.parent)["runs"] if (run.parent / FIT).exists() else []
    return next((run.parent / of_kind("samples", each["kind"]) for each in runs if each["folder"] == run.name), None)


def fitted_run(path: Path) -> Path:
    """The newest run in the folder of a fit that has a checkpoint, of diffusion unless one-step was asked for; else the path."""
    if holds_run(path) or not (path / FIT).exists():
        return path
    fitted = document_of_fit(path)
    asked = fitted["asked"].get("one_step") is True
    runs = [path / run["folder"] for run in fitted["runs"] if asked or run["kind"] == DIFFUSION]
    return next((run for run in reversed(runs) if checkpoint.latest(run) is not None), path)


def hold(out: Path) -> Callable[[], None]:
    """Keep other processes from training in `out`, and remove what a crash left half written there; call it to let go.

    Raises UserError naming the holder if another process trains there.
    """
    held: list[Lock] = []

    def take() -> bool:
        held.append(Lock(out))
        checkpoint.clean(out)
        for folder in (out, out / "previews"):
            sweep(folder)
        return True

    by_main(take)()
    return held[0].release if held else lambda: None


@by_main
def claim(out: Path, recipe: Recipe, origin: dict[str, str]) -> None:
    """Make `out` the folder of a new run; UserError if it holds one that has begun, or anything else."""
    if look(out) is not None:
        raise UserError(f"{out} holds a run that has begun already: choose another `out`, nothing is overwritten.", setting="out")
    if holds_run(out):
        say(f"The run in {out} had saved nothing yet, so it begins anew.")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "recipe.json", sealed(json.loads(to_json(recipe))))
    write_json(out / "origin.json", sealed(origin))
    write_json(out / "environment.json", sealed(environment()))


@by_main
def restated(out: Path, recipe: Recipe, steps: int, warmup: int) -> Recipe:
    """The recipe of the run in `out` with other numbers of steps and of steps of warm-up, written down; what it did stays."""
    recipe = replace(recipe, steps=steps, schedule=replace(recipe.schedule, warmup=warmup))
    write_json(out / "recipe.json", sealed(json.loads(to_json(recipe))))
    return recipe


@by_main
def keep_encoder(run: Path, out: Path) -> Path:
    """Copy the EMA of the stage-one `run` into the run in `out`, which needs it to go on; its new folder."""
    latest = checkpoint.latest(run)
    assert latest is not None  # it has been opened
    kept, partial = out / ENCODER, out / f".{ENCODER}.partial"
    for left in (kept, partial):  # by a run that had saved nothing yet
        shutil.rmtree(left, ignore_errors=True)
    target = partial / "checkpoints" / latest.name
    target.mkdir(parents=True)
    for file in latest.iterdir():
        if not file.name.startswith(("student.", "optimizer.")):
            shutil.copyfile(file, target / file.name)
    os.replace(partial, kept)
    return kept


def kept_encoder(out: Path) -> Path:
    """Where the run in `out` keeps the stage one that it compares features through; UserError if it is gone or damaged."""
    latest = checkpoint.latest(out / ENCODER)
    needed = ("recipe.json", "data.json", "normaliser.json", "ema.safetensors")
    if latest is None or not checkpoint.good(latest, needed):
        raise UserError(
            f"{out / ENCODER}, the stage one that this run compares features through, is missing or damaged: bring it back from "
            "a copy."
        )
    return out / ENCODER


def own_encoder(run: Path) -> Path | None:
    """The stage one that a run keeps or began with, itself or by way of the run whose weights it took; None if it is gone."""
    if checkpoint.latest(run / ENCODER) is not None:
        return run / ENCODER
    began = _document(run / "origin.json") if (run / "origin.json").exists() else {}
    if began.get("encoder"):
        return Path(began["encoder"]) if Path(began["encoder"]).exists() else None
    return own_encoder(Path(began["init_from"])) if began.get("init_from") else None


def encoder_run(recipe: Recipe, encoder: Path | None, init_from: Path | None) -> Path | None:
    """The run of stage one to compare features through: the one given, else that of the run `init_from`; or None.

    None too if the recipe compares none.
    """
    if not recipe.needs_encoder or encoder is not None or init_from is None:
        return encoder if recipe.needs_encoder else None
    found = own_encoder(init_from)
    if found is not None:
        say(f"Features are compared through the encoder with which {init_from} began, {found}.")
    return found


def divergences(out: Path) -> list[dict[str, Any]]:
    """Every time that the run in `out` diverged and fell back; empty if it never did."""
    found: Any = _document(out / DIVERGENCES, object) if (out / DIVERGENCES).exists() else []
    if not isinstance(found, list) or not all(isinstance(fall, dict) and "back_to" in fall for fall in found):
        raise UserError(f"{out / DIVERGENCES} holds no list of divergences: bring it back from a copy, or choose another `out`.")
    return found


@by_main
def note_divergence(out: Path, step: int, why: str, back_to: Path | None) -> list[dict[str, Any]]:
    """Write down one time more, and set checkpoints after `back_to` (None: stopped for good) aside as diverged-*; all times."""
    last = {"step": step, "why": why, "back_to": None if back_to is None else back_to.name}
    found = divergences(out)
    if back_to is not None or found[-1:] != [last]:  # the same command ends the same way again
        write_json(out / DIVERGENCES, found := [*found, last])
    kept = checkpoint.complete(out)
    for folder in kept[kept.index(back_to) + 1 :] if back_to is not None else []:
        number = 1
        while (aside := folder.with_name(f"diverged-{number}-{folder.name}")).exists():
            number += 1
        os.rename(folder, aside)
    return found


def environment() -> dict[str, Any]:
    """What the run runs on: versions, device names, processes and threads."""
    return {
        "pixelpath": version("pixelpath"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "threads": torch.get_num_threads(),
        "processes": processes.count(),
    }


def _document(path: Path, kind: type = dict) -> Any:
    try:
        found = read_json(path)
        if not isinstance(found, kind):
            raise ValueError(f"it holds {found!r:.40}")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}), so this run cannot be taken up: bring the file back from a copy."
        ) from error
    return found


def _place(path: str) -> Path | None:
    return Path(path).resolve() if path else None


def _differences(before: Any, now: Any) -> str:
    old, new = dict(leaves(before)), dict(leaves(now))
    words = [
        f"{key} was {old.get(key, 'not set')} and is {new.get(key, 'not set')}"
        for key in sorted(old | new)
        if old.get(key) != new.get(key)
    ]
    return "; ".join(words[:3]) + (f"; and {len(words) - 3} more" if len(words) > 3 else "")
