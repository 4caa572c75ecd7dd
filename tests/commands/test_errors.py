"""Every mistake that a user can make is told in one sentence: what, where, and what to do."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.application import TINY, at_step, call, files, train

NO_INCEPTION = (
    "There is no Inception weights file" if importlib.util.find_spec("torch_fidelity") else "pip install 'pixelpath[metrics]'"
)
ONE, TWO = (f"train {stage} --out {{new}} {' '.join(TINY[stage])} --steps 6" for stage in ("digits-encoder", "digits-diffusion"))

MISTAKES = [
    # the command line
    ("trian", "Unknown command trian: did you mean train, start?"),
    ("train digits-encodr --out {new}", "Unknown recipe digits-encodr: did you mean digits-encoder"),
    ("train digits-encoder", "--out"),
    ("train --out {new}", "digits-encoder"),
    (f"{TWO} --data {{pictures}} --step 3", "--steps INT"),
    (f"{TWO} --data {{pictures}} --projector.hidden 3", "Unrecognized options: --projector.hidden"),
    (f"{TWO} --data {{pictures}} --size tinny", "Expected one of"),
    (f"{TWO} --data {{pictures}} --objective.weight flat --objective.weight.count 3", "There is no setting count of 'flat'"),
    # numbers
    (f"{ONE} --data {{pictures}} --steps 0", "--steps must be at least 1, got 0"),
    (f"{ONE} --data {{pictures}} --batch-size 0", "--batch-size must be at least 1, got 0"),
    (f"{ONE} --data {{pictures}} --batch-size 1", "needs at least 2 at a time: raise --batch-size"),
    (f"{ONE} --data {{pictures}} --accumulate 3", "choose a --batch-size that is a multiple of 3"),
    (f"{ONE} --data {{pictures}} --every 0", "--every must be at least 1, got 0"),
    (f"{ONE} --data {{pictures}} --keep 0", "--keep must be at least 1, got 0"),
    (f"{ONE} --data {{pictures}} --ema-decay 1", "--ema-decay must be at least 0 and below 1"),
    (f"{ONE} --data {{pictures}} --objective.noise.sigma_min -1", "objective.noise.sigma_min"),
    (f"{ONE} --data {{pictures}} --objective.noise.shift 2", "--objective.noise.shift"),
    (f"{ONE} --data {{pictures}} --augmentation.flip 2", "got 2"),
    (f"{ONE} --data {{pictures}} --optimizer.lr 0", "optimizer.lr"),
    (f"{ONE} --data {{pictures}} --size.encoder.heads 5", "a width that its heads divide"),
    (f"{TWO} --data {{pictures}} --size.encoder.depth 2", "choose equal depths"),
    (f"{TWO} --data {{pictures}} --device cuda:7", "There is no --device cuda:7 here"),
    (f"{TWO} --data {{pictures}} --device nonsense", "There is no --device nonsense here"),
    # data
    (TWO, "No data given: name a folder of images or a file of arrays as --data."),
    (f"{TWO} --data {{tmp}}/nowhere", "does not exist"),
    (f"{TWO} --data {{empty}}", "holds no images"),
    (f"{TWO} --data {{text}}", "is of no kind that can be read"),
    (f"{TWO} --data {{broken}}", "cannot be decoded as an image"),
    (f"{TWO} --data {{mixed}}", "bring all to one size with --data.resize"),
    (f"{TWO} --data {{nan}}", "holds NaN or infinity"),
    (f"{TWO} --data {{pictures}} --patch 3", "which a patch of 3 does not divide: set --data.resize"),
    (f"{TWO} --data {{pictures}} --patch 0", "--patch must be at least 1"),
    (f"{TWO} --data {{pictures}} --data.held-out-share 1", "--data.held-out-share"),
    # where a run begins
    (f"{ONE} --data {{pictures}} --encoder {{encoder}}", "use --init-from {encoder} instead"),
    (f"{ONE} --data {{pictures}} --init-from {{diffusion}}", "is a run of stage two"),
    (f"{TWO} --data {{pictures}} --encoder {{diffusion}}", "is a run of stage two: give a run of stage one"),
    (f"{TWO} --data {{pictures}} --init-from {{encoder}}", "{encoder} is a run of stage one"),
    (f"{TWO} --data {{pictures}} --encoder {{encoder}} --init-from {{diffusion}}", "give one"),
    (f"{TWO} --data {{pictures}} --encoder {{empty}}", "holds no checkpoint of a run"),
    (f"{TWO} --data {{pictures}} --freeze-encoder", "would freeze an encoder of random weights"),
    (f"{TWO} --data {{pictures}} --encoder {{encoder}} --size.encoder.width 64", "do not fit"),
    (f"{TWO} --data {{pictures}} --encoder {{encoder}} --patch 2", "the same --size, --patch and channels"),
    (f"{TWO} --data {{pictures}} --encoder {{encoder}} --data.channels 1", "the same --size, --patch and channels"),
    (f"{TWO} --data {{pictures}} --init-from {{diffusion}} --no-conditional", "--size, --patch, channels and classes"),
    # where it goes
    (f"{TWO} --data {{pictures}} --out {{pictures}}", "is there already and holds no run"),
    (f"{TWO} --data {{pictures}} --out {{text}}", "is there already and holds no run"),
    (f"{TWO} --data {{pictures}} --out {{diffusion}}", "began with --encoder"),
    (f"{TWO} --data {{pictures}} --out {{diffusion}} --encoder {{encoder}} --seed 5", "(seed was 0 and is 5)"),
    (f"{TWO} --data {{fewer}} --out {{diffusion}} --encoder {{encoder}}", "holds a run on other data (held_out was"),
    # sampling
    ("sample {empty}", "holds no checkpoint of a run"),
    ("sample {encoder}", "train a diffusion recipe with it as --encoder first"),
    ("sample {diffusion} --count 0", "--count must be at least 1"),
    ("sample {diffusion} --first-seed -1", "--first-seed must be at least 0"),
    ("sample {diffusion} --steps 0", "--steps must be from 1 to"),
    ("sample {diffusion} --steps 2 --sigmas 3", "--steps and --sigmas both say how many steps to take: give one"),
    ("sample {diffusion} --guidance nan", "--guidance must be finite"),
    ("sample {diffusion} --guidance-interval nan nan", "--guidance-interval takes the lower sigma first"),
    ("sample {diffusion} --sigmas nan", "must fall strictly between"),
    ("evaluate {diffusion} {plain} --steps 1,2", "their distances cannot be compared"),
    (f"{TWO} --data {{pictures}} --out {{new}} --sampling.steps 0", "`steps` must be from 1 to 100,000, got 0."),
    ("sample {diffusion} --batch-size 0", "--batch-size must be at least 1"),
    ("sample {diffusion} --guidance-interval 3 1", "--guidance-interval takes the lower sigma first"),
    ("sample {diffusion} --sampler dpm", "Expected one of"),
    ("sample {diffusion} --classes dawn", "has no class dawn: choose from down"),
    ("sample {diffusion} --classes 2", "or a number below 2"),
    ("sample {diffusion} --out {pictures}", "is there already and not an empty folder"),
    ("sample {diffusion} --checkpoint {diffusion}/checkpoints/step-00000099", "There is no checkpoint"),
    ("sample {diffusion} --guide-with {plain}", "was trained on other images"),
    ("sample {plain} --classes 1", "is unconditional and knows no classes"),
    ("sample {plain} --guidance 2", "give --guide-with"),
    ("sample {damaged}", "its checksum is not the one it was written with"),
    # measuring
    ("evaluate {encoder}", "is a run of stage one"),
    ("evaluate {diffusion} --count 0", "--count must be at least 1"),
    ("evaluate {diffusion} --count 3 --no-use-inception", "need more than 3 images"),
    ("evaluate {diffusion} --data {plain_data}", "are 2x8x8 float32 but"),
    ("evaluate {diffusion} --encoder {diffusion}", "give a run of stage one"),
    ("evaluate {diffusion} --inception {tmp}/nowhere.pth --count 8", NO_INCEPTION),
    ("evaluate {no_json}", "is not JSON"),
    ("probe {plain}", "needs images of 2 or more classes"),
    ("probe {diffusion} --limit 0", "--limit must be at least 1"),
    ("probe {empty}", "holds no checkpoint of a run"),
]


@pytest.fixture(scope="module")
def places(
    pictures: Path, encoder_run: Path, diffusion_run: Path, plain_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Good and bad data and runs, by the names that the mistakes call them."""
    tmp = tmp_path_factory.mktemp("mistakes")
    for name in ("empty", "broken", "mixed"):
        (tmp / name).mkdir()
    (tmp / "text").write_text("not a picture")
    (tmp / "broken" / "a.png").write_text("not a picture")
    for place, size in enumerate(((8, 8), (8, 8), (9, 8))):
        Image.new("RGB", size).save(tmp / "mixed" / f"{place}.png")
    np.save(tmp / "nan.npy", np.full((9, 1, 8, 8), np.nan, np.float32))
    for run in ("damaged", "no_json"):
        shutil.copytree(diffusion_run, tmp / run)
    (tmp / "damaged" / "checkpoints" / "step-00000006" / "ema.safetensors").write_text("nothing")
    (tmp / "no_json" / "evaluation.json").write_text("[")
    fewer = tmp / "fewer"
    shutil.copytree(pictures, fewer)
    for path in list(fewer.glob("*/0*.png")):
        path.unlink()
    return {
        "tmp": tmp, "new": tmp / "new", "empty": tmp / "empty", "text": tmp / "text", "broken": tmp / "broken",
        "mixed": tmp / "mixed", "nan": tmp / "nan.npy", "fewer": fewer, "damaged": tmp / "damaged", "no_json": tmp / "no_json",
        "pictures": pictures, "encoder": encoder_run, "diffusion": diffusion_run, "plain": plain_run,
        "plain_data": plain_run.parent / "plain.npy",
    }  # fmt: skip


