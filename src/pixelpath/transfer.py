"""Between the host and a device without waiting: a step of training prepares the next operations while the device still works.

On a CPU there is nothing to wait for, and nothing is copied.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def to_device(value: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on the device, by way of memory from which CUDA copies while the host goes on."""
    if device.type == "cuda" and value.device.type == "cpu":
        return value.pin_memory().to(device, non_blocking=True)
    return value.to(device)


def to_host(values: Tensor) -> Callable[[], list[float]]:
    """Begin to copy a row of numbers to the host; what it returns waits for them and gives them."""
    if values.device.type != "cuda":
        found = values.detach().clone()
        return found.tolist
    copied = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    copied.copy_(values.detach(), non_blocking=True)
    done = torch.cuda.Event()
    done.record()

    def read() -> list[float]:
        done.synchronize()
        return copied.tolist()

    return read
