"""The energy that a device has taken, where the machine tells it: NVML for NVIDIA GPUs, RAPL for the CPU on Linux.

Both count for the whole device, whoever uses it. NVML counts millijoules since the driver was loaded. RAPL counts microjoules of
a CPU package in a file that begins again at 0 beyond its range; most systems let only root read it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch

RAPL = Path("/sys/class/powercap")
NVML = "libnvidia-ml.so.1"
Counter = Callable[[], float]


class Meter:
    """The joules that a device has taken since the meter was made; None where the machine does not tell them."""

    def __init__(self, device: torch.device, folder: Path | None = None) -> None:
        counters = gpu_counter(device) if device.type == "cuda" else rapl_counters(folder or RAPL) if device.type == "cpu" else []
        self._counters = counters
        self._last = [read() for read, _ in counters]
        self._joules = 0.0

    def read(self) -> float | None:
        """The joules so far; to be called more often than a counter begins again."""
        for place, (read, span) in enumerate(self._counters):
            now = read()
            self._joules += now - self._last[place] + (span if now < self._last[place] else 0.0)
            self._last[place] = now
        return self._joules if self._counters else None


def rapl_counters(folder: Path) -> list[tuple[Counter, float]]:
    """For each CPU package the joules that it counts, and at how many it begins again; empty where they cannot be read."""
    found = []
    for package in sorted(folder.glob("intel-rapl:?")):
        file = package / "energy_uj"
        try:
            span = int((package / "max_energy_range_uj").read_text()) / 1e6
            int(file.read_text())
        except (OSError, ValueError):
            return []
        found.append((lambda file=file: int(file.read_text()) / 1e6, span))
    return found


def gpu_counter(device: torch.device) -> list[tuple[Counter, float]]:
    """The joules that NVML counts for a GPU; empty where it does not."""
    try:
        library = ctypes.CDLL(NVML)
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode()
    except (OSError, AttributeError):
        return []
    handle, count = ctypes.c_void_p(), ctypes.c_ulonglong()
    told = library.nvmlInit_v2() == 0 and library.nvmlDeviceGetHandleByUUID(uuid, ctypes.byref(handle)) == 0
    if not told or library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(count)) != 0:
        return []

    def read() -> float:
        library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(count))
        return count.value / 1e3

    return [(read, 0.0)]
