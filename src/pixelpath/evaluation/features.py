"""Feature extractors: from native images to the vectors that distances are measured between.

*Native* images are the user's own values [batch, channel, row, column] in their own dtype, as files and samples hold them. A
feature extractor states its `name`, the `hash` of its weights and how it resizes, as distances can only be compared with these.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from pixelpath.errors import UserError

Native = Shaped[Tensor, "batch channel row column"]
FeatureVectors = Float[Tensor, "batch feature"]
Batches = Iterable[Shaped[Tensor, "_ channel row column"]]
WIDEST = 4096  # values of an image, at most, that are features in pixels
INSTALL = "pip install 'pixelpath[metrics]'"


@runtime_checkable
class FeatureExtractor(Protocol):
    """Native images [batch, channel, row, column] in, features [batch, feature] out."""

    @property
    def name(self) -> str:
        """What the report calls these features."""
        ...

    @property
    def hash(self) -> str:
        """The first 16 hexadecimal digits of the sha256 of the weights."""
        ...

    @property
    def resize(self) -> str:
        """How images are brought to the extractor's own size."""
        ...

    def __call__(self, images: Native) -> FeatureVectors:
        """The features of native images."""
        ...


def hash_of(weights: Mapping[str, Tensor]) -> str:
    """The first 16 hexadecimal digits of the sha256 of named tensors: names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def stream(extractor: FeatureExtractor, batches: Batches, device: torch.device | str = "cpu") -> Iterable[FeatureVectors]:
    """The features of batches of native images, one batch at a time, on the CPU; the extractor works on `device`."""
    for images in batches:
        with torch.no_grad():
            yield extractor(images.to(device)).float().cpu()


def extract(extractor: FeatureExtractor, batches: Batches, device: torch.device | str = "cpu") -> Float[Tensor, "images feature"]:
    """The features of all batches as one float32 tensor [images, feature] on the CPU; UserError for no batch."""
    parts = list(stream(extractor, batches, device))
    if not parts:
        raise UserError(f"There are no images to extract the features '{extractor.name}' from: give at least one batch.")
    return torch.cat(parts)


def fewer(shape: tuple[int, int, int]) -> tuple[int, int] | None:
    """Rows and columns after halving, as often as needed, images that have more than WIDEST values; None for smaller ones."""
    values = math.prod(shape)
    if values <= WIDEST:
        return None
    block = 2 ** math.ceil(math.log2(values / WIDEST) / 2)
    return math.ceil(shape[1] / block), math.ceil(shape[2] / block)


@dataclass(frozen=True)
class Pixels:
    """The pixels themselves, row after row: (value - lowest) / (highest - lowest), which maps the native range to [0, 1].

    With a `size` (rows, columns) they are means of blocks of pixels, because the covariance of all pixels of a large image does
    not fit in memory. Raises UserError unless lowest < highest.
    """

    lowest: float = 0.0
    highest: float = 255.0
    size: tuple[int, int] | None = None
    name: str = "pixels"

    def __post_init__(self) -> None:
        if not self.lowest < self.highest:
            raise UserError(
                f"Pixel features need lowest < highest, got {self.lowest} and {self.highest}: give the range of the data."
            )

    @property
    def hash(self) -> str:
        """The hash of the two limits: there are no other weights."""
        return hash_of({"limits": torch.tensor([self.lowest, self.highest], dtype=torch.float64)})

    @property
    def resize(self) -> str:
        """How the images are made smaller, if they are."""
        return "none" if self.size is None else f"means of blocks, to {self.size[0]}x{self.size[1]}"

    def __call__(self, images: Native) -> FeatureVectors:
        """Features [batch, channel * row * column]."""
        values = images.float()
        if self.size is not None:
            values = functional.adaptive_avg_pool2d(values.cpu(), self.size)  # MPS has none for sizes that do not divide
        return (values - self.lowest).flatten(1) / (self.highest - self.lowest)


@dataclass(frozen=True)
class EncoderFeatures:
    """The CLS features of clean images by the stage-one encoder of a run.

    `features(images, sigma)` are the encoder's features [batch, feature] of images in model range, `encode` brings native
    images there (the Normaliser's), `sigma` is the lowest noise level, and no noise is added, so that distances are a function
    of the images. `hash` is `hash_of` the encoder's weights.
    """

    features: Callable[[Tensor, Tensor], Tensor]
    encode: Callable[[Tensor], Tensor]
    sigma: float
    hash: str
    name: str = "encoder"
    resize: str = "none"

    def __call__(self, images: Native) -> FeatureVectors:
        """Features [batch, width of the encoder]."""
        encoded = self.encode(images)
        return self.features(encoded, encoded.new_tensor(self.sigma)).float()


@dataclass(frozen=True)
class Inception:
    """The 2048 pooled features of the Inception network of the FID (Heusel et al. 2017, arXiv 1706.08500).

    Made by `inception`. One channel is repeated to three. Raises UserError for images that are not uint8 with 1 or 3 channels.
    """

    network: nn.Module
    hash: str
    name: str = "inception-v3-2048"
    resize: str = "bilinear to 299x299 without antialiasing, as TensorFlow 1"

    def __call__(self, images: Native) -> FeatureVectors:
        """Features [batch, 2048]."""
        if images.dtype != torch.uint8 or images.shape[1] not in (1, 3):
            raise UserError(
                f"Inception features need uint8 images of 1 or 3 channels, got {images.shape[1]} of {images.dtype}: "
                "use the features of your own encoder, or pixels, for this data."
            )
        return self.network(images.expand(-1, 3, -1, -1).contiguous())[0]


def inception(weights: Path | None = None, device: torch.device | str = "cpu") -> Inception:
    """The Inception extractor through torch-fidelity, with its weights from a file or else from torch-fidelity's own download.

    Raises UserError if torch-fidelity is missing, the download fails or the file holds other weights, FileNotFoundError if
    there is no such file; each says what to do.
    """
    module = _inception_module()
    path = _download(module.URL_INCEPTION_V3) if weights is None else weights
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no Inception weights file {path}: download {module.URL_INCEPTION_V3} and give its path."
        )
    try:
        # torch-fidelity reads the file as a trusting pickle, so it is read here first in the way that runs no code.
        state = torch.load(path, map_location="cpu", weights_only=True)
        network = module.FeatureExtractorInceptionV3("inception-v3", ["2048"], feature_extractor_weights_path=str(path))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} does not hold the Inception weights of {module.URL_INCEPTION_V3} ({reason}): give that file."
        ) from error
    return Inception(network.to(device), hash_of(state))


def _inception_module() -> Any:
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


def _download(url: str) -> Path:
    """The file of torch-fidelity's weights in torch's own cache, downloaded if it is not there yet."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), progress=False)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"The Inception weights could not be downloaded from {url} ({error}): fetch that file on another machine and give it "
            "as --inception PATH, or evaluate in the features of your encoder or in pixels."
        ) from error
    return path
