"""DINOv2 of the right shape with random weights: against torch's own transformer, and files that are none."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.refusal import refused
from torch import nn
from torch.nn import functional

from pixelpath.evaluation.dinov2 import MEAN, STD, DINOv2, VisionTransformer, dinov2
from pixelpath.evaluation.features import extract, hash_of


def random(width: int = 384, depth: int = 2, grid: int = 37) -> VisionTransformer:
    torch.manual_seed(0)
    network = VisionTransformer(width, depth, grid)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05)
    return network.eval().requires_grad_(False)


def test_the_network_is_a_transformer_with_a_gain_for_each_branch() -> None:
    """Against torch's TransformerEncoderLayer, with the gains multiplied into the weights that precede them."""
    network = random(grid=2)
    images = torch.randn(3, 3, 28, 28)
    given = dict(network.named_parameters())
    patches = functional.conv2d(images, given["patch_embed.proj.weight"], given["patch_embed.proj.bias"], 14)
    tokens = torch.cat([network.cls_token.expand(3, -1, -1), patches.flatten(2).transpose(1, 2)], 1) + network.pos_embed
    for block in network.blocks:
        layer = nn.TransformerEncoderLayer(384, 6, 1536, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True).eval()
        parts = dict(block.named_parameters())
        attention, mlp = parts["ls1.gamma"], parts["ls2.gamma"]
        layer.load_state_dict(
            {
                "self_attn.in_proj_weight": parts["attn.qkv.weight"],
                "self_attn.in_proj_bias": parts["attn.qkv.bias"],
                "self_attn.out_proj.weight": attention[:, None] * parts["attn.proj.weight"],
                "self_attn.out_proj.bias": attention * parts["attn.proj.bias"],
                "linear1.weight": parts["mlp.fc1.weight"],
                "linear1.bias": parts["mlp.fc1.bias"],
                "linear2.weight": mlp[:, None] * parts["mlp.fc2.weight"],
                "linear2.bias": mlp * parts["mlp.fc2.bias"],
                **{f"{name}.{kind}": parts[f"{name}.{kind}"] for name in ("norm1", "norm2") for kind in ("weight", "bias")},
            }
        )
        tokens = layer(tokens)
    expected = functional.layer_norm(tokens[:, 0], (384,), network.norm.weight, network.norm.bias, 1e-6)
    torch.testing.assert_close(network(images), expected.detach(), atol=1e-5, rtol=1e-4)


def test_positions_are_resized_with_the_offset_of_the_published_code() -> None:
    """Of a ramp: cubic convolution (a = -3/4) at (i + 1/2) 37 / 16.1 - 1/2, for a scale of (16 + 0.1) / 37 and not 16 / 37."""
    network = random(depth=1)
    network.pos_embed.data[:, 1:] = torch.arange(37.0).repeat(37, 1).reshape(1, -1, 1)
    places = (np.arange(2, 14) + 0.5) * 37 / 16.1 - 0.5
    taps = np.floor(places)[:, None] + np.arange(-1, 3)
    far = np.abs(places[:, None] - taps)
    near = 1.25 * far**3 - 2.25 * far**2 + 1
    weights = np.where(far <= 1, near, -0.75 * far**3 + 3.75 * far**2 - 6 * far + 3)
    found = network.positions(16)
    assert found.shape == (1, 257, 384)
    assert found[0, 1:, 0].reshape(16, 16)[8, 2:14].tolist() == pytest.approx((weights * taps).sum(1).tolist(), abs=1e-4)
    assert torch.equal(found[0, 0], network.pos_embed[0, 0])


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dinov2") / "small.pth"
    torch.save(random().state_dict(), path)
    return path


def test_features_from_a_file(weights: Path) -> None:
    extractor = dinov2(weights)
    assert (extractor.name, extractor.hash) == ("dinov2-vit-s-14", hash_of(random().state_dict()))
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    small = np.asarray(Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC)) / 255
    values = torch.from_numpy((small - MEAN) / STD).permute(2, 0, 1).float()[None]
    found = extract(extractor, [torch.from_numpy(image).permute(2, 0, 1)[None]])
    torch.testing.assert_close(found, random()(values), atol=1e-5, rtol=1e-4)


def test_the_published_names_of_the_weights(weights: Path) -> None:
    names = set(torch.load(weights, weights_only=True))
    block = {
        f"blocks.1.{name}"
        for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        for name in (f"{part}.weight", f"{part}.bias")
    }
    whole = {"cls_token", "pos_embed", "mask_token", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    assert block | whole | {"blocks.1.ls1.gamma", "blocks.1.ls2.gamma", "norm.weight", "norm.bias"} <= names


def test_files_that_hold_other_weights_are_said(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = torch.load(weights, weights_only=True)
    torch.save(state | {"register_tokens": torch.zeros(1, 4, 384)}, tmp_path / "registers.pth")
    torch.save(VisionTransformer(128, 1).state_dict(), tmp_path / "narrow.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for name in ("registers", "narrow", "text"):
        with refused("dinov2", tmp_path / f"{name}.pth", "dinov2_vitl14_pretrain.pth"):
            dinov2(tmp_path / f"{name}.pth")
    with refused("dinov2", "absent.pth"):
        dinov2(tmp_path / "absent.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with refused("dinov2", tmp_path / "checkpoints"):
        dinov2()


def test_images_of_other_kinds_are_refused() -> None:
    with refused("value_range", "float32"):
        DINOv2(nn.Identity(), "")(torch.zeros(1, 3, 4, 4))
