"""The benchmarks run, and the operations and bytes they count are those that pencil and paper give."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from benchmarks import (
    conditions,
    fit_kinds,
    law,
    measure,
    radar,
    rain,
    sampling,
    sampling_default,
    step_parts,
    train_step,
    warmstart_images,
)
from benchmarks.measure import Settings
from PIL import Image

from pixelpath import randomness
from pixelpath.data.opening import open_split
from pixelpath.data.settings import DataSettings
from pixelpath.networks.encoder import Encoder
from pixelpath.recipes.sizes import NANO
from pixelpath.runs.measuring.curves import DistanceCurve, DistancePoint

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


def test_operations_of_an_update_do_not_grow_with_the_batch() -> None:
    rows, square = torch.zeros(8, 5), torch.zeros(7, 7)

    def update() -> torch.Tensor:
        return square @ square

    assert measure.operations(lambda count: (rows[:count] @ rows.T, update()), 8, update) == 2 * 8 * 8 * 5 + 2 * 7**3


def test_operations_of_a_step_are_counted_by_their_kind() -> None:
    parts = torch.ones(2, 3, 6, 4, requires_grad=True)
    with step_parts.Times() as times:
        torch.mm(torch.ones(3, 4), torch.ones(4, 5))
        torch.nn.functional.scaled_dot_product_attention(parts, parts, parts).sum().backward()
    products = 2 * 2 * 3 * 6 * 6 * 4  # of queries and keys
    assert times.operations["linear layers"] == 2 * 3 * 4 * 5
    assert times.operations["attention"] == 2 * products + 4 * products
    assert all(value > 0 for value in times.seconds.values())


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
    tables = 4 * sum(buffer.numel() for buffer in bench.student.buffers())
    found = bench.bytes()
    assert found["weight_bytes"] == found["average_bytes"] == count + tables
    assert found["gradient_bytes"] == count
    assert found["optimizer_bytes"] == pytest.approx(2 * count, rel=1e-3)


@pytest.mark.parametrize("wrong", [{"batch": 6}, {"repeats": 0}, {"threads": 0}, {"pixels": 9}, {"steps": 0}])
def test_settings_that_cannot_be_measured_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="--"):
        Settings(**wrong)


def test_rain_is_measured_cut_and_noised_as_its_definitions_say() -> None:
    rates = (torch.randn(200, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 1.5).exp()
    found = rain.measured(2 * rates, rates)
    assert [found[f"{what} {part}"] for what in ("pixel", "maximum") for part in rain.QUANTILES] == pytest.approx([1.0] * 4)
    assert found["spectrum"] == pytest.approx(math.log(4))
    assert found["beyond pixel 0.99"] == pytest.approx(float((2 * rates > rates.flatten().kthvalue(50688).values).sum()) / 512)
    drawn = rain.Model("heavy", False, freedom=8.0).noise(randomness.Streams(range(4000)))
    assert float(drawn.square().mean()) == pytest.approx(1, rel=0.03)
    energy = drawn.square().flatten(1).mean(1) * 8 / 6
    assert float(energy.quantile(0.9)) == pytest.approx(scipy.stats.f(256, 8).ppf(0.9), rel=0.05)


def test_radar_study_runs_and_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(radar, "COLD", (2,))
    monkeypatch.setattr(radar, "WARM", 2)
    monkeypatch.setattr(radar, "SHOWN", {"log-cold-3": "log", "raw-naive-3": "raw"})
    chance, data, out, picture = np.random.RandomState(0), tmp_path / "rain.npz", tmp_path / "out.json", tmp_path / "out.png"
    images = (chance.pareto(3.0, (8, 1, 64, 64)) * (chance.uniform(size=(8, 1, 64, 64)) < 0.4)).astype(np.float16)
    np.savez(data, train=images[:6], train_time=np.arange(6).astype(str), test=images[6:])
    for _ in range(2):
        radar.main(data, out, seeds=(1,), steps=2, samples=32, picture=picture)
        rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
        assert {"test", "training", "log", "raw", "t-EDM"} == {row["model"] for row in rows}
        assert {"cold", "cold-2M", "naive", "gaussian"} <= {row["start"] for row in rows}
        assert {row["evaluations"] for row in rows if row["start"] != "data"} == {3}
        assert all(math.isfinite(number) for number in numbers(rows))
        assert picture.stat().st_size > 10_000
        (tmp_path / "out" / "log-1.pt").unlink(missing_ok=True)
    with pytest.raises(ValueError, match="another --out"):
        radar.main(data, out, seeds=(1,), steps=3, samples=32)


def curve(*points: tuple[float, float]) -> DistanceCurve:
    """A curve of (evaluations, distance)."""
    made = tuple(DistancePoint(1, nfe, distance, distance, 1.0) for nfe, distance in points)
    return DistanceCurve("made", "run", "recipe", 1, "pixels", 0.1, 10, made, {})


def test_the_evaluations_needed_for_a_distance_lie_on_a_power_law_between_points() -> None:
    found = curve((5, 4.0), (10, 1.0), (40, 0.5), (80, 0.5))
    assert warmstart_images.needed(found, 2.0) == pytest.approx(5 * 2**0.5)
    assert warmstart_images.needed(found, 0.5) == pytest.approx(40)
    assert warmstart_images.needed(found, 5.0) == 5
    assert warmstart_images.needed(found, 0.4) == math.inf


def test_the_table_of_warm_starts_compares_runs_at_equal_evaluations() -> None:
    cold, warm = curve((5, 4.0), (20, 1.0)), curve((5, 1.0), (20, 0.9))
    best = curve((5, 2.0), (20, 1.0))
    arms = {"cold Heun": cold, "cold 2M": best, "cold 2M, highest": cold, "warm Heun": warm, "warm 2M": warm}
    each = warmstart_images.Measured("run", arms, {"moment at 1.00": warm}, "moment", 1.0, 2.0, 1234)
    table = warmstart_images.table([each, each])
    assert "| 5 | 4 ± 0 | 2 ± 0 | 4 ± 0 | 1 ± 0 | 1 ± 0 |" in table
    assert "1,234 numbers" in table
    assert f"{warmstart_images.needed(best, 1.05) / 5:.2g} ± 0 times fewer" in table


def test_images_of_the_known_law_have_it_and_others_are_told_apart() -> None:
    known = law.known()
    images = known.draw(400, 3)
    found = law.compare(known, images, images)["samples"]
    assert found["what no mode explains, in deviations"] < 2e-3  # rounding alone
    assert found["largest error of a channel's mean, in its deviations"] < 4 / math.sqrt(400)
    for name in ("smallest", "largest"):
        assert found[f"{name} deviation of a coefficient (1)"] == pytest.approx(1, abs=4 / math.sqrt(2 * 400))
    coefficients = np.random.default_rng(3).normal(size=(400, len(law.MODES)))
    np.testing.assert_allclose(known.coefficients(images.astype(np.float64)), coefficients, atol=0.01)
    wider = known.mean[:, None, None] + 1.2 * (images - known.mean[:, None, None])
    assert law.compare(known, wider, images)["samples"]["smallest deviation of a coefficient (1)"] > 1.1


def test_samples_are_held_against_what_was_asked(tmp_path: Path) -> None:
    (tmp_path / "asked.csv").write_text("light\n-2\n0\n")
    rates = np.array([0.0, 1.0 - conditions.FLOOR, 0.0, 1.0 - conditions.FLOOR])[:, None, None, None]
    np.save(tmp_path / "made.npy", np.broadcast_to(rates, (4, 1, 2, 2)))
    found = conditions.rain(tmp_path / "asked.csv", tmp_path / "made.npy")
    assert found == {"correlation": pytest.approx(1), "median made for asked": {"-2": pytest.approx(-2), "0": pytest.approx(0)}}
    for place in range(2):
        sprite = np.zeros((4, 4, 4), np.uint8)
        sprite[: 2 + place, :, 3] = 255
        (tmp_path / "sprites").mkdir(exist_ok=True)
        Image.fromarray(sprite).save(tmp_path / "sprites" / f"{place:06d}.png")
    conditions.write_masks(tmp_path / "sprites", tmp_path / "masks")
    same = conditions.sprites(tmp_path / "masks", tmp_path / "sprites")
    assert same["own mask"]["mean"] == 1
    assert same["another's mask"]["mean"] == pytest.approx(2 / 3)


def default_of(name: str, **distances: float) -> sampling_default.Measured:
    """A run whose three sets have these distances by 2M, less and more a hundredth, named by their evaluations."""
    sets = {int(nfe[1:]): [0.99 * mean, mean, 1.01 * mean] for nfe, mean in distances.items()}
    return sampling_default.Measured(name, 1.0, 40, sets, {35: [1.0, 2.0, 3.0]}, 0.5)


def test_the_default_is_the_fewest_evaluations_within_two_percent_over_all_runs() -> None:
    """The ratio of 9 evaluations is (1.01 x 1.028)^(1/2) = 1.019 over both runs, that of 7 is (1.01 x 1.04)^(1/2) = 1.025."""
    runs = [default_of("a", n7=2.02, n9=2.02, n12=2.0), default_of("b", n7=1.04, n9=1.028, n12=1.0)]
    best, ratios = sampling_default.choice(runs)
    assert best == 9
    assert ratios == pytest.approx({7: (1.01 * 1.04) ** 0.5, 9: (1.01 * 1.028) ** 0.5, 12: 1.0})
    printed = sampling_default.table(runs)
    assert "| 9 | 2.02 ± 0.02 | 1.028 ± 0.01 | 1.019 |" in printed
    assert "| 35, Heun | 2 ± 1 | 2 ± 1 | |" in printed
    assert printed.endswith("Choice: 9 evaluations.\n")


@pytest.mark.parametrize(
    ("kind", "dtype", "shape", "units"),
    [
        ("photographs", "uint8", (3, 64, 64), ""),
        ("slices", "int32", (1, 256, 256), "HU"),
        ("sea", "float32", (1, 48, 80), "degC"),
        ("tiles", "uint16", (1, 64, 64), ""),
    ],
)
def test_the_images_of_short_fits_are_what_people_have(
    kind: str, dtype: str, shape: tuple[int, int, int], units: str, tmp_path: Path
) -> None:
    path = fit_kinds.KINDS[kind][0](tmp_path, 4, np.random.default_rng(0))
    resize = (64, 64) if kind == "photographs" else None
    settings = DataSettings(path, resize=resize, channels=3 if resize else None, held_out_share=0.0)
    source = open_split(settings)[0]
    assert (len(source), source.dtype.name, source.shape, source.metadata.units) == (4, dtype, shape, units)
    images = np.stack([source[index] for index in range(4)])
    assert len(np.unique(images[:, :, 24, 24], axis=0)) > 1
    if kind == "slices":
        assert np.median(images[..., 0, 0]) == pytest.approx(-1000, abs=30)
        assert abs(np.median(images[..., 128, 128]) - 40) < 40
    if kind == "sea":
        assert (np.isnan(images) == np.isnan(images[:1])).all()
        assert 0.02 < np.isnan(images).mean() < 0.6
