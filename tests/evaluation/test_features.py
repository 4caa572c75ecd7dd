"""Feature extractors: their values, hashes and mistakes."""

import pytest
import torch
from tests.refusal import refused
from torch import nn

from pixelpath.errors import UserError
from pixelpath.evaluation.features import EncoderFeatures, FeatureExtractor, Pixels, eight_bit, extract, hash_of, stream
from pixelpath.evaluation.inception import Inception


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


@pytest.mark.parametrize("extractor", [Pixels(), Inception(nn.Identity(), "")])
def test_features_that_are_not_finite_are_an_error(extractor: FeatureExtractor) -> None:
    class Broken:
        name, hash, resize = extractor.name, extractor.hash, extractor.resize

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            return torch.full((len(images), 2), torch.nan)

    with pytest.raises(UserError, match=f"3 of 3 features '{extractor.name}' are not finite"):
        extract(Broken(), [torch.zeros(3, 1, 2, 2)])


def test_pixels_of_long_integers_keep_their_digits() -> None:
    images = (1_000_000_000 + torch.arange(8)).to(torch.int32).reshape(2, 1, 2, 2)
    found = extract(Pixels(0.0, 2.0**31), [images])
    assert found.dtype == torch.float64
    assert (found[1] - found[0]).mul(2**31).tolist() == [4.0] * 4


def test_images_become_8_bit_by_the_values_of_black_and_white() -> None:
    images = torch.tensor([-1.5, -1.0, 0.0, 0.5, 1.0, 2.0]).reshape(1, 1, 2, 3)
    found = eight_bit(images, (-1.0, 1.0), "some")
    assert found.shape == (1, 3, 2, 3)
    assert found[0, 1].flatten().tolist() == [0, 0, 128, 191, 255, 255]
    stored = torch.arange(6, dtype=torch.uint8).reshape(1, 1, 2, 3)
    assert torch.equal(eight_bit(stored, (0.0, 1.0), "some")[0, 2], stored[0, 0])
    with refused("value_range", "float32", "'some'"):
        eight_bit(images, None, "some")
    with refused(None, "4", "'some'"):
        eight_bit(torch.zeros(1, 4, 2, 2, dtype=torch.uint8), None, "some")
