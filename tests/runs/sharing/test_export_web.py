"""A run as a page: Chromium makes the run's images from its noise, from a file and from a local server, without a request."""

import json
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.application import call, files
from tests.runs.sharing.test_export import ONE_STEP, save
from tests.runs.sharing.test_export_conditions import COLUMNS
from tests.runs.sharing.test_export_diffusers import DIFFUSION

from pixelpath.data.conditions import Conditions
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.errors import UserError
from pixelpath.randomness import Streams, normal, seed_of
from pixelpath.recipes.recipe import Sampling
from pixelpath.runs.api import load
from pixelpath.runs.opened import open_run
from pixelpath.runs.sample import sample
from pixelpath.runs.sharing.export_web import BINARY, GLUE, SCRIPT, export_web

RUNTIME = os.environ.get("PIXELPATH_ONNXRUNTIME_WEB", "node_modules/onnxruntime-web/dist")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium under Playwright; skips where either, or onnxruntime-web, is absent."""
    playwright = pytest.importorskip("playwright.sync_api")
    if not (Path(RUNTIME) / BINARY).is_file() or CHROMIUM is None:
        pytest.skip("needs Chromium, and onnxruntime-web in node_modules or at PIXELPATH_ONNXRUNTIME_WEB")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def served(folder: Path) -> ThreadingHTTPServer:
    """A server of a folder, on a free port of this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_a_page_makes_the_images_of_a_run_without_a_request(browser: Any, tmp_path: Path) -> None:
    run = save(tmp_path / "run", replace(DIFFUSION, sampling=Sampling(steps=4, guidance=2.0)))
    folder = tmp_path / "page"
    assert call("export", run, "--format", "web", "--runtime", RUNTIME, "--out", folder) == 0
    assert {path.name for path in files(folder)} == {"index.html", "page.js", "data.js", "runtime.js"}
    server = served(folder)
    streams = Streams([seed_of(seed) for seed in (0, 1)])
    noise = normal(streams, (1, 8, 8))
    own = sample(open_run(run), range(2), torch.tensor([0, 1])).images
    for address in (f"http://127.0.0.1:{server.server_port}/index.html", (folder / "index.html").as_uri()):
        page, asked, wrong = browser.new_page(), [], []
        page.set_default_timeout(180_000)  # 19 MB of script on a busy machine
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.on("pageerror", lambda error, wrong=wrong: wrong.append(str(error)))
        page.goto(address)
        page.wait_for_function("window.pixelpath")
        for number in (0, 1):
            words = "([noise, label]) => window.pixelpath.image([Float32Array.from(noise)], label).then(Array.from)"
            made = np.array(page.evaluate(words, [noise[number].flatten().tolist(), number])).reshape(1, 8, 8)
            assert np.abs(made - own[number]).max() <= 1
        page.fill("#count", "3")
        page.select_option("#class", label="b")
        page.click("#make")
        page.wait_for_function("document.getElementById('state').textContent.startsWith('3 of 3')")
        assert page.locator("#images img").count() == 3
        assert page.locator("#images span").first.inner_text() == "seed 0 b"
        assert page.evaluate("document.querySelector('#images img').naturalWidth") == 8
        assert wrong == []
        home = address.rpartition("/")[0]
        assert all(url.startswith((home, "blob:", "data:")) for url in asked if not url.endswith("favicon.ico"))
        page.close()
    server.shutdown()


def test_a_page_asks_for_numbers_words_and_tags(browser: Any, tmp_path: Path) -> None:
    guided = replace(DIFFUSION, sampling=Sampling(steps=4, guidance=2.0))
    run = save(tmp_path / "run", guided, asks=Conditions(COLUMNS))
    folder = export_web(open_run(run), out=tmp_path / "page", runtime=Path(RUNTIME))
    (tmp_path / "asked.csv").write_text("name,heat,place,marks\na,23.5,hill,wet|dry\n")
    own = load(run, device="cpu").sample(1, conditions=tmp_path / "asked.csv").images[0]
    noise = normal(Streams([seed_of(0)]), (1, 8, 8)).flatten().tolist()
    page, wrong = browser.new_page(), []
    page.set_default_timeout(180_000)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto((folder / "index.html").as_uri())
    page.wait_for_function("window.pixelpath")
    words = "([noise, entries]) => window.pixelpath.image([Float32Array.from(noise)], 0, entries).then(Array.from)"
    for heat, within in (("23.5", True), ("90", False)):
        entries = {"heat": heat, "place": "hill", "marks": "wet|dry"}
        made = np.array(page.evaluate(words, [noise, entries])).reshape(1, 8, 8)
        assert (np.abs(made - own).max() <= 1) == within
    page.get_by_label("heat").fill("hot")
    page.click("#make")
    page.wait_for_function("document.getElementById('state').textContent === 'This failed: heat takes a number.'")
    page.get_by_label("heat").fill("21")
    page.get_by_label("place").fill("sea")
    page.click("#make")
    page.wait_for_function("document.getElementById('state').textContent.includes('place takes coast, hill')")
    page.get_by_label("place").fill("coast")
    page.get_by_label("marks").fill("")
    page.fill("#count", "2")
    page.click("#make")
    page.wait_for_function("document.getElementById('state').textContent.startsWith('2 of 2')")
    assert page.locator("#images img").count() == 2
    assert wrong == []
    page.close()


def test_what_a_page_cannot_show_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = save(tmp_path / "run", ONE_STEP)
    assert call("export", run, "--format", "web", "--runtime", tmp_path) == 2
    said = capsys.readouterr().err
    assert f"does not hold {SCRIPT}, {GLUE}, {BINARY} of onnxruntime-web" in said
    assert "--runtime" in said
    assert call("export", run, "--runtime", tmp_path) == 2
    assert "--runtime is for the format web" in capsys.readouterr().err
    floats = save(tmp_path / "floats", ONE_STEP, Normaliser((5.0,), (3.0,), "float32"), ())
    with pytest.raises(UserError, match="1 channels of float32"):
        export_web(open_run(floats))


def test_the_page_asks_for_what_the_data_hold(tmp_path: Path) -> None:
    runtime = tmp_path / "dist"
    runtime.mkdir()
    for name in (SCRIPT, GLUE, BINARY):
        (runtime / name).write_bytes(b"stand-in")
    folder = export_web(open_run(save(tmp_path / "run", ONE_STEP)), out=tmp_path / "page", runtime=runtime)
    text = (folder / "data.js").read_text()
    walk = json.loads(text[text.index("walk = ") + 7 : text.index(";\nconst files")])
    kept = json.loads(text[text.index("files = ") + 8 : text.rindex(";")])
    assert (walk["classes"], walk["shape"], walk["noises"], walk["guidance"]) == (["a", "b"], [1, 8, 8], 1, [1.0])
    assert walk["rows"] == [[10.0], [0.0, 1.0]]  # noise of the highest sigma, and its estimate
    assert set(kept) == {"denoiser.onnx", "decode.onnx", "runtime.mjs", "runtime.wasm"}
    page = (folder / "index.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
