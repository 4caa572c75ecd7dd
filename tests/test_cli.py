"""The command line: quick, complete, and every setting of a recipe an option of it."""

import functools
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pixelpath import cli
from pixelpath.commands import train as train_module
from pixelpath.commands.names import options as known_options
from pixelpath.commands.names import recipes as known_recipes
from pixelpath.commands.recipes import FIRST
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


QUICK = [
    ("--help", 0, "fit"),
    ("train --help", 0, "cpu-32-diffusion"),
    ("recipes", 0, "imagenet256-XL-diffusion"),
    ("trian", 2, "train"),
    ("train digits-encodr --out x", 2, "digits-encoder"),
    ("train digits-encoder --step 3", 2, "--steps"),
    ("train digits-encoder --out x --data nowhere", 2, "nowhere"),
    ("sample nowhere", 2, "nowhere"),
]


@pytest.mark.parametrize(("words", "status", "named"), QUICK, ids=[words for words, *_ in QUICK])
def test_help_and_mistakes_in_names_are_answered_at_once_and_without_torch(words: str, status: int, named: str) -> None:
    script = (
        f"import sys; sys.argv = ['pixelpath', *{words.split()}]\nfrom pixelpath.cli import main\n"
        "try:\n    main()\nfinally:\n    assert not {'torch', 'numpy', 'sklearn', 'matplotlib'} & set(sys.modules)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert told.returncode == status
    assert named in told.stdout + told.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5


def test_the_package_runs_as_a_module() -> None:
    told = subprocess.run([sys.executable, "-m", "pixelpath", "sample", "nowhere"], capture_output=True, text=True, check=False)
    assert told.returncode == 2
    assert told.stderr.startswith("pixelpath: nowhere does not exist")


def test_help_names_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--help") == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in cli.COMMANDS)


def test_help_of_train_names_the_recipes_to_begin_with_and_where_all_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("train", "--help") == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in FIRST)
    assert "pixelpath recipes" in said


def test_recipes_are_a_table_with_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("recipes") == 0
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(RECIPES)
    row = known_recipes()["small-64-diffusion"]
    facts = next(line for line in lines if line.startswith("small-64-diffusion")).split()[1:]
    assert facts == ["two", "64", str(row.patch), f"{row.parameters / 1e6:.1f}", "M", f"{row.steps:,}", str(row.batch_size)]


@pytest.mark.parametrize("name", [name for name in cli.COMMANDS if name != "train"])
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


def test_a_run_may_be_called_like_a_recipe(parsed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small-32-encoder").mkdir()
    found = parsed("--out", "digits-encoder", "digits-diffusion", "--encoder", "small-32-encoder")
    assert (found["recipe"].name, found["out"]) == ("digits-diffusion", Path("digits-encoder"))


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


def test_short_spellings(parsed: Any, tmp_path: Path) -> None:
    short = parsed("digits-diffusion", "--out", "x", "--lr", ".5", "--warmup", 7, "--data", tmp_path)
    row = RECIPES["digits-diffusion"]()
    assert short["recipe"].optimizer == replace(row.optimizer, lr=0.5)
    assert short["recipe"].schedule == replace(row.schedule, warmup=7)
    assert short["data"] == tmp_path
    long = parsed("digits-diffusion", "--out", "x", "--optimizer.lr", ".5", "--schedule.warmup", 7, "--data.path", tmp_path)
    assert long["recipe"].optimizer == short["recipe"].optimizer
    assert long["recipe"].data.path == tmp_path


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
    steps = chosen("--schedule", "steps", "--schedule.borders", ".1", ".5", ".2", ".1").schedule
    assert steps == Steps(row.schedule.warmup, ((0.1, 0.5), (0.2, 0.1)))
    assert chosen("--preconditioning", "edm", "--preconditioning.boundary", ".1").preconditioning == EDMPreconditioning(0.5, 0.1)


def test_settings_of_stage_one(parsed: Any) -> None:
    words = "--augmentation small --augmentation.flip 0 --objective.temperature interpolated --objective.temperature.highest .3"
    recipe = parsed("digits-encoder", "--out", "x", *words.split())["recipe"]
    assert recipe.augmentation == replace(SMALL, flip=0.0)
    assert isinstance(recipe.objective, RepresentationLearning)
    assert recipe.objective.temperature == InterpolatedTemperature(highest=0.3)


def helped(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command says of itself, without the boxes."""
    capsys.readouterr()
    assert call(*words) == 0
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_help_of_a_recipe_shows_its_values_and_only_what_its_stage_uses(capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (helped(capsys, "train", name, "--help-all") for name in ("digits-encoder", "digits-diffusion"))
    assert f"(default: {RECIPES['digits-encoder']().steps})" in one
    assert "--augmentation {photographs,small,single-channel,digits}" in one
    assert "--augmentation" not in two
    assert "--objective.weight {grid,edm,flat}" in two
    assert "--preconditioning {x-prediction,edm,anchored}" in two
    assert "--optimizer {adamw,muon}" in two
    assert "--freeze-encoder" not in one
    assert "--freeze-encoder" in two
    assert "--objective.noise.shift" not in one + two


def test_help_shows_the_usual_options_and_help_all_every_one(capsys: pytest.CaptureFixture[str]) -> None:
    usual, every = (helped(capsys, "train", "digits-diffusion", word) for word in ("--help", "--help-all"))
    basic = "data out encoder init-from device steps batch-size lr warmup ema-decay size seed patch every keep dry-run"
    assert [name for name in basic.split() if f"--{name} " not in usual.replace(",", " ")] == []
    assert "--help-all" in usual
    assert "--sampling.steps" not in usual
    assert [name for name in known_options("train", "digits-diffusion") if name not in every] == []
