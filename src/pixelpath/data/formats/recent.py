"""Decoded arrays kept for the next reader, the last ones used, within a bound of memory.

Files that are packed as a whole can only be decoded as a whole, though a tile needs a part of them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np


class Recent:
    """The arrays used last, of at most so many bytes together (the very last one always stays); threads share it."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._held: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._making: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()
        self._bytes = 0

    def get(self, key: Hashable, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The array of a key, which must not be changed; made once, whoever else asks meanwhile waits for it."""
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                found = self._held.get(key)
            try:
                found = make() if found is None else found
                self._keep(key, found)
            finally:
                with self._lock:
                    self._making.pop(key, None)
        return found

    def _keep(self, key: Hashable, array: np.ndarray) -> None:
        with self._lock:
            if self._held.get(key) is not array:
                self._held[key] = array
                self._bytes += array.nbytes
            self._held.move_to_end(key)
            while len(self._held) > 1 and self._bytes > self.most:
                self._bytes -= self._held.popitem(last=False)[1].nbytes


DECODED = Recent(2**30)
"""Whole pictures, and strips and tiles of TIFF files."""
