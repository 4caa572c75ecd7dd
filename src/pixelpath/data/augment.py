"""Two strong random views of every image, for self-supervision.

An *augmentation* says how strong they are. Every draw comes from the image's own seed, on the CPU, so a view depends neither on
the other images of the batch nor on the device. The image operations work on the whole batch, on its device. *Colour* operations
(jitter, gray, solarise) are for photographs: other data keep their values and are only cropped, mirrored, turned and blurred.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from pixelpath import randomness
from pixelpath.data.formats.resizing import Box
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.data.originals import Boxes
from pixelpath.errors import UserError
from pixelpath.transfer import to_device
from pixelpath.types import Batch, Images, Views

VIEWS, ROT90 = -3, -5  # keys of the random numbers drawn here, apart from those of the noise
MOVES = ("area", "ratio", "across", "down", "flip", "rotation")
COLOURS = ("jitter", "brightness", "contrast", "saturation", "hue", "gray", "blur", "blur_sigma", "solarise")
DRAWS = (*MOVES, *COLOURS)  # what is drawn for every view, whether it is used or not
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, the weights of red, green and blue in gray

Draws = dict[str, Float[Tensor, "views"]]


@dataclass(frozen=True)
class Augmentation:
    """How strongly views differ from their image; of pairs named "by view" the first value is the first view's.

    Raises UserError for a probability outside [0, 1] or a range that does not rise inside its bounds.
    """

    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Range of the crop's share of the area."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of the crop's width over its height, drawn evenly in its logarithm; a side that would leave the image is cut to
    it.
    """
    rotation: float = 0.0
    """Greatest angle, in degrees either way; what comes from outside repeats the nearest pixel of the border."""
    flip: float = 0.5
    """Probability of mirroring left to right."""
    rot90: bool = False
    """Turn every view by 0 to 3 right angles, as suits images without an up and down; they must be square."""
    jitter: float = 0.8
    """Probability that brightness, contrast, saturation and hue change, in this order."""
    brightness: float = 0.4
    """Values are multiplied by up to 1 -+ this."""
    contrast: float = 0.4
    """Distances from the image's mean gray are multiplied by up to 1 -+ this."""
    saturation: float = 0.2
    """Distances from gray are multiplied by up to 1 -+ this."""
    hue: float = 0.1
    """Hues turn by up to this part of the circle, either way."""
    gray: float = 0.2
    """Probability of taking the colours away."""
    blur: tuple[float, float] = (1.0, 0.1)
    """Probabilities of a Gaussian blur, by view."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the std of the blur, in pixels."""
    solarise: tuple[float, float] = (0.0, 0.2)
    """Probabilities of inverting all values from the middle of the unit range up, by view."""
    from_originals: bool = True
    """Crop from the pictures or array images as they were before data.resize, which are then decoded at every step."""

    def __post_init__(self) -> None:
        for name in ("flip", "jitter", "gray", "blur", "solarise"):
            self._check(name, 0, 1)
        for name in ("brightness", "contrast", "saturation", "rotation"):
            self._check(name, 0, math.inf)
        self._check("hue", 0, 0.5)
        for name, top in (("crop_scale", 1), ("crop_ratio", math.inf), ("blur_sigma", math.inf)):
            self._check(name, math.ulp(0.0), top)
            low, high = self.__dict__[name]
            if low > high:
                raise UserError(f"`augmentation.{name}` must rise, got {low:g} {high:g}.", f"augmentation.{name}")

    def _check(self, name: str, low: float, high: float) -> None:
        """UserError unless the setting, or both values of a pair, lie in this range."""
        found = self.__dict__[name]
        values = found if isinstance(found, tuple) else (found,)
        if not all(low <= value <= high for value in values):
            bound = "above 0" if low else "at least 0"
            wanted = bound if high == math.inf else f"{bound} and at most {high:g}"
            given = " ".join(f"{value:g}" for value in values)
            raise UserError(f"`augmentation.{name}` must be {wanted}, got {given}.", f"augmentation.{name}")

    @property
    def moves(self) -> bool:
        """Whether anything is cropped, turned or mirrored."""
        return self.crop_scale != (1.0, 1.0) or self.crop_ratio != (1.0, 1.0) or self.rotation > 0 or self.flip > 0

    @property
    def jitters(self) -> bool:
        """Whether any image's colours are jittered."""
        return self.jitter > 0 and max(self.brightness, self.contrast, self.saturation, self.hue) > 0


