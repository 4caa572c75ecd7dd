"""Streams of random numbers: the published answers of Philox, the distributions of draws, and independence of batch mates."""

import math

import pytest
import torch
from scipy import stats

from pixelpath.randomness import Streams, normal, permutation, philox, seed_of, uniform

ONES = 0xFFFFFFFF
SEEDS = [seed_of(3, number) for number in range(40)]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((ONES,) * 4, (ONES,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0), "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_the_known_answers_of_random123(counter: tuple[int, ...], key: tuple[int, ...], expected: str) -> None:
    words = philox(tuple(torch.tensor([word]) for word in counter), tuple(torch.tensor([word]) for word in key))
    assert " ".join(f"{int(word):08x}" for word in words) == expected


def test_a_stream_is_philox_under_its_seed() -> None:
    """The key is the seed, low word first; the counter is the number of the block, which goes on from draw to draw."""
    streams = Streams([0x299F31D0A4093822])
    uniform(streams, (7,))  # two blocks
    (words,) = streams.blocks(2)
    key = torch.tensor([0xA4093822]), torch.tensor([0x299F31D0])
    for place in range(2):
        expected = philox((torch.tensor([2 + place]), *[torch.tensor([0])] * 3), key)
        assert [int(word[0, place]) for word in words] == [int(word) for word in expected]


def test_all_bits_of_a_seed_count() -> None:
    """Both pairs of seeds once gave the same numbers: torch's CPU generator takes the lowest 32 bits alone."""
    for one, other in ((34972, 48854), (5, 5 + 2**32), (5, 5 + 2**62)):
        for draw in (normal, uniform):
            first, second = draw(Streams([seed_of(one), seed_of(other)]), (3, 8, 8))
            assert not torch.equal(first, second)
            first, second = draw(Streams([one, other]), (3, 8, 8))
            assert float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1].abs()) < 4 / 192**0.5
    assert torch.equal(normal(Streams([-1]), (4,)), normal(Streams([2**64 - 1]), (4,)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normals_are_standard_normal(dtype: torch.dtype) -> None:
    drawn = normal(Streams(SEEDS), (3, 50, 50), dtype)
    assert drawn.dtype == dtype
    values, count = drawn.double().flatten(), drawn.numel()
    for power, moment, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):  # and the variance of x^power
        assert float((values**power).mean()) == pytest.approx(moment, abs=4 * math.sqrt(spread / count))
    assert stats.kstest(values.numpy(), "norm").pvalue > 0.01
    assert stats.kstest((drawn.double().flatten(1).sum(1) / 7500**0.5).numpy(), "norm").pvalue > 0.01
    shifted = torch.corrcoef(torch.stack([values[:-1], values[1:]]))[0, 1]
    assert abs(float(shifted)) < 4 / count**0.5


def test_both_dtypes_draw_the_same_normals() -> None:
    single, double = (normal(Streams(SEEDS), (3, 40, 40), dtype) for dtype in (torch.float32, torch.float64))
    assert float((single - double).abs().max()) < 5e-6
    assert float(double.abs().max()) < math.sqrt(66 * math.log(2))


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float32, 24), (torch.float64, 53)])
def test_uniform_draws(dtype: torch.dtype, bits: int) -> None:
    """Even on [0, 1), and multiples of 2^-bits of which the last bits matter too."""
    drawn = uniform(Streams(SEEDS), (2500,), dtype).double().flatten()
    assert 0 <= float(drawn.min()) < float(drawn.max()) < 1
    assert stats.kstest(drawn.numpy(), "uniform").pvalue > 0.01
    scaled = drawn * 2.0**bits
    assert torch.equal(scaled, scaled.round())
    assert stats.kstest((drawn * 2.0 ** (bits - 9) % 1).numpy(), "uniform").statistic < 0.01


@pytest.mark.parametrize("draw", [normal, uniform])
def test_an_image_does_not_depend_on_its_batch(draw) -> None:
    """One batch, its images one by one, and large images, which are computed in pieces."""
    for shape in ((), (3, 5, 5), (3, 120, 120)):
        streams = Streams(SEEDS[:6])
        batch = torch.stack([draw(streams, shape), draw(streams, shape)])
        for place, seed in enumerate(SEEDS[:6]):
            alone = Streams([seed])
            assert torch.equal(torch.stack([draw(alone, shape), draw(alone, shape)])[:, 0], batch[:, place])


def test_parts_share_what_they_draw() -> None:
    """A draw of some streams leaves the others where they were."""
    whole, again = Streams(SEEDS[:4]), Streams(SEEDS[:4])
    first = normal(again, (4,))
    assert torch.equal(normal(whole[torch.tensor([2, 0])], (4,)), first[[2, 0]])
    assert torch.equal(normal(whole[1:2], (4,)), first[1:2])
    second = normal(again, (4,))
    assert torch.equal(normal(whole, (4,)), torch.stack([second[0], second[1], second[2], first[3]]))
    assert len(whole[1:]) == 3


def test_a_permutation_holds_every_number_once_and_all_orders_are_as_likely() -> None:
    assert sorted(permutation(Streams([1]), 1000).tolist()) == list(range(1000))
    orders = [tuple(permutation(Streams([seed]), 3).tolist()) for seed in range(1200)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 0.01


def test_nothing_to_draw() -> None:
    assert normal(Streams([1, 2]), ()).shape == (2,)
    assert normal(Streams([1, 2]), (0,)).shape == (2, 0)
    assert uniform(Streams([]), (3,)).shape == (0, 3)
