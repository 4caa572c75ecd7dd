"""The held-out loss against the closed form of a Gaussian, whose best denoiser is known."""

import pytest
import torch

from pixelpath import randomness
from pixelpath.evaluation.held_out import held_out_loss
from pixelpath.types import Conditioning


def test_the_best_denoiser_of_a_gaussian_has_the_posterior_variance() -> None:
    """For x ~ N(0, d^2): D = noisy d^2 / (d^2 + sigma^2), and the expected squared error is d^2 sigma^2 / (d^2 + sigma^2)."""
    d = 0.5
    images = d * torch.randn(2000, 1, 4, 4)

    def best(noisy: torch.Tensor, sigma: torch.Tensor, labels: Conditioning | None) -> torch.Tensor:
        assert labels is None
        return noisy * (d**2 / (d**2 + sigma**2)).reshape(-1, 1, 1, 1)

    rows = held_out_loss(best, images, None, [0.1, 0.5, 3.0], seeds=range(2000), batch_size=512)
    for row, sigma in zip(rows, (0.1, 0.5, 3.0), strict=True):
        expected = d**2 * sigma**2 / (d**2 + sigma**2)
        assert (row.sigma, row.count) == (sigma, 2000)
        assert row.loss == pytest.approx(expected, abs=4 * row.standard_error)
        assert row.standard_error == pytest.approx(expected * (2 / 16 / 2000) ** 0.5, rel=0.1)  # a chi square of 16 values


def test_one_fixed_noise_for_each_image_at_any_batch_size() -> None:
    images, labels, seeds = torch.randn(7, 2, 4, 4), torch.arange(7), tuple(range(100, 107))

    def identity(noisy: torch.Tensor, sigma: torch.Tensor, labels: Conditioning | None) -> torch.Tensor:
        return noisy

    drawn = randomness.normal(randomness.Streams(seeds), (2, 4, 4)).double()
    errors = (0.3 * drawn).square().flatten(1).mean(1)
    for size in (1, 3, 7):
        (row,) = held_out_loss(identity, images, labels, [0.3], seeds, batch_size=size)
        assert row.loss == pytest.approx(errors.mean().item(), rel=1e-5)
        assert row.standard_error == pytest.approx(errors.std().item() / 7**0.5, rel=1e-4)


def test_labels_go_with_their_images() -> None:
    images = torch.randn(5, 1, 2, 2)
    labels = torch.tensor([3, 1, 4, 1, 5])

    def knows(noisy: torch.Tensor, sigma: torch.Tensor, given: Conditioning | None) -> torch.Tensor:
        assert isinstance(given, torch.Tensor)
        where = (images.unsqueeze(0) - noisy.unsqueeze(1)).flatten(2).norm(dim=2).argmin(1)
        assert torch.equal(labels[where], given)
        return images[where]

    (row,) = held_out_loss(knows, images, labels, [1e-6], seeds=range(5), batch_size=2)
    assert (row.loss, row.standard_error) == (0, 0)


def test_what_was_not_measured_does_not_count() -> None:
    """Nothing that an estimate says there changes the mean, and the mean is one over values, not over images."""
    images, valid = torch.randn(6, 2, 3, 3), torch.rand(6, 2, 3, 3) < torch.linspace(0.1, 1, 6).reshape(6, 1, 1, 1)

    def off(noisy: torch.Tensor, sigma: torch.Tensor, given: Conditioning | None) -> torch.Tensor:
        where = (images.unsqueeze(0) - noisy.unsqueeze(1)).flatten(2).norm(dim=2).argmin(1)
        wrong = images[where] + (1 + where).reshape(-1, 1, 1, 1)
        return torch.where(valid[where], wrong, torch.full_like(wrong, 1e3))

    (row,) = held_out_loss(off, images, None, [1e-6], seeds=range(6), batch_size=4, valid=valid)
    counts = valid.sum((1, 2, 3)).double()
    assert row.loss == pytest.approx(float((counts * torch.arange(1, 7) ** 2).sum() / counts.sum()), rel=1e-5)


def test_seeds_must_match_images() -> None:
    with pytest.raises(ValueError, match="got 3 images and 2 seeds"):
        held_out_loss(lambda noisy, sigma, labels: noisy, torch.randn(3, 1, 2, 2), None, [1.0], [0, 1])
