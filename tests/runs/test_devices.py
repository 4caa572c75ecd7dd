"""The processes of a run meet, or one sentence says that they do not; a run that cannot be sharded is refused."""

from dataclasses import replace

import pytest
import torch
from tests.ports import free_port

from pixelpath import recipes
from pixelpath.errors import UserError
from pixelpath.recipes.recipe import Precision
from pixelpath.runs import devices
from pixelpath.runs.devices import check_shard, joined


def test_processes_that_do_not_meet_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "WAIT", 1 / 60)
    port = str(free_port())
    where = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in where.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"127.0.0.1:{port}"), joined():
        raise AssertionError("nobody is there to meet")


def test_one_process_and_float16_are_not_sharded(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, cpu = recipes.digits_diffusion(), torch.device("cpu")
    check_shard(recipe, cpu, False)
    with pytest.raises(UserError) as caught:
        check_shard(recipe, cpu, True)
    assert caught.value.setting == "shard"
    monkeypatch.setattr(devices.processes, "count", lambda: 2)
    check_shard(recipe, cpu, True)
    with pytest.raises(UserError) as caught:
        check_shard(replace(recipe, precision=Precision.FLOAT16), cpu, True)
    assert caught.value.setting == "precision"
