"""Inside a step the host never waits for the device, in any stage, with either optimizer; and the stand-in would notice it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from tests.standin import StandIn, stood_in
from torch import nn
from torch.utils._pytree import tree_leaves

from pixelpath import noise, recipes
from pixelpath.data.normalise import normaliser
from pixelpath.data.settings import DataSettings
from pixelpath.recipes.build import objective_through
from pixelpath.recipes.recipe import Recipe
from pixelpath.runs.prepare import batches, close, read_data
from pixelpath.trainer.ema import twin
from pixelpath.trainer.loop import Step, train
from pixelpath.trainer.optimizer import AdamW, Muon

STAGES: dict[str, Callable[[], Recipe]] = {
    "encoder": recipes.digits_encoder,
    "diffusion": recipes.digits_diffusion,
    "onestep": recipes.digits_onestep,
}


def prepared(stage: str, optimizer: AdamW | Muon, pictures: Path, device: torch.device) -> dict[str, Any]:
    """What `train` takes of a tiny run."""
    recipe = replace(STAGES[stage](), batch_size=8, steps=4, optimizer=optimizer, data=DataSettings(pictures, workers=0))
    data = read_data(recipe)
    recipe = close(replace(recipe, rot90=stage == "diffusion", flip=stage != "encoder"), data)
    student = data.student(recipe).to(device)
    return {
        "student": student,
        "ema": twin(student),
        "objective": objective_through(recipe, None),
        "optimizer": optimizer.build(student),
        "schedule": recipe.schedule,
        "batches": batches(recipe, data, device, 0),
    }


@pytest.mark.parametrize("optimizer", [AdamW(clip=1.0), Muon()])
@pytest.mark.parametrize("stage", STAGES)
def test_no_step_waits(stage: str, optimizer: AdamW | Muon, pictures: Path) -> None:
    parts = prepared(stage, optimizer, pictures, torch.device("cpu"))
    options = {"first": 0, "steps": 4, "ema_decay": 0.9, "seed": 5}
    for _ in train(**parts, **{**options, "steps": 1}):
        pass  # what is made once, like tables on the device, may wait
    with stood_in(parts["student"], parts["ema"]) as device, kept_on(device):
        for state in parts["optimizer"].state.values():
            for tensor in state.values():
                device.place(tensor)
        taken = 0
        for step in train(**parts, **{**options, "first": 1}):
            read = [wait for wait in device.waits if wait != "tolist"]  # that of the step before, once it is over
            assert read == []
            assert device.waits.count("tolist") == taken
            taken += 1
            assert isinstance(step, Step)
        assert taken == 3


@contextmanager
def kept_on(device: StandIn) -> Iterator[None]:
    """While open, tables that are kept on the device after the first step are there."""

    def kept(made: Callable[..., Any]) -> Callable[..., Any]:
        def on_device(*given: Any) -> Any:
            for table in tree_leaves(found := made(*given)):
                device.place(table)
            return found

        return on_device

    with ExitStack() as stack:
        for module, name in ((noise, "_grid_like"), (noise, "_weights_like"), (normaliser, "_columns")):
            stack.enter_context(patch.object(module, name, kept(vars(module)[name])))
        yield


def test_the_stand_in_notices_what_waits() -> None:
    network = nn.Linear(2, 2)
    for wait in (
        lambda: float(network(torch.zeros(1, 2)).sum()),
        lambda: network.weight[network.weight > 0],
        lambda: network.weight.nonzero(),
        lambda: network.weight + torch.tensor([[1.0, 2.0]]),
        lambda: network.weight.sum().tolist(),
        lambda: bool((network.weight > 0).any()),
    ):
        with stood_in(network) as device:
            wait()
        assert device.waits


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("stage", STAGES)
def test_no_step_waits_on_cuda(stage: str, pictures: Path) -> None:
    parts = prepared(stage, AdamW(clip=1.0), pictures, torch.device("cuda"))
    steps = train(**parts, first=0, steps=4, ema_decay=0.9, seed=5, precision=torch.bfloat16)
    next(steps)
    torch.cuda.set_sync_debug_mode("error")
    try:
        next(steps)
        next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