@pytest.mark.parametrize(("words", "sentence"), MISTAKES, ids=[sentence[:40] for _, sentence in MISTAKES])
def test_a_mistake_is_one_sentence(
    words: str, sentence: str, places: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(places["diffusion"])
    assert call(*words.format(**places).split()) == 2
    said = capsys.readouterr().err
    plain = " ".join(said.replace("│", " ").split())  # tyro's own errors stand in boxes and point to the help
    assert sentence.format(**places) in plain
    assert "Traceback" not in said
    if "full helptext" not in plain:
        last = said.splitlines()[-1]
        assert last.startswith("pixelpath: ")
        assert last.endswith((".", ".)"))
        assert "came from inside" not in last
    assert not places["new"].exists()
    assert files(places["diffusion"]) == before


def test_tensorboard_without_its_package(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    assert train("digits-diffusion", pictures, tmp_path, "--tensorboard") == 2
    assert "pip install 'pixelpath[track]'" in capsys.readouterr().err


def test_a_run_whose_checkpoints_are_all_damaged(diffusion_run: Path, pictures: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(diffusion_run, tmp_path / "run")
    for path in (tmp_path / "run").glob("checkpoints/*/student.safetensors"):
        path.write_text("nothing")
    encoder = json.loads((diffusion_run / "origin.json").read_text())["encoder"]
    assert train("digits-diffusion", pictures, tmp_path / "run", "--encoder", encoder) == 2
    assert "All checkpoints of" in capsys.readouterr().err


def test_an_error_of_the_system_names_its_file(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "metrics.jsonl"))

    with at_step(2, full):
        assert train("digits-diffusion", pictures, tmp_path) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"pixelpath: {tmp_path / 'metrics.jsonl'}: No space left on device."


def test_an_error_from_inside_says_so(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with at_step(2, lambda: int("x")):
        assert train("digits-diffusion", pictures, tmp_path) == 2
    assert "(This came from inside; PIXELPATH_TRACEBACK=1 shows where.)" in capsys.readouterr().err


def test_the_place_of_an_error_can_be_asked_for(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIXELPATH_TRACEBACK", "1")
    with pytest.raises(ValueError, match="No data given"):
        call("train", "digits-diffusion", "--out", tmp_path / "new")
