"""The benchmarks run, and the operations and bytes they count are those that pencil and paper give."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks import measure, radar, rain, sampling, train_step
from benchmarks.measure import Settings

from pixelpath.networks.encoder import Encoder
from pixelpath.recipes.sizes import NANO

SMALLEST = Settings(batch=4, device="cpu", threads=1, repeats=1, calls=1, steps=2)


def numbers(value: Any) -> Iterator[float]:
    """Every number of a tree."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from numbers(inner)
    elif isinstance(value, int | float):
        yield value


def operations_of_encoder(batch: int, patches: int, values: int, width: int, depth: int) -> float:
    """Two per multiply-add: per block 12 tokens width^2 in linear layers and 2 tokens^2 width in attention; the patches' own."""
    tokens = patches + 2
    return 2.0 * batch * (depth * (12 * tokens * width**2 + 2 * tokens**2 * width) + patches * values * width)


@pytest.mark.parametrize("benchmark", [train_step, sampling])
def test_results_are_finite_and_positive(benchmark: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results.json"
    settings = Settings(**{**SMALLEST.__dict__, "out": out})
    measure.measured("smoke", benchmark.run, settings)
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["machine"]["threads"] == 1
    assert "ratio of times" in capsys.readouterr().out
    for stage in found["stages"].values():
        assert len(stage["works"]) >= 3
        assert stage["ratios"]
        assert all(math.isfinite(number) and number > 0 for number in numbers(stage))


@pytest.mark.parametrize(("pixels", "batch"), [(8, 1), (8, 6), (32, 4)])
def test_counted_operations_of_the_encoder_are_those_of_the_formula(pixels: int, batch: int) -> None:
    stack = NANO.encoder
    encoder = Encoder(1, pixels, pixels, 4, stack.width, stack.depth, stack.heads)
    counted = measure.operations(lambda count: encoder(torch.zeros(count, 1, pixels, pixels), torch.zeros(count)), batch)
    assert counted == pytest.approx(operations_of_encoder(batch, (pixels // 4) ** 2, 16, stack.width, stack.depth), rel=1e-2)


def test_operations_quadratic_in_the_batch_are_counted_exactly() -> None:
    rows = torch.zeros(8, 5)
    assert measure.operations(lambda count: rows[:count] @ rows[:count].T, 8) == 2 * 8 * 8 * 5


def test_peak_of_memory_is_that_of_the_largest_moment() -> None:
    def call() -> None:
        first = torch.ones(1000)
        second = torch.ones(3000)
        del first
        del second
        torch.ones(3500)

    assert measure.transient_peak(call, torch.device("cpu")) == pytest.approx(4 * 4000, abs=64)


def test_bytes_of_a_run_follow_from_its_parameters() -> None:
    bench = train_step.Bench(SMALLEST, "diffusion", torch.device("cpu"))
    bench.network(measure.Mode("float32", False))(4)
    count = 4 * sum(parameter.numel() for parameter in bench.student.parameters())
    found = bench.bytes()
    assert found["weight_bytes"] == found["gradient_bytes"] == found["average_bytes"] == count
    assert found["optimizer_bytes"] == pytest.approx(2 * count, rel=1e-3)


@pytest.mark.parametrize("wrong", [{"batch": 6}, {"repeats": 0}, {"threads": 0}, {"pixels": 9}, {"steps": 0}])
def test_settings_that_cannot_be_measured_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="--"):
        Settings(**wrong)


def write_rain(file: Path) -> None:
    """Images of 64 x 64 pixels in which every other row is dry and rates have a Pareto tail of index 3."""
    chance = np.random.RandomState(0)
    images = chance.pareto(3.0, (8, 1, 64, 64)) * (np.arange(64) % 2)[:, None]
    times = np.array([f"2016010100{image:02}" for image in range(7)])
    np.savez(file, train=images[:7].astype(np.float16), train_time=times, test=images[7:].astype(np.float16))


def test_radar_study_runs_and_every_model_has_the_tails_that_were_measured(tmp_path: Path) -> None:
    write_rain(tmp_path / "rain.npz")
    crops = rain.read(tmp_path / "rain.npz")
    assert [len(part) for part in (crops.training, crops.validation, crops.test)] == [96, 16, 16]
    same = rain.measured(crops.test, crops.test)
    assert {same[f"{what} {part}"] for what in ("pixel", "maximum") for part in rain.QUANTILES} == {0.0}
