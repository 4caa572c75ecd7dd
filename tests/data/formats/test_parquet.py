"""Parquet files and saved data sets: samples as they were packed, in little memory, mistakes answered in words."""

from __future__ import annotations

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.formats.packing import COLOUR, GREY, RANDOM, everything, png, refused

from pixelpath.data.formats.parquet import open_parquet, open_saved_dataset, saved_splits


def features(names: list[str] | None) -> dict[bytes, bytes]:
    """The metadata that Hugging Face keeps in a schema."""
    label = {"names": names, "_type": "ClassLabel"} if names else {"dtype": "int64", "_type": "Value"}
    return {b"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}, "label": label}}}).encode()}


def pictures(images: np.ndarray) -> list[dict[str, Any]]:
    return [{"bytes": png(image), "path": f"{number}.png"} for number, image in enumerate(images)]


def parquet(path: Path, names: list[str] | None = None, rows: int = 3, **columns: Any) -> Path:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(features(names)), path, row_group_size=rows)
    return path


def test_parquet_of_hugging_face_with_names_of_classes(tmp_path: Path) -> None:
    labels = [0, 2, 1, 1, 0, 2, 2]
    path = parquet(tmp_path / "p.parquet", ["cat", "dog", "owl"], image=pictures(COLOUR), label=labels, extra=["x"] * 7)
    stacks = open_parquet([path, path])
    assert [stack.shape for stack in stacks] == [(7, 3, 6, 5)] * 2
    stack = stacks[0]
    assert (stack.dtype, stack.classes, stack.whole, stack.name(4)) == (
        np.dtype("uint8"),
        ("cat", "dog", "owl"),
        False,
        "00000004",
    )
    assert stack.labels is not None
    assert stack.labels.tolist() == labels
    assert (stack.metadata.format, stack.metadata.photographs) == ("png", True)
    np.testing.assert_array_equal(everything(stack), COLOUR)
    np.testing.assert_array_equal(stack.read(5, slice(1, 3), slice(0, 2)), COLOUR[5, :, 1:3, :2])


