"""The features of DINOv2 (Oquab et al. 2023, arXiv 2304.07193), in which the Frechet distance is called FD-DINOv2.

The network is a vision transformer: patches of 14 x 14 pixels and a class token, whose state after the last block is the
feature (Stein et al. 2023, arXiv 2306.04675). The weights are the published files, in their own names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from pixelpath.errors import MissingError, UserError
from pixelpath.evaluation.features import FeatureVectors, Native, eight_bit, hash_of
from pixelpath.evaluation.inception import cache, cached, shortened

URL = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth"
FILES = (URL.rsplit("/", 1)[-1],)
SIZES = {384: "s", 768: "b", 1024: "l"}  # the models, by width
SIDE, PATCH, HEAD = 224, 14, 64
OFFSET = 0.1  # of the published code, added to the rows and columns that the positions are resized to
CHUNK = 32  # images in the network at a time
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _Block(nn.Module):
    """x + g1 attention(norm(x)), then x + g2 mlp(norm(x)), g1 and g2 a gain per feature."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        self.ls1, self.ls2 = (nn.ParameterDict({"gamma": torch.ones(width)}) for _ in range(2))

    def forward(self, x: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch token width"]:
        batch, tokens, width = x.shape
        q, k, v = self.attn["qkv"](self.norm1(x)).reshape(batch, tokens, 3, width // HEAD, HEAD).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width)
        x = x + self.ls1["gamma"] * self.attn["proj"](mixed)
        return x + self.ls2["gamma"] * self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm2(x))))


class VisionTransformer(nn.Module):
    """DINOv2 of a width and depth, with positions for `grid` x `grid` patches: images [batch, 3, 224, 224] to class tokens."""

    def __init__(self, width: int, depth: int, grid: int = 37) -> None:
        super().__init__()
        self.cls_token, self.mask_token = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid * grid, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, PATCH, PATCH)})
        self.blocks = nn.ModuleList(_Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.grid = grid

    def forward(self, x: Float[Tensor, "batch 3 row column"]) -> Float[Tensor, "batch width"]:
        """The class token after the last block and norm."""
        tokens = self.patch_embed["proj"](x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], 1) + self.positions(x.shape[-1] // PATCH)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)[:, 0]

    def positions(self, side: int) -> Float[Tensor, "1 token width"]:
        """The learned positions, resized (bicubic) to side x side patches as the published code does it."""
        if side == self.grid:
            return self.pos_embed
        first, rest = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        scale = (side + OFFSET) / self.grid
        square = rest.reshape(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        resized = functional.interpolate(square, scale_factor=(scale, scale), mode="bicubic")
        return torch.cat([first, resized.flatten(2).transpose(1, 2)], 1)


@dataclass(frozen=True)
class DINOv2:
    """The class token of DINOv2; made by `dinov2`. Images are made RGB of 8 bits by `eight_bit`."""

    network: nn.Module
    hash: str
    name: str = "dinov2-vit-l-14"
    value_range: tuple[float, float] | None = None
    resize: str = "bicubic to 224x224 with antialiasing, by Pillow on 8 bits, as dgm-eval"

    def __call__(self, images: Native) -> FeatureVectors:
        """Features [batch, width]."""
        parts = eight_bit(images, self.value_range, self.name).split(CHUNK)
        return torch.cat([self.network(_resized(part).to(images.device)) for part in parts])


def _resized(images: Native) -> Float[Tensor, "batch 3 224 224"]:
    pictures = [
        Image.fromarray(each).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for each in images.movedim(1, -1).cpu().numpy()
    ]
    values = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).movedim(-1, 1).float() / 255
    return (values - torch.tensor(MEAN).reshape(3, 1, 1)) / torch.tensor(STD).reshape(3, 1, 1)


def dinov2(weights: Path | None = None, device: torch.device | str = "cpu") -> DINOv2:
    """The DINOv2 extractor with weights of ViT-S, B or L (patch 14, no registers) from a file or torch's cache (ViT-L).

    Nothing is downloaded. Raises UserError if the file holds other weights, MissingError if there is none.
    """
    path = cached(FILES) if weights is None else weights
    if path is None:
        sentence = f"The DINOv2 weights are not in {cache()}: download {URL} there, or give the file as `dinov2`."
        raise MissingError(sentence, setting="dinov2")
    if not path.is_file():
        raise MissingError(f"There is no DINOv2 weights file {path}: download {URL} and give its path.", setting="dinov2")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network = _built(state)
    except Exception as error:
        sentence = f"{path} does not hold DINOv2 weights like those of {URL} ({shortened(error)})"
        raise UserError(f"{sentence}: give that file.", setting="dinov2") from error
    width = state["cls_token"].shape[-1]
    return DINOv2(network.to(device), hash_of(state), f"dinov2-vit-{SIZES[width]}-14")


def _built(state: Mapping[str, Tensor]) -> VisionTransformer:
    """The network that the weights are of, strictly loaded; ValueError, KeyError or RuntimeError for others."""
    width, positions = state["cls_token"].shape[-1], state["pos_embed"].shape[1] - 1
    if width not in SIZES:
        raise ValueError(f"its width is {width}, not that of ViT-S, B or L")
    depth = 1 + max(int(found[1]) for name in state if (found := re.match(r"blocks\.(\d+)\.", name)))
    network = VisionTransformer(width, depth, round(positions**0.5))
    network.load_state_dict(dict(state), strict=True)
    return network.requires_grad_(False).eval()
