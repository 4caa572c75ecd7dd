"""The checkpoints published with EPG (Lei et al. 2025, arXiv 2510.12586), read into our models and written back.

A *state dict* maps official key names to tensors. It says neither how many heads attention has nor how the network is used at a
noise level. Unless the caller gives them, heads come from the published table of widths, and preconditioning is XPrediction().
"""

from __future__ import annotations

import math
import pickle
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pixelpath.data.normalise.normaliser import IMAGENET
from pixelpath.errors import UserError
from pixelpath.models.denoiser import Denoiser
from pixelpath.models.preconditioning import Preconditioning, XPrediction
from pixelpath.models.representation import Representation
from pixelpath.networks.backbone import Backbone
from pixelpath.networks.decoder import Decoder
from pixelpath.networks.encoder import EXTRA, Encoder
from pixelpath.networks.projector import Projector
from pixelpath.networks.weights import check_fit, shapes_of, some
from pixelpath.noise import NoiseRange

NORMALISER = IMAGENET  # of the images of every published checkpoint: (rgb in [0, 1] - mean) / (2 std)
HEADS = {768: 12, 1024: 16, 1584: 22, 1920: 16, 2688: 21}  # of every published width, encoder or decoder
FILES = ("nnet_ema.pth", "nnet.pth")  # in a published folder, the EMA first

# Our names to the official ones: first the beginning of a name (the first that fits), then parts within it.
BEGINNINGS = {
    "encoder.cls": "cls_token",
    "encoder.positions": "pos_embed",
    "encoder.patches.": "patch_embed.proj.",
    "encoder.": "",
    "decoder.enter.": "encoder_to_decoder.",
    "decoder.blocks.": "decoder_blocks.",
    "decoder.norm.": "out_norm.",
    "decoder.out.": "out.",
    "classes.": "class_embed.",
    "projector.": "projection_head.",
}
PARTS = {
    ".norm_attention.": ".norm1.",
    ".norm_mlp.": ".norm2.",
    ".norm_join.": ".skip_norm.",
    ".join.": ".skip_linear.",
    ".modulation.": ".adaLN_modulation.",
    ".attention.query_key_value.": ".attn.qkv.",
    ".attention.out.": ".attn.proj.",
    ".mlp.0.": ".mlp.fc1.",
    ".mlp.2.": ".mlp.fc2.",
}


def load(
    path: Path | str,
    encoder_heads: int | None = None,
    decoder_heads: int | None = None,
    size: tuple[int, int] | None = None,
    preconditioning: Preconditioning | None = None,
) -> Denoiser | Representation:
    """The model of an official checkpoint: a Denoiser where it has a decoder, a Representation where it has a projection head.

    `path` is a .pth or .safetensors file, or a folder that holds nnet_ema.pth (preferred) or nnet.pth. Widths, depths, patch,
    channels and classes follow from the shapes; images are square unless `size` (rows, columns) is given. `preconditioning` is
    XPrediction() unless given. A one-step (consistency) model needs EDMPreconditioning(boundary=b), where b is sigma_min times
    shift of its range. The model is in eval mode and float32, for images normalised by NORMALISER. Raises FileNotFoundError,
    and ValueError that names keys if the checkpoint holds anything that these models do not.
    """
    path = Path(path)
    state = _without_prefix(_read(path), path)
    with torch.device("meta"):  # only shapes: the weights are those of the file
        model = _model(state, _encoder(state, encoder_heads, size, path), decoder_heads, preconditioning or XPrediction(), path)
    _fill(model, state, path)
    return model.eval()


def write(model: Denoiser | Representation, path: Path | str) -> None:
    """Write the model as an official state dict: .safetensors, or what torch.save writes for any other ending.

    It does not hold the size of images that are not square, nor the numbers of heads: tell `load`.
    """
    path = Path(path)
    state = {official_name(name): tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)


def noise_range(model: Denoiser | Representation) -> NoiseRange:
    """The range of the published models: 0.002 to 80, times height / 64 (or the root of height x width)."""
    encoder = model.backbone.encoder if isinstance(model, Denoiser) else model.encoder
    return NoiseRange().for_resolution(math.sqrt(encoder.rows * encoder.columns))


def official_name(name: str) -> str:
    """The official key of one of our parameters or buffers."""
    name = name.removeprefix("backbone.")
    beginning = next(beginning for beginning in BEGINNINGS if name.startswith(beginning))
    name = BEGINNINGS[beginning] + name.removeprefix(beginning)
    for part, official in PARTS.items():
        name = name.replace(part, official)
    return name


