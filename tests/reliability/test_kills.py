"""kill -9 at random instants: the same command finishes the run, as if nothing had happened."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
from tests.reliability.harness import KINDS, Command, Kind, Starter, checkpoints, differences, lost, recorded, train

KILLS_OF_A_RUN = 4  # at most
KILLS_IN_ALL = (20, 200)


def instant(kind: Kind, out: Path, words: tuple[str, ...], draw: random.Random) -> Command:
    """The command, to be killed at a random instant or at a random operation on its files."""
    if draw.random() < 0.5:
        return Command(words, after=draw.uniform(0, kind.seconds))
    return Command(words, fault={"kind": "kill", "at": draw.randint(1, kind.operations), "within": str(out)})


def kill_until_finished(starter: Starter, kind: Kind, data: Path, out: Path, draw: random.Random) -> tuple[int, list[str]]:
    """How often a run was killed before it was finished, and all that was wrong with it."""
    words, wrong, kills = train(kind.recipe, data, out, *kind.origin), [], 0
    while True:
        before, lines = checkpoints(out), recorded(out)
        command = instant(kind, out, words, draw) if kills < KILLS_OF_A_RUN else Command(words)
        (ended,) = starter.run(command)
        wrong += [f"lost after {kills} kills: {name}" for name in lost(before, lines, out)]
        if ended.status != -signal.SIGKILL:
            break
        kills += 1
    if ended.status != 0:
        return kills, [*wrong, f"not taken up after {kills} kills: {ended.said[-400:]}"]
    return kills, wrong + [f"differs: {name}" for name in differences(kind.straight, out)]


def kill(starter: Starter, kind: Kind, data: Path, folder: Path, count: int) -> None:
    """Runs that are killed `count` times in all, and nothing is wrong with any of them."""
    draw, wrong, kills, runs = random.Random(f"{kind.recipe} {count}"), [], 0, 0
    while kills < count:
        more, found = kill_until_finished(starter, kind, data, folder / f"run-{runs}", draw)
        kills, runs = kills + more, runs + 1
        wrong += [f"run {runs - 1}, {what}" for what in found]
    with (folder.parent / "figures.txt").open("a") as figures:
        figures.write(f"{kind.recipe}: {kills} kills in {runs} runs, {len(wrong)} faults\n")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("recipe", KINDS)
def test_a_killed_run_is_finished_by_the_same_command(
    recipe: str, starter: Starter, kinds: dict[str, Kind], pictures: Path, tmp_path: Path
) -> None:
    kill(starter, kinds[recipe], pictures, tmp_path, KILLS_IN_ALL[0] // len(KINDS) + 1)


@pytest.mark.full
@pytest.mark.parametrize("recipe", KINDS)
def test_two_hundred_kills(recipe: str, starter: Starter, kinds: dict[str, Kind], pictures: Path, tmp_path: Path) -> None:
    kill(starter, kinds[recipe], pictures, tmp_path, KILLS_IN_ALL[1] // len(KINDS) + 1)
