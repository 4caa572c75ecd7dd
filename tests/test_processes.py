"""Two processes on half a batch each compute what one does on the whole: losses, gradients, batch statistics."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from pixelpath import processes
from tests import two_processes

Results = dict[str, Tensor]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[Results]:
    folder = tmp_path_factory.mktemp("processes")
    spawn(two_processes.work, args=(str(folder),), nprocs=two_processes.COUNT)
    return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(two_processes.COUNT)]


def difference(both: list[Results], name: str, expected: Tensor) -> float:
    return float((torch.cat([results[name] for results in both]) - expected).abs().max())


def test_info_nce_and_its_gradients(both: list[Results]) -> None:
    alone = two_processes.contrast(*two_processes.inputs())
    for name in ("losses", "queries", "targets"):
        assert difference(both, name, alone[name]) < 1e-6


def test_batch_normalisation(both: list[Results]) -> None:
    features, _, weights, _ = two_processes.inputs()
    alone = two_processes.normalise(nn.BatchNorm1d(two_processes.WIDTH), features, weights)
    for name in ("normed", "features"):
        assert difference(both, name, alone[name]) < 1e-6
    for name in ("weight", "bias"):  # each process has the gradient of its own rows' share; together they are the whole
        assert float((both[0][name] + both[1][name] - alone[name]).abs().max()) < 2e-6
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        for results in both:
            assert float((results[name] - alone[name]).abs().max()) < 1e-6


def test_mean_over_processes(both: list[Results]) -> None:
    expected = two_processes.inputs()[2].mean()
    assert all(torch.allclose(results["mean"], expected) for results in both)


def test_alone_everything_is_the_identity() -> None:
    value = torch.randn(3, requires_grad=True)
    assert (processes.count(), processes.rank()) == (1, 0)
    assert processes.add(value) is value
    assert processes.gather(value) is value
    assert torch.equal(processes.mean(value), value.detach())
    processes.barrier()
