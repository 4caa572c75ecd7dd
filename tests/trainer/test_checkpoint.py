"""Exact resume, and what is left on the disk after a crash, a damage, or a signal."""

import json
import os
import signal
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from pixelpath.errors import UserError
from pixelpath.randomness import Streams, normal, seed_of
from pixelpath.trainer import checkpoint
from pixelpath.trainer.checkpoint import (
    Corrupted,
    State,
    best,
    complete,
    latest,
    load,
    read,
    read_state,
    restore,
    save,
)
from pixelpath.trainer.ema import twin
from pixelpath.trainer.interruption import Interruption
from pixelpath.trainer.loop import train
from pixelpath.trainer.optimizer import AdamW, Cosine, Muon
from pixelpath.trainer.writer import Writer
from pixelpath.types import Batch, Losses, Views


class Net(nn.Module):
    """A linear map with dropout and running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.drop = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.3)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.linear(self.drop(images.flatten(1))))


Run = tuple[nn.Module, nn.Module, torch.optim.Optimizer]


ADAMW = AdamW(lr=0.05, clip=1.0)


def fresh(seed: int = 3, settings: AdamW | Muon = ADAMW) -> Run:
    torch.manual_seed(seed)
    student = Net()
    return student, twin(student), settings.build(student)


def objective(student: nn.Module, ema: nn.Module, batch: Batch | Views, progress: float) -> Losses:
    return Losses((student(batch.images) - batch.images.flatten(1)).square().mean())


def stream(first: int) -> Iterator[Batch]:
    for index in range(first, 1000):
        seeds = tuple(seed_of(5, index, position) for position in range(6))
        yield Batch(normal(Streams(seeds), (1, 2, 2)), torch.zeros(6, dtype=torch.long), seeds, seed_of(5, index))


def go(run: Run, first: int, last: int) -> None:
    """The steps of indices first, ..., last - 1 of a run of 20."""
    student, ema, optimizer = run
    options = {"first": first, "steps": 20, "ema_decay": 0.9, "seed": 5, "clip": 1.0}
    list(islice(train(student, ema, objective, optimizer, Cosine(3), stream(first), **options), last - first))


def everything(run: Run) -> dict[str, Tensor]:
    """All tensors of student, EMA and optimizer."""
    student, ema, optimizer = run
    moments = {f"{key}/{name}": v for key, state in optimizer.state_dict()["state"].items() for name, v in state.items()}
    named = {"student": student.state_dict(), "ema": ema.state_dict(), "optimizer": moments}
    return {f"{whole}.{name}": value.clone() for whole, tensors in named.items() for name, value in tensors.items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("settings", [ADAMW, Muon(lr=0.05, clip=1.0)])
def test_ten_steps_saved_and_ten_more_are_twenty(settings: AdamW | Muon, tmp_path: Path) -> None:
    whole, part, resumed = (fresh(seed, settings) for seed in (3, 3, 99))
    go(whole, 0, 20)
    go(part, 0, 10)
    state = State(10, seed=5, seconds=1.5, skipped=2, value=0.25, scaler={"scale": 65536.0, "growth_interval": 2000})
    folder = save(tmp_path, state, *part, extras={"recipe": {"name": "toy"}})
    assert load(folder, *resumed) == state
    assert same(everything(resumed), everything(part))
    go(resumed, 10, 20)
    assert same(everything(resumed), everything(whole))
    assert not same(everything(part), everything(whole))


def test_a_checkpoint_of_step_zero_has_no_moments_yet(tmp_path: Path) -> None:
    run, resumed = fresh(), fresh(seed=99)
    load(save(tmp_path, State(0, seed=5), *run), *resumed)
    go(run, 0, 3)
    go(resumed, 0, 3)
    assert same(everything(resumed), everything(run))


def test_documents_come_back_and_the_state_says_what_wrote_it(tmp_path: Path) -> None:
    folder = save(tmp_path, State(7, seed=5, value=float("nan")), *fresh(), extras={"recipe": {"lr": 1e-4, "name": "ä"}})
    assert folder == tmp_path / "checkpoints" / "step-00000007"
    assert read(folder, "recipe") == {"lr": 1e-4, "name": "ä"}
    document = json.loads((folder / "state.json").read_text())
    assert document["versions"]["torch"] == str(torch.__version__)
    assert read_state(folder).value is None
    assert set(document["files"]) == {"student.safetensors", "ema.safetensors", "optimizer.safetensors", "recipe.json"}


def test_the_last_and_the_best_are_kept(tmp_path: Path) -> None:
    run = fresh()
    for step, value in enumerate((0.9, 0.3, 0.5, None, 0.4, 0.6), start=1):
        save(tmp_path, State(step, seed=5, value=value), *run, keep=2)
    assert [path.name for path in complete(tmp_path)] == ["step-00000002", "step-00000005", "step-00000006"]
    assert best(tmp_path) == tmp_path / "checkpoints" / "step-00000002"
    assert latest(tmp_path) == tmp_path / "checkpoints" / "step-00000006"
    assert len(list((tmp_path / "checkpoints").iterdir())) == 3


def test_a_run_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    assert best(tmp_path) is None
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load(tmp_path / "checkpoints" / "step-00000001", *fresh())
    with pytest.raises(UserError) as caught:
        save(tmp_path, State(1, seed=5), *fresh(), keep=0)
    assert caught.value.setting == "keep"


def test_the_same_step_again_replaces(tmp_path: Path) -> None:
    run, other = fresh(), fresh(seed=4)
    save(tmp_path, State(1, seed=5), *run)
    folder = save(tmp_path, State(1, seed=5, value=0.5), *other)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
    assert load(folder, *run).value == 0.5
    assert same(everything(run), everything(other))


def die_at(call: int, run: Run, folder: Path) -> int:
    """Save in a child process that kills itself at the given call that touches the disk; its exit status."""
    if child := os.fork():
        return os.waitpid(child, 0)[1]
    calls = 0
    real = {name: os.__dict__[name] for name in ("fsync", "rename", "close")}

    def counted(name: str):
        def wrapped(*arguments: object) -> object:
            nonlocal calls
            calls += 1
            if calls == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return real[name](*arguments)

        return wrapped

    for name in real:
        setattr(os, name, counted(name))
    try:
        save(folder, State(2, seed=5), *run)
    finally:
        os._exit(0)


def test_death_in_the_middle_of_a_save_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    old, new, seen = fresh(), fresh(), fresh(seed=99)
    go(old, 0, 1)
    go(new, 0, 2)
    save(tmp_path, State(1, seed=5), *old)
    written, call = [], 0
    while True:
        call += 1
        status = die_at(call, new, tmp_path)
        folder = latest(tmp_path)
        assert folder is not None
        load(folder, *seen)
        assert same(everything(seen), everything(new if folder.name == "step-00000002" else old))
        written.append(folder.name)
        if status == 0:
            break
        if folder.name == "step-00000002":  # begin again from the old one alone
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
    assert set(written) == {"step-00000001", "step-00000002"}
    assert len(written) > 8
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000001", "step-00000002"]


@pytest.mark.parametrize("name", ["student.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("harm", ["cut", "flip", "gone"])
def test_damage_is_named_together_with_the_last_good_one(tmp_path: Path, name: str, harm: str) -> None:
    run = fresh()
    go(run, 0, 1)
    for step in (1, 2, 3):
        save(tmp_path, State(step, seed=5), *run)
    folders = complete(tmp_path)
    (folders[1] / "student.safetensors").unlink()
    damage(folders[2] / name, harm)
    with pytest.raises(Corrupted) as caught:
        load(folders[2], *run)
    assert str(folders[2] / name) in str(caught.value)
    assert str(folders[0]) in str(caught.value)
    assert str(folders[1]) not in str(caught.value)


def damage(file: Path, harm: str) -> None:
    content = bytearray(file.read_bytes())
    if harm == "gone":
        file.unlink()
    elif harm == "cut":
        file.write_bytes(content[: len(content) // 2])
    else:
        content[0 if file.suffix == ".json" else -3] ^= 1
        file.write_bytes(content)


@pytest.mark.parametrize("part", ["student", "ema", "optimizer"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_what_is_not_finite_is_neither_saved_nor_opened(
    part: str, value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, ema, optimizer = fresh()
    go((student, ema, optimizer), 0, 1)
    save(tmp_path, State(1, seed=5), student, ema, optimizer)
    with torch.no_grad():
        if part == "optimizer":
            next(iter(optimizer.state.values()))["exp_avg"].view(-1)[2] = value
        else:
            next({"student": student, "ema": ema}[part].parameters()).view(-1)[2] = value
    with pytest.raises(checkpoint.NotFiniteError, match=part):
        save(tmp_path, State(2, seed=5), student, ema, optimizer)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_not_finite", lambda tensors: "")  # as versions before this one saved it
        folder = save(tmp_path, State(2, seed=5), student, ema, optimizer)
    with pytest.raises(Corrupted) as caught:
        load(folder, *fresh())
    assert str(folder / f"{part}.safetensors") in str(caught.value)
    assert str(tmp_path / "checkpoints" / "step-00000001") in str(caught.value)


def test_finite_values_whose_sum_is_not_are_saved_and_opened(tmp_path: Path) -> None:
    run = fresh()
    with torch.no_grad():
        weight = max(run[0].parameters(), key=torch.numel)
        weight.fill_(3e38)
    assert not weight.sum().isfinite()
    folder = save(tmp_path, State(1, seed=5), *run)
    load(folder, *(resumed := fresh(seed=99)))
    assert same(everything(resumed), everything(run))


def test_no_good_checkpoint_left(tmp_path: Path) -> None:
    folder = save(tmp_path, State(1, seed=5), *fresh())
    (folder / "ema.safetensors").write_bytes(b"nothing")
    with pytest.raises(Corrupted, match="start a new run"):
        load(folder, *fresh())


def test_loads_are_strict(tmp_path: Path) -> None:
    student, ema, optimizer = fresh()
    go((student, ema, optimizer), 0, 1)
    folder = save(tmp_path, State(1, seed=5), student, ema, optimizer)
    other = nn.ModuleDict({"linear": nn.Linear(4, 5), "extra": nn.Linear(2, 2)})
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(UserError, match=r"student\.safetensors") as caught:
        restore(other, folder / "student.safetensors")
    sentence = str(caught.value)
    assert "2 missing (extra.weight, extra.bias)" in sentence
    assert "5 unexpected" in sentence
    assert "linear.bias (4,) instead of (5,)" in sentence
    assert "linear.weight (4, 4) instead of (5, 4)" in sentence
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_another_set_of_trained_parameters_is_refused(tmp_path: Path) -> None:
    run, (student, ema, _) = fresh(), fresh()
    go(run, 0, 1)
    folder = save(tmp_path, State(1, seed=5), *run)
    student.get_submodule("linear").requires_grad_(False)
    with pytest.raises(ValueError, match=r"2 unexpected .linear"):
        load(folder, student, ema, AdamW(lr=0.05).build(student))


def test_what_another_optimizer_kept_is_refused(tmp_path: Path) -> None:
    """The kernels of a pixel head had AdamW beside Muon once."""
    run, (student, ema, _) = fresh(), fresh()
    go(run, 0, 1)
    folder = save(tmp_path, State(1, seed=5), *run)
    with pytest.raises(UserError, match=r"optimizer\.safetensors keeps what another optimizer needs of linear\.weight, as older"):
        load(folder, student, ema, Muon(lr=0.05).build(student))


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fresh()
    save(tmp_path, State(1, seed=5), *run)

    def full(*arguments: object, **options: object) -> None:
        raise checkpoint.SafetensorError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(OSError, match="free some space"):
            save(tmp_path, State(2, seed=5), *run)
    assert latest(tmp_path) == tmp_path / "checkpoints" / "step-00000001"
    save(tmp_path, State(3, seed=5), *run)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_and_the_second_interrupts(number: signal.Signals) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interruption() as interruption:
        assert not interruption.asked()
        os.kill(os.getpid(), number)
        assert interruption.asked()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            interrupt_once_more()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def interrupt_once_more() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1)


def test_a_checkpoint_whose_replacement_failed_gets_its_name_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fails between the two renames that replace a step: the next save must not clear the old one away."""
    run, other = fresh(), fresh(seed=4)
    folder = save(tmp_path, State(1, seed=5, value=0.5), *run)
    real, calls = os.rename, []

    def second_fails(source: object, target: object) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise OSError("no")
        real(str(source), str(target))

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", second_fails)
        with pytest.raises(OSError, match="no"):
            save(tmp_path, State(1, seed=5), *other)
    assert not folder.exists()
    save(tmp_path, State(2, seed=5), *other)
    assert load(folder, *fresh()).value == 0.5


