"""Runs on the Hugging Face Hub: published with a model card, and opened by `hf:owner/name`.

A *repository* holds the run in its folder `run` (what sampling needs, without paths of this machine and without the images), a
picture of samples, and, where one can be made, the pipeline of diffusers at its root.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pixelpath.atomic import read_json
from pixelpath.data.settings import PLACES, DataSettings
from pixelpath.errors import UserError
from pixelpath.log import say
from pixelpath.recipes.recipe import to_json
from pixelpath.reports.pictures import save_png
from pixelpath.runs.measuring.evaluate import RESULTS
from pixelpath.runs.opened import OpenRun
from pixelpath.runs.sample import Samples, sample
from pixelpath.runs.sample_conditions import condition
from pixelpath.runs.sharing.export_diffusers import save_diffusers
from pixelpath.runs.tuned import FILE as TUNED
from pixelpath.trainer import checkpoint

PREFIX, FOLDER, PICTURE, SHOWN = "hf:", "run", "samples.png", 36


def push(
    run: OpenRun, repository: str, license: str, *, audit: Path | None = None, private: bool = False, endpoint: str | None = None
) -> str:
    """Publish a run of stage two as `owner/name` on the Hub and return the address.

    `license` is an identifier of the Hub ("cc0-1.0", "apache-2.0", "other"). It must agree with that of the images, so there is
    no default. `audit` is the folder that `pixelpath audit` wrote about the data, for the card. Raises UserError without
    huggingface_hub, for a name or licence that is none, and for what the Hub refuses.
    """
    hub = _hub()
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise UserError(f"{repository} is no repository of the Hub: give owner/name.", "repository")
    if not license.strip():
        raise UserError("A published model needs a `license`, such as cc0-1.0, cc-by-4.0, apache-2.0 or other.", "license")
    api = hub.HfApi(endpoint=endpoint)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "repository"
        write_repository(run, folder, repository, license, audit)
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            found = api.upload_folder(
                repo_id=repository, folder_path=folder, commit_message=f"{run.recipe.name}, step {run.step}"
            )
        except (OSError, ValueError) as error:  # what the library raises of the network and of its own rules
            why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(
                f"The Hub did not take {repository} ({why}): log in with `hf auth login`, or check the name."
            ) from error
    say(f"Published: {found}. Open it with pixelpath.load('{PREFIX}{repository}').")
    return str(found)


def fetched(name: str) -> Path:
    """The folder of the run `hf:owner/name`, or `hf:owner/name@revision`, downloaded or from the cache of huggingface_hub.

    Raises UserError for a name that is none, or a repository that cannot be had or holds no run.
    """
    hub = _hub()
    repository, _, revision = name.removeprefix(PREFIX).partition("@")
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise UserError(f"{name} is no run on the Hub: give hf:owner/name, or hf:owner/name@revision.", setting="path")
    try:
        found = hub.snapshot_download(repository, revision=revision or None, allow_patterns=[f"{FOLDER}/**"])
    except (OSError, ValueError) as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{name} cannot be had from the Hub ({why}): check the name, the network, or `hf auth login`.") from error
    folder = Path(found) / FOLDER
    if checkpoint.latest(folder) is None:
        raise UserError(f"{name} holds no run of pixelpath: it was not published by `push_to_hub`.", setting="path")
    return folder


def write_repository(run: OpenRun, folder: Path, repository: str, license: str, audit: Path | None = None) -> None:
    """Write everything that is published into a new folder."""
    folder.mkdir(parents=True)
    write_run(run, folder / FOLDER)
    seeds = range(SHOWN)
    made = sample(run, seeds, condition(run, seeds))
    save_png(folder / PICTURE, made.grid())
    pipeline = _with_pipeline(run, folder)
    (folder / "README.md").write_text(model_card(run, repository, license, made, audit, pipeline), encoding="utf-8")


def write_run(run: OpenRun, folder: Path) -> None:
    """What sampling a run needs: its EMA, how images are encoded, and how it was tuned, without paths of this machine."""
    usual, sampling = DataSettings(), run.recipe.sampling
    if sampling.start is not None or sampling.guide_with is not None:
        raise UserError(f"The recipe of {run.path} samples by files of this machine (start, guide_with): train without them.")
    data = replace(run.recipe.data, **{name: vars(usual)[name] for name in PLACES})
    recipe = json.loads(to_json(replace(run.recipe, data=data)))
    checkpoint.share(run.checkpoint, folder, {"recipe": recipe})
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=2), encoding="utf-8")
    if (run.path / TUNED).is_file() and not run.recipe.is_one_step:  # whose start lies in another run
        shutil.copyfile(run.path / TUNED, folder / TUNED)
        if (run.path / "starts").is_dir():
            shutil.copytree(run.path / "starts", folder / "starts")


def _with_pipeline(run: OpenRun, folder: Path) -> bool:
    """Whether the pipeline of diffusers was written at the root of a repository; says why if not."""
    try:
        written = save_diffusers(run, folder / "pipeline")
    except UserError as error:
        say(f"Published without a pipeline of diffusers: {error}")
        return False
    (written / "README.md").unlink()
    for part in list(written.iterdir()):
        shutil.move(part, folder / part.name)
    written.rmdir()
    return True


def model_card(
    run: OpenRun, repository: str, license: str, made: Samples, audit: Path | None = None, pipeline: bool = True
) -> str:
    """The README of a repository: what the data are, how the run was trained, sampled and measured, and how to use it."""
    about = checkpoint.read(run.checkpoint, "data")
    parts = [
        _front(license, pipeline),
        f"# {repository.split('/')[1]}",
        _opening(run, made),
        f"![Samples, seeds 0 to {SHOWN - 1}]({PICTURE})",
    ]
    parts += ["## Use", _usage(run, repository, pipeline), "## Data", _facts(run, about), *_audited(audit)]
    parts += ["## Training", _training(run), "## Distances from real images", *_distances(run)]
    parts += ["## Limits", "It makes what its training images show, with their gaps and biases. Samples are not measurements."]
    return "\n\n".join(parts) + "\n"


def _front(license: str, pipeline: bool) -> str:
    library = "diffusers" if pipeline else "pixelpath"
    return (
        f"---\nlicense: {license}\nlibrary_name: {library}\npipeline_tag: unconditional-image-generation\ntags:\n- pixelpath\n---"
    )


def _opening(run: OpenRun, made: Samples) -> str:
    how = "distilled" if run.recipe.is_distilled else "consistency"
    kind = f"one-step ({how}) model" if run.recipe.is_one_step else "diffusion model"
    return (
        f"A {kind} of images of {_shape(run)} ({run.normaliser.dtype}), trained by pixelpath directly in pixels. The samples "
        f"below took {made.nfe:g} network evaluations each ({made.settings['sampler']}, guidance {made.settings['guidance']:g})."
    )


def _usage(run: OpenRun, repository: str, pipeline: bool) -> str:
    asked = f", classes={list(run.classes[:2])!r}" if run.classes else ""
    lines = ["import pixelpath as pp", "", f'run = pp.load("{PREFIX}{repository}")', f"run.sample(16{asked}).save('samples/')"]
    own = "```python\n" + "\n".join(lines) + "\n```"
    if not pipeline:
        return own
    lines = [
        "from diffusers import DiffusionPipeline",
        "",
        f'pipeline = DiffusionPipeline.from_pretrained("{repository}", trust_remote_code=True)',
    ]
    return (
        own
        + "\n\nor, without pixelpath:\n\n```python\n"
        + "\n".join([*lines, "images = pipeline(batch_size=16).images"])
        + "\n```"
    )


def _facts(run: OpenRun, about: Mapping[str, Any]) -> str:
    metadata = run.metadata
    rows = {
        "training images": about.get("training", "not recorded"),
        "held-out images": about.get("held_out", "not recorded"),
        "size": _shape(run),
        "values": f"{run.normaliser.dtype} {metadata.units}".strip(),
        "channels": ", ".join(metadata.channels) or run.shape[0],
        "classes": f"{len(run.classes)}: {', '.join(run.classes[:20])}{', ...' if len(run.classes) > 20 else ''}"
        if run.classes
        else "none",
        "mean and std of each channel": ", ".join(
            f"{mean:.4g} ± {std:.4g}" for mean, std in zip(run.normaliser.mean, run.normaliser.std, strict=True)
        ),
    }
    return _table(("fact", "value"), [(name, str(value)) for name, value in rows.items()])


def _audited(audit: Path | None) -> list[str]:
    """What an audit of the data found."""
    if audit is None:
        return []
    file = audit / "audit.json"
    if not file.is_file():
        raise UserError(f"{audit} holds no audit.json: give the folder that `pixelpath audit` wrote.", setting="audit")
    findings = read_json(file).get("findings", [])
    said = [f"- {each['level']}: {each['what']}" for each in findings]
    return ["An audit of the data found:", "\n".join(said) or "- nothing of note."]


def _training(run: OpenRun) -> str:
    state, recipe = checkpoint.read_state(run.checkpoint), run.recipe
    parameters = sum(each.numel() for each in run.denoiser.parameters())
    rows = [
        ("recipe", recipe.name),
        ("step", f"{run.step} of {recipe.steps}, {recipe.batch_size} images each"),
        ("hours of training", f"{state.seconds / 3600:.2f}"),
        ("parameters", f"{parameters:,}"),
        ("EMA decay", f"{recipe.ema_decay:g}"),
    ]
    return _table(("choice", "value"), rows)


def _distances(run: OpenRun) -> list[str]:
    """The newest evaluation of this checkpoint as a table, its protocol below."""
    file = run.path / RESULTS
    found = read_json(file) if file.is_file() else []
    result = next((each for each in reversed(found) if each["checkpoint"] == run.checkpoint.name), None)
    if result is None:
        return ["This checkpoint was not evaluated."]
    rows = [
        (each["features"], f"{each['frechet']:.4g}", f"{each['frechet_of_few']:.4g}", f"{each['frechet_floor_of_few']:.4g}")
        for each in result["distances"]
    ]
    few = result["distances"][0]["few"]
    protocols = [f"- {each['features']}: " + _words(each["protocol"]) for each in result["distances"]]
    head = ("features", "Frechet distance", f"of {few} samples", f"of {few} other real images")
    return [_table(head, rows), "Protocol of each row:", "\n".join(protocols)]


def _words(protocol: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in protocol.items() if value is not None)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _shape(run: OpenRun) -> str:
    channels, rows, columns = run.shape
    return f"{rows} x {columns} pixels, {channels} channel{'s' * (channels > 1)}"


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError("The Hub needs huggingface_hub, which is not installed here: pip install 'pixelpath[hub]'.") from error
    return huggingface_hub
