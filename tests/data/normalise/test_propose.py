"""The normalisation that data ask for, and the sentences that say why."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.arrays import array_source

from pixelpath.data.metadata import Metadata
from pixelpath.data.normalise.curves import Asinh, Identity, Log1p, Normalisation
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.data.normalise.propose import propose
from pixelpath.data.sources import Arrays, Source

SHAPE = (60, 1, 16, 16)


def source(images: np.ndarray, metadata: Metadata | None = None) -> Source:
    found = array_source(images)
    assert isinstance(found, Arrays)
    return found if metadata is None else replace(found, metadata=metadata)


def law(name: str, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    random = np.random.default_rng(0)
    draws = {
        "normal": lambda: 280 + 10 * random.normal(size=shape),
        "uniform": lambda: random.random(shape),
        "student": lambda: random.standard_t(2, shape),
        "pareto": lambda: random.pareto(3, shape) + 1,
        "gamma": lambda: random.gamma(0.5, size=shape),
        "skewed": lambda: random.gamma(0.5, size=shape) - 0.1,
        "to the left": lambda: 30 - random.gamma(0.5, size=shape),
        "rain": lambda: np.where(random.random(shape) < 0.6, 0, random.lognormal(0, 1, shape)),
    }
    return draws[name]().astype(np.float32)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("normal", Normalisation("affine")),
        ("uniform", Normalisation("affine")),
        ("student", Normalisation("asinh")),
        ("pareto", Normalisation("log1p", hurdle=False)),
        ("gamma", Normalisation("log1p", hurdle=False)),
        ("skewed", Normalisation("asinh")),
        ("rain", Normalisation("log1p")),
        ("to the left", Normalisation("affine")),
    ],
)
def test_every_law_has_its_curve(name: str, how: Normalisation) -> None:
    proposal = propose(source(law(name)))
    assert proposal.how == how
    assert f"({how.kind}" in proposal.why[-1]


def test_channels_that_differ_in_kind_have_a_curve_each_unless_they_are_to_share_one() -> None:
    images = np.concatenate([law(name) for name in ("rain", "normal", "student")], 1)
    proposal = propose(source(images))
    assert proposal.how == Normalisation("auto")
    assert proposal.each == (Normalisation("log1p"), Normalisation("affine"), Normalisation("asinh"))
    assert "0 log1p, 1 affine, 2 asinh" in proposal.why[-1]
    fitted = Normaliser.fit(source(images), how=Normalisation("auto"))
    assert [type(each) for each in fitted.transforms] == [Log1p, Identity, Asinh]
    alone = [Normaliser.fit(source(images[:, [channel]]), how=how) for channel, how in enumerate(proposal.each)]
    assert (fitted.mean, fitted.std) == (tuple(each.mean[0] for each in alone), tuple(each.std[0] for each in alone))
    assert fitted.hurdles == (alone[0].hurdles[0], None, None)
    shared = Normalisation("auto", per_channel=False)
    assert propose(source(images), given=shared).each == (Normalisation("asinh", per_channel=False),)
    bare = propose(source(images), given=Normalisation("auto", hurdle=False)).each[0]
    assert bare == Normalisation("log1p", hurdle=False)


def test_the_numbers_behind_a_proposal_are_those_of_the_data() -> None:
    """A Pareto law of index 3, to two standard errors of 1 / index (1.46 / sqrt(655)); a gamma law of skewness 2 / sqrt(1/2)."""
    shape = (400, 1, 16, 16)
    (pareto, _) = propose(source(law("pareto", shape))).why
    index = float(pareto.split("tail index ")[1].rstrip("."))
    assert 1 / index == pytest.approx(1 / 3, abs=2 * 1.46 / 655**0.5)
    (gamma, _) = propose(source(law("gamma", shape))).why
    assert float(gamma.split("skewness ")[1].split(",")[0]) == pytest.approx(8**0.5, abs=0.2)
    (rain, why) = propose(source(law("rain"))).why
    assert rain.startswith("Channel 0: no value is negative, 60% are exactly the lowest, skewness ")
    assert "kept apart by a gap (log1p with a hurdle)" in why


def test_one_heavy_channel_decides_for_those_that_share_a_curve() -> None:
    images, shared = np.concatenate([law("normal"), law("pareto")], 1), Normalisation("auto", per_channel=False)
    proposal = propose(source(images), given=shared)
    assert proposal.how == Normalisation("log1p", per_channel=False, hurdle=False)
    assert len(proposal.why) == 3
    assert propose(source(images * np.array([-1, 1], np.float32)[:, None, None]), given=shared).how.kind == "asinh"


def test_what_is_known_of_the_images_comes_first() -> None:
    heavy = (law("pareto") * 20).clip(0, 255)
    assert propose(source(heavy.astype(np.uint8))).how == Normalisation()
    assert propose(source(heavy.astype(np.uint16), Metadata(photographs=True))).how == Normalisation()
    assert propose(source(heavy, Metadata(units="HU"))).how == Normalisation("window", window=(-1000.0, 1000.0))


def test_what_was_not_measured_is_not_judged() -> None:
    images = law("gamma")
    images[:, :, ::3] = -9999
    assert propose(source(images)).how == Normalisation()
    known = propose(source(images, Metadata(nodata=-9999.0)))
    assert known == propose(source(images), nodata=-9999.0)
    assert known.how.kind == "log1p"


def test_few_values_have_no_tail() -> None:
    proposal = propose(source(law("student", (2, 1, 8, 8))))
    assert proposal.how == Normalisation()
    assert "no heavy tail" in proposal.why[0]
