"""From a source to the batches of a training run.

An *epoch* is one pass over all images in an order of its own; the global batch of a step is what all processes see together.
Batches run on across the borders of epochs, so each one is full.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor, Future
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from pixelpath import randomness
from pixelpath.data.conditions import ConditionData
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.data.originals import Cutting
from pixelpath.data.sources import TASK, Remembered, Source, decoders, gather, labels, load
from pixelpath.errors import UserError
from pixelpath.transfer import to_device
from pixelpath.types import Batch, Condition, Images, Views

ORDER, FLIP, ROT90 = -1, -2, -4  # keys of the random numbers drawn here; steps and positions, keys elsewhere, are never negative
AHEAD = 3  # steps that are decoded before they are asked for


class Batches:
    """The batches of one process: `batch(step)` is a function of (seed, step, rank) alone.

    Image p of the global batch of step k is number k * batch_size + p of an endless row of epochs, each a permutation drawn from
    (seed, epoch); the process `rank` takes the rank-th of `processes` equal slices. With `flip`, half of the images are mirrored
    left to right; with `rot90`, they are turned by 0 to 3 right angles. The conditions that are `given` go with them.
    Images are kept in memory in their native dtype if they fit into `cache_bytes`, else decoded by `workers` threads (None: one
    per core), some steps ahead, as those are that are `Remembered`. With `cutting`, batches have windows of the originals, which
    are decoded for every step. Raises UserError if there are no images, `processes` does not divide `batch_size`, or images to
    be turned are not square.
    """

    def __init__(
        self,
        source: Source,
        normaliser: Normaliser,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        rank: int = 0,
        processes: int = 1,
        flip: bool = False,
        rot90: bool = False,
        given: ConditionData | None = None,
        workers: int | None = 0,
        cache_bytes: int = 2 * 2**30,
        cutting: Cutting | None = None,
    ) -> None:
        if len(source) == 0:
            raise UserError("There are no images to train on: give at least one.")
        if batch_size < 1 or batch_size % processes or not 0 <= rank < processes:
            raise UserError(
                f"A global batch of {batch_size} cannot be shared by {processes} processes (this is rank {rank}): "
                f"choose a `batch_size` that is a multiple of the number of processes.",
                "batch_size",
            )
        if rot90 and source.shape[1] != source.shape[2]:
            size = "x".join(map(str, source.shape[1:]))
            raise UserError(f"Images of {size} pixels are not square, so they cannot be turned: leave `rot90` away.", "rot90")
        self.batch_size, self.seed, self.rank, self.flip, self.rot90, self.given = batch_size, seed, rank, flip, rot90, given
        self.device = torch.device(device)
        self.share = batch_size // processes
        self._normaliser = normaliser
        needed = len(source) * int(np.prod(source.shape)) * source.dtype.itemsize
        self.cutting = cutting
        self.cached = needed <= cache_bytes and cutting is None
        self._source = load(source, workers) if self.cached and not isinstance(source, Remembered) else source
        self._workers = workers if not self.cached or isinstance(source, Remembered) else 0
        self._labels = labels(source)
        self._order = lru_cache(maxsize=4)(self._permutation)

    def batch(self, step: int) -> Batch:
        """This process's share of the global batch of `step`, on the device and in model range."""
        return self._assemble(step, self._native(self._indices(step), self._seeds(step)))

    def batches(self, first: int = 0) -> Generator[Batch]:
        """Batches `first`, `first` + 1, ... without end; closing the iterator ends its threads, their errors are raised here."""
        waiting: deque[tuple[int, list[Future[np.ndarray]]]] = deque()
        with decoders(self._workers) as pool:
            if pool is None:
                yield from map(self.batch, itertools.count(first))
                return
            for step in itertools.count(first):
                waiting.append((step, self._submit(pool, step)))
                if len(waiting) > AHEAD:
                    ready, parts = waiting.popleft()
                    yield self._assemble(ready, np.concatenate([part.result() for part in parts]))

    def _submit(self, pool: Executor, step: int) -> list[Future[np.ndarray]]:
        indices, seeds = self._indices(step), self._seeds(step)
        parts = [slice(at, at + TASK) for at in range(0, len(indices), TASK)]
        return [pool.submit(self._native, indices[part], seeds[part]) for part in parts]

    def _native(self, indices: Int[np.ndarray, "batch"], seeds: tuple[int, ...]) -> np.ndarray:
        """Native images, with `cutting` [batch, 1 + views, channel, row, column]."""
        return gather(self._source, indices) if self.cutting is None else self.cutting.gather(indices, seeds)

    def _seeds(self, step: int) -> tuple[int, ...]:
        return tuple(randomness.seed_of(self.seed, step, position) for position in self._positions())

    def _positions(self) -> range:
        return range(self.rank * self.share, (self.rank + 1) * self.share)

    def _indices(self, step: int) -> Int[np.ndarray, "batch"]:
        rows = step * self.batch_size + np.arange(self._positions().start, self._positions().stop)
        epochs, places = np.divmod(rows, len(self._labels))
        return np.concatenate([self._order(epoch)[places[epochs == epoch]] for epoch in range(epochs[0], epochs[-1] + 1)])

    def _permutation(self, epoch: int) -> Int[np.ndarray, "count"]:
        # RandomState, because numpy promises that its numbers stay the same in every version
        bits = np.random.MT19937(randomness.seed_of(self.seed, ORDER, epoch))
        return np.random.RandomState(bits).permutation(len(self._labels))

    def _encoded(self, native: Shaped[np.ndarray, "count channel row column"]) -> Images:
        """On the device and in model range."""
        images = torch.from_numpy(native)
        if self._normaliser.wide:  # its float64 and its checks of values belong to the host
            return to_device(self._normaliser.encode(images), self.device)
        return self._normaliser.encode(to_device(images, self.device))

    def _assemble(self, step: int, native: np.ndarray) -> Batch:
        """From what `_native` gives."""
        windows = None
        if self.cutting is not None:
            cut = np.ascontiguousarray(native[:, 1:])
            windows = self._encoded(cut.reshape(-1, *cut.shape[2:])).unflatten(0, cut.shape[:2])
            native = np.ascontiguousarray(native[:, 0])
        seeds, images = self._seeds(step), self._encoded(native)
        valid = self._normaliser.valid(torch.from_numpy(native))
        indices = self._indices(step)
        labels = torch.from_numpy(self._labels[indices])
        condition = labels if self.given is None else self.given.condition(indices, labels)
        valid = None if valid is None else to_device(valid, self.device)
        index = to_device(torch.from_numpy(indices), self.device)
        asked = condition.to(self.device) if isinstance(condition, Condition) else to_device(condition, self.device)
        batch = Batch(images, asked, seeds, randomness.seed_of(self.seed, step), valid, index, windows)
        return moved(batch, flip=self.flip, rot90=self.rot90)