def test_parquet_of_bytes_with_names_as_labels(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    ant: dict[str, Any] = {"class": ["ant"]}
    kinds = pa.array(["owl", "cat"] * 3 + ["bee"]).dictionary_encode()
    first = parquet(tmp_path / "a.parquet", img=[png(image) for image in GREY], mask=[b""] * 7, **{"class": kinds})
    second = parquet(tmp_path / "b.parquet", img=[png(GREY[0])], **ant)
    stacks = open_parquet([first, second])
    assert stacks[0].classes == stacks[1].classes == ("ant", "bee", "cat", "owl")
    assert [stack.labels.tolist() for stack in stacks if stack.labels is not None] == [[3, 2, 3, 2, 3, 2, 1], [0]]
    np.testing.assert_array_equal(everything(stacks[0]), GREY)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
def test_parquet_of_nested_lists(tmp_path: Path, dtype: str) -> None:
    pa = pytest.importorskip("pyarrow")
    images = RANDOM.integers(0, 100, (4, 2, 6, 5)).astype(dtype)
    row = pa.list_(pa.from_numpy_dtype(np.dtype(dtype)))
    for kind in (pa.list_(pa.list_(row)), pa.large_list(pa.list_(pa.list_(row.value_type, 5), 6))):
        (stack,) = open_parquet([parquet(tmp_path / "a.parquet", pixels=pa.array(images.tolist(), kind))])
        assert (stack.dtype, stack.metadata.format, stack.labels) == (np.dtype(dtype), "npy", None)
        np.testing.assert_array_equal(everything(stack), images)
    (stack,) = open_parquet([parquet(tmp_path / "b.parquet", pixels=pa.array(images[:, 0].tolist(), pa.list_(row)))])
    np.testing.assert_array_equal(everything(stack), images[:, :1])
    last = images.transpose(0, 2, 3, 1)
    (stack,) = open_parquet([parquet(tmp_path / "c.parquet", pixels=pa.array(last.tolist(), pa.list_(pa.list_(row))))])
    np.testing.assert_array_equal(everything(stack), images)


def test_few_row_groups_are_in_memory_whatever_the_number_of_files(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    image = RANDOM.integers(0, 256, (1, 100, 100), np.uint8)
    paths = [parquet(tmp_path / f"{number}.parquet", rows=4, image=[png(image)] * 24) for number in range(3)]
    group = 4 * len(png(image))
    before = pa.total_allocated_bytes()
    stacks = open_parquet(paths)
    for stack in stacks:
        everything(stack)
        assert pa.total_allocated_bytes() - before < 6 * group  # of the 18 in the files
    with ThreadPoolExecutor(4) as pool:
        assert all((found == image).all() for found in pool.map(stacks[1].read, range(24)))


def test_a_later_row_that_looks_otherwise_is_named_when_read(tmp_path: Path) -> None:
    path = parquet(tmp_path / "p.parquet", image=[*pictures(GREY[:3]), *pictures(COLOUR[:1]), *pictures(GREY[:1, :, 1:])])
    (stack,) = open_parquet([path])
    refused(r"p\.parquet::00000003 is RGB but .*p\.parquet::00000000 is grey", lambda: stack.read(3))
    refused(r"p\.parquet::00000004 is 5x5 pixels .* but .*::00000000 is 6x5", lambda: stack.read(4))


def test_mistakes_in_parquet_files_are_answered_with_one_sentence(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    ragged, holes = [[[1, 2], [3]]], [[[1, None], [3, 4]]]
    small = pa.list_(pa.list_(pa.uint8()))
    cases: dict[str, dict[str, Any]] = {
        "holds no rows": {"image": pa.array([], pa.binary())},
        r"no column of images \(text, label\)": {"text": ["a"], "label": [1]},
        r"several columns of images \(left, right\)": {"left": [b"a"], "right": [b"b"]},
        "::00000000 cannot be decoded as an image": {"image": [b"no picture"]},
        r"::00000001 cannot be decoded as an image \(it is empty": {"image": [png(GREY[0]), None]},
        r"only its path cat\.png is stored": {
            "image": pa.array([{"bytes": None, "path": "cat.png"}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
        },
        "rows are empty or of unequal lengths": {"image": pa.array(ragged, small)},
        "some of its values are empty": {"image": pa.array(holes, small)},
        "has dtype int64: convert it": {"image": [[[1, 2], [3, 4]]]},
        "2 rows without a label": {"image": [png(GREY[0])] * 3, "label": [1, None, None]},
        "has double in the column label": {"image": [png(GREY[0])], "label": [0.5]},
    }
    for number, (words, columns) in enumerate(cases.items()):
        path = parquet(tmp_path / f"{number}.parquet", **columns)
        refused(re.escape(str(path)) + ".*" + words, lambda path=path: open_parquet([path]))
    whole = parquet(tmp_path / "whole.parquet", image=pictures(GREY)).read_bytes()
    for number, data in enumerate((whole[:-9], whole[:50], b"", b"PAR1" + b"\0" * 99 + b"PAR1", b"no table")):
        path = tmp_path / f"broken{number}.parquet"
        path.write_bytes(data)
        refused(rf"broken{number}\.parquet cannot be read as a parquet file", lambda path=path: open_parquet([path]))
    path = tmp_path / "middle.parquet"
    path.write_bytes(whole[:8] + b"\xff" * 300 + whole[308:])
    refused(r"middle\.parquet", lambda: everything(open_parquet([path])[0]))
    refused(r"gone\.parquet does not exist", lambda: open_parquet([tmp_path / "gone.parquet"]), FileNotFoundError)
    cats, dogs = (
        parquet(tmp_path / f"{names[0]}.parquet", names, image=pictures(GREY), label=[0] * 7) for names in (["cat"], ["dog"])
    )
    refused("name their classes differently", lambda: open_parquet([cats, dogs]))


# Data sets saved by Hugging Face datasets


def saved(
    folder: Path, names: list[str] | None = None, state: dict[str, Any] | None = None, shards: int = 2, **columns: Any
) -> Path:
    """A folder as save_to_disk writes it."""
    pa = pytest.importorskip("pyarrow")
    folder.mkdir(parents=True)
    table = pa.table(columns).replace_schema_metadata(features(names))
    files, rows = [f"data-{number:05d}-of-{shards:05d}.arrow" for number in range(shards)], -(-table.num_rows // shards)
    for number, name in enumerate(files):
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table.slice(number * rows, rows), max_chunksize=2)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in files], **(state or {})}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}}))
    return folder


