"""The loop against steps taken by hand, against itself in other divisions of the work, and where numbers fail."""

import gc
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.forking import forked
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional

from pixelpath import processes
from pixelpath.errors import UserError
from pixelpath.randomness import Streams, normal, seed_of
from pixelpath.trainer.ema import twin
from pixelpath.trainer.loop import Diverged, Step, distribute, loss_scaler, split, train
from pixelpath.trainer.optimizer import AdamW, Constant
from pixelpath.types import Batch, Condition, Losses, Objective, Views

ROOT = Path(__file__).parents[2]
SIZE = 8
ACCUMULATED = (1, 2)


def batch(index: int, rank: int = 0, count: int = 1) -> Batch:
    """One process's share of a global batch of eight 1x2x2 images that depend on their seeds alone."""
    share = SIZE // count
    seeds = tuple(seed_of(5, index, position) for position in range(rank * share, (rank + 1) * share))
    labels = torch.arange(rank * share, (rank + 1) * share) % 3
    return Batch(normal(Streams(seeds), (1, 2, 2)), labels, seeds, seed_of(5, index))


def stream(first: int = 0, rank: int = 0, count: int = 1) -> Iterator[Batch]:
    return (batch(index, rank, count) for index in itertools.count(first))


class Net(nn.Module):
    """Two layers on flat images, with dropout of probability `drop`."""

    def __init__(self, drop: float = 0.0) -> None:
        super().__init__()
        self.first, self.drop, self.last = nn.Linear(4, 6), nn.Dropout(drop), nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.drop(functional.gelu(self.first(images.flatten(1)))))


def regression(student: nn.Module, ema: nn.Module, batch: Batch | Views, progress: float) -> Losses:
    """The mean square of what the student adds to the images."""
    error = (student(batch.images).float() - batch.images.flatten(1)).square()
    return Losses(error.mean(), {"largest": error.detach().max()})


def contrast(student: nn.Module, ema: nn.Module, batch: Batch | Views, progress: float) -> Losses:
    """Every image must find its noisy self among those of all processes; the EMA adds a third, detached opinion."""
    noise = normal(Streams(batch.seeds), (1, 2, 2))
    own, others = student(batch.images), processes.gather(student(batch.images + 0.3 * noise))
    with torch.no_grad():
        targets = processes.gather(ema(batch.images) + student(batch.images))
    places = processes.rank() * len(own) + torch.arange(len(own))
    return Losses(functional.cross_entropy(own @ others.T, places) + functional.cross_entropy(own @ targets.T, places))


def fresh(drop: float = 0.0) -> tuple[Net, nn.Module]:
    torch.manual_seed(3)
    student = Net(drop)
    return student, twin(student)


