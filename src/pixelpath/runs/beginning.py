"""How a session of a run begins: at the first step of a new folder, or at the newest good checkpoint of an old one."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from pixelpath.data.memory import save_arrays
from pixelpath.objectives.distillation import Distillation
from pixelpath.recipes.build import objective_through
from pixelpath.recipes.recipe import Recipe, to_json
from pixelpath.runs import monitor
from pixelpath.runs.chosen import Beginning, Saving
from pixelpath.runs.devices import check_shard, compiles
from pixelpath.runs.folder import (
    by_main,
    check_alike,
    check_same,
    claim,
    encoder_run,
    hold,
    holds_run,
    keep_encoder,
    kept_encoder,
    look,
)
from pixelpath.runs.index import Index
from pixelpath.runs.opened import read_encoding
from pixelpath.runs.prepare import Sources, close, read_data
from pixelpath.runs.session import Session
from pixelpath.runs.students import check_origin, freeze, frozen_encoder, in_range_of, new_student
from pixelpath.runs.teacher import taught

DATA = "data.npz"  # images of a run that was trained from memory


def begin(
    recipe: Recipe,
    out: Path,
    device: torch.device,
    beginning: Beginning,
    saving: Saving,
    sources: Sources | None = None,
    *,
    accept_changed_data: bool = False,
    shard: bool = False,
) -> Session:
    """A session of the run in `out` at its newest good checkpoint, or at its first step if it has not begun.

    `sources` are the images of a recipe whose data lie in memory; a new run keeps them as RUN/data.npz. A run whose images
    changed goes on if that is accepted. `shard`: every process keeps a share of the run's weights, moments and EMA.
    """
    check_shard(recipe, device, shard)
    recipe, beginning = replace(recipe, data=recipe.data.absolute()), beginning.located()
    chosen = {"recipe": json.loads(to_json(recipe)), "saving": vars(saving)}
    how = {"out": str(out.absolute()), "accept_changed_data": accept_changed_data, "shard": shard}
    check_alike({**chosen, **beginning.to_json(), **how})
    with ExitStack() as held:
        is_run = by_main(holds_run)(out)
        if is_run:
            held.callback(hold(out))
        session = _begin(recipe, out, device, beginning, saving, sources, None if is_run else held, accept_changed_data, shard)
        session.held = held.pop_all()
    return session


def _begin(
    recipe: Recipe,
    out: Path,
    device: torch.device,
    beginning: Beginning,
    saving: Saving,
    sources: Sources | None,
    held: ExitStack | None,
    accept_changed_data: bool,
    shard: bool,
) -> Session:
    """A session of a run whose folder is held, or will be by `held` before it is claimed."""
    check_origin(recipe, beginning.encoder, beginning.init_from)
    saving.interval(recipe.steps)
    in_memory = sources[0] if sources is not None and recipe.data.path is None else None
    if in_memory is not None:
        recipe = replace(recipe, data=replace(recipe.data, path=(out / DATA).absolute()))
    latest, changed = by_main(look)(out), ""
    index, encoding = Index(out.parent, recipe.data), (None, None) if latest is None else read_encoding(latest)
    data = read_data(recipe, sources, *encoding, index)
    if latest is None:
        for begun in (beginning.encoder, beginning.init_from):
            data = data if begun is None else in_range_of(begun, data, recipe)
    closed, origin = close(recipe, data), beginning.to_json()
    data = data.masked(closed)
    if latest is None:
        student = new_student(closed, data, beginning.encoder, beginning.init_from)
        through = encoder_run(closed, beginning.encoder, beginning.init_from)
        objective_through(closed, frozen_encoder(through, data, device))  # a mistake is better said before the folder is claimed
        if held is not None:
            held.callback(hold(out))
        claim(out, closed, origin)
        if in_memory is not None:
            save_arrays(out / DATA, in_memory)
        kept = None if through is None else keep_encoder(through, out)
    else:
        changed = check_same(out, latest, closed, origin, data.known, accept_changed_data=accept_changed_data)
        student, kept = data.student(closed), kept_encoder(out) if closed.needs_encoder else None
        freeze(student, closed)
    frozen = frozen_encoder(kept, data, device)
    if frozen is not None and compiles(closed, device):
        frozen.compile()
    objective, lesson = objective_through(closed, frozen), None
    if isinstance(closed.objective, Distillation):
        assert beginning.init_from is not None  # its teacher (`check_origin`)
        lesson = taught(closed.objective, data, beginning.init_from, out, device, began=latest is not None)
    scratch = beginning == Beginning()
    session = Session(closed, objective, data, out, device, student, saving, lesson, scratch=scratch, shard=shard)
    if latest is not None:
        session.take_up(latest)
        session.remarks += [f"went on with changed data: {changed}"] if changed else []
        session.alarms = monitor.standing_alarms(out, session.state.step)
    return session
