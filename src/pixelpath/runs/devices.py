"""On what a run computes: its device, its processes and the dtype of its arithmetic."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed as dist

from pixelpath import processes
from pixelpath.errors import UserError
from pixelpath.recipes.recipe import Precision, Recipe

WAIT = 30.0  # minutes that a process waits for the others, who may have data to read


def choose_device(name: str | None) -> torch.device:
    """The device called `name`; without a name CUDA if there is one, else MPS, else the CPU. UserError if there is none.

    Of several processes on one machine each takes the GPU of its own number.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"There is no `device` {name} here ({reason}): omit it, or use cpu.", setting="device") from error
    return torch.device(name)


def use_tensor_cores() -> None:
    """Multiply float32 matrices in TF32 where a GPU has it, from here on: a choice of the whole process."""
    torch.set_float32_matmul_precision("high")


@contextmanager
def joined() -> Iterator[None]:
    """Together with the processes that torchrun started, if it did: gloo for tensors on the CPU, NCCL for those on GPUs."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        yield
        return
    _join()
    with parting():
        yield


@contextmanager
def met(place: Path, rank: int, count: int) -> Iterator[None]:
    """Together with the processes of this machine that come to the same file: `count` with this one, which has that `rank`."""
    loopback = {"linux": "lo", "darwin": "lo0"}.get(sys.platform)
    if loopback is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)  # names of hosts need not be known
    store = dist.FileStore(str(place), count)  # pyright: ignore[reportPrivateImportUsage]  (documented, and not in __all__)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=timedelta(minutes=WAIT))
    with parting():
        yield


@contextmanager
def parting() -> Iterator[None]:
    """Leave the other processes at the end, which all have come to unless something failed; UserError if one of them is gone."""
    try:
        yield
        processes.barrier()
    except RuntimeError as error:
        if not processes.is_lost(error):
            raise
        raise UserError("Another process of this command ended: see what it said, and start all of them again.") from error
    finally:
        gc.collect()  # nothing may hold the group any more when it ends
        dist.destroy_process_group()


def _join() -> None:
    """Meet the other processes; UserError if they do not come."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(backend, timeout=timedelta(minutes=WAIT))
    except (dist.DistStoreError, dist.DistNetworkError) as error:
        place = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
        raise UserError(
            f"The {os.environ['WORLD_SIZE']} processes of this command did not meet at {place} within {WAIT:g} minutes: start "
            "all of them with the same address and port, which every machine can reach."
        ) from error


def compiles(recipe: Recipe, device: torch.device) -> bool:
    """Whether the run compiles its networks: as the recipe says, else on CUDA."""
    return device.type == "cuda" if recipe.compile is None else recipe.compile


def sampling_precision(recipe: Recipe, device: torch.device) -> torch.dtype:
    """The dtype in which networks compute when they are sampled: the run's on CUDA, elsewhere float32."""
    return precision_of(recipe, device) if device.type == "cuda" else torch.float32


def precision_of(recipe: Recipe, device: torch.device) -> torch.dtype:
    """The dtype of the run's computation on this device."""
    if recipe.precision is Precision.AUTO:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {
        Precision.FLOAT32: torch.float32,
        Precision.BFLOAT16: torch.bfloat16,
        Precision.FLOAT16: torch.float16,
    }[recipe.precision]


def check_shard(recipe: Recipe, device: torch.device, shard: bool) -> None:
    """UserError if a run is to be sharded that has one process, or whose gradients need a loss scaler."""
    if not shard:
        return
    if processes.count() == 1:
        raise UserError(
            "`shard` shares a run out among several processes, and this is one: start it with torchrun, or omit it.",
            setting="shard",
        )
    if precision_of(recipe, device) == torch.float16:
        raise UserError("`shard` has no loss scaler, which float16 needs: choose bfloat16 as `precision`.", setting="precision")
