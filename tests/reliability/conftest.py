"""A warm starter, and one uninterrupted run of each kind."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.reliability.harness import KINDS, Command, Kind, Starter, train


@pytest.fixture(scope="session")
def starter(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    """The starter; it has trained a one-step run of its own, so that everything is imported."""
    warm = [word for word in train("digits-onestep", pictures, "") if word not in ("--out", "")]
    found = Starter((*warm, "--seed", "77"), tmp_path_factory.mktemp("starter"))
    yield found
    found.close()


@pytest.fixture(scope="session")
def kinds(starter: Starter, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kind]:
    """The three kinds of runs. Stage two begins with the encoder of stage one, and the one-step loss looks through it."""
    folder = tmp_path_factory.mktemp("straight")
    found = {}
    encoder = ("--encoder", str(folder / "digits-encoder"))
    origins = ((), encoder, (*encoder, "--objective.features", "contrastive"))
    for recipe, origin in zip(KINDS, origins, strict=True):
        out = folder / recipe
        watched = {"kind": "kill", "at": None, "within": str(out)}
        (ended,) = starter.run(Command(train(recipe, pictures, out, *origin), fault=watched))
        assert ended.status == 0, ended.said
        found[recipe] = Kind(recipe, out, ended.seconds, ended.operations, origin)
    return found
