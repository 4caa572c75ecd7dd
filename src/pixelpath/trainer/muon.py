"""Orthogonal momentum: the optimizer of hidden matrices, and the iteration it needs.

The *polar factor* of a matrix U S V^T is U V^T, the orthogonal matrix nearest to it. The kernel of a convolution [out, in, rows,
columns] counts as the matrix [out, in * rows * columns].
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pixelpath.trainer.shard import gathered, remade, share, shared_as

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b, c of s -> a s + b s^3 + c s^5: five steps bring singular values in (0, 1] near 1 (Jordan et al. 2024, "Muon")."""
STEPS = 5
EPSILON = 1e-7  # a matrix of a smaller norm stays near 0 instead of being scaled up


def orthogonalised(matrices: Sequence[Tensor], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """An approximation of the polar factor of every matrix [rows, columns], in its own dtype.

    Five Newton-Schulz steps X <- a X + (b X X^T + c (X X^T)^2) X after division by the Frobenius norm, computed in `dtype`. The
    singular values end between about 0.7 and 1.2. Matrices of equal shape are computed as one batch.
    """
    alike: dict[torch.Size, list[int]] = defaultdict(list)
    for index, matrix in enumerate(matrices):
        alike[matrix.shape].append(index)
    found: list[Tensor] = list(matrices)
    for (rows, columns), indices in alike.items():
        x = torch.stack([matrices[index] for index in indices]).to(dtype)
        x = _iterate(x.mT).mT if rows > columns else _iterate(x)
        for index, each in zip(indices, x.to(matrices[indices[0]].dtype), strict=True):
            found[index] = each
    return found


def _iterate(x: Tensor) -> Tensor:
    """The steps on a batch [matrix, rows, columns] with rows <= columns, where X X^T is the smaller product."""
    a, b, c = COEFFICIENTS
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp_min(EPSILON)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on CUDA devices that compute in it (compute capability 8.0 on), else float32.

    It is a function of the device alone: a choice by timing would differ from one start of a run to the next, and with it the
    weights. Processors without bfloat16 units are up to 70 times slower in it, and those with them gain little at these sizes.
    """
    fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if fast else torch.float32


class OrthogonalMomentum(torch.optim.Optimizer):
    """W <- (1 - lr weight_decay) W - lr 0.2 sqrt(longer side) O, O the polar factor of the Nesterov momentum of the gradient g.

    With m <- momentum m + (1 - momentum) g, O is `orthogonalised` of momentum m + (1 - momentum) g (Jordan et al. 2024). The
    factor 0.2 sqrt(longer side) makes the update as large as AdamW's (Liu et al. 2025, arXiv 2502.16982, eq. 4). All parameters
    must be matrices or kernels. `dtype` None: `fast_dtype` of the device. Of sharded ones every process computes all polar
    factors.
    """

    def __init__(
        self, matrices: list[nn.Parameter], lr: float, weight_decay: float, momentum: float, dtype: torch.dtype | None = None
    ) -> None:
        self.dtype = dtype
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, closure: None = None, skipped: Tensor | None = None
    ) -> None:
        """One update of every matrix that has a gradient; none where `skipped` [] is True, which stays on the device."""
        for group in self.param_groups:
            matrices = [matrix for matrix in group["params"] if matrix.grad is not None]
            if matrices:
                self._update(matrices, group, skipped)

    def _update(self, matrices: list[nn.Parameter], group: dict[str, Any], skipped: Tensor | None) -> None:
        gradients = [share(matrix.grad) for matrix in matrices if matrix.grad is not None]
        for matrix in matrices:
            self.state[matrix].setdefault("momentum_buffer", torch.zeros_like(matrix))
        buffers = [share(self.state[matrix]["momentum_buffer"]) for matrix in matrices]
        moved = torch._foreach_lerp(buffers, gradients, 1 - group["momentum"])  # pyright: ignore[reportPrivateImportUsage]
        ahead = torch._foreach_lerp(gradients, moved, group["momentum"])  # pyright: ignore[reportPrivateImportUsage]
        whole = [gathered(remade(each, matrix)) for each, matrix in zip(ahead, matrices, strict=True)]
        updates = orthogonalised([each.flatten(1) for each in whole], self.dtype or fast_dtype(matrices[0].device))
        decay = 1 - group["lr"] * group["weight_decay"]
        for matrix, buffer, momentum, update in zip(matrices, buffers, moved, updates, strict=True):
            own, step = share(matrix), share(shared_as(update.view(matrix.shape), matrix))
            new = (own * decay).add_(step, alpha=-group["lr"] * 0.2 * max(update.shape) ** 0.5)
            own.copy_(new if skipped is None else torch.where(skipped, own, new))
            buffer.copy_(momentum if skipped is None else torch.where(skipped, buffer, momentum))
