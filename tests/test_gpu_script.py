"""The script for a GPU at toy size on the CPU, and what it does when memory, time, data, the peer or the GPU are missing."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks import gpu, gpu_cifar, gpu_speed, peer
from benchmarks.gpu import Part, Results
from benchmarks.gpu_table import markdown
from PIL import Image

from pixelpath.errors import UserError


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """CIFAR-10's file of JPEG bytes, with 40 and 20 images of noise."""
    drawn, file, found = np.random.default_rng(0), tmp_path / "cifar10.npz", {}
    for side, count in (("train", 40), ("test", 20)):
        pictures = []
        for _ in range(count):
            Image.fromarray(drawn.integers(0, 256, (32, 32, 3), np.uint8)).save(stream := io.BytesIO(), "JPEG")
            pictures.append(stream.getvalue())
        found[f"{side}_jpeg"] = np.frombuffer(b"".join(pictures), np.uint8)
        found[f"{side}_offsets"] = np.cumsum([0, *map(len, pictures)])
        found[f"{side}_labels"] = np.arange(count) % 10
    np.savez(file, **found)
    return file


def results(out: Path) -> Results:
    about = {"device": "toy", "torch": "0", "diffusers": None}
    return Results(out, {"machine": about, "seconds": 0.0})


def outcomes(parts: list[Part], out: Path, limit: float = 60.0) -> dict[str, Any]:
    """The parts of the JSON file once they were run."""
    gpu.run_all(parts, results(out), limit)
    return json.loads(out.read_text(encoding="utf-8"))["parts"]


def row(**values: float) -> dict[str, Any]:
    return {"work": "toy", "mode": "eager", "batch": 4, "seconds": {"median": 0.5}, "images_per_second": 8.0, **values}


