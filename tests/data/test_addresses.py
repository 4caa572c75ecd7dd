"""Addresses of object stores: shards and Zarr as on the disk, drivers and addresses that are not there told in a sentence."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.data.formats.packing import COLOUR, npy, png, shard
from tests.data.formats.test_parquet import parquet, pictures
from tests.data.formats.test_stores import write_zarr
from tests.refusal import refused

from pixelpath.data.addresses import Address, addressed
from pixelpath.data.opening import open_source, open_split
from pixelpath.data.settings import DataSettings
from pixelpath.data.sources import Source, labels

fsspec = pytest.importorskip("fsspec")
STORE = "memory://bucket/data"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Training and held-out shards of tar, shards of parquet, shards of arrays, and a Zarr store."""
    members = [(f"{n:03d}{end}", text) for n in range(7) for end, text in ((".png", png(COLOUR[n])), (".cls", b"%d" % (n % 3)))]
    for folder in ("tar", "npy", "parquet"):
        (tmp_path / folder).mkdir()
    shard(tmp_path / "tar" / "train-0000.tar", members[:6])
    shard(tmp_path / "tar" / "train-0001.tar", members[6:])
    shard(tmp_path / "tar" / "test-0000.tar", members[:4])
    shard(tmp_path / "npy" / "a.tar", [(f"{n}.npy", npy(image)) for n, image in enumerate(COLOUR)])
    parquet(tmp_path / "parquet" / "a.parquet", ["cat", "dog"], image=pictures(COLOUR), label=[0, 1] * 3 + [1])
    write_zarr(tmp_path / "two.zarr", {"images": COLOUR.astype("float32"), "labels": np.arange(7) % 2}, 2)
    write_zarr(tmp_path / "three.zarr", {"images": COLOUR.astype("float32")})
    return tmp_path


@pytest.fixture
def store(disk: Path) -> Iterator[str]:
    """The same in fsspec's memory."""
    memory = fsspec.filesystem("memory")
    memory.put(f"{disk}/", f"{STORE}/", recursive=True)
    yield STORE
    memory.rm("/bucket", recursive=True)


def same(one: Source, other: Source) -> None:
    assert (len(one), one.shape, one.dtype, one.classes) == (len(other), other.shape, other.dtype, other.classes)
    assert [one.name(index) for index in range(len(one))] == [other.name(index) for index in range(len(other))]
    np.testing.assert_array_equal(labels(one), labels(other))
    for index in range(len(one)):
        np.testing.assert_array_equal(one[index], other[index])


@pytest.mark.parametrize("place", ["tar", "npy/a.tar", "npy", "parquet", "two.zarr", "two.zarr::images", "three.zarr"])
def test_an_object_store_holds_what_the_disk_holds(disk: Path, store: str, place: str) -> None:
    here = open_source(disk / place)
    same(here, open_source(Path(f"{store}/{place}")))
    same(here, open_source(Path(f"file://{disk}/{place}")))
    assert len(here) == 7


def test_parts_of_an_object_store_are_training_and_held_out(disk: Path, store: str) -> None:
    for one, other in zip(open_split(DataSettings(disk / "tar")), open_split(DataSettings(Path(f"{store}/tar"))), strict=True):
        same(one, other)


def test_an_address_stays_what_it_is_in_settings(tmp_path: Path) -> None:
    settings = DataSettings(path=Path("s3://bucket/a/../images.tar"), held_out=Path("hf://datasets/owner/name/test.parquet"))
    assert [str(settings.absolute().path), str(settings.held_out)] == [
        "s3://bucket/a/../images.tar",
        "hf://datasets/owner/name/test.parquet",
    ]
    assert DataSettings(path=Path(str(settings.path))) == DataSettings(path=settings.path)
    assert isinstance(settings.path, Address)
    assert str(settings.path.parent / "b") == "s3://bucket/a/../b"
    assert addressed(Path("https://host/a.tar")).name == "a.tar"
    assert addressed(tmp_path) is tmp_path
    assert addressed(Path(f"file://{tmp_path}")) == tmp_path


def test_an_address_is_read_and_never_written(store: str) -> None:
    path = addressed(Path(f"{store}/tar/train-0000.tar"))
    with pytest.raises(ValueError, match="read bytes"):
        path.open("wb")


def test_a_wrong_address_is_one_sentence(store: str) -> None:
    with refused(None, f"{store}/nothing.tar"):
        open_source(Path(f"{store}/nothing.tar"))


def test_what_is_not_read_from_object_stores_is_told(store: str) -> None:
    fsspec.filesystem("memory").pipe("/bucket/drawn/a.png", png(COLOUR[0]))
    with refused(None, "memory://bucket/drawn", "a.png", ".tar"):
        open_source(Path("memory://bucket/drawn"))


def test_a_missing_driver_is_one_sentence() -> None:
    try:
        importlib.import_module("adlfs")
    except ImportError:
        with refused(None, "az://box/a.tar", "pip install adlfs"):
            open_source(Path("az://box/a.tar"))
    else:
        pytest.skip("adlfs is installed")


def test_a_store_that_fails_is_one_sentence(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no credentials\nwere found")

    with monkeypatch.context() as patched, refused(None, f"{store}/tar", "no credentials were found"):
        patched.setattr(type(fsspec.filesystem("memory")), "info", fail)
        open_source(Path(f"{store}/tar"))


def test_samples_of_tar_shards_are_fetched_one_by_one(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(Path(f"{store}/npy/a.tar"))
    asked: list[int] = []
    memory, plain = type(fsspec.filesystem("memory")), type(fsspec.filesystem("memory")).cat_file
    monkeypatch.setattr(
        memory, "cat_file", lambda self, path, start, end: asked.append(end - start) or plain(self, path, start, end)
    )
    np.testing.assert_array_equal(source[3], COLOUR[3])
    assert asked == [len(npy(COLOUR[3]))]
