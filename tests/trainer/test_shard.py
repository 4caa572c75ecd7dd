"""One process, two with whole copies (DDP) and two with shares (FSDP2) train the same weights, and read each other's checkpoints.

This file is also the program of the two processes: PORT FOLDER. It forks the second one, as importing torch takes seconds.
"""

from __future__ import annotations

import functools
import gc
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from tests.forking import forked
from tests.ports import free_port
from torch import Tensor, nn
from torch import distributed as dist

from pixelpath import processes, recipes
from pixelpath.models.representation import Representation
from pixelpath.networks.layers import Block
from pixelpath.objectives.features import ContrastiveFeatures
from pixelpath.randomness import Streams, normal, seed_of
from pixelpath.recipes.build import objective_through, representation_of, student_of
from pixelpath.recipes.recipe import ProjectorSize, Recipe, for_data
from pixelpath.recipes.sizes import Blocks, Size
from pixelpath.runs.memory import kept
from pixelpath.trainer import checkpoint
from pixelpath.trainer.checkpoint import NotFiniteError, State
from pixelpath.trainer.ema import twin
from pixelpath.trainer.loop import Step, distribute, train
from pixelpath.trainer.muon import OrthogonalMomentum
from pixelpath.trainer.optimizer import AdamW
from pixelpath.trainer.shard import gathered, shard, share, shared_as, skeleton, whole
from pixelpath.types import Batch, Objective, Views

ROOT = Path(__file__).parents[2]
SHAPE, CLASSES, BATCH, STEPS, HALF = (1, 8, 8), 3, 8, 6, 3
SIZE = Size(Blocks(2, 12, 2), Blocks(2, 20, 2))
PARTS = ("student", "ema")
RESUMED = (("by-one", True), ("by-False", True), ("by-True", False), ("by-True", True))
"""Checkpoints of one process, of whole copies and of shares, and whether what goes on from them is sharded."""


def recipe_of(stage: str) -> Recipe:
    """Small networks, two micro-batches, one activation kept a block, a clipped gradient, a width that two does not divide."""
    made = {"encoder": recipes.digits_encoder, "diffusion": recipes.digits_diffusion, "onestep": recipes.digits_onestep}[stage]()
    made = replace(made, size=SIZE, projector=ProjectorSize(15, 5), batch_size=BATCH, steps=STEPS, activation_checkpointing=True)
    made = replace(made, optimizer=AdamW(lr=1e-4, betas=(0.9, 0.99), clip=0.5), accumulate=1 if stage == "onestep" else 2)
    if made.is_one_step:
        made = replace(made, objective=replace(made.objective, features=ContrastiveFeatures()))
    return for_data(made, *SHAPE[1:])


def batch(recipe: Recipe, index: int) -> Batch | Views:
    """This process's share of the global batch of a step."""
    seeds = tuple(seed_of(7, index, position) for position in range(BATCH))
    images = 0.5 * normal(Streams(seeds), SHAPE)
    labels = torch.arange(BATCH) % CLASSES
    whole = Batch(images, labels, seeds, seed_of(7, index))
    if recipe.is_encoder:
        whole = Views(images, images.flip(3) * 0.9, images.flip(2) * 1.1, seeds, whole.seed)
    size = BATCH // processes.count()
    return whole[processes.rank() * size :][:size]