def values(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def run(
    objective: Objective, steps: int, accumulate: int = 1, drop: float = 0.0, first: int = 0
) -> tuple[Tensor, Tensor, list[Step]]:
    student, ema = fresh(drop)
    optimizer = AdamW(lr=0.05).build(student)
    options = {"first": first, "steps": steps, "ema_decay": 0.9, "seed": 5, "accumulate": accumulate}
    taken = list(train(student, ema, objective, optimizer, Constant(2), stream(first), **options))
    return values(student), values(ema), taken


def test_three_steps_by_hand() -> None:
    """Plain gradient descent with a schedule, a clipped norm and an EMA whose decay depends on the step."""
    student, ema = fresh()
    expected, kept = values(student), values(ema)
    copy, _ = fresh()
    limits, norms = {1: None, 2: 0.5, 3: 0.01}, []
    for number in (1, 2, 3):
        loss = (copy(batch(number - 1).images) - batch(number - 1).images.flatten(1)).square().mean()
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(copy.parameters()))])
        norms.append(gradient.norm().item())
        largest = limits[number]
        gradient = gradient if largest is None else gradient * min(1.0, largest / norms[-1])
        expected = expected - 0.3 * min(1, number / 2) * gradient
        torch.nn.utils.vector_to_parameters(expected.clone(), copy.parameters())
        decay = 1 - 1 / (number + 1)
        kept = decay * kept + (1 - decay) * expected
    optimizer = torch.optim.SGD(student.parameters(), lr=0.3)
    taken = list(
        train(
            student, ema, regression, optimizer, Constant(2), stream(),
            first=0, steps=3, ema_decay=lambda number: 1 - 1 / (number + 1), seed=5, clip=lambda number: limits[number],
        )
    )  # fmt: skip
    torch.testing.assert_close(values(student), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(values(ema), kept, rtol=1e-5, atol=1e-6)
    assert [step.number for step in taken] == [1, 2, 3]
    assert [step.gradient_norm for step in taken] == pytest.approx(norms, rel=1e-5)
    assert [step.lr for step in taken] == pytest.approx([0.15, 0.3, 0.3])
    assert [step.images for step in taken] == [SIZE] * 3
    assert set(taken[0].losses) == {"loss", "largest"}
    assert norms[1] > 0.5 or norms[2] > 0.01


def test_micro_batches_equal_the_whole_batch() -> None:
    whole, ema, steps = run(regression, 4)
    for accumulate in (2, 4, 8):
        other, other_average, other_steps = run(regression, 4, accumulate)
        torch.testing.assert_close(other, whole, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(other_average, ema, rtol=1e-5, atol=1e-6)
        assert [s.losses["loss"] for s in other_steps] == pytest.approx([s.losses["loss"] for s in steps], rel=1e-5)
        assert [s.gradient_norm for s in other_steps] == pytest.approx([s.gradient_norm for s in steps], rel=1e-4)


def test_micro_batches_carry_their_own_seeds_and_labels() -> None:
    whole = batch(0)
    parts = split(whole, 2)
    assert [part.seeds for part in parts] == [whole.seeds[:4], whole.seeds[4:]]
    assert all(part.seed == whole.seed for part in parts)
    views = split(Views(whole.images, whole.images + 1, whole.images + 2, whole.seeds, whole.seed), 4)
    assert torch.equal(torch.cat([part.second for part in views if isinstance(part, Views)]), whole.images + 2)
    assert torch.equal(torch.cat([part.first for part in views if isinstance(part, Views)]), whole.images + 1)
    with pytest.raises(UserError) as caught:
        split(whole, 3)
    assert caught.value.setting == "batch_size"


def test_objective_and_schedule_get_the_share_of_the_run() -> None:
    """Progress is index / steps, from 0; the schedule gets the number, from 1, and the length; also after a resume."""
    seen: list[float] = []
    asked: list[tuple[int, int]] = []

    def objective(student: nn.Module, ema: nn.Module, batch: Batch | Views, progress: float) -> Losses:
        seen.append(progress)
        return regression(student, ema, batch, progress)

    def schedule(number: int, steps: int) -> float:
        asked.append((number, steps))
        return 1.0

    student, ema = fresh()
    options = {"first": 2, "steps": 5, "ema_decay": 0.9, "seed": 5}
    list(train(student, ema, objective, AdamW().build(student), schedule, stream(2), **options))
    assert seen == [0.4, 0.6, 0.8]
    assert asked == [(3, 5), (4, 5), (5, 5)]


def test_dropout_is_a_function_of_the_step() -> None:
    first = run(regression, 3, drop=0.5)
    torch.manual_seed(12345)
    torch.randn(100)
    again = run(regression, 3, drop=0.5)
    assert torch.equal(first[0], again[0])
    masks: list[Tensor] = []

    def masking(student: nn.Module, ema: nn.Module, batch: Batch | Views, progress: float) -> Losses:
        masks.append(torch.rand(4))
        return regression(student, ema, batch, progress)

    run(masking, 3)
    run(masking, 3, first=2)
    assert not torch.equal(masks[0], masks[1])
    assert torch.equal(masks[3], masks[2])


def test_a_step_that_is_not_finite_leaves_no_trace() -> None:
    """Weights, EMA, moments and the running statistics of BatchNorm are those of a run without that step."""

    class Normed(Net):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def forward(self, images: Tensor) -> Tensor:
            return self.norm(super().forward(images))

    def attempt(broken: bool) -> tuple[dict[str, Tensor], list[Step]]:
        torch.manual_seed(3)
        student = Normed()
        ema, optimizer = twin(student), AdamW(lr=0.05).build(student)
        bad = Batch(torch.full((SIZE, 1, 2, 2), float("nan")), batch(0).labels, batch(0).seeds, 0)
        order = [batch(0), bad, batch(1)] if broken else [batch(0), batch(1)]
        options = {"first": 0, "steps": len(order), "ema_decay": 0.9, "seed": 5}
        taken = list(train(student, ema, regression, optimizer, Constant(), iter(order), **options))
        moments = {str(number): state["exp_avg_sq"] for number, state in enumerate(optimizer.state.values())}
        kept = {f"average.{name}": value for name, value in ema.state_dict().items()}
        return {**student.state_dict(), **kept, **moments}, taken

    (with_it, taken), (without, _) = attempt(True), attempt(False)
    assert [step.skipped for step in taken] == [False, True, False]
    for name, value in without.items():
        assert torch.equal(with_it[name], value), name


def exploding(student: nn.Module, ema: nn.Module, batch: Batch | Views, progress: float) -> Losses:
    """A finite loss with an infinite gradient at every step but the fifth of 100."""
    losses = regression(student, ema, batch, progress)
    return losses if progress == 0.04 else Losses(losses.total + (student(batch.images) * 0).abs().sum().sqrt())


def test_ten_skipped_steps_in_a_row_end_the_run() -> None:
    student, ema = fresh()
    before, taken = values(student), []
    optimizer = torch.optim.SGD(student.parameters(), lr=0.0)
    steps = train(student, ema, exploding, optimizer, Constant(), stream(), first=0, steps=100, ema_decay=0.5, seed=5)
    with pytest.raises(Diverged) as caught:
        taken.extend(steps)
    assert [step.number for step in taken if not step.skipped] == [5]
    assert caught.value.step.number == len(taken) == 15
    assert caught.value.step.losses["loss"] < 100
    assert torch.equal(values(student), before)
    assert "no checkpoint had been written" in str(caught.value)
    caught.value.checkpoint = Path("run/checkpoints/step-00000004")
    assert "step-00000004" in str(caught.value)
    assert "15" in str(caught.value)


def test_half_precision_trains_close_to_float32() -> None:
    reference, _, exact = run(regression, 3)
    for precision in (torch.bfloat16, torch.float16):
        student, ema = fresh()
        scaler = loss_scaler(precision, torch.device("cpu"))
        assert (scaler is None) == (precision == torch.bfloat16)
        optimizer = AdamW(lr=0.05).build(student)
        options = {"first": 0, "steps": 3, "ema_decay": 0.9, "seed": 5, "precision": precision, "scaler": scaler}
        taken = list(train(student, ema, regression, optimizer, Constant(2), stream(), **options))
        assert not any(step.skipped for step in taken)
        assert [s.gradient_norm for s in taken] == pytest.approx([s.gradient_norm for s in exact], rel=0.05)
        assert not torch.equal(values(student), reference)
        assert student.first.weight.dtype == torch.float32


def test_an_overflowing_loss_scale_is_lowered() -> None:
    student, ema = fresh()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    options = {"first": 0, "steps": 2, "ema_decay": 0.9, "seed": 5, "precision": torch.float16, "scaler": scaler}
    taken = list(train(student, ema, regression, AdamW(lr=0.05).build(student), Constant(), stream(), **options))
    assert taken[0].skipped
    assert scaler.get_scale() <= 2.0**126


def test_settings_that_do_not_go_together_are_refused() -> None:
    student, ema = fresh()
    options = {"first": 0, "steps": 3, "ema_decay": 0.9, "seed": 5}
    optimizer = AdamW(lr=0.05).build(student)
    with pytest.raises(ValueError, match="loss scaler"):
        next(train(student, ema, regression, optimizer, Constant(), stream(), precision=torch.float16, **options))
    with pytest.raises(ValueError, match="batches ended before the step of index 1"):
        list(train(student, ema, regression, optimizer, Constant(), iter([batch(0)]), **options))


def test_evaluation_between_steps_does_not_disturb() -> None:
    student, ema = fresh(drop=0.5)
    optimizer = AdamW(lr=0.05).build(student)
    options = {"first": 0, "steps": 3, "ema_decay": 0.9, "seed": 5}
    for _ in train(student, ema, regression, optimizer, Constant(2), stream(), **options):
        student.eval()
        torch.randn(3)
    assert torch.equal(values(student), run(regression, 3, drop=0.5)[0])


def _worker(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for accumulate in ACCUMULATED:
        (folder / str(accumulate)).mkdir(exist_ok=True)
        _work(rank, 2, f"{folder}/{accumulate}", accumulate)
    gc.collect()  # nothing may hold the group any more when it ends, and neither process may end it before the other is done
    processes.barrier()
    dist.destroy_process_group()


def _work(rank: int, count: int, folder: str, accumulate: int) -> None:
    torch.manual_seed(rank)  # only the main process's weights may count
    student = fresh()[0] if rank == 0 else Net()
    student = distribute(student)
    ema = twin(student)
    optimizer = AdamW(lr=0.05).build(student)
    options = {"first": 0, "steps": 3, "ema_decay": 0.9, "seed": 5, "accumulate": accumulate}
    objective = contrast if accumulate == 1 else regression
    taken = list(train(student, ema, objective, optimizer, Constant(2), stream(0, rank, count), **options))
    losses = [step.losses["loss"] for step in taken]
    torch.save((values(student), values(ema), losses, taken[0].images), f"{folder}/{rank}.pt")
    bad = (Batch(b.images * (float("nan") if rank == 1 else 1.0), b.labels, b.seeds, b.seed) for b in stream(3, rank, count))
    options = {"first": 3, "steps": 4, "ema_decay": 0.9, "seed": 5}
    skipped = next(train(student, ema, regression, optimizer, Constant(2), bad, **options)).skipped
    torch.save((skipped, values(student)), f"{folder}/{rank}.bad.pt")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes computed, in a folder for each way to accumulate."""
    folder = tmp_path_factory.mktemp("two")
    subprocess.run([sys.executable, "-m", "tests.trainer.test_loop", folder], check=True, timeout=100, cwd=ROOT)
    return folder


@pytest.mark.parametrize("accumulate", ACCUMULATED)
def test_two_processes_equal_one(two: Path, accumulate: int) -> None:
    """Three steps on the same global batch, contrastive negatives gathered; one process's NaN makes both skip."""
    weights, ema, steps = run(contrast if accumulate == 1 else regression, 3)
    for rank in (0, 1):
        found, found_average, losses, images = torch.load(two / str(accumulate) / f"{rank}.pt")
        torch.testing.assert_close(found, weights, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found_average, ema, rtol=1e-5, atol=1e-5)
        assert losses == pytest.approx([step.losses["loss"] for step in steps], rel=1e-5)
        assert images == SIZE
        skipped, after = torch.load(two / str(accumulate) / f"{rank}.bad.pt")
        assert skipped
        assert torch.equal(after, found)


def test_looking_for_the_scale_of_float16_is_no_failure() -> None:
    """The scale is halved more often than a run may fail in a row, before the first gradient fits into float16."""
    student, ema = fresh()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)

    def steep(student: nn.Module, ema: nn.Module, batch: Batch | Views, progress: float) -> Losses:
        return Losses(1e3 * regression(student, ema, batch, progress).total)

    options = {"first": 0, "steps": 40, "ema_decay": 0.9, "seed": 5, "precision": torch.float16, "scaler": scaler}
    steps = list(train(student, ema, steep, AdamW(lr=1e-3).build(student), Constant(), stream(), **options))
    assert sum(step.skipped for step in steps) > 10
    assert not steps[-1].skipped


def test_a_micro_batch_keeps_its_own_masks_and_conditions() -> None:
    """The fault was a split that forgot `valid`: parts then counted every pixel, or those of another image."""
    valid = torch.rand(4, 1, 2, 2) > 0.5
    labels = Condition(torch.arange(4), torch.randn(4, 3))
    batch = Batch(torch.randn(4, 1, 2, 2), labels, (1, 2, 3, 4), 7, valid)
    parts = split(batch, 2)
    for number, part in enumerate(parts):
        assert isinstance(part, Batch)
        own = slice(2 * number, 2 * number + 2)
        assert part.valid is not None
        assert torch.equal(part.valid, valid[own])
        assert torch.equal(part.images, batch.images[own])
        assert isinstance(part.labels, Condition)
        assert part.labels.vector is not None
        assert labels.vector is not None
        assert torch.equal(part.labels.vector, labels.vector[own])
        assert (part.seeds, part.seed) == (batch.seeds[own], 7)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(regression, 1)  # so that everything is imported
    forked(lambda rank: _worker(rank, Path(sys.argv[1])))
