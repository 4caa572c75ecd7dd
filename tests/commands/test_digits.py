"""`digits` names images that come with scikit-learn, for `train` as for `fit`."""

import json
from pathlib import Path

import pytest
from tests.application import call

FEW = ("--steps", 2, "--batch-size", 8, "--device", "cpu")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_training_writes_them_beside_the_run_and_takes_it_up_again() -> None:
    command = ("train", "digits-diffusion", "--data", "digits", "--out", "runs/one")
    assert call(*command, *FEW) == 0
    assert {path.name for path in Path("runs").iterdir()} == {"digits.npz", "one"}
    kept = json.loads(Path("runs/one/recipe.json").read_text())["data"]["path"]
    assert Path(kept) == Path("runs/digits.npz").absolute()
    assert call(*command, *FEW) == 0


def test_a_dry_run_leaves_nothing_of_them() -> None:
    assert call("train", "digits-diffusion", "--data", "digits", "--out", "runs/one", "--dry-run", *FEW) == 0
    assert not Path("runs").exists()


def test_a_folder_of_that_name_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    Path("digits").mkdir()
    assert call("train", "digits-diffusion", "--data", "digits", "--out", "one", *FEW) == 2
    assert "digits" in capsys.readouterr().err
    assert not Path("digits.npz").exists()