PHOTOGRAPHS = Augmentation()
"""The reference's recipe for ImageNet (Lei et al. 2025, arXiv 2510.12586), after BYOL (Grill et al. 2020, arXiv 2006.07733,
table 6).
"""

SMALL = Augmentation(crop_scale=(0.2, 1.0), blur=(0.0, 0.0))
"""For colour images of about 32 pixels: milder crops and no blur, which would leave too little to recognise."""

SINGLE_CHANNEL = Augmentation(crop_scale=(0.3, 1.0), saturation=0.0, hue=0.0, gray=0.0, blur=(0.0, 0.0), solarise=(0.0, 0.0))
"""For images of one channel, and for data that are not pictures: crops, mirroring, brightness and contrast."""

DIGITS = Augmentation(
    crop_scale=(0.5, 1.0), rotation=10.0, flip=0.0, saturation=0.0, hue=0.0, gray=0.0, blur=(0.0, 0.0), solarise=(0.0, 0.0)
)
"""For tiny written characters, which mirroring would make into others: mild crops, slight rotation, brightness and contrast."""


def augment(batch: Batch, augmentation: Augmentation, normaliser: Normaliser, colours: bool = True) -> Views:
    """The images of a batch with two random views of each, all in model range; a function of the batch's images and seeds
    alone.

    Windows that are cut already are not cropped again. Without `colours`, and of values that have no unit range, views are moved
    and blurred only.
    """
    draws = _draw(batch.seeds)
    images = batch.images.repeat(2, 1, 1, 1) if batch.windows is None else batch.windows.transpose(0, 1).flatten(0, 1)
    if batch.windows is not None:
        augmentation = replace(augmentation, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    if augmentation.moves:
        images = _move(images, augmentation, draws)
    if augmentation.rot90:
        turns = torch.tensor([randomness.seed_of(seed, ROT90, view) % 4 for view in range(2) for seed in batch.seeds])
        turns = to_device(turns, images.device).reshape(-1, 1, 1, 1)
        for count in (1, 2, 3):
            images = torch.where(turns == count, images.rot90(count, (2, 3)), images)
    if not colours or not normaliser.has_unit_range:
        images = _blur(images, augmentation, draws)
    elif augmentation.jitters or augmentation.gray or max(*augmentation.blur, *augmentation.solarise):
        images = normaliser.from_unit(_recolour(normaliser.unit(images), augmentation, draws))
    first, second = images.chunk(2)
    return Views(batch.images, first, second, batch.seeds, batch.seed, batch.index)


def windows(seeds: Sequence[int], augmentation: Augmentation, aspect: float) -> list[Boxes]:
    """Where both views of every image lie in its original, of any size; `aspect` is the width of a view over its height.

    The crop's share of the area is that of the original (random resized crop: Szegedy et al. 2015, arXiv 1409.4842, section 6).
    """
    draws = _draw(tuple(seeds))
    area, ratio = _area_and_ratio(augmentation, draws)
    numbers = torch.stack([area, aspect * ratio, draws["across"], draws["down"]], 1).unflatten(0, (2, -1))
    return [partial(_boxes, views) for views in numbers.transpose(0, 1).tolist()]


def _boxes(views: list[list[float]], rows: int, columns: int) -> list[Box]:
    """A box per view, of which (area, ratio, across, down) is given."""
    found: list[Box] = []
    for area, ratio, across, down in views:
        wide = min(math.sqrt(area * rows * columns * ratio), columns)
        high = min(math.sqrt(area * rows * columns / ratio), rows)
        left, top = across * (columns - wide), down * (rows - high)
        found.append((left, top, min(left + wide, columns), min(top + high, rows)))
    return found


def _area_and_ratio(augmentation: Augmentation, draws: Draws) -> tuple[Tensor, Tensor]:
    ratio = torch.exp(_between(draws["ratio"], *map(math.log, augmentation.crop_ratio)))
    return _between(draws["area"], *augmentation.crop_scale), ratio


def _draw(seeds: tuple[int, ...]) -> Draws:
    """Every named draw from [0, 1), on the CPU, of the first views and then of the second."""
    numbers = randomness.uniform(randomness.Streams(randomness.seed_of(seed, VIEWS) for seed in seeds), (2, len(DRAWS)))
    return dict(zip(DRAWS, numbers.transpose(0, 1).flatten(0, 1).unbind(1), strict=True))


def _between(draw: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * draw


def _on(draw: Tensor, images: Images) -> Tensor:
    """What was drawn on the host in the dtype of the images, on their device."""
    return to_device(draw.to(images.dtype), images.device)


def _chosen(draw: Float[Tensor, "views"], chances: tuple[float, float]) -> Bool[Tensor, "views"]:
    """Which views an operation with these probabilities, by view, applies to."""
    return (draw.unflatten(0, (2, -1)) < torch.tensor(chances)[:, None]).flatten()


def _move(images: Images, augmentation: Augmentation, draws: Draws) -> Images:
    """Crop, turn, mirror and enlarge to the old size by one bilinear sampling; crops only enlarge, so nothing aliases."""
    rows, columns = images.shape[-2:]
    area, ratio = _area_and_ratio(augmentation, draws)
    wide, high = torch.sqrt(area * ratio).clamp(max=1), torch.sqrt(area / ratio).clamp(max=1)  # parts of the image's own sides
    across, down = (1 - wide) * (2 * draws["across"] - 1), (1 - high) * (2 * draws["down"] - 1)
    angle = math.radians(augmentation.rotation) * (2 * draws["rotation"] - 1)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    mirror = torch.where(draws["flip"] < augmentation.flip, -1.0, 1.0)
    horizontal = torch.stack([cosine * wide * mirror, -sine * high * rows / columns, across], 1)
    vertical = torch.stack([sine * wide * mirror * columns / rows, cosine * high, down], 1)
    matrix = _on(torch.stack([horizontal, vertical], 1), images)
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    border = _on(torch.tensor([1 - 1 / columns, 1 - 1 / rows]), images)  # the centres of the outermost pixels
    grid = torch.maximum(torch.minimum(grid, border), -border)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _recolour(images: Images, augmentation: Augmentation, draws: Draws) -> Images:
    """Jitter, gray, blur and solarise, in this order, of images in unit range; an alpha channel is only blurred."""
    if images.shape[1] == 4:
        colours, alpha = images.split([3, 1], 1)
        images = torch.cat([_gray(_jitter(colours, augmentation, draws), augmentation, draws), alpha], 1)
    else:
        images = _gray(_jitter(images, augmentation, draws), augmentation, draws)
    return _solarise(_blur(images, augmentation, draws), augmentation, draws)


def _jitter(images: Images, augmentation: Augmentation, draws: Draws) -> Images:
    if not augmentation.jitters:
        return images
    jittered = draws["jitter"] < augmentation.jitter

    def factor(name: str, strength: float) -> Tensor:
        low = max(0.0, 1 - strength)
        return _on(torch.where(jittered, _between(draws[name], low, 1 + strength), 1.0), images).reshape(-1, 1, 1, 1)

    if augmentation.brightness:
        images = (images * factor("brightness", augmentation.brightness)).clamp_(0, 1)
    if augmentation.contrast:
        mean = _luma(images).mean((1, 2, 3), keepdim=True)
        images = torch.lerp(mean, images, factor("contrast", augmentation.contrast)).clamp_(0, 1)
    if images.shape[1] != 3:
        return images
    if augmentation.saturation:
        images = torch.lerp(_luma(images), images, factor("saturation", augmentation.saturation)).clamp_(0, 1)
    if augmentation.hue:
        turns = torch.where(jittered, _between(draws["hue"], -augmentation.hue, augmentation.hue), 0.0)
        images = _turn_hue(images, _on(turns, images))
    return images


def _turn_hue(images: Images, turns: Float[Tensor, "views"]) -> Images:
    """Turn the hue by parts of a circle at constant HSV saturation and value (A. R. Smith 1978, "Color gamut transform
    pairs").
    """
    red, green, blue = images.split(1, 1)
    value, chroma = images.amax(1, keepdim=True), images.amax(1, keepdim=True) - images.amin(1, keepdim=True)
    sixths = torch.where(value == red, green - blue, torch.where(value == green, blue - red, red - green))
    sector = torch.where(value == red, 0.0, torch.where(value == green, 2.0, 4.0)).to(images)
    hue = sector + sixths / torch.where(chroma > 0, chroma, 1.0)
    place = hue + (6 * turns.reshape(-1, 1, 1, 1) + _on(torch.tensor([5.0, 3.0, 1.0]), images).reshape(3, 1, 1))
    place = place - 6 * torch.floor(place / 6)  # modulo 6, at a third of the price of remainder
    return value - chroma * torch.minimum(place, 4 - place).clamp_(0, 1)


def _gray(images: Images, augmentation: Augmentation, draws: Draws) -> Images:
    if not augmentation.gray or images.shape[1] != 3:
        return images
    chosen = to_device(draws["gray"] < augmentation.gray, images.device)
    return torch.where(chosen.reshape(-1, 1, 1, 1), _luma(images), images)


def _luma(images: Images) -> Float[Tensor, "batch 1 row column"]:
    """Gray [batch, 1, row, column]: the weighted mean of RGB, the plain mean of any other number of channels."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    weights = _on(torch.tensor(LUMA), images)
    return (images * weights.reshape(3, 1, 1)).sum(1, keepdim=True)


def _blur(images: Images, augmentation: Augmentation, draws: Draws) -> Images:
    """A Gaussian blur of the chosen views, cut off at three times the greatest std, the borders reflected."""
    chosen = _chosen(draws["blur"], augmentation.blur)
    rows, columns = images.shape[-2:]
    radius = min(math.ceil(3 * augmentation.blur_sigma[1]), rows - 1, columns - 1)
    if not chosen.any() or radius < 1:
        return images
    sigma = _between(draws["blur_sigma"], *augmentation.blur_sigma)[chosen]
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma[:, None]) ** 2)
    kernels = _on((taps / taps.sum(1, keepdim=True)).repeat_interleave(images.shape[1], 0), images)[:, None, None]
    which = to_device(chosen.nonzero()[:, 0], images.device)
    planes = functional.pad(images[which], [radius] * 4, mode="reflect").flatten(0, 1)[None]
    planes = functional.conv2d(planes, kernels, groups=len(kernels))
    planes = functional.conv2d(planes, kernels.transpose(2, 3), groups=len(kernels))
    return images.index_copy(0, which, planes[0].unflatten(0, (-1, images.shape[1])))


def _solarise(images: Images, augmentation: Augmentation, draws: Draws) -> Images:
    """Invert the values from 0.5 up in the chosen views, but for an alpha channel."""
    chosen = _chosen(draws["solarise"], augmentation.solarise)
    if not chosen.any():
        return images
    which = to_device(chosen.nonzero()[:, 0], images.device)
    picked = images[which]
    inverted = picked >= 0.5
    if images.shape[1] == 4:
        inverted[:, 3] = False
    return images.index_copy(0, which, torch.where(inverted, 1 - picked, picked))
