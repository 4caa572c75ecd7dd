"""Native values to model range and back, and the mean and deviation measured on the way."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.arrays import array_source
from tests.refusal import refused
from torch import Tensor

from pixelpath.data import passes
from pixelpath.data.metadata import Metadata
from pixelpath.data.normalise import statistics as module
from pixelpath.data.normalise.atoms import Ceiling, Hurdle
from pixelpath.data.normalise.curves import (
    Asinh,
    Identity,
    Kind,
    Log1p,
    Normalisation,
    SignedLog,
    Transform,
    Window,
    lowest_of,
)
from pixelpath.data.normalise.fitting import ChannelRange
from pixelpath.data.normalise.normaliser import IMAGENET, Normaliser
from pixelpath.data.sources import Arrays, Source


def source(images: np.ndarray) -> Source:
    return array_source(images)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["uint8", "int8", "uint16", "int16"]),
    st.floats(-70000, 70000),
    st.floats(1.0, 40000),
)
def test_integers_come_back_exactly(dtype: str, mean: float, std: float) -> None:
    """Every value that the dtype can hold, under any plausible mean and deviation."""
    limits = np.iinfo(dtype)
    native = torch.from_numpy(np.arange(limits.min, limits.max + 1).astype(dtype)).reshape(1, 1, -1, 4)
    normaliser = Normaliser((mean,), (std,), dtype)
    again = normaliser.decode(normaliser.encode(native))
    assert again.dtype == native.dtype
    assert torch.equal(again.to(torch.int32), native.to(torch.int32))


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["float32", "float64"]), st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_floats_come_back_to_a_millionth(dtype: str, mean: float, std: float) -> None:
    native = torch.from_numpy((mean + std * np.linspace(-6, 6, 24)).astype(dtype)).reshape(1, 1, 6, 4)
    normaliser = Normaliser((mean,), (std,), dtype)
    again = normaliser.decode(normaliser.encode(native))
    assert again.dtype == native.dtype
    scale = native.abs().clamp(min=max(abs(mean), std))
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


def test_unit_range_is_from_the_lowest_to_the_highest_native_value() -> None:
    native = torch.tensor([-32768, 0, 32767], dtype=torch.int16).reshape(1, 1, 1, 3)
    normaliser = Normaliser((500.0,), (3000.0,), "int16")
    encoded = normaliser.encode(native)
    torch.testing.assert_close(normaliser.unit(encoded).flatten(), torch.tensor([0, 32768 / 65535, 1]), atol=1e-6, rtol=0)
    torch.testing.assert_close(normaliser.from_unit(normaliser.unit(encoded)), encoded, atol=1e-5, rtol=0)
    floats = Normaliser((0.0,), (1.0,), "float32")
    with pytest.raises(ValueError, match="no unit range"):
        floats.unit(encoded)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_measuring_in_chunks_is_measuring_the_whole(monkeypatch: pytest.MonkeyPatch, dtype: str, workers: int) -> None:
    random = np.random.default_rng(0)
    images = (random.normal(size=(101, 3, 8, 6)) * [[[20]], [[5]], [[10]]] + [[[90]], [[30]], [[60]]]).clip(0, 250).astype(dtype)
    monkeypatch.setattr(passes, "CHUNK", 7 * images[0].size)
    normaliser = Normaliser.fit(source(images), workers)
    np.testing.assert_allclose(normaliser.mean, images.mean((0, 2, 3), np.float64), rtol=1e-12)
    np.testing.assert_allclose(normaliser.std, images.std((0, 2, 3), np.float64), rtol=1e-12)
    encoded = normaliser.encode(torch.from_numpy(images)).double()
    torch.testing.assert_close(encoded.mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(encoded.std((0, 2, 3), correction=0), torch.full((3,), 0.5).double(), atol=1e-6, rtol=0)


def test_a_large_mean_does_not_swallow_a_small_deviation() -> None:
    images = 1e6 + np.random.default_rng(0).normal(size=(64, 8, 8)) * 0.1
    assert Normaliser.fit(source(images)).std[0] == pytest.approx(images.std(), rel=1e-6)


def test_constant_channels_are_not_divided_by_zero() -> None:
    images = np.zeros((4, 2, 8, 8), np.float32)
    images[:, 0] = 0.1
    images[:, 1] = np.arange(4)[:, None, None]
    normaliser = Normaliser.fit(source(images))
    assert normaliser.std == pytest.approx((1.0, 1.25**0.5))
    assert (normaliser.encode(torch.from_numpy(images))[:, 0].abs() < 1e-8).all()
    opaque = np.full((4, 64, 64), 255, np.uint8)
    opaque[0, 0, 0] = 254
    assert Normaliser.fit(source(opaque)).std == (1.0,)


def test_what_cannot_be_measured_is_named() -> None:
    images = np.zeros((5, 8, 8), np.float32)
    images[3, 2, 2] = np.nan
    with refused("data.nodata", "00000003", "NaN or infinity"):
        Normaliser.fit(source(images))


def test_json_keeps_every_digit() -> None:
    normaliser = Normaliser((1 / 3, 2e5 / 7), (0.1, 1e-3 / 3), "uint16")
    assert Normaliser.from_json(json.loads(json.dumps(normaliser.to_json()))) == normaliser
    with pytest.raises(ValueError, match="got dtype, mean, scale, std"):
        Normaliser.from_json({**normaliser.to_json(), "scale": 1})


def test_wrong_values_are_answered_with_a_sentence() -> None:
    with pytest.raises(ValueError, match="one positive std per channel"):
        Normaliser((0.0,), (0.0,))
    with pytest.raises(ValueError, match="one positive std per channel"):
        Normaliser((0.0, 1.0), (1.0,))
    with refused(None, "int64", "uint32"):
        Normaliser((0.0,), (1.0,), "int64")
    with refused(None, "3 channels", "have 1"):
        IMAGENET.encode(torch.zeros(1, 1, 4, 4, dtype=torch.uint8))


def wide_enough(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images.astype(np.float64))


def through(transform: Transform, values: np.ndarray) -> np.ndarray:
    return transform(torch.from_numpy(values.astype(np.float64))).numpy()


def rain(seed: int = 0, dtype: str = "float32", shape: tuple[int, ...] = (40, 2, 8, 8)) -> np.ndarray:
    """Heavy-tailed values of 0.1 and more, and two thirds of zeros."""
    random = np.random.default_rng(seed)
    return np.where(random.random(shape) < 2 / 3, 0, 0.1 + random.lognormal(size=shape)).astype(dtype)


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from(["uint8", "int8", "uint16", "int16"]),
    st.sampled_from(["window", "log1p", "signed-log", "asinh"]),
    st.floats(0.01, 1e5),
)
def test_integers_come_back_exactly_through_every_curve(dtype: str, kind: str, scale: float) -> None:
    limits = np.iinfo(dtype)
    curves = {
        "window": Window(-scale, scale / 2),
        "log1p": Log1p(scale),
        "signed-log": SignedLog(scale),
        "asinh": Asinh(scale),
    }
    transform = curves[kind]
    first = max(limits.min, math.floor(lowest_of(transform)) + 1) if kind == "log1p" else limits.min
    native = np.arange(first, limits.max + 1).astype(dtype)
    model = through(transform, native)
    normaliser = Normaliser((float(model.mean()),), (float(model.std()),), dtype, (transform,))
    again = normaliser.decode(normaliser.encode(torch.from_numpy(native).reshape(1, 1, 1, -1)))
    np.testing.assert_array_equal(again.flatten().numpy(), native)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
def test_integers_come_back_exactly_through_quantiles(dtype: str) -> None:
    """Also those that no image held, on lines that go on beyond the data."""
    limits = np.iinfo(dtype)
    random = np.random.default_rng(0)
    images = (random.standard_t(2, (30, 1, 16, 16)) * limits.max / 50).clip(limits.min, limits.max).astype(dtype)
    normaliser = Normaliser.fit(source(images), how=Normalisation("quantile"))
    native = torch.from_numpy(np.arange(limits.min, limits.max + 1).astype(dtype)).reshape(1, 1, 1, -1)
    encoded = normaliser.encode(native)
    assert torch.equal(normaliser.decode(encoded).to(torch.int32), native.to(torch.int32))
    assert (encoded.flatten().diff() > 0).all()


@pytest.mark.parametrize("kind", ["affine", "window", "log1p", "signed-log", "asinh", "quantile"])
@pytest.mark.parametrize(("dtype", "first"), [("uint32", 2**32 - 2**20), ("int32", 3)])
def test_32_bits_come_back_exactly_where_they_span_2_to_the_20(dtype: str, first: int, kind: Kind) -> None:
    images = (first + np.arange(0, 2**20, 127)[:8192]).astype(dtype).reshape(8, 1, 32, 32)
    normaliser = Normaliser.fit(source(images), how=Normalisation(kind, scale=2e5 if kind in ("log1p", "asinh") else None))
    every = torch.from_numpy((first + np.arange(8192 * 127)).astype(dtype)).reshape(1, 1, 1, -1)
    again = normaliser.decode(normaliser.encode(every))
    assert again.dtype == every.dtype
    assert torch.equal(again.to(torch.int64), every.to(torch.int64))


def test_what_float32_cannot_tell_apart_is_refused() -> None:
    images = np.array([0, 2**32 - 1, 5, 7], np.uint32).reshape(1, 1, 2, 2)
    with refused("data.normaliser.kind", "Channel 0", "0 to 4294967295", "float32"):
        Normaliser.fit(source(images))
    assert Normaliser.fit(source(images // 2**13)).dtype == "uint32"


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from(["window", "log1p", "signed-log", "asinh", "quantile"]),
    st.sampled_from(["float32", "float64"]),
    st.floats(1e-4, 1e4),
    st.integers(0, 99),
)
def test_floats_come_back_to_a_millionth_through_every_curve(kind: Kind, dtype: str, unit: float, seed: int) -> None:
    values = np.random.default_rng(seed).gamma(0.5, size=(4, 1, 8, 8)) * unit
    images = (values if kind == "log1p" else values - unit / 2).astype(dtype)
    normaliser = Normaliser.fit(source(images), how=Normalisation(kind, hurdle=False))
    again = normaliser.decode(normaliser.encode(torch.from_numpy(images))).numpy()
    assert again.dtype == images.dtype
    assert (np.abs(again - images) <= 1e-6 * np.maximum(np.abs(images), images.std())).all()


def test_half_precision_comes_back_exactly_through_a_logarithm() -> None:
    images = rain(dtype="float16")
    normaliser = Normaliser.fit(source(images), how=Normalisation("log1p"))
    assert torch.equal(normaliser.decode(normaliser.encode(torch.from_numpy(images))), torch.from_numpy(images))


def test_a_curve_never_leaves_the_dtype() -> None:
    normaliser = Normaliser((0.0,), (1.0,), "float16", (Log1p(1.0),))
    assert normaliser.decode(torch.full((1, 1, 1, 1), 1e3)).item() == 65504


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint16", "int32"])
@pytest.mark.parametrize("scale", [None, 0.7])
@pytest.mark.parametrize("kind", ["log1p", "signed-log", "asinh"])
def test_constants_are_those_of_numpy(kind: Kind, scale: float | None, dtype: str) -> None:
    """With a scale of the user's or the median of the sizes but 0, for counted values and for others."""
    random = np.random.default_rng(3)
    images = (random.gamma(0.7, 40, (50, 2, 6, 6)) * [[[1]], [[5]]]).astype(dtype)
    if kind != "log1p" and not dtype.startswith("u"):
        images = (images * random.choice([-1, 1], images.shape)).astype(dtype)
    normaliser = Normaliser.fit(source(images), how=Normalisation(kind, scale=scale, hurdle=False))
    for channel, transform in enumerate(normaliser.transforms * (2 if scale else 1)):
        values = images[:, channel].astype(np.float64).ravel()
        wanted = np.quantile(np.abs(values[values != 0]), 0.5, method="inverted_cdf") if scale is None else scale
        curves = {"asinh": np.arcsinh(values / wanted), "signed-log": np.sign(values) * np.log1p(np.abs(values) / wanted)}
        curves["log1p"] = np.log1p(np.abs(values) / wanted)
        assert isinstance(transform, Log1p | SignedLog | Asinh)
        assert transform.scale == wanted
        assert normaliser.mean[channel] == pytest.approx(curves[kind].mean(), rel=1e-11, abs=1e-12)
        assert normaliser.std[channel] == pytest.approx(curves[kind].std(), rel=1e-11)


