"""The training step of both stages and of one step: the library's whole step, its networks alone, and the peer, side by side.

    python -m benchmarks.train_step --size nano --pixels 8 --patch 4 --batch 128 --threads 1 --out results.json

Works: *step* is all of training (batch, views, noise, networks, optimizer, average); *network* is its networks, losses and
optimizer on one ready batch and noise; *peer* is as many passes of the DiT blocks of diffusers, with the same loss and optimizer.
Parts of the step are timed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measure import (
    CLASSES,
    Mode,
    Settings,
    Stage,
    Work,
    closed_recipe,
    compiled,
    evaluated,
    main,
    matmul,
    modes,
    operations,
    storage,
)
from benchmarks.peer import peer
from pixelpath.data.augment import augment
from pixelpath.data.batches import Batches
from pixelpath.data.memory import from_arrays
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.data.settings import DataSettings
from pixelpath.models.representation import Representation
from pixelpath.noise import expand
from pixelpath.objectives.consistency import Consistency, Pairs
from pixelpath.objectives.contrast import info_nce
from pixelpath.objectives.denoising import Denoising
from pixelpath.objectives.representation import RepresentationLearning
from pixelpath.randomness import Streams, normal, uniform
from pixelpath.recipes.build import objective_through, representation_of, student_of
from pixelpath.recipes.recipe import Recipe
from pixelpath.trainer.ema import twin, update
from pixelpath.trainer.loop import Step, loss_scaler, split, train
from pixelpath.types import Batch, Views, classes_of


class Bench:
    """One stage: recipe, random data, student, average, optimizer, and the peer. All modes share them, to fit on one device."""

    def __init__(self, settings: Settings, stage: Stage, device: torch.device) -> None:
        self.device, self.batch_size, self.recipe = device, settings.batch, closed_recipe(settings, stage)
        self.stream, self.normaliser = random_stream(self.recipe, settings, device)
        with device:  # drawing hundreds of millions of weights on the CPU takes many seconds
            self.student = student_of(self.recipe, settings.shape, CLASSES)
            self.frozen = representation_of(self.recipe, settings.shape) if self.recipe.needs_encoder else None
            self.peer = peer(self.recipe.size, settings.shape, settings.patch, not self.recipe.is_encoder)
            features = peer(self.recipe.size, settings.shape, settings.patch, False) if self.recipe.needs_encoder else None
            self.peer_frozen = None if features is None else features.requires_grad_(False).eval()
        self.networks = {False: self.student, True: compiled(self.student)}
        self.ema, self.optimizer = twin(self.student), self.recipe.optimizer.build(self.student)
        self.batch = self.stream.batch(0)
        self.ready = self.views(self.batch) if self.recipe.is_encoder else self.batch
        self.noise = normal(Streams(self.batch.seeds, device), settings.shape)
        self.objective = objective_through(self.recipe, self.frozen)
        self.peers = {} if self.peer is None else {False: self.peer, True: compiled(self.peer)}
        self.peer_optimizer = None if self.peer is None else self.recipe.optimizer.build(self.peer)

    def views(self, batch: Batch) -> Views:
        """The views of a batch, as stage one takes them."""
        return augment(batch, self.recipe.augmentation, self.normaliser)

    def steps(self, mode: Mode) -> Iterator[Step]:
        """The library's own training, a step at a time, without end."""
        plain = self.stream.batches(0)
        return train(
            self.networks[mode.compiled],
            self.ema,
            self.objective,
            self.optimizer,
            self.recipe.schedule,
            map(self.views, plain) if self.recipe.is_encoder else plain,
            first=0,
            steps=self.recipe.steps,
            ema_decay=self.recipe.ema_decay,
            seed=self.recipe.seed,
            clip=self.recipe.optimizer.limit,
            precision=mode.dtype,
            scaler=loss_scaler(mode.dtype, self.device),
        )

    def network(self, mode: Mode) -> Callable[[int], None]:
        """Networks, loss, gradients and optimizer over the first images of the ready batch, as many as asked for."""
        student = self.networks[mode.compiled].train()

        def call(count: int) -> None:
            ready, noise = split(self.ready, self.batch_size // count)[0], self.noise[:count]
            self.optimizer.zero_grad()
            with mode.autocast(self.device):
                loss = own_loss(self, student, ready, noise)
            loss.backward()
            self.optimizer.step()

        return call

    def rival(self, optimizer: torch.optim.Optimizer, mode: Mode) -> Callable[[int], None]:
        """The same of the peer."""
        network = self.peers[mode.compiled].train()

        def call(count: int) -> None:
            ready, noise = split(self.ready, self.batch_size // count)[0], self.noise[:count]
            optimizer.zero_grad()
            with mode.autocast(self.device):
                loss = peer_loss(self, network, ready, classes_of(self.batch.labels)[:count], noise)
            loss.backward()
            optimizer.step()

        return call

    def bytes(self) -> dict[str, int]:
        """Bytes of what a run keeps between two steps; gradients and moments are there once a step was taken."""
        return {**kept(self.student, self.optimizer), "average_bytes": storage(tensors(self.ema))}


def random_stream(recipe: Recipe, settings: Settings, device: torch.device) -> tuple[Batches, Normaliser]:
    """Batches of random 8-bit images, as many as two batches hold, from memory."""
    source = np.random.RandomState(0)
    shape = settings.shape if settings.channels > 1 else settings.shape[1:]
    images = source.randint(0, 256, (2 * settings.batch, *shape), dtype=np.uint8)
    labels = np.arange(len(images)) % CLASSES
    names, everything = tuple(map(str, range(CLASSES))), DataSettings(held_out_share=0.0)
    found, _ = from_arrays(images, labels, names, layout="channels_first", settings=everything)
    normaliser = Normaliser.fit(found)
    return Batches(found, normaliser, settings.batch, recipe.seed, device, flip=recipe.flip), normaliser


def own_loss(bench: Bench, student: nn.Module, ready: Batch | Views, noise: Tensor) -> Tensor:
    """The loss of the recipe's objective at one middling level, nothing drawn."""
    recipe, objective = bench.recipe, bench.recipe.objective
    if isinstance(objective, RepresentationLearning):
        assert isinstance(ready, Views)
        high, low = recipe.noise.grid(21)[10:12].tolist()
        consistency = objective.consistency(student, ready, noise, (high, low), 0.1)
        return (objective.contrast(student, bench.ema, ready, noise) + consistency).mean()
    assert isinstance(ready, Batch)
    sigma, drop = torch.ones_like(noise[:, 0, 0, 0]), noise[:, 0, 0, 0] > 1.28
    if isinstance(objective, Consistency):
        terms = objective.terms(student, student, ready, Pairs(noise, sigma, 0.9 * sigma, drop), bench.frozen)
        return torch.stack(terms).sum(0).mean()
    assert isinstance(objective, Denoising)
    weight = objective.weight(sigma, recipe.noise)
    return (weight * objective.errors(student, ready, noise, sigma, drop)).mean()


def peer_loss(bench: Bench, network: nn.Module, ready: Batch | Views, labels: Tensor, noise: Tensor) -> Tensor:
    """As many passes as ours takes, of the same kinds.

    Squared error of one pass; for one step that of two passes, one without gradients, and the contrast of the features of a
    frozen network, if ours has it; in stage one the three contrasts of six passes, three without gradients.
    """
    sigma = torch.ones_like(noise[:, 0, 0, 0])
    noisy = ready.images + expand(sigma, noise) * noise
    if isinstance(ready, Views):
        return _contrasts(network, ready, noisy, labels, noise)
    estimate, target = network(noisy, sigma, labels).float(), ready.images
    if isinstance(bench.recipe.objective, Consistency):
        with torch.no_grad():
            target = network(ready.images + 0.9 * noise, sigma, labels).float()
    loss = ((estimate - target) ** 2).mean()
    if bench.peer_frozen is None:
        return loss
    with torch.no_grad():
        features = bench.peer_frozen(ready.images, sigma, labels)
    return loss + info_nce(bench.peer_frozen(estimate, sigma, labels), features, 0.2).mean()


def _contrasts(network: nn.Module, ready: Views, noisy: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
    sigma = torch.ones_like(noise[:, 0, 0, 0])
    first, second = ready.first + 0.002 * noise, ready.second + 0.002 * noise
    with torch.no_grad():
        targets = [network(images, sigma, labels) for images in (second, first, noisy)]
    queries = [network(images, sigma, labels) for images in (first, second, noisy)]
    return torch.stack([info_nce(query, target, 0.2) for query, target in zip(queries, targets, strict=True)]).sum(0).mean()


def tensors(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers."""
    return [*module.parameters(), *module.buffers()]


def kept(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Bytes of weights, gradients and optimizer."""
    moments = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    return {"weight_bytes": storage(tensors(module)), "gradient_bytes": storage(gradients), "optimizer_bytes": storage(moments)}


def parts(bench: Bench) -> list[Work]:
    """What a step does beside its networks, each alone; backward and forward are in the work `network`."""
    shape, recipe = bench.batch.images.shape[1:], bench.recipe

    def draw() -> None:
        streams = Streams(bench.batch.seeds, bench.device)
        if isinstance(recipe.objective, Denoising):
            recipe.objective.draw(streams, recipe.noise)
            uniform(streams, ())
        normal(streams, shape)

    found = [
        Work("batch", lambda: bench.stream.batch(1)),
        Work("noise", draw),
        Work("optimizer", bench.optimizer.step),
        Work("ema", lambda: update(bench.ema, bench.student, recipe.ema_decay)),
    ]
    return [*found, Work("views", lambda: bench.views(bench.batch))] if isinstance(bench.student, Representation) else found


@dataclass(frozen=True)
class Counts:
    """Operations of a step and bytes kept between two, of ours and (0 without one) of the peer."""

    own: float
    held: dict[str, int]
    theirs: float = 0.0
    rest: int = 0


def counts(bench: Bench) -> Counts:
    """What one step does and keeps, whatever the mode; takes a few small steps."""
    plain = Mode("float32", False)
    own = operations(bench.network(plain), bench.batch_size, bench.optimizer.step)
    if bench.peer is None or bench.peer_optimizer is None:
        return Counts(own, bench.bytes())
    theirs = operations(bench.rival(bench.peer_optimizer, plain), bench.batch_size, bench.peer_optimizer.step)
    return Counts(own, bench.bytes(), theirs, sum(kept(bench.peer, bench.peer_optimizer).values()))


def works_of(bench: Bench, mode: Mode, counted: Counts) -> tuple[list[Work], list[tuple[str, str]]]:
    """Step, network and peer in one mode, and the pairs of them whose times are compared."""
    count, held = bench.batch_size, sum(counted.held.values())
    works = [
        Work(f"{mode} step", bench.steps(mode).__next__, mode, count, counted.own, held),
        _call(f"{mode} network", bench.network(mode), mode, count, counted.own, held - counted.held["average_bytes"]),
    ]
    pairs = [(f"{mode} step", f"{mode} network")]
    if bench.peer_optimizer is not None:
        rival = bench.rival(bench.peer_optimizer, mode)
        works.append(_call(f"{mode} peer", rival, mode, count, counted.theirs, counted.rest))
        pairs += [(f"{mode} network", f"{mode} peer"), (f"{mode} step", f"{mode} peer")]
    return works, pairs


def stage_results(settings: Settings, stage: Stage, device: torch.device) -> dict[str, Any]:
    """One stage in every mode."""
    bench, chosen = Bench(settings, stage, device), modes(settings, device)
    reference, counted = chosen[0], counts(bench)
    numbers: dict[str, int] = {"parameters": sum(value.numel() for value in bench.student.parameters()), **counted.held}
    if bench.peer is not None:
        numbers |= {"peer_parameters": sum(value.numel() for value in bench.peer.parameters())}
    works = [matmul(mode, device) for mode in chosen if not mode.compiled]
    pairs: list[tuple[str, str]] = []
    for mode in chosen:
        own, compared = works_of(bench, mode, counted)
        works += own
        pairs += compared
        if mode != reference:
            pairs += [(f"{mode} {work}", f"{reference} {work}") for work in ("step", "network")]
    alone = parts(bench)
    pairs += [(part.name, f"{reference} step") for part in alone]
    return {"sizes": numbers, **evaluated([*works, *alone], pairs, settings, device)}


def _call(name: str, call: Callable[[int], None], mode: Mode, count: int, done: float, held: int) -> Work:
    return Work(name, lambda: call(count), mode, count, done, held)


def run(settings: Settings, device: torch.device) -> dict[str, Any]:
    """Both stages, and one step."""
    stages: tuple[Stage, ...] = ("encoder", "diffusion", "onestep")
    return {stage: stage_results(settings, stage, device) for stage in stages}


if __name__ == "__main__":
    main("train_step", run)
