"""names.json says what the commands and recipes say; a wrong name or path is answered from it."""

import re
from pathlib import Path

import pytest
from tests import names as fresh

from pixelpath.commands import names
from pixelpath.commands.names import check, find_recipe, spelled
from pixelpath.commands.recipes import FIRST
from pixelpath.errors import MissingError, UserError


def test_the_file_is_what_the_commands_and_recipes_are() -> None:
    assert names.FILE.read_text() == fresh.text(), "run: python -m tests.names"


@pytest.mark.parametrize("name", fresh.RECIPES)
def test_recipes_of_a_kind_have_the_same_options_all_with_a_help_text(name: str) -> None:
    parsed = fresh.recipe_parser(fresh.RECIPES[name])
    assert fresh.options(parsed) == names.options("train", name)
    said = {
        name: re.sub(r"\((Of|default) .*", "", action.help or "") for action in parsed._actions for name in action.option_strings
    }
    assert [name for name, text in said.items() if not text.strip()] == []


def test_the_recipes_to_begin_with_are_recipes() -> None:
    assert set(FIRST) <= set(fresh.RECIPES)


def test_a_setting_in_backticks_is_spelled_as_its_option_and_other_words_stay() -> None:
    assert spelled("Set `data.held_out_share` or `lr`, see `pixelpath train --help`.") == (
        "Set --data.held-out-share or --lr, see `pixelpath train --help`."
    )


def test_the_recipe_among_the_arguments() -> None:
    assert find_recipe(["--out", "digits-encoder", "digits-diffusion"]) == ("digits-diffusion", ["--out", "digits-encoder"])
    assert find_recipe(["--dry-run", "digits-encoder"]) == ("digits-encoder", ["--dry-run"])
    for words, named in ((["digits-encodr"], "digits-encoder"), (["--out", "x"], "pixelpath recipes"), (["nothing"], "nothing")):
        with pytest.raises(UserError, match=named) as caught:
            find_recipe(words)
        assert caught.value.setting == "recipe"


@pytest.mark.parametrize(
    ("recipe", "word", "named"),
    [
        ("digits-encoder", "--step", "--steps"),
        ("digits-encoder", "--weight_decay=3", "--optimizer.weight-decay"),
        ("digits-diffusion", "--projector.hidden", "encoder"),
        ("digits-encoder", "--zzzzz", "--help-all"),
    ],
)
def test_an_unknown_option_is_answered_with_the_nearest_one(recipe: str, word: str, named: str) -> None:
    with pytest.raises(UserError, match=named):
        check("train", recipe, [word])


def test_known_options_pass_however_they_are_written() -> None:
    check("train", "digits-encoder", ["--batch_size", "3", "--optimizer.lr=1e-3", "--lr", "1e-3", "--warmup", "3", "--help-all"])


def test_what_is_there_without_a_path(tmp_path: Path) -> None:
    """The digits by their name, objects of a store, a file by its address; these are looked for when they are opened."""
    check("fit", "", ["digits", "--minutes", "3"])
    check("fit", "", ["s3://bucket/shards", "--minutes", "3"])
    check("train", "digits-diffusion", ["--data", "hf://datasets/owner/name", "--data.held-out", f"file://{tmp_path}"])
    with pytest.raises(MissingError, match="digits"):
        check("audit", "", ["digits"])


def test_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    here, gone = str(tmp_path / "run"), str(tmp_path / "gone")
    cases = [
        ("sample", [gone], "run"),
        ("start", ["fit", gone], "run"),
        ("evaluate", [here, gone, "--count", "3"], "run"),
        ("evaluate", [here, f"--data={gone}"], "data"),
        ("audit", [gone], "path"),
        ("train", ["--data.held-out", f"{gone}::x"], "data.held_out"),
        ("train", ["--out", here, "--encoder", gone], "encoder"),
    ]
    for command, words, setting in cases:
        with pytest.raises(MissingError, match="gone") as caught:
            check(command, "digits-diffusion" if command == "train" else "", words)
        assert caught.value.setting == setting
        check(command, "digits-diffusion" if command == "train" else "", [*words, "--help"])
    (tmp_path / "run" / "recipe.json").touch()
    check("train", "digits-diffusion", ["--out", here, "--encoder", gone])  # a run that has begun does not need it again
    check("sample", "", [here, "--checkpoint", "None"])


def test_a_recipe_whose_cost_is_asked_for_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="digits-encoder") as caught:
        check("audit", "", [str(tmp_path), "--recipe", "digits-encodr"])
    assert caught.value.setting == "recipe"
