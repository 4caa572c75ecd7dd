"""Networks as files that run without this package: ONNX, or programs of torch.export.

The *generator* of a one-step run maps standard normal noise, and a condition if the run has one, to images in the data's own
dtype and range. It draws no random numbers, so the same noise gives the same image everywhere. A run of more steps is two
networks: its *estimator*, evaluated at every step, and its *decoding* of what they lead to. A condition is the inputs `label`
(classes), `numbers` and `cond_image` (as the network takes them: numbers of about mean 0, images in model range), as many of them
as the run was trained with.
"""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, cast

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.data.unmeasured import Unmeasured
from pixelpath.errors import UserError
from pixelpath.models.denoiser import Denoiser
from pixelpath.sampling.guidance import guide
from pixelpath.types import Condition, Conditioning, Images, Labels

Native = Shaped[Tensor, "batch channel row column"]
Numbers = Float[Tensor, "batch number"]
CondImage = Float[Tensor, "batch other row column"]
Make = Callable[[Images, Conditioning | None], Native]
"""Standard normal noise and a condition (None where the run has none) to native images."""

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
LARGEST = 2**31 - 2**24  # bytes of weights: an ONNX file, the graph included, ends at 2 GiB
TOLERANCE = 1e-4  # of an image in model range
ABOUT = "pixelpath.json"  # in a file of torch.export: what the generator is


class Decoding(nn.Module):
    """Images in model range to native ones, nodata where the metadata say that no image has a value.

    Raises UserError for a normaliser with a curve.
    """

    def __init__(self, normaliser: Normaliser, unmeasured: Unmeasured | None = None) -> None:
        super().__init__()
        if not normaliser.straight:
            raise UserError(
                "Only affine normalisers can be exported as ONNX or by torch.export, and this run's normaliser has a curve: "
                "choose --format diffusers, or train with --data.normaliser.kind affine."
            )
        self.normaliser = normaliser
        self.mask: Tensor | None
        mask, self.nodata = (None, math.nan) if unmeasured is None else (torch.from_numpy(unmeasured[0]), unmeasured[1])
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, images: Images) -> Native:
        native = self.normaliser.decode(images)
        return native if self.mask is None else torch.where(self.mask, torch.tensor(self.nodata).to(native), native)


class Estimator(nn.Module):
    """D(noisy, sigma, condition) for one sigma [] of the batch, unguided; without a condition unconditional.

    Where `drop` [batch] is True, an image has no condition.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(
        self,
        noisy: Images,
        sigma: Float[Tensor, ""],
        label: Labels | None = None,
        numbers: Numbers | None = None,
        cond_image: CondImage | None = None,
        drop: Bool[Tensor, "batch"] | None = None,
    ) -> Images:
        return self.denoiser(noisy, sigma, self.denoiser.condition(noisy, label, numbers, cond_image), drop)


class Generator(nn.Module):
    """decode(D(sigma noise, sigma, label)), D under classifier-free `guidance`; sigma is the highest shifted one.

    One-step generation by a consistency model (Song et al. 2023, arXiv 2303.01469, algorithm 1 with one step). `unmeasured`
    is where no image has a value. Raises UserError for a normaliser with a curve.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        normaliser: Normaliser,
        sigma: float,
        guidance: float = 1.0,
        unmeasured: Unmeasured | None = None,
    ) -> None:
        super().__init__()
        self.decoding = Decoding(normaliser, unmeasured)
        self.denoiser, self.sigma, self.guidance = denoiser, sigma, guidance

    def forward(
        self,
        noise: Images,
        label: Labels | None = None,
        numbers: Numbers | None = None,
        cond_image: CondImage | None = None,
    ) -> Native:
        condition = self.denoiser.condition(noise, label, numbers, cond_image)
        denoise = guide(self.denoiser.bind(condition), self.denoiser.bind(None), self.guidance)
        return self.decoding(denoise(self.sigma * noise, torch.tensor(self.sigma)))


