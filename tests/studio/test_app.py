"""The studio's routes: who may ask, images made and told, files in the data's own format, sheets, favourites, training."""

from __future__ import annotations

import io
import json
import re
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette")
uvicorn = pytest.importorskip("uvicorn")

from tests.asking import run_with_conditions  # noqa: E402
from tests.refusal import refused  # noqa: E402

import pixelpath as pp  # noqa: E402
from pixelpath.runs.sharing.bundled import BUNDLED  # noqa: E402
from pixelpath.studio import app as studio_app  # noqa: E402
from pixelpath.studio.app import create_app  # noqa: E402
from pixelpath.studio.gallery import Gallery  # noqa: E402
from pixelpath.studio.making import _MAKERS, Job  # noqa: E402
from pixelpath.studio.serving import found_runs, serve  # noqa: E402
from pixelpath.studio.watching import seconds_left, watched  # noqa: E402

TOKEN = "token-of-the-tests"


class Page:
    """A browser in short: asks with the token, and waits for what is made."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"

    def ask(self, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        """The status and the content of an answer."""
        data = None if body is None else json.dumps(body).encode()
        known = {"cookie": f"pixelpath-studio={TOKEN}", **({} if body is None else {"x-studio": "1"})}
        request = urllib.request.Request(self.address + path, data, known if headers is None else headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def json(self, path: str, body: Any = None) -> Any:
        """What a good answer holds."""
        status, content = self.ask("/api/" + path, body)
        assert status == 200, content
        return json.loads(content)

    def given(self, path: str, content: bytes) -> tuple[int, Any]:
        """The status and the answer to a file."""
        known = {"cookie": f"pixelpath-studio={TOKEN}", "x-studio": "1"}
        request = urllib.request.Request(f"{self.address}/api/{path}", content, known)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def made(self, run: int, job: dict[str, Any], count: int) -> list[dict[str, Any]]:
        """The items of a job, once so many more are there."""
        before = {item["id"] for item in self.json(f"runs/{run}/items")}
        self.json(f"runs/{run}/make", job)
        items: list[dict[str, Any]] = []
        for _ in range(600):
            items = [item for item in self.json(f"runs/{run}/items") if item["id"] not in before]
            if len(items) >= count:
                return items
            time.sleep(0.1)
        raise AssertionError(f"{len(items)} of {count} items were made")


@pytest.fixture(scope="module")
def sprites(tmp_path_factory: pytest.TempPathFactory) -> pp.Run:
    """A run on RGBA sprites of two classes, trained on premultiplied colours."""
    folder, numbers = tmp_path_factory.mktemp("sprites"), np.random.default_rng(3)
    for place in range(24):
        (folder / "ab"[place % 2]).mkdir(exist_ok=True)
        Image.fromarray(numbers.integers(0, 256, (8, 8, 4), dtype=np.uint8)).save(folder / "ab"[place % 2] / f"{place:02d}.png")
    settings = pp.DataSettings(folder, alpha="premultiplied", held_out_share=0.2)
    recipe = pp.recipes.digits_diffusion(steps=2, size=pp.recipes.sizes.NANO)
    return pp.train(pp.open_data(folder, settings=settings), recipe, out=tmp_path_factory.mktemp("run") / "sprites")


@pytest.fixture(scope="module")
def rain(tmp_path_factory: pytest.TempPathFactory) -> pp.Run:
    """A run on one channel of measured values with units."""
    images = np.random.default_rng(4).gamma(2.0, 3.0, (24, 1, 8, 8)).astype(np.float32)
    data = pp.from_arrays(images, units="mm/h", held_out=0.2)
    recipe = pp.recipes.digits_diffusion(steps=2, size=pp.recipes.sizes.NANO)
    return pp.train(data, recipe, out=tmp_path_factory.mktemp("rain") / "rain-run")


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> pp.Run:
    """A run with two numbers and masks of three classes as conditions, whose weights do not ignore them."""
    return run_with_conditions(tmp_path_factory.mktemp("asking"))


@pytest.fixture(scope="module")
def page(sprites: pp.Run, rain: pp.Run, asking: pp.Run) -> Iterator[Page]:
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app([sprites.path, rain.path, asking.path], TOKEN), log_level="warning"))
    thread = threading.Thread(target=lambda: server.run(sockets=[bound]), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield Page(bound.getsockname()[1])
    server.should_exit = True
    thread.join()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"cookie": "pixelpath-studio=guessed"}, 403),
        ({"cookie": f"pixelpath-studio={TOKEN}", "host": "evil.example"}, 403),
        ({"cookie": f"pixelpath-studio={TOKEN}"}, 200),
    ],
)
def test_only_this_machine_and_the_token_are_answered(page: Page, headers: dict[str, str], status: int) -> None:
    assert page.ask("/api/runs", headers=headers)[0] == status


def test_no_other_page_can_give_orders(page: Page) -> None:
    assert page.ask("/api/runs/0/make", {"kind": "sample"}, {"cookie": f"pixelpath-studio={TOKEN}"})[0] == 403


def test_the_page_and_its_parts_ask_nobody_else(page: Page) -> None:
    parts = [
        "/",
        *(
            f"/part/{name}"
            for name in ("studio.css", "page.css", "page.js", "common.js", "studio.js", "editor.js", "training.js")
        ),
    ]
    for path in parts:
        status, content = page.ask(path)
        assert status == 200
        text = content.decode().replace("http://www.w3.org", "")
        assert "http://" not in text
        assert "https://" not in text
    assert page.ask("/part/app.py")[0] == 404


def test_samples_are_those_of_python(page: Page, sprites: pp.Run) -> None:
    items = page.made(0, {"kind": "sample", "count": 6, "seed": 5, "classes": ["b"]}, 6)
    assert [item["name"] for item in items] == [f"seed {seed}, b" for seed in range(5, 11)]
    expected = sprites.sample(6, classes="b", seed=5)
    expected_files = expected.save(sprites.path.parent / "expected")
    for item, file in zip(items, expected_files, strict=True):
        picture = Image.open(io.BytesIO(page.ask(f"/api/runs/0/items/{item['id']}.png")[1]))
        assert picture.mode == "RGBA"
        assert np.abs(np.asarray(picture).astype(int) - np.asarray(Image.open(file))).max() <= 2


def test_a_sheet_is_the_images_without_labels_and_its_json_says_where(page: Page) -> None:
    items = page.made(0, {"kind": "sample", "count": 5, "seed": 100}, 5)
    ids = [item["id"] for item in items]
    archive = zipfile.ZipFile(io.BytesIO(page.ask(f"/api/runs/0/sheet?ids={','.join(ids)}&columns=3")[1]))
    sheet, about = Image.open(archive.open("sheet.png")), json.loads(archive.read("sheet.json"))
    assert (sheet.mode, sheet.size) == ("RGBA", (24, 16))
    assert [frame["seed"] for frame in about["frames"]] == [100, 101, 102, 103, 104]
    for id, frame in zip(ids, about["frames"], strict=True):
        box = (frame["x"], frame["y"], frame["x"] + frame["width"], frame["y"] + frame["height"])
        alone = Image.open(io.BytesIO(page.ask(f"/api/runs/0/items/{id}.png")[1]))
        assert np.array_equal(np.asarray(sheet.crop(box)), np.asarray(alone))
    assert np.asarray(sheet)[8:, 16:].max() == 0  # the free place is transparent


def test_measured_values_come_as_they_are(page: Page, rain: pp.Run) -> None:
    (item,) = page.made(1, {"kind": "sample", "count": 1, "seed": 3}, 1)
    exact = rain.sample(1, seed=3).images[0]
    found = page.json(f"runs/1/items/{item['id']}/values")
    np.testing.assert_allclose(np.array(found["values"]).reshape(found["shape"]), exact, rtol=1e-4, atol=1e-4)
    assert found["units"] == ["mm/h"]
    bar = page.json("runs/1/bar")
    ends = rain.normaliser.shown
    assert ends is not None
    assert [float(bar["lowest"]), float(bar["highest"])] == pytest.approx(ends[0], rel=1e-4)
    assert bar["title"] == "mm/h"
    assert page.json("runs/0/bar") is None
    status, content = page.ask(f"/api/runs/1/download?ids={item['id']}")
    np.testing.assert_allclose(np.load(io.BytesIO(content))[0], exact, rtol=1e-5, atol=1e-5)
    assert status == 200


def test_a_painted_part_is_made_anew_and_all_else_stays(page: Page) -> None:
    (origin,) = page.made(0, {"kind": "sample", "count": 1, "seed": 30}, 1)
    mask = "".join("1" if column >= 4 else "0" for _ in range(8) for column in range(8))
    made = page.made(0, {"kind": "inpaint", "count": 2, "mask": mask, "of": [origin["id"]], "nfe": 2}, 2)
    pictures = [
        np.asarray(Image.open(io.BytesIO(page.ask(f"/api/runs/0/items/{item['id']}.png")[1]))) for item in (origin, *made)
    ]
    for picture in pictures[1:]:
        assert np.array_equal(picture[:, :4], pictures[0][:, :4])
        assert not np.array_equal(picture[:, 4:], pictures[0][:, 4:])
    assert made[0]["how"]["class"] == origin["how"]["class"]


def test_an_image_of_ones_own_can_be_edited(page: Page, sprites: pp.Run, tmp_path: Path) -> None:
    own, held = np.random.default_rng(7).integers(0, 256, (8, 8, 4), dtype=np.uint8), io.BytesIO()
    Image.fromarray(own).save(held, "PNG")
    (item,) = page.given("runs/0/take/own.png", held.getvalue())[1]
    assert item["name"] == "own"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(page.ask(f"/api/runs/0/items/{item['id']}.png")[1]))), own)
    mask = "1" * 32 + "0" * 32
    (made,) = page.made(0, {"kind": "inpaint", "count": 1, "mask": mask, "of": [item["id"]], "classes": ["a"], "nfe": 2}, 1)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(page.ask(f"/api/runs/0/items/{made['id']}.png")[1])))[4:], own[4:])
    status, said = page.given("runs/0/take/own.png", b"no picture")
    assert status == 400
    assert "own.png" in said["message"]
    assert "/" not in said["message"].partition("own.png")[0]


def values_of(page: Page, run: int, items: list[dict[str, Any]]) -> np.ndarray:
    """The values of items [item, channel, row, column]."""
    found = [page.json(f"runs/{run}/items/{item['id']}/values") for item in items]
    return np.stack([np.array(each["values"]).reshape(each["shape"]) for each in found])


def test_numbers_and_condition_images_are_asked_for(page: Page, asking: pp.Run, tmp_path: Path) -> None:
    assert page.json("runs/2")["columns"] == ["heat", "wind"]
    assert page.json("runs/2")["cond_image"]
    masks = np.random.default_rng(8).integers(0, 3, (2, 1, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "masks.npy", masks)
    given = page.given("runs/2/conditions/masks.npy", (tmp_path / "masks.npy").read_bytes())[1]
    assert [each["name"] for each in given] == ["masks", "masks"]
    asked = {"numbers": {"heat": "7.5", "wind": "2"}, "cond_images": [each["id"] for each in given], "nfe": 3}
    items = page.made(2, {"kind": "sample", "count": 5, "seed": 3, **asked}, 5)
    (tmp_path / "asked.csv").write_text("name,heat,wind\na,7.5,2\n")
    table, images = tmp_path / "asked.csv", tmp_path / "masks.npy"
    exact = asking.sample(5, seed=3, nfe=3, conditions=table, cond_image=images).images
    assert np.abs(values_of(page, 2, items) - exact).max() <= 1
    assert np.abs(exact - asking.sample(5, seed=3, nfe=3).images.astype(float)).max() > 1
    assert [item["how"]["cond_image"] for item in items] == [given[place % 2]["id"] for place in range(5)]
    assert items[0]["how"]["numbers"] == {"heat": "7.5", "wind": "2.0"}
    way = page.made(2, {"kind": "between", "count": 2, "of": [items[0]["id"], items[1]["id"]], "nfe": 3}, 2)
    assert np.abs(values_of(page, 2, way) - exact[:2]).max() <= 1


def test_condition_images_of_the_data_and_of_the_image_that_is_edited(page: Page, asking: pp.Run, tmp_path: Path) -> None:
    own = page.json("runs/2/conditions")["items"]
    items = page.made(2, {"kind": "sample", "count": 2, "seed": 6, "nfe": 3}, 2)
    assert [item["how"]["cond_image"] for item in items] == [own[place % len(own)]["id"] for place in (6, 7)]
    assert np.abs(values_of(page, 2, items) - asking.sample(2, seed=6, nfe=3).images).max() <= 1
    picture = Image.open(io.BytesIO(page.ask(f"/api/runs/2/conditions/{own[0]['id']}.png")[1]))
    assert picture.size == (8, 8)
    (varied,) = page.made(2, {"kind": "vary", "count": 1, "strength": 0.5, "of": [items[1]["id"]], "nfe": 3}, 1)
    assert (varied["how"]["cond_image"], varied["how"]["numbers"]) == tuple(
        items[1]["how"][name] for name in ("cond_image", "numbers")
    )
    np.save(tmp_path / "image.npy", np.zeros((1, 1, 8, 8), np.uint8))
    (bare,) = page.given("runs/2/take/image.npy", (tmp_path / "image.npy").read_bytes())[1]
    studio = create_app([asking.path], TOKEN).state.studio
    gallery = studio.galleries[0]
    (item,) = gallery.take("image.npy", (tmp_path / "image.npy").read_bytes())
    with refused("conditions"):
        next(_MAKERS["vary"](gallery, Job("vary", of=(item.id,))))
    studio.maker.close()
    assert page.made(2, {"kind": "vary", "count": 1, "of": [bare["id"]], "nfe": 2, "numbers": {"heat": "1", "wind": "1"},
                         "cond_images": [own[1]["id"]]}, 1)[0]["how"]["cond_image"] == own[1]["id"]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("small.npy", np.zeros((1, 1, 4, 4), np.uint8), "1x4x4"),
        ("reals.npy", np.zeros((1, 1, 8, 8), np.float32), "float32"),
        ("strange.npy", np.full((1, 1, 8, 8), 3, np.uint8), "class 3"),
        ("none.npy", b"no array", "none.npy"),
    ],
)
def test_a_wrong_condition_file_is_a_sentence(page: Page, name: str, content: np.ndarray | bytes, words: str) -> None:
    held = io.BytesIO()
    if not isinstance(content, bytes):
        np.save(held, content)
    status, said = page.given(f"runs/2/conditions/{name}", content if isinstance(content, bytes) else held.getvalue())
    assert status == 400
    assert words in said["message"]
    assert name in said["message"]
    assert "/tmp" not in said["message"].partition(name)[0]
    assert page.given(f"runs/0/conditions/{name}", b"")[0] == 400


def test_variations_and_the_way_between_two(page: Page) -> None:
    ends = page.made(0, {"kind": "sample", "count": 2, "seed": 40}, 2)
    varied = page.made(0, {"kind": "vary", "count": 2, "strength": 0.3, "of": [ends[0]["id"]], "nfe": 2}, 2)
    assert varied[0]["how"]["strength"] == 0.3
    way = page.made(0, {"kind": "between", "count": 3, "of": [end["id"] for end in ends]}, 3)
    assert [item["name"] for item in way] == ["seed 40", "50 %", "seed 41"]


def test_favourites_are_kept_in_the_folder_of_the_run(page: Page, sprites: pp.Run) -> None:
    (item,) = page.made(0, {"kind": "sample", "count": 1, "seed": 50}, 1)
    path = f"runs/0/items/{item['id']}/favourite"
    assert page.json(path, {"on": True})["favourite"]
    (about,) = [json.loads(file.read_text()) for file in (sprites.path / "favourites").glob("*.json")]
    assert about["how"]["seed"] == 50
    studio = create_app([sprites.path], TOKEN).state.studio
    again = studio.galleries[0].read()[0]
    studio.maker.close()
    assert (again.favourite, again.name) == (True, item["name"])
    assert not page.json(path, {"on": False})["favourite"]
    assert list((sprites.path / "favourites").glob("*")) == []


def test_samples_on_disk_are_in_the_gallery(sprites: pp.Run) -> None:
    made = sprites.sample(3, seed=7)
    made.save(sprites.path / "samples" / "1")
    studio = create_app([sprites.path], TOKEN).state.studio
    items = studio.galleries[0].read()
    studio.maker.close()
    assert [item.how["seed"] for item in items] == [7, 8, 9]
    files = sorted((sprites.path / "samples" / "1").glob("0*.png"))
    for item, file in zip(items, files, strict=True):
        assert np.array_equal(item.straight.transpose(1, 2, 0), np.asarray(Image.open(file)))


@pytest.mark.parametrize(
    ("asked", "setting"),
    [
        ({"kind": "paint"}, "kind"),
        ({"kind": "sample", "count": 5000}, "count"),
        ({"kind": "vary"}, "of"),
        ({"kind": "between", "of": ["0-1"]}, "of"),
        ({"kind": "sample", "count": "many"}, None),
        ({}, "kind"),
    ],
)
def test_what_is_no_job_is_refused(asked: dict[str, Any], setting: str | None) -> None:
    with refused(setting):
        Job.from_json(asked)


def test_a_mistake_is_a_sentence(page: Page) -> None:
    for path in ("runs/9/items", "runs/0/items/none/values", "runs/0/sheet?ids=", "runs/0/previews/step-1.png"):
        status, content = page.ask("/api/" + path)
        assert status == 400
        assert json.loads(content)["message"].endswith(".")


def test_training_is_told_from_files(tmp_path: Path) -> None:
    rows = [{"step": step, "seconds": 2.0 * step, "loss": 1 / step} for step in range(1, 31)]
    rows[9]["alarms"] = ["features collapse"]
    rows[11]["alarms"] = ["features collapse"]
    (tmp_path / "recipe.json").write_text(json.dumps({"name": "small", "steps": 100}))
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "previews").mkdir()
    for step in (20, 3):
        Image.new("L", (4, 4)).save(tmp_path / "previews" / f"step-{step}.png")
    assert seconds_left(rows, 100) == pytest.approx(140)
    found = watched(tmp_path)
    assert found["facts"]["state"] == "not training now"
    (tmp_path / ".lock").touch()
    found = watched(tmp_path)
    assert (found["training"], found["facts"]["step"], found["facts"]["time left"]) == (True, "30 of 100", "2.3 min")
    assert found["alarms"] == [{"step": 10, "what": "features collapse"}]
    assert [each["step"] for each in found["previews"]] == [3, 20]
    assert "<svg" in found["charts"]


def test_runs_are_found_and_others_refused(sprites: pp.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found_runs([sprites.path, sprites.path]) == [sprites.path]
    with refused("runs", tmp_path):
        found_runs([tmp_path])
    monkeypatch.chdir(tmp_path)
    assert found_runs([]) == found_runs([Path("sprites")]) == [BUNDLED / "sprites"]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "own").symlink_to(sprites.path, target_is_directory=True)
    (tmp_path / "runs" / "empty").mkdir()
    assert found_runs([]) == [Path("runs/own")]


def test_what_is_made_of_a_bundled_model_lies_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(path for path in BUNDLED.rglob("*") if "__pycache__" not in path.parts)
    pp.load("sprites").sample(2, nfe=2).save("sprites-samples/1")
    gallery = Gallery(BUNDLED / "sprites", 0)
    items = gallery.read()
    assert [item.name for item in items] == ["seed 0, dngn", "seed 1, effect"]
    gallery.favour(items[1].id, True)
    assert sorted(path.name for path in (tmp_path / "sprites-favourites").iterdir()) == ["000001.json", "000001.npy"]
    assert [item.favourite for item in Gallery(BUNDLED / "sprites", 0).read()] == [True, False, False]
    assert sorted(path for path in BUNDLED.rglob("*") if "__pycache__" not in path.parts) == before


def test_a_port_that_is_taken_is_refused(sprites: pp.Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with refused("port", taken.getsockname()[1]):
            serve([sprites.path], taken.getsockname()[1], browser=False)


def test_the_gallery_of_a_run_begins_with_the_samples_of_its_fit(diffusion_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(diffusion_run, tmp_path / "diffusion")
    other = shutil.copytree(diffusion_run, tmp_path / "onestep")
    runs = [{"folder": "diffusion", "kind": "diffusion"}, {"folder": "onestep", "kind": "onestep"}]
    (tmp_path / "fit.json").write_text(json.dumps({"asked": {}, "runs": runs}))
    assert Gallery(run, 0).read() == []
    pp.load(run, device="cpu").sample(3, nfe=2).save(tmp_path / "samples" / "1")
    assert [item.how["seed"] for item in Gallery(run, 0).read()] == [0, 1, 2]
    assert Gallery(other, 0).read() == []


def test_no_script_of_the_page_imports_one_that_imports_it() -> None:
    folder = Path(studio_app.__file__).parent / "static"
    left = {file.name: set(re.findall(r'from "\./(.*?)"', file.read_text(encoding="utf-8"))) for file in folder.glob("*.js")}
    assert set(left) == set(studio_app.SCRIPTS)
    while left:
        free = [name for name, used in left.items() if not used & set(left)]
        assert free, f"these import each other: {sorted(left)}"
        left = {name: used for name, used in left.items() if name not in free}
