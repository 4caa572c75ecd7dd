"""The Inception network of the FID: its features, its classes, and the scores that are taken from these.

*Pool* are the 2048 pooled features of the FID (Heusel et al. 2017, arXiv 1706.08500), *spatial* the 7 x 17 x 17 features of the
sFID (Nash et al. 2021, arXiv 2103.03841) as ADM takes them, *logits* those of the 1008 classes without their bias.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pixelpath.errors import MissingError, UserError
from pixelpath.evaluation.features import FeatureVectors, Native, eight_bit, hash_of
from pixelpath.sampling.checks import check_finite

INSTALL = "pip install 'pixelpath[metrics]'"
FILES = ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth")
"""The files of the same weights that torch-fidelity and pytorch-fid keep in torch's cache."""
SPATIAL_CHANNELS = 7
POOL, LOGITS, SPATIAL = 2048, 1008, SPATIAL_CHANNELS * 17 * 17
CHUNK = 64  # images in the network at a time


class InceptionOutputs(NamedTuple):
    """What the network says of a batch of images."""

    pool: Float[Tensor, "batch 2048"]
    logits: Float[Tensor, "batch 1008"]
    spatial: Float[Tensor, "batch 2023"]


@dataclass(frozen=True)
class Inception:
    """The pool features; `outputs` gives the others too. Made by `inception`.

    `network` maps uint8 images [batch, 3, row, column] to pool features and logits, and has the block Mixed_6d. One channel is
    repeated to three; `value_range` are the values that mean black and white for images that are not uint8 (see `eight_bit`).
    """

    network: nn.Module
    hash: str
    value_range: tuple[float, float] | None = None
    name: str = "inception-v3-2048"
    resize: str = "bilinear to 299x299 without antialiasing, as TensorFlow 1"

    def __call__(self, images: Native) -> FeatureVectors:
        """Features [batch, 2048]."""
        return torch.cat([self.network(part)[0] for part in eight_bit(images, self.value_range, self.name).split(CHUNK)])

    def outputs(self, images: Native) -> InceptionOutputs:
        """Pool features, logits and spatial features: of the 1x1 branch of Mixed_6d the first 7 channels, channels last."""
        seen: list[Tensor] = []
        branch = self.network.get_submodule("Mixed_6d.branch1x1")
        hook = branch.register_forward_hook(lambda module, given, out: seen.append(out[:, :SPATIAL_CHANNELS]))
        try:
            found = [self.network(part) for part in eight_bit(images, self.value_range, self.name).split(CHUNK)]
        finally:
            hook.remove()
        pool, logits = (torch.cat(parts) for parts in zip(*found, strict=True))
        return InceptionOutputs(pool, logits, torch.cat(seen).movedim(1, -1).flatten(1).float())


@dataclass(frozen=True)
class AllInception:
    """Pool features, logits and spatial features side by side, from one pass; `parts` takes them apart again."""

    inception: Inception

    @property
    def name(self) -> str:
        return self.inception.name

    @property
    def hash(self) -> str:
        return self.inception.hash

    @property
    def resize(self) -> str:
        return self.inception.resize

    def __call__(self, images: Native) -> FeatureVectors:
        """Features [batch, 2048 + 1008 + 2023]."""
        return torch.cat(self.inception.outputs(images), 1)

    def parts(self, features: FeatureVectors) -> InceptionOutputs:
        """What `__call__` put side by side."""
        return InceptionOutputs(*features.split([POOL, LOGITS, SPATIAL], 1))


