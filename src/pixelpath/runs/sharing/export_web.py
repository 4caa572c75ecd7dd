"""A run as a page that makes images in the browser, without a server: two networks, a table of the sampler, onnxruntime-web."""

from __future__ import annotations

import base64
import json
import shutil
from importlib import resources
from pathlib import Path

from pixelpath.atomic import whole_path
from pixelpath.errors import UserError
from pixelpath.interop.generator import ONNX, check_packages
from pixelpath.log import say
from pixelpath.runs.opened import OpenRun
from pixelpath.runs.sharing.export_steps import about_of, compare, steps_of, write_networks

RUNTIME = Path("node_modules/onnxruntime-web/dist")
SCRIPT, GLUE, BINARY = "ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"
PAGE = {"web_page.html": "index.html", "web_page.js": "page.js"}


def export_web(run: OpenRun, guidance: float | None = None, out: Path | None = None, runtime: Path | None = None) -> Path:
    """Write a run of 8-bit pictures as a folder whose index.html makes images, also when opened as a file.

    `runtime` is the folder `dist` of the npm package onnxruntime-web; None: that in node_modules here. The networks are checked
    as those of `export_steps`. Raises UserError for other data than pictures, a missing runtime, and a folder that is there.
    """
    check_packages()
    if run.normaliser.dtype != "uint8" or run.shape[0] not in (1, 3, 4):
        raise UserError(
            f"{run.path} makes {run.shape[0]} channels of {run.normaliser.dtype}, and a page shows 8-bit pictures of 1, 3 or 4: "
            "choose another `format`.",
            "format",
        )
    if run.conditions.other:
        raise UserError(
            f"{run.path} takes condition images, which a page cannot give: choose another `format`, or pixelpath studio.",
            "format",
        )
    runtime = found_runtime(runtime or RUNTIME)
    folder = run.path / "web" if out is None else out
    if folder.exists():
        raise UserError(f"{folder} is there already: choose another `out`, nothing is overwritten.", setting="out")
    folder.parent.mkdir(parents=True, exist_ok=True)
    steps = steps_of(run, guidance, exportable=lambda warm: False)
    with whole_path(folder) as partial:
        partial.mkdir()
        write_networks(run, steps, ONNX, partial)
        found = compare(partial, run, steps)
        parts = {name: (partial / name).read_bytes() for name in ("denoiser.onnx", "decode.onnx")}
        parts |= {"runtime.mjs": (runtime / GLUE).read_bytes(), "runtime.wasm": (runtime / BINARY).read_bytes()}
        _write_data(partial / "data.js", parts, {"name": run.path.name, **about_of(run, steps)})
        for name in ("walk.json", "denoiser.onnx", "decode.onnx"):
            (partial / name).unlink()
        for name, called in PAGE.items():
            (partial / called).write_bytes(resources.files("pixelpath.interop").joinpath(name).read_bytes())
        shutil.copyfile(runtime / SCRIPT, partial / "runtime.js")
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    own = len(parts["denoiser.onnx"]) / 1e6
    say(f"{folder / 'index.html'} ({size:.1f} MB, its networks {own:.1f} MB): open it in a browser, or put the folder online.")
    say(f"Its networks make the images of the run: rounding explains all but {found.excess:.1e} in model range.")
    return folder


def found_runtime(folder: Path) -> Path:
    """The folder of onnxruntime-web; UserError if it does not hold what a page needs."""
    missing = [name for name in (SCRIPT, GLUE, BINARY) if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} does not hold {', '.join(missing)} of onnxruntime-web: run npm install onnxruntime-web here, or give "
            "its folder dist as `runtime`.",
            "runtime",
        )
    return folder


def _write_data(file: Path, parts: dict[str, bytes], walk: dict[str, object]) -> None:
    """Files as base64 in a script, as a page opened from a disk may load no others."""
    files = {name: base64.b64encode(content).decode("ascii") for name, content in parts.items()}
    text = f'"use strict";\nconst walk = {json.dumps(walk)};\nconst files = {json.dumps(files)};\n'
    file.write_text(text, encoding="utf-8")
