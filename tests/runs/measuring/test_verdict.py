"""A verdict says how close samples come, against which floor, and whether they are copies; never what so few cannot tell."""

import math
from typing import Any

import pytest

from pixelpath.evaluation.copies import Closeness
from pixelpath.runs.measuring.report import in_short
from pixelpath.runs.measuring.verdict import Sides, level, spectrum_off, training_verdict, verdict

KEYS = ("closer", "closer_error", "below", "below_error", "below_expected")


def result(near: tuple[float, ...] | None, *, distance: float = 2.0, few: int = 500, held_out: int = 500) -> dict[str, Any]:
    """An evaluation with one kind of features, its floor at 1."""
    row = {"features": "pixels", "few": few, "frechet_of_few": distance, "frechet_floor_of_few": 1.0}
    closeness = {"features": "pixels", "samples": 1000, "held_out": held_out}
    closeness |= {} if near is None else dict(zip(KEYS, near, strict=True))
    return {"distances": [row], "copies": {"duplicates": 0, "held_out_duplicates": 0, "closeness": [closeness]}}


@pytest.mark.parametrize(("distance", "said"), [(1.05, "about as close"), (2.5, "2.5 times as far"), (40.0, "40 times as far")])
def test_the_distance_is_said_in_floors(distance: float, said: str) -> None:
    first, _ = verdict(result((0.5, 0.02, 0.01, 0.01, 0.01), distance=distance))
    assert said in first
    assert "500 other real images" in first


def test_the_features_nearest_to_eyes_have_the_word() -> None:
    found = result(None)
    found["distances"].append({**found["distances"][0], "features": "encoder", "frechet_of_few": 7.0})
    assert "7 times" in verdict(found)[0]
    found["distances"].append({**found["distances"][0], "features": "inception-v3-2048", "frechet_of_few": 3.0})
    assert "3 times" in verdict(found)[0]


def test_a_few_images_are_called_rough() -> None:
    assert "100 images" in verdict(result(None, few=99))[0]
    assert "100 images" not in verdict(result(None, few=100))[0]


@pytest.mark.parametrize(
    ("near", "said"),
    [
        ((0.9, 0.02, 0.5, 0.1, 0.01), "copy training images: 90 %"),
        ((1.0, 0.065, 0.5, 0.1, 0.01), "copy training images: 100 %"),  # certain, in spite of a great error
        ((0.64, 0.03, 0.006, 0.005, 0.008), "lean towards the training images: 64 %"),  # nearer, though not as near as copies
        ((0.51, 0.02, 0.01, 0.1, 0.01), "no near copies of training images: 51 %"),
    ],
)
def test_copies_are_said_in_words(near: tuple[float, ...], said: str) -> None:
    assert said.replace(" %", "%") in verdict(result(near))[1]


def test_what_few_images_cannot_tell_is_withheld_and_how_many_are_needed_is_said() -> None:
    found = result((1.0, 2.179, 1.0, 0.5, 0.2), held_out=4)
    (_, said), shown = verdict(found), in_short(found)["copies"]["closeness"][0]
    assert "%" not in said
    assert f"{math.ceil(4 * (2.179 / 0.05) ** 2):,}" in said  # the error falls with the root of the number
    assert not set(KEYS) & set(shown)
    assert {"features", "samples", "held_out"} <= set(shown)
    assert Closeness(1.0, 2.179, 1.0, 0.5, 0.2).held_out_needed(4) == 7597
    assert Closeness(0.5, 0.05, 1.0, 0.5, 0.2).held_out_needed(400) == 400


def test_held_out_images_of_another_law_judge_neither_distance_nor_copies() -> None:
    copying = (0.95, 0.02, 0.5, 0.1, 0.01)
    found = result(copying, distance=0.5)
    found["distances"][0]["frechet_floor_of_training"] = 0.51  # held-out ones 1.96 times as far
    assert level(found) == "bad"
    assert "about as close to the training images as 500 other real images" in verdict(found)[0]
    found["distances"][0]["frechet_floor_of_training"] = 0.1
    assert level(found) == "warn"
    close, copies = verdict(found)
    assert "5 times as far from the training images as 500 other training images" in close
    assert "floor 0.1)" in close
    assert "held-out images are 10 times as far" in copies
    assert "95%" not in copies
    found["copies"]["duplicates"] = 3
    assert verdict(found)[1].startswith("3 samples are exact copies")


def test_numbers_that_tell_are_shown() -> None:
    found = result((0.51, 0.02, 0.01, 0.1, 0.01))
    assert in_short(found)["copies"]["closeness"] == found["copies"]["closeness"]