class Run:
    """Student, EMA and optimizer of a recipe: plain, or shared out among the processes."""

    def __init__(self, stage: str, sharded: bool) -> None:
        self.recipe = recipe_of(stage)
        self.student = student_of(self.recipe, SHAPE, CLASSES)
        self.ema = twin(self.student)
        self.empty = skeleton(self.ema)
        torch.manual_seed(3)
        self.objective = objective_through(self.recipe, representation_of(self.recipe, SHAPE) if stage == "onestep" else None)
        if sharded:
            self.student, self.ema = shard(self.student), shard(self.ema)
        self.optimizer = self.recipe.optimizer.build(self.student)

    def go(self, first: int = 0, last: int = STEPS) -> list[Step]:
        recipe = self.recipe
        batches = (batch(recipe, index) for index in range(first, last))
        return list(
            train(
                distribute(self.student), self.ema, cast(Objective, self.objective), self.optimizer, lambda number, steps: 1.0,
                cast(Iterator[Batch], batches), first=first, steps=last, ema_decay=0.9, seed=5, clip=recipe.optimizer.limit,
                accumulate=1 if recipe.is_encoder else recipe.accumulate,
            )
        )  # fmt: skip

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint holds, whole."""
        moments = {
            f"optimizer.{name}.{kind}": value
            for name, parameter in self.student.named_parameters()
            for kind, value in self.optimizer.state[parameter].items()
        }
        named = {f"{part}.{name}": value for part in PARTS for name, value in vars(self)[part].state_dict().items()}
        return {name: gathered(value).clone() for name, value in {**named, **moments}.items()}


def work(rank: int, port: str, folder: Path) -> None:
    """Everything that two processes do for the tests, saved to the folder."""
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    found: dict[str, object] = {}
    for stage in ("encoder", "diffusion", "onestep"):
        for sharded in (False, True):
            run = Run(stage, sharded)
            steps = run.go()
            tensors = run.tensors()
            found[f"{stage} {sharded}"] = (
                [step.losses["loss"] for step in steps],
                [step.gradient_norm for step in steps],
                tensors,
            )
            if sharded:
                found[f"{stage} sizes"] = (sum(share(each).numel() for each in run.student.parameters()), moments(run))
                found[f"{stage} whole"] = whole(run.ema, run.empty)(torch.ones(2, *SHAPE), torch.ones(2))
    found |= checkpoints(folder) | {"orthogonal": orthogonal(True)}
    torch.save(found, folder / f"{rank}.pt")
    gc.collect()
    processes.barrier()
    dist.destroy_process_group()


def moments(run: Run) -> int:
    """How many numbers this process keeps of the gradients' running means."""
    return sum(share(state["exp_avg"]).numel() for state in run.optimizer.state.values())


def orthogonal(sharded: bool) -> dict[str, Tensor]:
    """A block after three steps of orthogonal momentum on given gradients, and the momentum."""
    torch.manual_seed(3)
    block = nn.Sequential(Block(6, 2))
    if sharded:
        shard(block)
    matrices = {name: value for name, value in block.named_parameters() if value.ndim == 2}
    optimizer = OrthogonalMomentum(list(matrices.values()), 0.1, 0.01, 0.9, torch.float32)
    for _ in range(3):
        for matrix in matrices.values():
            matrix.grad = shared_as(torch.randn(matrix.shape), matrix)
        optimizer.step()
    momentum = {f"momentum {name}": optimizer.state[matrix]["momentum_buffer"] for name, matrix in matrices.items()}
    return {name: gathered(value) for name, value in {**matrices, **momentum}.items()}


def checkpoints(folder: Path) -> dict[str, object]:
    """Half of the steps and a checkpoint in either way, and the rest from the checkpoint of the other way, and of one process."""
    found: dict[str, object] = {}
    for sharded in (False, True):
        half = Run("diffusion", sharded)
        half.go(0, HALF)
        checkpoint.save(folder / f"by-{sharded}", State(HALF, 5), half.student, half.ema, half.optimizer)
        processes.barrier()
    for origin, sharded in RESUMED:
        run = Run("diffusion", sharded)
        checkpoint.load(folder / origin / "checkpoints" / f"step-{HALF:08d}", run.student, run.ema, run.optimizer)
        run.go(HALF)
        found[f"{origin} {sharded}"] = run.tensors()
    broken = Run("diffusion", True)
    with torch.no_grad():
        if processes.rank() == 1:
            share(broken.ema.get_parameter("backbone.decoder.out.weight")).fill_(float("nan"))
    try:
        checkpoint.save(folder / "broken", State(1, 5), broken.student, broken.ema, broken.optimizer)
    except NotFiniteError as error:
        found["broken"] = str(error)
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object], dict[str, object]]:
    """The folder, and what both processes found."""
    folder = tmp_path_factory.mktemp("two")
    half = Run("diffusion", False)
    half.go(0, HALF)
    checkpoint.save(folder / "by-one", State(HALF, 5), half.student, half.ema, half.optimizer)
    words = [sys.executable, "-m", "tests.trainer.test_shard", str(free_port()), str(folder)]
    subprocess.run(words, check=True, timeout=600, cwd=ROOT)
    first, second = (torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1))
    return folder, first, second


