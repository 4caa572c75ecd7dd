"""What each of two processes computes in tests/test_processes.py: started by spawn, so importable and free of pytest."""

from pathlib import Path

import torch
from torch import Tensor
from torch import distributed as dist

from pixelpath import processes
from pixelpath.networks.projector import SynchronisedNorm
from pixelpath.objectives.contrast import info_nce

COUNT = 2
EACH = 4
WIDTH = 6


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, targets, weights of the losses and numbers of the images of the whole batch; two images are there twice."""
    source = torch.Generator().manual_seed(3)
    rows = COUNT * EACH
    queries, targets = (torch.randn(rows, WIDTH, generator=source) for _ in range(2))
    return 2 * queries + 1, targets, torch.rand(rows, generator=source), torch.arange(rows) % (rows - 2)


def contrast(queries: Tensor, targets: Tensor, weights: Tensor, index: Tensor) -> dict[str, Tensor]:
    """Both sides of InfoNCE carry gradients; rows are weighted, so that no symmetry hides a wrong one."""
    queries, targets = queries.clone().requires_grad_(), targets.clone().requires_grad_()
    losses = info_nce(queries, targets, 0.2, index)
    (losses * weights).sum().backward()
    assert queries.grad is not None
    assert targets.grad is not None
    return {"losses": losses.detach(), "queries": queries.grad, "targets": targets.grad}


def normalise(norm: torch.nn.BatchNorm1d, features: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Forward, gradients and running statistics of two steps of a norm."""
    features = features.clone().requires_grad_()
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2.0, WIDTH))
    norm(features.detach() / 2)
    normed = norm(features)
    (normed.sin() * weights[:, None]).sum().backward()
    assert features.grad is not None
    assert norm.weight.grad is not None
    assert norm.bias.grad is not None
    buffers = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    return {"normed": normed.detach(), "features": features.grad, "weight": norm.weight.grad, "bias": norm.bias.grad} | buffers


def work(rank: int, folder: str) -> None:
    """Save to `folder` what the process of this rank computes on its half of the batch."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=COUNT)
    queries, targets, weights, index = (tensor[rank * EACH :][:EACH] for tensor in inputs())
    results = contrast(queries, targets, weights, index) | normalise(SynchronisedNorm(WIDTH), queries, weights)
    results["mean"] = processes.mean(weights.mean())
    processes.barrier()
    assert (processes.rank(), processes.count()) == (rank, COUNT)
    torch.save(results, Path(folder) / f"{rank}.pt")
    processes.barrier()  # neither process may end the group before the other is done
    dist.destroy_process_group()
