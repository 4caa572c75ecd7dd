"""A run on the Hub: published to a server that stands in for it, and opened again from the cache of huggingface_hub."""

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runs.sharing.test_export import BYTES, ONE_STEP, save

import pixelpath as pp
from pixelpath.atomic import write_json
from pixelpath.data.settings import DataSettings
from pixelpath.errors import UserError
from pixelpath.runs.measuring.evaluate import RESULTS

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "painter/tiny"


class Hub(ThreadingHTTPServer):
    """What is used of the Hub: making a repository, and one commit of files in it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.refuses = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    """The answers to the requests of huggingface_hub."""

    server: Hub  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: Any) -> None: ...

    def do_GET(self) -> None:
        self.answer({"error": "no"} if self.server.refuses else {"id": NAME, "sha": COMMIT}, 403 if self.server.refuses else 200)

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(self.path)
        if self.server.refuses:
            self.answer({"error": "no"}, 403)
        elif self.path.startswith("/api/repos/create"):
            self.answer({"url": f"{self.server.address}/{NAME}", "name": NAME, "id": NAME})
        elif "/preupload/" in self.path:
            known = [each["path"] for each in json.loads(content)["files"]]
            files = [{"path": path, "uploadMode": "regular", "shouldIgnore": False, "oid": None} for path in known]
            self.answer({"files": files})
        elif "/commit/" in self.path:
            for line in content.decode().splitlines():
                part = json.loads(line)
                if part["key"] == "file":
                    self.server.files[part["value"]["path"]] = base64.b64decode(part["value"]["content"])
            self.answer({"commitUrl": f"{self.server.address}/{NAME}/commit/{COMMIT}", "commitOid": COMMIT, "success": True})
        else:
            self.answer({})

    def answer(self, document: Any, status: int = 200) -> None:
        text = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    """The stand-in, running."""
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture(autouse=True)
def at_home(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """huggingface_hub keeps everything below the test's folder and talks to the stand-in alone; returns its cache."""
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    monkeypatch.setenv("HF_TOKEN", "hf_none")
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    return tmp_path / "cache"


def in_cache(cache: Path, files: dict[str, bytes]) -> None:
    """Files as huggingface_hub keeps a repository that it has downloaded."""
    home = cache / "models--painter--tiny"
    for name, content in files.items():
        path = home / "snapshots" / COMMIT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (home / "refs").mkdir(parents=True, exist_ok=True)
    (home / "refs" / "main").write_text(COMMIT)


def test_a_published_run_comes_back_as_it_was(hub: Hub, at_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pixelpath.runs.sharing.hub import push

    secret = tmp_path / "secret-folder"
    recipe = replace(ONE_STEP, data=DataSettings(path=secret))
    folder = save(tmp_path / "run", recipe)
    run = pp.load(folder, device="cpu")
    row = {"features": "pixels", "frechet": 0.123, "frechet_of_few": 0.2, "frechet_floor_of_few": 0.1, "few": 50}
    protocol = {"real": 100, "generated": 100, "sampler": "consistency", "nfe": 1, "guidance": None}
    result = {"checkpoint": run.checkpoint.name, "distances": [{**row, "protocol": protocol}]}
    write_json(folder / RESULTS, [{**result, "checkpoint": "step-00000001"}, result])
    audit = tmp_path / "audit"
    audit.mkdir()
    write_json(audit / "audit.json", {"findings": [{"level": "note", "about": "size", "what": "All are 8 x 8."}]})
    push(run, NAME, "cc0-1.0", audit=audit, endpoint=hub.address)

    assert {"README.md", "samples.png", "model_index.json", "run/recipe.json", "transformer/pixelpath_denoiser.py"} <= set(
        hub.files
    )
    assert not any("student" in name or "optimizer" in name for name in hub.files)
    assert not any(b"secret-folder" in content for content in hub.files.values())
    card = hub.files["README.md"].decode()
    for words in ("license: cc0-1.0", "library_name: diffusers", 'pp.load("hf:painter/tiny")', "| classes | 2: a, b |"):
        assert words in card
    assert "| pixels | 0.123 | 0.2 | 0.1 |" in card
    assert "- pixels: real 100, generated 100, sampler consistency, nfe 1" in card
    assert "- note: All are 8 x 8." in card

    in_cache(at_home, hub.files)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    again = pp.load(f"hf:{NAME}", device="cpu")
    assert again.step == 7
    assert again.recipe.data.path is None
    assert np.array_equal(again.sample(4).images, run.sample(4).images)


def test_what_the_hub_refuses_is_one_sentence(hub: Hub, at_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pixelpath.runs.sharing.hub import push

    run = pp.load(save(tmp_path / "run", ONE_STEP, BYTES), device="cpu")
    for name, license, setting in (("tiny", "cc0-1.0", "repository"), (NAME, " ", "license")):
        with pytest.raises(UserError) as caught:
            push(run, name, license, endpoint=hub.address)
        assert caught.value.setting == setting
    monkeypatch.setattr(hub, "refuses", True)
    with pytest.raises(UserError, match="did not take painter/tiny"):
        push(run, NAME, "cc0-1.0", endpoint=hub.address)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("hf:tiny", "hf:painter/other"):
        with pytest.raises(UserError, match="hf:"):
            pp.load(name)
    in_cache(at_home, {"README.md": b"another model"})
    with pytest.raises(UserError, match="holds no run of pixelpath"):
        pp.load(f"hf:{NAME}")
