"""The networks compute what the reference's networks compute with the same weights."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pixelpath.interop import official
from pixelpath.models.denoiser import Denoiser
from pixelpath.models.representation import Representation
from tests.agreement import largest, norm, vectors

TOLERANCE = 3e-6  # both are float32; a LayerNorm epsilon of 1e-6 for 1e-5 would make 8e-6


@pytest.fixture
def forward(parity: Path) -> dict[str, Tensor]:
    return vectors(parity, "forward")


@pytest.fixture
def denoiser(parity: Path) -> Denoiser:
    model = official.load(parity / "weights_epg.safetensors", encoder_heads=4, decoder_heads=4)
    assert isinstance(model, Denoiser)
    return model


@pytest.fixture
def representation(parity: Path) -> Representation:
    model = official.load(parity / "weights_rcm_online.safetensors", encoder_heads=4)
    assert isinstance(model, Representation)
    return model


def keep(outputs: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    """A hook that notes what a module returned."""
    return lambda module, arguments, output: outputs.append(output)


@torch.no_grad()
def test_encoder_blocks(denoiser: Denoiser, forward: dict[str, Tensor]) -> None:
    shift = denoiser.backbone.classes(forward["y"])[:, None]
    encoding = denoiser.backbone.encoder(forward["x"], forward["t"], shift)
    for number, block in enumerate(encoding.blocks):
        assert largest(block, forward[f"epg.block{number}"]) < TOLERANCE


@torch.no_grad()
def test_decoder_blocks_and_output(denoiser: Denoiser, forward: dict[str, Tensor]) -> None:
    outputs: list[Tensor] = []
    for block in denoiser.backbone.decoder.blocks:
        block.register_forward_hook(keep(outputs))
    estimate = denoiser.backbone(forward["x"], forward["t"], forward["y"])
    for number, output in enumerate(outputs):
        assert largest(output, forward[f"epg.decoder{number}"]) < TOLERANCE
    assert largest(estimate, forward["epg"]) < TOLERANCE


@torch.no_grad()
def test_representation(representation: Representation, forward: dict[str, Tensor]) -> None:
    cls = representation.encoder(forward["x"], forward["t"]).tokens[:, 0]
    assert largest(cls, forward["rcm_eval.feat"]) < TOLERANCE
    assert largest(representation.projector(cls), forward["rcm_eval.proj"]) < TOLERANCE


@torch.no_grad()
def test_projector_while_training(representation: Representation, forward: dict[str, Tensor]) -> None:
    representation.train()
    projection = representation.projector(representation.encoder(forward["x"], forward["t"]).tokens[:, 0])
    assert largest(projection, forward["rcm_train.proj"]) < TOLERANCE
    buffers = {official.official_name(name): value for name, value in representation.named_buffers()}
    expected = {key.removeprefix("rcm_train.after."): value for key, value in forward.items() if ".after." in key}
    assert len(expected) == 4
    for key, value in expected.items():
        assert norm(buffers[key], value) < 1e-6


def test_parameter_counts(denoiser: Denoiser, representation: Representation) -> None:
    assert sum(parameter.numel() for parameter in denoiser.parameters()) == 662640
    assert sum(parameter.numel() for parameter in representation.parameters()) == 186112
