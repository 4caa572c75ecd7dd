"""Images made by a run from something that is there: pixels to keep, a rough image, or two seeds to go between.

`inpaint` makes the open pixels of images anew. `vary` noises images to a sigma and walks back. `between` walks down from the
noise between that of two seeds. All use the run's sampler and guidance; none begins at a fitted start.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from pixelpath.data.alpha import unpremultiply
from pixelpath.data.metadata import Metadata
from pixelpath.data.unmeasured import left_out
from pixelpath.errors import UserError
from pixelpath.log import Advance, progress
from pixelpath.noise import DATA_STD, RHO, NoiseRange
from pixelpath.randomness import Streams, normal, seed_of
from pixelpath.runs.edit_inputs import GivenImages, NativeArray, OpenPixels, measured_pixels
from pixelpath.runs.generate import Origin, followed, guided, steps_below
from pixelpath.runs.opened import OpenRun
from pixelpath.runs.sample import Samples, choices, completed, counted, identity
from pixelpath.runs.sample_conditions import captions
from pixelpath.sampling.editing import Open, conditioned, consistency_inpaint, on_sphere, strength_sigma
from pixelpath.sampling.sampler import LENGTHS, Sampler, Sampling
from pixelpath.types import Condition, Conditioning, Denoise, Images, classes_of

EDIT = 3  # second part of the keys of the seeds of edits: other noise than the image of the seed began with
STEPS = 24  # of in-painting, by the sampler euler_ancestral: fresh noise on the way makes up for errors of the condition
ONE_STEP_STEPS = 16  # of in-painting by a one-step model: more narrow what a trained one draws
BROAD, NARROW = 2.0, 0.1  # sigmas of its steps below the first, in stds of the data

Walk = Callable[[slice, Advance], Images]
"""The images of a part of the batch, in model range on the run's device."""
Knowing = Callable[[Denoise, Images, Open], Denoise]
"""The estimates given known images too, wherever their pixels are not open."""


@dataclass(frozen=True, eq=False, repr=False)
class Edits(Samples):
    """Images that were edited: `names` stand below them, and `kept` of the `given` images is as it was, bit for bit."""

    names: tuple[str, ...] = ()
    given: GivenImages | None = None
    kept: Shaped[np.ndarray, "batch channel row column"] | None = None

    @property
    def labels(self) -> list[str]:
        """What was done to each."""
        return list(self.names)

    @property
    def first_number(self) -> int:
        """The first seed; between two seeds files are numbered from 0."""
        return 0 if self.settings["edit"]["kind"] == "between" else super().first_number

    def to_write(self) -> tuple[NativeArray, Metadata]:
        """As `Samples.to_write`; the colours of kept pixels are not divided by an alpha that rounded them."""
        images, metadata = super().to_write()
        if metadata.alpha != "premultiplied" or self.given is None or self.kept is None:
            return images, metadata
        return np.where(self.kept, self.given.straight, unpremultiply(images)), replace(metadata, alpha="straight")


@dataclass(frozen=True)
class Editing:
    """The choices common to all edits, complete: how to sample and from what, over which sigmas."""

    run: OpenRun
    sampling: Sampling
    origin: Origin
    sigmas: Float[Tensor, "sigmas"]
    batch_size: int = 64

    def denoise(self, condition: Conditioning, advance: Advance) -> Denoise:
        """The guided denoiser under the condition, which tells `advance` of its steps."""
        bound = guided(self.run.denoiser, condition.to(self.run.device), self.origin, self.sampling)
        return followed(bound, self.sigmas, advance)

    def noise(self, seeds: Sequence[int]) -> Callable[[], Images]:
        """Fresh standard normal images from the seeds' own streams."""
        streams = Streams([seed_of(seed, EDIT) for seed in seeds])
        return lambda: normal(streams, self.run.shape).to(self.run.device)

    def walk(self, denoise: Denoise, x: Images, noise: Callable[[], Images]) -> Images:
        """Down the sigmas by the chosen sampler."""
        assert self.sampling.sampler is not None
        return self.sampling.sampler(denoise, x, self.sigmas, noise)


def inpaint(
    run: OpenRun,
    given: GivenImages,
    pixels: OpenPixels,
    seeds: Sequence[int],
    condition: Conditioning,
    sampling: Sampling | None = None,
    batch_size: int = 64,
    knowing: Knowing = conditioned,
) -> Edits:
    """Make the open pixels of each image anew, so that they agree with the others, which stay exactly.

    Diffusion runs sample given the known pixels, which `knowing` says how (24 steps of euler_ancestral unless chosen),
    one-step runs put them back at every step (`consistency_inpaint`; 16 steps unless chosen). What was not measured is not known,
    and stays so outside of the mask.
    """
    editing = _inpainting(run, sampling or Sampling(), batch_size)
    kept = np.broadcast_to(~pixels[:, None], given.native.shape)
    encoded, known = _encoded(run, given), torch.from_numpy(kept & measured_pixels(run, given.native)).to(run.device)

    def walk(part: slice, advance: Advance) -> Images:
        images, left, noise = encoded[part], ~known[part], editing.noise(seeds[part])
        denoise, first = editing.denoise(condition[part], advance), float(editing.sigmas[0])
        images = torch.where(left, 0.0, images)
        if run.recipe.is_one_step:
            return consistency_inpaint(denoise, images + first * noise(), editing.sigmas, noise, images, left)
        drawn = noise()
        x = torch.where(left, math.hypot(first, DATA_STD) * drawn, images + first * drawn)
        return editing.walk(knowing(denoise, images, left), x, noise)

    about = {"kind": "inpaint", "open_pixels": int(pixels[0].sum())}
    return _made(editing, walk, seeds, condition, about, _names(run, seeds, condition), given, kept)