def _read(path: Path) -> dict[str, Tensor]:
    if path.is_dir():
        candidates = [path / name for name in FILES if (path / name).is_file()]
        if not candidates:
            raise FileNotFoundError(f"The folder {path} holds neither {' nor '.join(FILES)}: give the checkpoint file itself.")
        path = candidates[0]
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no checkpoint at {path}: give a .pth or .safetensors file, or the folder that holds it."
        )
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # whose text advises to read it unsafely
        raise UserError(
            f"{path} cannot be read: it is damaged, or holds more than tensors and plain values, which could run code. Give the "
            "state dict alone, best as .safetensors."
        ) from error
    except (SafetensorError, RuntimeError, EOFError) as error:
        raise UserError(
            f"{path} cannot be read as a file of tensors alone ({str(error).splitlines()[0]}): is it complete?"
        ) from error
    if not isinstance(state, dict) or not state:
        raise UserError(
            f"{path} holds no state dict (a mapping of names to tensors), but {type(state).__name__}: save model.state_dict()."
        )
    strange = [str(key) for key, value in state.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if strange:
        raise UserError(
            f"{path} is no state dict, for these keys hold no tensors: {some(strange)}: save the model's state dict alone."
        )
    return state


def _without_prefix(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Without the prefix that wrappers (DistributedDataParallel, torch.compile) put before every key, as before cls_token."""
    prefix = next((key.removesuffix("cls_token") for key in state if key.endswith("cls_token")), None)
    if prefix is None:
        raise UserError(f"{path} has no key cls_token, so it is no EPG checkpoint; its keys are {some(state)}.")
    strays = [key for key in state if not key.startswith(prefix)]
    if strays:
        raise UserError(f"{path}: keys without the prefix {prefix!r} of the others: {some(strays)}. Remove them or the prefix.")
    return {key.removeprefix(prefix): value for key, value in state.items()}


def _shape(state: dict[str, Tensor], key: str, dimensions: int, path: Path) -> tuple[int, ...]:
    if key not in state:
        raise UserError(f"{path} lacks the key {key}; it has {some(state)}.")
    if state[key].dim() != dimensions:
        raise UserError(f"{path}: {key} should have {dimensions} dimensions, its shape is {list(state[key].shape)}.")
    return tuple(state[key].shape)


def _heads(width: int, given: int | None, part: str, path: Path) -> int:
    if given is None and width not in HEADS:
        raise UserError(
            f"{path}: no published {part} is {width} wide (those are {', '.join(map(str, HEADS))}), "
            f"so its number of attention heads is unknown: give {part}_heads."
        )
    return HEADS[width] if given is None else given


def _encoder(state: dict[str, Tensor], heads: int | None, size: tuple[int, int] | None, path: Path) -> Encoder:
    width, channels, patch, across = _shape(state, "patch_embed.proj.weight", 4, path)
    if patch != across:
        raise UserError(
            f"{path}: patch_embed.proj.weight has patches of {patch} x {across} pixels; only square ones are supported."
        )
    patches = _shape(state, "pos_embed", 3, path)[1] - EXTRA
    side = math.isqrt(max(patches, 0))
    if size is None and side**2 != patches:
        raise UserError(
            f"{path}: pos_embed has {patches} patches after {EXTRA} tokens, which is no square: give size (rows, columns)."
        )
    rows, columns = (side * patch, side * patch) if size is None else size
    if (rows // patch) * (columns // patch) != patches:
        raise UserError(
            f"{path}: pos_embed has {patches} patches of {patch} pixels, which do not make up {rows} x {columns} pixels."
        )
    numbers = {int(found[1]) for key in state if (found := re.match(r"blocks\.(\d+)\.", key))}
    return Encoder(channels, rows, columns, patch, width, max(numbers, default=-1) + 1, _heads(width, heads, "encoder", path))


def _model(
    state: dict[str, Tensor], encoder: Encoder, heads: int | None, preconditioning: Preconditioning, path: Path
) -> Denoiser | Representation:
    if "class_embed.weight" in state:
        classes = _shape(state, "class_embed.weight", 2, path)[0] - 1
        width = _shape(state, "out_norm.weight", 1, path)[0]
        decoder = Decoder(encoder, width, len(encoder.blocks), _heads(width, heads, "decoder", path))
        return Denoiser(Backbone(encoder, decoder, classes), preconditioning)
    if "projection_head.0.weight" not in state:
        raise UserError(
            f"{path} has neither class_embed.weight (a denoiser) nor projection_head.0.weight (a representation), "
            f"so it is no EPG checkpoint; its keys are {some(state)}."
        )
    if not isinstance(preconditioning, XPrediction):
        raise UserError(f"{path} is an encoder with a projection head, which has XPrediction(): leave `preconditioning` out.")
    hidden, out = (_shape(state, f"projection_head.{layer}.weight", 2, path)[0] for layer in (0, 6))
    return Representation(encoder, Projector(encoder.width, hidden, out), preconditioning)


def _fill(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    own = {official_name(name): (name, tensor) for name, tensor in model.state_dict().items()}
    shapes = shapes_of({key: tensor for key, (_, tensor) in own.items()})
    check_fit(shapes, shapes_of(state), str(path), "this EPG checkpoint cannot be represented here")
    model.load_state_dict({name: state[key].to(like.dtype) for key, (name, like) in own.items()}, assign=True)