def test_saved_datasets_are_mapped(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", ["cat", "owl"], image=pictures(COLOUR), label=[0, 1, 1, 0, 1, 0, 0])
    stacks = open_saved_dataset(folder)
    assert [stack.shape[0] for stack in stacks] == [4, 3]
    assert [stack.labels.tolist() for stack in stacks if stack.labels is not None] == [[0, 1, 1, 0], [1, 0, 0]]
    assert stacks[1].classes == ("cat", "owl")
    np.testing.assert_array_equal(np.concatenate([everything(stack) for stack in stacks]), COLOUR)
    with ThreadPoolExecutor(4) as pool:
        np.testing.assert_array_equal(np.stack(list(pool.map(stacks[0].read, range(4)))), COLOUR[:4])


def test_arrays_in_saved_datasets_and_class_names_of_the_info(tmp_path: Path) -> None:
    images = RANDOM.normal(size=(5, 3, 6)).astype(np.float32)
    pa = pytest.importorskip("pyarrow")
    column = pa.array(images.tolist(), pa.list_(pa.list_(pa.float32())))
    folder = saved(tmp_path / "set", shards=1, image=column, label=[0, 1, 0, 1, 1])
    names = {"label": {"names": ["dry", "wet"], "_type": "ClassLabel"}}
    (folder / "dataset_info.json").write_text(json.dumps({"features": names}))
    stream = (folder / "data-00000-of-00001.arrow").read_bytes()
    assert b"huggingface" in stream
    table = pa.ipc.open_stream(stream).read_all().replace_schema_metadata(None)
    with pa.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table)
    (stack,) = open_saved_dataset(folder)
    assert stack.classes == ("dry", "wet")
    np.testing.assert_array_equal(everything(stack)[:, 0], images)


def test_splits_of_a_saved_dictionary(tmp_path: Path) -> None:
    assert saved_splits(tmp_path) is None
    for name in ("train", "test"):
        saved(tmp_path / name, image=pictures(GREY))
    listing = tmp_path / "dataset_dict.json"
    listing.write_text(json.dumps({"splits": ["train", "test"]}))
    assert saved_splits(tmp_path) == {"train": tmp_path / "train", "test": tmp_path / "test"}
    for names, words in ((["gone"], "gone is missing though"), (["../x"], "no file or folder in it"), ([], "names no splits")):
        listing.write_text(json.dumps({"splits": names}))
        refused(words, lambda: saved_splits(tmp_path))
    listing.write_text("{")
    refused("is not JSON", lambda: saved_splits(tmp_path))


def test_mistakes_in_saved_datasets_are_answered_with_one_sentence(tmp_path: Path) -> None:
    refused(r"state\.json is missing", lambda: open_saved_dataset(tmp_path), FileNotFoundError)
    cases: dict[str, dict[str, Any]] = {
        "names no Arrow files": {"_data_files": []},
        r"lists '\.\./x\.arrow'": {"_data_files": [{"filename": "../x.arrow"}]},
        "lists None": {"_data_files": [3]},
        r"flatten_indices\(\)": {"_indices_data_files": [{"filename": "i.arrow"}]},
    }
    for number, (words, state) in enumerate(cases.items()):
        folder = saved(tmp_path / f"{number}", state=state, image=pictures(GREY))
        refused(words, lambda folder=folder: open_saved_dataset(folder))
    folder = saved(tmp_path / "less", state={"_data_files": [{"filename": "gone.arrow"}]}, image=pictures(GREY))
    refused(r"gone\.arrow does not exist", lambda: open_saved_dataset(folder), FileNotFoundError)
    folder = saved(tmp_path / "cut", image=pictures(GREY))
    first = folder / "data-00000-of-00002.arrow"
    whole = first.read_bytes()
    for data in (whole[:-400], whole[:20], b"", b"no arrow " * 20):
        first.write_bytes(data)
        refused(r"data-00000-of-00002\.arrow", lambda: open_saved_dataset(folder))


def test_metadata_nested_too_deeply_are_named(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table({"image": [png(image) for image in GREY]}).replace_schema_metadata({b"huggingface": b"[" * 100_000})
    pq.write_table(table.append_column("label", pa.array(range(len(GREY)))), tmp_path / "a.parquet")
    refused(r"a\.parquet has metadata", lambda: open_parquet([tmp_path / "a.parquet"]))
    folder = saved(tmp_path / "saved", image=pictures(GREY))
    (folder / "dataset_info.json").unlink()
    os.mkfifo(folder / "dataset_info.json")
    refused(r"dataset_info\.json is no regular file", lambda: open_saved_dataset(folder))
