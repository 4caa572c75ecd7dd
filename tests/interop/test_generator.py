"""The exported file makes the images of the run: any number at once, guided or not, in the dtype of the data."""

import json
import math
import zipfile
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from pixelpath.data.normalise.atoms import Ceiling, Hurdle
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.errors import UserError
from pixelpath.interop import generator as module
from pixelpath.interop.generator import ONNX, TOLERANCE, TORCH, Format, Generator, Make, agreement, graph_of, write_onnx
from pixelpath.models.denoiser import Denoiser
from pixelpath.models.preconditioning import EDMPreconditioning
from pixelpath.networks.backbone import Backbone
from pixelpath.networks.decoder import Decoder
from pixelpath.networks.encoder import Encoder
from pixelpath.noise import NoiseRange
from pixelpath.randomness import Streams, normal, seed_of
from pixelpath.runs.generate import Origin, generate
from pixelpath.sampling.sampler import Sampler, Sampling

RANGE = NoiseRange().for_resolution(8)
SHAPE = (2, 8, 12)


@dataclass(frozen=True)
class Case:
    """What a generator is made of."""

    format: Format
    classes: int
    guidance: float
    normaliser: Normaliser

    @property
    def about(self) -> dict[str, str]:
        """The metadata of its file."""
        return {"recipe": "tiny", "classes": json.dumps(["a", "b", "c"][: self.classes])}


BYTES = Normaliser((120.0, 100.0), (60.0, 40.0))
CASES = {
    "onnx-uint8": Case(ONNX, 3, 1.0, BYTES),
    "onnx-uint16-guided": Case(ONNX, 2, 2.5, Normaliser((20000.0, 30000.0), (9000.0, 12000.0), "uint16")),
    "onnx-float32-unconditional": Case(ONNX, 0, 1.0, Normaliser((5.0, -1.0), (3.0, 0.2), "float32")),
    "onnx-uint8-alpha": Case(
        ONNX, 2, 1.0, replace(BYTES, hurdles=(None, Hurdle(0.0, 3.0, 0.25)), ceilings=(None, Ceiling(255.0, 250.0)))
    ),
    "torch-uint8-guided": Case(TORCH, 3, 2.5, BYTES),
    "torch-float32-unconditional": Case(TORCH, 0, 1.0, Normaliser((5.0, -1.0), (3.0, 0.2), "float32")),
}


def denoiser(classes: int) -> Denoiser:
    """A small denoiser none of whose weights are zero; its estimates have about the deviation of data, 0.5."""
    encoder = Encoder(*SHAPE, 4, 32, 1, 2)
    model = Denoiser(
        Backbone(encoder, Decoder(encoder, 32, 1, 2), classes), EDMPreconditioning(0.5, RANGE.sigma_min * RANGE.shift)
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.15)
    nn.init.normal_(model.backbone.classes.weight, std=2.0)
    nn.init.normal_(model.backbone.decoder.out.weight, std=0.5)
    return model.requires_grad_(False).eval()


def noise_of(seeds: range) -> Tensor:
    """What `generate` begins with."""
    return normal(Streams([seed_of(seed) for seed in seeds]), SHAPE)


def estimates(model: Denoiser, labels: Tensor, guidance: float) -> Tensor:
    """The images of seeds 0, 1, ... as `pixelpath sample --steps 1` makes them, in model range."""
    sampling = Sampling(1, guidance, (0.0, math.inf), sampler=Sampler.CONSISTENCY)
    return torch.cat(list(generate(model, Origin(RANGE), sampling, range(len(labels)), labels)))


@pytest.fixture(scope="module", params=CASES, ids=list(CASES))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, Denoiser, Path, Make]:
    """A generator, its file, and the file read back."""
    case = CASES[request.param]
    torch.manual_seed(0)
    model = denoiser(case.classes)
    path = tmp_path_factory.mktemp("export") / f"generator{case.format.suffix}"
    with path.open("wb") as file:
        case.format.write(graph_of(Generator(model, case.normaliser, 10.0, case.guidance)), file, case.about)
    return case, model, path, case.format.read(path)


@pytest.mark.parametrize("count", [1, 5])
def test_one_file_makes_the_images_of_the_run_at_any_batch_size(count: int, exported: tuple[Case, Denoiser, Path, Make]) -> None:
    case, model, _, make = exported
    labels = torch.arange(count).flip(0) % (case.classes + 1)  # "no class" is among five
    estimate = estimates(model, labels, case.guidance)
    made = make(noise_of(range(count)), labels if case.classes else None)
    assert estimate.std() == pytest.approx(0.5, rel=0.6)
    assert made.dtype == case.normaliser.decode(estimate).dtype
    found = agreement(made, estimate, case.normaliser)
    assert found.holds
    assert found.equal > 0.95 or case.normaliser.lowest is None
    # a slip of 1 % would not pass
    assert not agreement(made, 1.01 * estimate, case.normaliser).holds


