"""Edits of a run: known pixels stay bit for bit in the data's own units, files come in and go out, mistakes are said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.application import call
from tests.refusal import refused
from tifffile import TiffFile

import pixelpath as pp
from pixelpath.recipes.recipe import Recipe
from pixelpath.runs import api
from pixelpath.runs.edit import inpainting_sigmas
from pixelpath.sampling.sampler import Sampler, Sampling

HALF = np.zeros((8, 8), bool)
HALF[:, 4:] = True
FEW = Sampling(steps=2)


@pytest.fixture
def picture(pictures: Path) -> np.ndarray:
    """One RGB picture [channel, row, column]."""
    return np.asarray(Image.open(pictures / "across" / "00.png")).transpose(2, 0, 1)


@pytest.fixture(scope="module")
def sea(tmp_path_factory: pytest.TempPathFactory) -> pp.Run:
    """A run on float images of kelvins with land, which is NaN in all, and clouds, NaN in some."""
    numbers = np.random.default_rng(2)
    images = numbers.normal(290, 5, (24, 1, 8, 8)).astype(np.float32)
    images[:, :, :2] = np.nan
    images[::3, :, 5, 5] = np.nan
    data = pp.from_arrays(images, units="K", held_out=0.2, settings=pp.DataSettings(nodata=float("nan")))
    return pp.train(data, tiny(), out=tmp_path_factory.mktemp("sea") / "run")


@pytest.fixture(scope="module")
def sprites(tmp_path_factory: pytest.TempPathFactory) -> pp.Run:
    """A run on RGBA sprites with soft edges, trained on premultiplied colours."""
    folder, numbers = tmp_path_factory.mktemp("sprites"), np.random.default_rng(3)
    for place in range(24):
        Image.fromarray(numbers.integers(0, 256, (8, 8, 4), dtype=np.uint8)).save(folder / f"{place:02d}.png")
    settings = pp.DataSettings(folder, alpha="premultiplied", held_out_share=0.2)
    return pp.train(pp.open_data(folder, settings=settings), tiny(), out=tmp_path_factory.mktemp("run") / "sprites")


def tiny() -> Recipe:
    return pp.recipes.digits_diffusion(steps=2, size=pp.recipes.sizes.NANO)


def test_known_pixels_stay_and_open_ones_are_made_anew(diffusion_run: Path, picture: np.ndarray) -> None:
    run = pp.load(diffusion_run)
    made = run.inpaint(picture, HALF, 3, classes="down", sampling=FEW)
    kept = np.broadcast_to(~HALF, made.images.shape)
    assert np.array_equal(made.images[kept], np.broadcast_to(picture, made.images.shape)[kept])
    assert (made.images[:, :, HALF] != picture[:, HALF]).mean() > 0.9
    assert not np.array_equal(made.images[0], made.images[1])
    assert made.settings["labels"] == [1, 1, 1]
    assert made.labels == ["seed 0\ndown", "seed 1\ndown", "seed 2\ndown"]


def test_an_edit_is_a_function_of_its_seed_whatever_its_batch(diffusion_run: Path, picture: np.ndarray) -> None:
    run = pp.load(diffusion_run)
    whole = run.inpaint(picture, HALF, 3, sampling=FEW).images
    part = run.inpaint(picture, HALF, 2, seed=1, sampling=FEW, batch_size=1).images
    assert np.abs(whole[1:].astype(int) - part).max() <= 1
    whole, part = (run.variations(picture, 3, 0.5, sampling=FEW, batch_size=size).images for size in (3, 1))
    assert np.abs(whole.astype(int) - part).max() <= 1


def test_a_one_step_run_puts_known_pixels_back_at_every_step(onestep_run: Path, picture: np.ndarray) -> None:
    run = pp.load(onestep_run)
    made = run.inpaint(picture, HALF, 2, sampling=Sampling(steps=5))
    assert np.array_equal(made.images[:, :, ~HALF], np.stack([picture[:, ~HALF]] * 2))
    assert made.settings["sigmas"] == pytest.approx(inpainting_sigmas(run.noise, 5).tolist())
    assert made.nfe == 5
    assert run.inpaint(picture, HALF, 1).nfe == 16
    assert run.variations(picture, 1).nfe == 1
    with refused("sampler", "heun"):
        run.inpaint(picture, HALF, sampling=Sampling(sampler=Sampler.HEUN))


def test_the_sigmas_of_in_painting_fall_through_the_width_of_the_data() -> None:
    noise = pp.NoiseRange(0.002, 80.0, 0.5)
    assert inpainting_sigmas(noise, 4).tolist() == pytest.approx([40.0, 1.0, 0.05**0.5, 0.05, 0.0])
    assert inpainting_sigmas(noise, 1).tolist() == [40.0, 0.0]


@pytest.mark.parametrize("strength", [0.05, 1.0])
def test_the_strength_chooses_the_first_sigma(strength: float, diffusion_run: Path, picture: np.ndarray) -> None:
    run = pp.load(diffusion_run)
    lowest, highest = run.noise.sigma_min * run.noise.shift, run.sample(1).settings["sigmas"][0]
    first = run.variations(picture, 1, strength, sampling=FEW).settings["sigmas"][0]
    assert first == pytest.approx((lowest ** (1 / 7) + strength * (highest ** (1 / 7) - lowest ** (1 / 7))) ** 7)


def test_as_fine_a_grid_is_walked_below_the_sigma_of_a_variation(diffusion_run: Path, picture: np.ndarray) -> None:
    run = pp.load(diffusion_run)
    whole = run.sample(1, sampler="heun").settings
    made = run.variations(picture, 1, 0.5, sampling=Sampling(sampler=Sampler.HEUN)).settings
    assert made["steps"] == sum(sigma < made["sigmas"][0] for sigma in whole["sigmas"][:-1])
    chosen = run.variations(picture, 1, 0.5, sampling=Sampling(steps=7)).settings
    assert (chosen["steps"], chosen["sigmas"][0]) == (7, pytest.approx(made["sigmas"][0]))
    named = run.variations(picture, 1, 0.5, sampling=Sampling(sigmas=(5.0, 0.1))).settings
    assert named["sigmas"] == pytest.approx([made["sigmas"][0], 0.1, 0.0])


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler_ancestral"])
def test_the_way_between_two_seeds_begins_and_ends_with_their_images(sampler: str, diffusion_run: Path) -> None:
    run = pp.load(diffusion_run)
    made = run.between(3, 8, 5, sampling=Sampling(steps=4, sampler=Sampler(sampler)))  # of two classes
    for place, seed in ((0, 3), (4, 8)):
        alone = run.sample(1, seed=seed, steps=4, sampler=sampler).images[0]
        assert np.abs(made.images[place].astype(int) - alone).max() <= 1
    assert made.labels == ["seed 3", "25 %", "50 %", "75 %", "seed 8"]


def test_what_was_not_measured_is_not_known_and_stays_so(sea: pp.Run) -> None:
    image = np.full((8, 8), 290.0, np.float32)
    image[:2], image[6, 1], image[6, 6] = np.nan, np.nan, np.nan
    made = sea.inpaint(image, HALF, 2, sampling=FEW).images[:, 0]
    assert np.array_equal(made[:, ~HALF], np.stack([image[~HALF]] * 2), equal_nan=True)
    assert np.isnan(made[:, :2]).all()  # land, inside of the mask too
    assert np.isfinite(made[:, 2:, 4:]).all()  # the cloud inside of the mask is filled in
    changed = image.copy()
    changed[6, 1] = 300.0
    assert not np.array_equal(sea.inpaint(changed, HALF, 2, sampling=FEW).images[:, 0, 2:, 4:], made[:, 2:, 4:])
    assert np.isfinite(sea.variations(image, 1, sampling=FEW).images[:, :, 2:]).all()


def test_soft_edges_come_back_from_files_as_they_were(sprites: pp.Run, tmp_path: Path) -> None:
    """Premultiplied colours are rounded, which division by a small alpha shows; kept pixels are those of the file."""
    file = next(sprites.recipe.data.path.glob("*.png"))  # pyright: ignore[reportOptionalMemberAccess]
    made = sprites.inpaint(file, HALF, 2, sampling=FEW)
    for written in made.save(tmp_path / "out"):
        assert np.array_equal(np.asarray(Image.open(written))[~HALF], np.asarray(Image.open(file))[~HALF])
    assert np.array_equal(sprites.inpaint(Image.open(file), HALF, 2, sampling=FEW).images, made.images)
    again = sprites.inpaint(made.images[:1], HALF, sampling=FEW)
    assert np.array_equal(again.images[:, :, ~HALF], made.images[:1, :, ~HALF])


def test_the_command_writes_files_in_the_datas_format_with_their_units(sea: pp.Run, tmp_path: Path) -> None:
    image, mask = tmp_path / "image.npy", tmp_path / "mask.png"
    np.save(image, np.full((2, 1, 8, 8), 288.5, np.float32))
    Image.fromarray(HALF.astype(np.uint8) * 255).save(mask)
    words = ("--image", image, "--mask", mask, "--steps", 2, "--out", tmp_path / "out", "--format", "tiff")
    assert call("edit", sea.path, *words) == 0
    for place in range(2):
        with TiffFile(tmp_path / "out" / f"{place:06d}.tif") as file:
            assert (file.asarray()[~HALF & (np.arange(8) >= 2)[:, None]] == 288.5).all()
            assert f"seed {place}; units: K" in file.pages.first.description
    settings = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert settings["edit"] == {"kind": "inpaint", "open_pixels": 32}
    assert (tmp_path / "out" / "grid.png").exists()


def test_the_command_varies_and_goes_between(diffusion_run: Path, pictures: Path) -> None:
    image = pictures / "across" / "00.png"
    assert call("edit", diffusion_run, "--image", image, "--variations", 3, "--strength", 0.3, "--classes", "across") == 0
    assert call("edit", diffusion_run, "--between", 3, 8, "--count", 4) == 0
    first, second = (json.loads((diffusion_run / "edits" / f"{n}" / "samples.json").read_text()) for n in (1, 2))
    assert first["edit"] == {"kind": "variations", "strength": 0.3}
    assert second["edit"] == {"kind": "between", "ends": [3, 8]}
    assert len(list((diffusion_run / "edits" / "2").glob("0*.png"))) == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "No edit asked for"),
        (("--mask", "IMAGE"), "needs an image"),
        (("--image", "IMAGE", "--between", 1, 2), "takes no image"),
        (("--image", "IMAGE", "--mask", "IMAGE", "--variations", 2), "--mask and --variations"),
        (("--image", "IMAGE", "--variations", 2, "--count", 2), "--count"),
        (("--image", "IMAGE", "--variations", 2, "--strength", 2), "--strength must be above 0 and at most 1"),
        (("--image", "IMAGE", "--variations", 2, "--classes", "neither"), "no class neither"),
        (("--image", "IMAGE", "--variations", 2, "--guidance", 3), "--classes"),
        (("--image", "gone.png", "--variations", 2), "does not exist"),
        (("--between", 1, 2, "--count", 1), "at least 2"),
        (("--between", 1, 2, "--start", "."), "omit --start"),
    ],
)
def test_mistakes_are_said(
    words: tuple[object, ...], said: str, diffusion_run: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = pictures / "across" / "00.png"
    assert call("edit", diffusion_run, *(image if word == "IMAGE" else word for word in words)) == 2
    assert said in capsys.readouterr().err


def test_what_does_not_fit_the_run_is_refused(diffusion_run: Path, picture: np.ndarray, sea: pp.Run, tmp_path: Path) -> None:
    run = pp.load(diffusion_run)
    with refused("image", "3x4x8", "3x8x8"):
        run.inpaint(picture[:, :4], HALF)
    with refused("image", "float32", "uint8"):
        run.inpaint(picture.astype(np.float32), HALF)
    with refused("mask", "4x8", "8x8"):
        run.inpaint(picture, HALF[:4])
    with refused("mask", "3 masks for 1"):
        run.inpaint(picture, np.stack([HALF] * 3))
    with refused("mask", "0 everywhere"):
        run.inpaint(picture, np.zeros_like(HALF))
    with refused("image", "infinity"):
        sea.variations(np.full((8, 8), np.inf, np.float32))
    Image.fromarray(np.zeros((9, 8, 3), np.uint8)).save(tmp_path / "large.png")
    with refused("image", "large.png", "3x9x8"):
        run.variations(tmp_path / "large.png")


def test_a_transparent_pixel_of_a_mask_is_not_painted(diffusion_run: Path, picture: np.ndarray, tmp_path: Path) -> None:
    painted = np.zeros((8, 8, 4), np.uint8)
    painted[..., 3], painted[HALF, :3], painted[0, :, 3] = 255, 255, 0
    Image.fromarray(painted).save(tmp_path / "mask.png")
    made = pp.load(diffusion_run).inpaint(picture, tmp_path / "mask.png", sampling=FEW).images[0]
    kept = ~HALF | (np.arange(8) == 0)[:, None]
    assert np.array_equal(made[:, kept], picture[:, kept])
    assert (made[:, ~kept] != picture[:, ~kept]).any()


def test_a_tuned_run_is_edited_without_its_start(diffusion_run: Path, picture: np.ndarray) -> None:
    """Whatever was chosen for sampling, an edit begins at its own noise."""
    run = api.load(diffusion_run)
    with refused("start"):
        run.variations(picture, sampling=Sampling(start=Path("somewhere")))
    assert torch.isfinite(run.variations(picture, 1).native.float()).all()
