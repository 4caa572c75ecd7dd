"""Newton-Schulz against singular values and the exact polar factor, and the update against torch's own."""

import pytest
import torch
from torch import nn

from pixelpath.trainer.muon import COEFFICIENTS, STEPS, OrthogonalMomentum, fast_dtype, orthogonalised


@pytest.mark.parametrize("shape", [(12, 12), (8, 20), (20, 8)])
def test_every_singular_value_moves_by_the_polynomial_and_its_vectors_stay(shape: tuple[int, int]) -> None:
    """In exact arithmetic the iteration maps s / |S| by the polynomial, five times, and keeps U and V."""
    matrix = torch.randn(shape)
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    a, b, c = COEFFICIENTS
    s = s / s.norm()
    for _ in range(STEPS):
        s = a * s + b * s**3 + c * s**5
    torch.testing.assert_close(orthogonalised([matrix])[0].double(), u @ s.diag() @ vh, atol=2e-4, rtol=1e-3)


def test_it_is_near_the_exact_polar_factor() -> None:
    """Of a matrix with condition number 10; the exact factor comes from the singular value decomposition."""
    u, _, vh = torch.linalg.svd(torch.randn(16, 24), full_matrices=False)
    matrix = u @ torch.logspace(-1, 0, 16).diag() @ vh
    found = orthogonalised([matrix])[0]
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.68
    assert values.max() < 1.21
    assert (u.mT @ found @ vh.mT - values.mean() * torch.eye(16)).abs().max() < 0.35
    assert torch.nn.functional.cosine_similarity(found.flatten(), (u @ vh).flatten(), dim=0) > 0.98


def test_a_batch_of_unequal_shapes_comes_back_in_order() -> None:
    matrices = [torch.randn(4, 6), torch.randn(6, 4), torch.randn(4, 6), torch.randn(5, 5)]
    together = orthogonalised(matrices)
    for matrix, found in zip(matrices, together, strict=True):
        torch.testing.assert_close(found, orthogonalised([matrix])[0])


def test_a_matrix_of_zeros_stays_zero() -> None:
    assert torch.equal(orthogonalised([torch.zeros(3, 4)])[0], torch.zeros(3, 4))


def test_updates_equal_those_of_torch_in_bfloat16() -> None:
    """torch.optim.Muon computes in bfloat16: with the same dtype ours follows it through momentum, decay and scale."""
    ours, theirs = nn.Linear(24, 16, bias=False), nn.Linear(24, 16, bias=False)
    theirs.load_state_dict(ours.state_dict())
    mine = OrthogonalMomentum(list(ours.parameters()), 0.1, 0.5, 0.9, torch.bfloat16)
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("torch.optim.Muon is of torch 2.9")
    reference = torch.optim.Muon([theirs.weight], 0.1, 0.5, 0.9, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        gradient = torch.randn(16, 24)
        ours.weight.grad, theirs.weight.grad = gradient.clone(), gradient.clone()
        mine.step()
        reference.step()
    torch.testing.assert_close(ours.weight, theirs.weight, atol=0.02, rtol=0.02)


def test_the_dtype_follows_from_the_device() -> None:
    assert fast_dtype(torch.device("cpu")) is torch.float32
    if torch.cuda.is_available():
        modern = torch.cuda.get_device_capability() >= (8, 0)
        assert fast_dtype(torch.device("cuda")) is (torch.bfloat16 if modern else torch.float32)


def test_a_kernel_moves_as_its_matrix_does() -> None:
    kernel, gradient = torch.randn(6, 4, 3, 3), torch.randn(6, 4, 3, 3)
    moved = []
    for shape in ((6, 4, 3, 3), (6, 36)):
        parameter = nn.Parameter(kernel.view(shape).clone())
        parameter.grad = gradient.view(shape)
        OrthogonalMomentum([parameter], 0.1, 0.5, 0.9).step()
        moved.append(parameter.detach().flatten(1))
    assert torch.equal(*moved)
    assert (moved[0] - kernel.flatten(1)).abs().mean() > 0.01
