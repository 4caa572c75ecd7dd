"""Sharding: every process of a run keeps a share of weights, gradients, moments and EMA, and gathers weights block by block.

A *share* is a slice of a tensor along its first axis, one for each process, made by torch.distributed.fsdp.fully_shard (FSDP2).
Running statistics of norms are whole on every process. On plain tensors and modules everything here is the identity. torch's
modules for it take most of a second to import, so only runs of several processes do.
"""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn
from torch import distributed as dist

from pixelpath import processes
from pixelpath.networks.layers import Block, ModulatedBlock

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def shard(module: nn.Module, *, compiled: bool = False) -> nn.Module:
    """Leave this process its share of the main process's weights, in place; returns the module.

    Every transformer block is gathered alone, when it computes, and so is what lies outside of blocks. `compiled` compiles every
    block. Make optimizers of the module afterwards.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # the CLS features are a view of the tokens, which nothing changes in place
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
    device = next(module.parameters()).device
    for value in (*module.parameters(), *module.buffers()):
        dist.broadcast(value.data, 0)
    mesh = init_device_mesh(device.type, (processes.count(),))
    for block in [block for block in module.modules() if isinstance(block, Block | ModulatedBlock)]:
        if compiled:
            block.compile()
        fully_shard(block, mesh=mesh)
    # what no block holds is freed after every pass too: only then does the module show shares between passes
    fully_shard(module, mesh=mesh, reshard_after_forward=True)
    return module


def is_sharded(module: nn.Module) -> bool:
    """Whether the processes share the module's weights among them."""
    return any(_is_shared(parameter) for parameter in module.parameters())


def _is_shared(value: Tensor | None) -> TypeGuard[DTensor]:
    if processes.count() == 1:
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(value, DTensor)


def share(value: Tensor) -> Tensor:
    """This process's share of a tensor, which writes through to it; gradients do not pass."""
    return value.to_local().detach() if _is_shared(value) else value


def gathered(value: Tensor) -> Tensor:
    """The whole of a tensor; every process must call it."""
    return value.full_tensor().detach() if _is_shared(value) else value


def shared_as(value: Tensor, like: Tensor | None) -> Tensor:
    """A whole tensor, equal on all processes, shared out as `like` is; as it is if that is plain, missing or of another shape."""
    if not _is_shared(like) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def remade(part: Tensor, like: Tensor) -> Tensor:
    """The tensor, shared out as `like` is and of its shape, of which this process has that share."""
    if not _is_shared(like):
        return part
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())


def skeleton(module: nn.Module) -> nn.Module:
    """The module without values (on the meta device), for `whole` to fill in; make it before the module is sharded."""
    parameters = {id(each): nn.Parameter(torch.empty_like(each, device="meta")) for each in module.parameters()}
    buffers = {id(each): torch.empty_like(each, device="meta") for each in module.buffers()}
    return copy.deepcopy(module, parameters | buffers)


def whole(module: nn.Module, empty: nn.Module) -> nn.Module:
    """The module with all of its weights, for evaluation; `empty` is its skeleton. Every process must call it, and gets one."""
    found = copy.deepcopy(empty)
    found.load_state_dict({name: gathered(value) for name, value in module.state_dict().items()}, assign=True)
    for name, value in module.named_buffers():  # a table of constants is in no state
        owner, _, leaf = name.rpartition(".")
        setattr(found.get_submodule(owner), leaf, value)
    return found.requires_grad_(False).eval()


def total_norm(gradients: list[Tensor]) -> Tensor:
    """The Euclidean norm [] of all gradients together, of all shares."""
    norm = torch.nn.utils.get_total_norm([share(gradient) for gradient in gradients])
    return processes.add(norm.square()).sqrt() if any(map(_is_shared, gradients)) else norm


def clip(parameters: list[nn.Parameter], largest: float, norm: Tensor) -> None:
    """Scale the gradients, whose norm is `norm`, so that it becomes at most `largest`."""
    shares = [share(parameter.grad) for parameter in parameters if parameter.grad is not None]
    factor = (largest / (norm + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grads_with_norm_
    torch._foreach_mul_(shares, factor)  # pyright: ignore[reportPrivateImportUsage]
