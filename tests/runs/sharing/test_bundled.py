"""Models that come with pixelpath open by name, look as their card says, repeat, and are never written to."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from examples.bundle import MOST, differences, rounded, size_of
from PIL import Image
from safetensors.torch import load_file
from tests.application import call, files

import pixelpath as pp
from pixelpath.errors import UserError
from pixelpath.runs.opened import open_run
from pixelpath.runs.sample import sample
from pixelpath.runs.sample_conditions import choose_labels
from pixelpath.runs.sharing import bundled
from pixelpath.runs.sharing.bundled import BUNDLED, CARD, bundled_names, located
from pixelpath.trainer import checkpoint

SPRITES = BUNDLED / "sprites"
ROUNDING = 1.0  # levels of 255 by which weights rounded to half move samples, on average, at most


@pytest.fixture(scope="module")
def card() -> dict:
    return json.loads((SPRITES / CARD).read_text())


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_bundled_model_is_small_and_holds_the_ema_alone_as_halves() -> None:
    assert "sprites" in bundled_names()
    assert size_of(SPRITES) <= MOST
    folder = checkpoint.latest(SPRITES)
    assert folder is not None
    assert checkpoint.good(folder)
    assert sorted(path.suffix for path in folder.iterdir()) == [".json"] * 4 + [".safetensors"]
    assert {value.dtype for value in load_file(folder / "ema.safetensors").values()} == {torch.float16}
    assert {value.dtype for value in open_run("sprites").model.state_dict().values()} == {torch.float32}
    assert not any("/" in str(value) for value in open_run("sprites").recipe.data.__dict__.values())


def test_sprites_look_as_their_card_says_and_repeat(elsewhere: Path, card: dict) -> None:
    run = pp.load("sprites")
    one, other = run.sample(32), run.sample(8, seed=4)
    assert np.array_equal(one.images[4:12], other.images)
    colours, alpha = one.images[:, :3], one.images[:, 3:]
    assert (colours <= alpha.astype(int) + 8).mean() > 0.95  # premultiplied: no colour where nothing can be seen
    assert ((alpha < 8) | (alpha > 247)).mean() > 0.85  # opaque or clear, but for edges
    assert one.images.mean((0, 2, 3)) == pytest.approx(card["mean_values"], rel=0.25, abs=8)  # half as many samples
    assert card["rounding"]["mean"] < ROUNDING


def test_the_command_writes_beside_it_and_never_into_it(elsewhere: Path) -> None:
    before = files(SPRITES)
    assert call("sample", "sprites", "--count", 4, "--nfe", 4) == 0
    pictures = [path for path in (elsewhere / "sprites-samples" / "1").glob("*.png") if path.name != "grid.png"]
    assert [Image.open(path).mode for path in pictures] == ["RGBA"] * 4
    assert call("edit", "sprites", "--between", 1, 2, "--count", 2, "--nfe", 4) == 0
    assert (elsewhere / "sprites-edits" / "1" / "grid.png").is_file()
    assert not (elsewhere / "sprites").exists()
    for words in (["evaluate", "sprites"], ["tune", "sprites"], ["report", "sprites"], ["start", "fit", "sprites"]):
        assert call(*words) == 2
    assert files(SPRITES) == before


def test_a_run_of_that_name_in_the_working_directory_comes_first(elsewhere: Path, diffusion_run: Path) -> None:
    assert located("sprites") == SPRITES
    (elsewhere / "sprites").mkdir()
    assert located("sprites") == SPRITES
    shutil.copytree(diffusion_run, elsewhere / "sprites", dirs_exist_ok=True)
    assert located("sprites") == Path("sprites")
    assert open_run("sprites").recipe.name == "digits-diffusion"
    assert located(elsewhere / "sprites") == elsewhere / "sprites"


def test_a_run_can_begin_with_it_and_be_compared_with_it(elsewhere: Path) -> None:
    data = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 4), np.uint8)
    np.savez("data.npz", images=data, labels=np.arange(24) % 6)
    recipe = open_run("sprites").recipe
    network = ["--patch", recipe.patch, "--pixel-head", recipe.pixel_head, "--pixel-blocks", recipe.pixel_blocks]
    words = ["cpu-32-diffusion", "--data", "data.npz", "--data.alpha", "premultiplied", *network]
    assert call("train", *words, "--out", "run", "--init-from", "sprites", "--steps", 1, "--batch-size", 2) == 0
    assert json.loads((elsewhere / "run" / "origin.json").read_text())["init_from"] == str(SPRITES)
    found = pp.compare(
        "sprites",
        Path("data.npz"),
        features=["pixels"],
        measures=["frechet"],
        count=24,
        settings=pp.DataSettings(alpha="premultiplied"),
    )
    assert found.distances[0]["images"] == 24


def test_rounding_to_halves_moves_samples_little(diffusion_run: Path, tmp_path: Path) -> None:
    run = open_run(diffusion_run)
    half = open_run(rounded(run, tmp_path / "half"))
    found = differences(*(sample(each, range(8), choose_labels(each, range(8), ())) for each in (run, half)))
    assert 0 < found["mean"] < ROUNDING
    assert half.recipe.data.path is None
    weights, halves = run.model.state_dict(), half.model.state_dict()
    assert all(torch.equal(halves[name], value.half().float()) for name, value in weights.items())


def test_a_copy_is_a_run_as_any_other(tmp_path: Path) -> None:
    copy = shutil.copytree(SPRITES, tmp_path / "own")
    assert call("sample", copy, "--count", 2, "--nfe", 2) == 0
    assert (copy / "samples" / "1" / "grid.png").exists()
    bundled.check_writable(copy)
    with pytest.raises(UserError) as caught:
        bundled.check_writable(SPRITES)
    assert caught.value.setting == "run"
