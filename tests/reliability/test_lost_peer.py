"""Two processes of one run, of which one dies: the other ends too, and the same command goes on."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
from tests.reliability.harness import Command, Ended, Starter, checkpoints, differences, peers, train

LONG = ("--steps", 30, "--every", 3)


def together(
    starter: Starter, words: tuple[str, ...], killed: int | None = None, once: Path | None = None, second: tuple[str, ...] = ()
) -> list[Ended]:
    """The command on two processes, with the words `second` too on the second; process `killed` dies once a file is there."""
    ends = [str(once) if rank == killed else None for rank in range(2)]
    pairs = enumerate(zip(peers(), ends, strict=True))
    return starter.run(*(Command(words + rank * second, env=env, after_file=end) for rank, (env, end) in pairs))


@pytest.fixture(scope="module")
def both(starter: Starter, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of two processes."""
    out = tmp_path_factory.mktemp("both") / "run"
    for ended in together(starter, train("digits-diffusion", pictures, out, *LONG)):
        assert ended.status == 0, ended.said
    return out


@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_that_is_killed_ends_the_other_with_one_sentence(
    killed: int, both: Path, starter: Starter, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = train("digits-diffusion", pictures, out, *LONG)
    found = together(starter, words, killed, out / "checkpoints" / "step-00000006")
    assert found[killed].status == -signal.SIGKILL
    newest = max(path.name for path in (out / "checkpoints").glob("step-*"))
    kept = checkpoints(out)
    assert found[1 - killed].sentence.count(str(int(newest[5:]))) >= 1  # the step from which the same command goes on
    assert [ended.status for ended in together(starter, words)] == [0, 0]
    assert {name: checkpoints(out).get(name) for name in kept} == kept
    assert differences(both, out) == []


def test_a_process_that_is_killed_does_no_harm(both: Path, starter: Starter, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words, before = train("digits-diffusion", pictures, out, *LONG), {}
    for killed, step in ((1, 3), (0, 9), (1, 18)):
        found = together(starter, words, killed, out / "checkpoints" / f"step-{step:08d}")
        assert found[killed].status == -signal.SIGKILL
        assert found[1 - killed].status != 0
        before = checkpoints(out)
    assert [ended.status for ended in together(starter, words)] == [0, 0]
    assert {name: checkpoints(out).get(name) for name in before} == before
    assert differences(both, out) == []


def test_processes_that_are_given_other_settings_do_not_begin(starter: Starter, pictures: Path, tmp_path: Path) -> None:
    for words, name in ((("--lr", "1e-5"), "lr"), (("--every", "4"), "every"), (("--out", str(tmp_path / "else")), "out")):
        found = together(starter, train("digits-diffusion", pictures, tmp_path / "run", *LONG), second=words)
        assert [ended.status for ended in found] == [2, 2]
        assert name in found[0].sentence
        assert "pixelpath: " not in found[1].said
        assert not (tmp_path / "run").exists()


def test_another_number_of_processes_is_said(both: Path, starter: Starter, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(both, out)
    (ended,) = starter.run(Command(train("digits-diffusion", pictures, out, *LONG)))
    assert ended.status == 0
    assert ended.said.count("began with 2 process(es) and goes on with 1") == 1
    found = together(starter, train("digits-diffusion", pictures, out, *LONG))
    assert not [ended for ended in found if "began with" in ended.said or ended.status]
