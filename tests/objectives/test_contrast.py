"""InfoNCE has a closed form where queries and targets are orthogonal, and sees directions only."""

import math

import pytest
import torch
from torch.nn import functional

from pixelpath.objectives import contrast
from pixelpath.objectives.contrast import chance_level, info_nce, true_float32


@pytest.mark.parametrize(("batch", "temperature"), [(2, 0.1), (8, 0.2), (8, 1.0)])
def test_orthogonal_vectors(batch: int, temperature: float) -> None:
    """Own cosine 1, all others 0: ln(1 + (batch - 1) exp(-1 / temperature))."""
    rows = 3 * torch.eye(batch, 10)
    expected = math.log(1 + (batch - 1) * math.exp(-1 / temperature))
    assert info_nce(rows, rows, temperature).tolist() == pytest.approx([expected] * batch, rel=1e-5, abs=1e-7)


def test_a_wrong_answer() -> None:
    """Every query equals the target of its neighbour: 1 / temperature worse than a right answer."""
    rows = torch.eye(4)
    expected = math.log(1 + 3 * math.exp(-2)) + 2
    assert info_nce(rows, rows.roll(1, 0), 0.5).tolist() == pytest.approx([expected] * 4)


def test_equal_targets_are_a_guess() -> None:
    loss = info_nce(torch.randn(6, 5), torch.ones(6, 5), 0.1)
    assert loss.tolist() == pytest.approx([chance_level(6)] * 6, rel=1e-5)
    assert chance_level(6) == pytest.approx(1.791759469)


def test_against_the_definition() -> None:
    queries, targets = torch.randn(5, 7).double(), torch.randn(5, 7).double()
    temperature = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
    losses = info_nce(queries, targets, temperature)
    assert losses.dtype == torch.float32
    for row in range(5):
        cosines = functional.cosine_similarity(queries[row], targets) / temperature[row]
        assert float(losses[row]) == pytest.approx(float(cosines.exp().sum().log() - cosines[row]), rel=1e-5)
        alone = info_nce(queries, targets, float(temperature[row]))
        assert float(alone[row]) == pytest.approx(float(losses[row]), rel=1e-5)


def test_length_does_not_matter() -> None:
    queries, targets = torch.randn(5, 7), torch.randn(5, 7)
    scaled = info_nce(queries * torch.rand(5, 1).add(0.5), 9 * targets, 0.2)
    assert torch.allclose(scaled, info_nce(queries, targets, 0.2), rtol=1e-5)


def test_float32_under_autocast() -> None:
    queries, targets = torch.randn(5, 7), torch.randn(5, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = info_nce(queries, targets, 0.1)
    assert torch.equal(mixed, info_nce(queries, targets, 0.1))


def test_an_image_is_not_its_own_negative() -> None:
    """Rows 0 and 3 are one image: each has the loss that it has in a batch without the other."""
    queries, targets = torch.randn(5, 7), torch.randn(5, 7)
    losses = info_nce(queries, targets, 0.2, torch.tensor([4, 2, 9, 4, 0]))
    for row, others in ((0, [0, 1, 2, 4]), (3, [3, 1, 2, 4]), (1, [1, 0, 2, 3, 4])):
        assert float(losses[row]) == pytest.approx(float(info_nce(queries[others], targets[others], 0.2)[0]), rel=1e-6)
    assert torch.equal(info_nce(queries, targets, 0.2, torch.arange(5)), info_nce(queries, targets, 0.2))


def test_a_batch_of_one_image_teaches_nothing() -> None:
    queries = torch.randn(3, 7, requires_grad=True)
    loss = info_nce(queries, torch.randn(3, 7), 0.2, torch.zeros(3, dtype=torch.int64))
    loss.sum().backward()
    assert loss.tolist() == [0, 0, 0]
    assert queries.grad is not None
    assert float(queries.grad.abs().max()) == 0


def test_products_are_true_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside the loss TF32 is off, and afterwards it is what it was."""
    seen: list[str] = []

    def gather(rows: torch.Tensor) -> torch.Tensor:
        seen.append(torch.get_float32_matmul_precision())
        return rows

    monkeypatch.setattr(contrast.processes, "gather", gather)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        info_nce(torch.randn(2, 3), torch.randn(2, 3), 0.1)
        assert (seen, torch.get_float32_matmul_precision()) == (["highest"], "high")
        with pytest.raises(KeyError), true_float32():
            raise KeyError
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