def test_a_window_is_chosen_by_quantiles_or_given() -> None:
    images = np.random.default_rng(0).normal(size=(50, 1, 8, 8)).astype(np.float32)
    low, high = np.quantile(images.astype(np.float64), [0.005, 0.995], method="inverted_cdf").tolist()
    normaliser = Normaliser.fit(source(images), how=Normalisation("window"))
    assert normaliser.transforms == (Window(low, high),)
    (seen,) = normaliser.ranges
    assert (seen.low, seen.high, seen.lowest, seen.highest) == (low, high, images.min(), images.max())
    given_one = Normaliser.fit(source(images), how=Normalisation("window", window=(-1.0, 1.0)))
    assert given_one.std[0] == pytest.approx(through(Window(-1.0, 1.0), images).std(), rel=1e-11)


def test_quantiles_make_any_law_a_bell() -> None:
    images = np.random.default_rng(0).lognormal(0, 2, size=(100, 1, 16, 16)).astype(np.float32)
    normaliser = Normaliser.fit(source(images), how=Normalisation("quantile"))
    encoded = 2 * normaliser.encode(torch.from_numpy(images)).flatten().double()
    for probability in (0.01, 0.3, 0.5, 0.9, 0.999):
        expected = torch.special.ndtri(torch.tensor(probability, dtype=torch.float64))
        assert float(encoded.quantile(probability)) == pytest.approx(float(expected), abs=0.02)


