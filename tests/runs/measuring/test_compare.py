"""Comparisons of sets of every kind, through the command and in Python: their numbers, protocols, floors and mistakes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.application import call
from tests.evaluation.test_dinov2 import random as random_dinov2
from tests.refusal import refused
from torch import nn

import pixelpath as pp
from pixelpath.data import sources
from pixelpath.evaluation import statistics
from pixelpath.evaluation.distances import drawn, frechet, kernel
from pixelpath.evaluation.features import Pixels, hash_of
from pixelpath.evaluation.inception import Inception, fidelity_parts, inception_score
from pixelpath.randomness import Streams, permutation
from pixelpath.runs.measuring import compare_features
from pixelpath.runs.measuring.compare import APART

RANDOM = np.random.default_rng(0)


def images(count: int, mean: float = 120, channels: int = 3, size: int = 8) -> np.ndarray:
    return RANDOM.normal(mean, 30, (count, channels, size, size)).clip(0, 255).round().astype(np.uint8)


class Stand(nn.Module):
    """Of the shape of torch-fidelity's Inception, with random weights: pool features and logits, and the block Mixed_6d."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.Mixed_6d = nn.ModuleDict({"branch1x1": nn.Sequential(nn.AdaptiveAvgPool2d(17), nn.Conv2d(3, 192, 1), nn.ReLU())})
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(192, 2048), nn.ReLU())
        self.logits = nn.Linear(2048, 1008, bias=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values = (x.float() - 128) / 32
        self.Mixed_6d["branch1x1"](values)
        pool = self.pool(values)
        return pool, self.logits(10 * pool)


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Inception:
    """Stands in for Inception in every comparison."""
    network = Stand().requires_grad_(False)
    found = Inception(network, hash_of(network.state_dict()))
    monkeypatch.setattr(compare_features, "inception", lambda weights, device: found)
    return found


def row(found: pp.Comparison, features: str, of: str = "all images") -> dict[str, Any]:
    return next(each for each in found.distances if each["features"] == features and each["of"] == of)


def pixels_of(sample: np.ndarray) -> torch.Tensor:
    return Pixels()(torch.from_numpy(sample))


def test_numbers_in_pixels_with_their_floor_and_protocol() -> None:
    ours, theirs = images(60), images(90, 130)
    found = pp.compare(ours, theirs, features=["pixels"])
    first, second = pixels_of(ours), pixels_of(theirs)
    whole, few, floor = (row(found, "pixels", of) for of in ("all images", "few images", "floor: reference itself"))
    assert whole["frechet"] == pytest.approx(frechet(statistics.of(first), statistics.of(second)), rel=1e-6)
    assert whole["kernel_distance"] == pytest.approx(kernel(first, second).mean, rel=1e-6)
    order = permutation(Streams([0]), 90)
    half = second[order[45:]]
    assert floor["frechet"] == pytest.approx(frechet(statistics.of(second[order[:45]]), statistics.of(half)), rel=1e-6)
    assert few["frechet"] == pytest.approx(frechet(statistics.of(drawn(first, 45, 1)), statistics.of(half)), rel=1e-6)
    assert [(each["images"], each["reference"]) for each in (whole, few, floor)] == [(60, 90), (45, 45), (45, 45)]
    about = whole["protocol"]
    assert (about["real"], about["generated"], about["extractor"]) == (90, 60, "pixels")
    assert about["images"] == "3x8x8 uint8"
    assert about["reference_hash"] == found.document["reference"]["hash"] != about["images_hash"]
    assert (about["precision_and_recall"], about["density_and_coverage"]) == ("k = 3", "k = 5")
    assert about["kernel"] == "100 subsets of 60, seed 2020"
    assert "features" in str(found)


def test_the_hash_is_that_of_the_images() -> None:
    ours = images(10)
    first, same, other = (
        pp.compare(each, ours, measures=["frechet"], features=["pixels"]).document["images"]["hash"]
        for each in (ours, ours.copy(), np.where(ours == ours.max(), 0, ours))
    )
    assert first == same != other


def test_the_command_with_folders_and_copies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs, kept = images(80, channels=1)[:, 0], images(40, channels=1)[:, 0]
    ours = images(50, channels=1)
    ours[[4, 17]] = theirs[[30, 3], None]
    np.save(tmp_path / "made.npy", ours)
    for name, each in (("real", theirs), ("unseen", kept)):
        (tmp_path / name).mkdir()
        for number, picture in enumerate(each):
            Image.fromarray(picture).save(tmp_path / name / f"{number:03d}.png")
    out = tmp_path / "out"
    words = (tmp_path / "made.npy", tmp_path / "real", "--held-out", tmp_path / "unseen", "--features", "pixels", "--out", out)
    assert call("compare", *words) == 0
    assert "2 samples are exact copies" in capsys.readouterr().err
    document = json.loads((out / "comparison.json").read_text())
    assert document["copies"]["duplicates"] == 2
    assert {document["copies"]["pairs"][0][key] for key in ("sample", "training")} <= {4, 17, 30, 3}
    assert document["copies"]["closeness"][0]["held_out"] == 40
    assert document["reference"]["path"] == str(tmp_path / "real")
    page = (out / "report.html").read_text()
    assert "floor: reference itself" in page
    assert document["reference"]["hash"] in page
    assert call("compare", *words) == 2  # nothing is overwritten
    assert "--out" in capsys.readouterr().err


def test_inception_has_the_names_and_conventions_of_the_field(stand: Inception) -> None:
    ours, theirs = images(30), images(40, 140)
    found = pp.compare(ours, theirs, features=["inception"], measures=["frechet", "kernel", "score"])
    outputs = [stand.outputs(torch.from_numpy(each)) for each in (ours, theirs)]
    for name, part in (("inception-v3-2048", "pool"), ("inception-v3-spatial", "spatial")):
        sides = [each._asdict()[part].double().numpy() for each in outputs]
        covariances = [np.cov(each, rowvar=False) for each in sides]
        gram = [(each - each.mean(0)) / np.sqrt(len(each) - 1) for each in sides]
        root = np.linalg.svd(gram[0] @ gram[1].T, compute_uv=False).sum()  # tr (C1 C2)^(1/2), in float64 and its own way
        expected = np.square(sides[0].mean(0) - sides[1].mean(0)).sum() + sum(map(np.trace, covariances)) - 2 * root
        assert row(found, name)["frechet"] == pytest.approx(expected, rel=1e-6)
    assert "kernel_distance" not in row(found, "inception-v3-spatial")
    score = inception_score(outputs[0].logits, fidelity_parts(30))
    first, second = found.document["inception_score"][:2]
    assert (first["convention"], second["convention"]) == ("torch-fidelity", "ADM")
    assert (first["mean"], first["std"]) == (pytest.approx(score.mean), pytest.approx(score.std))
    assert row(found, "inception-v3-2048")["protocol"]["eight_bit"] == "uint8 as stored"
    assert row(found, "inception-v3-2048")["protocol"]["extractor_hash"] == stand.hash
    assert "FID" in str(found)


def statistics_file(path: Path, stand: Inception, of: np.ndarray, **more: Any) -> Path:
    outputs = stand.outputs(torch.from_numpy(of))
    pool, spatial = outputs.pool.double().numpy(), outputs.spatial.double().numpy()
    moments = {"mu": pool.mean(0), "sigma": np.cov(pool, rowvar=False)}
    np.savez(path, **moments, mu_s=spatial.mean(0), sigma_s=np.cov(spatial, rowvar=False), **more)
    return path


def test_a_reference_file_of_adm_gives_its_statistics_and_its_images(stand: Inception, tmp_path: Path) -> None:
    """The statistics are of 60 images, of which the file holds 20."""
    ours, whole = images(30), images(60, 140)
    path = statistics_file(tmp_path / "adm.npz", stand, whole, arr_0=np.moveaxis(whole[:20], 1, -1))
    found = pp.compare(ours, path, features=["inception"], measures=["frechet", "precision"])
    direct = pp.compare(ours, whole, features=["inception"], measures=["frechet"])
    for name in ("inception-v3-2048", "inception-v3-spatial"):
        assert row(found, name)["frechet"] == pytest.approx(row(direct, name)["frechet"], rel=1e-3)
    assert row(found, "inception-v3-2048")["reference"] == 20
    assert row(found, "inception-v3-2048")["protocol"]["moments"].endswith("reference: mu and sigma of the file")
    images_alone = pp.compare(ours, whole[:20], features=["inception"], measures=["precision"])
    assert row(found, "inception-v3-2048")["precision"] == row(images_alone, "inception-v3-2048")["precision"]


def test_statistics_alone(stand: Inception, tmp_path: Path) -> None:
    ours, whole = images(20), images(30, 140)
    path = statistics_file(tmp_path / "stats.npz", stand, whole)
    found = pp.compare(ours, path)
    direct = pp.compare(ours, whole, features=["inception"], measures=["frechet"])
    expected = row(direct, "inception-v3-2048")["frechet"]
    assert row(found, "inception-v3-2048")["frechet"] == pytest.approx(expected, rel=1e-3)
    assert [each["of"] for each in found.distances] == ["all images"] * 2
    assert any("copies" in each for each in found.document["left_out"])
    swapped = pp.compare(path, ours, measures=["frechet"])
    assert row(swapped, "inception-v3-2048")["frechet"] == pytest.approx(expected, rel=1e-3)
    with refused("measures", "precision"):
        pp.compare(ours, path, measures=["precision"])
    with refused("features", "pixels", path):
        pp.compare(ours, path, features=["pixels"])


def test_two_files_of_statistics_need_no_network(tmp_path: Path) -> None:
    """Diagonal covariances: |m1 - m2|^2 + sum (s1 - s2)^2."""
    for name, mean, variance in (("a", 0.0, 4.0), ("b", 0.5, 9.0)):
        np.savez(tmp_path / f"{name}.npz", mu=np.full(384, mean), sigma=variance * np.eye(384))
    found = pp.compare(tmp_path / "a.npz", tmp_path / "b.npz")
    assert row(found, "dinov2-vit-s-14")["frechet"] == pytest.approx(384 * (0.25 + 1), rel=1e-6)
    with refused("measures", "kernel"):
        pp.compare(tmp_path / "a.npz", tmp_path / "b.npz", measures=["kernel"])
    np.savez(tmp_path / "other.npz", mu=np.zeros(768), sigma=np.eye(768))
    with refused("images", "dinov2-vit-s-14", "dinov2-vit-b-14"):
        pp.compare(tmp_path / "a.npz", tmp_path / "other.npz")


def test_dinov2_from_a_file(tmp_path: Path) -> None:
    torch.save(random_dinov2(depth=1).state_dict(), tmp_path / "small.pth")
    found = pp.compare(images(6), images(8, 200), features=["dinov2"], dinov2=tmp_path / "small.pth", measures=["frechet"])
    assert [each["features"] for each in found.distances] == ["dinov2-vit-s-14"] * 3
    assert row(found, "dinov2-vit-s-14")["frechet"] > 0
    assert "Pillow" in row(found, "dinov2-vit-s-14")["protocol"]["resize"]


def test_floats_become_8_bit_only_by_a_stated_range(stand: Inception) -> None:
    ours, theirs = images(20), images(24, 140)
    scaled = [each.astype(np.float32) / 127.5 - 1 for each in (ours, theirs)]
    with refused("value_range", "float32"):
        pp.compare(*scaled, features=["inception"])
    found = pp.compare(*scaled, features=["inception"], value_range=(-1, 1), measures=["frechet"])
    direct = pp.compare(ours, theirs, features=["inception"], measures=["frechet"])
    name = "inception-v3-2048"
    assert row(found, name)["frechet"] == pytest.approx(row(direct, name)["frechet"], rel=1e-6)
    scaled[0][0, 0] = 1.5  # 64 of the values
    clipped = pp.compare(*scaled, features=["inception"], value_range=(-1, 1), measures=["frechet"])
    assert f"{64 / scaled[0].size:.2%} of the values of the images" in row(clipped, name)["protocol"]["eight_bit"]


def test_runs_are_sampled_with_their_protocol(diffusion_run: Path, encoder_run: Path, pictures: Path) -> None:
    words = ("--count", 12, "--steps", 2, "--first-seed", 5, "--encoder", encoder_run, "--features", "pixels,encoder")
    out = diffusion_run.parent / "compared"
    assert call("compare", diffusion_run, pictures, *words, "--data.resize", 8, 8, "--out", out) == 0
    document = json.loads((out / "comparison.json").read_text())
    assert [each["features"] for each in document["distances"]] == ["pixels"] * 3 + ["encoder"] * 3
    made = document["distances"][0]["protocol"]["sampling"]
    assert (made["seeds"], made["steps"]) == ([5, 16], 2)
    assert document["copies"]["pairs"][0]["seed"] >= 5
    run = pp.load(diffusion_run)
    both = pp.compare(run, run.sample(12, seed=5, steps=2), count=12, seed=5, sampling=pp.Sampling(steps=2), features=["pixels"])
    assert row(both, "pixels")["frechet"] == pytest.approx(0, abs=1e-6)
    with refused("encoder", "3x8x8", "1x8x8"):
        pp.compare(images(9, channels=1), images(9, channels=1), encoder=encoder_run)
    with refused("run", diffusion_run):
        pp.compare(images(9), images(9), encoder=diffusion_run)


def test_held_out_images_of_data_tell_copies() -> None:
    data = pp.from_arrays(images(200, size=8), held_out=0.3)
    copied = sources.gather(data.training, range(60))
    found = pp.compare(copied, data, features=["pixels"], measures=["copies"])
    assert found.document["copies"]["closeness"][0]["closer"] == 1
    assert found.document["held_out"] == len(data.held_out)


def test_values_are_compared_with_a_half_of_the_reference() -> None:
    found = pp.compare(images(60, 150), images(90), features=["pixels"], measures=["frechet", "values"])
    (channel, *_), counts = found.document["pixel_values"]["channels"], found.document["pixel_values"]["images"]
    assert (counts["training"], counts["held_out"], counts["samples"], counts["few"]) == (45, 45, 60, 45)
    assert channel["wasserstein"] == pytest.approx(30, abs=2)
    assert channel["wasserstein_floor_of_few"] < 3


Mistake = tuple[str | None, tuple[object, ...], Callable[[], Any]]
MISTAKES: dict[str, Mistake] = {
    "size": ("images", ("3x8x8", "3x16x16", "`data.resize`"), lambda: pp.compare(images(9), images(9, size=16))),
    "channels": ("images", ("1x8x8", "3x8x8"), lambda: pp.compare(images(9, channels=1), images(9))),
    "dtype": ("images", ("uint8", "float32"), lambda: pp.compare(images(9), images(9).astype(np.float32))),
    "scale": (
        "images",
        ("values from 0 to 1", "`value_range`"),
        lambda: pp.compare((images(9) > 100).astype(np.uint8), images(9)),
    ),
    "one image": ("images", ("1 image",), lambda: pp.compare(images(1), images(9), features=["pixels"])),
    "unknown features": ("features", ("fid",), lambda: pp.compare(images(9), images(9), features=["fid"])),
    "unknown measure": ("measures", ("recall",), lambda: pp.compare(images(9), images(9), measures=["recall"])),
    "no encoder": ("encoder", ("encoder",), lambda: pp.compare(images(9), images(9), features=["encoder"])),
    "channels of photographs": (
        "features",
        ("'dinov2'", "4"),
        lambda: pp.compare(images(9, channels=4), images(9, channels=4), features=["dinov2"]),
    ),
    "no run": ("count", ("neither set is a run",), lambda: pp.compare(images(9), images(9), count=3)),
    "empty range": ("value_range", ("1", "0"), lambda: pp.compare(images(9), images(9), value_range=(1, 0))),
    "held-out images": ("held_out", ("3x6x6",), lambda: pp.compare(images(9), images(9), held_out=images(9, size=6))),
    "layout": ("layout", ("(9, 3, 4, 4)",), lambda: pp.compare(images(9, size=4), images(9, size=4))),
    "measure of other features": (
        "measures",
        ("score",),
        lambda: pp.compare(images(9), images(9), features=["pixels"], measures=["score"]),
    ),
    "few": ("measures", ("precision", "more than 3"), lambda: pp.compare(images(3), images(9), measures=["precision"])),
    "NaN": ("data.nodata", ("NaN",), lambda: pp.compare(np.full((9, 1, 8, 8), np.nan, np.float32), _nan())),
}


def _nan() -> np.ndarray:
    found = images(9, channels=1).astype(np.float32)
    found[3, 0, 1, 1] = np.nan
    return found


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_said_in_a_sentence(name: str) -> None:
    setting, facts, act = MISTAKES[name]
    with refused(setting, *facts):
        act()


@pytest.mark.parametrize(
    ("arrays", "facts"),
    [
        ({"mu": np.zeros(384)}, ("sigma",)),
        ({"mu": np.zeros(384), "sigma": np.eye(3)}, ("(384,)", "(3, 3)")),
        ({"mu": np.zeros(7), "sigma": np.eye(7)}, ("7 features", "2048")),
        ({"mu": np.full(384, np.nan), "sigma": np.eye(384)}, ("not finite",)),
        ({"mu": np.zeros(384), "sigma": -np.eye(384)}, ("no covariance",)),
        ({"mu": np.zeros(384), "sigma": np.triu(np.ones((384, 384)))}, ("no covariance",)),
    ],
)
def test_files_that_hold_no_statistics(arrays: dict[str, Any], facts: tuple[str, ...], tmp_path: Path) -> None:
    np.savez(tmp_path / "stats.npz", **arrays)
    with refused("reference", tmp_path / "stats.npz", *facts):
        pp.compare(images(9), tmp_path / "stats.npz")


def test_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "here.npy", images(9))
    assert call("compare", tmp_path / "here.npy", tmp_path / "gone") == 2
    assert str(tmp_path / "gone") in capsys.readouterr().err
    assert call("compare", tmp_path / "here.npy", tmp_path / "here.npy", "--features", "pixels,,encoder") == 2
    assert "--features are any of" in capsys.readouterr().err


def test_a_range_that_is_far_off_is_not_taken_for_a_scale_where_it_is_stated() -> None:
    dark = (images(20) // 64).astype(np.uint8)
    assert 255 / dark.max() > APART
    found = pp.compare(dark, images(20), value_range=(0, 255), features=["pixels"], measures=["frechet"])
    assert found.document["value_range"]["images"]["highest"] == dark.max()


@pytest.mark.parametrize(("count", "shade"), [(40, "warn"), (240, "good")])
def test_a_comparison_of_few_images_is_never_green(tmp_path: Path, count: int, shade: str) -> None:
    numbers = np.random.default_rng(1)
    ours, theirs = (numbers.integers(0, 256, (count, 3, 6, 6), dtype=np.uint8) for _ in range(2))
    page = pp.compare(ours, theirs, features=["pixels"]).write(tmp_path).read_text()
    assert f"class='verdict {shade}'" in page
    assert ("This is rough: 100 images" in page) == (shade == "warn")
