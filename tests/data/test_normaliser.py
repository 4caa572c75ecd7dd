"""Native values to model range and back, and the mean and deviation measured on the way."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelpath.data import normaliser as module
from pixelpath.data.normaliser import IMAGENET, Normaliser
from pixelpath.data.sources import Source, from_arrays


def source(images: np.ndarray) -> Source:
    return from_arrays(images)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["uint8", "int8", "uint16", "int16"]),
    st.floats(-70000, 70000),
    st.floats(1.0, 40000),
)
def test_integers_come_back_exactly(dtype: str, mean: float, deviation: float) -> None:
    """Every value that the dtype can hold, under any plausible mean and deviation."""
    limits = np.iinfo(dtype)
    native = torch.from_numpy(np.arange(limits.min, limits.max + 1).astype(dtype)).reshape(1, 1, -1, 4)
    normaliser = Normaliser((mean,), (deviation,), dtype)
    again = normaliser.decode(normaliser.encode(native))
    assert again.dtype == native.dtype
    assert torch.equal(again.to(torch.int32), native.to(torch.int32))


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["float32", "float64"]), st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_floats_come_back_to_a_millionth(dtype: str, mean: float, deviation: float) -> None:
    native = torch.from_numpy((mean + deviation * np.linspace(-6, 6, 24)).astype(dtype)).reshape(1, 1, 6, 4)
    normaliser = Normaliser((mean,), (deviation,), dtype)
    again = normaliser.decode(normaliser.encode(native))
    assert again.dtype == native.dtype
    scale = native.abs().clamp(min=max(abs(mean), deviation))
    assert ((again - native).abs() <= 1e-6 * scale).all()


def test_half_precision_comes_back_exactly() -> None:
    native = torch.linspace(-3, 100, 64).half().reshape(1, 1, 8, 8)
    normaliser = Normaliser((0.35,), (0.78,), "float16")
    assert torch.equal(normaliser.decode(normaliser.encode(native)), native)


def test_decoding_clips_to_the_dtype_and_to_nothing_else() -> None:
    images = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0]).reshape(1, 1, 1, 5)
    assert Normaliser((100.0,), (60.0,)).decode(images).flatten().tolist() == [0, 0, 100, 220, 255]
    assert Normaliser((100.0,), (60.0,), "float32").decode(images).flatten().tolist() == [-260, -20, 100, 220, 460]


def test_the_constants_of_imagenet() -> None:
    """Black and white under (rgb - mean) / (2 deviation) with mean (.485, .456, .406) and deviation (.229, .224, .225)."""
    pixels = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1).repeat(1, 3, 1, 1)
    encoded = IMAGENET.encode(pixels).squeeze()
    expected = torch.tensor([[-1.058952, -1.017857, -0.902222], [1.124454, 1.214286, 1.320000]])
    torch.testing.assert_close(encoded, expected, rtol=1e-5, atol=0)
    limits = IMAGENET.limits()
    assert limits is not None
    torch.testing.assert_close(torch.stack(limits), expected, rtol=1e-5, atol=0)


def test_unit_range_is_from_the_lowest_to_the_highest_native_value() -> None:
    native = torch.tensor([-32768, 0, 32767], dtype=torch.int16).reshape(1, 1, 1, 3)
    normaliser = Normaliser((500.0,), (3000.0,), "int16")
    encoded = normaliser.encode(native)
    torch.testing.assert_close(normaliser.unit(encoded).flatten(), torch.tensor([0, 32768 / 65535, 1]), atol=1e-6, rtol=0)
    torch.testing.assert_close(normaliser.from_unit(normaliser.unit(encoded)), encoded, atol=1e-5, rtol=0)
    floats = Normaliser((0.0,), (1.0,), "float32")
    assert floats.limits() is None
    with pytest.raises(ValueError, match="no unit range"):
        floats.unit(encoded)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_measuring_in_chunks_is_measuring_the_whole(monkeypatch: pytest.MonkeyPatch, dtype: str, workers: int) -> None:
    random = np.random.default_rng(0)
    images = (random.normal(size=(101, 3, 8, 6)) * [[[20]], [[5]], [[10]]] + [[[90]], [[30]], [[60]]]).clip(0, 250).astype(dtype)
    monkeypatch.setattr(module, "CHUNK_BYTES", 7 * images[0].nbytes)
    normaliser = Normaliser.fit(source(images), workers)
    np.testing.assert_allclose(normaliser.mean, images.mean((0, 2, 3), np.float64), rtol=1e-12)
    np.testing.assert_allclose(normaliser.deviation, images.std((0, 2, 3), np.float64), rtol=1e-12)
    encoded = normaliser.encode(torch.from_numpy(images)).double()
    torch.testing.assert_close(encoded.mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(encoded.std((0, 2, 3), correction=0), torch.full((3,), 0.5).double(), atol=1e-6, rtol=0)


def test_a_large_mean_does_not_swallow_a_small_deviation() -> None:
    images = 1e6 + np.random.default_rng(0).normal(size=(64, 8, 8)) * 0.1
    assert Normaliser.fit(source(images)).deviation[0] == pytest.approx(images.std(), rel=1e-6)


def test_constant_channels_are_not_divided_by_zero() -> None:
    images = np.zeros((4, 2, 8, 8), np.float32)
    images[:, 0] = 0.1
    images[:, 1] = np.arange(4)[:, None, None]
    normaliser = Normaliser.fit(source(images))
    assert normaliser.deviation == pytest.approx((1.0, 1.25**0.5))
    assert (normaliser.encode(torch.from_numpy(images))[:, 0].abs() < 1e-8).all()
    opaque = np.full((4, 64, 64), 255, np.uint8)
    opaque[0, 0, 0] = 254
    assert Normaliser.fit(source(opaque)).deviation == (1.0,)


def test_what_cannot_be_measured_is_named() -> None:
    images = np.zeros((5, 8, 8), np.float32)
    images[3, 2, 2] = np.nan
    with pytest.raises(ValueError, match="Image 00000003 holds NaN or infinity: replace"):
        Normaliser.fit(source(images))


def test_json_keeps_every_digit() -> None:
    normaliser = Normaliser((1 / 3, 2e5 / 7), (0.1, 1e-3 / 3), "uint16")
    assert Normaliser.from_json(json.loads(json.dumps(normaliser.to_json()))) == normaliser
    with pytest.raises(ValueError, match="got deviation, dtype, mean, scale"):
        Normaliser.from_json({**normaliser.to_json(), "scale": 1})


def test_wrong_values_are_answered_with_a_sentence() -> None:
    with pytest.raises(ValueError, match="one positive deviation per channel"):
        Normaliser((0.0,), (0.0,))
    with pytest.raises(ValueError, match="one positive deviation per channel"):
        Normaliser((0.0, 1.0), (1.0,))
    with pytest.raises(ValueError, match="cannot keep int32 exactly"):
        Normaliser((0.0,), (1.0,), "int32")
    with pytest.raises(ValueError, match="knows 3 channels but the images have 1"):
        IMAGENET.encode(torch.zeros(1, 1, 4, 4, dtype=torch.uint8))