def test_exact_copies_and_missing_searches_are_said() -> None:
    found = result(None)
    found["copies"]["duplicates"] = 17
    assert verdict(found)[1].startswith("17 samples")
    assert "not looked for" in verdict({**found, "copies": None})[1]


@pytest.mark.parametrize("other", [{}, {"distances": [{"features": "pixels"}], "copies": {"duplicates": 3}}])
def test_results_of_other_versions_have_no_verdict(other: dict[str, Any]) -> None:
    assert verdict(other) == []


@pytest.mark.parametrize(("key", "name"), [("held_out_loss", "held-out loss"), ("sample_distance", "distance of its samples")])
def test_training_is_judged_by_what_it_was_measured_at(key: str, name: str) -> None:
    assert training_verdict([], 9) == []
    rows = [{"step": step, key: value} for step, value in ((1, 3.0), (2, 1.0), (3, 1.019), (4, 1.1))]
    assert training_verdict(rows[:1], 9) == ["Training stands at step 1 of 9."]
    assert training_verdict(rows[:3], 3) == [f"All 3 steps are taken. The {name} is still at its lowest."]
    (risen,) = training_verdict(rows, 4)
    assert f"The {name} was lowest at step 2 and has risen by 10% since" in risen


CLEAR = (0.5, 0.01, 0.01, 0.01, 0.01)
FREQUENCIES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)


def with_spectrum(times: tuple[float, ...], held_out: tuple[float, ...] | None = (1.0,) * 5, **others: Any) -> dict[str, Any]:
    """A good evaluation in which samples have so many times the power of training images at five frequencies, 1/f^2."""
    rows = [
        {
            "channel": "t2m (K)",
            "frequency": frequency,
            "training": frequency**-2,
            "held_out": None if held_out is None else held_out[place] * frequency**-2,
            "samples": times[place] * frequency**-2,
        }
        for place, frequency in enumerate(FREQUENCIES)
    ]
    return {**result(CLEAR, distance=1.0, **others), "pixel_values": {"spectra": rows}}


def test_power_that_is_far_off_at_some_scales_is_said_and_not_green() -> None:
    good = with_spectrum((1.1, 0.9, 1.0, 1.5, 1.9))
    assert (level(good), spectrum_off(good), len(verdict(good))) == ("good", None, 2)
    rough = with_spectrum((1.0, 1.0, 1.0, 3.0, 40.0))
    off = spectrum_off(rough)
    assert off is not None
    assert off[:3] == ("t2m (K)", 2.0, 4.0)
    assert off.times == pytest.approx(40)
    assert level(rough) == "warn"
    assert "up to 40 times the power of the training images in structures of 2 to 4 pixels of t2m (K)" in verdict(rough)[1]
    smooth = with_spectrum((1.0, 1.0, 1.0, 1.0, 0.02))
    assert level(smooth) == "warn"
    assert "as little as 2% of the power of the training images in structures of about 2 pixels" in verdict(smooth)[1]
    assert "more than 1,000 times" in verdict(with_spectrum((1.0, 1.0, 1.0, 1.0, 1e5)))[1]


def test_power_that_other_real_images_are_off_by_too_or_that_none_can_see_is_not_far_off() -> None:
    assert spectrum_off(with_spectrum((4.0, 1.0, 1.0, 1.0, 1.0), (2.0, 1.0, 1.0, 1.0, 1.0))) is None
    assert spectrum_off(with_spectrum((4.0, 1.0, 1.0, 1.0, 1.0), (1.1, 1.0, 1.0, 1.0, 1.0))) is not None
    assert spectrum_off(with_spectrum((4.0, 1.0, 1.0, 1.0, 1.0), None)) is not None
    faint = with_spectrum((1.0, 1.0, 1.0, 1.0, 100.0))
    faint["pixel_values"]["spectra"][-1] |= {"training": 1e-7, "held_out": 1e-7, "samples": 1e-5}  # of 1024
    assert spectrum_off(faint) is None


def test_runs_and_comparisons_are_green_by_one_rule() -> None:
    sides = Sides("images", "the reference", "of its own")
    few = result(CLEAR, distance=1.0, few=99)
    assert (level(few), level(result(CLEAR, distance=1.0, few=100)), level(result(CLEAR, distance=1.2))) == (
        "warn",
        "good",
        "warn",
    )
    assert verdict(few, sides)[0].startswith("99 images are about as close to the reference as 99 of its own are")
