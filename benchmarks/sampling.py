"""Sampling: the library's guided Heun, its evaluations of the network alone, and the peer under the same sampler, side by side.

    python -m benchmarks.sampling --size nano --pixels 8 --patch 4 --batch 64 --threads 1 --out results.json

Works: *generate* is all of sampling (starting noise per seed, sampler, guidance, transfer); *network* evaluates the network as
often, and nothing else; *peer* is the DiT blocks of diffusers under the same sampler and guidance. Guidance is the recipe's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.measure import (
    CLASSES,
    Mode,
    Settings,
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
from pixelpath.models.denoiser import Denoiser
from pixelpath.recipes.build import student_of
from pixelpath.runs.generate import Origin, balanced, generate
from pixelpath.sampling.guidance import guide
from pixelpath.sampling.sampler import Sampler, Sampling
from pixelpath.sampling.samplers import heun


class Bench:
    """A denoiser of random weights, its sampling, and the peer."""

    def __init__(self, settings: Settings, device: torch.device) -> None:
        recipe = closed_recipe(settings, "diffusion")
        with device:  # drawing hundreds of millions of weights on the CPU takes many seconds
            student = student_of(recipe, settings.shape, CLASSES)
            other = peer(recipe.size, settings.shape, settings.patch, True)
        assert isinstance(student, Denoiser)
        self.device, self.shape, self.recipe = device, settings.shape, recipe
        self.denoiser = student.requires_grad_(False).eval()
        swift = Denoiser(self.denoiser.backbone, self.denoiser.preconditioning).eval()
        swift.compile()  # in place, so that it still binds labels
        self.denoisers = {False: self.denoiser, True: swift}
        self.origin = Origin(recipe.noise)
        self.sampling = Sampling(steps=settings.steps, sampler=Sampler.HEUN).over(recipe.usual_sampling)
        self.peer = None if other is None else other.requires_grad_(False).eval()
        self.peers = {} if self.peer is None else {False: self.peer, True: compiled(self.peer)}

    def generate(self, mode: Mode, sampling: Sampling | None = None) -> Callable[[int], None]:
        """The library's own sampling of so many images, one batch; None: as the recipe has it."""
        denoiser, chosen = self.denoisers[mode.compiled], sampling or self.sampling

        def call(count: int) -> None:
            seeds = range(count)
            with mode.autocast(self.device):
                for _ in generate(denoiser, self.origin, chosen, seeds, balanced(seeds, CLASSES), count):
                    pass

        return call

    def network(self, mode: Mode, nfe: int) -> Callable[[int], None]:
        """So many evaluations of the denoiser."""
        denoiser = self.denoisers[mode.compiled]

        def call(count: int) -> None:
            noisy, labels = (
                torch.ones(count, *self.shape, device=self.device),
                torch.zeros(count, dtype=torch.int64, device=self.device),
            )
            sigma = torch.ones((), device=self.device)
            with torch.no_grad(), mode.autocast(self.device):
                for _ in range(nfe):
                    denoiser(noisy, sigma, labels)

        return call

    def rival(self, mode: Mode) -> Callable[[int], None]:
        """The peer under the same sampler, levels and guidance; its noise comes from one generator, not one per image."""
        network, sampling, noise = self.peers[mode.compiled], self.sampling, self.origin.noise
        assert sampling.guidance is not None
        assert sampling.guidance_interval is not None
        guidance, levels = sampling.guidance, self.origin.schedule(sampling)
        low, high = (limit * noise.shift for limit in sampling.guidance_interval)

        def call(count: int) -> None:
            labels = balanced(range(count), CLASSES).to(self.device)

            def estimate(noisy: torch.Tensor, sigma: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
                return network(noisy, sigma.to(noisy), known).to(noisy.dtype)

            conditional, reference = (
                functools.partial(estimate, known=known) for known in (labels, torch.full_like(labels, CLASSES))
            )
            x = float(levels[0]) * torch.randn(count, *self.shape, device=self.device)
            with torch.no_grad(), mode.autocast(self.device):
                heun(guide(conditional, reference, guidance, (low, high)), x, levels).cpu()

        return call


def nfe(bench: Bench) -> int:
    """How often one image asks the network."""
    calls = []
    handle = bench.denoiser.backbone.register_forward_hook(lambda *_: calls.append(1))
    bench.generate(Mode("float32", False))(1)
    handle.remove()
    return len(calls)


def run(settings: Settings, device: torch.device) -> dict[str, Any]:
    """Every mode, under the one stage that can be sampled."""
    bench, chosen, count = Bench(settings, device), modes(settings, device), settings.batch
    reference, evaluations, eager = chosen[0], nfe(bench), Mode("float32", False)
    own, held = operations(bench.generate(eager), count), _bytes(bench.denoiser)
    sizes = {"parameters": _count(bench.denoiser), "weight_bytes": held, "steps": bench.sampling.count, "nfe": evaluations}
    works = [matmul(mode, device) for mode in chosen if not mode.compiled]
    pairs: list[tuple[str, str]] = []
    for mode in chosen:
        works.append(_work(f"{mode} generate", bench.generate(mode), mode, count, own, held))
        works.append(_work(f"{mode} network", bench.network(mode, evaluations), mode, count, own, held))
        pairs.append((f"{mode} generate", f"{mode} network"))
        if mode != reference:
            pairs.append((f"{mode} generate", f"{reference} generate"))
    if bench.peer is not None:
        theirs, rest = operations(bench.rival(eager), count), _bytes(bench.peer)
        sizes["peer_parameters"] = _count(bench.peer)
        for mode in chosen:
            works.append(_work(f"{mode} peer", bench.rival(mode), mode, count, theirs, rest))
            pairs.append((f"{mode} generate", f"{mode} peer"))
    return {"diffusion": {"sizes": sizes, **evaluated(works, pairs, settings, device)}}


def _count(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def _bytes(module: nn.Module) -> int:
    return storage([*module.parameters(), *module.buffers()])


def _work(name: str, call: Callable[[int], None], mode: Mode, count: int, done: float, held: int) -> Work:
    return Work(name, lambda: call(count), mode, count, done, held)


if __name__ == "__main__":
    main("sampling", run)
