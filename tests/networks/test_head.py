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

NOISE = torch.tensor([-300.0, 20.0])


def build() -> Backbone:
    encoder = Encoder(2, 8, 8, patch=4, width=12, depth=2, heads=2)
    return Backbone(encoder, Decoder(encoder, 12, depth=2, heads=2), 3, pixel_head=6)


def test_it_adds_nothing_before_training() -> None:
    images = torch.randn(2, 2, 8, 8)
    assert torch.equal(PixelHead(2, 6, 12)(images, torch.randn(2, 2, 8, 8), torch.randn(2, 12)), images)


def test_every_parameter_receives_a_gradient() -> None:
    backbone = build()
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.2)
    backbone(torch.randn(2, 2, 8, 8), NOISE, torch.tensor([0, 3])).square().sum().backward()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in backbone.parameters())


def test_a_pixel_reaches_seven_by_seven_others_and_no_further() -> None:
    head = PixelHead(1, 6, 12)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.5)
    decoded, noisy, condition = torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16), torch.randn(1, 12)
    touched = noisy.clone()
    touched[..., 7, 7] = 1.0
    changed = (head(decoded, touched, condition) != head(decoded, noisy, condition))[0, 0]
    rows, columns = changed.nonzero(as_tuple=True)
    assert {int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())} == {4, 10}


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


def test_a_negative_width_is_refused() -> None:
    with pytest.raises(UserError, match="`pixel_head` must be at least 0"):
        replace(RECIPES["cpu-32-diffusion"](), pixel_head=-1)
