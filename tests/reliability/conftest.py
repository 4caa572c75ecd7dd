"""One uninterrupted run of each kind."""

from pathlib import Path

import pytest
from tests.reliability.harness import KINDS, Command, Kind, Starter, train


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
