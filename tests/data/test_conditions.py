"""Tables and images beside: read, fitted on training images, and found by the images' names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.arrays import array_source
from tests.refusal import refused

from pixelpath.data.batches import Batches
from pixelpath.data.conditions import (
    CondImageEncoding,
    ConditionData,
    Conditions,
    cond_images_of,
    fit_columns,
    fit_cond_image,
)
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.data.opening import open_split
from pixelpath.data.settings import DataSettings
from pixelpath.data.sources import Arrays
from pixelpath.data.tables import check_shared, for_images, lines_of, read_table
from pixelpath.types import Condition

TABLE = """name,rain,kind,tags
cat/0.png,1.0,wet,red|small
1,3.0,dry,
2.png,5.0,wet,blue
"""


def images(count: int = 3, dtype: type = np.uint8) -> Arrays:
    values = np.arange(count * 16, dtype=dtype).reshape(count, 1, 4, 4)
    return Arrays(values, np.zeros(count, np.int64), names=("cat/0.png", "cat/1.png", "dog/2.png")[:count])


def table(folder: Path, text: str = TABLE, name: str = "table.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_a_table_becomes_numbers_categories_and_tags(tmp_path: Path) -> None:
    read = read_table(table(tmp_path))
    lines = lines_of(read, images())
    assert lines == [0, 1, 2]
    asks = Conditions(fit_columns(read, lines))
    assert [(column.name, column.kind, column.words) for column in asks.columns] == [
        ("rain", "number", ()),
        ("kind", "category", ("dry", "wet")),
        ("tags", "tags", ("blue", "red", "small")),
    ]
    assert asks.numbers == 1 + 2 + 3
    step = (8 / 3) ** 0.5  # the deviation of 1, 3, 5
    expected = [[-2 / step, 0, 1, 0, 1, 1], [0, 1, 0, 0, 0, 0], [2 / step, 0, 1, 1, 0, 0]]
    np.testing.assert_allclose(asks.vectors(read, lines), expected, rtol=1e-6)
    assert Conditions.from_json(asks.to_json()) == asks


def test_a_table_for_samples_needs_no_names(tmp_path: Path) -> None:
    asks = Conditions(fit_columns(read_table(table(tmp_path)), [0, 1, 2]))
    names = tuple(column.name for column in asks.columns)
    read = read_table(table(tmp_path, "rain,kind,tags\n3,wet,\n", "asked.csv"), columns=names)
    assert (read.count, read.names) == (1, None)
    assert asks.vectors(read, [0]).tolist() == [[0, 0, 1, 0, 0, 0]]


def test_arrays_are_tables_in_the_order_of_the_images(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[1.0, 2.0], [3.0, 2.0], [5.0, 2.0]]))
    np.savez(tmp_path / "b.npz", train=np.array([1.0, 3.0, 5.0]), test=np.array([7.0]))
    source = array_source(np.zeros((3, 4, 4), np.uint8))
    read = read_table(tmp_path / "a.npy")
    columns = fit_columns(read, lines_of(read, source))
    assert [(column.name, column.mean, column.std) for column in columns][1] == ("1", 2.0, 1.0)  # constant
    assert read_table(tmp_path / "b.npz", ("test",)).columns == {"0": ["7.0"]}


def asked_in_order(folder: Path, text: str, path: str, **options: Any) -> list[tuple[list[int], list[str]]]:
    """For both sides of the data at a path: the lines of a table that names no image, and what the images hold."""
    sides = open_split(DataSettings(Path(path), held_out_share=0.3, **options))
    read = for_images(read_table(table(folder, text)), sides)
    check_shared(read, sides)
    return [(lines_of(read, side), [str(int(side[index].flat[0])) for index in range(len(side))]) for side in sides]


@pytest.mark.parametrize("kind", ["a.npy", "a.h5", "a.nc", "a.zarr", "times.nc"])
def test_a_table_without_names_follows_the_order_of_the_file(tmp_path: Path, kind: str) -> None:
    """The first number of image n is n, and so is that of line n."""
    values = np.arange(20, dtype=np.int16)[:, None, None] + np.zeros((8, 8), np.int16)
    path = tmp_path / kind
    if kind == "a.npy":
        np.save(path, values)
    elif kind == "a.h5":
        with pytest.importorskip("h5py").File(path, "w") as store:
            store["x"] = values
    else:
        xarray, times = pytest.importorskip("xarray"), np.datetime64("2020-01-01") + np.arange(20) * np.timedelta64(1, "D")
        coords = {"time": times.astype("datetime64[ns]")} if kind == "times.nc" else {}
        data = xarray.Dataset({"x": (("time", "y", "x_"), values)}, coords=coords)
        data.to_zarr(path, consolidated=False) if kind == "a.zarr" else data.to_netcdf(path, engine="h5netcdf")
    text = "rain,kind\n" + "".join(f"{number},{'wet' if number % 2 else 'dry'}\n" for number in range(20))
    for options in ({}, {"tile": (4, 4)}):
        for lines, held in asked_in_order(tmp_path, text, str(path), **options):
            assert [str(line) for line in lines] == held
            assert len(held) > 0
    for short in (text.rsplit("\n", 2)[0] + "\n", text + "3,wet\n"):
        with refused("data.conditions", "table.csv", short.count("\n") - 1, "20 images"):
            asked_in_order(tmp_path, short, str(path))


def test_a_table_without_names_fits_one_file_alone(tmp_path: Path) -> None:
    values = np.zeros((4, 8, 8), np.uint8)
    for folder in ("many", "parts/train", "parts/test"):
        (tmp_path / folder).mkdir(parents=True)
        np.save(tmp_path / folder / "a.npy", values)
    np.save(tmp_path / "many" / "b.npy", values)
    text = "rain,kind\n1,a\n2,b\n3,a\n4,b\n"
    with refused(None, "no line for the image a.npy"):
        asked_in_order(tmp_path, text, str(tmp_path / "many"))
    with refused(None, "no line for the image 0000000"):  # names that are mistaken
        asked_in_order(tmp_path, "time,rain\nJan,1\nFeb,2\nMar,3\nApr,3\n", str(tmp_path / "many" / "a.npy"))
    with refused("data.conditions", "table.csv", "train and test"):
        asked_in_order(tmp_path, text, str(tmp_path / "parts"))


def test_what_was_asked_can_be_told_from_the_vector(tmp_path: Path) -> None:
    days = [20240101.0, 20240115.25, 20240131.0]
    text = f"name,day,kind,tags\na,{days[0]},u,\nb,{days[1]},v,p|q\nc,{days[2]},u,q\n"
    read = read_table(table(tmp_path, text))
    asks = Conditions(fit_columns(read, [0, 1, 2]))
    assert asks.entries(asks.vectors(read, [0, 1, 2])) == {"day": days, "kind": ["u", "v", "u"], "tags": ["", "p|q", "q"]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no table"),
        ("name,rain\n", "holds no table"),
        ("name,rain\na,1\na,2\n", "two lines for a"),
        ("name,rain\na,1,2\n", "line 2 has 3 entries but the first line 2"),
        ("name,rain,rain\na,1,2\n", "names a column twice"),
        ("name,rain\nx.png,1\n", "no line for the image cat/0.png"),
        ("name,rain\ncat/0.png,nan\n1,1\n2.png,2\n", "column rain holds nan"),
        ("name,kind\ncat/0.png,wet\n1,\n2.png,dry\n", "column kind has an empty entry"),
    ],
)
def test_mistakes_in_tables_are_named(tmp_path: Path, text: str, words: str) -> None:
    def fit() -> None:
        read = read_table(table(tmp_path, text))
        fit_columns(read, lines_of(read, images()))

    with pytest.raises(ValueError, match=words):
        fit()


def test_what_training_did_not_see_is_named(tmp_path: Path) -> None:
    asks = Conditions(fit_columns(read_table(table(tmp_path)), [0, 1, 2]))
    for text, words in (
        ("name,rain,kind,tags\na,x,wet,\n", "line 2, column rain: x is no finite number"),
        ("name,rain,kind,tags\na,1,wett,\n", "column kind: wett is not among .* choose from wet"),
        ("name,rain,kind,tags\na,1,wet,green\n", "column tags: green is not among"),
        ("name,rain,kind\na,1,wet\n", "has no column tags"),
    ):
        with pytest.raises(ValueError, match=words):
            asks.vectors(read_table(table(tmp_path, text)), [0])


def test_masks_become_classes_and_pictures_are_normalised() -> None:
    masks = array_source(np.array([[[0, 1], [2, 1]], [[0, 0], [0, 2]]], np.uint8))
    cond_image = fit_cond_image(masks)
    assert (cond_image, cond_image.width) == (CondImageEncoding(1, 3), 3)
    encoded = cond_image.encode(torch.from_numpy(masks[0][None]))
    assert encoded.argmax(1).tolist() == [[[0, 1], [2, 1]]]
    assert encoded.unique().tolist() == [-0.5, 0.5]
    with refused(None, "class 3", "below 3"):
        cond_image.encode(torch.full((1, 1, 2, 2), 3))
    pictures = fit_cond_image(array_source(np.array([[[0, 255], [0, 255]]], np.uint8)))
    assert (pictures.classes, pictures.width) == (0, 1)
    for each in (cond_image, pictures):
        assert Conditions.from_json(Conditions((), each).to_json()) == Conditions((), each)


def test_images_beside_are_found_by_name_whatever_their_order_and_ending() -> None:
    source = images()
    other = Arrays(source.images[::-1] + 100, np.zeros(3, np.int64), names=("dog/2.npy", "cat/1.png", "cat/0.png"))
    found = cond_images_of(source, other, Path("masks"))
    for index in range(3):
        np.testing.assert_array_equal(found[index], source[index] + 100)
    with refused("data.cond_image", "masks", "dog/2.png"):
        cond_images_of(source, images(2), Path("masks"))


def test_conditions_go_with_their_images_through_flips_turns_and_epochs() -> None:
    source = array_source(np.arange(7 * 16, dtype=np.float32).reshape(7, 4, 4))
    asks = Conditions((), CondImageEncoding(1, normaliser=Normaliser((0.0,), (0.5,), "float32")))
    vectors = source[0][0, 0, 0] + 16.0 * np.arange(7, dtype=np.float32)[:, None]
    stream = Batches(
        source,
        Normaliser((0.0,), (0.5,), "float32"),
        5,
        seed=3,
        flip=True,
        rot90=True,
        given=ConditionData(asks, vectors, source),
    )
    moves = set()
    for step in range(4):
        batch = stream.batch(step)
        assert isinstance(batch.labels, Condition)
        torch.testing.assert_close(batch.labels.cond_image, batch.images)
        assert batch.labels.vector is not None
        torch.testing.assert_close(batch.images.amin((1, 2, 3)), batch.labels.vector[:, 0])
        moves |= {tuple((image[0] - image.min()).flatten().tolist()[:2]) for image in batch.images}
    assert len(moves) > 4  # of the eight there are
