"""The curves that values go through before they are centred and scaled."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.refusal import refused

from pixelpath.data.normalise.atoms import Ceiling, Hurdle
from pixelpath.data.normalise.curves import (
    Asinh,
    Identity,
    Log1p,
    Normalisation,
    Quantile,
    SignedLog,
    Transform,
    Window,
    from_json,
    lowest_of,
    to_json,
)

SCALES = st.floats(1e-3, 1e3)
QUANTILE = Quantile((-1.0, 0.0, 5.0, 100.0), (-2.0, -1.0, 0.5, 3.0))
CURVES = st.one_of(
    st.just(Identity()),
    st.builds(Log1p, SCALES),
    st.builds(SignedLog, SCALES),
    st.builds(Asinh, SCALES),
    st.tuples(st.floats(-1e3, 1e3), SCALES).map(lambda each: Window(each[0], each[0] + each[1])),
    st.just(QUANTILE),
)


def at(transform: Transform, *values: float) -> list[float]:
    return transform(torch.tensor(values, dtype=torch.float64)).tolist()


@settings(deadline=None, max_examples=30)
@given(CURVES, st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20, unique=True))
def test_curves_rise_and_are_undone_by_their_inverse(transform: Transform, values: list[float]) -> None:
    native = torch.tensor(sorted(value for value in values if value > lowest_of(transform) * (1 - 1e-6)), dtype=torch.float64)
    images = transform(native)
    # what is no further apart than float64 tells apart, next to the constants of the curve, may fall together
    apart = native.diff() > 1e-6 * native.abs().amax().clamp_min(1e-3) if len(native) > 1 else torch.zeros(0, dtype=torch.bool)
    assert (images.diff() >= 0).all()
    assert (images.diff()[apart] > 0).all()
    torch.testing.assert_close(transform.inverse(images), native, rtol=1e-9, atol=1e-9)


def test_curves_are_what_they_are_said_to_be() -> None:
    assert at(Identity(), 3.5) == [3.5]
    assert at(Log1p(3.0), 0.0, 6.0) == pytest.approx([0, math.log(3)])
    assert at(SignedLog(2.0), -6.0, 0.0, 2.0) == pytest.approx([-math.log(4), 0, math.log(2)])
    assert at(Asinh(2.0), 2.0, -2.0) == pytest.approx([0.881373587, -0.881373587])
    assert at(Window(-100.0, 300.0), 100.0, 300.0, 200.0, 100 + 200 * math.e, -300.0) == pytest.approx(
        [0, 1, 0.5, 2, -1 - math.log(2)]
    )
    assert at(QUANTILE, -3.0, -0.5, 2.5, 100.0, 195.0) == pytest.approx([-4, -1.5, -0.25, 3, 5.5])


@pytest.mark.parametrize(
    ("transform", "place", "slope"),
    [
        (Window(-100.0, 300.0), 300.0, 1 / 200),
        (Window(-100.0, 300.0), -100.0, 1 / 200),
        (SignedLog(4.0), 0.0, 1 / 4),
        (Asinh(4.0), 0.0, 1 / 4),
        (Log1p(4.0), 0.0, 1 / 4),
    ],
)
def test_slopes_are_the_same_on_both_sides_of_a_joint(transform: Transform, place: float, slope: float) -> None:
    before, here, after = at(transform, place - 1e-5, place, place + 1e-5)
    assert (here - before) / 1e-5 == pytest.approx(slope, rel=1e-4)
    assert (after - here) / 1e-5 == pytest.approx(slope, rel=1e-4)


def test_only_a_logarithm_has_a_domain() -> None:
    assert lowest_of(Log1p(2.5)) == -2.5
    assert lowest_of(Asinh(2.5)) == -math.inf


@pytest.mark.parametrize("transform", [Identity(), Log1p(1 / 3), SignedLog(0.1), Asinh(7.0), Window(-1 / 3, 0.7), QUANTILE])
def test_json_keeps_curves(transform: Transform) -> None:
    assert from_json(json.loads(json.dumps(to_json(transform)))) == transform


def test_unknown_curves_are_refused() -> None:
    with pytest.raises(ValueError, match="no transform 'cubic': it must be one of affine, window"):
        from_json({"kind": "cubic"})
    with pytest.raises(ValueError, match="window is made of low, high, got scale"):
        from_json({"kind": "window", "scale": 1.0})


@pytest.mark.parametrize(
    ("wrong", "setting", "fact"),
    [
        (lambda: Log1p(0.0), "scale", "got 0"),
        (lambda: Asinh(math.nan), "scale", "got nan"),
        (lambda: Window(3.0, 3.0), "window", "3 to 3"),
        (lambda: Hurdle(0.0, 0.0), "hurdle", "value=0.0"),
        (lambda: Hurdle(0.0, 1.0, 1.0), "hurdle", "gap=1.0"),
        (lambda: Ceiling(1.0, 1.0), "hurdle", "value=1.0"),
        (lambda: Ceiling(1.0, 0.0, 0.0), "hurdle", "gap=0.0"),
        (lambda: Normalisation(scale=2.0), "scale", "affine"),
        (lambda: Normalisation("log1p", scale=-2.0), "scale", "-2"),
        (lambda: Normalisation("asinh", window=(0.0, 1.0)), "window", "asinh"),
        (lambda: Normalisation("window", window=(1.0, 0.0)), "window", "1 to 0"),
        (lambda: Normalisation("window", hurdle=True), "hurdle", "window"),
    ],
)
def test_wrong_constants_are_answered_with_a_sentence(wrong: Callable[[], object], setting: str, fact: str) -> None:
    with refused(f"data.normaliser.{setting}", fact):
        wrong()


def test_a_quantile_curve_needs_knots_that_rise() -> None:
    with pytest.raises(ValueError, match="two or more knots"):
        Quantile((0.0, 0.0), (0.0, 1.0))


def test_curves_take_images_of_any_shape() -> None:
    values = torch.from_numpy(np.arange(12.0).reshape(1, 3, 2, 2))
    for transform in (Window(2.0, 5.0), QUANTILE):
        assert torch.equal(transform(values).flatten(), transform(values.flatten()))
