"""Official checkpoints are read strictly, written back bit for bit, and refused with their keys named."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pixelpath.interop import official
from pixelpath.models.denoiser import Denoiser
from pixelpath.models.preconditioning import EDMPreconditioning, XPrediction
from pixelpath.models.representation import Representation
from pixelpath.networks.backbone import Backbone
from pixelpath.networks.decoder import Decoder
from pixelpath.networks.encoder import Encoder

State = dict[str, Tensor]


@pytest.fixture
def generator(parity: Path) -> State:
    return load_file(parity / "weights_epg.safetensors")


@pytest.fixture
def pretrained(parity: Path) -> State:
    return load_file(parity / "weights_rcm_online.safetensors")


def saved(state: State, folder: Path, name: str = "checkpoint.pth") -> Path:
    torch.save(state, folder / name)
    return folder / name


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
@pytest.mark.parametrize("name", ["weights_epg", "weights_rcm_online"])
def test_round_trip_is_exact(parity: Path, tmp_path: Path, name: str, ending: str) -> None:
    state = load_file(parity / f"{name}.safetensors")
    decoder_heads = 4 if name == "weights_epg" else None
    model = official.load(parity / f"{name}.safetensors", 4, decoder_heads)
    official.write(model, tmp_path / f"copy.{ending}")
    copy = load_file(tmp_path / "copy.safetensors") if ending == "safetensors" else torch.load(tmp_path / "copy.pth")
    assert copy.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(copy[key], value)
        assert copy[key].dtype == value.dtype


def test_configuration_from_shapes(generator: State, pretrained: State, tmp_path: Path) -> None:
    denoiser = official.load(saved(generator, tmp_path), 4, 4)
    assert isinstance(denoiser, Denoiser)
    encoder = denoiser.backbone.encoder
    assert (encoder.channels, encoder.rows, encoder.columns, encoder.patch, encoder.width) == (3, 32, 32, 4, 64)
    assert len(encoder.blocks) == len(denoiser.backbone.decoder.blocks) == 3
    assert denoiser.backbone.num_classes == 10
    assert denoiser.preconditioning == XPrediction()
    assert not denoiser.training
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in denoiser.parameters())
    images, sigma = torch.randn(2, 3, 32, 32), torch.tensor([0.1, 3.0])
    assert denoiser(images, sigma, torch.tensor([3, 9])).shape == images.shape
    assert official.noise_range(denoiser).sigmas(1).tolist() == [40.0, 0.0]
    representation = official.load(saved(pretrained, tmp_path), 4)
    assert isinstance(representation, Representation)
    assert representation(images, sigma).projection.shape == (2, 32)
    assert official.noise_range(representation) == official.noise_range(denoiser)


def test_folder_prefers_the_average(generator: State, tmp_path: Path) -> None:
    saved(generator | {"out.bias": generator["out.bias"] + 1}, tmp_path, "nnet.pth")
    other = official.load(tmp_path, 4, 4)
    saved(generator, tmp_path, "nnet_ema.pth")
    ema = official.load(tmp_path, 4, 4)
    assert torch.equal(other.state_dict()["backbone.decoder.out.bias"], generator["out.bias"] + 1)
    assert torch.equal(ema.state_dict()["backbone.decoder.out.bias"], generator["out.bias"])


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers(generator: State, tmp_path: Path, prefix: str) -> None:
    path = saved({prefix + key: value for key, value in generator.items()}, tmp_path)
    model = official.load(path, 4, 4)
    assert torch.equal(model.state_dict()["backbone.classes.weight"], generator["class_embed.weight"])


def test_half_precision_becomes_float32(generator: State, tmp_path: Path) -> None:
    model = official.load(saved({key: value.half() for key, value in generator.items()}, tmp_path), 4, 4)
    assert torch.equal(model.state_dict()["backbone.decoder.out.bias"], generator["out.bias"].half().float())


def test_published_widths_need_no_heads(tmp_path: Path) -> None:
    encoder = Encoder(channels=3, rows=8, columns=8, patch=4, width=768, depth=1, heads=12)
    backbone = Backbone(encoder, Decoder(encoder, width=1584, depth=1, heads=22), num_classes=3)
    official.write(Denoiser(backbone, XPrediction()), tmp_path / "nnet.pth")
    model = official.load(tmp_path)
    assert isinstance(model, Denoiser)
    first, second = model.backbone.encoder.blocks[0], model.backbone.decoder.blocks[0]
    assert (first.get_submodule("attention").heads, second.get_submodule("attention").heads) == (12, 22)
    assert official.HEADS == {768: 12, 1024: 16, 1584: 22, 1920: 16, 2688: 21}


def test_images_that_are_not_square(tmp_path: Path) -> None:
    encoder = Encoder(channels=1, rows=8, columns=12, patch=4, width=16, depth=1, heads=2)
    model = Denoiser(Backbone(encoder, Decoder(encoder, width=16, depth=1, heads=2), num_classes=0), XPrediction())
    official.write(model, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="pos_embed has 6 patches"):
        official.load(tmp_path / "model.safetensors", 2, 2)
    with pytest.raises(ValueError, match="pos_embed has 6 patches"):
        official.load(tmp_path / "model.safetensors", 2, 2, size=(8, 8))
    copy = official.load(tmp_path / "model.safetensors", 2, 2, size=(8, 12)).requires_grad_(False)
    images = torch.randn(2, 1, 8, 12)
    assert torch.equal(copy(images, torch.tensor(1.0)), model(images, torch.tensor(1.0)))
    assert official.noise_range(model).shift == pytest.approx(96**0.5 / 64)


def test_scalings_of_one_step_models(generator: State, pretrained: State, tmp_path: Path) -> None:
    model = official.load(saved(generator, tmp_path), 4, 4, preconditioning=EDMPreconditioning(boundary=0.001))
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(images, torch.tensor(0.001)), images)
    with pytest.raises(ValueError, match="XPrediction"):
        official.load(saved(pretrained, tmp_path), 4, preconditioning=EDMPreconditioning())


def without(state: State, *beginnings: str) -> State:
    return {key: value for key, value in state.items() if not key.startswith(beginnings)}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: without(state, "norm.bias"), ["missing", "norm.bias"]),
        (lambda state: without(state, "cls_token"), ["cls_token"]),
        (lambda state: without(state, "class_embed"), ["class_embed.weight", "projection_head.0.weight"]),
        (lambda state: without(state, "out_norm"), ["out_norm.weight"]),
        (lambda state: without(state, "patch_embed"), ["patch_embed.proj.weight"]),
        (lambda state: without(state, "blocks.1."), ["missing", "blocks.1.norm1.weight", "and 7 more"]),
        (lambda state: without(state, "decoder_blocks.2."), ["missing", "decoder_blocks.2."]),
        (
            lambda state: state | {"decoder_blocks.3.norm1.weight": torch.ones(96)},
            ["unexpected", "decoder_blocks.3.norm1.weight"],
        ),
        (lambda state: state | {"blocks.0.attn.qkv.bias": torch.ones(192)}, ["unexpected", "blocks.0.attn.qkv.bias"]),
        (
            lambda state: state | {"blocks.0.mlp.fc1.weight": torch.ones(128, 64)},
            ["another shape", "blocks.0.mlp.fc1.weight"],
        ),
        (lambda state: state | {"pos_embed": torch.ones(1, 65, 64)}, ["pos_embed", "63 patches"]),
        (lambda state: state | {"pos_embed": torch.ones(66, 64)}, ["pos_embed", "3 dimensions"]),
        (lambda state: state | {"patch_embed.proj.weight": torch.ones(64, 3, 4, 2)}, ["patch_embed.proj.weight", "4 x 2"]),
        (lambda state: state | {"module.step": torch.ones(1), "epoch": 3}, ["epoch"]),
        (lambda state: {"module." + key: value for key, value in state.items()} | {"step": torch.ones(1)}, ["step", "module."]),
        (lambda state: {"model": state}, ["model"]),
        (lambda state: {}, ["no state dict"]),
        (lambda state: [state], ["no state dict"]),
    ],
)
def test_what_cannot_be_represented(generator: State, tmp_path: Path, change: Callable[[State], State], named: list[str]) -> None:
    with pytest.raises(ValueError, match=r".\Z") as error:
        official.load(saved(change(generator), tmp_path), 4, 4)
    message = str(error.value)
    assert "checkpoint.pth" in message
    for words in named:
        assert words in message
    assert "\n" not in message


def test_unknown_widths_ask_for_heads(generator: State, tmp_path: Path) -> None:
    path = saved(generator, tmp_path)
    with pytest.raises(ValueError, match="give encoder_heads"):
        official.load(path)
    with pytest.raises(ValueError, match="give decoder_heads"):
        official.load(path, 4)
    with pytest.raises(ValueError, match="5 heads"):
        official.load(path, 5, 4)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        official.load(tmp_path / "nowhere.pth")
    with pytest.raises(FileNotFoundError, match=r"nnet_ema\.pth"):
        official.load(tmp_path)
    for name in ("text.pth", "text.safetensors"):
        (tmp_path / name).write_text("These are no weights, but a sentence.")
        with pytest.raises(ValueError, match="cannot be read"):
            official.load(tmp_path / name)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    torch.save({"cls_token": Unwelcome()}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match="cannot be read") as caught:
        official.load(tmp_path / "model.pth")
    assert "weights_only" not in str(caught.value)  # torch's advice to read it all the same
    assert "trust" not in str(caught.value)
    assert not Path("unwelcome").exists()


class Unwelcome:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (Path("unwelcome"),)


def test_images_are_normalised_as_published() -> None:
    white = official.NORMALISER.encode(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)).flatten()
    expected = torch.tensor([(1 - 0.485) / 0.458, (1 - 0.456) / 0.448, (1 - 0.406) / 0.45])
    assert torch.allclose(white, expected, rtol=1e-6)


def test_safetensors_without_a_model(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="weight"):
        official.load(tmp_path / "other.safetensors")