def vary(
    run: OpenRun,
    given: GivenImages,
    strength: float,
    seeds: Sequence[int],
    condition: Conditioning,
    sampling: Sampling | None = None,
    batch_size: int = 64,
) -> Edits:
    """Noise each image to a sigma and walk back (SDEdit: Meng et al. 2021, arXiv 2108.01073): images like it.

    `strength` from above 0 to 1 says how far of the way to the first sigma, in steps of the sampler (`strength_sigma`). As fine a
    grid as that of sampling is walked below it, unless the number of steps is chosen. UserError for another strength.
    """
    editing = _varying(run, strength, sampling or Sampling(), batch_size)
    encoded = _encoded(run, given)

    def walk(part: slice, advance: Advance) -> Images:
        noise = editing.noise(seeds[part])
        return editing.walk(editing.denoise(condition[part], advance), encoded[part] + float(editing.sigmas[0]) * noise(), noise)

    about = {"kind": "variations", "strength": strength}
    return _made(editing, walk, seeds, condition, about, _names(run, seeds, condition))


def between(
    run: OpenRun,
    ends: tuple[int, int],
    count: int,
    conditions: tuple[Conditioning, Conditioning],
    sampling: Sampling | None = None,
    batch_size: int = 64,
) -> Edits:
    """`count` images from that of one seed to that of another, both included: their noise is mixed on a sphere (`on_sphere`).

    `conditions` are those of the two seeds; estimates under both are mixed as the noise is. Raises UserError for fewer than two.
    """
    if count < 2:
        raise UserError(f"`count` must be at least 2, got {count}: the images of both seeds count.", "count")
    complete, origin = _completed(run, sampling or Sampling())
    assert complete.sampler is not None
    editing = Editing(run, complete, origin, origin.schedule(complete), batch_size)
    shares = torch.linspace(0, 1, count)
    std = complete.sampler.cold_std(float(editing.sigmas[0]))
    same = _alike(*conditions)

    def walk(part: slice, advance: Advance) -> Images:
        share = shares[part]
        first, second = (Streams([seed_of(seed)] * len(share)) for seed in ends)

        def noise() -> Images:
            return on_sphere(normal(first, run.shape), normal(second, run.shape), share).to(run.device)

        one, other = (each[torch.zeros(len(share), dtype=torch.int64)] for each in conditions)
        denoise = editing.denoise(one, advance)
        if not same:
            denoise = _blended(denoise, editing.denoise(other, lambda steps: None), share.to(run.device))
        return editing.walk(denoise, std * noise(), noise)

    about = {"kind": "between", "ends": list(ends)}
    names = [f"seed {ends[0]}", *(f"{100 * float(share):.0f} %" for share in shares[1:-1]), f"seed {ends[1]}"]
    condition = conditions[0][torch.zeros(count, dtype=torch.int64)]
    return _made(editing, walk, list(ends), condition, about, names)


def inpainting_sigmas(noise: NoiseRange, count: int) -> Float[Tensor, "sigmas"]:
    """The shifted sigmas of in-painting by a one-step model: the highest, and evenly in ln sigma from 1 to 0.05, then 0.

    They stay inside the range. Consistency sampling between them spends its steps where known pixels decide about the others.
    """
    low, high = noise.sigma_min * noise.shift, noise.sigma_max * noise.shift
    first, last = min(BROAD * DATA_STD, high * 0.99), max(NARROW * DATA_STD, low)
    below = torch.logspace(math.log10(first), math.log10(min(last, first / 2)), max(0, count - 1), dtype=torch.float64)
    return torch.cat([below.new_tensor([high]), below, below.new_zeros(1)])


def _check_levels(run: OpenRun) -> None:
    """UserError for a run that knows no noise levels between an image and pure noise."""
    if run.recipe.is_distilled:
        sentence = f"{run.path} is distilled and knows pure noise alone, so it cannot edit images: edit with its diffusion run."
        raise UserError(sentence, setting="run")


