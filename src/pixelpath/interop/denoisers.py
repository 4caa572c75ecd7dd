"""Other people's networks as a `Denoise`: (noisy, sigma) -> estimate, with which every sampler, start and certificate here
works.

*Its* range and noise are those of the foreign network. For images *ours* = scale * its + shift, and our sigma = scale * its
sigma. A network of images in [-1, 1], of std about 0.5, needs neither. A *variance-preserving* network sees a x + b e with a^2
+ b^2 = 1, a *flow-matching* one (1 - t) x + t e; both are our noisy image x + sigma e times a number: a, or 1 - t.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import one_hot

from pixelpath.errors import UserError
from pixelpath.noise import NoiseRange, expand
from pixelpath.types import Denoise, Images, Labels, Sigmas

Network = Callable[[Images, Tensor, Labels | None], Any]
"""(its noisy images, its coordinate of the level [batch], labels or None) -> its prediction, of the shape of the images.

The prediction may be the first value of a tuple, or the `sample` of an object or a dictionary.
"""

Prediction = Callable[[Images, Images, Tensor, Tensor], Images]
"""(prediction, a x + b e, a, b) -> estimate of x; a and b of shape [batch, 1, 1, 1]."""

Timestep = Callable[[Float[Tensor, "steps"], Float[Tensor, "batch"]], Tensor]
"""(rising ln sigma of a network's timesteps, ln sigma) -> the timestep [batch] to ask it for, counted from 0."""

USUAL = NoiseRange()  # sigmas 0.002 to 80, in the range of the network
ROUNDING = 1e-6  # relative: sigmas may leave a range by so much, as float32 rounds


@dataclass(frozen=True, eq=False)
class ForeignDenoiser:
    """D(noisy, sigma) = scale estimate((noisy - shift) / scale, sigma / scale) + shift: a `Denoise`, in our range.

    `estimate(noisy, sigma, labels)` is a denoiser in the network's own range and gets sigma [batch]; `trained` are the noise
    levels that it learned, in its own range too. The functions of this module make it. Raises UserError unless scale > 0.
    """

    estimate: Network
    trained: NoiseRange
    scale: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise UserError(f"Our range is scale * its range + shift with scale > 0, got {self.scale}: check the two ranges.")

    @property
    def noise(self) -> NoiseRange:
        """The sigmas it learned, in our range: `noise.sigmas(count, start=sigma)` is a grid from sigma down."""
        factor = self.trained.shift * self.scale
        return NoiseRange(self.trained.sigma_min * factor, self.trained.sigma_max * factor)

    def __call__(self, noisy: Images, sigma: Float[Tensor, "..."], labels: Int[Tensor, "labels"] | None = None) -> Images:
        """The estimate of the clean images for sigma [] or [batch] and labels [batch] or None (the network's own default).

        Raises UserError if a sigma lies outside the range it learned, sigma or labels do not fit the images, or the network
        answers with another shape or with values that are not finite.
        """
        batch = len(noisy)
        if sigma.shape not in ((), (batch,)) or (labels is not None and len(labels) != batch):
            given = f"sigma {list(sigma.shape)}" + ("" if labels is None else f" and labels {list(labels.shape)}")
            raise UserError(f"{batch} noisy images need sigma [] or [{batch}] and labels [{batch}], got {given}.")
        self._check(sigma)
        level = sigma.double().to(noisy.device) / self.scale
        estimate = self.estimate((noisy - self.shift) / self.scale, level.expand(batch), labels)
        return estimate * self.scale + self.shift

    def bind(self, labels: Labels | None) -> Denoise:
        """This denoiser for given labels, as samplers take it."""
        return lambda noisy, sigma: self(noisy, sigma, labels)

    def _check(self, sigma: Tensor) -> None:
        low, high = self.noise.sigma_min, self.noise.sigma_max
        inside = (sigma >= low * (1 - ROUNDING)) & (sigma <= high * (1 + ROUNDING))
        if not bool(inside.all()):
            value = float(sigma.reshape(-1)[~inside.reshape(-1)][0])
            raise UserError(
                f"Sigma {value:g} lies outside the sigmas {low:g} to {high:g} that this network learned: take sigmas from "
                "`noise.sigmas(count, start=sigma)` of the adapter, or tell the adapter which sigmas the network saw."
            )


def epsilon(prediction: Images, preserved: Images, a: Tensor, b: Tensor) -> Images:
    """x = (preserved - b e) / a of a predicted noise e (Ho et al. 2020, arXiv 2006.11239, eq. 15)."""
    return (preserved - b * prediction) / a


def velocity(prediction: Images, preserved: Images, a: Tensor, b: Tensor) -> Images:
    """x = a preserved - b v of a predicted v = a e - b x (Salimans & Ho 2022, arXiv 2202.00512, appendix D)."""
    return a * preserved - b * prediction


def sample(prediction: Images, preserved: Images, a: Tensor, b: Tensor) -> Images:
    """The prediction is the estimate of x."""
    return prediction


PREDICTIONS: dict[str, Prediction] = {"epsilon": epsilon, "v_prediction": velocity, "sample": sample}
"""By the names that diffusers gives them."""


def interpolated(table: Float[Tensor, "steps"], value: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """The timestep between two whole ones where ln sigma, linear in between, has the value: for sinusoids of time."""
    after = torch.searchsorted(table, value).clamp(1, len(table) - 1)
    share = (value - table[after - 1]) / (table[after] - table[after - 1])
    return (after - 1 + share).clamp(0, len(table) - 1)


def nearest(table: Float[Tensor, "steps"], value: Float[Tensor, "batch"]) -> Int[Tensor, "batch"]:
    """The whole timestep whose ln sigma is closest: for networks with a table of times, which then see a nearby sigma."""
    return interpolated(table, value).round().long()


def from_variance_preserving(
    network: Network,
    alphas_cumprod: Float[Tensor, "steps"] | None = None,
    prediction: Prediction | None = None,
    timestep: Timestep = interpolated,
    scale: float = 1.0,
    shift: float = 0.0,
) -> ForeignDenoiser:
    """A network of discrete time, `network(a x + b e, timestep, labels)`, where a^2 = alphas_cumprod[timestep] and b^2 = 1 -
    a^2.

    Its sigma at a timestep is b / a. For a given sigma it sees noisy / sqrt(1 + sigma^2). `timestep` finds its timestep:
    `interpolated` or `nearest`, both in ln sigma. `prediction` is `epsilon`, `velocity` or `sample`. Timesteps at the end
    with alphas_cumprod 0, of pure noise, are left out. Raises UserError if schedule or prediction is missing, or
    alphas_cumprod does not fall strictly inside (0, 1). Song et al. 2021 (arXiv 2010.02502, section 4.3).
    """
    if alphas_cumprod is None or prediction is None:
        raise UserError(
            "A variance-preserving network is a denoiser only with its scaling: give the alphas_cumprod of the schedule it was "
            "trained with, and its prediction (epsilon, velocity or sample)."
        )
    table = _log_sigmas(alphas_cumprod)
    ends = table[[0, -1]].exp().tolist()
    within = _in_its_dtype(network, network)

    def estimate(noisy: Images, sigma: Tensor, labels: Labels | None = None) -> Images:
        level = timestep(table, sigma.log().cpu())
        a = expand((1 + sigma**2).rsqrt(), noisy)
        b = expand(sigma * (1 + sigma**2).rsqrt(), noisy)
        number = level.to(noisy.device) if not level.is_floating_point() else _coordinate(level, noisy)
        return prediction(_answer(within, a * noisy, number, labels, sigma), a * noisy, a, b)

    return ForeignDenoiser(estimate, NoiseRange(*ends), scale, shift)


def from_diffusers(
    network: nn.Module, scheduler: Any, timestep: Timestep = interpolated, scale: float = 1.0, shift: float = 0.0
) -> ForeignDenoiser:
    """A UNet2DModel of diffusers (or a network called the same way) with the scheduler that it was trained with, as DDPM or
    DDIM.

    Schedule and prediction are those of `scheduler`; labels go to the network as class_labels. Of a network that learned a
    variance too, which doubles its channels, the first half is taken. Raises as `from_variance_preserving`, and UserError for a
    scheduler that has no alphas_cumprod or a prediction_type not known here, or for labels that the network does not know.
    """
    kind = type(scheduler).__name__
    try:
        schedule, named = scheduler.alphas_cumprod, scheduler.config.prediction_type
    except AttributeError as error:
        raise UserError(
            f"{kind} does not hold alphas_cumprod and config.prediction_type, by which a variance-preserving network is scaled: "
            "give the DDPMScheduler or DDIMScheduler of its training, or use from_edm or from_flow_matching where they fit."
        ) from error
    if named not in PREDICTIONS:
        raise UserError(f"The prediction_type {named!r} of {kind} is none of {', '.join(PREDICTIONS)}: give its true one.")

    classes = classes_of_diffusers(network)
    widths = configured(network, "in_channels"), configured(network, "out_channels")

    def call(preserved: Images, level: Tensor, labels: Labels | None) -> Any:
        if labels is not None and classes is not None:
            check_labels(labels, classes)
        answer = predicted(network(preserved, level, class_labels=labels, return_dict=False))
        return answer[:, : preserved.shape[1]] if None not in widths and widths[1] == 2 * widths[0] else answer

    return from_variance_preserving(_in_its_dtype(network, call), schedule, PREDICTIONS[named], timestep, scale, shift)


def from_edm(
    network: Callable[[Images, Tensor, Float[Tensor, "batch classes"] | None], Any],
    noise: NoiseRange = USUAL,
    num_classes: int = 0,
    scale: float = 1.0,
    shift: float = 0.0,
) -> ForeignDenoiser:
    """A denoiser D(noisy, sigma [batch], class_labels) of Karras et al. 2022 (arXiv 2206.00364), which scales by itself.

    `noise` are the sigmas it learned. With `num_classes` it gets labels one-hot [batch, num_classes], "no class" as a row of
    zeros; without, None. The denoiser raises ValueError for a label outside 0..num_classes, or any label where it has no
    classes.
    """

    def call(noisy: Images, level: Tensor, labels: Labels | None) -> Any:
        return network(noisy, level, _one_hot(labels, num_classes, len(noisy)))

    return _from_sigma(_in_its_dtype(network, call), noise, scale, shift)


def from_k_diffusion(
    network: Callable[[Images, Tensor], Any], noise: NoiseRange = USUAL, scale: float = 1.0, shift: float = 0.0
) -> ForeignDenoiser:
    """A wrapper in the manner of k-diffusion, `network(noisy, sigma [batch])`: a denoiser already; labels are bound before.

    `noise` are the sigmas it learned. The denoiser raises UserError if it is given labels.
    """

    def call(noisy: Images, level: Tensor, labels: Labels | None) -> Any:
        if labels is not None:
            raise UserError(
                "A denoiser(x, sigma) takes no labels: bind them before, as in lambda x, sigma: model(x, sigma, labels)."
            )
        return network(noisy, level)

    return _from_sigma(_in_its_dtype(network, call), noise, scale, shift)


def from_flow_matching(
    network: Network,
    data_at: int | None = None,
    noise: NoiseRange = USUAL,
    scale: float = 1.0,
    shift: float = 0.0,
) -> ForeignDenoiser:
    """A velocity dx_t/dt = `network(x_t, t [batch], labels)` of straight paths; `data_at` is the time, 0 or 1, of clean images.

    data_at=0: x_t = (1 - t) x + t e, velocity e - x, t = sigma / (1 + sigma), estimate x_t - t v. data_at=1: x_t = t x + (1 -
    t) e, velocity x - e, t = 1 / (1 + sigma), estimate x_t + (1 - t) v (Lipman et al. 2023, arXiv 2210.02747, section 4.1,
    example II with sigma_min = 0). `noise` are the sigmas to allow: 80 is 0.9877 of the way to noise. A network that counts
    time to 1000 is given as lambda x, t, labels: network(x, 1000 * t, labels). Raises UserError unless data_at is 0 or 1.
    """
    if data_at not in (0, 1):
        raise UserError(
            f"A flow-matching network is a denoiser only with its scaling, got data_at={data_at}: give data_at=0 if clean images "
            "are at time 0 (x_t = (1 - t) x + t e), data_at=1 if they are at time 1 (x_t = t x + (1 - t) e)."
        )
    within = _in_its_dtype(network, network)

    def estimate(noisy: Images, sigma: Tensor, labels: Labels | None = None) -> Images:
        away = sigma / (1 + sigma)  # the share of the way from data to noise
        between = noisy * expand(1 - away, noisy)
        time = _coordinate(1 - away if data_at else away, noisy)
        toward_noise = _answer(within, between, time, labels, sigma) * (-1 if data_at else 1)
        return between - expand(away, noisy) * toward_noise

    return ForeignDenoiser(estimate, noise, scale, shift)


def _from_sigma(call: Network, noise: NoiseRange, scale: float, shift: float) -> ForeignDenoiser:
    """A denoiser that takes sigma itself."""

    def estimate(noisy: Images, sigma: Tensor, labels: Labels | None = None) -> Images:
        return _answer(call, noisy, _coordinate(sigma, noisy), labels, sigma)

    return ForeignDenoiser(estimate, noise, scale, shift)


def _log_sigmas(alphas_cumprod: Float[Tensor, "steps"]) -> Float[Tensor, "kept"]:
    """ln sqrt((1 - abar) / abar), rising (float64, CPU), without pure noise at its end."""
    kept = alphas_cumprod.detach().double().cpu()
    while len(kept) and kept[-1] == 0:
        kept = kept[:-1]
    if len(kept) < 2 or not bool((kept.diff() < 0).all() and kept[0] < 1 and kept[-1] > 0):
        raise UserError(
            f"alphas_cumprod must fall strictly inside (0, 1) over at least 2 timesteps, unlike these {len(alphas_cumprod)}: "
            "give the scheduler's own, timestep 0 (the least noise) first."
        )
    return ((1 - kept) / kept).log() / 2


def _one_hot(labels: Labels | None, num_classes: int, batch: int) -> Float[Tensor, "batch classes"] | None:
    if labels is None:
        return None
    if not num_classes:
        raise UserError("from_edm was told of no classes: tell it the num_classes of the network, or give no labels.")
    check_labels(labels, num_classes + 1)
    return one_hot(labels, num_classes + 1)[:, :num_classes].float()


def _coordinate(level: Tensor, noisy: Images) -> Float[Tensor, "batch"]:
    """The level in the precision of the images, but at least float32: a timestep of 997.3 is 996 in bfloat16."""
    return level.to(noisy.device, torch.promote_types(noisy.dtype, torch.float32))


def _in_its_dtype(network: Any, call: Network) -> Network:
    """`call`, on images in the dtype of the network's weights (if it is a module); UserError if they lie on another device."""
    weights = next(network.parameters(), None) if isinstance(network, nn.Module) else None
    if weights is None:
        return call

    def within(noisy: Images, level: Tensor, labels: Labels | None) -> Any:
        if noisy.device != weights.device:
            raise UserError(f"Images are on {noisy.device} and the network is on {weights.device}: move one to the other.")
        return call(noisy.to(weights.dtype), level, labels)

    return within


def configured(network: Any, name: str) -> Any:
    """A value of the configuration that diffusers keeps with a network; None without one."""
    try:
        return network.config[name]
    except (AttributeError, KeyError, TypeError):
        return None


def classes_of_diffusers(network: Any) -> int | None:
    """How many labels a network of diffusers knows, that of "no class" included; None if it does not say."""
    if configured(network, "num_class_embeds") is not None:
        return int(configured(network, "num_class_embeds"))
    number = configured(network, "num_embeds_ada_norm")  # of a DiT, whose label for "no class" comes last
    return None if number is None else int(number) + 1


def check_labels(labels: Labels, count: int) -> None:
    """UserError unless every label is one of 0 .. count - 1."""
    if not bool(((labels >= 0) & (labels < count)).all()):
        raise UserError(f"Labels must lie in 0..{count - 1}, got {labels.tolist()[:8]}: the network knows no others.")


def predicted(answer: Any) -> Any:
    """The prediction in what a network returns: a tensor, the first of a tuple, or `sample` of an object or a dictionary."""
    if isinstance(answer, Mapping):
        return answer["sample"] if "sample" in answer else next(iter(answer.values()), None)
    if isinstance(answer, tuple | list):
        return answer[0] if answer else None
    try:
        return answer if isinstance(answer, Tensor) else answer.sample
    except AttributeError:
        return None


def _answer(call: Network, noisy: Images, level: Tensor, labels: Labels | None, sigma: Sigmas) -> Images:
    """The network's answer in the dtype of the images; UserError for unknown labels, another shape or values not finite."""
    try:
        answer = predicted(call(noisy, level, labels))
    except IndexError as error:
        if labels is None:
            raise
        raise UserError(
            f"The network knows not all of the labels {labels.unique().tolist()[:8]} ({error}): give others."
        ) from error
    if not isinstance(answer, Tensor):
        raise UserError("The network returns no tensor, nor a tuple, object or dictionary with one: wrap it so that it does.")
    if answer.shape != noisy.shape:
        raise UserError(
            f"The network answers images {list(noisy.shape)} with {list(answer.shape)}: give images of the shape it was trained "
            "on, and wrap a network that returns more than one prediction (such as a variance) so that it returns one."
        )
    if not bool(torch.isfinite(answer).all()):
        raise UserError(
            f"The network's answer at its sigma {float(sigma.max()):g} is not finite: run it in float32, and check that its "
            "weights are finite and that scale and shift fit its range."
        )
    return answer.to(noisy.dtype)
