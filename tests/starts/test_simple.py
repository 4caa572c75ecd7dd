"""The images of another generator as a start."""

import pytest
import torch
from tests.starts.densities import is_a_function_of_its_seed

from pixelpath.randomness import Streams, normal
from pixelpath.starts.simple import FromSamples
from pixelpath.starts.start import Density, Start
from pixelpath.types import Images, Labels


def shifted(streams: Streams, labels: Labels | None) -> Images:
    """Stands for a one-step model: its own draw, plus the label."""
    made = 0.5 * normal(streams, (1, 2, 2))
    return made if labels is None else made + labels.view(-1, 1, 1, 1)


def test_images_of_another_generator_are_noised() -> None:
    start, labels = FromSamples(shifted), torch.tensor([0, 7])
    streams = Streams([5, 6])
    expected = 0.5 * normal(streams, (1, 2, 2)) + labels.view(-1, 1, 1, 1) + 3.0 * normal(streams, (1, 2, 2))
    assert torch.equal(start.sample(Streams([5, 6]), 3.0, labels), expected)
    assert torch.equal(start.sample(Streams([5, 6]), 0.0), shifted(Streams([5, 6]), None))
    assert isinstance(start, Start)
    assert not isinstance(start, Density)
    assert is_a_function_of_its_seed(start, 1.0, torch.arange(6))


def test_images_of_a_generator_that_cannot_be_used() -> None:
    with pytest.raises(ValueError, match="not finite"):
        FromSamples(lambda streams, labels: shifted(streams, labels) / 0).sample(Streams([0]), 1.0)
    with pytest.raises(ValueError, match="made 1 images for 2 seeds"):
        FromSamples(lambda streams, labels: shifted(streams[:1], labels)).sample(Streams([0, 1]), 1.0)
    with pytest.raises(ValueError, match="finite number of at least 0"):
        FromSamples(shifted).sample(Streams([0]), -1.0)
