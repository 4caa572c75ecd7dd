"""The encoder reads any image its patch divides, and can be moved to another size."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pixelpath.errors import UserError
from pixelpath.networks.encoder import EXTRA, Encoder
from pixelpath.networks.layers import grid_sinusoids, sinusoids


def build(channels: int = 3, rows: int = 8, columns: int = 8, patch: int = 4, width: int = 12) -> Encoder:
    return Encoder(channels, rows, columns, patch, width, depth=2, heads=2)


NOISE = torch.tensor([-300.0, 20.0])


@pytest.mark.parametrize("channels", [1, 2, 7])
@pytest.mark.parametrize(("rows", "columns", "patch"), [(8, 8, 4), (4, 12, 2), (12, 4, 4), (3, 5, 1)])
def test_any_channels_and_shape(channels: int, rows: int, columns: int, patch: int) -> None:
    encoding = build(channels, rows, columns, patch)(torch.randn(2, channels, rows, columns), NOISE)
    assert encoding.tokens.shape == (2, EXTRA + rows * columns // patch**2, 12)
    assert [block.shape for block in encoding.blocks] == [encoding.tokens.shape] * 2
    assert torch.isfinite(encoding.tokens).all()


def test_tokens_are_cls_noise_patches_by_rows() -> None:
    encoder, seen = build(rows=4, columns=8), list[Tensor]()
    encoder.blocks[0].register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    images, shift = torch.randn(2, 3, 4, 8), torch.randn(2, 1, 12)
    encoding = encoder(images, NOISE, shift)
    tokens = seen[0] - encoder.positions
    assert torch.allclose(tokens[:, 0], encoder.cls[:, 0] + shift[:, 0], atol=1e-6)
    assert torch.allclose(tokens[:, 1], sinusoids(NOISE, 12), atol=1e-6)
    assert torch.equal(encoding.noise, sinusoids(NOISE, 12))
    weight = encoder.patches.weight.flatten(1)
    second = functional.linear(images[:, :, :, 4:].flatten(1), weight, encoder.patches.bias)
    assert torch.allclose(tokens[:, 3], second, atol=1e-5)


def test_positions_begin_as_noise_and_sinusoids() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        plain = Encoder(3, 8, 16, 4, 24, 1, 2)
        torch.manual_seed(1)
        placed = Encoder(3, 8, 16, 4, 24, 1, 2, position_init=1.5)
    assert float(plain.positions.detach().std()) == pytest.approx(0.02, rel=0.2)
    difference = placed.positions - plain.positions
    assert not difference[:, :EXTRA].any()
    assert torch.allclose(difference[0, EXTRA:], 1.5 * grid_sinusoids(2, 4, 24), atol=1e-6)
    assert torch.equal(plain.patches.weight, placed.patches.weight)


def test_blocks_come_first_to_last_and_tokens_are_normed() -> None:
    encoder = build()
    encoding = encoder(torch.randn(2, 3, 8, 8), NOISE)
    assert torch.equal(encoder.blocks[1](encoding.blocks[0]), encoding.blocks[1])
    assert torch.equal(encoder.norm(encoding.blocks[1]), encoding.tokens)


def test_checkpointing_changes_nothing() -> None:
    images = torch.randn(2, 3, 8, 8)
    encoder = build()
    encoder(images, NOISE).tokens.sin().sum().backward()
    gradients = [parameter.grad for parameter in encoder.parameters()]
    encoder.zero_grad()
    encoder.checkpointing = True
    encoder(images, NOISE).tokens.sin().sum().backward()
    for parameter, gradient in zip(encoder.parameters(), gradients, strict=True):
        assert parameter.grad is not None
        assert gradient is not None
        assert torch.equal(parameter.grad, gradient)


def test_shapes_that_do_not_fit() -> None:
    for wrong, setting in (
        (lambda: build(rows=6), "patch"),
        (lambda: build()(torch.randn(2, 3, 8, 4), NOISE), "data.resize"),
        (lambda: build().resize(10, 8), "patch"),
    ):
        with pytest.raises(UserError) as caught:
            wrong()
        assert caught.value.setting == setting


def test_resize_to_the_same_size_is_exact() -> None:
    encoder = build(rows=12, columns=8)
    before = encoder.positions.detach().clone()
    encoder.resize(12, 8)
    assert torch.equal(encoder.positions, before)


@pytest.mark.parametrize(("rows", "columns"), [(64, 96), (16, 48), (40, 24)])
@torch.no_grad()
def test_resize_keeps_a_smooth_table(rows: int, columns: int) -> None:
    """A slow wave over the image is the same wave after interpolation, and CLS and noise keep their positions."""
    encoder = build(rows=32, columns=48, patch=2)

    def wave(rows: int, columns: int) -> Tensor:
        across = (torch.arange(columns // 2) + 0.5) / (columns // 2)
        down = (torch.arange(rows // 2) + 0.5) / (rows // 2)
        phase = 2 * down[:, None] + 3 * across[None]
        return torch.stack([torch.cos(phase + channel) for channel in range(12)], dim=-1).flatten(0, 1)

    encoder.positions.data[0, EXTRA:] = wave(32, 48)
    extra = encoder.positions.detach()[0, :EXTRA].clone()
    encoder.resize(rows, columns)
    assert torch.equal(encoder.positions[0, :EXTRA], extra)
    table, expected = encoder.positions[0, EXTRA:], wave(rows, columns)
    assert float((table - expected).abs().max()) < 0.06  # at the borders; inside it is far closer
    inner = (table - expected).view(rows // 2, columns // 2, 12)[2:-2, 2:-2]
    assert inner.numel() == 0 or float(inner.abs().max()) < 0.01
    encoder.positions.data[0, EXTRA:] = math.pi
    encoder.resize(32, 48)
    assert torch.allclose(encoder.positions[0, EXTRA:], torch.tensor(math.pi))


@pytest.mark.parametrize(("rows", "columns"), [(16, 16), (4, 12), (12, 8)])
def test_forward_after_resize(rows: int, columns: int) -> None:
    encoder = build()
    encoder.resize(rows, columns)
    tokens = encoder(torch.randn(2, 3, rows, columns), NOISE).tokens
    assert tokens.shape == (2, EXTRA + rows * columns // 16, 12)
    assert torch.isfinite(tokens).all()
    assert encoder.positions.requires_grad


def test_summary_is_the_cls_token_with_less_work() -> None:
    encoder = Encoder(2, 8, 12, 4, 16, 3, 2)
    images, noise = torch.randn(3, 2, 8, 12), torch.randn(3)
    torch.testing.assert_close(encoder.summary(images, noise), encoder(images, noise).tokens[:, 0])
