"""The pixel head: nothing before training, every parameter learns, and what it adds crosses the borders of patches."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from pixelpath.errors import UserError
from pixelpath.networks.backbone import Backbone
from pixelpath.networks.decoder import Decoder
from pixelpath.networks.encoder import Encoder
from pixelpath.networks.head import PixelHead
from pixelpath.recipes import RECIPES
from pixelpath.recipes.build import denoiser_of

NOISE = torch.tensor([-300.0, 20.0])


def build(features: int = 0, blocks: int = 0) -> Backbone:
    encoder = Encoder(2, 8, 8, patch=4, width=12, depth=2, heads=2)
    decoder = Decoder(encoder, 12, depth=2, heads=2, features=features)
    return Backbone(encoder, decoder, 3, pixel_head=6, pixel_blocks=blocks)


@pytest.mark.parametrize("features", [0, 5])
def test_it_adds_nothing_before_training(features: int) -> None:
    images, more = torch.randn(2, 2, 8, 8), torch.randn(2, features, 8, 8)
    head = PixelHead(2, 6, 12, features, blocks=2)
    assert torch.equal(head(torch.cat([images, more], dim=1), torch.randn(2, 2, 8, 8), torch.randn(2, 12)), images)


def test_the_decoder_has_features_but_no_image_before_training() -> None:
    backbone = build(features=5, blocks=1)
    encoding = backbone.encoder(torch.randn(2, 2, 8, 8), NOISE, torch.zeros(2, 1, 12))
    images, more = backbone.decoder(encoding, encoding.noise, 8, 8).split([2, 5], dim=1)
    assert not images.any()
    assert more.std(dim=(0, 2, 3)).min() > 0.1
    assert not backbone(torch.randn(2, 2, 8, 8), NOISE, torch.tensor([0, 3])).any()


@pytest.mark.parametrize(("features", "blocks"), [(0, 0), (5, 2)])
def test_every_parameter_receives_a_gradient(features: int, blocks: int) -> None:
    backbone = build(features, blocks)
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.2)
    backbone(torch.randn(2, 2, 8, 8), NOISE, torch.tensor([0, 3])).square().sum().backward()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in backbone.parameters())


@pytest.mark.parametrize(("blocks", "reach"), [(0, 3), (1, 5)])
def test_a_pixel_reaches_seven_by_seven_others_and_no_further_or_two_more_by_a_block(blocks: int, reach: int) -> None:
    head = PixelHead(1, 6, 12, blocks=blocks)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.5)
    decoded, noisy, condition = torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16), torch.randn(1, 12)
    touched = noisy.clone()
    touched[..., 7, 7] = 1.0
    changed = (head(decoded, touched, condition) != head(decoded, noisy, condition))[0, 0]
    rows, columns = changed.nonzero(as_tuple=True)
    assert {int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())} == {7 - reach, 7 + reach}


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_it_computes_in_float32_under_autocast(precision: torch.dtype) -> None:
    head = PixelHead(1, 6, 12)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.5)
    inputs = torch.randn(2, 1, 8, 8), torch.randn(2, 1, 8, 8), torch.randn(2, 12)
    expected = head(*inputs)
    with torch.autocast("cpu", precision):
        assert torch.equal(head(*inputs), expected)
        assert torch.equal(head(inputs[0].to(precision), *inputs[1:]), head(inputs[0].to(precision).float(), *inputs[1:]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pixel_head": -1}, "`pixel_head` must be at least 0"),
        ({"pixel_blocks": -1}, "`pixel_blocks` must be at least 0"),
    ],
)
def test_what_no_head_can_be_is_refused(change: dict[str, int], said: str) -> None:
    with pytest.raises(UserError, match=said):
        replace(RECIPES["cpu-32-diffusion"](), **change)


def test_no_channels_mean_no_head_whatever_its_blocks() -> None:
    backbone = denoiser_of(replace(RECIPES["cpu-32-diffusion"](), pixel_head=0), (1, 32, 32), 0).backbone
    assert backbone.head is None
    assert backbone.decoder.features == 0