def inputs_of(condition: Conditioning | None, classes: int) -> dict[str, Tensor]:
    """A condition as the inputs of a network, by name, of a run with so many classes."""
    if condition is None:
        return {}
    whole = condition if isinstance(condition, Condition) else Condition(condition)
    label = whole.labels if classes or condition is whole.labels else None
    found = {"label": label, "numbers": whole.vector, "cond_image": whole.cond_image}
    return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class Graph:
    """A network to be written: the module, an example of each input by name, and the name of its output.

    The first axis of every input with axes, and of the output, is the free one, `batch`.
    """

    module: nn.Module
    example: Mapping[str, Tensor]
    output: str

    @property
    def given(self) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """The examples as arguments: by place up to the label, and others by name."""
        named = {name: value for name, value in self.example.items() if name in ("numbers", "cond_image", "drop")}
        return tuple(value for name, value in self.example.items() if name not in named), named

    @property
    def axes(self) -> dict[str, dict[int, Any]]:
        """The free axes of each input."""
        batch = torch.export.Dim("batch")
        return {name: {0: batch} if value.ndim else {} for name, value in self.example.items()}


def graph_of(generator: Generator) -> Graph:
    """The generator as noise, and a condition if there is one, to image."""
    shape, condition = _example(generator.denoiser)
    return Graph(generator, {"noise": torch.zeros(2, *shape)} | condition, "image")


def graphs_of(estimator: Estimator, decoding: Decoding) -> dict[str, Graph]:
    """The two networks of a run of more steps, by the names of their files."""
    shape, condition = _example(estimator.denoiser)
    drop = {"drop": torch.tensor([False, True])} if condition.keys() - {"label"} else {}
    example = {"noisy": torch.zeros(2, *shape), "sigma": torch.tensor(1.0)} | condition | drop
    return {
        "denoiser": Graph(estimator, example, "estimate"),
        "decode": Graph(decoding, {"images": torch.zeros(2, *shape)}, "image"),
    }


def _example(denoiser: Denoiser) -> tuple[tuple[int, int, int], dict[str, Tensor]]:
    """The shape of images, and an example of each input of the condition."""
    backbone, encoder = denoiser.backbone, denoiser.backbone.encoder
    shape, found = (encoder.channels, encoder.rows, encoder.columns), dict[str, Tensor]()
    if backbone.num_classes:
        found["label"] = torch.zeros(2, dtype=torch.int64)
    if backbone.numbers is not None:
        found["numbers"] = torch.zeros(2, cast(nn.Linear, backbone.numbers[0]).in_features)
    if backbone.cond_image is not None:
        found["cond_image"] = torch.zeros(2, backbone.cond_image.in_channels, *shape[1:])
    return shape, found


@dataclass(frozen=True)
class Format:
    """A kind of file: its suffix, how a network is written (with metadata), and how a generator is read back."""

    suffix: str
    write: Callable[[Graph, IO[bytes], Mapping[str, str]], None]
    read: Callable[[Path], Make]