def _inpainting(run: OpenRun, chosen: Sampling, batch_size: int) -> Editing:
    _check_levels(run)
    if not run.recipe.is_one_step:
        steps = STEPS if all(vars(chosen)[name] is None for name in LENGTHS) else chosen.steps
        ancestral = replace(chosen, sampler=chosen.sampler or Sampler.EULER_ANCESTRAL, steps=steps)
        complete, origin = _completed(run, ancestral)
        return Editing(run, complete, origin, origin.schedule(complete), batch_size)
    complete, origin = _completed(run, chosen)
    if chosen.sampler not in (None, Sampler.CONSISTENCY):
        raise UserError(
            f"One-step runs are in-painted by the sampler consistency, not {chosen.sampler.value}: omit it.", "sampler"
        )
    if chosen.sigmas is not None or chosen.sigma_max is not None:
        return Editing(run, complete, origin, origin.schedule(complete), batch_size)
    count = chosen.nfe or chosen.steps or ONE_STEP_STEPS
    return Editing(run, complete, origin, inpainting_sigmas(run.noise, count), batch_size)


def _varying(run: OpenRun, strength: float, chosen: Sampling, batch_size: int) -> Editing:
    _check_levels(run)
    complete, origin = _completed(run, chosen)
    whole = origin.schedule(complete)
    sigma = strength_sigma(strength, run.noise.sigma_min * run.noise.shift, float(whole[0]), complete.rho or RHO)
    below = replace(complete, sigma_max=None)
    if chosen.sigmas is not None or complete.sigmas is not None:
        kept = tuple(each for each in complete.sigmas or () if each < sigma)
        below = replace(below, sigmas=kept or None, steps=None if kept else 1)
    elif all(vars(chosen)[name] is None for name in LENGTHS):
        below = replace(below, steps=steps_below(whole, sigma), nfe=None)
    return Editing(run, complete, origin, below.schedule(run.noise, sigma), batch_size)


def _completed(run: OpenRun, chosen: Sampling) -> tuple[Sampling, Origin]:
    """As `completed`, without a fitted start: a tuned one is not taken, a chosen one is refused."""
    if chosen.start is not None:
        raise UserError("An edit begins at noise of its own: omit `start`.", "start")
    complete, origin = completed(run, chosen)
    if complete.start is None:
        return complete, origin
    return completed(run, replace(chosen, sampler=chosen.sampler or run.recipe.usual_sampling.sampler))


def _encoded(run: OpenRun, given: GivenImages) -> Images:
    return run.normaliser.encode(torch.from_numpy(np.ascontiguousarray(given.native))).to(run.device)


def _alike(one: Conditioning, other: Conditioning) -> bool:
    """Whether two conditions are the same."""
    if isinstance(one, Condition) and isinstance(other, Condition):
        pairs = ((one.labels, other.labels), (one.vector, other.vector), (one.cond_image, other.cond_image))
        return all((a is None and b is None) or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)
    return torch.equal(classes_of(one), classes_of(other))


def _names(run: OpenRun, seeds: Sequence[int], condition: Conditioning) -> list[str]:
    """The seed of each, and below it the class if one was asked for."""
    labels = classes_of(condition).tolist()
    asked = bool(run.classes) and max(labels) < len(run.classes)
    return captions(seeds, condition, run.classes) if asked else [f"seed {seed}" for seed in seeds]


def _blended(first: Denoise, second: Denoise, share: Float[Tensor, "batch"]) -> Denoise:
    weight = share.reshape(-1, 1, 1, 1)
    return lambda noisy, sigma: torch.lerp(first(noisy, sigma), second(noisy, sigma), weight.to(noisy))


@torch.no_grad()
def _made(
    editing: Editing,
    walk: Walk,
    seeds: Sequence[int],
    condition: Conditioning,
    about: dict[str, Any],
    names: Sequence[str],
    given: GivenImages | None = None,
    kept: np.ndarray | None = None,
) -> Edits:
    """The images of all parts in native units, what is kept put back, with everything that made them."""
    run, size = editing.run, editing.batch_size
    if size < 1:
        raise UserError(f"`batch_size` must be at least 1, got {size}.", setting="batch_size")
    references = [editing.origin.reference] if editing.origin.reference else []
    steps = math.ceil(len(names) / size) * (len(editing.sigmas) - 1)
    with counted(run.denoiser, *references) as calls, progress(f"editing {len(names)}", steps) as advance:
        began, made = time.perf_counter(), []
        for start in range(0, len(names), size):
            part = slice(start, start + size)
            made.append(left_out(run.normaliser.decode(walk(part, advance).float().cpu()), run.metadata))
            advance(1)
        seconds = time.perf_counter() - began
    native = torch.cat(made)
    if given is not None and kept is not None:
        native = torch.where(torch.from_numpy(kept.copy()), torch.from_numpy(given.native.copy()), native)
    settings = {
        **identity(run, seeds, condition),
        **choices(editing.sampling, editing.origin, editing.sigmas),
        "edit": about,
        "nfe": sum(calls) / len(names),
        "batch_size": size,
        "device": str(run.device),
    }
    return Edits(native, run, seconds, settings["nfe"], settings, tuple(names), given, kept)
