"""A run as a pipeline of diffusers: class labels and random numbers to images in the data's own values.

A folder that `pixelpath export --format diffusers` wrote holds this file with all that it needs of pixelpath; torch and diffusers
are enough to run it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from pixelpath.data.alpha import unpremultiply
from pixelpath.data.conditions import Conditions
from pixelpath.data.metadata import Metadata
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.data.unmeasured import left_out
from pixelpath.noise import NoiseRange
from pixelpath.randomness import Streams, normal, seed_of
from pixelpath.sampling.guidance import guide
from pixelpath.sampling.sampler import Sampler, Sampling
from pixelpath.types import Denoise, Images, Labels

Generators = torch.Generator | Sequence[torch.Generator] | None
PICTURES = {1: "L", 3: "RGB", 4: "RGBA"}  # modes of PIL by channels


class PixelpathPipeline(DiffusionPipeline):
    """Images of a run that pixelpath trained.

    `transformer` is the denoiser. The rest is plain: `normaliser` and `metadata` of the data, the `noise` range, how images are
    sampled (`sampling`, and `tuned` where nothing about the steps is chosen), the class of each label (`id2label`), and what
    else the run can be asked for (`conditions`).
    """

    model_cpu_offload_seq = "transformer"

    def __init__(
        self,
        transformer: Any,
        normaliser: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
        noise: dict[str, float] | None = None,
        sampling: dict[str, Any] | None = None,
        tuned: dict[str, Any] | None = None,
        id2label: dict[str, str] | None = None,
        conditions: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if normaliser is None or metadata is None or noise is None or sampling is None:
            raise ValueError("model_index.json lacks normaliser, metadata, noise or sampling: export the run again.")
        self.register_modules(transformer=transformer)
        conditions = conditions or {"columns": [], "cond_image": None}
        self.register_to_config(normaliser=normaliser, metadata=metadata, noise=noise, sampling=sampling, tuned=tuned)
        self.register_to_config(id2label=id2label or {}, conditions=conditions)
        self.conditions = Conditions.from_json(conditions)
        self.normaliser, self.metadata = Normaliser.from_json(normaliser), Metadata.from_json(metadata)
        self.noise = NoiseRange(**noise)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | str | Sequence[int | str] | None = None,
        numbers: Mapping[str, Any] | None = None,
        cond_image: Any = None,
        batch_size: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: Generators = None,
        seeds: Sequence[int] | None = None,
        latents: Images | None = None,
        sampler: str | None = None,
        output_type: str | None = None,
        return_dict: bool = True,
    ) -> Any:
        """Make images.

        Args:
            class_labels: Numbers or names of classes, one for all images or one each; None: no class.
            numbers: What the run was trained with as a table: for each column one entry for all images, or a list of one each.
                None: no such condition.
            cond_image: Condition images in their own values [image, channel, row, column], one for all or one each, or pictures
                of PIL. None: no such condition.
            batch_size: Number of images; of conditions, `seeds` or `latents` if not given, or else 1.
            num_inference_steps: Steps of the sampler. Default: as the run was tuned, or as its recipe says.
            guidance_scale: 1 is no guidance, which also a model without classes has. Default: as the recipe says.
            generator: Makes the noise, as in other pipelines.
            seeds: Seeds of pixelpath instead of a generator: the images that `run.sample` makes of them.
            latents: Standard normal noise [image, channel, row, column] to begin with.
            sampler: heun, euler, heun_stochastic, euler_ancestral, dpmpp_2m or consistency. Default: as the run.
            output_type: "pil"; "np" [image, row, column, channel] or "pt" [image, channel, row, column], 8-bit pictures in [0, 1]
                and other data in their own values; "native", an array [image, channel, row, column] in the data's own dtype.
                Default: "pil" for 8-bit pictures, else "native".
            return_dict: Give an object with `images` instead of a tuple of them.

        Raises ValueError for unknown classes and conditions, numbers of images that disagree, or pictures of data that are none.
        """
        labels, vector, image = self._labels(class_labels), self._vector(numbers), self._cond_image(cond_image)
        count = _count(batch_size, (labels, vector, image), (seeds, latents))
        draw = self._draw(count, generator, seeds)
        chosen = self._sampling(num_inference_steps, guidance_scale, sampler)
        assert chosen.sampler is not None
        sigmas = chosen.schedule(self.noise)
        device = self._execution_device
        first = (draw() if latents is None else latents.to(device, torch.float32)) * chosen.sampler.cold_std(float(sigmas[0]))
        nfe = chosen.sampler.nfe(chosen.count)
        with self.progress_bar(total=nfe) as bar:  # pyright: ignore[reportCallIssue]
            given = {"class_labels": labels, "numbers": vector, "cond_image": image}
            asked = {name: each.to(device).expand(count, *each.shape[1:]) for name, each in given.items() if each is not None}
            denoise = self._denoise(asked, chosen, bar.update)
            images = chosen.sampler(denoise, first, sigmas, draw).float().cpu()
        self.maybe_free_model_hooks()
        native = left_out(self.normaliser.decode(images), self.metadata)
        shown = self._output(native, output_type or ("pil" if self._pictures else "native"))
        return ImagePipelineOutput(images=shown) if return_dict else (shown,)

    @property
    def _pictures(self) -> bool:
        """Whether images are 8-bit pictures."""
        return self.normaliser.dtype == "uint8" and len(self.normaliser.mean) in PICTURES

    def _labels(self, given: int | str | Sequence[int | str] | None) -> Labels | None:
        """Numbers [1] or [batch] of classes."""
        if given is None:
            return None
        names: dict[str, str] = dict(self.config["id2label"])
        numbers = {name: int(number) for number, name in names.items()}
        wanted = [given] if isinstance(given, int | str) else list(given)
        found = [numbers.get(each, -1) if isinstance(each, str) else int(each) for each in wanted]
        if not found or not all(0 <= each <= len(names) for each in found) or not names:
            raise ValueError(
                f"class_labels {wanted} are not among {', '.join(list(names.values())[:10])} or 0 to {len(names)} (no class)."
                if names
                else "This model has no classes: leave class_labels out."
            )
        return torch.tensor(found)

    def _vector(self, given: Mapping[str, Any] | None) -> torch.Tensor | None:
        """Numbers [1 or batch, number] as the network takes them."""
        if given is None:
            return None
        columns = self.conditions.columns
        if set(given) != {column.name for column in columns}:
            wanted = ", ".join(column.name for column in columns) or "no numbers"
            raise ValueError(
                f"This model was trained with {wanted}: numbers must name all of these alone, got {', '.join(given)}."
            )
        lists = [given[column.name] for column in columns]
        entries = [[str(each) for each in (own if isinstance(own, list | tuple | np.ndarray) else [own])] for own in lists]
        count = max(map(len, entries))
        if any(len(own) not in (1, count) for own in entries):
            raise ValueError(f"The columns of numbers have {sorted(set(map(len, entries)))} entries: give as many, or one.")
        where = [f"numbers, entry {place}" for place in range(count)]
        rows = [own * (count // len(own)) for own in entries]
        return torch.from_numpy(
            np.concatenate([column.encode(own, where) for column, own in zip(columns, rows, strict=True)], axis=1)
        )

    def _cond_image(self, given: Any) -> Images | None:
        """Condition images [1 or batch, channel, row, column] as the network takes them."""
        if given is None:
            return None
        asks, config = self.conditions.cond_image, self.transformer.config
        if asks is None:
            raise ValueError("This model was trained without condition images: leave cond_image out.")
        native = given if isinstance(given, torch.Tensor) else torch.from_numpy(_native(given))
        wanted = (asks.channels, config.rows, config.columns)
        if native.ndim != 4 or native.shape[1:] != wanted or not len(native):
            raise ValueError(f"cond_image must have the shape [image, {', '.join(map(str, wanted))}], got {list(native.shape)}.")
        return asks.encode(native.cpu(), lambda place: f"number {place}")

    def _sampling(self, steps: int | None, guidance: float | None, sampler: str | None) -> Sampling:
        chosen = Sampling(steps, guidance, sampler=None if sampler is None else Sampler(sampler))
        if self.config["tuned"] and steps is None and sampler is None:
            chosen = chosen.over(_sampling_of(self.config["tuned"]))
        return chosen.over(_sampling_of(self.config["sampling"]))

    def _draw(self, count: int, generator: Generators, seeds: Sequence[int] | None) -> Callable[[], Images]:
        """Fresh noise [count, channel, row, column] at every call."""
        config, device = self.transformer.config, self._execution_device
        shape = (config.channels, config.rows, config.columns)
        if seeds is None:
            generators = generator if generator is None or isinstance(generator, torch.Generator) else list(generator)
            return lambda: randn_tensor((count, *shape), generator=generators, device=device, dtype=torch.float32)
        streams = Streams([seed_of(seed) for seed in seeds])
        return lambda: normal(streams, shape).to(device)

    def _denoise(self, asked: dict[str, torch.Tensor], chosen: Sampling, advance: Callable[[], Any]) -> Denoise:
        """The denoiser under its condition and guidance; `advance` counts estimates."""

        def estimate(noisy: Images, sigma: torch.Tensor) -> Images:
            advance()
            return self.transformer(noisy, sigma, **asked)

        if not asked:
            return estimate
        assert chosen.guidance is not None
        assert chosen.guidance_interval is not None
        low, high = (limit * self.noise.shift for limit in chosen.guidance_interval)
        none = lambda noisy, sigma: self.transformer(noisy, sigma)  # noqa: E731
        return guide(estimate, none, chosen.guidance, (low, high))

    def _output(self, native: torch.Tensor, output_type: str) -> Any:
        if output_type == "native":
            return native.numpy()
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type is {output_type!r}: it is one of pil, np, pt, native.")
        if output_type == "pil" and not self._pictures:
            kind = f"{native.shape[1]} channels of {self.normaliser.dtype}"
            raise ValueError(f"Images of {kind} are no pictures: choose output_type np, pt or native.")
        if not self._pictures:
            return native if output_type == "pt" else native.permute(0, 2, 3, 1).numpy()
        seen = native.numpy()
        seen = unpremultiply(seen) if self.metadata.alpha == "premultiplied" else seen
        if output_type == "pt":
            return torch.from_numpy(seen) / 255
        rows = seen.transpose(0, 2, 3, 1)
        return (rows / np.float32(255)) if output_type == "np" else [_picture(each) for each in rows]


def _picture(image: np.ndarray) -> Image.Image:
    """A picture of bytes [row, column, channel]."""
    return Image.fromarray(np.ascontiguousarray(image[..., 0] if image.shape[2] == 1 else image), PICTURES[image.shape[2]])


def _native(given: Any) -> np.ndarray:
    """Condition images [image, channel, row, column] of an array, or of one or several pictures of PIL."""
    pictures = [given] if isinstance(given, Image.Image) else given
    if isinstance(pictures, list | tuple) and all(isinstance(each, Image.Image) for each in pictures):
        rows = np.stack([np.asarray(each) for each in pictures])
        return np.ascontiguousarray(rows[:, None] if rows.ndim == 3 else rows.transpose(0, 3, 1, 2))
    return np.asarray(given)


def _count(batch_size: int | None, conditions: Sequence[Any], others: Sequence[Any]) -> int:
    """The number of images; ValueError if what is given disagrees. One condition is that of all images."""
    lengths = {len(each) for each in others if each is not None}
    lengths |= {batch_size} if batch_size is not None else set()
    lengths |= {len(each) for each in conditions if each is not None and len(each) > 1}
    if len(lengths) > 1 or min(lengths, default=1) < 1:
        raise ValueError(
            f"batch_size, class_labels, other conditions, seeds and latents say {sorted(lengths)} images: let them agree."
        )
    return lengths.pop() if lengths else 1


def _sampling_of(values: dict[str, Any]) -> Sampling:
    """The sampling that model_index.json holds: its sampler by name, tuples as lists, infinity as a word."""
    found = {name: tuple(map(float, each)) if isinstance(each, list | tuple) else each for name, each in values.items()}
    return Sampling(**{**found, "sampler": Sampler(values["sampler"])})