def check_packages() -> None:
    """ValueError if a package that ONNX needs is missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(
            f"ONNX needs {', '.join(missing)}, not installed here: pip install 'pixelpath[export]', or choose --format torch."
        )


def write_onnx(graph: Graph, file: IO[bytes], about: Mapping[str, str]) -> None:
    """Write a network as one ONNX model; `about` becomes its metadata. A label that is the number of classes means no class.

    Raises UserError if the weights exceed the 2 GiB of one file, or a package is missing.
    """
    check_packages()
    size = sum(value.nbytes for value in graph.module.state_dict().values())
    if size > LARGEST:
        raise UserError(
            f"An ONNX file ends at 2 GiB and these weights are {size / 2**30:.1f} GiB: choose --format torch, which has no limit."
        )
    program = _program(graph)
    with _quiet():
        written = torch.onnx.export(
            program,
            dynamo=True,
            input_names=list(graph.example),
            output_names=[graph.output],
            dynamic_shapes=graph.axes,
            verbose=False,
        )
    model = cast(torch.onnx.ONNXProgram, written).model_proto
    _forget_origin(model)
    for key, value in about.items():
        model.metadata_props.add(key=key, value=value)
    file.write(model.SerializeToString())


def read_onnx(path: Path) -> Make:
    """The generator of an ONNX file, run by onnxruntime on the CPU with as many threads as torch; UserError without packages."""
    check_packages()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.force_spinning_stop", "1")  # idle threads leave the cores to others
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    classes = len(json.loads(session.get_modelmeta().custom_metadata_map.get("classes", "[]")))

    def make(noise: Images, condition: Conditioning | None = None) -> Native:
        given = {"noise": noise} | inputs_of(condition, classes)
        _check_label(given.get("label"), classes)
        return torch.from_numpy(session.run(["image"], {name: value.numpy() for name, value in given.items()})[0])

    return make


def write_torch(graph: Graph, file: IO[bytes], about: Mapping[str, str]) -> None:
    """Write a network as a program of torch.export (.pt2) of the same inputs; `about` is its extra file pixelpath.json."""
    torch.export.save(_program(graph), file, extra_files={ABOUT: json.dumps(dict(about))})


def read_torch(path: Path) -> Make:
    """The generator of a .pt2 file, run by torch."""
    found = {ABOUT: ""}
    with path.open("rb") as file:
        module = torch.export.load(file, extra_files=found).module()
    classes = len(json.loads(json.loads(found[ABOUT]).get("classes", "[]")))

    def make(noise: Images, condition: Conditioning | None = None) -> Native:
        given = inputs_of(condition, classes)
        label = given.pop("label", None)
        _check_label(label, classes)
        with torch.no_grad():
            return module(noise, **given) if label is None else module(noise, label, **given)

    return make


ONNX = Format(".onnx", write_onnx, read_onnx)
TORCH = Format(".pt2", write_torch, read_torch)


@dataclass(frozen=True)
class Agreement:
    """`excess`: the largest difference, in model range, that rounding to the native dtype does not explain (NaN if any is NaN).

    `equal` is the share of native values that are the same, `apart` the largest difference of two native values.
    """

    excess: float
    equal: float
    apart: float

    @property
    def holds(self) -> bool:
        """Whether the excess is at most TOLERANCE; never for NaN."""
        return self.excess <= TOLERANCE


def agreement(made: Native, estimate: Images, normaliser: Normaliser, unmeasured: Unmeasured | None = None) -> Agreement:
    """How far native images are from `estimate`, the same images in model range.

    excess = max(|made - x| - slack, 0) / (2 std). x is the estimate in native units, not rounded but clamped to the native
    limits. slack is 1/2 for integers and eps (|x| + |mean|) for floats, the rounding of a product, a sum and a cast.
    Between an atom and the next value both are right where an estimate within TOLERANCE gives either. Where no image has a value
    only nodata is right.
    """
    if unmeasured is not None:
        mask = torch.from_numpy(unmeasured[0])
        if not torch.equal(made[:, mask].double(), torch.full_like(made[:, mask].double(), unmeasured[1])) and not (
            math.isnan(unmeasured[1]) and bool(made[:, mask].isnan().all())
        ):
            return Agreement(math.inf, 0.0, math.inf)
        made = torch.where(mask, normaliser.decode(estimate), made)
    mean, std = (torch.tensor(values).double()[:, None, None] for values in (normaliser.mean, normaliser.std))
    exact = replace(normaliser, dtype="float64").decode(estimate)
    slack = torch.tensor(0.5 if normaliser.nodata is None else 1.5)  # decoded values step off nodata
    if normaliser.lowest is None:
        slack = torch.finfo(made.dtype).eps * (exact.abs() + mean.abs())
    else:
        exact = exact.clamp(normaliser.lowest, normaliser.highest)
    excess = ((made.double() - exact).abs() - slack).clamp_min(0) / (2 * std)
    below, above = (normaliser.decode(estimate + step).double() for step in (-TOLERANCE, TOLERANCE))
    leaps = (above - below > 1 + 8 * TOLERANCE * std) & (below <= made) & (made <= above)
    excess = excess.masked_fill(leaps, 0.0) if normaliser.hurdles or normaliser.ceilings else excess
    difference = (made.double() - normaliser.decode(estimate).double()).abs()
    return Agreement(float(excess.max()), float((difference == 0).double().mean()), float(difference.max()))


def _check_label(label: Labels | None, classes: int) -> None:
    """UserError for labels of a file without classes, or others than 0 .. classes (the last one: no class)."""
    if label is not None and not bool(((label >= 0) & (label <= classes)).all() and classes):
        raise UserError(
            f"Labels of this file lie in 0..{classes}, {classes} for no class, got {label.tolist()[:8]}: give such ones."
            if classes
            else "This file was exported from a run without classes: give no labels."
        )


def _program(graph: Graph) -> torch.export.ExportedProgram:
    """A network for any number of images, without the paths of the machine it was made on."""
    placed, named = graph.given
    with torch.no_grad(), _quiet():
        # the normaliser keeps its constants after the first call: they must not be those of the tracer
        graph.module(*placed, **named)
        program = torch.export.export(graph.module.eval(), placed, named, dynamic_shapes=graph.axes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def _forget_origin(model: Any) -> None:
    """Remove from an ONNX model the paths of source files that the exporter notes."""
    graph = model.graph
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer, graph):
        del part.metadata_props[:]
        part.ClearField("doc_string")
    del model.metadata_props[:]


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's notes to its developers."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