def test_what_is_merely_called_like_a_checkpoint_is_none(tmp_path: Path) -> None:
    folder = save(tmp_path, State(3, seed=5), *fresh())
    parent = folder.parent
    (parent / "step-00000007").write_text("a file")
    (parent / "step-00000008").symlink_to(parent / "step-00000008")
    (parent / "step-²").mkdir()
    assert complete(tmp_path) == [folder]
    folder.rename(parent / "step-00000009")
    assert not checkpoint.good(parent / "step-00000009")
    with pytest.raises(Corrupted, match="it is of step 3"):
        read_state(parent / "step-00000009")


def test_a_checkpoint_is_written_as_the_run_was_when_it_began(tmp_path: Path) -> None:
    """Training goes on while it is written, and what goes wrong is raised by the next call."""
    run, resumed = fresh(), fresh(seed=99)
    go(run, 0, 2)
    before = everything(run)
    writing, done = Event(), Event()
    store = checkpoint._store

    def slow(*given: Any) -> None:
        writing.set()
        assert done.wait(20)
        store(*given)

    with patch("pixelpath.trainer.checkpoint._store", slow), Writer() as writer:
        writer.save(tmp_path, State(2, seed=5), (run[0], run[1]), run[2], {}, 3)
        assert writing.wait(20)
        writer.check()
        go(run, 2, 4)
        assert complete(tmp_path) == []
        done.set()
    (folder,) = complete(tmp_path)
    load(folder, *resumed)
    assert same(everything(resumed), before)
    assert not same(everything(run), before)
    with patch("pixelpath.trainer.checkpoint._store", side_effect=OSError("no room")):
        writer.save(tmp_path, State(4, seed=5), (run[0], run[1]), run[2], {}, 3)
        with pytest.raises(OSError, match="no room"):
            writer.wait()
    assert complete(tmp_path) == [folder]
