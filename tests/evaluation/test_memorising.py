"""The gap and its error by hand, and advice for the cases there are."""

import pytest
import torch

from pixelpath.evaluation.held_out import HeldOutRow
from pixelpath.evaluation.memorising import advice, best_step, gaps


def rows(losses: list[float], error: float = 0.01) -> list[HeldOutRow]:
    return [HeldOutRow(10.0**place, loss, error * loss, 100) for place, loss in enumerate(losses)]


def test_the_gap_of_a_level() -> None:
    (row,) = gaps([HeldOutRow(0.5, 0.9, 0.03, 10)], [HeldOutRow(0.5, 1.2, 0.05, 10)])
    assert row.gap == pytest.approx(0.25)
    assert row.gap_error == pytest.approx(0.75 * ((0.03 / 0.9) ** 2 + (0.05 / 1.2) ** 2) ** 0.5)
    assert row.z == pytest.approx(row.gap / row.gap_error)
    assert (row.training, row.training_error, row.held_out, row.held_out_error) == (0.9, 0.03, 1.2, 0.05)


def test_the_error_of_a_gap_is_its_deviation_over_draws() -> None:
    ours, theirs = (mean + error * torch.randn(4000) for mean, error in ((0.9, 0.01), (1.2, 0.02)))
    (row,) = gaps([HeldOutRow(0.5, 0.9, 0.01, 10)], [HeldOutRow(0.5, 1.2, 0.02, 10)])
    assert float((1 - ours / theirs).std()) == pytest.approx(row.gap_error, rel=0.05)


def test_levels_must_be_the_same() -> None:
    with pytest.raises(ValueError, match="different sigmas"):
        gaps(rows([1.0, 2.0]), rows([1.0]))


def test_advice() -> None:
    none = gaps(rows([1.0, 1.01, 0.99]), rows([1.0, 1.0, 1.0]))
    assert advice(none, None).startswith("No sign of memorising")
    assert advice(none, 200) == "The held-out loss was lowest at step 200 and has risen since: take the checkpoint nearest to it."
    little = gaps(rows([0.97, 1.0, 1.0], 0.002), rows([1.0, 1.0, 1.0], 0.002))
    assert advice(little, None) == "The loss on training images is lower by up to 3.0%, which is little: no need to stop."
    certain = gaps(rows([0.9, 0.8, 1.0]), rows([1.0, 1.0, 1.0]))
    said = advice(certain, None)
    assert said.startswith("Between sigma 1 and 10 the loss on training images is lower by up to 20% (17.7 standard errors)")
    assert "stop about here" in said
    assert "take the checkpoint nearest to step 1,200" in advice(certain, 1200)
    assert advice(gaps(rows([0.5, 1.0], 0.3), rows([1.0, 1.0], 0.3)), None).startswith("No sign")  # not certain
    assert advice(gaps(rows([0.5, 1.0]), rows([1.0, 1.0])), None).startswith("At sigma 1 ")


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([5.0, 3.0, 2.0, 2.5, 2.6], 30),
        ([5.0, 3.0, 2.0, 2.01, 2.02], None),
        ([5.0, 3.0, 2.0, 1.9, 1.8], None),
        ([5.0, 3.0, 2.0, 2.5, 2.01], None),
        ([5.0, 2.0, 2.2], 20),
        ([2.0, 3.0], None),
        ([], None),
    ],
)
def test_the_best_step_is_one_from_which_the_loss_has_risen(losses: list[float], expected: int | None) -> None:
    assert best_step([10.0 * (place + 1) for place in range(len(losses))], losses) == expected