def near(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


@functools.cache
def alone(stage: str) -> tuple[Run, list[Step]]:
    """The run of one process after all steps, and these."""
    run = Run(stage, False)
    before = run.tensors()
    steps = run.go()
    assert max(step.gradient_norm for step in steps) > 0.5  # some are clipped
    moved = [(run.tensors()[name] - value).abs().max() for name, value in before.items() if name.startswith("student.")]
    assert max(moved) > 5e-4
    return run, steps


@pytest.mark.parametrize("stage", ["encoder", "diffusion", "onestep"])
@pytest.mark.parametrize("sharded", [False, True])
def test_two_processes_train_the_weights_of_one(stage: str, sharded: bool, runs: tuple) -> None:
    run, steps = alone(stage)
    for found in runs[1:]:
        losses, norms, tensors = found[f"{stage} {sharded}"]
        assert losses == pytest.approx([step.losses["loss"] for step in steps], rel=1e-5)
        assert norms == pytest.approx([step.gradient_norm for step in steps], rel=1e-4)
        near(tensors, run.tensors())
    if sharded:
        count = sum(each.numel() for each in run.student.parameters())
        for place in (0, 1):
            assert sum(found[f"{stage} sizes"][place] for found in runs[1:]) == count
            largest = max(found[f"{stage} sizes"][place] for found in runs[1:])
            assert 5 * 4 * largest == kept(run.student, run.recipe, 2).share < 0.6 * 5 * 4 * count
        expected = run.ema(torch.ones(2, *SHAPE), torch.ones(2))
        expected = expected.projection if isinstance(run.ema, Representation) else expected
        for found in runs[1:]:
            made = found[f"{stage} whole"]
            torch.testing.assert_close(made if isinstance(made, Tensor) else made.projection, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("origin", ["by-one", "by-False", "by-True"])
def test_a_checkpoint_goes_on_with_any_number_of_processes_shared_out_or_not(origin: str, runs: tuple) -> None:
    straight, resumed = alone("diffusion")[0], Run("diffusion", False)
    folder = runs[0] / origin / "checkpoints" / f"step-{HALF:08d}"
    assert checkpoint.good(folder)
    checkpoint.load(folder, resumed.student, resumed.ema, resumed.optimizer)
    resumed.go(HALF)
    near(resumed.tensors(), straight.tensors())
    for found in runs[1:]:
        for _, sharded in [pair for pair in RESUMED if pair[0] == origin]:
            near(found[f"{origin} {sharded}"], straight.tensors())


def test_a_share_that_is_not_finite_is_saved_by_nobody(runs: tuple) -> None:
    for found in runs[1:]:
        assert "backbone.decoder.out.weight of the ema" in found["broken"]
    assert not (runs[0] / "broken").exists()


def test_orthogonal_momentum_of_shares_is_that_of_whole_matrices(runs: tuple) -> None:
    expected = orthogonal(False)
    assert sum(name.startswith("momentum") for name in expected) == 4
    for found in runs[1:]:
        near(found["orthogonal"], expected)


def test_one_process_shares_nothing_out() -> None:
    value = nn.Linear(2, 2).weight
    assert share(value) is value
    assert gathered(value) is value


if __name__ == "__main__":
    torch.set_num_threads(1)
    Run("diffusion", False).go(0, 1)  # so that everything is imported
    forked(lambda rank: work(rank, sys.argv[1], Path(sys.argv[2])))
