"""Every document of a run is what was written, or the next command says that it is not."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from tests.reliability.harness import Command, Kind, Starter, train

DEEP = 10**6


def flip_digit(text: str, place: int) -> str:
    """The text with its digit number `place` changed."""
    at = [match.start() for match in re.finditer(r"\d", text)][place]
    return text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :]


def taken_up(starter: Starter, kind: Kind, data: Path, run: Path) -> str:
    """What the same command says of a damaged run: a sentence, or that it went back to an earlier checkpoint."""
    (ended,) = starter.run(Command(train(kind.recipe, data, run, *kind.origin)))
    assert "Traceback" not in ended.said, ended.said
    return ended.said


@pytest.mark.parametrize("name", ["state.json", "recipe.json", "data.json", "normaliser.json"])
def test_a_changed_digit_of_a_checkpoint_is_noticed(
    name: str, starter: Starter, kinds: dict[str, Kind], pictures: Path, tmp_path: Path
) -> None:
    kind = kinds["digits-onestep"]
    shutil.copytree(kind.straight, tmp_path / "run")
    file = tmp_path / "run" / "checkpoints" / "step-00000009" / name
    text = file.read_text()
    count = len(re.findall(r"\d", text))
    for place in range(0, count, max(1, count // 6)):
        changed = flip_digit(text, place)
        if json.loads(changed) == json.loads(text):
            continue  # the last digit of a number that is rounded to the same
        file.write_text(changed)
        assert "step-00000009 is damaged" in taken_up(starter, kind, pictures, tmp_path / "run"), place
        shutil.rmtree(tmp_path / "run")
        shutil.copytree(kind.straight, tmp_path / "run")


@pytest.mark.parametrize("name", ["recipe.json", "origin.json", "environment.json"])
def test_a_changed_character_of_a_document_of_the_run_is_noticed(
    name: str, starter: Starter, kinds: dict[str, Kind], pictures: Path, tmp_path: Path
) -> None:
    kind = kinds["digits-onestep"]
    shutil.copytree(kind.straight, tmp_path / "run")
    file = tmp_path / "run" / name
    for text in (flip_digit(file.read_text(), 0), file.read_text()[:-3], "", "[]", "null", "\x00" * 50, "[" * DEEP):
        file.write_text(text)
        assert name in taken_up(starter, kind, pictures, tmp_path / "run"), text[:40]


@pytest.mark.parametrize("name", ["state.json", "recipe.json", "data.json", "normaliser.json"])
@pytest.mark.parametrize("text", ["", "[]", "null", "7", "{}", '{"step": "nine", "seed": 0}', "[" * DEEP, '{"a":' * DEEP])
def test_a_document_that_is_none_gets_a_sentence(
    name: str, text: str, starter: Starter, kinds: dict[str, Kind], pictures: Path, tmp_path: Path
) -> None:
    kind = kinds["digits-diffusion"]
    shutil.copytree(kind.straight, tmp_path / "run")
    for file in (tmp_path / "run").glob(f"checkpoints/*/{name}"):
        file.write_text(text)
    sampled = ("sample", str(tmp_path / "run"), "--count", "2", "--out", str(tmp_path / "made"))
    for words in (train(kind.recipe, pictures, tmp_path / "run", *kind.origin), sampled):
        (ended,) = starter.run(Command(words))
        assert str(tmp_path / "run") in ended.sentence


@pytest.mark.parametrize("text", ["[" * DEEP, '{"name":' * DEEP])
def test_a_deeply_nested_recipe_gets_a_sentence(text: str, starter: Starter, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(text)
    words = ("audit", str(pictures), "--recipe", str(tmp_path / "recipe.json"), "--out", str(tmp_path / "audit"))
    (ended,) = starter.run(Command(words))
    assert "recipe" in ended.sentence