@pytest.mark.parametrize("kind", ["affine", "log1p", "quantile"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_how_the_pass_is_cut_up_does_not_matter(monkeypatch: pytest.MonkeyPatch, dtype: str, kind: Kind) -> None:
    images = rain(dtype=dtype)
    images[3, :, 2] = np.nan
    monkeypatch.setattr(module, "RESERVOIR", 100)  # so that the reservoir overflows, again and again
    found = []
    for size in (1, 7, 1000):
        monkeypatch.setattr(passes, "CHUNK", size * images[0].size)
        found.append(Normaliser.fit(source(images), how=Normalisation(kind), nodata=math.nan))
    for other in found[1:]:
        assert (other.ranges, other.transforms, other.hurdles) == (found[0].ranges, found[0].transforms, found[0].hurdles)
        np.testing.assert_allclose([other.mean, other.std], [found[0].mean, found[0].std], rtol=1e-12)


def test_a_reservoir_stands_for_all_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quantiles from at most 2000 of 30 000 values, to four times the error that chance would make; zeros are all counted."""
    monkeypatch.setattr(module, "RESERVOIR", 2000)
    images = rain(shape=(120, 1, 16, 16))
    (seen,) = module.measure(source(images))
    positive = images[images > 0]
    assert len(seen.values) <= 2001
    assert (seen.zeros, seen.least, seen.above) == ((images == 0).sum(), (images == 0).sum(), positive.min())
    shares = (seen.quantiles(np.array([0.8, 0.9, 0.99]))[:, None] >= images.ravel()).mean(1)
    assert (np.abs(shares - [0.8, 0.9, 0.99]) < 4 * np.sqrt([0.16, 0.09, 0.0099]) / 2000**0.5).all()


class Counting(Arrays):
    """Counts how often its images are read."""

    reads = 0

    def __getitem__(self, index: int) -> np.ndarray:
        Counting.reads += 1
        return super().__getitem__(index)


@pytest.mark.parametrize(
    ("how", "dtype", "passes"),
    [
        (Normalisation(), "float32", 1),
        (Normalisation("log1p", scale=1.0), "float32", 1),
        (Normalisation("log1p"), "float16", 1),
        (Normalisation("log1p"), "float32", 2),
        (Normalisation("quantile"), "int32", 2),
    ],
)
def test_images_are_read_once_or_twice(how: Normalisation, dtype: str, passes: int) -> None:
    base = source(rain(dtype=dtype, shape=(9, 1, 4, 4)))
    assert isinstance(base, Arrays)
    counting = Counting(base.images, base.labels, resize=(4, 4))
    Counting.reads = 0
    Normaliser.fit(counting, how=how)
    assert Counting.reads == 9 * passes


def test_a_hurdle_keeps_zeros_apart() -> None:
    """Mean 0 and deviation 1/2 with the gap, zeros half a deviation of the noise safe, everything measured exactly back."""
    images = rain()
    normaliser = Normaliser.fit(source(images), how=Normalisation("log1p"))
    hurdle = normaliser.hurdles[1]
    assert hurdle is not None
    assert (hurdle.value, hurdle.above, hurdle.gap) == (0, images[:, 1][images[:, 1] > 0].min(), 0.5)
    encoded = normaliser.encode(torch.from_numpy(images)).double()
    torch.testing.assert_close(encoded.mean((0, 2, 3)), torch.zeros(2).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(encoded.std((0, 2, 3), correction=0), torch.full((2,), 0.5).double(), atol=1e-6, rtol=0)
    for channel in range(2):
        levels = encoded[:, channel].unique()
        assert float(levels[1] - levels[0]) == pytest.approx(0.5, abs=1e-6)
    zeros = torch.from_numpy(images == 0)
    noised = encoded + 0.249 * torch.sign(torch.randn(encoded.shape, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(normaliser.decode(noised.float()) == 0, zeros)
    again = normaliser.decode(encoded.float())
    torch.testing.assert_close(again, torch.from_numpy(images), rtol=1e-6, atol=0)
    lowest = encoded[:, 1].min()
    decoded = normaliser.decode((lowest + torch.tensor([-9.0, 0.2, 0.3, 0.45])).float().reshape(1, 1, 1, 4).repeat(1, 2, 1, 1))
    assert decoded[0, 1, 0].tolist() == pytest.approx([0, 0, hurdle.above, hurdle.above], rel=1e-6)


@pytest.mark.parametrize("kind", ["affine", "log1p", "signed-log", "asinh", "quantile"])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_hurdles_go_with_every_curve_but_a_window(dtype: str, kind: Kind) -> None:
    images = (rain() * 30).astype(dtype)
    images[:, 1] += 7
    normaliser = Normaliser.fit(source(images), how=Normalisation(kind, hurdle=True))
    assert [hurdle and hurdle.value for hurdle in normaliser.hurdles] == [0, 7]
    encoded = normaliser.encode(torch.from_numpy(images))
    again = normaliser.decode(encoded).double()
    torch.testing.assert_close(again, wide_enough(images), rtol=1e-6 if dtype == "float32" else 0, atol=0)
    assert torch.equal(again == wide_enough(images).amin((0, 2, 3), keepdim=True), again <= torch.tensor([0, 7]).reshape(2, 1, 1))
    assert float(encoded.double().std((0, 2, 3), correction=0)[1]) == pytest.approx(0.5, rel=1e-5)


def test_a_hurdle_of_one_value_above_the_atom() -> None:
    images = (np.arange(64) % 3 == 0).astype(np.float32).reshape(1, 1, 8, 8)
    normaliser = Normaliser.fit(source(images), how=Normalisation(hurdle=True))
    assert torch.equal(normaliser.decode(normaliser.encode(torch.from_numpy(images))), torch.from_numpy(images))


def test_a_hurdle_needs_an_atom() -> None:
    images = np.random.default_rng(0).random((4, 1, 8, 8)).astype(np.float32)
    with refused("data.normaliser.hurdle", "5%"):
        Normaliser.fit(source(images), how=Normalisation(hurdle=True))
    assert Normaliser.fit(source(rain() - 1), how=Normalisation("asinh")).hurdles == ()


def test_what_lies_below_an_atom_or_a_domain_is_named() -> None:
    images = rain()
    normaliser = Normaliser.fit(source(images), how=Normalisation("log1p"))
    with refused("data.normaliser.kind", "-0.25", "channel 1", "at least 0"):
        normaliser.encode(torch.from_numpy(np.where(np.arange(2)[:, None, None] == 1, -0.25, images[:1]).astype(np.float32)))
    images[33, 1, 0, 0] = -2
    for scale in (None, 1.0):
        with refused("data.normaliser.kind", "Image 00000033", "channel 1"):
            Normaliser.fit(source(images), how=Normalisation("log1p", scale=scale))


def test_channels_can_share_their_constants() -> None:
    images = rain() * np.array([1, 4], np.float32)[:, None, None]
    normaliser = Normaliser.fit(source(images), how=Normalisation("log1p", per_channel=False, hurdle=False))
    values = images.astype(np.float64).ravel()
    scale = np.quantile(values[values > 0], 0.5, method="inverted_cdf")
    assert normaliser.transforms == (Log1p(scale),)
    assert normaliser.mean == pytest.approx((np.log1p(values / scale).mean(),) * 2, rel=1e-11)
    assert normaliser.std == pytest.approx((np.log1p(values / scale).std(),) * 2, rel=1e-11)
    both = Normaliser.fit(source(images), how=Normalisation("log1p", per_channel=False)).hurdles
    assert both[0] == both[1]
    assert both[0] is not None
    assert both[0].above == values[values > 0].min()


@pytest.mark.parametrize(("dtype", "nodata"), [("float32", math.nan), ("float64", -9999.0), ("int16", -9999.0), ("uint8", 0.0)])
@pytest.mark.parametrize("kind", ["affine", "log1p"])
def test_what_was_not_measured_does_not_count(dtype: str, nodata: float, kind: Kind) -> None:
    random = np.random.default_rng(0)
    images = (1 + random.gamma(1, 9, (20, 2, 6, 6))).clip(1, 250).astype(dtype)
    gaps = random.random(images.shape) < 0.3
    gaps[4] = True  # nothing in this image
    holes = np.where(gaps, nodata, images).astype(dtype)
    how = Normalisation(kind, scale=2.0 if kind == "log1p" else None, hurdle=False)
    normaliser = Normaliser.fit(source(holes), how=how, nodata=nodata)
    curve = (lambda values: np.log1p(values / 2)) if kind == "log1p" else (lambda values: values)
    values = [curve(images[:, channel][~gaps[:, channel]].astype(np.float64)) for channel in range(2)]
    assert normaliser.mean == pytest.approx([each.mean() for each in values], rel=1e-11)
    assert normaliser.std == pytest.approx([each.std() for each in values], rel=1e-11)
    native = torch.from_numpy(holes)
    valid = normaliser.valid(native)
    assert valid is not None
    assert torch.equal(valid, torch.from_numpy(~gaps))
    encoded = normaliser.encode(native)
    assert (encoded[~valid] == 0).all()
    assert encoded.isfinite().all()
    again = normaliser.decode(encoded)
    torch.testing.assert_close(again[valid], native[valid], rtol=1e-6, atol=1e-6 * min(normaliser.std))
    assert normaliser.valid(normaliser.decode(torch.randn(50, 2, 32, 32))).all()  # pyright: ignore[reportOptionalMemberAccess]
    assert all(seen.lowest >= 1 and seen.zeros == 0 for seen in normaliser.ranges)


@pytest.mark.parametrize(("dtype", "nodata", "cond_image"), [("uint8", 255, 254), ("int16", 0, 1), ("int16", -99, -98)])
def test_nothing_becomes_nodata(dtype: str, nodata: int, cond_image: int) -> None:
    normaliser = Normaliser((float(nodata),), (1.0,), dtype, nodata=float(nodata))
    assert normaliser.decode(torch.zeros(1, 1, 1, 1)).item() == cond_image
    floats = Normaliser((float(nodata),), (1.0,), "float32", nodata=float(nodata))
    assert floats.decode(torch.zeros(1, 1, 1, 1)).item() not in (nodata, math.nan)
    assert Normaliser((0.0,), (1.0,)).valid(torch.zeros(1, 1, 1, 1)) is None


def test_nodata_is_a_value_of_the_dtype() -> None:
    with refused("data.nodata", "uint8", "-9999"):
        Normaliser((0.0,), (1.0,), "uint8", nodata=-9999.0)
    with refused("data.nodata", "float32", "1e+39"):
        Normaliser((0.0,), (1.0,), "float32", nodata=1e39)
    assert Normaliser((0.0,), (1.0,), "float32", nodata=0.1).nodata == float(np.float32(0.1))


def test_gaps_need_a_name_and_infinity_has_none() -> None:
    images = np.zeros((5, 2, 8, 8), np.float32)
    images[3, 0] = np.nan
    with refused("data.nodata", "Image 00000003", "`data.nodata` to nan"):
        Normaliser.fit(source(images))
    assert Normaliser.fit(source(images), nodata=math.nan).mean == (0, 0)
    images[:, 0] = np.nan
    with refused("data.nodata", "Channel 0", "nan"):
        Normaliser.fit(source(images), nodata=math.nan)
    images[4, 1, 0, 0] = np.inf
    with refused(None, "Image 00000004", "infinity"):
        Normaliser.fit(source(images), nodata=math.nan)


def test_what_was_seen_is_kept() -> None:
    images = np.arange(-40, 160, dtype=np.int16).reshape(2, 1, 10, 10)
    images[0, 0, :2] = -40
    (seen,) = Normaliser.fit(source(images)).ranges
    assert seen == ChannelRange(-40, 159, -40, 158, 0.005, 0.1)


def test_constant_channels_go_with_every_curve() -> None:
    for dtype in ("float32", "uint16"):
        for kind in ("window", "log1p", "signed-log", "asinh", "quantile"):
            for value in (0, 9):
                images = np.full((2, 1, 4, 4), value, dtype)
                normaliser = Normaliser.fit(source(images), how=Normalisation(kind))
                encoded = normaliser.encode(torch.from_numpy(images))
                assert (encoded.abs() < 1e-7).all()
                assert normaliser.std == (1.0,)
                assert torch.equal(normaliser.decode(encoded).to(torch.int32), torch.from_numpy(images.astype(np.int32)))


def test_the_unit_range_behind_a_curve() -> None:
    normaliser = Normaliser((0.5,), (2.0,), "int16", (Log1p(10.0),))
    ends = torch.tensor([-9, 32767], dtype=torch.int16).reshape(1, 1, 1, 2)
    expected = (np.log1p([-0.9, 3276.7]) - 0.5) / 4
    assert normaliser.encode(ends).flatten().tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    assert not normaliser.has_unit_range
    assert not normaliser.affine
    assert normaliser.wide
    with pytest.raises(ValueError, match="no unit range: only affine ones"):
        normaliser.unit(torch.zeros(1, 1, 1, 1))
    with pytest.raises(ValueError, match="no unit range: only affine ones"):
        normaliser.from_unit(torch.zeros(1, 1, 1, 1))
    assert IMAGENET.has_unit_range
    assert IMAGENET.affine
    assert not IMAGENET.wide
    hurdled = Normaliser((1.0,), (0.5,), "uint8", hurdles=(Hurdle(3.0, 5.0, 0.25),))
    assert hurdled.encode(torch.tensor([3, 255], dtype=torch.uint8).reshape(1, 1, 1, 2)).flatten().tolist() == [4 - 0.25, 254]


def test_json_and_equality_of_everything() -> None:
    images = rain()
    images[3, :, 2] = np.nan
    for how in (Normalisation("log1p"), Normalisation("quantile"), Normalisation("window", window=(0.0, 2.0))):
        normaliser = Normaliser.fit(source(images), how=how, nodata=math.nan)
        again = Normaliser.from_json(json.loads(json.dumps(normaliser.to_json())))
        assert again == normaliser
        assert hash(again) == hash(normaliser)
        assert again.ranges == normaliser.ranges
        assert replace(again, nodata=None) != normaliser
        assert replace(again, ranges=()) == normaliser
    assert Normaliser.from_json({"mean": [1.0], "std": [2.0], "dtype": "uint8"}) == Normaliser((1.0,), (2.0,))
    assert Normaliser((0.0, 0.0), (1.0, 1.0), transforms=(Log1p(1.0), Log1p(1.0))).transforms == (Log1p(1.0),)
    with pytest.raises(ValueError, match="needs one transform for all or one each"):
        Normaliser((0.0,) * 3, (1.0,) * 3, transforms=(Identity(), Log1p(1.0)))


def test_auto_takes_what_is_proposed() -> None:
    images = rain(shape=(60, 1, 16, 16))
    assert Normaliser.fit(source(images), how=Normalisation("auto")) == Normaliser.fit(source(images), how=Normalisation("log1p"))


def sprites(dtype: str, ends: tuple[float, float] = (0.4, 0.4)) -> Source:
    """RGBA images whose alpha is transparent and opaque in these shares, and anything in between else."""
    draws = np.random.default_rng(0)
    most = np.iinfo(dtype).max
    images = draws.integers(1, most, (24, 4, 6, 5), dtype=dtype)
    which = draws.random((24, 6, 5))
    images[:, 3] = np.where(which < ends[0], 0, np.where(which > 1 - ends[1], most, images[:, 3]))
    found = array_source(images)
    assert isinstance(found, Arrays)
    return replace(found, metadata=Metadata(alpha="straight"))


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_both_ends_of_alpha_are_kept_apart(dtype: str) -> None:
    """Mean 0 and deviation 1/2 with both gaps, and noise of less than half a gap changes no pixel from or to an end."""
    base = sprites(dtype)
    native = torch.from_numpy(np.stack([base[number] for number in range(len(base))]))
    normaliser, most = Normaliser.fit(base), np.iinfo(dtype).max
    assert (normaliser.hurdles[:3], normaliser.ceilings[:3]) == ((None,) * 3, (None,) * 3)
    hurdle, ceiling = normaliser.hurdles[3], normaliser.ceilings[3]
    assert hurdle is not None
    assert ceiling is not None
    assert (hurdle.value, hurdle.above, ceiling.below, ceiling.value) == (0, 1, most - 1, most)
    every = torch.arange(most + 1).to(native.dtype).reshape(1, 1, 16, -1).expand(1, 4, 16, -1).contiguous()
    assert torch.equal(normaliser.decode(normaliser.encode(every)), every)
    encoded = normaliser.encode(native).double()
    torch.testing.assert_close(encoded.mean((0, 2, 3)), torch.zeros(4).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(encoded.std((0, 2, 3), correction=0), torch.full((4,), 0.5).double(), atol=1e-6, rtol=0)
    places = normaliser.encode(every)[0, 3].flatten().double()
    assert float(places[1] - places[0]) == pytest.approx(0.25, abs=1e-6)
    assert float(places[-1] - places[-2]) == pytest.approx(0.25, abs=1e-6)
    inside = torch.linspace(float(places[1]), float(places[-2]), most - 1).double()
    torch.testing.assert_close(places[1:-1], inside, atol=1e-6, rtol=0)
    assert torch.equal(normaliser.decode(encoded.float()), native)
    noised = encoded + 0.124 * torch.sign(torch.randn(encoded.shape, generator=torch.Generator().manual_seed(0)))
    again = normaliser.decode(noised.float())[:, 3]
    for end in (0, most):
        assert torch.equal(again == end, native[:, 3] == end)
    far = normaliser.decode(torch.tensor([-9.0, 9.0]).reshape(2, 1, 1, 1).expand(2, 4, 6, 5).contiguous())
    assert far[:, 3, 0, 0].tolist() == [0, most]


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["uint8", "uint16"]),
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.0),
    st.sampled_from(["affine", "log1p", "signed-log", "asinh", "quantile"]),
)
def test_alpha_of_any_law_comes_back_exactly(dtype: str, low: float, high: float, kind: Kind) -> None:
    base = sprites(dtype, (low, min(high, 1 - low)))
    native = torch.from_numpy(np.stack([base[number] for number in range(len(base))]))
    normaliser = Normaliser.fit(base, how=Normalisation(kind))
    encoded = normaliser.encode(native)
    assert torch.equal(normaliser.decode(encoded), native)
    assert float(encoded[:, 3].double().mean()) == pytest.approx(0, abs=1e-5)
    assert float(encoded[:, 3].double().std(correction=0)) <= 0.5 + 1e-5
    assert Normaliser.from_json(json.loads(json.dumps(normaliser.to_json()))) == normaliser


@pytest.mark.parametrize("values", [(0, 255), (0, 128, 255), (0, 1, 254, 255), (255,), (0,)])
def test_alpha_of_a_few_values_comes_back_exactly(values: tuple[int, ...]) -> None:
    images = np.random.default_rng(1).choice(np.array(values, np.uint8), (8, 4, 5, 5))
    found = array_source(images)
    assert isinstance(found, Arrays)
    normaliser = Normaliser.fit(replace(found, metadata=Metadata(alpha="premultiplied")))
    assert torch.equal(normaliser.decode(normaliser.encode(torch.from_numpy(images))), torch.from_numpy(images))
    assert (normaliser.ceilings != ()) == (len(values) > 1)
    assert float(normaliser.encode(torch.from_numpy(images))[:, 3].double().std(correction=0)) <= 0.5 + 1e-6


def test_what_lies_above_a_ceiling_is_named_and_the_rest_is_as_before() -> None:
    ceiling = Normaliser((100.0,), (60.0,), "uint8", ceilings=(Ceiling(200.0, 190.0, 0.25),))
    with refused("data.normaliser.kind", 201, "channel 0", "at most 200"):
        ceiling.encode(torch.full((1, 1, 1, 1), 201, dtype=torch.uint8))
    ends = ceiling.encode(torch.tensor([0, 200], dtype=torch.uint8).reshape(1, 1, 1, 2))
    assert ends.flatten().tolist() == pytest.approx([-100 / 120, 90 / 120 + 0.25])
    assert ceiling.has_unit_range
    native = torch.tensor([0, 7, 190, 200], dtype=torch.uint8).reshape(1, 1, 1, 4)
    unit = ceiling.unit(ceiling.encode(native))
    torch.testing.assert_close(unit.flatten(), torch.tensor([0, 7, 190, 200]) / 255, atol=1e-6, rtol=0)
    torch.testing.assert_close(ceiling.from_unit(unit), ceiling.encode(native), atol=1e-6, rtol=0)
    assert not Normaliser.fit(sprites("uint8"), how=Normalisation(hurdle=False)).ceilings
    assert not Normaliser.fit(array_source(np.zeros((2, 4, 2, 2), np.uint8))).hurdles
    assert not Normaliser.fit(sprites("uint8"), how=Normalisation(per_channel=False)).ceilings


def test_alpha_that_never_is_opaque_has_no_ceiling_and_takes_what_comes() -> None:
    """Atoms of alpha are the ends of the dtype, so held-out images may hold what training images do not."""
    base = sprites("uint8")
    assert isinstance(base, Arrays)
    dim = base.images.copy()
    dim[:, 3] = np.minimum(dim[:, 3], 250)
    normaliser = Normaliser.fit(replace(base, images=dim))
    assert normaliser.hurdles[3] is not None
    assert normaliser.ceilings == ()
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 4, 16, 16).contiguous()
    assert torch.equal(normaliser.decode(normaliser.encode(every)), every)


def test_the_published_constants_are_not_measured() -> None:
    """(rgb / 255 - mean) / (2 std) with the usual ImageNet constants, whatever the images are."""
    images = np.arange(3 * 4 * 4, dtype=np.uint8).reshape(1, 3, 4, 4)
    published = Normaliser.fit(array_source(images), how=Normalisation("imagenet"))
    mean, std = (torch.tensor(row).view(3, 1, 1) for row in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = (torch.from_numpy(images) / 255 - mean) / (2 * std)
    torch.testing.assert_close(published.encode(torch.from_numpy(images)), expected)
    for wrong in (images[:, :1], images.astype(np.uint16)):
        with refused("data.normaliser.kind"):
            Normaliser.fit(array_source(wrong), how=Normalisation("imagenet"))
