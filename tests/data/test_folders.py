"""Which files of a folder are images."""

from pathlib import Path

import numpy as np
from PIL import Image

from pixelpath.data.folders import scan, walk
from pixelpath.data.opening import open_source


def test_the_grid_of_a_folder_of_samples_is_none_of_them(tmp_path: Path) -> None:
    for seed in range(3):
        Image.fromarray(np.full((8, 8), seed, np.uint8)).save(tmp_path / f"{seed:06d}.png")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "grid.png")
    assert len(list(walk(tmp_path, (".png",)))) == 4  # anybody's picture of that name
    (tmp_path / "samples.json").write_text("{}")
    assert list(walk(tmp_path, (".png",))) == scan(tmp_path, None, (".png",))[0] == [f"{seed:06d}.png" for seed in range(3)]
    source = open_source(tmp_path)
    assert [int(source[index].max()) for index in range(len(source))] == [0, 1, 2]


def test_samples_as_arrays_are_read_beside_their_grid(tmp_path: Path) -> None:
    np.save(tmp_path / "000000-000003.npy", np.zeros((4, 8, 8), np.float32))
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "grid.png")
    (tmp_path / "samples.json").write_text("{}")
    assert open_source(tmp_path / "000000-000003.npy").shape == (1, 8, 8)
    assert list(walk(tmp_path, (".npy", ".png"))) == ["000000-000003.npy"]
