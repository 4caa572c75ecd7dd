"""A CPU that stands in for a device: it notes where the host would wait for one, and what it would send there unprepared.

Tensors are on the *device* if they came there by `transfer.to_device`, or if anything was computed from such. Those made without
any other tensor (zeros, a range) may be on either side. All others are the *host's*.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pixelpath import transfer
from pixelpath.randomness import Streams

aten = torch.ops.aten
READS = {aten._local_scalar_dense, aten.nonzero, aten.is_nonzero, aten.equal, aten.masked_select, aten._unique2, aten.unique_dim}
MASKED = {aten.index, aten.index_put, aten.index_put_}


class StandIn(TorchDispatchMode):
    """While open, `waits` grows by the name of every operation that would make the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self._known: dict[int, tuple[StorageWeakRef, str]] = {}

    def place(self, tensor: Tensor, side: str = "device") -> Tensor:
        """Say on which side a tensor is."""
        storage = tensor.untyped_storage()
        self._known[storage._cdata] = StorageWeakRef(storage), side
        return tensor

    def side(self, tensor: Tensor) -> str:
        """Where a tensor is: "device", "either" or "host"."""
        reference, side = self._known.get(tensor.untyped_storage()._cdata, (None, "host"))
        return "host" if reference is None or reference.expired() else side

    def __torch_dispatch__(self, operation: Any, types: Any, given: tuple = (), named: dict | None = None) -> Any:
        tensors = [each for each in tree_leaves((given, named or {})) if isinstance(each, Tensor)]
        sides = [self.side(each) for each in tensors]
        is_device = "device" in sides
        if is_device and operation.overloadpacket in READS:
            self.waits.append(str(operation))
        if is_device and operation.overloadpacket in MASKED and any(each.dtype == torch.bool for each in tensors[1:]):
            self.waits.append(f"{operation} by a mask")
        if is_device and any(side == "host" and each.dim() for each, side in zip(tensors, sides, strict=True)):
            self.waits.append(f"{operation} with a tensor of the host")
        found = operation(*given, **(named or {}))
        side = "device" if is_device else "either" if all(each == "either" for each in sides) else "host"
        for each in tree_leaves(found):
            if isinstance(each, Tensor) and side != "host":
                self.place(each, side)
        return found


@contextmanager
def stood_in(*modules: nn.Module) -> Iterator[StandIn]:
    """While open, these modules are on the device, and `to_device` brings tensors there."""
    device = StandIn()

    on_host = False

    def to_device(value: Tensor, _: torch.device) -> Tensor:
        return value if on_host else device.place(value.clone())

    def streams(made: Streams, seeds: Iterable[int], place: torch.device | None = None) -> None:
        nonlocal on_host
        on_host = place is None  # as whoever draws on the host asks for them
        begin(made, seeds, place or "cpu")
        on_host = False

    def tolist(value: Tensor) -> Any:
        if device.side(value) == "device":
            device.waits.append("tolist")
        return read(value)

    read, begin = Tensor.tolist, Streams.__init__
    users = [module for name, module in sys.modules.items() if name.startswith("pixelpath") and "to_device" in vars(module)]
    with ExitStack() as stack:
        for module in users:
            stack.enter_context(patch.object(module, "to_device", to_device))
        stack.enter_context(patch.object(Tensor, "tolist", tolist))
        stack.enter_context(patch.object(Streams, "__init__", streams))
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                device.place(tensor)
        stack.enter_context(device)
        yield device


assert transfer.to_device  # what is stood in for