def ahead(batches: Iterator[Batch | Views], device: torch.device) -> Iterator[Batch | Views]:
    """The same batches; on CUDA each is made while the device works on the one before, on a stream of its own."""
    if device.type != "cuda":
        yield from batches
        return
    aside, following = torch.cuda.Stream(device), None
    while True:
        with torch.cuda.stream(aside):
            batch, following = next(batches, None) if following is None else following, None
        if batch is None:
            return
        here = torch.cuda.current_stream(device)
        here.wait_stream(aside)  # for this batch alone: the next one is not begun yet
        for tensor in tensors_of(batch):
            tensor.record_stream(here)
        with torch.cuda.stream(aside):
            following = next(batches, None)
        yield batch


def tensors_of(part: Batch | Views | Condition) -> list[Tensor]:
    """Every tensor of a batch, those of its condition included."""
    found: list[Tensor] = []
    for value in vars(part).values():
        found += [value] if isinstance(value, Tensor) else tensors_of(value) if isinstance(value, Condition) else []
    return found


def moved(batch: Batch, *, flip: bool, rot90: bool) -> Batch:
    """Half of the images mirrored left to right, all turned by 0 to 3 right angles, each by its own seed.

    The `valid` masks and the condition images move with their image.
    """
    if flip:
        mirrored = torch.tensor([randomness.seed_of(seed, FLIP) & 1 for seed in batch.seeds], dtype=torch.bool)
        batch = _where(mirrored, batch, lambda planes: planes.flip(-1))
    if rot90:
        turns = torch.tensor([randomness.seed_of(seed, ROT90) % 4 for seed in batch.seeds])
        for count in (1, 2, 3):
            batch = _where(turns == count, batch, lambda planes, count=count: planes.rot90(count, (2, 3)))
    return batch


def _where(chosen: Bool[Tensor, "batch"], batch: Batch, move: Callable[[Tensor], Tensor]) -> Batch:
    """The batch, the chosen images moved, together with their `valid` masks and condition images."""
    chosen = to_device(chosen, batch.images.device).reshape(-1, 1, 1, 1)

    def some(planes: Tensor) -> Tensor:
        return torch.where(chosen, move(planes), planes)

    condition = batch.labels
    if isinstance(condition, Condition) and condition.cond_image is not None:
        condition = replace(condition, cond_image=some(condition.cond_image))
    valid = None if batch.valid is None else some(batch.valid)
    return replace(batch, images=some(batch.images), labels=condition, valid=valid)
