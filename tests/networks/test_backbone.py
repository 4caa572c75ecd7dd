"""The generator: zero at the start, then every parameter learns; long skips join in mirror order."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pixelpath.errors import UserError
from pixelpath.networks.backbone import Backbone
from pixelpath.networks.decoder import Decoder
from pixelpath.networks.encoder import Encoder
from pixelpath.types import Condition


def build(channels: int = 3, rows: int = 8, columns: int = 8, decoder_width: int = 16, classes: int = 4) -> Backbone:
    encoder = Encoder(channels, rows, columns, patch=4, width=12, depth=3, heads=2)
    return Backbone(encoder, Decoder(encoder, decoder_width, depth=3, heads=4), classes)


def awake(backbone: Backbone) -> Backbone:
    """No parameter at zero, so that nothing hides behind a zero gate."""
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.2)
    return backbone


NOISE = torch.tensor([-300.0, 20.0, 7.0])
LABELS = torch.tensor([0, 3, 4])


def test_zero_at_the_start() -> None:
    assert torch.equal(build()(torch.randn(3, 3, 8, 8), NOISE, LABELS), torch.zeros(3, 3, 8, 8))


@pytest.mark.parametrize("decoder_width", [12, 16])
@pytest.mark.parametrize(("channels", "rows", "columns"), [(1, 8, 8), (2, 4, 12), (7, 12, 4)])
def test_every_parameter_receives_a_finite_gradient(channels: int, rows: int, columns: int, decoder_width: int) -> None:
    backbone = awake(build(channels, rows, columns, decoder_width))
    images = backbone(torch.randn(3, channels, rows, columns), NOISE, LABELS)
    assert images.shape == (3, channels, rows, columns)
    (images - torch.randn_like(images)).square().mean().backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert float(parameter.grad.abs().max()) > 0, name


def test_block_i_takes_the_output_of_encoder_block_depth_minus_1_minus_i() -> None:
    backbone, skips = awake(build()), list[Tensor]()
    for block in backbone.decoder.blocks:
        block.register_forward_pre_hook(lambda module, arguments: skips.append(arguments[1]))
    images = torch.randn(3, 3, 8, 8)
    backbone(images, NOISE, LABELS)
    outputs = backbone.encoder(images, NOISE, backbone.classes(LABELS)[:, None]).blocks
    assert len(skips) == 3
    for skip, output in zip(skips, (outputs[2], outputs[1], outputs[0]), strict=True):
        assert torch.equal(skip, output)


def test_the_condition_is_noise_token_plus_class() -> None:
    backbone, conditions = awake(build()), list[Tensor]()
    backbone.decoder.blocks[0].register_forward_pre_hook(lambda module, arguments: conditions.append(arguments[2]))
    images = torch.randn(3, 3, 8, 8)
    backbone(images, NOISE, LABELS)
    noise = backbone.encoder(images, NOISE).noise
    assert torch.equal(conditions[0], noise + backbone.classes.weight[LABELS])


def test_the_last_row_is_no_label() -> None:
    assert build(classes=4).no_label == 4
    assert build(classes=4).classes.weight.shape == (5, 12)
    unconditional = awake(build(classes=0))
    assert unconditional.no_label == 0
    assert unconditional(torch.randn(1, 3, 8, 8), NOISE[:1], torch.tensor([0])).shape == (1, 3, 8, 8)


def test_images_of_a_batch_do_not_see_each_other() -> None:
    backbone, images = awake(build()), torch.randn(3, 3, 8, 8)
    together = backbone(images, NOISE, LABELS)
    alone = backbone(images[1:2], NOISE[1:2], LABELS[1:2])
    assert torch.allclose(together[1:2], alone, atol=1e-5)


@torch.no_grad()
def test_extra_tokens_leave_no_trace_in_the_patch_order() -> None:
    """With every block silent, the decoder maps each normed patch token to its own patch."""
    backbone = build(decoder_width=12)
    backbone.decoder.blocks = nn.ModuleList()
    backbone.encoder.blocks = nn.ModuleList()
    nn.init.normal_(backbone.decoder.out.weight)
    images = torch.randn(1, 3, 8, 8)
    changed = images.clone()
    changed[:, :, 4:, :4] += 1
    difference = backbone(changed, NOISE[:1], LABELS[:1]) - backbone(images, NOISE[:1], LABELS[:1])
    assert float(difference[:, :, 4:, :4].abs().max()) > 0.1
    difference[:, :, 4:, :4] = 0
    assert torch.equal(difference, torch.zeros_like(difference))


def test_checkpointing_changes_nothing() -> None:
    backbone, images = awake(build()), torch.randn(3, 3, 8, 8)
    gradients: list[list[Tensor]] = []
    for on in (False, True):
        backbone.zero_grad()
        backbone.checkpoint_activations(on)
        backbone(images, NOISE, LABELS).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in backbone.parameters() if parameter.grad is not None])
    assert backbone.encoder.checkpointing
    assert backbone.decoder.checkpointing
    for plain, checkpointed in zip(*gradients, strict=True):
        assert torch.allclose(plain, checkpointed, rtol=1e-5, atol=1e-6)


def test_unequal_depths() -> None:
    encoder = Encoder(3, 8, 8, patch=4, width=12, depth=3, heads=2)
    with pytest.raises(UserError) as caught:
        Decoder(encoder, width=12, depth=2, heads=2)
    assert caught.value.setting == "size.decoder.depth"


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_impossible_dropout(dropout: float) -> None:
    encoder = Encoder(1, 4, 4, patch=4, width=8, depth=1, heads=2)
    with pytest.raises(UserError) as caught:
        Decoder(encoder, 8, 1, 2, dropout)
    assert caught.value.setting == "dropout"


def test_dropout_is_in_every_block_of_the_decoder_alone() -> None:
    encoder = Encoder(1, 4, 4, patch=4, width=8, depth=2, heads=2)
    backbone = Backbone(encoder, Decoder(encoder, 8, 2, 2, 0.25), 0)
    shares = {name: module.p for name, module in backbone.named_modules() if isinstance(module, nn.Dropout)}
    assert {name for name, share in shares.items() if share == 0.25} == {name for name in shares if name.startswith("decoder")}
    assert sum(name.startswith("decoder.blocks.1.") for name in shares) == 3
    assert {share for name, share in shares.items() if name.startswith("encoder")} == {0.0}


def asking(numbers: int = 2, cond_image: int = 3) -> Backbone:
    encoder = Encoder(3, 8, 12, patch=4, width=12, depth=3, heads=2)
    return Backbone(encoder, Decoder(encoder, 16, depth=3, heads=4), 4, numbers, cond_image)


def test_images_beside_are_the_same_as_more_channels_at_the_input() -> None:
    backbone = awake(asking())
    wide = nn.Conv2d(6, 12, 4, stride=4)
    assert backbone.cond_image is not None
    both = [backbone.encoder.patches, backbone.cond_image]
    wide.weight.data = torch.cat([part.weight for part in both], 1)
    wide.bias = nn.Parameter(both[0].bias + both[1].bias)  # pyright: ignore[reportOperatorIssue]
    images, cond_image = torch.randn(3, 3, 8, 12), torch.randn(3, 3, 8, 12)
    parts = both[0](images) + both[1](cond_image)
    torch.testing.assert_close(parts, wide(torch.cat([images, cond_image], 1)))
    entered: list[Tensor] = []
    backbone.encoder.blocks[0].register_forward_pre_hook(lambda module, arguments: entered.append(arguments[0]))
    backbone(images, NOISE, Condition(LABELS, None, cond_image))
    expected = parts.flatten(2).transpose(1, 2) + backbone.encoder.positions[:, 2:]
    torch.testing.assert_close(entered[0][:, 2:], expected)


def test_what_is_not_given_counts_for_nothing() -> None:
    backbone = awake(asking()).requires_grad_(False)
    images, condition = torch.randn(3, 3, 8, 12), Condition(LABELS, torch.randn(3, 2), torch.randn(3, 3, 8, 12))
    plain, full = backbone(images, NOISE, LABELS), backbone(images, NOISE, condition)
    some = backbone(images, NOISE, condition, torch.tensor([True, False, True]))
    torch.testing.assert_close(some[1], plain[1])
    torch.testing.assert_close(some[[0, 2]], full[[0, 2]])
    assert (full - plain).abs().amax((1, 2, 3)).min() > 1e-3
    for part in (replace(condition, vector=None), replace(condition, cond_image=None)):
        assert (backbone(images, NOISE, part) - full).abs().max() > 1e-3


def test_conditions_leave_the_encoder_as_stage_one_made_it() -> None:
    torch.manual_seed(0)
    plain = build()
    torch.manual_seed(0)
    encoder = Encoder(3, 8, 8, patch=4, width=12, depth=3, heads=2)
    asking = Backbone(encoder, Decoder(encoder, 16, depth=3, heads=4), 4, 2, 1)
    assert plain.encoder.state_dict().keys() == asking.encoder.state_dict().keys()
    images, cond_image = torch.randn(3, 3, 8, 8), torch.randn(3, 1, 8, 8)
    tokens = [backbone.encoder(images, NOISE).tokens for backbone in (plain, asking)]
    torch.testing.assert_close(tokens[0], tokens[1])
    assert asking.cond_image is not None
    assert not asking.cond_image(cond_image).any()  # before training images beside change nothing