def test_label_and_guidance_matter(exported: tuple[Case, Denoiser, Path, Make]) -> None:
    case, model, _, make = exported
    if not case.classes:
        return
    noise = noise_of(range(2))
    images = [make(noise, torch.full((2,), label)).double() for label in (0, 1, case.classes)]
    assert all((first - second).abs().max() > 1 for first, second in pairwise(images))
    if case.guidance != 1:
        zero = torch.zeros(2, dtype=torch.int64)
        made = make(noise, zero)
        conditional, none = (estimates(model, label, 1.0) for label in (zero, zero + case.classes))
        assert agreement(made, none + case.guidance * (conditional - none), case.normaliser).holds
        assert not agreement(made, conditional, case.normaliser).holds


def test_a_file_says_what_it_is_and_not_where_it_was_made(exported: tuple[Case, Denoiser, Path, Make]) -> None:
    case, _, path, _ = exported
    if case.format is ONNX:
        graph = onnx.load(path)
        onnx.checker.check_model(graph, full_check=True)
        assert {item.key: item.value for item in graph.metadata_props} == case.about
        names = ["noise", "label"] if case.classes else ["noise"]
        axes = {value.name: value.type.tensor_type.shape.dim for value in (*graph.graph.input, *graph.graph.output)}
        assert list(axes) == [*names, "image"]
        assert {name: [axis.dim_param or axis.dim_value for axis in found] for name, found in axes.items()} == {
            name: ["batch"] if name == "label" else ["batch", *SHAPE] for name in axes
        }
        content = path.read_bytes()
    else:
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        assert [json.loads(parts[name]) for name in parts if name.endswith("extra/pixelpath.json")] == [case.about]
        content = b"".join(parts.values())
    assert str(Path(module.__file__).parent).encode() not in content
    assert str(Path.cwd()).encode() not in content
    assert list(path.parent.iterdir()) == [path]  # one file


def test_labels_beyond_the_classes_of_a_file_are_refused(exported: tuple[Case, Denoiser, Path, Make]) -> None:
    """ONNX would take -1 for the last row of its table, and say of 3 that an index is out of bounds."""
    case, _, _, make = exported
    noise = noise_of(range(2))
    said = rf"Labels of this file lie in 0\.\.{case.classes}, " if case.classes else "run without classes: give no labels"
    for label in (-1, case.classes + 1):
        with pytest.raises(UserError, match=said):
            make(noise, torch.tensor([0, label]))


def test_the_normaliser_still_works_after_an_export(exported: tuple[Case, Denoiser, Path, Make]) -> None:
    case, _, _, _ = exported
    mean = torch.tensor(case.normaliser.mean)
    assert torch.equal(case.normaliser.decode(torch.zeros(1, 2, 1, 1)).flatten().float(), mean)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float16"])
def test_agreement_is_the_difference_that_rounding_does_not_explain(dtype: str) -> None:
    normaliser = Normaliser((100.0, 90.0), (50.0, 20.0), dtype)
    estimate = 0.3 * torch.randn(64, 2, 16, 16, dtype=torch.float64)
    made = normaliser.decode(estimate)
    assert agreement(made, estimate, normaliser).excess == 0
    assert agreement(made, estimate, normaliser).equal == 1
    for shift in (0.5 * TOLERANCE, 0.01):  # with so many values, one lies next to the middle of two integers
        moved = agreement(normaliser.decode(estimate + shift), estimate, normaliser)
        assert moved.excess <= shift * (1 + 1e-6)
        assert moved.holds == (shift < TOLERANCE)
    if dtype in ("uint8", "int16", "float32"):
        assert moved.excess == pytest.approx(0.01, rel=0.01)
        assert moved.apart == pytest.approx(1, abs=1e-4)


def test_values_beyond_the_dtype_are_held_and_nan_never_agrees() -> None:
    estimate = torch.tensor([-9.0, 0.0, 9.0, 0.1]).reshape(1, 1, 2, 2)
    held = torch.tensor([0, 100, 255, 110], dtype=torch.uint8).reshape(1, 1, 2, 2)
    assert agreement(held, estimate, Normaliser((100.0,), (50.0,))).excess == 0
    floats = Normaliser((0.0,), (1.0,), "float32")
    assert not agreement(torch.full((1, 1, 2, 2), torch.nan), estimate, floats).holds
    assert not agreement(torch.zeros(1, 1, 2, 2), estimate, floats).holds


def test_weights_that_one_onnx_file_cannot_hold_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "LARGEST", 1000)
    with (tmp_path / "file").open("wb") as file, pytest.raises(ValueError, match=r"ends at 2 GiB .*: choose --format torch"):
        write_onnx(graph_of(Generator(denoiser(0), BYTES, 10.0)), file, {})


def test_a_generator_of_another_dtype_differs_only_in_rounding() -> None:
    model, noise = denoiser(2), noise_of(range(3))
    label = torch.tensor([0, 1, 2])
    exact = Generator(model, replace(BYTES, dtype="float32"), 10.0, 2.0)(noise, label)
    assert torch.equal(Generator(model, BYTES, 10.0, 2.0)(noise, label), exact.round().clamp(0, 255).to(torch.uint8))
