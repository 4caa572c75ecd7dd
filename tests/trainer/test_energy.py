"""Joules are the difference of a counter, across the point where it begins again; nothing is told where it cannot be read."""

from pathlib import Path

import pytest
import torch
from tests.trainer.test_journal import step

from pixelpath.trainer.energy import Meter
from pixelpath.trainer.journal import Journal, lines

CPU = torch.device("cpu")


def counting(folder: Path, microjoules: int, package: int = 0) -> None:
    place = folder / f"intel-rapl:{package}"
    place.mkdir(exist_ok=True)
    (place / "energy_uj").write_text(f"{microjoules}\n")
    (place / "max_energy_range_uj").write_text("10000000\n")


def test_packages_are_added_and_a_counter_may_begin_again(tmp_path: Path) -> None:
    counting(tmp_path, 9_000_000)
    counting(tmp_path, 1_000_000, package=1)
    meter = Meter(CPU, tmp_path)
    counting(tmp_path, 9_500_000)
    counting(tmp_path, 3_000_000, package=1)
    assert meter.read() == pytest.approx(0.5 + 2)
    counting(tmp_path, 250_000)
    assert meter.read() == pytest.approx(2.5 + 0.75)


def test_a_machine_that_tells_nothing_is_no_zero(tmp_path: Path) -> None:
    assert Meter(CPU, tmp_path).read() is None
    counting(tmp_path, 1)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("none")
    assert Meter(CPU, tmp_path).read() is None
    assert Meter(torch.device("mps"), tmp_path).read() is None


def test_the_journal_goes_on_from_the_joules_of_earlier_sittings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixelpath.trainer.energy.RAPL", tmp_path)
    run = tmp_path / "run"
    for first, taken in ((0, 2_000_000), (1, 3_000_000)):
        counting(tmp_path, 1_000_000)
        with Journal(run, total=2, first=first, device=CPU) as journal:
            counting(tmp_path, 1_000_000 + taken)
            journal.record(step(first + 1))
    assert [line["joules"] for line in lines(run)] == pytest.approx([2.0, 5.0])
