"""The command line: quick, complete, and every setting of a recipe an option of it."""

import functools
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pixelpath import cli
from pixelpath.commands import train as train_module
from pixelpath.commands.settings import pick
from pixelpath.data.augment import SMALL
from pixelpath.models.preconditioning import EDMPreconditioning
from pixelpath.noise import EDMWeight, FlatWeight, GridLogNormal, GridWeight, LogNormal
from pixelpath.objectives.denoising import Denoising
from pixelpath.objectives.representation import InterpolatedTemperature, RepresentationLearning
from pixelpath.recipes import RECIPES, sizes
from pixelpath.recipes.recipe import Precision, Recipe
from pixelpath.recipes.sizes import Blocks
from pixelpath.trainer.optimizer import Constant, Steps
from tests.application import call


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function from the words of a `train` command to what training would be called with."""
    seen: dict[str, Any] = {}
    command = train_module.train

    @functools.wraps(command)
    def record(recipe: Recipe, **settings: Any) -> None:
        seen.update(settings, recipe=recipe)

    def read(*words: object) -> dict[str, Any]:
        seen.clear()
        assert call("train", *words) == 0
        return dict(seen)

    monkeypatch.setattr(train_module, "train", record)
    return read


def test_help_answers_within_a_second_and_without_torch() -> None:
    script = (
        "import sys; sys.argv = ['pixelpath', '--help']; from pixelpath.cli import main; main();"
        "assert not {'torch', 'numpy', 'tyro'} & set(sys.modules)"
    )
    seconds, said = [], ""
    for _ in range(3):
        began = time.perf_counter()
        said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 1
    assert all(f"  {name} " in said for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(name, "--help") == 0
    said = capsys.readouterr().out
    assert f"usage: pixelpath {name}" in said
    assert "noqa" not in said


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out.startswith("pixelpath 0.")


def test_the_completion_script_knows_commands_recipes_and_choices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--tyro-print-completion", "bash") == 0
    script = capsys.readouterr().out
    words = [*cli.COMMANDS, *RECIPES, "--objective.weight.limit", "grid-log-normal", "--size.encoder.depth", "--guide-with"]
    assert [word for word in words if word not in script] == []
    (tmp_path / "script.sh").write_text(script)
    subprocess.run(["bash", "-n", tmp_path / "script.sh"], check=True)


@pytest.mark.parametrize("name", RECIPES)
def test_without_options_a_recipe_stays_as_it_is(name: str, parsed: Any) -> None:
    found = parsed(name, "--out", "run")
    assert (found["recipe"], found["out"]) == (RECIPES[name](), Path("run"))


def test_options_may_stand_before_the_recipe(parsed: Any) -> None:
    before = parsed("--out", "run", "--seed", 3, "digits-encoder")
    assert before == parsed("digits-encoder", "--seed", 3, "--out", "run")
    assert before["recipe"].seed == 3


def test_a_run_may_be_called_like_a_recipe(parsed: Any) -> None:
    found = parsed("--out", "digits-encoder", "digits-diffusion", "--encoder", "small-32-encoder")
    assert (found["recipe"].name, found["out"]) == ("digits-diffusion", Path("digits-encoder"))
    assert pick(["--dry-run", "digits-encoder"])[0] == "digits-encoder"
    assert pick(["--data.resize", "16", "16"]) == ("", None, ["--data.resize", "16", "16"])


def test_plain_settings(parsed: Any) -> None:
    words = (
        "--steps 7 --optimizer.clip None --data.resize 16 24 --objective.noise.sigma_max 40 --precision bfloat16 --no-conditional"
    )
    row, recipe = RECIPES["digits-diffusion"](), parsed("digits-diffusion", "--out", "x", *words.split())["recipe"]
    expected = replace(
        row,
        steps=7,
        optimizer=replace(row.optimizer, clip=None),
        data=replace(row.data, resize=(16, 24)),
        objective=replace(row.objective, noise=replace(row.objective.noise, sigma_max=40.0)),
        precision=Precision.BFLOAT16,
        conditional=False,
    )
    assert recipe == expected


def test_a_size_by_name_and_its_parts(parsed: Any) -> None:
    def size(*words: str) -> sizes.Size:
        return parsed("digits-encoder", "--out", "x", *words)["recipe"].size

    assert size("--size", "small") == sizes.SMALL
    nano = sizes.NANO.encoder
    assert size("--size.encoder.depth", "2").encoder == Blocks(2, nano.width, nano.heads)
    both = size("--size", "small", "--size.encoder.width", "60", "--size.encoder.heads", "5", "--size.encoder.depth", "3")
    assert both == sizes.Size(Blocks(3, 60, 5), sizes.SMALL.decoder)


def test_settings_of_several_types(parsed: Any) -> None:
    def chosen(*words: str) -> Recipe:
        return parsed("digits-diffusion", "--out", "x", *words)["recipe"]

    def objective(*words: str) -> Denoising:
        found = chosen(*words).objective
        assert isinstance(found, Denoising)
        return found

    row = RECIPES["digits-diffusion"]()
    assert isinstance(row.objective, Denoising)
    assert isinstance(row.objective.draw, GridLogNormal)
    assert objective("--objective.weight", "edm", "--objective.weight.limit", "7").weight == EDMWeight(limit=7.0)
    assert objective("--objective.weight.count", "640").weight == GridWeight(640)
    assert objective("--objective.weight", "flat").weight == FlatWeight()
    drawn = objective("--objective.draw", "log-normal", "--objective.draw.p-std", "2").draw
    assert drawn == LogNormal(row.objective.draw.p_mean, 2.0)  # the mean belongs to the recipe, whatever the type of draw
    assert chosen("--schedule", "constant").schedule == Constant(row.schedule.warmup)
    steps = chosen("--schedule", "steps", "--schedule.borders", "0.25", ".5", "0.5", ".1").schedule
    assert steps == Steps(row.schedule.warmup, ((0.25, 0.5), (0.5, 0.1)))
    assert chosen("--preconditioning", "edm", "--preconditioning.boundary", ".1").preconditioning == EDMPreconditioning(0.5, 0.1)


def test_settings_of_stage_one(parsed: Any) -> None:
    words = "--augmentation small --augmentation.flip 0 --objective.temperature interpolated --objective.temperature.highest .3"
    recipe = parsed("digits-encoder", "--out", "x", *words.split())["recipe"]
    assert recipe.augmentation == replace(SMALL, flip=0.0)
    assert isinstance(recipe.objective, RepresentationLearning)
    assert recipe.objective.temperature == InterpolatedTemperature(highest=0.3)


def test_help_of_a_recipe_shows_its_values_and_only_what_its_stage_uses(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("train", "digits-encoder", "--help") == 0
    one = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert call("train", "digits-diffusion", "--help") == 0
    two = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert f"(default: {RECIPES['digits-encoder']().steps})" in one
    assert "--augmentation {photographs,small,single-channel,digits}" in one
    assert "--augmentation" not in two
    assert "--objective.weight {grid,edm,flat}" in two
    assert "--freeze-encoder" not in one
    assert "--freeze-encoder" in two
