"""Feature extractors: their values, hashes and mistakes; Inception with random weights where torch-fidelity is installed."""

import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pixelpath.evaluation import features
from pixelpath.evaluation.features import (
    EncoderFeatures,
    FeatureExtractor,
    Inception,
    Pixels,
    extract,
    hash_of,
    inception,
    stream,
)

fidelity = pytest.mark.skipif(importlib.util.find_spec("torch_fidelity") is None, reason="needs the extra 'metrics'")


def test_pixels_are_the_values_between_their_limits() -> None:
    images = torch.arange(24, dtype=torch.uint8).reshape(2, 3, 2, 2) * 10
    found = Pixels()(images)
    assert found.shape == (2, 12)
    torch.testing.assert_close(found, images.reshape(2, 12) / 255.0)
    assert Pixels(-1.0, 3.0)(torch.full((1, 1, 1, 1), 2.0)).item() == 0.75
    assert Pixels().hash == Pixels(0.0, 255.0).hash != Pixels(0.0, 256.0).hash
    with pytest.raises(ValueError, match="lowest < highest"):
        Pixels(1.0, 1.0)


def test_pixels_of_large_images_are_means_of_blocks() -> None:
    images = torch.arange(2 * 3 * 4 * 6, dtype=torch.uint8).reshape(2, 3, 4, 6)
    extractor = Pixels(size=(2, 3))
    expected = images.double().reshape(2, 3, 2, 2, 3, 2).mean((3, 5)).flatten(1) / 255
    torch.testing.assert_close(extractor(images).double(), expected, atol=1e-6, rtol=0)
    assert (extractor.resize, Pixels().resize) == ("means of blocks, to 2x3", "none")


def test_the_hash_sees_names_values_types_and_shapes_but_not_order() -> None:
    weights = {"a": torch.ones(2, 3), "b": torch.tensor(1.0)}
    assert hash_of(weights) == hash_of(dict(reversed(weights.items())))
    assert len(hash_of(weights)) == 16
    others = [
        {"a": torch.ones(3, 2), "b": torch.tensor(1.0)},
        {"a": torch.ones(2, 3), "c": torch.tensor(1.0)},
        {"a": torch.ones(2, 3), "b": torch.tensor(1.0 + 1e-6)},
        {"a": torch.ones(2, 3), "b": torch.tensor(1.0, dtype=torch.bfloat16)},
    ]
    assert len({hash_of(weights), *map(hash_of, others)}) == 5


def test_encoder_features_are_those_of_encoded_images_at_the_lowest_level() -> None:
    linear = nn.Linear(4, 3)
    extractor = EncoderFeatures(
        features=lambda noisy, sigma: linear(noisy.flatten(1)) * sigma,
        encode=lambda native: (native.float() - 100) / 50,
        sigma=0.25,
        hash=hash_of(linear.state_dict()),
    )
    images = torch.randint(0, 255, (5, 1, 2, 2), dtype=torch.uint8)
    expected = linear((images.float() - 100).flatten(1) / 50) * 0.25
    found = extract(extractor, images.split(2))
    torch.testing.assert_close(found, expected.detach())
    assert not found.requires_grad
    torch.testing.assert_close(torch.cat(list(stream(extractor, iter(images.split(3))))), found)
    with pytest.raises(ValueError, match="no images"):
        extract(extractor, [])


def test_every_extractor_says_its_protocol() -> None:
    extractors: list[FeatureExtractor] = [
        Pixels(),
        EncoderFeatures(lambda noisy, sigma: noisy.flatten(1), lambda native: native.float(), 0.002, "0" * 16),
        Inception(nn.Identity(), "1" * 16),
    ]
    assert [extractor.name for extractor in extractors] == ["pixels", "encoder", "inception-v3-2048"]
    assert all(len(extractor.hash) == 16 and extractor.resize for extractor in extractors)


@pytest.mark.parametrize("images", [torch.zeros(1, 4, 8, 8, dtype=torch.uint8), torch.zeros(1, 3, 8, 8)])
def test_inception_says_which_images_it_takes(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="uint8 images of 1 or 3 channels"):
        Inception(nn.Identity(), "")(images)


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, torch.Tensor]]]:
    module = features._inception_module()

    class Blank(module.FeatureExtractorInceptionV3):
        """Keeps the random weights it is born with."""

        def load_state_dict(self, *_: Any) -> None: ...

    folder = tmp_path_factory.mktemp("inception")
    torch.save({}, folder / "none.pth")
    torch.manual_seed(0)
    state = Blank("blank", ["2048"], feature_extractor_weights_path=str(folder / "none.pth")).state_dict()
    torch.save(state, folder / "weights.pth")
    yield folder / "weights.pth", state
    (folder / "weights.pth").unlink()


@fidelity
def test_inception_with_weights_from_a_file(random_weights: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, state = random_weights
    extractor = inception(path)
    gray = torch.randint(0, 255, (2, 1, 8, 8), dtype=torch.uint8)
    found = extract(extractor, [gray])
    assert found.shape == (2, 2048)
    assert extractor.hash == hash_of(state)
    torch.testing.assert_close(found[:1], extractor(gray[:1].repeat(1, 3, 1, 1)))
    assert (found[0] - found[1]).abs().max() > 1e-4 * found.abs().max()


@fidelity
def test_wrong_weights_and_missing_files_are_said(tmp_path: Path) -> None:
    torch.save({"some": torch.zeros(1)}, tmp_path / "wrong.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for name in ("wrong.pth", "text.pth"):
        with pytest.raises(ValueError, match="does not hold the Inception weights of https://"):
            inception(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"no Inception weights file .*absent\.pth"):
        inception(tmp_path / "absent.pth")


@fidelity
def test_weights_that_cannot_be_downloaded_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(ValueError, match=r"Name or service not known.*--inception PATH"):
        inception()


def test_torch_fidelity_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'pixelpath\[metrics\]'"):
        inception()


@fidelity
def test_inception_needs_no_torchvision_and_leaves_no_half_imported_package() -> None:
    code = (
        "import sys; sys.modules['torchvision'] = None\n"
        "from pixelpath.evaluation.features import _inception_module\n"
        "assert _inception_module().URL_INCEPTION_V3.endswith('.pth')\n"
        "assert not [name for name in sys.modules if name.startswith('torch_fidelity')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