def test_the_script_runs_at_toy_size_and_its_table_has_the_numbers(photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "gpu.json"
    gpu.main(out, photographs, 5.0, only=("nano-onestep", "nano-sampling", "waits", "cifar10"), toy=True)
    found = json.loads(out.read_text(encoding="utf-8"))
    parts, text = found["parts"], out.with_suffix(".md").read_text(encoding="utf-8")
    assert {name: part["status"] for name, part in parts.items()} == {
        "waits": "skipped: only CUDA tells when the host waits",
        "nano-sampling": "done",
        "cifar10": "done",
        "nano-onestep": "done",
    }
    speeds = parts["nano-onestep"]["rows"]
    assert [row["work"] for row in speeds] == ["onestep step", "onestep network", "onestep peer"]
    assert all(row["operations"] > 0 and row["peak_bytes"] > row["held_bytes"] > 0 for row in speeds)
    assert set(speeds[0]["ratios"]) == {f"float32 eager step / float32 eager {other}" for other in ("network", "peer")}
    samples = parts["nano-sampling"]["rows"]
    assert [row["operations"] / samples[0]["operations"] for row in samples] == pytest.approx([1, 7, 32])
    curve = parts["cifar10"]["rows"]
    names = [f"{kind} from {origin}" for kind in ("diffusion", "onestep") for origin in ("stage one", "scratch")]
    assert list(dict.fromkeys(row["arm"] for row in curve)) == names
    last = [max(row["trained"] for row in curve if row["arm"] == name) for name in names]
    plan = gpu_cifar.Plan(scale=gpu.TOY)
    assert all(spent >= gpu.TOY * (plan.stage_one + plan.arm) for spent in last)
    assert all(row["distance"] > 0 for row in curve)
    assert f"{speeds[0]['utilisation']['median']:.1%}" in text
    assert f"{curve[-1]['distance']:.4g}" in text


def test_a_part_that_fails_is_told_and_the_next_begins(tmp_path: Path) -> None:
    def breaks(batch: int, rows: list[Any]) -> None:
        rows.append(row())
        raise RuntimeError("CUDA error: an illegal access\nmore of it")

    found = outcomes([Part("first", 9, breaks), Part("second", 9, lambda batch, rows: rows.append(row()))], tmp_path / "r.json")
    assert found["first"]["status"] == "failed: RuntimeError: CUDA error: an illegal access"
    assert found["second"]["status"] == "done"
    assert [len(part["rows"]) for part in found.values()] == [1, 1]


def test_less_memory_means_a_smaller_batch(tmp_path: Path) -> None:
    tried = []

    def small(batch: int, rows: list[Any]) -> None:
        tried.append(batch)
        rows.append(row(batch=batch))
        if batch > 8:
            raise torch.OutOfMemoryError

    def never(batch: int, rows: list[Any]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    found = outcomes([Part("fits", 9, small, 32), Part("never", 9, never, 32), Part("none", 9, never)], tmp_path / "r.json")
    assert tried == [32, 16, 8]
    assert found["fits"]["status"] == "done (a batch of 16 did not fit)"
    assert [row["batch"] for row in found["fits"]["rows"]] == [8]
    assert found["never"]["status"] == found["none"]["status"] == "failed: OutOfMemoryError: CUDA out of memory."


def test_what_a_part_leaves_goes_to_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(gpu.time, "monotonic", lambda: now[0])
    given: list[float] = []
    monkeypatch.setattr(gpu, "alarm", lambda seconds: nullcontext(given.append(seconds)))

    def spends(seconds: float) -> Callable[[int, list[Any]], None]:
        def run(batch: int, rows: list[Any]) -> None:
            now[0] += seconds

        return run

    parts = [Part(name, seconds, spends(spent)) for name, seconds, spent in (("a", 20, 5), ("b", 30, 40), ("c", 50, 80))]
    found = outcomes([*parts, Part("late", 900, spends(1))], tmp_path / "r.json", limit=110)
    assert given == [20, 45, 55]
    assert [part["status"] for part in found.values()] == ["done", "done", "done", "no time left"]
    assert [part["seconds"] for part in found.values()] == [5, 40, 80, 0]
    assert "no time left" in (tmp_path / "r.md").read_text(encoding="utf-8")


def test_a_part_ends_by_the_clock(tmp_path: Path) -> None:
    def endless(batch: int, rows: list[Any]) -> None:
        rows.append(row())
        while True:
            try:
                time.sleep(0.01)
            except Exception:
                continue

    found = outcomes(
        [Part("endless", 0.3, endless), Part("next", 60, lambda batch, rows: rows.append(row()))], tmp_path / "r.json"
    )
    assert found["endless"]["status"].startswith("out of time")
    assert [len(part["rows"]) for part in found.values()] == [1, 1]
    assert found["next"]["status"] == "done"


def test_an_interruption_leaves_what_is_known(tmp_path: Path) -> None:
    def interrupted(batch: int, rows: list[Any]) -> None:
        rows.append(row())
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    parts = [
        Part("before", 9, lambda batch, rows: rows.append(row())),
        Part("half", 9, interrupted),
        Part("after", 9, interrupted),
    ]
    with pytest.raises(KeyboardInterrupt):
        gpu.run_all(parts, results(tmp_path / "r.json"), 60)
    found = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["parts"]
    assert {name: part["status"] for name, part in found.items()} == {"before": "done", "half": "interrupted"}
    assert len(found["half"]["rows"]) == 1


def test_data_peer_and_gpu_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for data in (None, tmp_path / "nothing.npz"):
        with pytest.raises(gpu_speed.Skipped):
            gpu_cifar.run(data, tmp_path, torch.device("cpu"), gpu_cifar.Plan(), 0, [])
    with pytest.raises(UserError, match="nano-sampling"):
        gpu.main(tmp_path / "r.json", only=("nothing",), toy=True)

    def absent(stack: Any) -> Any:
        raise ImportError("No module named 'diffusers'")

    monkeypatch.setattr(peer, "_blocks", absent)
    gpu.main(tmp_path / "r.json", only=("nano-diffusion",), toy=True)
    found = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["parts"]["nano-diffusion"]
    assert [row["work"] for row in found["rows"]] == ["diffusion step", "diffusion network"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU where there is none")
def test_a_mistake_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu"])
    assert gpu.program() == 2
    said = capsys.readouterr()
    assert said.err.startswith("This measures a CUDA GPU")
    assert len(said.err.splitlines()) == 1
    assert not said.out


def test_the_table_has_no_columns_for_what_was_not_measured() -> None:
    text = markdown({"machine": {"device": "toy", "torch": "0", "diffusers": None}, "seconds": 1.0, "parts": {}})
    assert "|" not in text
