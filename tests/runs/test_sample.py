"""Images through the command: a function of seed, class and settings alone; every setting on record; nothing overwritten."""

import itertools
import json
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.application import call, files, train

from pixelpath import processes
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.randomness import Streams, normal, seed_of
from pixelpath.runs import sample as sample_module
from pixelpath.runs.generate import generate
from pixelpath.runs.opened import open_run
from pixelpath.runs.sample import columns_of, completed
from pixelpath.sampling.sampler import Sampling

NFE = {"euler": 4, "heun": 7, "heun_stochastic": 7, "euler_ancestral": 4, "dpmpp_2m": 4, "consistency": 4}  # of 4 steps


def pixels(folder: Path) -> np.ndarray:
    """The PNG files of a folder in order, [image, row, column, channel]."""
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("0*.png"))])


def equal_up_to_rounding(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether 8-bit images differ by at most 1, and in fewer than one value of a hundred."""
    apart = np.abs(first.astype(int) - second)
    return bool(apart.max() <= 1 and (apart > 0).mean() < 0.01)


@pytest.mark.parametrize(
    ("count", "classes", "columns"),
    [(64, 0, 8), (30, 0, 10), (33, 0, 11), (48, 0, 12), (35, 0, 12), (64, 10, 10), (30, 6, 12), (60, 7, 12), (64, 2, 8)],
)
def test_a_grid_has_full_rows_and_columns_of_a_class(count: int, classes: int, columns: int) -> None:
    """35 images leave one place of 12 or of 9 empty, and the wider is taken; 7 classes stand only in 7 columns, too few."""
    assert columns_of(count, classes) == columns


def settings(folder: Path) -> dict:
    return json.loads((folder / "samples.json").read_text())


def test_an_image_is_a_function_of_its_seed_at_any_batch_size(diffusion_run: Path, tmp_path: Path) -> None:
    for sampler in ("heun", "euler_ancestral"):
        sizes = {}
        for batch in (1, 3, 64):
            out = tmp_path / f"{sampler}{batch}"
            assert call("sample", diffusion_run, "--count", 7, "--batch-size", batch, "--sampler", sampler, "--out", out) == 0
            sizes[batch] = pixels(out)
        assert equal_up_to_rounding(sizes[1], sizes[64])
        assert equal_up_to_rounding(sizes[3], sizes[64])
        later = tmp_path / f"{sampler}-later"
        assert call("sample", diffusion_run, "--count", 2, "--first-seed", 5, "--sampler", sampler, "--out", later) == 0
        assert sorted(path.name for path in later.glob("0*.png")) == ["000005.png", "000006.png"]
        assert equal_up_to_rounding(pixels(later), sizes[64][5:])


def test_images_go_to_a_file_while_they_are_made(diffusion_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into a file they are those in memory, and of 20 batches no more than two are ever held at once."""
    run, seeds = open_run(diffusion_run), range(40)
    labels = torch.arange(40) % 2
    plain = sample_module.sample(run, seeds, labels, Sampling(steps=1), 2)
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0
    decode = Normaliser.decode

    def watched(normaliser: Normaliser, images: torch.Tensor) -> torch.Tensor:
        nonlocal most
        native = decode(normaliser, images)
        alive.append(weakref.ref(native))
        most = max(most, sum(reference() is not None for reference in alive))
        return native

    monkeypatch.setattr(Normaliser, "decode", watched)
    made = sample_module.sample(run, seeds, labels, Sampling(steps=1), 2, tmp_path / "samples")
    assert len(alive) == 20
    assert most <= 2
    assert torch.equal(made.native, plain.native)
    assert made.settings == plain.settings
    assert (tmp_path / "samples").stat().st_size == plain.native.numel()
    kept = (tmp_path / "samples").read_bytes()
    made.images[:] = 0  # whoever changes samples does not change the file
    assert (tmp_path / "samples").read_bytes() == kept


@pytest.mark.parametrize(("count", "size", "ranks"), [(10, 4, 2), (10, 4, 5), (3, 64, 2), (8, 2, 3)])
def test_processes_share_whole_batches(count: int, size: int, ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "count", lambda: ranks)
    shares = []
    for rank in range(ranks):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        shares.append(sample_module.own_rows(count, size).tolist())
    assert sorted(itertools.chain(*shares)) == list(range(count))
    batches = {tuple(share[at : at + size]) for share in shares for at in range(0, len(share), size)}
    assert batches == {tuple(range(at, min(at + size, count))) for at in range(0, count, size)}


@pytest.mark.parametrize("sampler", NFE)
@pytest.mark.parametrize("guidance", [1, 2])
def test_every_sampler_runs_and_its_evaluations_are_counted(
    sampler: str, guidance: int, diffusion_run: Path, tmp_path: Path
) -> None:
    words = ("--count", 5, "--batch-size", 2, "--steps", 4, "--sampler", sampler, "--guidance", guidance, "--out", tmp_path)
    assert call("sample", diffusion_run, *words) == 0
    assert settings(tmp_path)["nfe"] == NFE[sampler] * guidance  # guided: each with and without its label


def test_guidance_inside_an_interval_costs_less(diffusion_run: Path, tmp_path: Path) -> None:
    words = ("--count", 3, "--steps", 8, "--sampler", "heun", "--guidance", 2, "--out", tmp_path)
    assert call("sample", diffusion_run, *words, "--guidance-interval", 1, 50) == 0
    made = settings(tmp_path)
    inside = [1 < level / (8 / 64) <= 50 for level in made["sigmas"][:-1]]
    again = sum(inside) + sum(inside[1:])  # Heun comes to every level but the first and 0 twice
    assert made["nfe"] == 15 + again
    assert made["guidance_interval"] == [1, 50]


def test_the_settings_are_complete(diffusion_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("sample", diffusion_run, "--count", 3, "--first-seed", 4, "--out", tmp_path / "first") == 0
    made = settings(tmp_path / "first")
    expected = {
        "run": str(diffusion_run), "recipe": "digits-diffusion", "checkpoint": "step-00000006", "step": 6, "seeds": [4, 6],
        "labels": [0, 1, 0], "classes": ["across", "down"], "sampler": "dpmpp_2m", "steps": 2, "guidance": 1.5,
        "guide_with": None, "shape": [3, 8, 8], "dtype": "uint8", "device": "cpu", "files": ["000004.png", "000006.png"],
    }  # fmt: skip
    assert {key: made[key] for key in expected} == expected
    said = capsys.readouterr().err
    assert "images/s" in said
    assert "peak memory" in said


def test_classes_are_taken_in_turn(diffusion_run: Path, tmp_path: Path) -> None:
    assert call("sample", diffusion_run, "--count", 3, "--classes", "down", "--out", tmp_path / "name") == 0
    assert call("sample", diffusion_run, "--count", 3, "--classes", 1, "--out", tmp_path / "number") == 0
    assert call("sample", diffusion_run, "--count", 3, "--classes", "down", "across", "--out", tmp_path / "both") == 0
    assert call("sample", diffusion_run, "--count", 3, "--out", tmp_path / "balanced") == 0
    assert [settings(tmp_path / name)["labels"] for name in ("name", "both", "balanced")] == [[1, 1, 1], [1, 0, 1], [0, 1, 0]]
    assert np.array_equal(pixels(tmp_path / "name"), pixels(tmp_path / "number"))
    assert np.array_equal(pixels(tmp_path / "name")[[0, 2]], pixels(tmp_path / "both")[[0, 2]])
    assert np.array_equal(pixels(tmp_path / "both")[1], pixels(tmp_path / "name")[1]) is False


def test_float_data_comes_back_as_an_array_in_its_own_range(plain_run: Path, tmp_path: Path) -> None:
    assert call("sample", plain_run, "--count", 64, "--out", tmp_path) == 0
    made = np.load(tmp_path / "000000-000063.npy")
    assert made.shape == (64, 2, 8, 12)
    assert made.dtype == np.float32
    assert made.mean() == pytest.approx(5, abs=1.5)  # mean and deviation of the data: 5 and 3, of an estimate less
    assert settings(tmp_path)["labels"] is None
    assert (tmp_path / "grid.png").exists()


def test_npy_is_the_same_images(diffusion_run: Path, tmp_path: Path) -> None:
    assert call("sample", diffusion_run, "--count", 3, "--format", "npy", "--out", tmp_path / "array") == 0
    assert call("sample", diffusion_run, "--count", 3, "--out", tmp_path / "files") == 0
    assert np.array_equal(np.load(tmp_path / "array" / "000000-000002.npy").transpose(0, 2, 3, 1), pixels(tmp_path / "files"))


def test_autoguidance_pushes_away_from_the_other_run(diffusion_run: Path, pictures: Path, tmp_path: Path) -> None:
    assert train("digits-diffusion", pictures, tmp_path / "weak", "--no-conditional", "--steps", 3) == 0
    words = ("--count", 2, "--steps", 3, "--format", "npy")
    assert call("sample", diffusion_run, *words, "--guidance", 2, "--guide-with", tmp_path / "weak", "--out", tmp_path / "a") == 0
    assert call("sample", diffusion_run, *words, "--guidance", 1, "--guide-with", tmp_path / "weak", "--out", tmp_path / "b") == 0
    assert call("sample", diffusion_run, *words, "--guidance", 1, "--out", tmp_path / "c") == 0
    away, same, plain = (np.load(tmp_path / name / "000000-000001.npy") for name in "abc")
    assert np.array_equal(same, plain)
    assert not np.array_equal(away, plain)
    assert settings(tmp_path / "a")["nfe"] == 6  # of either run
    assert settings(tmp_path / "a")["guide_with"] == str(tmp_path / "weak")


def test_another_checkpoint_makes_other_images(diffusion_run: Path, tmp_path: Path) -> None:
    earlier = diffusion_run / "checkpoints" / "step-00000003"
    assert call("sample", diffusion_run, "--count", 2, "--checkpoint", earlier, "--out", tmp_path / "earlier") == 0
    assert call("sample", diffusion_run, "--count", 2, "--out", tmp_path / "latest") == 0
    assert settings(tmp_path / "earlier")["step"] == 3
    assert not np.array_equal(pixels(tmp_path / "earlier"), pixels(tmp_path / "latest"))


def test_without_a_folder_samples_are_numbered(plain_run: Path) -> None:
    assert call("sample", plain_run, "--count", 1) == 0
    first = files(plain_run / "samples" / "1")
    assert call("sample", plain_run, "--count", 1, "--first-seed", 9) == 0
    assert files(plain_run / "samples" / "1") == first
    assert (plain_run / "samples" / "2" / "000009-000009.npy").exists()


def test_a_one_step_run_makes_images_in_one_evaluation(onestep_run: Path, tmp_path: Path) -> None:
    assert call("sample", onestep_run, "--count", 3, "--out", tmp_path / "default") == 0
    made = settings(tmp_path / "default")
    assert (made["sampler"], made["steps"], made["guidance"], made["nfe"]) == ("consistency", 1, 1.0, 1)
    assert call("sample", onestep_run, "--count", 3, "--sampler", "euler", "--out", tmp_path / "euler") == 0
    assert equal_up_to_rounding(pixels(tmp_path / "default"), pixels(tmp_path / "euler"))  # one step is the estimate in both
    assert call("sample", onestep_run, "--count", 3, "--steps", 2, "--out", tmp_path / "two") == 0
    assert settings(tmp_path / "two")["nfe"] == 2
    assert not np.array_equal(pixels(tmp_path / "two"), pixels(tmp_path / "default"))


@pytest.mark.parametrize(("sampler", "nfe"), [("consistency", 3), ("heun", 5)])
def test_levels_may_be_named(sampler: str, nfe: int, diffusion_run: Path, tmp_path: Path) -> None:
    words = ("--sigma-max", 5, "--sigmas", 2.5, 0.1, "--sampler", sampler, "--guidance", 1, "--out", tmp_path)
    assert call("sample", diffusion_run, "--count", 2, *words) == 0
    made = settings(tmp_path)
    assert made["steps"] == 3
    assert made["nfe"] == nfe
    assert made["sigmas"] == [5, 2.5, 0.1, 0]


def test_the_levels_of_renoising_are_the_ones_of_the_run(onestep_run: Path, tmp_path: Path) -> None:
    run = open_run(onestep_run)
    assert call("sample", onestep_run, "--count", 1, "--steps", 3, "--out", tmp_path / "three") == 0
    levels = settings(tmp_path / "three")["sigmas"]
    assert levels == pytest.approx(run.noise.consistency_sigmas(3).tolist())
    assert call("sample", onestep_run, "--count", 1, "--sigmas", *levels[1:-1], "--out", tmp_path / "named") == 0
    assert np.array_equal(pixels(tmp_path / "three"), pixels(tmp_path / "named"))


def test_guidance_of_one_step_is_the_line_through_two_estimates(onestep_run: Path) -> None:
    run = open_run(onestep_run)
    labels = torch.tensor([0, 1])
    sampling, origin = completed(run, Sampling(guidance=3.0))
    (made,) = generate(run.denoiser, origin, sampling, [0, 1], labels)
    highest = run.noise.sigma_max * run.noise.shift
    draws = normal(Streams(seed_of(seed) for seed in (0, 1)), run.shape)
    known, unknown = (run.denoiser(highest * draws, torch.tensor(highest), given) for given in (labels, torch.tensor([2, 2])))
    torch.testing.assert_close(made, unknown + 3 * (known - unknown), rtol=1e-4, atol=1e-4)


def test_steps_and_levels_are_a_contradiction(diffusion_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (("sample", "--out", tmp_path / "new"), ("evaluate",), ("evaluate", diffusion_run)):
        assert call(command[0], diffusion_run, *command[1:], "--steps", 4, "--sigmas", 3) == 2
        assert "--steps and --sigmas both say how many steps to take" in capsys.readouterr().err
    for sigmas in ((3, 9), (1e9,), (-1,)):
        assert call("sample", diffusion_run, "--out", tmp_path / "new", "--sigmas", *sigmas) == 2
        assert "must fall from below" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
