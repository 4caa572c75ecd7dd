"""The studio in Chromium, as its user works with it; skipped where Chromium or Playwright is missing."""

from __future__ import annotations

import os
import re
import shutil
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette")
uvicorn = pytest.importorskip("uvicorn")
playwright = pytest.importorskip("playwright.sync_api")

from tests.asking import run_with_conditions  # noqa: E402

import pixelpath as pp  # noqa: E402
from pixelpath.studio.app import create_app  # noqa: E402

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
AXE = os.environ.get("AXE")  # the file axe.min.js of the npm package axe-core
WAIT = 60_000
LOOKS = [(1400, "light"), (390, "dark")]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs on the same sprites of two classes, one with numbers and masks as conditions, and one on a field, south up."""
    folder, numbers = tmp_path_factory.mktemp("sprites"), np.random.default_rng(3)
    for place in range(24):
        (folder / "ab"[place % 2]).mkdir(exist_ok=True)
        Image.fromarray(numbers.integers(0, 256, (8, 8, 4), dtype=np.uint8)).save(folder / "ab"[place % 2] / f"{place:02d}.png")
    data = pp.open_data(folder, held_out=0.2)
    recipe = pp.recipes.digits_diffusion(steps=4, size=pp.recipes.sizes.NANO)
    out = tmp_path_factory.mktemp("runs")
    plain = [pp.train(data, recipe, out=out / name, every=2, measure_every=2).path for name in ("first", "second")]
    return [*plain, run_with_conditions(tmp_path_factory.mktemp("asking")).path, field(tmp_path_factory.mktemp("field"))]


def field(folder: Path) -> Path:
    """A run on one channel that is warm in the south, which is where its rows begin."""
    xarray = pytest.importorskip("xarray")
    warm = (
        np.random.default_rng(5).normal(size=(24, 8, 8)).astype(np.float32) + 10 * np.arange(8, 0, -1, dtype=np.float32)[:, None]
    )
    dimensions, where = ("time", "lat", "lon"), {"lat": 50.0 + np.arange(8)}
    xarray.Dataset({"t2m": (dimensions, warm, {"units": "K"})}, where).to_netcdf(folder / "warm.nc", engine="scipy")
    recipe = pp.recipes.digits_diffusion(steps=1, size=pp.recipes.sizes.NANO)
    return pp.train(pp.open_data(folder / "warm.nc", held_out=0.2), recipe, out=folder / "first").path


@pytest.fixture(scope="module")
def address(runs: list[Path]) -> Iterator[str]:
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(runs, "token"), log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=lambda: server.run(sockets=[bound]), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{bound.getsockname()[1]}/?token=token"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright.expect.set_options(timeout=WAIT)
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


class Seen:
    """A page with what went wrong in it: errors, and requests to anybody but the studio."""

    def __init__(self, browser: Any, address: str, width: int, scheme: str) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page.set_default_timeout(WAIT)
        self.wrong: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda asked: self.wrong.append(asked.url) if not self.own(asked.url, address) else None)
        self.page.goto(address)
        self.page.locator("body[data-ready]").wait_for()

    @staticmethod
    def own(url: str, address: str) -> bool:
        return url.startswith((address.partition("?")[0], "data:", "blob:"))

    def make(self, count: int, seed: int) -> None:
        """Make images with the form, and wait for them."""
        self.page.get_by_label("Images", exact=True).first.fill(str(count))
        self.page.get_by_label("First seed").first.fill(str(seed))
        self.page.get_by_role("button", name="Make images").click()
        self.page.get_by_label(f"Open seed {seed + count - 1},").wait_for()

    def violations(self) -> list[str]:
        """What axe finds on the page as it stands."""
        if AXE is None:
            return []
        self.page.evaluate(Path(AXE).read_text(encoding="utf-8"))
        found = self.page.evaluate("axe.run()")["violations"]
        return [f"{each['id']}: {each['nodes'][0]['html']}" for each in found]

    def fits(self) -> bool:
        """Whether the page does not scroll sideways."""
        return self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.fixture(params=LOOKS, ids=["wide and light", "phone and dark"])
def seen(request: pytest.FixtureRequest, browser: Any, address: str) -> Iterator[Seen]:
    opened = Seen(browser, address, *request.param)
    yield opened
    opened.page.close()
    assert opened.wrong == []


def test_sample_favourite_and_sheet(seen: Seen, runs: list[Path], tmp_path: Path) -> None:
    page, first = seen.page, 100 + page_width(seen)
    seen.make(6, first)
    star = page.get_by_label(f"Favourite: seed {first},")
    star.click()
    playwright.expect(star).to_have_attribute("aria-pressed", "true")
    page.get_by_label("Favourites only").check()
    playwright.expect(page.get_by_label(f"Open seed {first + 1},")).to_be_hidden()
    page.get_by_label("Favourites only").uncheck()
    assert any(f'"seed": {first}' in file.read_text() for file in (runs[0] / "favourites").glob("*.json"))
    for place in range(4):
        page.get_by_label(f"Choose seed {first + place},").check()
    with page.expect_download() as loading:
        page.get_by_role("button", name="Sprite sheet").click()
    loading.value.save_as(tmp_path / "sheet.zip")
    with zipfile.ZipFile(tmp_path / "sheet.zip") as archive:
        assert Image.open(archive.open("sheet.png")).size == (16, 16)
    assert seen.fits()
    assert seen.violations() == []


def page_width(seen: Seen) -> int:
    return seen.page.viewport_size["width"]


def test_paint_a_mask_and_make_the_part_anew(seen: Seen) -> None:
    page, first = seen.page, 5000 + page_width(seen)
    seen.make(1, first)
    page.get_by_label(f"Open seed {first},").click()
    box = page.locator("#stage").bounding_box()
    at = lambda across, down: (box["x"] + box["width"] * across, box["y"] + box["height"] * down)  # noqa: E731
    page.mouse.move(*at(0.6, 0.2))
    playwright.expect(page.locator("#value")).to_have_text(
        re.compile(r"row 1, column 4: red \d+, green \d+, blue \d+, alpha \d+")
    )
    page.mouse.down()
    page.mouse.move(*at(0.8, 0.7), steps=4)
    page.mouse.up()
    assert seen.fits()
    assert seen.violations() == []
    page.locator("#parts").fill("1")
    before = page.locator("#images li").count()
    page.get_by_role("button", name="Make the part anew").click()
    playwright.expect(page.locator("#images li")).to_have_count(before + 1)
    page.get_by_role("button", name="Close").click()


def test_a_pixel_pointed_at_before_its_values_arrive_is_told_when_they_do(seen: Seen) -> None:
    page, first = seen.page, 6000 + page_width(seen)
    seen.make(2, first)
    held: list[Any] = []
    page.route("**/values*", lambda route: held.append(route))
    with page.expect_request("**/values*"):
        page.get_by_label(f"Open seed {first},").click()
    with page.expect_request("**/values*"):
        page.locator("#after").click()
    page.locator("#view").focus()
    page.keyboard.press("ArrowDown")
    playwright.expect(page.locator("#value")).to_have_text("Point at a pixel for its value.")
    held[1].continue_()
    playwright.expect(page.locator("#value")).to_contain_text("row 4, column 4: red")
    said = page.locator("#value").text_content()
    with page.expect_response("**/values*"):
        held[0].continue_()  # the values of the image that was left arrive last
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    playwright.expect(page.locator("#value")).to_have_text(said)


def test_numbers_and_a_condition_image(seen: Seen, tmp_path: Path) -> None:
    page, first = seen.page, 7000 + page_width(seen)
    page.locator("#run").select_option(index=2)
    masks = page.get_by_role("group", name="Condition image")
    playwright.expect(masks.get_by_role("radio")).to_have_count(7)
    np.save(tmp_path / "wrong.npy", np.zeros((1, 1, 4, 4), np.uint8))
    page.get_by_label("A file of your own").set_input_files(tmp_path / "wrong.npy")
    playwright.expect(page.locator("#status")).to_contain_text("wrong.npy are 1x4x4")
    np.save(tmp_path / "mine.npy", np.ones((1, 1, 8, 8), np.uint8))
    page.get_by_label("A file of your own").set_input_files(tmp_path / "mine.npy")
    playwright.expect(masks.get_by_label("mine")).to_be_checked()
    page.get_by_label("heat").fill("many")
    page.get_by_label("wind").fill("2")
    page.get_by_role("button", name="Make images").click()
    playwright.expect(page.locator("#status")).to_contain_text("many is no finite number")
    page.get_by_label("heat").fill("3.5")
    page.get_by_label("Images", exact=True).first.fill("1")
    page.get_by_label("First seed").first.fill(str(first))
    page.get_by_role("button", name="Make images").click()
    page.get_by_label(f"Open seed {first}").click()
    playwright.expect(page.locator("#asked")).to_have_text("Made with heat 3.5, wind 2.0 and ")
    assert seen.fits()
    assert seen.violations() == []
    page.get_by_role("button", name="Close").click()
    assert seen.violations() == []


def test_a_field_has_north_up_and_keeps_the_order_of_its_rows(seen: Seen, runs: list[Path], tmp_path: Path) -> None:
    page = seen.page
    own = np.arange(64, dtype=np.float32).reshape(1, 1, 8, 8)
    np.save(tmp_path / "own.npy", own)
    page.locator("#run").select_option(index=3)
    playwright.expect(page.locator("#make [name=classes]")).to_be_hidden()
    page.get_by_label("Edit an image of your own").set_input_files(tmp_path / "own.npy")
    playwright.expect(page.locator("#name")).to_have_text("own")
    box = page.locator("#stage").bounding_box()
    at = lambda across, down: (box["x"] + box["width"] * across, box["y"] + box["height"] * down)  # noqa: E731
    page.mouse.move(*at(0.51, 0.03))
    playwright.expect(page.locator("#value")).to_have_text("row 7, column 4: 60 K")
    page.mouse.down()
    page.mouse.up()
    page.locator("#parts").fill("1")
    before = page.locator("#images li").count()
    with page.expect_request("**/make") as asked:
        page.get_by_role("button", name="Make the part anew").click()
    mask = np.array([int(pixel) for pixel in asked.value.post_data_json["mask"]]).reshape(8, 8)
    assert mask[7, 4] == 1  # painted at the top, which is the last row of the data
    assert not mask[:6].any()
    playwright.expect(page.locator("#images li")).to_have_count(before + 1)
    page.get_by_role("button", name="Close").click()


def test_what_is_asked_while_a_run_is_opened_is_of_that_run(seen: Seen, runs: list[Path], tmp_path: Path) -> None:
    page, held = seen.page, list[Any]()
    np.save(tmp_path / "early.npy", np.arange(64, dtype=np.float32).reshape(1, 1, 8, 8))
    page.route("**/runs/3/items", lambda route: held.append(route))
    with page.expect_request("**/runs/3/items"):
        page.locator("#run").select_option(index=3)
    page.get_by_label("Edit an image of your own").set_input_files(tmp_path / "early.npy")
    playwright.expect(page.locator("#about")).not_to_contain_text("field0")  # the page is still of the run before
    with page.expect_response("**/runs/3/take/early.npy"):
        held[0].continue_()
    playwright.expect(page.locator("#name")).to_have_text("early")
    playwright.expect(page.locator("#about")).to_contain_text("field0")
    page.mouse.click(*middle(page.locator("#stage").bounding_box()))
    with page.expect_request("**/runs/3/make"):
        page.get_by_role("button", name="Make the part anew").click()
    page.get_by_role("button", name="Close").click()


def test_of_two_runs_opened_at_once_the_last_stays(seen: Seen, runs: list[Path]) -> None:
    page, held = seen.page, list[Any]()
    page.route("**/runs/3/items", lambda route: held.append(route))
    with page.expect_request("**/runs/3/items"):
        page.locator("#run").select_option(index=3)
    with page.expect_request_finished(lambda asked: asked.url.endswith("/runs/0/items")):
        page.locator("#run").select_option(index=0)
    catch_up = lambda: page.evaluate("fetch('/api/runs').then((answer) => answer.text())")  # noqa: E731
    catch_up()
    item = {"id": "3-0", "name": "late", "favourite": False, "how": {"kind": "own"}}
    with page.expect_response("**/runs/3/items"):
        held[0].fulfill(json=[item])  # the list of the run that was left arrives last
    playwright.expect(page.locator("#about")).to_contain_text(str(runs[0]))
    catch_up()
    playwright.expect(page.get_by_label("Open late")).to_have_count(0)


def middle(box: dict[str, float]) -> tuple[float, float]:
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_fields_of_the_form_are_those_of_the_run_and_runs_can_be_told_apart(seen: Seen) -> None:
    page = seen.page
    options = page.locator("#run option").all_text_contents()
    assert len(set(options)) == 4
    assert all(": diffusion" in option for option in options)
    assert options[3].endswith("first: diffusion, warm.nc")
    for index, classes in ((3, False), (0, True), (3, False)):
        page.locator("#run").select_option(index=index)
        for name in ("classes", "guidance"):
            playwright.expect(page.locator(f"#make [name={name}]")).to_be_visible(visible=classes)


def test_a_thousand_images_are_laid_out_once_and_fetched_when_near(browser: Any, address: str, runs: list[Path]) -> None:
    pp.load(runs[1], device="cpu").sample(1000, nfe=1, batch_size=1000).save(runs[1] / "samples" / "1")
    seen = Seen(browser, address, 1400, "light")
    page, fetched = seen.page, list[str]()
    page.on("request", lambda asked: fetched.append(asked.url) if asked.url.endswith(".png") else None)
    page.locator("#run").select_option(index=1)
    playwright.expect(page.locator("#images li")).to_have_count(1000, timeout=4 * WAIT)
    page.wait_for_load_state("networkidle")
    assert 0 < len(set(fetched)) < 700  # what lies within some screens
    widths = page.evaluate("[...document.querySelectorAll('#images li')].map((each) => each.getBoundingClientRect().width)")
    assert max(widths) - min(widths) < 1
    height = page.evaluate("document.documentElement.scrollHeight")
    for share in (0.25, 0.5, 0.75, 1.0):
        page.evaluate(f"scrollTo(0, {share} * document.documentElement.scrollHeight)")
        page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.scrollHeight") == pytest.approx(height, rel=0.1)
    playwright.expect(page.get_by_label("Open seed 999,")).to_be_in_viewport()
    assert seen.wrong == []
    page.close()


def test_training_and_two_runs_beside_each_other(seen: Seen) -> None:
    page = seen.page
    page.get_by_role("tab", name="Training").click()
    playwright.expect(page.locator("#training .facts")).to_contain_text("4 of 4")
    slider = page.get_by_label("Step of the preview").first
    slider.fill("0")
    playwright.expect(page.locator("#training .slider output")).to_have_text("step 2")
    playwright.expect(page.locator("#training .chart").first).to_be_visible()
    assert seen.fits()
    assert seen.violations() == []
    page.get_by_role("tab", name="Compare").click()
    page.locator("#pair [name=count]").fill("2")
    playwright.expect(page.locator(".side .facts")).to_have_count(2)
    page.get_by_role("button", name="Make the same seeds").click()
    playwright.expect(page.locator(".row li")).to_have_count(4)
    assert seen.fits()
    assert seen.violations() == []


def test_everything_is_done_with_the_keyboard_alone(browser: Any, address: str) -> None:
    seen = Seen(browser, address, 1400, "dark")
    page = seen.page
    press = page.keyboard.press

    def reach(found: Any) -> None:
        """Press Tab until the element has the focus."""
        for _ in range(80):
            if found.evaluate("each => each === document.activeElement"):
                return
            press("Tab")
        raise AssertionError(f"{found} cannot be reached")

    count = page.locator("#make [name=count]")
    reach(count)
    press("Control+A")
    page.keyboard.type("2")
    reach(page.locator("#make [name=seed]"))
    press("Control+A")
    page.keyboard.type("9000")
    press("Enter")
    opener = page.get_by_label("Open seed 9000,")
    opener.wait_for()
    reach(opener)
    press("Enter")
    reach(page.locator("#view"))
    press("ArrowDown")
    playwright.expect(page.locator("#value")).to_contain_text("row 4, column 4")
    press("ArrowDown")
    playwright.expect(page.locator("#value")).to_contain_text("row 5, column 4")
    press("Space")
    anew = page.get_by_role("button", name="Make the part anew")
    playwright.expect(anew).to_be_enabled()
    press("Escape")
    playwright.expect(page.locator("#editor")).to_be_hidden()
    tab = page.get_by_role("tab", name="Gallery")
    tab.focus()
    press("ArrowRight")
    playwright.expect(page.locator("#training")).to_be_visible()
    assert seen.wrong == []
    page.close()
