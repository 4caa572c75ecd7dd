"""The parts of `benchmarks.gpu` that measure speed: training steps, sampling, and how often a step waits for the device."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import torch

from benchmarks import sampling, train_step
from benchmarks.measure import Mode, Settings, Stage, Work, evaluated, matmul, operations
from pixelpath.sampling.sampler import Sampler, Sampling

NFE = (1, 7, 32)
WATCHED = 3  # steps in which waits are counted, after as many that set things up
Rows = list[dict[str, Any]]


class Skipped(Exception):  # noqa: N818 (no error)
    """A part that cannot run here, and why."""


def modes(settings: Settings) -> list[Mode]:
    """Every precision eager, and then, if asked for, compiled, which takes longest to set up."""
    return [Mode(name, on) for on in ((False, True) if settings.compile else (False,)) for name in settings.precision]


def training(settings: Settings, stage: Stage, device: torch.device, batch: int, rows: Rows) -> None:
    """Append a row for every mode: the whole step, its networks alone, and the peer, beside a matrix product.

    Peers are compiled last of all, so that their time is not that of our own rows.
    """
    settings = replace(settings, batch=batch)
    bench = train_step.Bench(settings, stage, device)
    counted = train_step.counts(bench)
    about = {"batch": batch, "parameters": sum(value.numel() for value in bench.student.parameters())}
    jobs = [(mode, ("step", "network", "peer")[: 2 if mode.compiled else 3]) for mode in modes(settings)]
    jobs += [(mode, ("step", "network", "peer")) for mode in modes(settings) if mode.compiled and bench.peer is not None]
    known: dict[str, dict[str, Any]] = {}
    for mode, chosen in jobs:
        works, pairs = train_step.works_of(bench, mode, counted)
        works = [work for work in works if work.name.rpartition(" ")[2] in chosen]
        pairs = [pair for pair in pairs if {work.name for work in works}.issuperset(pair)]
        found = evaluated([matmul(mode, device), *works], pairs, settings, device)
        for name in [work.name for work in works]:
            ratios = {pair: ratio for pair, ratio in found["ratios"].items() if pair.startswith(f"{name} /")}
            if name in known:
                known[name]["ratios"] |= ratios
                continue
            work = f"{stage} {name.rpartition(' ')[2]}"
            known[name] = {"work": work, "mode": str(mode), **about, **found["works"][name], "ratios": ratios}
            rows.append(known[name])


def sampling_speed(settings: Settings, device: torch.device, batch: int, rows: Rows) -> None:
    """Append a row for every mode and number of network evaluations: a batch of images by DPM-Solver++(2M), unguided."""
    settings = replace(settings, batch=batch, repeats=2, calls=1)
    bench = sampling.Bench(settings, device)
    ways = {nfe: Sampling(nfe=nfe, sampler=Sampler.DPMPP_2M, guidance=1.0).over(bench.recipe.usual_sampling) for nfe in NFE}
    once = operations(bench.network(Mode("float32", False), 1), batch)
    for mode in modes(settings):
        calls = {nfe: bench.generate(mode, way) for nfe, way in ways.items()}
        works = [Work(f"{nfe}", lambda call=call: call(batch), mode, batch, nfe * once) for nfe, call in calls.items()]
        found = evaluated([matmul(mode, device), *works], [], settings, device)["works"]
        rows += [{"work": f"sampling, {nfe} NFE", "mode": str(mode), "batch": batch, **found[f"{nfe}"]} for nfe in NFE]


def waits(settings: Settings, device: torch.device, batch: int, rows: Rows) -> None:
    """Append a row for every stage: how often a step of the library's own loop makes the host wait for the device, and where.

    Raises Skipped without CUDA, which alone can tell.
    """
    if device.type != "cuda":
        raise Skipped("only CUDA tells when the host waits")
    for stage in ("encoder", "diffusion", "onestep"):
        mode = Mode(settings.precision[0], False)
        steps = train_step.Bench(replace(settings, batch=batch), stage, device).steps(mode)
        for _ in range(WATCHED):
            next(steps)
        places = synchronisations(lambda steps=steps: [next(steps) for _ in range(WATCHED)])
        rows.append(
            {"work": f"{stage} waits", "mode": str(mode), "batch": batch, "waits": len(places) / WATCHED, "where": places}
        )


def synchronisations(call: Any) -> list[str]:
    """The places, FILE:LINE, at which a call made the host wait for the CUDA device, one for each time."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return [f"{each.filename.rpartition('/')[2]}:{each.lineno}" for each in caught if "synchroniz" in str(each.message)]