def inception(weights: Path | None = None, device: torch.device | str = "cpu") -> Inception:
    """The Inception extractor: torch-fidelity's network, weights from a file or from torch's cache. Nothing is downloaded.

    Raises UserError if torch-fidelity is missing or the file holds other weights, MissingError if there is no file; each says
    what to do.
    """
    module = _module()
    path = cached(FILES) if weights is None else weights
    if path is None:
        raise MissingError(
            f"The Inception weights are not in {cache()}: download {module.URL_INCEPTION_V3} there, or give the file as "
            "`inception`.",
            setting="inception",
        )
    if not path.is_file():
        raise MissingError(
            f"There is no Inception weights file {path}: download {module.URL_INCEPTION_V3} and give its path.", "inception"
        )
    try:
        # torch-fidelity reads the file as a trusting pickle, so it is read here first in the way that runs no code.
        state = torch.load(path, map_location="cpu", weights_only=True)
        parts = ["2048", "logits_unbiased"]
        network = module.FeatureExtractorInceptionV3("inception-v3", parts, feature_extractor_weights_path=str(path))
    except Exception as error:
        sentence = f"{path} does not hold the Inception weights of {module.URL_INCEPTION_V3} ({shortened(error)})"
        raise UserError(f"{sentence}: give that file.", setting="inception") from error
    return Inception(network.to(device), hash_of(state))


def shortened(error: Exception) -> str:
    """The beginning of what an error says, in one line."""
    return textwrap.shorten(str(error), 120, placeholder=" ...") or type(error).__name__


def cache() -> Path:
    """The folder where torch keeps weights that were downloaded."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def cached(names: tuple[str, ...]) -> Path | None:
    """The first of these files that is in torch's cache."""
    return next((path for path in (cache() / name for name in names) if path.is_file()), None)


@dataclass(frozen=True)
class InceptionScore:
    """Mean and std, over `splits` parts of the images, of exp(mean KL(p(class | image) | p(class)))."""

    mean: float
    std: float
    splits: int


def inception_score(logits: Float[Tensor, "image classes"], parts: list[Int[np.ndarray, "_"]]) -> InceptionScore:
    """The Inception Score (Salimans et al. 2016, arXiv 1606.03498) over parts, each the numbers of its images.

    Raises UserError for an empty part, and for logits that are not finite.
    """
    if not parts or any(len(part) == 0 for part in parts):
        raise UserError(f"An Inception Score in {len(parts)} parts needs an image in each, got {len(logits)}: evaluate more.")
    check_finite(logits, "logits", "look for NaN in the images, or in the weights of the network")
    scores = []
    for part in parts:
        ln = logits[torch.from_numpy(part)].double().log_softmax(1)
        shares = ln.exp()
        scores.append(float((shares * (ln - shares.mean(0).log())).sum(1).mean().exp()))
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)), len(parts))


def fidelity_parts(count: int, splits: int = 10, seed: int = 2020) -> list[Int[np.ndarray, "_"]]:
    """The parts of torch-fidelity: images in random order, cut into ten."""
    order = np.random.RandomState(seed).permutation(count)
    return [order[count * number // splits : count * (number + 1) // splits] for number in range(splits)]


def adm_parts(count: int, size: int = 5000) -> list[Int[np.ndarray, "_"]]:
    """The parts of ADM (Dhariwal and Nichol 2021, arXiv 2105.05233): 5,000 images each, in their own order."""
    return [np.arange(first, min(first + size, count)) for first in range(0, count, size)]


def _module() -> Any:
    """torch-fidelity's Inception module alone: the package also imports torchvision, which Inception does not need."""
    spec = importlib.util.find_spec("torch_fidelity")
    if spec is None:
        raise UserError(f"Inception features need the extra 'metrics': run {INSTALL}, or evaluate in other features.")
    before = set(sys.modules)
    if "torch_fidelity" not in before:
        sys.modules["torch_fidelity"] = importlib.util.module_from_spec(spec)  # not executed: only its path is needed
    try:
        return importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    except ImportError as error:
        raise UserError(f"The Inception of torch-fidelity does not import ({error}): run {INSTALL} --upgrade.") from error
    finally:
        if "torch_fidelity" not in before:  # a later `import torch_fidelity` must find the whole package
            for name in {name for name in sys.modules if name.split(".")[0] == "torch_fidelity"} - before:
                del sys.modules[name]
